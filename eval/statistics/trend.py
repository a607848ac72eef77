"""One test over all levels: whether accuracy falls as visual tokens do.

The linear contrast of the logarithm of the tokens: by how much a value changes when the tokens are halved. One test of
all levels needs no adjustment for pairs, and finds a steady fall that no pair of neighbours shows.
Source: the linear trend of repeated measures, as in Landis, Heyman and Koch, International Statistical Review 46, 1978;
exact where few clips differ by turning whole clips round (Fisher, The Design of Experiments, 1935).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.statistics.contrast import Clips, contrast, sample
from eval.statistics.estimates import LEVEL
from eval.statistics.paired import FEWEST_DIFFERING
from eval.statistics.sign_flips import SignFlips


class Trend(NamedTuple):
    """What a halving of the visual tokens changes, in the unit of the values; below 0 it costs."""

    per_halving: float
    #: 95 % interval; infinite where too few clips differ.
    low: float
    high: float
    #: Two-sided p of no trend.
    p: float
    #: "t", or "sign flips" where fewer than FEWEST_DIFFERING clips differ.
    method: str
    levels: int
    seeds: int
    n: int
    n_clips: int


def trend(values: np.ndarray, clips: Sequence[str], tokens: Sequence[float]) -> Trend:
    """The trend of "seeds levels questions" over the tokens of each level, with a clip's name for each question.

    With one seed p is that of these runs; with several the luck of training is in interval and p.
    """
    assert len(tokens) == values.shape[1] and len(set(tokens)) > 1, "give the visual tokens of each level, unlike ones"
    of, halvings = Clips(clips), -np.log2(tokens)
    centred = halvings - halvings.mean()
    weights = centred / (centred**2).sum()
    found = contrast(values, of, weights)
    _, low, high = found.interval()
    p, method = found.p, "t"
    if found.differing < FEWEST_DIFFERING:
        sums = of.sums(np.tensordot(weights, values.mean(axis=0), axes=1))
        # Turning clips round does not know the luck of training, which the t test of several seeds does.
        p = max(SignFlips(sums).p, found.p if len(values) > 1 else 0.0)
        low, high, method = -np.inf, np.inf, "sign flips"
    return Trend(found.value, low, high, p, method, values.shape[1], len(values), values.shape[2], len(of))


def sentence(found: Trend, unit: str = "points", factor: float = 100) -> str:
    """The result as a sentence to quote; `factor` makes `unit` of the values."""
    test = "exact by sign flips of whole clips" if found.method == "sign flips" else "t test by clips"
    asked = sample(found.n, found.n_clips, found.seeds)
    tested = f"linear trend over {found.levels} levels, {test}, {asked}"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    between = f" ({factor * found.low:+.2f} to {factor * found.high:+.2f})" if np.isfinite(found.low) else ""
    change = f"{factor * found.per_halving:+.2f} {unit}{between} for each halving of the visual tokens, {p}"
    if found.p >= LEVEL:
        return f"No trend over the visual tokens shown: {change} ({tested})."
    return f"Accuracy {'falls' if found.per_halving < 0 else 'rises'} with fewer visual tokens: {change} ({tested})."
