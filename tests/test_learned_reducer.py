"""Reducers that learn, ours and one of a user's own: trained with the projectors, kept and loaded with them."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from outside_reducer import Latents
from safetensors.torch import load_file
from test_flops import counted
from train_worker import tiny_data, tiny_training

from videogpt_plus import convert, reducers
from videogpt_plus.app.sweep.cells import Cell, inputs
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.experiments import at_level, with_reducer
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import sizes_of
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model, load_models
from videogpt_plus.reducers import Reducer, register
from videogpt_plus.reducers.average import Average
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.training import stages
from videogpt_plus.types import PLACEHOLDER, UserError, Visual


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory):
    with tiny_data(tmp_path_factory.mktemp("samples")) as root:
        yield root


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reducers, "REDUCERS", dict(reducers.REDUCERS))
        register("latents", Latents)
        yield


#: Reducer -> the shapes of its first weight at level 2 and at level 1.
LEARNED = {
    Summary(2, queries=20, heads=2, branches="st"): ("query_s", (1, 5), (1, 20)),
    Latents(2, latents=10): ("latent", (5,), (10,)),
}


@pytest.fixture(scope="module", params=LEARNED, ids=lambda reducer: type(reducer).__name__)
def experiment(request, tiny_experiment) -> Experiment:
    plain = tiny_training(tiny_experiment, max_steps=2)
    return replace(with_reducer(plain, request.param.name), reducer=request.param)


@pytest.fixture(scope="module")
def starts(experiment, tmp_path_factory) -> dict[str, Path]:
    """Random projectors in the place of pre-trained ones."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(1)
    model = load_model(replace(experiment, reducer=Average(2)), None, "cpu", torch.float32)
    save_tensors(folder / "projectors.safetensors", model.projector_state())
    return {name: folder for name, _ in experiment.branches}


@pytest.fixture(scope="module")
def run(experiment, starts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / experiment.name
    stages.finetune(experiment, starts, folder)
    return folder


@pytest.fixture(scope="module")
def plain(experiment, starts, tmp_path_factory) -> tuple[Experiment, Path]:
    """A run of the same with average pooling."""
    own = replace(experiment, name="tiny", reducer=Average(2))
    folder = tmp_path_factory.mktemp("runs") / own.name
    stages.finetune(own, starts, folder)
    return own, folder


def test_it_learns_and_is_kept_with_the_projectors(experiment, run):
    header = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    first = LEARNED[experiment.reducer][0]
    assert {f"reducers.image.{first}", f"reducers.video.{first}"} <= header["trains"].keys()
    state = load_file(run / "projectors.safetensors")
    assert {f"mm_adapter.{first}", f"image_mm_adapter.{first}", "mm_projector.0.weight"} <= state.keys()
    model = load_model(experiment, run, "cpu", torch.float32)
    for name, value in model.projector_state().items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)


def test_steps_move_every_weight_of_it(experiment, starts, run, tmp_path):
    begun, state = {}, load_file(run / "projectors.safetensors")
    stages.set_seed(experiment.seed)
    model = load_model(experiment, None, "cpu", torch.float32)
    for name, reducer in model.reducers.items():
        key = "mm_adapter" if name == "video" else "image_mm_adapter"
        begun |= {f"{key}.{k}": v for k, v in reducer.state_dict().items()}
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
    shown = Visual({name: torch.randn(3, 3, s.pixels, s.pixels) for name, s in experiment.branches}, 3)
    prompt = [5, *[PLACEHOLDER] * 3, 6]
    for own, model in zip(runs, load_models(runs, "cpu", torch.float32, torch.float32), strict=True):
        (alone,) = load_models([own], "cpu", torch.float32, torch.float32)
        assert model.generate_ids([prompt], [[shown]], 4) == alone.generate_ids([prompt], [[shown]], 4)


def test_its_settings_are_the_run_s(experiment, run, plain):
    assert load_experiment(run) == experiment
    told = json.loads((run / "experiment.json").read_text())["reducer"]
    assert told == {"name": experiment.reducer.name, **asdict(experiment.reducer)}
    assert load_experiment(plain[1]) == plain[0]


def test_it_costs_what_torch_counts(experiment):
    model, sizes = load_model(experiment, None, "cpu", torch.float32), sizes_of(experiment)
    shown = [Visual({name: torch.randn(3, 3, b.pixels, b.pixels) for name, b in experiment.branches}, 3)]
    grids = model.encode(shown)
    model.requires_grad_(False)
    assert sizes.project(3) == counted(lambda: model.tokens_of(grids))
    learned = sum(p.numel() for name, p in model.reducers.named_parameters() if p.dim() == 2)
    assert sum(reading.parameters for reading in sizes.readers) == learned


def test_other_sizes_and_other_reducers_are_refused(experiment, run):
    first, *sizes = LEARNED[experiment.reducer]
    there, here = (rf"\({', '.join(map(str, size))}, \d+\)" for size in sizes)
    with pytest.raises(UserError, match=f"{first} {there} instead of {here}"):
        load_model(at_level(experiment, 1), run, "cpu", torch.float32)
    with pytest.raises(UserError, match="of the image reducer in .* unexpected: (cross_attn_s|latent)"):
        load_model(replace(experiment, reducer=Average(2)), run, "cpu", torch.float32)
    with pytest.raises(UserError, match=experiment.reducer.name):
        convert.convert(run, run.with_name("theirs"), to="reference")


def test_a_sweep_trains_anew_where_its_settings_changed(experiment, tmp_path):
    def made_from(reducer: Reducer) -> dict:
        return inputs(Cell("train", tmp_path, (), replace(experiment, reducer=reducer)))

    (option, *_) = (f.name for f in fields(experiment.reducer) if f.name != "level")
    other = replace(experiment.reducer, **{option: 16})
    assert made_from(experiment.reducer) == made_from(replace(experiment.reducer)) != made_from(other)


def test_a_name_is_registered_once():
    register("latents", Latents)
    with pytest.raises(UserError, match="there is a reducer 'average' already"):
        register("average", Latents)
    assert Latents.name == "latents"
