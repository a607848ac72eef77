"""What the levels of a series say together: fewest tokens, trend, a band around the curve, the next budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from eval.report.cells import curves, estimate
from eval.report.parts import Table
from eval.report.results import Cell
from eval.statistics.estimates import ACCURACY

if TYPE_CHECKING:
    import numpy as np

#: What one training costs, in answers: it is not known, so the best split is given for a cheap and a dear one.
TRAININGS = (1_000, 10_000)

#: What stands where `outcomes` has none.
NOTHING_SHARED = (
    "No training seed, or no question, is in every level: neither the fewest tokens nor a trend can be told. Train or "
    "answer the levels with the same seeds."
)


class Outcomes(NamedTuple):
    """A series on the questions and seeds that all of its levels have."""

    #: Right or wrong, Bool "seeds levels questions", the finest level first.
    right: np.ndarray
    #: The clip of each question.
    clips: list[str]
    #: Visual tokens and name of each level.
    tokens: list[int]
    names: list[str]
    seeds: list[int | None]


def outcomes(curve: Sequence[Cell]) -> Outcomes | None:
    """None where there is one level, or no seed or question that all levels have."""
    import numpy as np

    by_seed = [{seed: run.values() for seed, run in cell.by_seed.items()} for cell in curve]
    seeds = [seed for seed in by_seed[0] if all(seed in runs for runs in by_seed)]
    answers = [[runs[seed] for runs in by_seed] for seed in seeds]
    keys = sorted(set.intersection(*(set(run) for runs in answers for run in runs))) if answers else []
    if len(curve) < 2 or not keys:
        return None
    clips = curve[0].clips
    return Outcomes(
        np.array([[[bool(run[key]) for key in keys] for run in runs] for runs in answers]),
        [clips[key] for key in keys],
        [cell.visual_tokens for cell in curve],
        [f"level {cell.level:g} ({cell.visual_tokens:,} tokens)" for cell in curve],
        seeds,
    )


def level_tables(models: Sequence[Cell], margin: float | None) -> list[Table]:
    """A table for each series of two levels and more; `margin` is the share that fewer tokens may cost."""
    found = []
    for name, curve in curves(models).items():
        if together := outcomes(curve):
            rows = [*_fewest(together, margin), *_trend(together), *_budget(together), *_headline(curve)]
            found.append(Table(f"{name}: all levels together", _note(together), ["question", "answer"], rows))
            found.append(_band(name, curve, together))
        elif len(curve) > 1:
            found.append(Table(f"{name}: all levels together", NOTHING_SHARED, ["level", "seeds"], _seeds_of(curve)))
    return found


def _seeds_of(curve: Sequence[Cell]) -> list[list[str]]:
    return [[f"{cell.level:g}", ", ".join(map(str, cell.by_seed))] for cell in curve]


def _note(together: Outcomes) -> str:
    seeds = ", ".join("-" if seed is None else str(seed) for seed in together.seeds)
    return (
        f"One test each over all levels, of the {together.right.shape[2]:,} questions about "
        f"{len(set(together.clips)):,} clips that every level answered (seeds: {seeds}), each question weighing the "
        "same (in the mean of tasks each task does); clips are drawn as a whole. The methods and how often they err "
        "are in docs/statistics.md."
    )


def _fewest(together: Outcomes, margin: float | None) -> list[list[str]]:
    from eval.statistics.fewest_tokens import fewest_tokens, sentence

    question = "Fewest tokens that cost less than the margin"
    if margin is None:
        return [[question, "Name the points that you would give up, before looking: `report --margin`."]]
    found = fewest_tokens(together.right, together.clips, margin)
    return [[f"Fewest tokens that cost less than {100 * margin:g} points", sentence(found, together.names, margin)]]


def _trend(together: Outcomes) -> list[list[str]]:
    from eval.statistics.trend import sentence, trend

    if len(set(together.tokens)) < 2:
        return []
    return [["Trend over the levels", sentence(trend(together.right, together.clips, together.tokens))]]


def _budget(together: Outcomes) -> list[list[str]]:
    from eval.statistics.budget import components, sentences, splits

    found, questions = components(together.right, together.clips), together.right.shape[2]
    question = "More seeds or more questions next time"
    if found is None:
        return [[question, sentences(None, [], 0, 0)[0]]]
    told = []
    for training in TRAININGS:
        budget = 2 * (questions + training)
        luck, *split = sentences(found, splits(found, training, budget), training, budget)
        told += [luck, *split] if not told else split
    return [[question, " ".join(told)]]


def _headline(curve: Sequence[Cell]) -> list[list[str]]:
    """Tasks of unlike size: a row that keeps what all questions say from being taken for the mean of tasks."""
    if len({row.n for row in curve[0].rows()}) < 2:
        return []
    means = ", ".join(f"level {cell.level:g} {100 * estimate(cell, None).value:.1f} %" for cell in curve)
    said = "The tasks are of unlike size, so it can differ from the answers above, which are of all questions"
    return [["Mean of tasks", f"{said}: {means}."]]


def _band(name: str, curve: Sequence[Cell], together: Outcomes) -> Table:
    from eval.statistics.band import band

    rows = [
        [f"{cell.level:g}", f"{cell.visual_tokens:,}", ACCURACY.show(one.value),
         f"{ACCURACY.show(one.low)} to {ACCURACY.show(one.high)}"]
        for cell, one in zip(curve, band(together.right, together.clips), strict=True)
    ]  # fmt: skip
    note = (
        "Accuracy over all questions in %, with a band that holds the whole curve in 95 % of cases (max-t, by clips "
        "and seeds); the intervals of the other tables hold one number each."
    )
    return Table(f"{name}: simultaneous band", note, ["level", "visual tokens", "accuracy", "band"], rows)
