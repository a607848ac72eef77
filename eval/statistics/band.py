"""A band around the curve of accuracies that holds the whole curve, all levels at once, with 95 % probability.

An interval for each level holds its own accuracy with 95 %; that all five hold theirs is less likely. The band is
wider by the quantile of the largest of the levels' deviations (max-t): a multivariate t with the levels' correlations,
which the questions they share make high.
Source: Hothorn, Bretz and Westfall, Biometrical Journal 50, 2008; Wilson's interval with a design effect: Korn and
Graubard, Survey Methodology 24, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.statistics.clustered import wilson
from eval.statistics.contrast import Clips, luck
from eval.statistics.estimates import Estimate
from eval.statistics.paired import FEWEST_DIFFERING

#: Draws by which the quantile is found, and the seed that makes them the same each time.
DRAWS, SEED = 20_000, 20
#: The luck of training is as large at every level, but not where hardly a question is right or wrong.
LEAST_VARIANCE = 0.05


def band(right: np.ndarray, clips: Sequence[str], coverage: float = 0.95) -> list[Estimate]:
    """The accuracy of each level of Bool "seeds levels questions" with its part of the simultaneous band.

    Wilson's interval for as many questions as would tell as much if each were about a clip of its own and no training
    had any luck: it stays within 0 and 1. With one seed the luck of training is in no interval.
    """
    of, mean = Clips(clips), right.mean(axis=0)
    covariance, n = of.covariance(mean), right.shape[2]
    of_runs, in_both, freedom = _of_runs(right, of)
    correlation = _correlation(covariance, max(0.0, of_runs - in_both))
    quantile = _largest(correlation, of.freedom, coverage)
    runs_quantile = _largest(correlation, freedom, coverage) if of_runs else quantile
    shares = mean.mean(axis=1)
    alone = _variance(shares, n * len(right)) / n
    # As in `contrast.half`: each part by its own quantile, what is in both taken off.
    of_luck = max(0.0, (runs_quantile / quantile) ** 2 * of_runs - in_both)
    designs = _designs(covariance.diagonal(), alone, of) + of_luck / np.maximum(alone, LEAST_VARIANCE / n)
    return [
        Estimate(float(share), *wilson(float(share), n / design, quantile))
        for share, design in zip(shares, designs, strict=True)
    ]


def _variance(shares: np.ndarray, n: int) -> np.ndarray:
    """Of one question; a share of 0 or 1 counts as half a question away from it."""
    near = np.clip(shares, 0.5 / n, 1 - 0.5 / n)
    return near * (1 - near)


def _designs(of_clips: np.ndarray, alone: np.ndarray, clips: Clips) -> np.ndarray:
    """The design effect of each level: the variance over clips in units of that of independent questions.

    A few clips do not tell it well: the mean over all levels counts as much as FEWEST_DIFFERING clips more. Where no
    level varies at all, each clip counts as one question.
    """
    if not of_clips.any():
        return np.full(len(of_clips), clips.sizes.mean())
    pooled = of_clips.sum() / alone.sum()
    own = np.where(of_clips > 0, of_clips / alone, pooled)
    return (len(clips) * own + FEWEST_DIFFERING * pooled) / (len(clips) + FEWEST_DIFFERING)


def _of_runs(right: np.ndarray, clips: Clips) -> tuple[float, float, float]:
    """The variance of a level's accuracy over runs, the part of it from questions that turn over, and its freedom.

    Seeds may be luckier on all levels, and runs on one. The second part is in the variance over clips, too. All 0
    for one seed.
    """
    seeds, levels, _ = right.shape
    if seeds < 2:
        return 0.0, 0.0, 1.0
    off = right - right.mean(axis=0)
    of_seed = float((off.mean(axis=(1, 2)) ** 2).sum() / (seeds - 1))
    found = luck(right, clips)
    of_run, freedom = (found.mean_square * (levels - 1) / levels, found.freedom) if found else (0.0, 1)
    spread = of_seed**2 / (seeds - 1) + of_run**2 / freedom
    in_both = float(clips.variance(off).sum() / (seeds - 1) / levels)
    return (of_seed + of_run) / seeds, in_both / seeds, (of_seed + of_run) ** 2 / spread if spread else 1.0


def _correlation(covariance: np.ndarray, of_seeds: float) -> np.ndarray:
    """Of the levels' accuracies; a level that never varies is taken to vary apart from the others."""
    whole = covariance + of_seeds * np.eye(len(covariance))
    size = np.sqrt(whole.diagonal())
    still = size == 0
    size = np.where(still, 1.0, size)
    return whole / np.outer(size, size) + np.diag(still.astype(float))


def _largest(correlation: np.ndarray, freedom: float, coverage: float) -> float:
    """The quantile of the largest absolute value of a multivariate t; of one level it is Student's."""
    if len(correlation) == 1:
        from scipy.stats import t

        return float(t.ppf((1 + coverage) / 2, freedom))
    rng = np.random.default_rng(SEED)
    weights, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(weights, 0, None))
    normal = rng.standard_normal((DRAWS, len(correlation))) @ root.T
    scale = np.sqrt(rng.chisquare(freedom, DRAWS) / freedom)
    return float(np.quantile(np.abs(normal).max(axis=1) / scale, coverage))
