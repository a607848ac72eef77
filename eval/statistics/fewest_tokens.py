"""The fewest visual tokens that cost less than a margin: each level against the finest, down to the first failure.

A test of non-inferiority: the upper 95 % bound of what a level loses against the finest (one-sided, 5 %) lies below the
margin. The levels are tested in a fixed order, from the finest to the coarsest, and the first failure ends it, so the
chance that any level is called good enough that is not is 5 % in all, without an adjustment.
Source: Maurer, Hothorn and Lehmacher, Biometrie in der chemisch-pharmazeutischen Industrie 6, 1995; Westfall and
Krishen, Journal of Statistical Planning and Inference 99, 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.statistics.contrast import Clips, Contrast, contrast, half, sample
from eval.statistics.paired import FEWEST_DIFFERING, TOO_FEW
from eval.statistics.tango import variance

#: One-sided level of each test.
ALPHA = 0.05


class Loss(NamedTuple):
    """What a level loses against the finest: finest - level, in the unit of the values."""

    value: float
    #: Its one-sided upper 95 % bound. `inf` where too few clips differ to say anything.
    at_most: float
    #: Clips in which the two differ.
    differing: int
    #: "score" (Tango's test with the clips' design effect), "t", or "exact" (few clips differ).
    method: str


class Fewest(NamedTuple):
    """The place of the coarsest level that costs less than the margin (0: no coarser one was shown to)."""

    place: int
    #: A row for each coarser level, from the finest on; those behind the first failure were not tested for the claim.
    losses: list[Loss]
    seeds: int
    n: int
    n_clips: int

    def failed(self) -> Loss | None:
        """The level that ended the sequence; None where every level passed."""
        return self.losses[self.place] if self.place < len(self.losses) else None


def fewest_tokens(values: np.ndarray, clips: Sequence[str], margin: float) -> Fewest:
    """The coarsest level of "seeds levels questions" that loses less than `margin` to the first, the finest.

    Values are Bool for right or wrong, the margin then a share between 0 and 1; or Float scores in their own unit. A
    name of its clip for each question. With one seed the claim is about these runs, not about their levels.
    """
    assert margin > 0, "a margin is above 0"
    of = Clips(clips)
    losses = [loss(values, of, place) for place in range(1, values.shape[1])]
    passed = np.logical_and.accumulate([one.at_most < margin for one in losses])
    return Fewest(int(passed.sum()), losses, len(values), values.shape[2], len(of))


def loss(values: np.ndarray, clips: Clips, place: int) -> Loss:
    """What the level at `place` loses against the first level."""
    weights = np.zeros(values.shape[1])
    weights[[0, place]] = 1, -1
    found = contrast(values, clips, weights)
    binary = values.dtype == bool
    if found.differing < FEWEST_DIFFERING:
        at_most, method = (_exact_bound(values, clips, place) if binary else float("inf")), "exact"
    elif binary:
        at_most, method = _score_bound(found, values, clips, place), "score"
    else:
        at_most, method = found.value + _half(found, found.of_clips), "t"
    return Loss(found.value, at_most, found.differing, method)


def sentence(found: Fewest, levels: Sequence[str], margin: float, unit: str = "points", factor: float = 100) -> str:
    """The result as a sentence to quote; `levels` are the names of all levels, `factor` makes `unit` of the values."""
    at = f"{factor * margin:g} {unit}"
    who = sample(found.n, found.n_clips, found.seeds)
    how = "non-inferiority in a fixed order from the finest level on, one-sided 5 %"
    stop = found.failed()
    ended = "" if stop is None else f" {_ended(stop, levels[found.place + 1], levels[0], unit, factor)}"
    if not found.place:
        return f"No level below {levels[0]} was shown to cost less than {at} ({who}; {how}).{ended}"
    last = found.losses[found.place - 1]
    return (
        f"{levels[found.place]} is the fewest tokens shown to cost less than {at} against {levels[0]}: it costs "
        f"{factor * last.value:.1f}, at most {factor * last.at_most:.1f} ({who}; {how}).{ended}"
    )


def _ended(stop: Loss, level: str, finest: str, unit: str, factor: float) -> str:
    if stop.method == "exact":
        clips = "1 clip differs" if stop.differing == 1 else f"{stop.differing} clips differ"
        return f"{level}: {TOO_FEW} ({clips} from {finest})."
    return (
        f"{level} costs {factor * stop.value:.1f} {unit}, and up to {factor * stop.at_most:.1f} cannot be excluded; "
        "coarser levels were not tested."
    )


def _half(found: Contrast, of_clips: float) -> float:
    """`Contrast.half` with another variance over clips; where few clips differ, they alone tell the spread."""
    freedom = min(found.clips_freedom, found.differing - 1)
    return half(ALPHA, of_clips, found.of_runs, found.in_both, freedom, found.runs_freedom)


def _exact_bound(values: np.ndarray, clips: Clips, place: int) -> float:
    """Upper bound where hardly a clip differs: the loss is no larger than the share of clips that lose at all.

    Clopper and Pearson's bound of that share, a clip being counted that loses with any seed; the largest clip's size
    over the mean one's makes it a bound for questions.
    """
    from scipy.stats import beta

    lost = clips.sums(values[:, 0].astype(float) - values[:, place]) > 0
    count, total = int(lost.any(axis=0).sum()), len(clips)
    share = float(beta.ppf(1 - ALPHA, count + 1, total - count)) if count < total else 1.0
    return min(1.0, share * float(clips.sizes.max() / clips.sizes.mean()))


def _score_bound(found: Contrast, values: np.ndarray, clips: Clips, place: int) -> float:
    """The largest loss that Tango's score test does not reject, its variance times the clips' design effect.

    Wald's bound is too low where losses are few: the variance grows with the loss that is tested.
    Source: Tango, Statistics in Medicine 17, 1998.
    """
    from scipy.optimize import brentq

    change = values[:, 0].astype(float) - values[:, place]
    n, lost, won = change.shape[1], float((change > 0).mean()), float((change < 0).mean())
    mean = change.mean(axis=0)
    design = max(1.0, found.of_clips / (mean.var() / n)) * mean.var() / (lost + won - found.value**2)

    def beyond(margin: float) -> float:
        return margin - found.value - _half(found, design * variance(lost, won, 1, margin) / n)

    return brentq(beyond, found.value, 1.0) if beyond(1.0) > 0 else 1.0
