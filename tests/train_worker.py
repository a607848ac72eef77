"""Tiny trainings, and processes in which they are killed: `python train_worker.py JOBS` with pickled `Job`s.

The worker imports once and forks a process for each job, for imports take longer than a tiny training. Under
torchrun the processes of the job train together, and none dies.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Experiment, Lora, Trained
from videogpt_plus.config.training import Pretraining, Training
from videogpt_plus.training import loop, stages

SAMPLES = 8
CAPTIONS = Pretraining(
    data="TINY_CAPTIONS",
    stills="pad",
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    num_train_epochs=3,
    bf16=False,
    gradient_checkpointing=False,
    save_steps=2,
)
SIX_STEPS = {f.name: getattr(CAPTIONS, f.name) for f in fields(Training)}
QUESTIONS = Training(**{**SIX_STEPS, "data": "TINY_QUESTIONS", "projector_learning_rate": 1e-4})


@dataclass(frozen=True)
class Job:
    """One training, and when its process dies."""

    #: "pretrain" or "finetune", with its arguments.
    stage: str
    arguments: dict
    root: Path
    #: "running" (at a random moment), "saving" (half of an optimizer's state is written), "marking" (all but
    #: COMPLETE is written), "finishing" (half of the final files are written) or "never".
    dies: str


def tiny_training(tiny: Experiment, **changes: object) -> Experiment:
    """The tiny experiment with both stages of six steps, and with dropout, so that random state counts."""
    captions, questions = replace(CAPTIONS, **changes), replace(QUESTIONS, **changes)
    pretrain = tuple((name, captions) for name, _ in tiny.branches)
    return replace(tiny, source=Trained(questions, pretrain, Lora(r=4, alpha=8, dropout=0.1)))


def write_samples(root: Path) -> None:
    """Eight captioned images, and eight questions about them of which two are text alone."""
    random_pixels = np.random.default_rng(0)
    captions, questions = [], []
    for i in range(SAMPLES):
        Image.fromarray(random_pixels.integers(0, 255, (40, 56, 3), np.uint8)).save(root / f"{i}.png")
        told = {"from": "gpt", "value": f"a red cup {i} " * (1 + i % 3)}
        captions.append({"image": f"{i}.png", "conversations": [{"from": "human", "value": "<image>"}, told]})
        if i % 4:
            asked = {"from": "human", "value": "<image>\nWhat is it?"}
            questions.append({"image": f"{i}.png", "conversations": [asked, told]})
        else:
            questions.append({"conversations": [{"from": "human", "value": "Name a thing."}, told]})
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "questions.json").write_text(json.dumps(questions))


def tiny_mixtures(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Entries for `mixtures.MIXTURES`."""
    return {
        "TINY_CAPTIONS": [(str(root / "captions.json"), str(root))],
        "TINY_QUESTIONS": [(str(root / "questions.json"), str(root))],
    }


@contextmanager
def tiny_data(root: Path) -> Iterator[Path]:
    """Within it `root` holds the samples, their mixtures are known by name, and torch computes on one thread: sums of
    several have no fixed order."""
    write_samples(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.dict(mixtures.MIXTURES, tiny_mixtures(root)):
        yield root
    torch.set_num_threads(threads)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def second_call(original: Callable, instead: Callable[..., None]) -> Callable:
    """`original`, but for its second call."""
    calls = []

    def counting(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return (instead if len(calls) == 2 else original)(*arguments, **named)

    return counting


def save_optimizer_by(function: Callable, original: Callable = torch.save) -> Callable:
    """`torch.save`, but for files of an optimizer's state."""
    return lambda value, path: (function if path.endswith("optimizer.pt") else original)(value, path)


def save_half_and_die(value: object, path: str, original: Callable = torch.save) -> None:
    buffer = io.BytesIO()
    original(value, buffer)
    Path(path).write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    die()


def train_and_die(job: Job) -> None:
    """The body of a job's process; "never" lets it live."""
    mixtures.MIXTURES.update(tiny_mixtures(job.root))
    torch.set_num_threads(1)
    if job.dies == "saving":
        torch.save = save_optimizer_by(second_call(torch.save, save_half_and_die))
    elif job.dies == "marking":
        loop.mark_complete = second_call(loop.mark_complete, die)
    elif job.dies == "finishing":
        stages.write_json = die
    getattr(stages, job.stage)(**job.arguments, progress=lambda *_: time.sleep(0.05))


def kill_while_running(pid: int, log: Path) -> None:
    """SIGKILL at a random moment after the third step."""
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.15))
    os.kill(pid, signal.SIGKILL)


def main(jobs: list[Job]) -> None:
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            train_and_die(job)
            os._exit(3)  # it should not have come to this
        if job.dies == "running":
            kill_while_running(pid, Path(job.arguments["out_dir"]) / "log.jsonl")
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (job.dies, status)


if __name__ == "__main__":
    jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
    if torch.distributed.is_torchelastic_launched():
        train_and_die(*jobs)
    else:
        main(jobs)
