"""Intervals, paired tests and what a benchmark can resolve. Counts and scores in, numbers out.

Shares lie between 0 and 1. Questions about one clip are not independent of each other: wherever clips are given,
whole clips are resampled or change sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

#: Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054
#: Standard normal quantile of 80 % power.
Z80 = 0.8416212335729143
#: Fewer questions that differ cannot reach 5 % in the exact test, even all to one side: 2 / 2**6 = 3.1 %.
FEWEST_DISCORDANT = 6


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions; `difference` = first - second, with its 95 % interval."""

    n: int
    n_videos: int
    first: float
    second: float
    #: Questions that only one of them got right; means over the seeds where there are several.
    only_first: float
    only_second: float
    difference: float
    low: float
    high: float
    #: McNemar's exact p, which takes questions for independent; None over several seeds.
    mcnemar_p: float | None
    #: The p to go by: exact by clips for one seed each, a t test that holds the seeds' noise for several.
    p: float
    #: The smallest difference that this test finds with 80 % power, at the discordance or spread that was measured.
    detectable: float
    #: How the interval was made: "bootstrap by video", "Bonett-Price" or "t over seeds".
    method: str
    #: Training seeds of each.
    seeds: int = 1

    @property
    def discordance(self) -> float:
        """The share of questions on which exactly one of the two is right."""
        return (self.only_first + self.only_second) / self.n


class PairedScores(NamedTuple):
    """Two models' mean scores on the same questions, in the scores' own unit; `difference` = first - second."""

    n: int
    n_videos: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    #: Wilcoxon's signed rank test on the mean difference of each clip; None over several seeds.
    wilcoxon_p: float | None
    #: The smallest difference that a test at 5 % finds with 80 % power, at the spread that was measured.
    detectable: float
    #: The p to go by: Wilcoxon's for one seed each, a t test that holds the seeds' noise for several.
    p: float
    #: Training seeds of each.
    seeds: int = 1


def wilson(right: float, n: int) -> Estimate:
    """The share `right / n` with its Wilson 95 % interval; `right` may be a mean over seeds."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, alpha=0.05, method="wilson")
    return Estimate(right / n, max(0.0, float(low)), min(1.0, float(high)))


def mean_share(counts: Sequence[tuple[float, int]]) -> Estimate:
    """The unweighted mean of the shares `right / n` with a 95 % interval.

    The interval is built from the Wilson intervals of the parts (MOVER: Zou and Donner, Statistics in
    Medicine 2008).
    """
    parts = [wilson(right, n) for right, n in counts]
    value = sum(part.value for part in parts) / len(parts)
    below = sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def with_seed_noise(questions: Estimate, by_seed: Sequence[float]) -> Estimate:
    """`questions`, the mean over seeds with the noise of the questions alone, widened by the noise of training.

    `by_seed` holds the value of each seed. The half-widths of the two are added in squares (MOVER); that of the
    seeds is Student's with one degree of freedom less than seeds. One seed tells nothing of its noise.
    """
    if len(by_seed) < 2:
        return questions
    from scipy.stats import t

    value = questions.value
    margin = float(t.ppf(0.975, len(by_seed) - 1)) * sqrt(variance(by_seed) / len(by_seed))
    below, above = sqrt((value - questions.low) ** 2 + margin**2), sqrt((questions.high - value) ** 2 + margin**2)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def compare(first: Mapping[str, bool], second: Mapping[str, bool], videos: Mapping[str, str] | None = None) -> Paired:
    """Two models on the questions that both answered, given as key -> right or wrong.

    `videos` names each question's clip; without it each question is a clip of its own. The interval is the percentile
    bootstrap over clips. Where fewer than FEWEST_CLIPS clips tell the models apart, it is Bonett and Price's adjusted
    Wald interval (2012), which holds at small counts.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    from eval import resample

    keys, changes = _changes(first, second)
    n, clips = len(keys), resample.clips(keys, changes, videos)
    only_first, only_second = changes.count(1), changes.count(-1)
    resampled = resample.can_resample(clips)
    if resampled:
        low, high = resample.bootstrap_interval(clips)
    else:
        centre, error = _bonett_price(n, only_first, only_second)
        low, high = max(-1.0, centre - Z95 * error), min(1.0, centre + Z95 * error)
    return Paired(
        n=n,
        n_videos=len(clips),
        first=fmean(bool(first[key]) for key in keys),
        second=fmean(bool(second[key]) for key in keys),
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / n,
        low=low,
        high=high,
        mcnemar_p=float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue),
        p=resample.sign_flip_p(clips[:, 1].astype(int)),
        detectable=detectable(n, (only_first + only_second) / n),
        method="bootstrap by video" if resampled else "Bonett-Price",
    )


def compare_seeds(
    firsts: Sequence[Mapping[str, bool]],
    seconds: Sequence[Mapping[str, bool]],
    videos: Mapping[str, str] | None = None,
) -> Paired:
    """Two models that were trained with the same seeds, in the same order; for one seed this is `compare`.

    The difference is the mean over seeds. Its variance is the sum of that over clips (of the mean over seeds) and of
    that over seeds, which counts what they share twice and so errs to the wide side; the degrees of freedom are
    Satterthwaite's. With two seeds hardly anything is significant: that is what two seeds say.
    """
    assert len(firsts) == len(seconds) >= 1, "give both models with the same seeds"
    if len(firsts) == 1:
        return compare(firsts[0], seconds[0], videos)
    from eval import resample

    pairs, (keys, changes) = list(zip(firsts, seconds, strict=True)), _changes_by_seed(firsts, seconds)
    n = len(keys)
    clips = resample.clips(keys, changes.mean(axis=0).tolist(), videos)
    only_first, only_second = (float((changes == sign).sum() / len(pairs)) for sign in (1, -1))
    few = not resample.can_resample(clips)
    of_clips = _bonett_price(n, only_first, only_second)[1] ** 2 if few else resample.clip_variance(clips)
    difference, half, p, finds = _over_seeds(changes, of_clips, len(clips))
    return Paired(
        n=n,
        n_videos=len(clips),
        first=fmean(bool(a[key]) for a, _ in pairs for key in keys),
        second=fmean(bool(b[key]) for _, b in pairs for key in keys),
        only_first=only_first,
        only_second=only_second,
        difference=difference,
        low=max(-1.0, difference - half),
        high=min(1.0, difference + half),
        mcnemar_p=None,
        p=p,
        detectable=min(1.0, finds),
        method="t over seeds",
        seeds=len(pairs),
    )


def _changes_by_seed(
    firsts: Sequence[Mapping[str, float]], seconds: Sequence[Mapping[str, float]]
) -> tuple[list[str], np.ndarray]:
    """The keys that all runs have, sorted, and by how much the first is above the second: Float "seeds questions"."""
    import numpy as np

    keys = sorted(set.intersection(*(set(run) for run in (*firsts, *seconds))))
    assert keys, "runs without a common question cannot be compared"
    pairs = zip(firsts, seconds, strict=True)
    return keys, np.array([[float(a[key]) - float(b[key]) for key in keys] for a, b in pairs])


def _over_seeds(changes: np.ndarray, of_clips: float, clips: int) -> tuple[float, float, float, float]:
    """Mean of "seeds questions", half its 95 % interval, p, and what is found with 80 % power.

    `of_clips` is the variance of that mean over so many clips; the seeds' is added.
    """
    from scipy.stats import t

    seeds = len(changes)
    of_seeds = variance(changes.mean(axis=1).tolist()) / seeds
    difference, error = float(changes.mean()), sqrt(of_clips + of_seeds)
    if not error:  # the same change everywhere
        return difference, 0.0, float(difference == 0), 0.0
    freedom = error**4 / (of_clips**2 / max(1, clips - 1) + of_seeds**2 / (seeds - 1))
    half = float(t.ppf(0.975, freedom)) * error
    p = float(2 * t.sf(abs(difference) / error, freedom))
    return difference, half, p, half + float(t.ppf(0.8, freedom)) * error


def equivalence_p(
    first: Mapping[str, bool], second: Mapping[str, bool], margin: float, videos: Mapping[str, str] | None = None
) -> float:
    """The larger p of two one-sided tests: that the difference is `margin` or more, and `-margin` or less.

    Under 0.05 the models are equivalent within `margin`: the 90 % interval of the difference lies inside of it. By
    the bootstrap over clips as in `compare`, at small counts by Bonett and Price's normal approximation.
    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 1987.
    """
    from eval import resample

    keys, changes = _changes(first, second)
    clips = resample.clips(keys, changes, videos)
    if resample.can_resample(clips):
        return resample.bootstrap_outside(clips, margin)
    from scipy.stats import norm

    centre, error = _bonett_price(len(keys), changes.count(1), changes.count(-1))
    return float(max(norm.sf((margin - centre) / error), norm.sf((margin + centre) / error)))


def compare_scores(
    first: Mapping[str, float], second: Mapping[str, float], videos: Mapping[str, str] | None = None
) -> PairedScores:
    """Two models' scores, key -> score, on the questions that both have a score for.

    The interval is the percentile bootstrap over clips, Wilcoxon's test takes each clip's mean difference. A single
    clip says nothing of others: its interval is infinite.
    """
    from eval import resample

    keys, changes = _changes(first, second)
    clips = resample.clips(keys, changes, videos)
    several = len(clips) > 1
    low, high = resample.bootstrap_interval(clips) if several else (-inf, inf)
    wilcoxon_p = _wilcoxon(clips[:, 1] / clips[:, 0])
    return PairedScores(
        n=len(keys),
        n_videos=len(clips),
        first=fmean(first[key] for key in keys),
        second=fmean(second[key] for key in keys),
        difference=fmean(changes),
        low=low,
        high=high,
        wilcoxon_p=wilcoxon_p,
        detectable=(Z95 + Z80) * sqrt(resample.clip_variance(clips)) if several else inf,
        p=wilcoxon_p,
    )


def compare_scores_seeds(
    firsts: Sequence[Mapping[str, float]],
    seconds: Sequence[Mapping[str, float]],
    videos: Mapping[str, str] | None = None,
) -> PairedScores:
    """`compare_seeds` for scores, on the questions that have one in every run; for one seed `compare_scores`."""
    assert len(firsts) == len(seconds) >= 1, "give both models with the same seeds"
    if len(firsts) == 1:
        return compare_scores(firsts[0], seconds[0], videos)
    from eval import resample

    keys, changes = _changes_by_seed(firsts, seconds)
    clips = resample.clips(keys, changes.mean(axis=0).tolist(), videos)
    several = len(clips) > 1
    difference, half, p, finds = _over_seeds(changes, resample.clip_variance(clips), len(clips))
    return PairedScores(
        n=len(keys),
        n_videos=len(clips),
        first=fmean(run[key] for run in firsts for key in keys),
        second=fmean(run[key] for run in seconds for key in keys),
        difference=difference,
        low=difference - half if several else -inf,
        high=difference + half if several else inf,
        wilcoxon_p=None,
        detectable=finds if several else inf,
        p=p if several else 1.0,
        seeds=len(firsts),
    )


def equivalence_p_of_scores(
    first: Mapping[str, float], second: Mapping[str, float], margin: float, videos: Mapping[str, str] | None = None
) -> float:
    """`equivalence_p` for scores, `margin` in their unit; 1.0 where fewer than FEWEST_CLIPS clips differ."""
    from eval import resample

    clips = resample.clips(*_changes(first, second), videos)
    return resample.bootstrap_outside(clips, margin) if resample.can_resample(clips) else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: under 0.05 the chance of any false alarm is 5 %."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, method="holm")[1]] if len(ps) else []


def above(right: int, n: int, share: float) -> float:
    """One-sided exact p of seeing `right` of `n` or more where the true share is `share`."""
    from scipy.stats import binomtest

    return float(binomtest(right, n, share, alternative="greater").pvalue)


def margin(accuracy: float, n: int) -> float:
    """Half the 95 % interval of one accuracy: 0.015 for 0.55 of 4,000."""
    return Z95 * sqrt(accuracy * (1 - accuracy) / n)


def detectable(n: int, discordance: float) -> float:
    """The smallest paired difference on `n` questions that a test at 5 % finds with 80 % power.

    `discordance` is the share of questions on which exactly one of the two is right. Never below what
    FEWEST_DISCORDANT questions are of n, for the exact test cannot see less; never above 1.
    """
    return min(1.0, max((Z95 + Z80) * sqrt(discordance / n), FEWEST_DISCORDANT / n))


def resolvable(n: int, discordance: float) -> float | None:
    """`detectable`; None where that is more than the questions that change sides can make, so nothing is found."""
    found = detectable(n, discordance)
    return found if found <= discordance else None


def _wilcoxon(changes: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    changes = changes.round(12)  # sums of the same scores in another order are ties
    return float(wilcoxon(changes).pvalue) if changes.any() else 1.0


def _changes(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """The keys that both have, sorted, and by how much the first is above the second at each."""
    keys = sorted(first.keys() & second.keys())
    assert keys, "two runs without a common question cannot be compared"
    return keys, [first[key] - second[key] for key in keys]


def _bonett_price(n: int, only_first: float, only_second: float) -> tuple[float, float]:
    """Centre and standard error of Bonett and Price's adjusted Wald interval."""
    up, down = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    return up - down, sqrt((up + down - (up - down) ** 2) / (n + 2))
