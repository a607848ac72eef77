"""The noise of training, pooled over the levels of one sweep: two trainings of one model differ by luck."""

from __future__ import annotations

from collections.abc import Sequence

from eval.statistics.stats import SeedNoise


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
    """The luck of one training that an accuracy holds: the variance over seeds, pooled over levels.

    Each level has the mean of each of its seeds, and adds its seeds - 1 degrees of freedom. None where no level has
    two seeds.
    """
    from statistics import fmean

    several = [means for means in by_level if len(means) > 1]
    freedom = sum(len(means) - 1 for means in several)
    if not freedom:
        return None
    squares = sum((value - fmean(means)) ** 2 for means in several for value in means)
    return SeedNoise(squares / freedom, freedom)
