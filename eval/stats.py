"""Intervals, paired tests and what a benchmark can resolve. Counts in, numbers between 0 and 1 out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

#: Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054
#: Standard normal quantile of 80 % power.
Z80 = 0.8416212335729143


class Estimate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """Two models on the same questions: `difference` = first - second, with its 95 % interval and exact p."""

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def wilson(right: int, n: int) -> Estimate:
    """The share `right / n` with its Wilson 95 % interval."""
    from scipy.stats import binomtest

    low, high = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return Estimate(right / n, float(low), float(high))


def mean_share(counts: Sequence[tuple[int, int]]) -> Estimate:
    """The unweighted mean of the shares `right / n` with a 95 % interval.

    The interval is built from the Wilson intervals of the parts (MOVER: Zou and Donner, Statistics in
    Medicine 2008).
    """
    parts = [wilson(right, n) for right, n in counts]
    value = sum(part.value for part in parts) / len(parts)
    below = sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def compare(first: Mapping[str, bool], second: Mapping[str, bool]) -> Paired:
    """McNemar's exact test on the questions that both answered, given as key -> right or wrong.

    The interval of the difference is Bonett and Price's adjusted Wald interval (2012), which holds at small
    counts.
    """
    from scipy.stats import binomtest

    common = first.keys() & second.keys()
    assert common, "two runs without a common question cannot be compared"
    b = sum(bool(first[key]) > bool(second[key]) for key in common)
    c = sum(bool(first[key]) < bool(second[key]) for key in common)
    n = len(common)
    up, down = (b + 1) / (n + 2), (c + 1) / (n + 2)
    margin = Z95 * sqrt((up + down - (up - down) ** 2) / (n + 2))
    p = float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    low, high = max(-1.0, up - down - margin), min(1.0, up - down + margin)
    return Paired(n, b, c, (b - c) / n, low, high, p)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: under 0.05 the chance of any false alarm is 5 %."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def above(right: int, n: int, share: float) -> float:
    """One-sided exact p of seeing `right` of `n` or more where the true share is `share`."""
    from scipy.stats import binomtest

    return float(binomtest(right, n, share, alternative="greater").pvalue)


def margin(accuracy: float, n: int) -> float:
    """Half the 95 % interval of one accuracy: 0.015 for 0.55 of 4,000."""
    return Z95 * sqrt(accuracy * (1 - accuracy) / n)


def detectable(n: int, discordance: float) -> float:
    """The smallest paired difference on `n` questions that a test at 5 % finds with 80 % power.

    `discordance` is the share of questions on which exactly one of the two is right.
    """
    return (Z95 + Z80) * sqrt(discordance / n)
