"""Tango's score interval for the difference of two paired shares, for counts that need not be whole."""

from __future__ import annotations

from math import sqrt

#: Halvings of an interval of length 2: the limits are exact to 1e-15.
HALVINGS = 52


def score(up: float, down: float, n: float, difference: float) -> float:
    """How many standard errors the measured difference lies above `difference`.

    `up` and `down` of `n` questions change for better and for worse; the error is that under `difference`, at the
    likeliest shares. Infinite where it could not be measured at all. Source: Tango, Statistics in Medicine 1998.
    """
    spread = variance(up, down, n, difference)
    off = up - down - n * difference
    if spread <= 1e-12 * n:
        return 0.0 if abs(off) <= 1e-9 * n else (float("inf") if off > 0 else -float("inf"))
    return off / sqrt(spread)


def variance(up: float, down: float, n: float, difference: float) -> float:
    """Of `up` - `down` if the true difference of the shares were `difference`, at the likeliest shares then."""
    a = 2 * n
    b = -up - down + (2 * n - up + down) * difference
    c = -down * difference * (1 - difference)
    share = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    return n * (2 * share + difference * (1 - difference))


def interval(up: float, down: float, n: float, z: float) -> tuple[float, float]:
    """The differences that the score test does not refuse at the normal quantile `z`, between -1 and 1."""
    return -_limit(down, up, n, z), _limit(up, down, n, z)


def _limit(up: float, down: float, n: float, z: float) -> float:
    """The largest difference that is not refused."""
    low, high = (up - down) / n, 1.0
    if -score(up, down, n, high) < z:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if -score(up, down, n, middle) < z else (low, middle)
    return low
