"""Reading the cells of a sweep: one cell is one model under one control, with its scores.

A cell holds experiment, adapter, level, visual_tokens, control and scores (`score.score`), and where they are known
flops and kv_bytes of a question (`flops.costs`); more is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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


#: What a question costs: what it is called, and its value in that unit or None where it is not known.
COSTS: dict[str, Callable[[Cell], float | None]] = {
    "GFLOP a question": lambda cell: _scaled(cell.get("flops"), 1e9),
    "seconds to the first token": lambda cell: cell["scores"]["overall"].get("seconds_to_first_token"),
    "key-value MB": lambda cell: _scaled(cell.get("kv_bytes"), 1e6),
}


def dominated(cells: Sequence[Cell], name: str) -> dict[str, Cell]:
    """Experiment -> the cheapest model that is as accurate for less, or more accurate for as much.

    Of the models with all frames whose cost `name`, a key of COSTS, is known; accuracy is the mean over tasks as
    measured.
    """
    points = [
        (cost, -estimate(cell, None).value, cell)
        for curve in curves(cells).values()
        for cell in curve
        if (cost := COSTS[name](cell)) is not None
    ]
    better: dict[str, Cell] = {}
    for cost, loss, cell in points:
        found = [p for p in points if p[0] <= cost and p[1] <= loss and p[:2] != (cost, loss)]
        if found:
            better[cell["experiment"]] = min(found, key=lambda point: point[:2])[2]
    return better


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


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
