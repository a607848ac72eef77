"""The recipes of the real sizes: what they say, and what the optimizer, the schedule and the batches make of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_worker import tiny_data

from videogpt_plus.config.experiment import Experiment, with_settings
from videogpt_plus.config.experiments import FINETUNE, PRETRAIN, QWEN_1_5B, QWEN_3B, at_level
from videogpt_plus.config.training import Training
from videogpt_plus.models.lora import TARGETS
from videogpt_plus.training import stages as train
from videogpt_plus.training.engine import Engine
from videogpt_plus.training.plan import schedule, share_of, training_steps
from videogpt_plus.types import UserError

#: More than the warm-up's 3 % are whole steps of.
STEPS = 1003


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory):
    with tiny_data(tmp_path_factory.mktemp("samples")):
        yield


def tiny(experiment: Experiment, **changes: object) -> Experiment:
    """The tiny parts under the real recipes; `changes` are of both stages."""
    captions = replace(PRETRAIN, data="TINY_CAPTIONS", **changes)
    questions = replace(FINETUNE, data="TINY_QUESTIONS", **changes)
    return with_settings(
        experiment,
        {"source.pretrain": tuple((name, captions) for name, _ in experiment.branches), "source.finetune": questions},
    )


@pytest.mark.parametrize("experiment", [QWEN_1_5B, QWEN_3B, at_level(QWEN_1_5B, 16)], ids=lambda e: e.name)
def test_recipes_are_the_references(experiment):
    both = {
        "num_train_epochs": 1,
        "max_steps": -1,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0,
        "max_grad_norm": 1,
        "bf16": True,
        "tf32": True,
        "gradient_checkpointing": True,
        "model_max_length": 4096,
        "seed": 42,
    }
    pretraining = {"data": "PRETRAINING", "template": "plain", "learning_rate": 1e-3, "projector_learning_rate": None}
    pretraining |= {"group_by_modality_length": False, "stills": "crop"}
    finetuning = {"data": "MVBench_FINETUNING"}
    finetuning |= {"learning_rate": 2e-4, "projector_learning_rate": 2e-5}
    finetuning |= {"group_by_modality_length": True}
    stages = [(t, pretraining) for _, t in experiment.pretrain] + [(experiment.training, finetuning)]
    for training, own in stages:
        found = {name: getattr(training, name) for name in both | own}
        assert found == both | own
    assert [name for name, _ in experiment.pretrain] == [name for name, _ in experiment.branches] == ["image", "video"]
    assert vars(experiment.lora) == {"r": 128, "alpha": 256, "dropout": 0.05}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} == {*TARGETS}
    assert (experiment.num_frames, experiment.max_new_tokens) == (16, 1024)


# Batches.


@pytest.mark.parametrize("training", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_a_step_is_256_samples_on_any_number_of_devices(training, devices):
    size, passes = share_of(training, devices)
    assert size * passes * devices == 256
    assert size <= training.per_device_train_batch_size


def test_eight_devices_share_a_step_as_the_references_do():
    assert share_of(PRETRAIN, 8) == (16, 2)
    assert share_of(FINETUNE, 8) == (4, 8)


@pytest.mark.parametrize("devices", [3, 5, 6, 7, 12, 512])
def test_devices_that_do_not_divide_a_step_are_refused_with_the_choices(devices):
    with pytest.raises(UserError, match=f"256 samples cannot be divided among {devices} devices.*: 1, 2, 4, 8") as told:
        share_of(FINETUNE, devices)
    assert "\n" not in str(told.value)


def test_that_is_said_before_anything_is_loaded(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(train, "load_model", None)
    with pytest.raises(UserError, match="cannot be divided among 3 devices"):
        train.pretrain(tiny(tiny_experiment), "image", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("devices", [1, 4])
def test_the_engine_is_told_what_each_device_does(devices):
    update = train.update_of(FINETUNE, devices)
    assert update.passes == 64 // devices
    assert update.dtype == torch.bfloat16 and update.max_grad_norm == 1.0


class Lengths(SimpleNamespace):
    """As much of a data set as its order needs."""

    def __len__(self) -> int:
        return len(self.lengths)

    def modality_lengths(self) -> list[int]:
        return self.lengths


def passes_of(dataset: Lengths, training: Training, devices: int) -> list[list[int]]:
    return [one for step in training_steps(dataset, training, devices) for one in step.passes]


@pytest.fixture(scope="module")
def mixed() -> Lengths:
    """Three thousand samples with a visual, nine hundred of text alone."""
    random = np.random.default_rng(0)
    return Lengths(lengths=[*random.integers(1, 400, 3000).tolist(), *(-random.integers(1, 400, 900)).tolist()])


def test_every_number_of_devices_sees_the_same_samples_in_a_step(mixed):
    alone = passes_of(mixed, FINETUNE, 1)
    for devices in (2, 4, 8):
        assert passes_of(mixed, FINETUNE, devices) == alone


def test_fine_tuning_keeps_modalities_apart_and_lengths_together(mixed):
    batches = passes_of(mixed, FINETUNE, 8)
    lengths = [[mixed.lengths[i] for i in batch] for batch in batches]
    whole = lengths[: 64 * (3000 // 256 + 900 // 256)]  # behind them the modalities meet
    assert all(len({length > 0 for length in run}) == 1 for run in whole)
    spread = np.mean([max(run) - min(run) for run in whole])
    shuffled = passes_of(mixed, replace(FINETUNE, group_by_modality_length=False), 8)
    assert spread < np.mean([np.ptp(np.abs([mixed.lengths[i] for i in batch])) for batch in shuffled]) / 20
    assert {i for batch in batches for i in batch} == {*range(len(mixed))}


# Learning rates.


def formula(peak: float, step: int, steps: int) -> float:
    """Of the update after `step` others: linear from zero over 3 % of the steps, then half a cosine to zero."""
    warm = math.ceil(0.03 * steps)
    if step < warm:
        return peak * step / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


@pytest.mark.parametrize(
    ("name", "rates"), [("cosine", [0, 0.5, 1, 0.5]), ("linear", [0, 0.5, 1, 0.5]), ("constant", [0, 0.5, 1, 1])]
)
def test_schedules_warm_up_and_then_decay(name, rates):
    assert [schedule(name)(step, 4, 2) for step in range(4)] == pytest.approx(rates)


def test_unknown_schedule_is_refused_before_anything_is_loaded(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_model", None)
    with pytest.raises(UserError, match="unknown lr_scheduler_type 'steps'; choose from: cosine, linear, constant"):
        train.pretrain(tiny(tiny_experiment, lr_scheduler_type="steps"), "image", tmp_path / "out")


def peak_of(name: str, training: Training) -> float:
    """The recipe's peak for a parameter."""
    if name.startswith("projectors.") and training.projector_learning_rate is not None:
        return training.projector_learning_rate
    return training.learning_rate


class Recorder:
    """What an optimizer does: the learning rate of every parameter by name, at each of its steps."""

    def __init__(self, engine: Engine):
        self.names = {id(p): name for name, p in engine.model.named_parameters()}
        self.optimizer, self.steps = engine.optimizer, []
        self.optimizer.register_step_pre_hook(self.record)

    def record(self, *_: object) -> None:
        groups = self.optimizer.param_groups
        self.steps.append({self.names[id(p)]: group["lr"] for group in groups for p in group["params"]})


@pytest.fixture
def recorded(monkeypatch) -> list[Recorder]:
    """Gets a Recorder whenever a training makes its engine."""
    recorders = []

    def creating(*args: object) -> Engine:
        recorders.append(Recorder(engine := Engine(*args)))
        return engine

    monkeypatch.setattr("videogpt_plus.training.loop.Engine", creating)
    return recorders


def check_rates(recorder: Recorder, training: Training, steps: int) -> None:
    assert len(recorder.steps) == steps
    for step, rates in enumerate(recorder.steps):
        for name, rate in rates.items():
            assert rate == pytest.approx(formula(peak_of(name, training), step, steps), rel=1e-12, abs=1e-18), name


def stages(experiment: Experiment, root: Path) -> list[tuple[str, Training, dict]]:
    image, video, out = root / "image", root / "video", root / "finetune"
    trainings = dict(experiment.pretrain)
    return [
        ("pretrain", trainings["image"], {"stream_name": "image", "out_dir": image}),
        ("pretrain", trainings["video"], {"stream_name": "video", "out_dir": video}),
        ("finetune", experiment.training, {"projectors": {"image": image, "video": video}, "out_dir": out}),
    ]


def test_optimizer_and_schedule_follow_the_formula_at_every_step(tiny_experiment, recorded, tmp_path, monkeypatch):
    """The recipes as they are, with their own optimizer and schedule; what is left out is the forward passes."""
    monkeypatch.setattr(Engine, "backward", lambda *_: torch.zeros(()))
    monkeypatch.setattr("videogpt_plus.training.loop.DataLoader", lambda *_, **__: [None] * STEPS)
    experiment = tiny(tiny_experiment, max_steps=STEPS, num_train_epochs=STEPS, gradient_accumulation_steps=1)
    for stage, training, arguments in stages(experiment, tmp_path):
        getattr(train, stage)(experiment, **arguments)
        recorder = recorded[-1]
        check_rates(recorder, training, STEPS)
        trained = recorder.steps[0].keys()
        projectors = {f"projectors.{s}.{i}.{n}" for s in ("image", "video") for i in (0, 2) for n in ("weight", "bias")}
        if stage == "pretrain":
            assert trained == {name for name in projectors if name.split(".")[1] == arguments["stream_name"]}
        else:
            assert {name for name in trained if "lora_" not in name} == projectors and len(trained) > len(projectors)


def test_adamw_has_the_references_settings(tiny_experiment, recorded, tmp_path):
    train.pretrain(tiny(tiny_experiment, max_steps=1, bf16=False), "image", tmp_path)
    optimizer = recorded[-1].optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)


def test_a_real_training_takes_these_steps(tiny_experiment, recorded, tmp_path):
    """Every update of a fine-tuning with its forward passes, a warm-up of two steps included."""
    short = {"bf16": False, "gradient_checkpointing": False, "gradient_accumulation_steps": 1}
    for stream in ("image", "video"):
        train.pretrain(tiny(tiny_experiment, **short, max_steps=1), stream, tmp_path / stream)
    experiment = tiny(tiny_experiment, **short, per_device_train_batch_size=2, num_train_epochs=9)
    train.finetune(experiment, {s: tmp_path / s for s in ("image", "video")}, tmp_path / "finetune")
    check_rates(recorded[-1], experiment.training, 36)
