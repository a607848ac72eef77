"""How far a mean over questions may lie from the truth where the questions of a clip go together.

A clip is drawn with all of its questions, so the variance is that of sums over clips. Where few clips tell anything
apart it cannot be estimated; then it moves towards its upper bound, that of clips whose questions all go together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from eval.statistics.quantiles import Z95, t_quantile

#: With so many clips that differ from the most frequent kind, the variance between clips is trusted alone.
TRUSTED_CLIPS = 15


@dataclass(frozen=True)
class Spread:
    """A weighted mean of values, and how it varies with the clips that were drawn."""

    #: The mean.
    value: float
    #: Clips, and of these the ones whose mean is not the most frequent one.
    clips: int
    differing: int
    #: Variance of the mean: clips being independent, and as if each question were a clip of its own.
    variance: float
    independent: float
    #: Degrees of freedom of `variance` (Satterthwaite), at most clips - 1.
    freedom: float
    #: Independent questions that would weigh as much (Kish), and clips that would.
    questions: float
    units: float
    #: Whether some clip has several questions.
    clustered: bool
    #: For each clip the sum of its values in the weight of the lightest question, Float "clips".
    sums: np.ndarray
    #: What a sum of 1 adds to the mean.
    scale: float

    @property
    def changing(self) -> int:
        """Clips whose sum is not 0."""
        return int((abs(self.sums) > 1e-9).sum())

    @property
    def doubt(self) -> float:
        """1 where no clip differs from the others, 0 from TRUSTED_CLIPS on, which weigh about the same."""
        return max(0.0, 1 - min(self.differing, self.units) / TRUSTED_CLIPS) if self.clustered else 0.0

    def design_effect(self, worth: float = 0.0) -> float:
        """By how much the variance exceeds that of independent questions, from 1 to `questions` / `units`.

        `worth` takes the place of `questions` where the values, taken for independent, are worth more.

        Student's quantile is part of it, so that normal quantiles serve behind it (Korn and Graubard, Survey
        Methodology 1998).
        """
        if not self.clustered:
            return 1.0
        most = max(worth, self.questions) / self.units
        if not self.independent or self.clips < 2:
            return most
        measured = self.variance / self.independent * (t_quantile(0.975, self.freedom) / Z95) ** 2
        return min(most, max(1.0, measured, self.doubt * most + (1 - self.doubt) * measured))

    @property
    def worth(self) -> float:
        """How many independent questions weigh as much as these in these clips."""
        return self.questions / self.design_effect()

    def cautious_variance(self, size: float = 1.0) -> float:
        """`variance`, widened where few clips differ: as if two more had been seen to change by `size`, one each way.

        Two clips that have not been seen are what an interval of zero width forgets (Agresti and Caffo, American
        Statistician 2000).
        """
        few = max(0.0, 1 - min(self.differing, self.units) / TRUSTED_CLIPS)
        return max(self.variance, 0.0) + few * 2 * (size / self.units) ** 2


def spread(
    values: Mapping[str, float], clips: Mapping[str, str] | None = None, tasks: Mapping[str, Hashable] | None = None
) -> Spread:
    """The spread of the mean of `values` (key -> value), or with `tasks` of the mean over tasks of their means.

    `clips` names each question's clip; without it each question is a clip of its own.
    """
    keys = sorted(values)
    assert keys, "a mean needs a question"
    x = np.array([float(values[key]) for key in keys])
    clip = _numbers([clips[key] for key in keys]) if clips else np.arange(len(keys))
    task = _numbers([tasks[key] for key in keys]) if tasks else np.zeros(len(keys), int)
    sizes = np.bincount(task)
    weight = 1 / (len(sizes) * sizes[task])
    centre = (np.bincount(task, x) / sizes)[task]
    off, shares = np.bincount(clip, weight * (x - centre)), np.bincount(clip, weight)
    unseen, unseen_clips = _unseen(x, clip, task)
    lightest, n = weight.min(), len(shares)
    in_lightest = weight / lightest
    sums = np.bincount(clip, x * (in_lightest.round() if _whole(in_lightest) else in_lightest))
    squares = (off**2).sum()
    return Spread(
        value=float(sums.sum() * lightest),
        clips=n,
        differing=_differing(np.bincount(clip, weight * x) / shares),
        variance=float(squares * n / max(1, n - 1)) + unseen_clips,
        independent=float((weight**2 * (x - centre) ** 2).sum()) + unseen,
        freedom=max(1.0, min(n - 1.0, 2 * squares**2 / (off**4).sum())) if squares > 0 else 1.0,
        questions=float(1 / (weight**2).sum()),
        units=float(1 / (shares**2).sum()),
        clustered=n < len(keys),
        sums=sums,
        scale=float(lightest),
    )


def _unseen(x: np.ndarray, clip: np.ndarray, task: np.ndarray) -> tuple[float, float]:
    """What a mean over tasks must add to its variances: of questions taken alone, and of clips.

    A task of one question never differs from its own mean, and one of two by half as much as it should. So each task
    counts one more question (one more clip), as far off as those of all tasks are from the mean of all.
    """
    if not task.any():
        return 0.0, 0.0
    _, place, counts = np.unique(task * (clip.max() + 1) + clip, return_inverse=True, return_counts=True)
    task_of_place = np.zeros(len(counts), int)
    task_of_place[place] = task
    means = np.bincount(place, x) / counts
    return _one_more(x, task), _one_more(means, task_of_place)


def _one_more(values: np.ndarray, task: np.ndarray) -> float:
    sizes = np.bincount(task)
    centre = (np.bincount(task, values) / sizes).mean()
    square = (np.bincount(task, (values - centre) ** 2) / sizes).mean()
    return float(square * (1 / sizes**2).sum() / len(sizes) ** 2)


def wilson(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share of `n` independent questions, which need not be a whole number."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _numbers(names: Sequence[Hashable]) -> np.ndarray:
    """A number for each name, the same for equal ones, in the order of the names."""
    place = {name: i for i, name in enumerate(sorted(set(names), key=str))}
    return np.array([place[name] for name in names])


def _differing(means: np.ndarray) -> int:
    """Clips whose mean is not the most frequent one."""
    _, counts = np.unique(means.round(9), return_counts=True)
    return len(means) - int(counts.max())


def _whole(numbers: np.ndarray) -> bool:
    return bool(np.allclose(numbers, numbers.round(), atol=1e-9))
