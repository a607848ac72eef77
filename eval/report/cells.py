"""Reading the cells of a sweep: one cell is one model under one control, with its scores.

A cell holds experiment, adapter, level, visual_tokens, control and scores (`score.score`), and where they are known
seed, num_frames, random, flops and kv_bytes of a question (`flops.costs`); more is left alone. Of a model that was
trained with several seeds there is a cell for each, until `over_seeds` makes them one that holds them as `runs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from statistics import fmean
from typing import Any, NamedTuple

from eval.statistics import seeds
from eval.statistics.estimates import Estimate, share
from eval.statistics.paired import Paired, compare_seeds
from eval.statistics.seeds import SeedNoise, with_seed_noise

Cell = Mapping[str, Any]

#: Groups that are known go first, from what survives any pooling to what needs many frames.
GROUP_ORDER = ("coarse", "middle", "fine", "temporal")


def series(cell: Cell) -> str:
    """What stays the same along one curve: the experiment's name without its level and seed."""
    return re.sub(r"(_pool[\d.]+)?(_seed\d+)?$", "", cell["experiment"])


def runs_of(cell: Cell) -> list[Cell]:
    """The runs of a model, one for each seed."""
    return cell.get("runs") or [cell]


def fullest(cells: Sequence[Cell]) -> list[Cell]:
    """Of the answers of one run under one control those to the most questions: it may have been asked a few first."""
    best: dict[tuple, Cell] = {}
    for cell in cells:
        at = (cell["experiment"], cell["control"])
        if at not in best or _size(cell) > _size(best[at]):
            best[at] = cell
    return list(best.values())


def _size(cell: Cell) -> int:
    return len(correct(cell, None))


def on_common(cells: Sequence[Cell]) -> tuple[list[Cell], int]:
    """The cells on the questions that all models with all frames have, and how many there are in any of these.

    A control takes nothing from what the models are compared on: it is given on those of these questions that it was
    asked with every seed of its model. Counts of right, failed and all questions, accuracies and intervals are those
    of the questions that stay; what else a row says (chance, majority, seconds) stays that of all its questions.
    Without a common question cells stay as they are.
    """
    shown = [correct(cell, None).keys() for cell in cells if cell["control"] is None]
    if not shown:
        return list(cells), 0
    common, every = set.intersection(*map(set, shown)), set.union(*map(set, shown))
    kept = {_model(cell): set(common) for cell in cells}
    for cell in cells:
        if cell["control"] is not None:
            kept[_model(cell)] &= correct(cell, None).keys()
    return [_only(cell, kept[_model(cell)]) for cell in cells], len(every)


def _model(cell: Cell) -> tuple[str, float, str | None]:
    """What the runs of all its seeds have alike."""
    return series(cell), cell["level"], cell["control"]


def _only(cell: Cell, keys: set[str]) -> Cell:
    """The cell on these questions; as it is where it has no other, or none of them."""
    own = correct(cell, None).keys()
    if own <= keys or not own & keys:
        return cell
    rows = {}
    for task, row in cell["scores"]["tasks"].items():
        kept = {key: right for key, right in row["correct"].items() if key in keys}
        if kept:
            failed = sum(failure["key"] in keys for failure in row["failures"])
            counts = {"n": len(kept), "right": sum(kept.values()), "n_failed": failed, "correct": kept}
            rows[task] = row | counts | _accuracy(kept, row.get("videos"))
    return {**cell, "scores": {**cell["scores"], "tasks": rows}}


def _accuracy(right: Mapping[str, float], clips: Mapping[str, str] | None) -> dict[str, float]:
    found = share(right, clips or None)
    return {"accuracy": found.value, "ci_low": found.low, "ci_high": found.high}


def over_seeds(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model and control: numbers are means over its seeds, intervals hold the noise of training.

    That noise is pooled over the levels of a series: each cell has `peers`, the runs of every level under its control.
    """
    models: dict[tuple, list[Cell]] = {}
    for cell in cells:
        models.setdefault(_model(cell), []).append(cell)
    peers: dict[tuple, list[list[Cell]]] = {}
    for (name, _, *control), runs in models.items():
        peers.setdefault((name, *control), []).append(runs)
    return [_merged(runs, peers[name, *control]) for (name, _, *control), runs in models.items()]


def _merged(runs: Sequence[Cell], peers: Sequence[Sequence[Cell]]) -> Cell:
    first, *others = runs = sorted(runs, key=lambda run: (run.get("seed") or 0, run["experiment"]))
    if not others:
        return {**first, "peers": peers}
    held = [run["scores"]["tasks"] for run in runs]
    tasks = {
        task: _merged_row(task, [rows[task] for rows in held], peers)
        for task in held[0]
        if all(task in rows for rows in held)
    }
    overall = _mean_of([run["scores"]["overall"] for run in runs])
    name = re.sub(r"_seed\d+$", "", first["experiment"])
    scores = {**first["scores"], "overall": overall, "tasks": tasks}
    merged = {**first, "experiment": name, "seed": None, "runs": runs, "peers": peers, "scores": scores}
    found = estimate(merged, None)
    overall["macro"] = {"accuracy": found.value, "ci_low": found.low, "ci_high": found.high}
    return merged


def _merged_row(task: str, rows: Sequence[Mapping[str, Any]], peers: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """The rows of a task over seeds as one: the mean over them, of the questions that all of them have."""
    common = set.intersection(*(set(row["correct"]) for row in rows))
    right = {key: fmean(row["correct"][key] for row in rows) for key in sorted(common)}
    by_seed = [fmean(row["correct"][key] for key in common) for row in rows] if common else []
    found = share(right, rows[0].get("videos") or None) if common else Estimate(0.0, 0.0, 1.0)
    noise = seeds.of_means([_means(runs, lambda run: _rows_of_task(run, task), common) for runs in peers])
    whole = with_seed_noise(found, by_seed, noise)
    counts = {"n": len(common), "right": sum(right.values())}
    assert 0 <= counts["right"] <= counts["n"] + 1e-9, f"{task}: {counts['right']} right of {counts['n']}"
    return _mean_of(rows) | counts | {"accuracy": whole.value, "ci_low": whole.low, "ci_high": whole.high}


def _rows_of_task(run: Cell, task: str) -> list[Mapping[str, Any]]:
    return [row for name, row in run["scores"]["tasks"].items() if name == task]


def _means(runs: Sequence[Cell], rows: Callable[[Cell], Sequence[Mapping[str, Any]]], keys: set[str]) -> list[float]:
    """The mean over tasks of each run's accuracies on these questions; of the runs that have all of them."""
    found = []
    for run in runs:
        parts = [{k: r for k, r in row["correct"].items() if k in keys} for row in rows(run)]
        if sum(map(len, parts)) == len(keys) and keys:
            found.append(fmean(fmean(part.values()) for part in parts if part))
    return found


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers become means, a number that one row lacks is not known; the rest is the first row's."""
    first = dict(rows[0])
    for name, value in first.items():
        values = [row[name] for row in rows]
        if isinstance(value, Mapping) and name in ("macro", "micro"):
            first[name] = _mean_of(values)
        elif all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
            first[name] = fmean(values)
        elif isinstance(value, int | float):
            first[name] = None
    return first


def seeds_said(cells: Sequence[Cell], of_tests: bool = False) -> str:
    """What the reader has to know about seeds: whether the noise of training is in the numbers.

    Models are means over all of their seeds, tests over those that both sides have.
    """
    counts = sorted({len(runs_of(cell)) for cell in cells})
    if counts[-1] == 1:
        return "One training seed: the noise of training is not in these numbers, so a difference is one of two runs."
    if of_tests:
        return "Each number is the mean over the seeds in its row, which both have; one seed does not tell its luck."
    span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[-1]}"
    return (
        f"Each number is the mean of {span} seeds of fine-tuning. Their noise is in the intervals, pooled over the "
        "levels of a series."
    )


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
    """The mean accuracy over the tasks of `group` (all tasks for None), each task weighing the same.

    The interval respects clips, those that several tasks share among them, and holds the seeds' noise.
    """
    runs = runs_of(cell)
    answers = [correct(run, group) for run in runs]
    common = set.intersection(*map(set, answers))
    tasks, clips = _tasks_of(runs[0], group), clips_of(runs[0])
    right = {key: fmean(run[key] for run in answers) for key in common}
    found = share(right, clips, tasks)
    if len(runs) < 2:
        return found
    by_level = [_means(peers, lambda run: list(rows_of(run, group).values()), common) for peers in cell["peers"]]
    by_seed = _means(runs, lambda run: list(rows_of(run, group).values()), common)
    return with_seed_noise(found, by_seed, seeds.of_means(by_level))


def _tasks_of(cell: Cell, group: str | None) -> dict[str, str]:
    return {key: task for task, row in rows_of(cell, group).items() for key in row["correct"]}


def clips_of(cell: Cell) -> dict[str, str] | None:
    """Question -> clip over all tasks; None where nobody kept them, so that each question is a clip of its own."""
    found = {key: clip for row in rows_of(cell, None).values() for key, clip in row.get("videos", {}).items()}
    return found or None


def n_clips(cell: Cell, group: str | None, task: str | None = None) -> int:
    """How many clips the questions of a group, or of one task, are about."""
    rows = _rows_of_task(cell, task) if task else rows_of(cell, group).values()
    return len({row.get("videos", {}).get(key, key) for row in rows for key in row["correct"]})


def mean_of(cell: Cell, group: str | None, name: str) -> float:
    """The mean of the field `name` (chance, majority, ...) over the tasks of `group`."""
    rows = rows_of(cell, group).values()
    return sum(row[name] for row in rows) / len(rows)


def correct(cell: Cell, group: str | None) -> dict[str, bool]:
    """Question key -> right or wrong, for paired tests."""
    return {key: right for row in rows_of(cell, group).values() for key, right in row["correct"].items()}


class Comparison(NamedTuple):
    """Two models on the same questions."""

    paired: Paired
    #: The same without the questions that a run failed at; None where none did.
    readable: Paired | None
    #: The seeds that both have.
    seeds: tuple[int | None, ...]


def paired(first: Cell, second: Cell, group: str | None = None, task: str | None = None) -> Comparison | None:
    """The two models on the tasks of a group, each weighing the same, or on one task; None without a common question.

    Over the seeds that both have. Their noise is pooled over the levels of a series that have them all.
    """

    def rows(run: Cell) -> list[Mapping[str, Any]]:
        return _rows_of_task(run, task) if task else list(rows_of(run, group).values())

    def by_seed(cell: Cell) -> dict[int | None, Cell]:
        return {run.get("seed"): run for run in runs_of(cell)}

    one, other = by_seed(first), by_seed(second)
    common = tuple(seed for seed in one if seed in other)
    runs = [side[seed] for side in (one, other) for seed in common]
    answers = {id(run): {k: right for row in rows(run) for k, right in row["correct"].items()} for run in runs}
    keys = set.intersection(*map(set, answers.values())) if runs else set()
    if not keys:
        return None
    failed = {failure["key"] for run in runs for row in rows(run) for failure in row.get("failures", ())} & keys
    clips = clips_of(runs[0])
    of_task = None if task else {key: name for name, row in rows_of(runs[0], group).items() for key in row["correct"]}

    def compared(kept: set[str]) -> Paired:
        sides = [[{k: answers[id(side[seed])][k] for k in kept} for seed in common] for side in (one, other)]
        return compare_seeds(*sides, clips, of_task, _noise(first, second, common, rows, kept))

    return Comparison(compared(keys), compared(keys - failed) if failed and keys - failed else None, common)


def _noise(
    first: Cell,
    second: Cell,
    common: Sequence[int | None],
    rows: Callable[[Cell], Sequence[Mapping[str, Any]]],
    keys: set[str],
) -> SeedNoise | None:
    """The luck of one training, pooled over the levels that have all of these seeds; None of unlike series.

    A seed that is better at every level of one series need not be so in another, so these have their own pair alone.
    """
    if len(common) < 2 or series(first) != series(second):
        return None
    means = []
    for runs in first["peers"]:
        found = {run.get("seed"): run for run in runs}
        of_seeds = _means([found[seed] for seed in common if seed in found], rows, keys)
        if len(of_seeds) == len(common):
            means.append(of_seeds)
    return seeds.of_differences(means)


#: What a question costs: what it is called, and its value in that unit or None where it is not known.
COSTS: dict[str, Callable[[Cell], float | None]] = {
    "GFLOP a question": lambda cell: _scaled(cell.get("flops"), 1e9),
    "seconds to the first token": lambda cell: cell["scores"]["overall"].get("seconds_to_first_token"),
    "KV cache (MB)": lambda cell: _scaled(cell.get("kv_bytes"), 1e6),
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


def pairs(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell, Cell]]:
    """What is to be compared: all levels of each series, the finer one first, then each later series with the first."""
    all_curves = curves(cells)
    for name, curve in all_curves.items():
        for fine, coarse in combinations(curve, 2):
            yield f"{name}: level {fine['level']:g} - level {coarse['level']:g}", fine, coarse
    first_name, *later = all_curves or [None]
    for name in later:
        for one in all_curves[first_name]:
            for other in all_curves[name]:
                if one["level"] == other["level"]:
                    yield f"level {one['level']:g}: {first_name} - {name}", one, other
