"""Quantiles that intervals, tests and their power share. SciPy is imported where it is used."""

from __future__ import annotations

#: Standard normal quantiles of a two-sided 95 % interval, and of 80 % power.
Z95, Z80 = 1.959963984540054, 0.8416212335729143


def t_quantile(share: float, freedom: float) -> float:
    """Student's quantile; that of the normal distribution where `freedom` is infinite."""
    from scipy.special import stdtrit

    return float(stdtrit(min(freedom, 1e9), share))
