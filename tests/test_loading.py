"""What is chosen when a published model is loaded: the precision of its rotary angles, and a number format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import coded_frames, render_mp4
from parity.cogvlm2 import TOLERANCE, Recordings
from test_cogvlm2 import prompts_of

from videogpt_plus.app import cli
from videogpt_plus.app.sweep import cells as sweep
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.options import EvalConfig, LoadConfig
from videogpt_plus.families.cogvlm2.rope import PRECISIONS
from videogpt_plus.models.loading import load_models
from videogpt_plus.types import IGNORE, UserError

ROOT = Path(__file__).parent / "golden_families"


@pytest.fixture(scope="module", params=["cogvlm2_image", "cogvlm2_video"])
def recordings(request, tmp_path_factory) -> Recordings:
    found = Recordings(ROOT / request.param, tmp_path_factory.mktemp(request.param))
    assert found.model
    return found


def loaded(recordings: Recordings, load_config: LoadConfig):
    """The model of the recording's folder, whose config.json names fp32."""
    folder = next(recordings.work.iterdir())
    run = [(recordings.experiment(folder, recordings.config), folder)]
    return load_models(run, "cpu", torch.float32, torch.float32, load_config)[0]


@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_chosen_precision_gives_the_logits_that_the_original_gave_in_it(recordings, precision):
    model = loaded(recordings, LoadConfig(rope_precision=precision))
    _, recorded = recordings.case("rope")
    ids = recorded["long_text.input_ids"]
    logits = model(ids, torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE), [[]]).logits[0, -1]
    differences = {mode: (logits - recorded[f"{mode}.long_text.logits_last"]).abs().max().item() for mode in PRECISIONS}
    assert differences.pop(precision) < TOLERANCE < min(differences.values())


def test_the_exact_precision_is_the_default(recordings):
    assert loaded(recordings, LoadConfig()).causal.model.rope_precision == "fp32"


def test_answers_in_another_precision_are_another_cell(recordings, tmp_path):
    folder = next(recordings.work.iterdir())
    experiment = replace(recordings.experiment(folder, recordings.config), benchmark_root=str(tmp_path))

    def answers(**chosen) -> sweep.Cell:
        cells = sweep.plan(experiment, [experiment], tmp_path / "sweep", (), (), None, EvalConfig(**chosen))
        return next(cell for cell in cells if cell.kind == "answer")

    plain = answers()
    for chosen in ({"rope_precision": "reference_bf16"}, {"bits": 4}):
        (name, value), other = *chosen.items(), answers(**chosen)
        assert sweep.inputs(other) == {**sweep.inputs(plain), name: value}
        assert other.command[-2:] == (f"--{name.replace('_', '-')}", str(value))
    assert sweep.inputs(answers(devices=2)) == sweep.inputs(plain), "where layers stand changes no answer"


def test_the_command_line_passes_the_choices_on(recordings, tmp_path, capsys, monkeypatch):
    from videogpt_plus import inference

    clip, folder = tmp_path / "clip.mp4", next(recordings.work.iterdir())
    render_mp4(clip, coded_frames(60), 20)
    asked = recordings.experiment(folder, recordings.config)
    asked = replace(asked, prompting=replace(asked.prompting, max_new_tokens=3))
    save_experiment(tmp_path / "run", asked)
    seen, usual = [], inference.load

    def load(*args, **how):
        seen.append(usual(*args, **how))
        return seen[-1]

    monkeypatch.setattr(inference, "load", load)
    command = ["predict", str(tmp_path / "run"), "What?", "--video", str(clip)]
    cli.main([*command, "--rope-precision", "reference_bf16", "--max-new-tokens", "2"])
    (member,) = seen[0].members.values()
    assert member.model.causal.model.rope_precision == "reference_bf16"
    assert " to compute, on the CPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*command, "--devices", "2"])
    cards = torch.cuda.device_count()
    if cards < 2:
        assert "--devices 2 is not possible: this machine has" in capsys.readouterr().err


@torch.inference_mode()
@pytest.mark.parametrize("way", ["batch", "stream"])
def test_float16_that_overflows_stops_with_the_advice(recordings, way):
    rows, visuals = prompts_of(recordings, ["What?"], [next(iter(recordings.conversations["media_recipes"]))])

    def ask(dtype: torch.dtype, factor: float) -> list[int]:
        """An answer with logits of `factor` times what they are."""
        model = recordings.fresh().to(dtype)
        model.causal.lm_head.weight.data *= factor
        if way == "stream":
            return list(model.stream_ids(rows[0], visuals[0], 2))
        return model.generate_ids(rows, visuals, 2)[0]

    assert len(ask(torch.float16, 1.0)) == len(ask(torch.bfloat16, 1e5)) == 2
    with pytest.raises(UserError, match="not finite in torch.float16: .*compute in bfloat16"):
        ask(torch.float16, 1e5)  # float16 ends at 65504
