"""Two models on the same questions, by accuracies or by scores: difference, interval, p, and what could be found."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import fmean, variance
from typing import TYPE_CHECKING

from eval.statistics import tango
from eval.statistics.estimates import ACCURACY, LEVEL, Clips, Scale, Tasks, worth
from eval.statistics.power import Power
from eval.statistics.quantiles import Z95, t_quantile
from eval.statistics.seeds import SeedNoise, half_width, p_of

if TYPE_CHECKING:
    from eval.statistics.clustered import Spread

#: Fewer clips (or questions that differ) cannot reach 5 % in the exact test, even all to one side: 2 / 2**6 = 3.1 %.
FEWEST_CLIPS = 6
#: Equivalence of clips with several questions is refused, not denied, where fewer of them differ.
FEWEST_DIFFERING = 10
#: What is said where a test finds nothing. That is not "they are equal", which `equivalence` tests.
NONE_SHOWN = "no difference shown"
#: What is said where no outcome of so few clips could have shown anything.
TOO_FEW = "too few clips to tell"


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
    #: How the interval was made: "Tango by clip", "t by clip" or "t over clips and seeds".
    method: str
    #: Training seeds of each.
    seeds: int
    #: Clips whose answers differ between the two in sum.
    n_differing: int
    power: Power = field(repr=False, compare=False)

    @property
    def detectable(self) -> float:
        """The smallest difference that this test finds with 80 % power; infinite where no possible one is found."""
        return self.detectable_at(LEVEL)

    def detectable_at(self, level: float) -> float:
        """`detectable` of the same test at another significance level, such as one adjusted for a family of tests."""
        return self.power.detectable(level)

    @property
    def discordance(self) -> float:
        """The share of questions on which exactly one of the two is right."""
        assert self.only_first is not None and self.only_second is not None, "scores have no discordant pairs"
        return (self.only_first + self.only_second) / self.n

    @property
    def too_few(self) -> bool:
        """Whether there are too few clips for any difference to be shown."""
        return self.n_videos < FEWEST_CLIPS

    def verdict(self, p: float, better: tuple[str, str]) -> str:
        """What the test says, in words; `p` is that of the test, adjusted where it is one of several."""
        if p < LEVEL:
            return better[self.difference < 0]
        return TOO_FEW if self.too_few else NONE_SHOWN


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


def compare(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clips: Clips | None = None,
    tasks: Tasks | None = None,
    scale: Scale = ACCURACY,
) -> Paired:
    """`compare_seeds` of one run each."""
    return compare_seeds([first], [second], clips, tasks, scale=scale)


def compare_seeds(
    firsts: Sequence[Mapping[str, float]],
    seconds: Sequence[Mapping[str, float]],
    clips: Clips | None = None,
    tasks: Tasks | None = None,
    noise: SeedNoise | None = None,
    scale: Scale = ACCURACY,
) -> Paired:
    """Two models, trained with the same seeds in the same order, on the questions (key -> value) that all runs have.

    `clips` names each question's clip; without it each question is a clip of its own. With `tasks` the difference is
    that of the means over tasks.

    One seed: p is exact by sign flips of whole clips. The interval of right and wrong is Tango's, of as many
    independent questions as the clips are worth; that of scores Student's over clips, infinite for fewer than
    FEWEST_CLIPS. Where interval and p would disagree about 0, p decides.

    Several: the difference is the mean over seeds. Its variance is the sum of that over clips and of twice that of
    `noise`, the luck of one training, which is estimated from these runs alone where it is not given. Both are held
    apart, each with its own degrees of freedom (MOVER), so that few seeds are never taken for many. What both share is
    counted twice, which errs to the wide side.
    """
    from eval.statistics.clustered import spread
    from eval.statistics.sign_flips import SignFlips

    assert len(firsts) == len(seconds) >= 1, "give both models with the same seeds"
    seeds, keys = len(firsts), _common(*firsts, *seconds)
    by_seed = [{key: a[key] - b[key] for key in keys} for a, b in zip(firsts, seconds, strict=True)]
    changes = by_seed[0] if seeds == 1 else _over_seeds(by_seed)
    of, counted = spread(changes, clips, tasks), scale is ACCURACY
    if seeds == 1:
        parts, flips = (), SignFlips(of.sums)
        low, high, p = _agreeing(*_interval(of, changes, tasks, scale), of.value, flips.p)
        most = sum(_shares(changes, tasks)) if counted else _most(changes, tasks)
    else:
        noise = noise or SeedNoise(variance(_mean(one, keys, tasks) for one in by_seed) / 2, seeds - 1)
        parts, flips = [(of.cautious_variance(), of.freedom), (2 * noise.variance / seeds, float(noise.freedom))], None
        half, bound = half_width(LEVEL, parts), 1.0 if counted else inf
        low, high, p = max(-bound, of.value - half), min(bound, of.value + half), p_of(of.value, parts)
        most = fmean(_most(one, tasks) for one in by_seed)
    ups, downs = (sum(sign * change > 0 for one in by_seed for change in one.values()) for sign in (1, -1))
    return Paired(
        n=len(keys),
        n_videos=of.clips,
        first=fmean(_mean(run, keys, tasks) for run in firsts),
        second=fmean(_mean(run, keys, tasks) for run in seconds),
        only_first=(ups if seeds == 1 else ups / seeds) if counted else None,
        only_second=(downs if seeds == 1 else downs / seeds) if counted else None,
        difference=of.value,
        low=low,
        high=high,
        mcnemar_p=_mcnemar(ups, downs) if counted and seeds == 1 else None,
        p=p,
        method="t over clips and seeds" if seeds > 1 else "Tango by clip" if counted else "t by clip",
        seeds=seeds,
        n_differing=of.changing,
        power=Power(of, flips, parts, most),
    )


def _interval(of: Spread, changes: Mapping[str, float], tasks: Tasks | None, scale: Scale) -> tuple[float, float]:
    """The interval of one pair of runs, before p has its say."""
    if scale is ACCURACY:
        up, down = _shares(changes, tasks)
        n = worth(of, up + down - of.value**2)
        return tango.interval(up * n, down * n, n, Z95)
    half = inf if of.clips < FEWEST_CLIPS else t_quantile(0.975, of.freedom) * sqrt(of.cautious_variance())
    return of.value - half, of.value + half


def equivalence(
    first: Mapping[str, float],
    second: Mapping[str, float],
    margin: float,
    clips: Clips | None = None,
    tasks: Tasks | None = None,
    scale: Scale = ACCURACY,
) -> Equivalence:
    """Whether two models differ by less than `margin`: the 90 % interval of the difference lies inside of it.

    By Tango's score test of as many independent questions as the clips are worth, for scores by Student's t over
    clips. Clips with several questions of which fewer than FEWEST_DIFFERING differ are too few to tell, unless
    even clips that change as a whole could not make the margin.
    """
    from scipy.special import ndtr

    from eval.statistics.clustered import spread

    changes = {key: first[key] - second[key] for key in _common(first, second)}
    of, counted = spread(changes, clips, tasks), scale is ACCURACY
    if counted:
        up, down = _shares(changes, tasks)
        n = worth(of, up + down - of.value**2)
        above, below = (tango.score(up * n, down * n, n, end) for end in (margin, -margin))
        p = float(max(ndtr(above), ndtr(-below)))
    else:
        p = _outside_of_scores(of, margin)
    few = of.clips < FEWEST_CLIPS or ((of.clustered or not counted) and of.differing < FEWEST_DIFFERING)
    return Equivalence(p, few and p >= LEVEL)


def _outside_of_scores(of: Spread, margin: float) -> float:
    from scipy.special import stdtr

    if of.clips < FEWEST_CLIPS:
        return 1.0
    error = sqrt(of.cautious_variance())
    if not error:
        return float(abs(of.value) >= margin)
    return float(max(stdtr(of.freedom, -(margin - of.value) / error), stdtr(of.freedom, -(margin + of.value) / error)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: under 0.05 the chance of any false alarm is 5 %."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, method="holm")[1]] if len(ps) else []


def _common(*runs: Mapping[str, float]) -> list[str]:
    keys = sorted(set.intersection(*map(set, runs)))
    assert keys, "runs without a common question cannot be compared"
    return keys


def _over_seeds(by_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    import numpy as np

    means = np.array([list(map(float, one.values())) for one in by_seed]).mean(axis=0)
    return dict(zip(by_seed[0], means.tolist(), strict=True))


def _mean(values: Mapping[str, float], keys: Iterable[str], tasks: Tasks | None) -> float:
    """The mean over these keys, or over tasks of their means."""
    if tasks is None:
        return fmean(values[key] for key in keys)
    parts: dict[Hashable, list[float]] = {}
    for key in keys:
        parts.setdefault(tasks[key], []).append(values[key])
    return fmean(map(fmean, parts.values()))


def _shares(changes: Mapping[str, float], tasks: Tasks | None) -> tuple[float, float]:
    """The shares of questions that changed for better and for worse; with `tasks` the means over tasks of theirs."""
    up, down = ({key: float(sign * change > 0) for key, change in changes.items()} for sign in (1, -1))
    return _mean(up, changes, tasks), _mean(down, changes, tasks)


def _most(changes: Mapping[str, float], tasks: Tasks | None) -> float:
    """What the difference would be if all changes were for the better."""
    return _mean({key: abs(change) for key, change in changes.items()}, changes, tasks)


def _agreeing(low: float, high: float, value: float, p: float) -> tuple[float, float, float]:
    """Interval and p of one test: where p is 5 % or more 0 lies inside, where it is less 0 lies outside."""
    least = 1e-9
    if p >= LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    elif value > 0:
        low = max(low, min(least, value))
    else:
        high = min(high, max(-least, value))
    return low, high, p


def _mcnemar(up: int, down: int) -> float:
    """Twice the smaller tail of the binomial distribution of the questions that differ."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))
