"""What choosing the level for each question, or for each type of question, would be worth.

An oracle that is right wherever any level is has as many guesses as there are levels: it gains without any effect of
the level. So it is compared with as many runs whatever their level, and with choices of the level that are made on some
runs and scored on others. Outcomes are Bool "seeds levels questions", the levels from the most visual tokens to the
fewest; numbers are shares of the questions, means over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

from eval.statistics.contrast import Clips, Contrast, luck, of_changes
from eval.statistics.paired import FEWEST_DIFFERING

#: Parts of the clips that the choice by type leaves out in turn. More parts share the clips they choose on, and the
#: interval no longer knows how uncertain the choice is: with ten it is too narrow by a third, with two by a tenth.
FOLDS = 2


class Gain(NamedTuple):
    """A gain in accuracy with its 95 % interval and two-sided p (of the same t); None where too few clips differ."""

    value: float
    low: float | None
    high: float | None
    p: float | None


class Oracle(NamedTuple):
    """The oracle over levels and how much of its gain is real."""

    #: Right at any level; the place of the best single level, its accuracy, and by how much the oracle is above it.
    oracle: float
    best_level: int
    best_fixed: float
    gain: float
    #: Right in any of as many runs drawn from all levels and seeds, and by how much the oracle is above that. None for
    #: one seed, whose runs are one of each level.
    guesses: float | None
    excess: Gain | None
    #: What the levels gain that the functions of these names choose; None for one seed, and for one type.
    by_question: Gain | None
    by_type: Gain | None
    types: int

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {name: one._asdict() if isinstance(one, Gain) else one for name, one in self._asdict().items()}


def oracle(outcomes: np.ndarray, clips: Sequence[str], types: Sequence[str]) -> Oracle:
    """The oracle over levels, of a clip and a task for each question."""
    several, of = len(outcomes) > 1, Clips(clips)
    found, levels = outcomes.any(axis=1).mean(axis=0), outcomes.mean(axis=(0, 2))
    guesses = guessing(outcomes)
    return Oracle(
        oracle=float(found.mean()),
        best_level=int(levels.argmax()),
        best_fixed=float(levels.max()),
        gain=float(found.mean() - levels.max()),
        guesses=float(guesses.mean()) if several else None,
        excess=_gain(of_changes(found - guesses, of)) if several else None,
        by_question=_gain(gain(outcomes, *by_question(outcomes), of)) if several else None,
        by_type=_gain(gain(outcomes, *by_type(outcomes, of, types), of)) if len(set(types)) > 1 else None,
        types=len(set(types)),
    )


def _gain(found: Contrast) -> Gain:
    if found.differing < FEWEST_DIFFERING:
        return Gain(found.value, None, None, None)
    return Gain(*found.interval(), found.p)


def guessing(outcomes: np.ndarray) -> np.ndarray:
    """The chance that any of `levels` runs is right, drawn from all runs whatever their level: Float "questions".

    If the level has no effect the runs of a seed are such a draw, whatever the questions' difficulty and the runs'
    luck: the oracle is expected to be right as often.
    """
    seeds, levels, _ = outcomes.shape
    runs = seeds * levels
    chances = np.array([1 - comb(runs - right, levels) / comb(runs, levels) for right in range(runs + 1)])
    return chances[outcomes.sum(axis=(0, 1))]


def gain(outcomes: np.ndarray, chosen: np.ndarray, fixed: np.ndarray, clips: Clips) -> Contrast:
    """What the chosen levels gain over the fixed one, both Int "seeds questions". It can be below 0.

    The more of the questions a level has that is not the fixed one, the more of its runs' luck is in the gain.
    """
    seed, question = np.arange(len(outcomes))[:, None], np.arange(outcomes.shape[2])
    changes = outcomes[seed, chosen, question].astype(float) - outcomes[seed, fixed, question]
    levels = np.arange(outcomes.shape[1])[:, None, None]
    moved = (chosen == levels).mean(axis=2) - (fixed == levels).mean(axis=2)
    return of_changes(changes.mean(axis=0), clips, luck(outcomes, clips), float((moved**2).sum() / len(outcomes) ** 2))


def by_question(outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A level for each question and one fixed level, both chosen on all other seeds: Int "seeds questions" each.

    Of equal levels that with fewer tokens is chosen.
    """
    others = outcomes.sum(axis=0) - outcomes.astype(int)
    chosen, fixed = _last_best(others, axis=1), _last_best(others.sum(axis=2), axis=1)
    return chosen, np.broadcast_to(fixed[:, None], chosen.shape)


def by_type(outcomes: np.ndarray, clips: Clips, types: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A level for each type of question and one fixed level, for clips and seeds they were not chosen on.

    The clips are dealt into FOLDS parts. Both levels are chosen on the other parts and all other seeds; with one seed
    on the other parts of the same runs, whose luck is then in the gain. Returns as `by_question`.
    """
    kinds, kind = np.unique(np.asarray(types), return_inverse=True)
    fold = clips.dealt(FOLDS)
    cell = np.eye(len(kinds) * FOLDS)[kind * FOLDS + fold]
    chosen, fixed = _chosen_by_type((outcomes.astype(float) @ cell).reshape(*outcomes.shape[:2], len(kinds), FOLDS))
    return chosen[:, kind, fold], fixed[:, fold]


def _chosen_by_type(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The level of each type, Int "seeds types folds", and the fixed one, Int "seeds folds"; of sums of right ones.

    A type of which the other parts know no right answer takes the fixed level.
    """
    others = sums.sum(axis=0) - sums if len(sums) > 1 else sums
    others = others.sum(axis=3, keepdims=True) - others
    chosen, fixed = _last_best(others, axis=1), _last_best(others.sum(axis=2), axis=1)
    return np.where(others.any(axis=1), chosen, fixed[:, None]), fixed


def _last_best(values: np.ndarray, axis: int) -> np.ndarray:
    """Where the highest value stands; of equal ones the last, which has the fewest tokens."""
    return values.shape[axis] - 1 - np.flip(values, axis).argmax(axis=axis)
