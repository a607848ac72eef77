"""Intervals, paired tests and what a benchmark can resolve. Answers and scores in, numbers out.

Shares lie between 0 and 1, scores have their own unit. Questions about one clip are not independent of each other:
wherever clips are given, whole clips are what is drawn, or what changes sides. How often each interval holds the
truth is simulated by `benchmarks/coverage.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from eval.statistics.clustered import Spread
    from eval.statistics.sign_flips import SignFlips

#: Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054
#: Standard normal quantile of 80 % power.
Z80 = 0.8416212335729143
#: The significance level of every test here.
LEVEL = 0.05
#: Fewer clips (or questions that differ) cannot reach 5 % in the exact test, even all to one side: 2 / 2**6 = 3.1 %.
FEWEST_CLIPS = 6
#: Equivalence of clips with several questions is refused, not denied, where fewer of them differ.
FEWEST_DIFFERING = 10

Videos = Mapping[str, str]
Tasks = Mapping[str, Hashable]


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class SeedNoise(NamedTuple):
    """How far two trainings of one model lie apart by luck alone (`eval.statistics.seeds`)."""

    #: Variance of one training's mean.
    variance: float
    #: Its degrees of freedom.
    freedom: int


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions; `difference` = first - second, with its 95 % interval.

    The interval leaves 0 out exactly where `p` is below 5 %.
    """

    n: int
    n_videos: int
    first: float
    second: float
    #: Questions that only one of them got right, means over the seeds where there are several; None for scores.
    only_first: float | None
    only_second: float | None
    difference: float
    low: float
    high: float
    #: McNemar's exact p, which takes questions for independent; None over several seeds and for scores.
    mcnemar_p: float | None
    #: The p to go by: sign flips of whole clips for one seed each, a t test that holds the seeds' noise for several.
    p: float
    #: The smallest difference that this test finds with 80 % power; infinite where no possible one is found.
    detectable: float
    #: How the interval was made: "Tango by clip", "t by clip" or "t over clips and seeds".
    method: str
    #: Training seeds of each.
    seeds: int = 1
    #: Clips whose answers differ between the two in sum.
    n_differing: int = 0
    power: Power | None = field(default=None, repr=False, compare=False)

    @property
    def discordance(self) -> float:
        """The share of questions on which exactly one of the two is right."""
        assert self.only_first is not None and self.only_second is not None, "scores have no discordant pairs"
        return (self.only_first + self.only_second) / self.n

    @property
    def too_few(self) -> bool:
        """Whether there are too few clips for any difference to be shown."""
        return self.n_videos < FEWEST_CLIPS

    def detectable_at(self, level: float) -> float:
        """`detectable` of the same test at another significance level, such as one adjusted for a family of tests."""
        return self.power.detectable(level) if self.power else self.detectable


@dataclass(frozen=True)
class Power:
    """What one paired test can find."""

    spread: Spread
    #: The test of one seed.
    flips: SignFlips | None
    #: Variances and their degrees of freedom, of the test over several seeds.
    parts: Sequence[tuple[float, float]]
    #: What the difference would be if all that changes changed for the better.
    most: float

    def detectable(self, level: float) -> float:
        """The smallest difference found with 80 % power by a test at `level`; infinite where it exceeds `most`."""
        from eval.statistics.clustered import t_quantile

        if self.flips is not None:
            found = self.spread.scale * self._found_by_flips(self.flips, level)
        else:
            total = sum(part for part, _ in self.parts)
            freedom = total**2 / sum(part**2 / freedom for part, freedom in self.parts) if total else inf
            found = half_width(level, self.parts) + t_quantile(0.8, freedom) * sqrt(total)
        return found if found <= self.most else inf

    def _found_by_flips(self, flips: SignFlips, level: float) -> float:
        """The sum of changes that the test by clips finds with 80 % power: a fixed point.

        It lies as far above the critical sum as four sums of five are above their fifth. A difference turns the signs
        of clips that differ: the sum varies less, the more of them go one way. And where clips hold several questions
        that go apart, it makes all of them larger, and the critical sum with them.
        """
        critical = flips.critical_between(level)
        squares, total = float((flips.sizes**2).sum()), float(flips.sizes.sum())
        if critical == inf:
            return inf
        differing = squares**2 / float((flips.sizes**4).sum())
        together = self.spread.variance / self.spread.independent if self.spread.independent else inf
        apart = max(0.0, 1 - max(1.0, together) * self.spread.units / self.spread.questions)
        found = critical
        for _ in range(100):
            grown = squares + apart * found**2 / self.spread.clips
            z = critical / sqrt(squares)
            left = max(0.0, 1 - found / total * z / sqrt(differing) + z**2 / (4 * differing))
            found = z * sqrt(grown) + Z80 * sqrt(squares * left)
            if found > total * (1 + apart * len(flips.sizes)):
                return inf
        return found


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 1987)."""

    #: The larger p of the two: that the difference is `margin` or more, and `-margin` or less.
    p: float
    #: Whether so few clips differ that nothing can be said.
    too_few: bool

    @property
    def shown(self) -> bool | None:
        """Whether the models are equivalent; None where too few clips differ to tell."""
        return None if self.too_few else self.p < LEVEL


def share(right: Mapping[str, float], videos: Videos | None = None, tasks: Tasks | None = None) -> Estimate:
    """The share of right answers (key -> 0 to 1), or with `tasks` the mean over tasks of theirs, with its interval.

    Wilson's interval of as many independent questions as the clips are worth.
    """
    from eval.statistics.clustered import spread, wilson

    found = spread(right, videos, tasks)
    value = min(1.0, max(0.0, found.value))
    low, high = wilson(value, _independent(found, value * (1 - value)))
    return Estimate(value, min(value, low), max(value, high))


def independent_questions(right: Mapping[str, float], videos: Videos | None, tasks: Tasks | None = None) -> float:
    """How many questions about clips of their own these are worth, for their mean or the mean over tasks of theirs."""
    from eval.statistics.clustered import spread

    found = spread(right, videos, tasks)
    return found.questions / found.design_effect()


def _independent(found: Spread, of_one: float) -> float:
    """How many independent questions a mean is worth, given the variance of one."""
    alone = of_one / found.independent if found.independent > 0 else found.questions
    return max(found.units, alone / found.design_effect(alone)) if found.clustered else alone


def mean_score(scores: Mapping[str, float], videos: Videos | None, lowest: float, highest: float) -> Estimate | None:
    """The mean of scores between two bounds with its interval, by clips; None of a single clip, which says nothing."""
    from eval.statistics.clustered import spread, t_quantile

    found = spread(scores, videos)
    if found.clips < 2:
        return None
    half = t_quantile(0.975, found.freedom) * sqrt(found.cautious_variance())
    return Estimate(found.value, max(lowest, found.value - half), min(highest, found.value + half))


def wilson(right: float, n: int) -> Estimate:
    """The share `right / n` of independent questions with its Wilson interval; `right` may be a mean over seeds."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, alpha=0.05, method="wilson")
    return Estimate(right / n, max(0.0, float(low)), min(1.0, float(high)))


def with_seed_noise(questions: Estimate, by_seed: Sequence[float], noise: SeedNoise | None = None) -> Estimate:
    """`questions`, the mean over seeds with the noise of the questions alone, widened by the noise of training.

    `by_seed` holds the value of each seed, `noise` that of one training where more is known of it. The half-widths of
    the two are added in squares (MOVER: Zou and Donner, Statistics in Medicine 2008), that of the seeds is Student's.
    One seed tells nothing of its noise.
    """
    seeds = len(by_seed)
    if seeds < 2:
        return questions
    from eval.statistics.clustered import t_quantile

    noise = noise or SeedNoise(variance(by_seed), seeds - 1)
    value = questions.value
    margin = t_quantile(0.975, noise.freedom) * sqrt(noise.variance / seeds)
    below, above = sqrt((value - questions.low) ** 2 + margin**2), sqrt((questions.high - value) ** 2 + margin**2)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def compare(
    first: Mapping[str, bool],
    second: Mapping[str, bool],
    videos: Videos | None = None,
    tasks: Tasks | None = None,
) -> Paired:
    """Two models on the questions that both answered, given as key -> right or wrong.

    `videos` names each question's clip; without it each question is a clip of its own. With `tasks` (key -> task) the
    difference is that of the means over tasks. p is exact by sign flips of whole clips. The interval is Tango's, of as
    many independent questions as the clips are worth; where it and p would disagree about 0, p decides.
    """
    from eval.statistics import tango
    from eval.statistics.clustered import spread
    from eval.statistics.sign_flips import SignFlips

    changes = _changes(first, second)
    of = spread(changes, videos, tasks)
    flips = SignFlips(of.sums)
    up, down = _shares(changes, tasks)
    n = _independent(of, up + down - of.value**2)
    low, high = tango.interval(up * n, down * n, n, Z95)
    return Paired(
        n=len(changes),
        n_videos=of.clips,
        first=_mean(first, changes, tasks),
        second=_mean(second, changes, tasks),
        only_first=sum(change > 0 for change in changes.values()),
        only_second=sum(change < 0 for change in changes.values()),
        difference=of.value,
        **_agreeing(low, high, of.value, flips.p),
        mcnemar_p=_mcnemar(changes),
        **_tested(of, flips, (), up + down),
        method="Tango by clip",
    )


def compare_scores(first: Mapping[str, float], second: Mapping[str, float], videos: Videos | None = None) -> Paired:
    """Two models' scores, key -> score, on the questions that both have a score for.

    p is that of the mean: sign flips of the clips' sums. The interval is Student's over clips; of fewer than
    FEWEST_CLIPS it is infinite, for nothing could be shown with them.
    """
    from eval.statistics.clustered import spread, t_quantile
    from eval.statistics.sign_flips import SignFlips

    changes = _changes(first, second)
    of = spread(changes, videos)
    flips = SignFlips(of.sums)
    half = inf if of.clips < FEWEST_CLIPS else t_quantile(0.975, of.freedom) * sqrt(of.cautious_variance())
    return Paired(
        n=len(changes),
        n_videos=of.clips,
        first=_mean(first, changes, None),
        second=_mean(second, changes, None),
        only_first=None,
        only_second=None,
        difference=of.value,
        **_agreeing(of.value - half, of.value + half, of.value, flips.p),
        mcnemar_p=None,
        **_tested(of, flips, (), _most(changes, None)),
        method="t by clip",
    )


def compare_seeds(
    firsts: Sequence[Mapping[str, float]],
    seconds: Sequence[Mapping[str, float]],
    videos: Videos | None = None,
    tasks: Tasks | None = None,
    noise: SeedNoise | None = None,
    scores: bool = False,
) -> Paired:
    """Two models that were trained with the same seeds, in the same order; for one seed `compare` (`compare_scores`).

    The difference is the mean over seeds. Its variance is the sum of that over clips (of the mean over seeds) and of
    twice that of `noise`, the luck of one training, which is estimated from these runs alone where it is not given.
    Both are held apart, each with its own degrees of freedom (MOVER), so that few seeds are never taken for many. What
    both share is counted twice, which errs to the wide side.
    """
    assert len(firsts) == len(seconds) >= 1, "give both models with the same seeds"
    if len(firsts) == 1:
        one = compare_scores if scores else compare
        return one(firsts[0], seconds[0], videos) if scores else compare(firsts[0], seconds[0], videos, tasks)
    import numpy as np

    from eval.statistics.clustered import spread

    seeds, keys = len(firsts), sorted(set.intersection(*(set(run) for run in (*firsts, *seconds))))
    assert keys, "runs without a common question cannot be compared"
    by_seed = np.array([[float(a[key]) - float(b[key]) for key in keys] for a, b in zip(firsts, seconds, strict=True)])
    changes = dict(zip(keys, by_seed.mean(axis=0).tolist(), strict=True))
    of = spread(changes, videos, tasks)
    noise = noise or SeedNoise(_noise_of_pair(keys, by_seed, tasks), seeds - 1)
    parts = [(of.cautious_variance(), of.freedom), (2 * noise.variance / seeds, float(noise.freedom))]
    half, p, bound = half_width(LEVEL, parts), _p_of(of.value, parts), inf if scores else 1.0
    return Paired(
        n=len(keys),
        n_videos=of.clips,
        first=fmean(_mean(run, changes, tasks) for run in firsts),
        second=fmean(_mean(run, changes, tasks) for run in seconds),
        only_first=None if scores else float((by_seed > 0).sum() / seeds),
        only_second=None if scores else float((by_seed < 0).sum() / seeds),
        difference=of.value,
        low=max(-bound, of.value - half),
        high=min(bound, of.value + half),
        mcnemar_p=None,
        p=p,
        detectable=(power := Power(of, None, parts, fmean(_most_of(keys, by_seed, tasks)))).detectable(LEVEL),
        method="t over clips and seeds",
        seeds=seeds,
        n_differing=of.changing,
        power=power,
    )


def half_width(level: float, parts: Sequence[tuple[float, float]]) -> float:
    """Half the interval of a mean whose variance has several parts, given with their degrees of freedom (MOVER)."""
    from eval.statistics.clustered import t_quantile

    return sqrt(sum(t_quantile(1 - level / 2, freedom) ** 2 * part for part, freedom in parts if part))


def _p_of(difference: float, parts: Sequence[tuple[float, float]]) -> float:
    """The level at which the interval ends at 0: bisected in its logarithm, so that it agrees with the interval."""
    from math import exp, log

    if abs(difference) <= half_width(1.0 - 1e-12, parts) or not difference:
        return 1.0
    low, high = log(1e-16), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half_width(exp(middle), parts) > abs(difference) else (low, middle)
    return exp(high)


def equivalence(
    first: Mapping[str, float],
    second: Mapping[str, float],
    margin: float,
    videos: Videos | None = None,
    tasks: Tasks | None = None,
    scores: bool = False,
) -> Equivalence:
    """Whether two models differ by less than `margin`: the 90 % interval of the difference lies inside of it.

    By Tango's score test of as many independent questions as the clips are worth, for scores by Student's t over
    clips. Clips with several questions of which fewer than FEWEST_DIFFERING differ are too few to tell, unless
    even clips that change as a whole could not make the margin.
    """
    from eval.statistics import tango
    from eval.statistics.clustered import spread

    changes = _changes(first, second)
    of = spread(changes, videos, tasks)
    if scores:
        p = _outside_of_scores(of, margin)
    else:
        up, down = _shares(changes, tasks)
        n = _independent(of, up + down - of.value**2)
        p = max(_below(tango.score(up * n, down * n, n, margin)), _below(-tango.score(up * n, down * n, n, -margin)))
    few = of.clips < FEWEST_CLIPS or ((of.clustered or scores) and of.differing < FEWEST_DIFFERING)
    return Equivalence(p, few and p >= LEVEL)


def _outside_of_scores(of: Spread, margin: float) -> float:
    from scipy.special import stdtr

    if of.clips < FEWEST_CLIPS:
        return 1.0
    error = sqrt(of.cautious_variance())
    if not error:
        return float(abs(of.value) >= margin)
    return float(max(stdtr(of.freedom, -(margin - of.value) / error), stdtr(of.freedom, -(margin + of.value) / error)))


def _below(z: float) -> float:
    """The chance of a standard normal value below `z`."""
    from scipy.special import ndtr

    return float(ndtr(z))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: under 0.05 the chance of any false alarm is 5 %."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, method="holm")[1]] if len(ps) else []


def margin(accuracy: float, n: float) -> float:
    """Half the 95 % interval of one accuracy of `n` independent questions: 0.015 for 0.55 of 4,000."""
    return Z95 * sqrt(accuracy * (1 - accuracy) / n)


def detectable(n: float, discordance: float, level: float = LEVEL) -> float:
    """The smallest paired difference on `n` independent questions that a test at `level` finds with 80 % power.

    `discordance` is the share of questions on which exactly one of the two is right. Never below what the exact test
    can see at all; never above 1.
    """
    from math import ceil, log2

    from scipy.special import ndtri

    fewest = ceil(log2(2 / level) + 1e-9)
    return min(1.0, max((float(ndtri(1 - level / 2)) + Z80) * sqrt(discordance / n), fewest / n))


def resolvable(n: float, discordance: float, level: float = LEVEL) -> float | None:
    """`detectable`; None where that is more than the questions that change sides can make, so nothing is found."""
    found = detectable(n, discordance, level)
    return found if found <= discordance else None


def _changes(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """By how much the first is above the second, for each key that both have."""
    keys = sorted(first.keys() & second.keys())
    assert keys, "two runs without a common question cannot be compared"
    return {key: first[key] - second[key] for key in keys}


def _shares(changes: Mapping[str, float], tasks: Tasks | None) -> tuple[float, float]:
    """The shares of questions that changed for better and for worse; with `tasks` the means over tasks of theirs."""
    up, down = ({key: float(sign * change > 0) for key, change in changes.items()} for sign in (1, -1))
    return _mean(up, changes, tasks), _mean(down, changes, tasks)


def _mean(values: Mapping[str, float], keys: Mapping[str, object], tasks: Tasks | None) -> float:
    """The mean over these keys, or over tasks of their means."""
    if tasks is None:
        return fmean(values[key] for key in keys)
    parts: dict[Hashable, list[float]] = {}
    for key in keys:
        parts.setdefault(tasks[key], []).append(values[key])
    return fmean(map(fmean, parts.values()))


def _most(changes: Mapping[str, float], tasks: Tasks | None) -> float:
    return _mean({key: abs(change) for key, change in changes.items()}, changes, tasks)


def _most_of(keys: Sequence[str], by_seed: np.ndarray, tasks: Tasks | None) -> list[float]:
    return [_most(dict(zip(keys, row.tolist(), strict=True)), tasks) for row in by_seed]


def _noise_of_pair(keys: Sequence[str], by_seed: np.ndarray, tasks: Tasks | None) -> float:
    """The variance of one training's luck, from the spread of one pair's differences over its seeds."""
    means = [_mean(dict(zip(keys, row.tolist(), strict=True)), dict.fromkeys(keys), tasks) for row in by_seed]
    return variance(means) / 2


def _agreeing(low: float, high: float, value: float, p: float) -> dict[str, float]:
    """The interval and p of one test: where p is 5 % or more 0 lies inside, where it is less 0 lies outside."""
    least = 1e-9
    if p >= LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    elif value > 0:
        low = max(low, min(least, value))
    else:
        high = min(high, max(-least, value))
    return {"low": low, "high": high, "p": p}


def _tested(of: Spread, flips: SignFlips, parts: Sequence[tuple[float, float]], most: float) -> dict:
    power = Power(of, flips, parts, most)
    return {"detectable": power.detectable(LEVEL), "n_differing": of.changing, "power": power}


def _mcnemar(changes: Mapping[str, float]) -> float:
    """Twice the smaller tail of the binomial distribution of the questions that differ."""
    from scipy.special import bdtr

    up, down = (sum(sign * change > 0 for change in changes.values()) for sign in (1, -1))
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))
