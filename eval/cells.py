"""Reading the cells of a sweep: one cell is one model under one control, with its scores.

A cell holds experiment, adapter, level, visual_tokens, control and scores (`score.score`); more is left
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from eval.stats import Estimate, mean_share

Cell = Mapping[str, Any]

#: Groups that are known go first, from what survives any pooling to what needs many frames.
GROUP_ORDER = ("coarse", "middle", "fine", "temporal")


def series(cell: Cell) -> str:
    """What stays the same along one curve: the experiment's name without its level."""
    return re.sub(r"_pool[\d.]+$", "", cell["experiment"])


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """By series in the order given, then by level, then all frames before the controls."""
    first = {name: i for i, name in reversed(list(enumerate(map(series, cells))))}
    return sorted(cells, key=lambda cell: (first[series(cell)], cell["level"], cell["control"] or ""))


def curves(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Series -> its cells with all frames, from the finest level to the coarsest."""
    shown = [cell for cell in in_order(cells) if cell["control"] is None]
    return {name: list(group) for name, group in groupby(shown, key=series)}


def with_control(cells: Sequence[Cell], cell: Cell, control: str) -> Cell | None:
    """The same model as `cell` under `control`, or None where nobody asked it."""
    name = cell["experiment"]
    return next((c for c in cells if c["experiment"] == name and c["control"] == control), None)


def tasks(cells: Sequence[Cell]) -> list[str]:
    """Every task, grouped, in the order of GROUP_ORDER and then as the cells have them."""
    found = {name: row["group"] for cell in cells for name, row in cell["scores"]["tasks"].items()}
    order = groups(cells)
    return sorted(found, key=lambda name: order.index(found[name]))


def groups(cells: Sequence[Cell]) -> list[str]:
    """Every group of tasks; where nobody groups them each task is its own."""
    found = dict.fromkeys(row["group"] for cell in cells for row in cell["scores"]["tasks"].values())
    return [g for g in GROUP_ORDER if g in found] + [g for g in found if g not in GROUP_ORDER]


def are_grouped(cells: Sequence[Cell]) -> bool:
    """Whether groups say more than the tasks themselves."""
    return len(groups(cells)) < len(tasks(cells))


def rows_of(cell: Cell, group: str | None) -> dict[str, Mapping[str, Any]]:
    """Task -> scores for the tasks of `group`; all tasks for None."""
    return {n: row for n, row in cell["scores"]["tasks"].items() if group in (None, row["group"])}


def estimate(cell: Cell, group: str | None) -> Estimate:
    """The mean accuracy over the tasks of `group` (all tasks for None), each task weighing the same."""
    return mean_share([(row["right"], row["n"]) for row in rows_of(cell, group).values()])


def mean_of(cell: Cell, group: str | None, name: str) -> float:
    """The mean of the field `name` (chance, majority, ...) over the tasks of `group`."""
    rows = rows_of(cell, group).values()
    return sum(row[name] for row in rows) / len(rows)


def correct(cell: Cell, group: str | None) -> dict[str, bool]:
    """Question key -> right or wrong, for paired tests."""
    return {key: right for row in rows_of(cell, group).values() for key, right in row["correct"].items()}


def neighbours(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell, Cell]]:
    """What is to be compared: neighbouring levels of each series, then each later series with the first."""
    all_curves = curves(cells)
    for name, curve in all_curves.items():
        for fine, coarse in pairwise(curve):
            yield f"{name}: level {fine['level']:g} - level {coarse['level']:g}", fine, coarse
    first_name, *later = all_curves
    for name in later:
        for one in all_curves[first_name]:
            for other in all_curves[name]:
                if one["level"] == other["level"]:
                    yield f"level {one['level']:g}: {first_name} - {name}", one, other
