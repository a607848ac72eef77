"""An adapter that learns, in VideoGPT+: trained with the projectors, kept with them, loaded with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_worker import tiny_mixtures, tiny_training, write_samples

from videogpt_plus import convert
from videogpt_plus.app.sweep.cells import Cell, inputs
from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.experiments import at_level, with_adapter
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model, load_models
from videogpt_plus.reducers.summary_options import Summary
from videogpt_plus.training import stages
from videogpt_plus.types import PLACEHOLDER, UserError, Visual


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write_samples(root)
    with pytest.MonkeyPatch.context() as patch:
        for name, files in tiny_mixtures(root).items():
            patch.setitem(mixtures.MIXTURES, name, files)
        yield root


@pytest.fixture(scope="module")
def experiment(tiny_experiment) -> Experiment:
    plain = tiny_training(tiny_experiment, max_steps=2)
    return replace(with_adapter(plain, "summary"), level=2, summary=Summary(queries=20, heads=2, branches="st"))


@pytest.fixture(scope="module")
def starts(experiment, tmp_path_factory) -> dict[str, Path]:
    """Random projectors in the place of pre-trained ones."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(1)
    model = load_model(replace(experiment, adapter="average"), None, "cpu", torch.float32)
    save_tensors(folder / "projectors.safetensors", model.projector_state())
    return {name: folder for name, _ in experiment.streams}


@pytest.fixture(scope="module")
def run(experiment, starts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / experiment.name
    stages.finetune(experiment, starts, folder)
    return folder


@pytest.fixture(scope="module")
def plain(experiment, starts, tmp_path_factory) -> tuple[Experiment, Path]:
    """A run of the same with average pooling."""
    own = replace(experiment, name="tiny", adapter="average")
    folder = tmp_path_factory.mktemp("runs") / own.name
    stages.finetune(own, starts, folder)
    return own, folder


def test_it_learns_and_is_kept_with_the_projectors(experiment, run):
    header = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert {"adapters.image.query_s", "adapters.video.cross_attn_t.0.mha.in_proj_weight"} <= header["trains"].keys()
    state = load_file(run / "projectors.safetensors")
    assert {"mm_adapter.query_t", "image_mm_adapter.query_s", "mm_projector.0.weight"} <= state.keys()
    model = load_model(experiment, run, "cpu", torch.float32)
    for name, value in model.projector_state().items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)


def test_steps_move_every_weight_of_it(experiment, starts, run, tmp_path):
    begun, state = {}, load_file(run / "projectors.safetensors")
    stages.set_seed(experiment.finetune.seed)
    model = load_model(experiment, None, "cpu", torch.float32)
    for name, adapter in model.adapters.items():
        key = "mm_adapter" if name == "video" else "image_mm_adapter"
        begun |= {f"{key}.{k}": v for k, v in adapter.state_dict().items()}
    assert begun.keys() == {name for name in state if "adapter" in name}
    assert [name for name in begun if torch.equal(begun[name], state[name])] == []


def test_as_many_tokens_as_queries_at_the_level(experiment, run):
    model = load_model(experiment, run, "cpu", torch.float32)
    shown = Visual({name: torch.randn(3, 3, e.pixels, e.pixels) for name, e in model.encoders.items()}, 3)
    (tokens,) = model.tokens_of(model.encode([shown]))
    assert len(tokens) == num_visual_tokens(experiment, 3) == 2 * 5


@torch.inference_mode()
def test_it_answers_beside_others_as_alone(experiment, run, plain):
    runs = [(experiment, run), plain]
    shown = Visual({name: torch.randn(3, 3, s.pixels, s.pixels) for name, s in experiment.streams}, 3)
    prompt = [5, *[PLACEHOLDER] * 3, 6]
    for own, model in zip(runs, load_models(runs, "cpu", torch.float32, torch.float32), strict=True):
        (alone,) = load_models([own], "cpu", torch.float32, torch.float32)
        assert model.generate_ids([prompt], [[shown]], 4) == alone.generate_ids([prompt], [[shown]], 4)


def test_its_settings_are_the_run_s_and_stand_in_no_other_run(experiment, run, plain):
    assert load_experiment(run) == experiment
    assert "summary" not in json.loads((plain[1] / "experiment.json").read_text())
    assert load_experiment(plain[1]) == replace(plain[0], summary=Summary())


def test_other_sizes_and_other_adapters_are_refused(experiment, run):
    with pytest.raises(UserError, match=r"query_s \(1, 5, \d+\) instead of \(1, 20, \d+\)"):
        load_model(at_level(experiment, 1), run, "cpu", torch.float32)
    with pytest.raises(UserError, match="of the image adapter in .* unexpected: cross_attn_s"):
        load_model(replace(experiment, adapter="average"), run, "cpu", torch.float32)
    with pytest.raises(UserError, match="summary"):
        convert.convert(run, run.with_name("theirs"), to="reference")


def test_a_sweep_trains_anew_where_its_settings_changed(experiment, tmp_path):
    def made_from(summary: Summary, adapter: str = "summary") -> dict:
        own = replace(experiment, summary=summary, adapter=adapter)
        return inputs(Cell("train", tmp_path, (), own))

    assert made_from(Summary(16)) != made_from(Summary(32))
    assert made_from(Summary(16), "average") == made_from(Summary(32), "average")
