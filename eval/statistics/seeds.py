"""The luck of training: two trainings of one model differ, and by how much is pooled over the levels of one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from eval.statistics.estimates import ACCURACY, Estimate, Scale
from eval.statistics.quantiles import t_quantile

#: A variance and its degrees of freedom.
Part = tuple[float, float]


class SeedNoise(NamedTuple):
    """How far two trainings of one model lie apart by luck alone."""

    #: Variance of one training's mean.
    variance: float
    #: Its degrees of freedom.
    freedom: int


def of_differences(means: Sequence[Sequence[float]]) -> SeedNoise | None:
    """The luck of one training that a difference between two levels holds, from means "levels seeds".

    It is what a level and a seed explain together and not each for itself (the residual of the analysis of variance
    in two ways), with (seeds - 1)(levels - 1) degrees of freedom: a seed that is better at every level cancels. None
    for one level or one seed.
    """
    import numpy as np

    a = np.asarray(means, float)
    if a.ndim != 2 or min(a.shape) < 2:
        return None
    rest = a - a.mean(axis=0) - a.mean(axis=1, keepdims=True) + a.mean()
    freedom = (a.shape[0] - 1) * (a.shape[1] - 1)
    return SeedNoise(float((rest**2).sum() / freedom), freedom)


def of_means(by_level: Sequence[Sequence[float]]) -> SeedNoise | None:
    """The luck of one training that a mean holds: the variance over seeds, pooled over levels.

    Each level has the mean of each of its seeds, and adds its seeds - 1 degrees of freedom. None where no level has
    two seeds.
    """
    several = [means for means in by_level if len(means) > 1]
    freedom = sum(len(means) - 1 for means in several)
    if not freedom:
        return None
    squares = sum((value - fmean(means)) ** 2 for means in several for value in means)
    return SeedNoise(squares / freedom, freedom)


def with_seed_noise(
    questions: Estimate, by_seed: Sequence[float], noise: SeedNoise | None = None, scale: Scale = ACCURACY
) -> Estimate:
    """`questions`, the mean over seeds with the noise of the questions alone, widened by the noise of training.

    `by_seed` holds the value of each seed, `noise` that of one training where more is known of it. The half-widths of
    the two are added in squares (MOVER: Zou and Donner, Statistics in Medicine 2008), that of the seeds is Student's.
    One seed tells nothing of its noise.
    """
    seeds = len(by_seed)
    if seeds < 2:
        return questions
    noise = noise or SeedNoise(variance(by_seed), seeds - 1)
    value = questions.value
    margin = t_quantile(0.975, noise.freedom) * sqrt(noise.variance / seeds)
    below, above = sqrt((value - questions.low) ** 2 + margin**2), sqrt((questions.high - value) ** 2 + margin**2)
    return Estimate(value, max(0.0, value - below), min(scale.highest, value + above))


def half_width(level: float, parts: Sequence[Part]) -> float:
    """Half the interval of a mean whose variance has several parts, each with its own t (MOVER)."""
    return sqrt(sum(t_quantile(1 - level / 2, freedom) ** 2 * part for part, freedom in parts if part))


def p_of(difference: float, parts: Sequence[Part]) -> float:
    """The level at which the interval ends at 0: bisected in its logarithm, so that it agrees with the interval."""
    if abs(difference) <= half_width(1.0 - 1e-12, parts) or not difference:
        return 1.0
    low, high = log(1e-16), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half_width(exp(middle), parts) > abs(difference) else (low, middle)
    return exp(high)
