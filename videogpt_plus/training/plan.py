"""The steps of a training: which samples each forward pass takes, and at which part of the peak learning rates.

All of it is a pure function of the recipe and its seed, so a resumed training finds its place by counting steps, and
a step has the same samples on any number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from videogpt_plus.config.training import Training
from videogpt_plus.types import UserError


class Step(NamedTuple):
    """One step of the optimizer."""

    #: Indices of each forward pass; pass i is of process i modulo their number.
    passes: list[list[int]]
    #: Part of the peak learning rates.
    rate: float


class Share(NamedTuple):
    """What each process does in a step."""

    #: Samples a forward pass, at most.
    samples: int
    #: Forward passes a step.
    passes: int


class Sized(Protocol):
    """A data set, as far as its order needs it."""

    def __len__(self) -> int: ...

    def modality_lengths(self) -> list[int]:
        """Length of each sample; negative for text alone."""


def share(samples: int, passes: int, processes: int) -> Share:
    """Divides a step of `passes` forward passes of `samples` among the processes; a pass may get smaller.

    UserError: it cannot be divided evenly.
    """
    own, left_over = divmod(samples * passes, processes)
    if left_over or not own:
        fitting = ", ".join(str(n) for n in range(1, samples * passes + 1) if samples * passes % n == 0)
        raise UserError(
            f"a step of {samples * passes} samples cannot be divided among {processes} devices; choose a number of "
            f"devices from: {fitting}, or another gradient_accumulation_steps"
        )
    size = max(n for n in range(1, samples + 1) if own % n == 0)
    return Share(size, own // size)


def share_of(training: Training, processes: int) -> Share:
    """The share of each process in a step of `training`."""
    return share(training.per_device_train_batch_size, training.gradient_accumulation_steps, processes)


def training_steps(dataset: Sized, training: Training, processes: int) -> list[Step]:
    """Every step of a training. An epoch's last pass may be smaller; the last step is filled from another epoch."""
    size, own = share_of(training, processes)
    together = own * processes
    lengths = dataset.modality_lengths() if training.group_by_modality_length else None
    count = training.num_train_epochs * math.ceil(len(dataset) / size)
    if training.max_steps > 0:
        count = min(count, training.max_steps * together)
    steps = math.ceil(count / together)
    passes: list[list[int]] = []
    epoch = 0
    while len(passes) < steps * together:
        order = epoch_order(len(dataset), training.seed, epoch, lengths, size, together)
        passes += [order[i : i + size] for i in range(0, len(order), size)]
        epoch += 1
    warmup = math.ceil(training.warmup_ratio * steps)
    rate = schedule(training.lr_scheduler_type)
    return [Step(passes[i * together : (i + 1) * together], rate(i, steps, warmup)) for i in range(steps)]


def epoch_order(
    n: int, seed: int, epoch: int, lengths: Sequence[int] | None = None, batch: int = 1, world: int = 1
) -> list[int]:
    """Every index of 0..n-1 once, shuffled for this epoch; grouped where `modality_lengths` are given."""
    generator = np.random.default_rng([seed, epoch])
    if lengths is None:
        return generator.permutation(n).tolist()
    assert len(lengths) == n
    return _grouped_order(lengths, batch, world, generator)


def _grouped_order(lengths: Sequence[int], batch: int, world: int, generator: np.random.Generator) -> list[int]:
    """Every index once; each run of `batch` holds one modality (sign) and similar lengths (magnitude).

    Works on runs of `batch * world`, longest first within one. What does not fill a run of its modality comes
    last; only there may modalities meet.
    """
    size = batch * world
    full, rest = [], []
    for sign in (1, -1):
        indices = np.array([i for i, length in enumerate(lengths) if length * sign > 0], dtype=int)
        shuffled = generator.permutation(indices)
        whole = len(shuffled) // size * size
        full += [_longest_first(run, lengths) for run in shuffled[:whole].reshape(-1, size)]
        rest += _longest_first(shuffled[whole:], lengths)
    return [i for run in generator.permutation(len(full)) for i in full[run]] + rest


def _longest_first(indices: np.ndarray, lengths: Sequence[int]) -> list[int]:
    return sorted(indices.tolist(), key=lambda i: -abs(lengths[i]))


def _cosine(part: float) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * part)))


#: What follows the warm-up, by the name in a recipe: part of the steps after it -> part of the peak.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda part: 1.0 - part,
    "constant": lambda part: 1.0,
}


def schedule(name: str) -> Callable[[int, int, int], float]:
    """(step, steps, steps of warm-up) -> part of the peak: linear from zero, then the named decay."""
    if name not in DECAYS:
        raise UserError(f"unknown lr_scheduler_type '{name}'; choose from: {', '.join(DECAYS)}")

    def rate(step: int, steps: int, warmup: int) -> float:
        if step < warmup:
            return step / warmup
        return DECAYS[name]((step - warmup) / max(1, steps - warmup))

    return rate
