"""Cells of a sweep put together: on their common questions, over their seeds, along their curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf, isfinite, isnan
from statistics import fmean

from eval.report.results import Cell, Numbers, TaskScore
from eval.statistics import seeds
from eval.statistics.estimates import ACCURACY, SCORE, Estimate, share
from eval.statistics.seeds import with_seed_noise

#: Groups that are known go first, from what survives any pooling to what needs many frames.
GROUP_ORDER = ("coarse", "middle", "fine", "temporal")


def fullest(cells: Sequence[Cell]) -> list[Cell]:
    """Of the answers of one run under one control those to the most questions: it may have been asked a few first."""
    best: dict[tuple, Cell] = {}
    for cell in cells:
        at = (cell.experiment, cell.control)
        if at not in best or len(cell.values()) > len(best[at].values()):
            best[at] = cell
    return list(best.values())


def on_common(cells: Sequence[Cell]) -> tuple[list[Cell], int]:
    """The cells on the questions that all models with all frames have, and how many there are in any of these.

    A control takes nothing from what the models are compared on: it is given on those of these questions that it was
    asked with every seed of its model. Counts of right, failed and all questions, accuracies and intervals are those
    of the questions that stay; what else a row says (chance, majority, seconds) stays that of all its questions.
    Without a common question cells stay as they are.
    """
    shown = [cell.values().keys() for cell in cells if cell.control is None]
    if not shown:
        return list(cells), 0
    common, every = set.intersection(*map(set, shown)), set.union(*map(set, shown))
    kept = {cell.model: set(common) for cell in cells}
    for cell in cells:
        if cell.control is not None:
            kept[cell.model] &= cell.values().keys()
    return [_only(cell, kept[cell.model]) for cell in cells], len(every)


def _only(cell: Cell, keys: set[str]) -> Cell:
    """The cell on these questions; as it is where it has no other, or none of them."""
    own = cell.values().keys()
    if own <= keys or not own & keys:
        return cell
    rows = {}
    for row in cell.rows():
        kept = {key: right for key, right in row.values.items() if key in keys}
        failed = sum(failure.key in keys for failure in row.failures)
        if kept:
            found = share(kept, row.clips)
            rows[row.name] = replace(row, n=len(kept), n_failed=failed, values=kept, estimate=found)
    return replace(cell, tasks=rows)


def over_seeds(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model and control: numbers are means over its seeds, intervals hold the noise of training.

    That noise is pooled over the levels of a series: each cell has `peers`, the runs of every level under its control.
    """
    models: dict[tuple, list[Cell]] = {}
    for cell in cells:
        models.setdefault(cell.model, []).append(cell)
    peers: dict[tuple, list[list[Cell]]] = {}
    for (name, _, control), runs in models.items():
        peers.setdefault((name, control), []).append(runs)
    return [_merged(runs, peers[name, control]) for (name, _, control), runs in models.items()]


def _merged(runs: Sequence[Cell], peers: Sequence[Sequence[Cell]]) -> Cell:
    first, *others = runs = sorted(runs, key=lambda run: (run.seed or 0, run.experiment))
    if not others:
        return replace(first, peers=peers)
    tasks = {
        task: _merged_row([run.tasks[task] for run in runs], peers, first.scale is ACCURACY)
        for task in first.tasks
        if all(task in run.tasks for run in runs)
    }
    name = re.sub(r"_seed\d+$", "", first.experiment)
    merged = replace(first, experiment=name, seed=None, runs=runs, peers=peers, tasks=tasks)
    if first.overall is None:
        return merged
    numbers = Numbers.means([run.overall for run in runs]) | {"estimate": estimate(merged, None)}
    return replace(merged, overall=Numbers(**numbers))


def _merged_row(rows: Sequence[TaskScore], peers: Sequence[Sequence[Cell]], counted: bool) -> TaskScore:
    """The rows of a task over seeds as one: the mean over them, of the questions that all of them have."""
    task, common = rows[0].name, set.intersection(*(set(row.values) for row in rows))
    values = {key: fmean(row.values[key] for row in rows) for key in sorted(common)}
    numbers = Numbers.means(rows) | {"n": len(common)}
    if counted:
        by_seed = [fmean(row.values[key] for key in common) for row in rows] if common else []
        found = share(values, rows[0].clips) if common else Estimate(0.0, 0.0, 1.0)
        noise = seeds.of_means([_means(runs, lambda run: run.rows(task=task), common) for runs in peers])
        numbers["estimate"] = with_seed_noise(found, by_seed, noise)
        assert 0 <= sum(values.values()) <= len(common) + 1e-9, f"{task}: {sum(values.values())} right"
    else:
        numbers["estimate"] = _mean_of_scores(task, [row.estimate for row in rows if row.values], peers)
    return replace(rows[0], values=values, **numbers)


def _mean_of_scores(task: str, found: Sequence[Estimate], peers: Sequence[Sequence[Cell]]) -> Estimate:
    """Of runs whose judge may have left unlike answers without a score: the mean of their own means."""
    if not found:
        return Estimate(float("nan"), -inf, inf)
    whole = Estimate(*(fmean(part) for part in zip(*found, strict=True)))
    if not isfinite(whole.high - whole.low):
        return whole._replace(low=-inf, high=inf)
    rows = [[run.tasks[task] for run in runs if task in run.tasks] for runs in peers]
    noise = seeds.of_means([[row.estimate.value for row in level if row.values] for level in rows])
    return with_seed_noise(whole, [one.value for one in found], noise, SCORE)


def _means(runs: Sequence[Cell], rows: Callable[[Cell], Sequence[TaskScore]], keys: set[str]) -> list[float]:
    """The mean over tasks of each run's means on these questions; of the runs that have all of them."""
    found = []
    for run in runs:
        parts = [[value for key, value in row.values.items() if key in keys] for row in rows(run)]
        if sum(map(len, parts)) == len(keys) and keys:
            found.append(fmean(fmean(part) for part in parts if part))
    return found


def pooled_noise(
    first: Cell, second: Cell, common: Sequence[int | None], rows: Callable[[Cell], Sequence[TaskScore]], keys: set[str]
) -> seeds.SeedNoise | None:
    """The luck of one training, pooled over the levels that have all of these seeds; None of unlike series.

    A seed that is better at every level of one series need not be so in another, so these have their own pair alone.
    """
    if len(common) < 2 or first.series != second.series:
        return None
    means = []
    for runs in first.peers:
        found = {run.seed: run for run in runs}
        of_seeds = _means([found[seed] for seed in common if seed in found], rows, keys)
        if len(of_seeds) == len(common):
            means.append(of_seeds)
    return seeds.of_differences(means)


def estimate(cell: Cell, group: str | None) -> Estimate:
    """The mean over the tasks of `group` (all tasks for None), each task weighing the same.

    The interval respects clips, those that several tasks share among them, and holds the seeds' noise.
    """
    if cell.scale is SCORE:
        (row,) = cell.rows(group)
        return row.estimate
    runs = list(cell.by_seed.values())
    answers = [run.values(group) for run in runs]
    common = set.intersection(*map(set, answers))
    right = {key: fmean(run[key] for run in answers) for key in common}
    found = share(right, runs[0].clips, runs[0].task_of(group))
    if len(runs) < 2:
        return found
    of_levels = [_means(peers, lambda run: run.rows(group), common) for peers in cell.peers]
    of_seeds = _means(runs, lambda run: run.rows(group), common)
    return with_seed_noise(found, of_seeds, seeds.of_means(of_levels))


def seeds_said(cells: Sequence[Cell], of_tests: bool = False) -> str:
    """What the reader has to know about seeds: whether the noise of training is in the numbers.

    Models are means over all of their seeds, tests over those that both sides have.
    """
    counts = sorted({len(cell.by_seed) for cell in cells})
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
    first = {cell.series: i for i, cell in reversed(list(enumerate(cells)))}
    return sorted(cells, key=lambda cell: (first[cell.series], cell.level, cell.control or ""))


def curves(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Series -> its cells with all frames, from the finest level to the coarsest."""
    shown = [cell for cell in in_order(cells) if cell.control is None]
    return {name: list(group) for name, group in groupby(shown, key=lambda cell: cell.series)}


def with_control(cells: Sequence[Cell], cell: Cell, control: str) -> Cell | None:
    """The same model as `cell` under `control`, or None where nobody asked it."""
    return next((one for one in cells if (one.experiment, one.control) == (cell.experiment, control)), None)


def tasks(cells: Sequence[Cell]) -> list[str]:
    """Every task, grouped, in the order of GROUP_ORDER and then as the cells have them."""
    found = {row.name: row.group for cell in cells for row in cell.rows()}
    order = groups(cells)
    return sorted(found, key=lambda name: order.index(found[name]))


def groups(cells: Sequence[Cell]) -> list[str]:
    """Every group of tasks; where nobody groups them each task is its own."""
    found = dict.fromkeys(row.group for cell in cells for row in cell.rows())
    return [g for g in GROUP_ORDER if g in found] + [g for g in found if g not in GROUP_ORDER]


def are_grouped(cells: Sequence[Cell]) -> bool:
    """Whether groups say more than the tasks themselves."""
    return len(groups(cells)) < len(tasks(cells))


def has_mean(row: TaskScore | None) -> bool:
    return row is not None and not isnan(row.estimate.value)


#: What a question costs: what it is called, and its value in that unit or None where it is not known.
COSTS: dict[str, Callable[[Cell], float | None]] = {
    "GFLOP a question": lambda cell: cell.flops and cell.flops / 1e9,
    "seconds to the first token": lambda cell: cell.overall.seconds_to_first_token,
    "KV cache (MB)": lambda cell: cell.kv_bytes and cell.kv_bytes / 1e6,
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
            better[cell.experiment] = min(found, key=lambda point: point[:2])[2]
    return better
