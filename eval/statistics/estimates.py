"""Values with their 95 % intervals, and the two scales that they are on: right or wrong, and a judge's scores.

Questions about one clip are not independent of each other: wherever clips are given, whole clips are what is drawn.
How often each interval holds the truth is simulated by `benchmarks/coverage.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import isfinite, sqrt
from typing import TYPE_CHECKING, NamedTuple

from eval.statistics.quantiles import t_quantile

if TYPE_CHECKING:
    from eval.statistics.clustered import Spread

#: The significance level of every test here.
LEVEL = 0.05

#: The clip of each question, and its task.
Clips = Mapping[str, str]
Tasks = Mapping[str, Hashable]


class Scale(NamedTuple):
    """What outcomes are: right or wrong, or scores. All else about the two is the same."""

    #: What a mean of them is called.
    name: str
    #: Values lie between 0 and this.
    highest: float
    #: Printed values are multiplied by this, and have so many digits behind the point.
    factor: float
    digits: int

    def show(self, value: float, sign: str = "") -> str:
        """The value as it is printed; what rounds to nothing is +0, never -0. "unknown" where it is infinite."""
        if not isfinite(value):
            return "unknown"
        return f"{0.0 + round(self.factor * value, self.digits):{sign}.{self.digits}f}"


ACCURACY = Scale("accuracy", 1.0, 100, 1)
SCORE = Scale("score", 5, 1, 2)


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def share(right: Mapping[str, float], clips: Clips | None = None, tasks: Tasks | None = None) -> Estimate:
    """The share of right answers (key -> 0 to 1), or with `tasks` the mean over tasks of theirs, with its interval.

    Wilson's interval of as many independent questions as the clips are worth.
    """
    from eval.statistics.clustered import spread, wilson

    found = spread(right, clips, tasks)
    value = min(1.0, max(0.0, found.value))
    low, high = wilson(value, worth(found, value * (1 - value)))
    return Estimate(value, min(value, low), max(value, high))


def mean_score(scores: Mapping[str, float], clips: Clips | None, scale: Scale = SCORE) -> Estimate | None:
    """The mean of scores with Student's interval over clips; None of a single clip, which says nothing of others."""
    from eval.statistics.clustered import spread

    found = spread(scores, clips)
    if found.clips < 2:
        return None
    half = t_quantile(0.975, found.freedom) * sqrt(found.cautious_variance())
    return Estimate(found.value, max(0, found.value - half), min(scale.highest, found.value + half))


def independent_questions(right: Mapping[str, float], clips: Clips | None, tasks: Tasks | None = None) -> float:
    """How many questions about clips of their own these are worth, for their mean or the mean over tasks of theirs."""
    from eval.statistics.clustered import spread

    return spread(right, clips, tasks).worth


def worth(found: Spread, of_one: float) -> float:
    """How many independent questions a mean is worth, given the variance of one."""
    alone = of_one / found.independent if found.independent > 0 else found.questions
    return max(found.units, alone / found.design_effect(alone)) if found.clustered else alone


def wilson(right: float, n: int) -> Estimate:
    """The share `right / n` of independent questions with its Wilson interval; `right` may be a mean over seeds."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, alpha=0.05, method="wilson")
    return Estimate(right / n, max(0.0, float(low)), min(1.0, float(high)))
