"""A contrast of levels (a difference of two, a slope over all) and its error, which clips and training seeds make.

Values are arrays "seeds levels questions": right or wrong, or scores. A contrast is a weighted sum of the levels' mean
values, its weights adding up to 0. Questions about one clip are not independent, and neither are the answers of one
training: a run is better or worse than its level by the luck of its training, on all questions together. With one seed
that luck cannot be told from the level's effect, and every error here is that of the questions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from eval.statistics.estimates import Estimate

#: Makes what is dealt by chance the same each time.
SEED = 20


class Clips:
    """Which questions are about which clip, by a name for each question."""

    def __init__(self, names: Sequence[str]):
        _, self.place, self.sizes = np.unique(np.asarray(names), return_inverse=True, return_counts=True)
        self._order = np.argsort(self.place, kind="stable")
        self._starts = np.concatenate([[0], self.sizes.cumsum()[:-1]])

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of a variance over clips: one less than clips of equal size that tell as much."""
        return max(1.0, float(self.sizes.sum() ** 2 / (self.sizes**2).sum()) - 1)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Float "... questions" -> "... clips"."""
        return np.add.reduceat(np.asarray(values, dtype=float)[..., self._order], self._starts, axis=-1)

    def off(self, values: np.ndarray) -> np.ndarray:
        """By how much each clip moves the mean, Float "... questions" -> "... clips"; they add up to 0."""
        values = np.asarray(values, dtype=float)
        return (self.sums(values) - self.sizes * values.mean(axis=-1, keepdims=True)) / self.sizes.sum()

    def variance(self, values: np.ndarray) -> np.ndarray:
        """The variance of each mean over questions, whole clips being drawn: that of a ratio, linearised."""
        return (self.off(values) ** 2).sum(axis=-1) * len(self) / max(1, len(self) - 1)

    def covariance(self, values: np.ndarray) -> np.ndarray:
        """Float "k questions" -> "k k", the covariances of the means."""
        off = self.off(values)
        return off @ off.T * len(self) / max(1, len(self) - 1)

    def dealt(self, parts: int) -> np.ndarray:
        """The clips dealt into parts of equal size by chance, the same each time: Int "questions"."""
        return np.random.default_rng(SEED).permutation(len(self))[self.place] % parts

    def differing(self, values: np.ndarray) -> int:
        """How many clips have another mean than the most frequent one; Float "questions"."""
        _, counts = np.unique(np.round(self.sums(values) / self.sizes, 9), return_counts=True)
        return int(len(self) - counts.max())


class Luck(NamedTuple):
    """The interaction of seeds and levels: how far runs lie from what their level and their seed explain."""

    #: Mean square of what is left of the runs' mean values, and its degrees of freedom.
    mean_square: float
    freedom: int
    #: The part of it that comes from questions which turn over from one training to the next.
    of_questions: float

    @property
    def variance(self) -> float:
        """The variance of one run's mean value by the luck of its training on all questions together."""
        return max(0.0, self.mean_square - self.of_questions)


class Contrast(NamedTuple):
    """A contrast with the variances that clips and runs give it, each with its degrees of freedom."""

    value: float
    #: Over clips, of the mean over seeds.
    of_clips: float
    #: Over runs, and the part of it from questions that turn over, which `of_clips` holds already. 0 for one seed.
    of_runs: float
    in_both: float
    clips_freedom: float
    runs_freedom: float
    #: Clips that have another value than the most frequent one.
    differing: int

    def half(self, tail: float) -> float:
        """How far the truth may lie off to one side, but for this probability.

        The parts of clips and of runs are added in squares, each by its own t, and what is in both is taken off. A
        luck that two seeds happen not to show still counts, where Satterthwaite's common t would forget it.
        Source: Howe, Journal of the American Statistical Association 69, 1974.
        """
        return half(tail, *self[1:6])

    def interval(self) -> Estimate:
        """The two-sided 95 % interval."""
        half = self.half(0.025)
        return Estimate(self.value, self.value - half, self.value + half)

    @property
    def p(self) -> float:
        """Two-sided p of no effect: the interval with the coverage 1 - p just reaches 0."""
        from scipy.optimize import brentq

        least, size = 1e-12, abs(self.value)
        if not size or self.half(0.5 - least) >= size:
            return 1.0
        if self.half(least) <= size:
            return 2 * least
        return 2 * brentq(lambda tail: self.half(tail) - size, least, 0.5 - least, xtol=1e-14)


def half(
    tail: float, of_clips: float, of_runs: float, in_both: float, clips_freedom: float, runs_freedom: float
) -> float:
    """`Contrast.half` of these variances."""
    from scipy.special import stdtrit

    clips, runs = stdtrit(clips_freedom, tail) ** 2, stdtrit(runs_freedom, tail) ** 2 if of_runs else 0.0
    return float(np.sqrt(clips * of_clips + max(0.0, runs * of_runs - clips * in_both)))


def sample(n: int, n_clips: int, seeds: int) -> str:
    """What a statement is about, in words."""
    runs = f"{seeds} training seeds" if seeds > 1 else "one training seed, so of these runs alone"
    return f"{n:,} questions about {n_clips:,} clips, {runs}"


def luck(values: np.ndarray, clips: Clips) -> Luck | None:
    """The luck of training, pooled over all levels: the interaction of seed and level. None for one seed or one level.

    What is left of each run's mean after its level's and its seed's has (seeds - 1) (levels - 1) degrees of freedom.
    Questions that turn over from run to run make a part of it, which the clips tell.
    """
    seeds, levels, _ = values.shape
    freedom = (seeds - 1) * (levels - 1)
    if not freedom:
        return None
    left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean(axis=(0, 1))
    mean_square = float((left.mean(axis=2) ** 2).sum() / freedom)
    of_questions = float(clips.variance(left).sum() / freedom)
    return Luck(mean_square, freedom, of_questions)


def contrast(values: np.ndarray, clips: Clips, weights: Sequence[float]) -> Contrast:
    """The contrast of the levels with these weights, over all seeds."""
    changes = np.tensordot(np.asarray(weights, dtype=float), values.mean(axis=0), axes=1)
    return of_changes(changes, clips, luck(values, clips), float(np.square(weights).sum() / len(values)))


def of_changes(changes: np.ndarray, clips: Clips, runs: Luck | None = None, share: float = 0.0) -> Contrast:
    """The mean of Float "questions", into which `share` of the variance of one run's luck goes."""
    return Contrast(
        value=float(changes.mean()),
        of_clips=float(clips.variance(changes)),
        of_runs=share * runs.mean_square if runs else 0.0,
        in_both=share * runs.of_questions if runs else 0.0,
        clips_freedom=clips.freedom,
        runs_freedom=runs.freedom if runs else 1,
        differing=clips.differing(changes),
    )
