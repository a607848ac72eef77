"""The one loop of every training: planned batches, gradients, a line of log.jsonl a step, checkpoints.

It is written here on torch's, DeepSpeed's and accelerate's documented interfaces. On a CPU the files of a training
that was interrupted are those of a straight one, bit for bit.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed

from videogpt_plus.io.files import writing
from videogpt_plus.io.runs import Log, check_finite
from videogpt_plus.training import data
from videogpt_plus.training.checkpoints import complete_checkpoints, mark_complete, ready_to_resume, step_of
from videogpt_plus.training.engine import Engine, Update, trained
from videogpt_plus.training.plan import Step
from videogpt_plus.training.processes import in_one_line
from videogpt_plus.training.zero import Zero, old_names, zero_stage

#: Listed in a run folder: samples whose clips could not be read, and what replaced them.
SUBSTITUTED = "substituted.jsonl"


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Means:
    """By what a training is made, whatever it trains."""

    # Called after each step with (step, steps, loss).
    progress: Callable[[int, int, float], None] | None = None
    # Told what a user should know.
    say: Callable[[str], None] | None = None
    # Processes that read data; None: 4 with a GPU, and this one without.
    workers: int | None = None
    # A DeepSpeed json.
    deepspeed: str | None = None

    def of(self, state: PartialState) -> Self:
        """For one of several processes: the first one alone speaks. Neither `progress` nor `say` is None then."""
        spoken = self if state.is_main_process else replace(self, progress=None, say=None)
        return replace(spoken, progress=spoken.progress or _nothing, say=spoken.say or _nothing)


class Job(NamedTuple):
    """What is trained, on what, and how."""

    #: Trains what wants a gradient.
    model: nn.Module
    dataset: Dataset
    #: Samples -> the keyword arguments of `model`.
    collate: Callable[[list], Mapping[str, Any]]
    steps: Sequence[Step]
    update: Update
    #: Of the dropout; the order of the data is in `steps`.
    seed: int
    #: A checkpoint every so many steps, and one at the end.
    save_steps: int


def fit(job: Job, folder: Path, header: Mapping[str, object], means: Means) -> dict[str, Tensor]:
    """Trains from the last whole checkpoint of `folder` on; returns what trained, by parameter name, on the CPU.

    Every process calls it. `header` begins the log; a folder whose log begins otherwise is refused. `job.dataset` lists
    what it replaced in its file `substituted`. Raises UserError.
    """
    state = PartialState()
    means = means.of(state)
    begun = {
        **header,
        "start": digest(job.model),
        "samples": len(job.dataset),
        "processes": state.num_processes,
        "zero_stage": zero_stage(means.deepspeed) if means.deepspeed else None,
        **trainable_parameters(job.model),
    }
    set_seed(job.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = job.update.tf32
    engine = _engine(job, state, means.deepspeed)
    if state.is_main_process:
        ready_to_resume(folder, means.say)
    state.wait_for_everyone()
    checkpoint = next(reversed(complete_checkpoints(folder)), None)
    done = step_of(checkpoint) if checkpoint else 0
    log = Log(folder / "log.jsonl")
    if state.is_main_process:
        log.start(begun, done)
    with in_one_line(), old_names():
        batches = iter(_loader(job, state, done, means.workers))
        if checkpoint:
            engine.load(checkpoint)
            _load_random_state(checkpoint, state)
        for line in _steps(job, engine, batches, done):
            if state.is_main_process:
                log.append(line)
            means.progress(line["step"], len(job.steps), line["loss"])
            if line["step"] % job.save_steps == 0 or line["step"] == len(job.steps):
                _save(engine, job, folder, line["step"], state)
    gather_substitutions(job.dataset.substituted, folder)
    return engine.tensors()


def _engine(job: Job, state: PartialState, deepspeed: str | None) -> Engine:
    job.model.train()
    if deepspeed is None:
        return Engine(job.model, job.update, state)
    samples = max(len(one) for step in job.steps for one in step.passes)
    return Zero(job.model, job.update, state, deepspeed, samples)


def _loader(job: Job, state: PartialState, done: int, workers: int | None) -> DataLoader:
    """This process's passes of the steps that are left, in their order."""
    cuda = state.device.type == "cuda"
    passes = [one for step in job.steps[done:] for one in step.passes[state.process_index :: state.num_processes]]
    return DataLoader(
        job.dataset,
        batch_sampler=passes,
        collate_fn=job.collate,
        num_workers=4 * cuda if workers is None else workers,
        pin_memory=cuda,
    )


def _steps(job: Job, engine: Engine, batches: Iterator, done: int) -> Iterator[dict[str, Any]]:
    """Trains step after step; yields the log's line of each. UserError: loss or gradients are not finite."""
    began, processes = time.monotonic(), PartialState().num_processes
    for number, step in enumerate(job.steps[done:], done + 1):
        passes = len(step.passes) // processes
        losses = [engine.backward(batch, i == passes - 1) for i, batch in enumerate(islice(batches, passes))]
        norm = engine.step(step.rate)
        loss = gather(sum(losses)).mean().item()
        check_finite(number, loss=loss, grad_norm=norm or 0.0)
        now = time.monotonic()
        seconds, began = round(now - began, 4), now
        yield {"step": number, "loss": loss, "lr": engine.learning_rate(), "grad_norm": norm, "seconds": seconds}


def _save(engine: Engine, job: Job, folder: Path, step: int, state: PartialState) -> None:
    checkpoint = folder / f"checkpoint-{step}"
    gather_substitutions(job.dataset.substituted, folder)
    with writing(folder):
        checkpoint.mkdir(exist_ok=True)
        engine.save(checkpoint)
        torch.save(_random_state(), str(checkpoint / f"rng_state_{state.process_index}.pth"))
    state.wait_for_everyone()  # each process writes its own random state
    if state.is_main_process:
        mark_complete(checkpoint)


def _random_state() -> dict[str, Any]:
    """Of this process's generators, in types that `torch.load` reads without running code."""
    name, keys, *numpy = np.random.get_state()
    state = {"python": random.getstate(), "numpy": (name, torch.from_numpy(keys), *numpy), "cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def _load_random_state(checkpoint: Path, state: PartialState) -> None:
    path = checkpoint / f"rng_state_{state.process_index}.pth"
    saved = torch.load(path, map_location="cpu", weights_only=True)
    random.setstate(saved["python"])
    name, keys, *numpy = saved["numpy"]
    np.random.set_state((name, keys.numpy(), *numpy))
    torch.set_rng_state(saved["cpu"])
    if "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"])


def trainable_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Numbers of values: "trains" by each parameter's name, "frozen" by part (llm, encoders.image, ...)."""
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            first, second, *_ = name.split(".")
            frozen[f"{first}.{second}" if first == "encoders" else first] += parameter.numel()
    return {"trains": {name: p.numel() for name, p in trained(model).items()}, "frozen": dict(frozen)}


def digest(model: nn.Module) -> str:
    """Of the values that training starts from: a resumed one must start from the same."""
    return hashlib.sha256(
        safetensors.torch.save({n: p.detach().clone() for n, p in trained(model).items()})
    ).hexdigest()


@contextmanager
def own_list(folder: Path) -> Iterator[Path]:
    """The file in which this process lists what it replaced: the folder's, or of several processes one of its own."""
    with TemporaryDirectory() as scratch:
        yield (folder if PartialState().num_processes == 1 else Path(scratch)) / SUBSTITUTED


def gather_substitutions(own: Path, folder: Path) -> None:
    """Brings every process's substitutions into the folder's list; each process has to call it."""
    lines = gather_object(data.read_substitutions(own))
    if PartialState().is_main_process:
        for line in sorted(lines, key=lambda line: line["sample"]):
            data.append_once(folder / SUBSTITUTED, line)
