"""Where the reference is wrong and ours is right on purpose, as far as no other test says so: see docs/parity.md."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import coded_frames, render_mp4
from PIL import Image

from videogpt_plus.app import cli
from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Experiment, with_settings
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.inference import Member, VideoLLM
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import stages
from videogpt_plus.training.data import Conversations
from videogpt_plus.types import Visual

SAMPLES = [
    {"video": "ten_seconds.mp4", "conversations": [("human", "<video>\nWhat is it?"), ("gpt", "a cup")]},
    {"image": "wide.png", "conversations": [("human", "<image>\nWhat is it?"), ("gpt", "a cup")]},
    {"image": "wide.png", "conversations": [("human", "<image>\nAnd now?"), ("gpt", "a cup")]},
]


@pytest.fixture(scope="module")
def model(tiny_experiment) -> VisionLM:
    return load_model(tiny_experiment, None, "cpu", torch.float32)


@pytest.fixture
def media(tmp_path, monkeypatch) -> Path:
    """A clip of ten seconds, a picture twice as wide as high, and the mixture TINY of three questions about them."""
    render_mp4(tmp_path / "ten_seconds.mp4", coded_frames(40), 4)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    samples = [
        {**sample, "conversations": [{"from": who, "value": text} for who, text in sample["conversations"]]}
        for sample in SAMPLES
    ]
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    monkeypatch.setitem(mixtures.MIXTURES, "TINY", [(str(tmp_path / "samples.json"), str(tmp_path))])
    return tmp_path


def trained_on(experiment: Experiment, model: VisionLM, folder: Path) -> list[Visual]:
    """What the model sees of each sample in training."""
    dataset = Conversations(experiment, model.tokenizer, folder / "substituted.jsonl")
    return [dataset[i]["visuals"][0] for i in range(len(dataset))]


def same(one: Visual, other: Visual) -> bool:
    return (
        one.placeholders == other.placeholders
        and one.pixels.keys() == other.pixels.keys()
        and all(torch.equal(one.pixels[name], other.pixels[name]) for name in one.pixels)
    )


def test_a_clip_looks_the_same_in_training_and_in_evaluation(tiny_experiment, model, media):
    """Of ten seconds a model with 16 frames sees 16 real ones in both, and no blank one."""
    experiment = with_settings(
        tiny_experiment,
        {"sampling.num_frames": 16, "source.finetune": replace(tiny_experiment.training, data="TINY", bf16=False)},
    )
    seen, *_ = trained_on(experiment, model, media)
    asked = VideoLLM({"tiny": Member(model, experiment)}).prepare(media / "ten_seconds.mp4")
    assert seen.placeholders == 16 and same(seen, asked)
    assert all(frame.std() > 0.1 for frame in seen.pixels["video"])


@pytest.mark.parametrize("ratio", ["pad", "crop"])
def test_a_still_looks_the_same_to_predict_as_in_training(ratio, tiny_experiment, model, media, monkeypatch, capsys):
    experiment = with_settings(tiny_experiment, {"source.finetune.data": "TINY", "sampling.stills": ratio})
    save_experiment(media / "run", experiment)
    save_tensors(media / "run" / "projectors.safetensors", model.projector_state())
    shown = []
    monkeypatch.setattr(VideoLLM, "stream", lambda self, question, visual, *_: shown.append(visual) or iter(["a cup"]))
    cli.main(["predict", str(media / "run"), "What is it?", "--image", str(media / "wide.png")])
    _, seen, _ = trained_on(experiment, model, media)
    assert same(shown[0], seen)
    above = seen.pixels["image"][0, :, 0]  # the mean colour is zero after normalisation
    assert bool(above.abs().max() < 0.02) is (ratio == "pad")


@pytest.mark.parametrize("count", range(1, 17))
def test_every_number_of_real_frames_gives_its_tokens(count, tiny_experiment, model):
    torch.manual_seed(count)
    pixels = {name: torch.randn(count, 3, e.pixels, e.pixels) for name, e in model.encoders.items()}
    (grids,) = model.encode([Visual(pixels, count)])
    tokens = model.visual_tokens(grids)
    assert len(tokens) == num_visual_tokens(tiny_experiment, count) and tokens.isfinite().all()
    assert {len(grid) for grid in grids.values()} == {count}


def test_samples_that_do_not_fill_the_last_step_are_learned_from(tiny_experiment, media):
    changes = {"data": "TINY", "template": "qwen2", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    pretrain = tuple((name, replace(training, **changes)) for name, training in tiny_experiment.pretrain)
    stages.pretrain(with_settings(tiny_experiment, {"source.pretrain": pretrain}), "image", media / "out")
    header, *steps = [json.loads(line) for line in (media / "out" / "log.jsonl").read_text().splitlines()]
    assert header["samples"] == 3 and [step["step"] for step in steps] == [1, 2]
