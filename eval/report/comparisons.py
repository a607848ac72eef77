"""Paired tests between the models of a sweep, by accuracies or by a judge's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import median

from eval.report.cells import curves, pooled_noise
from eval.report.results import Cell, TaskScore
from eval.statistics.estimates import ACCURACY, LEVEL, Scale
from eval.statistics.paired import Paired, compare_seeds, holm


@dataclass(frozen=True)
class Test:
    """One comparison of two models; `adjusted` is its p after Holm over all `family_size` comparisons of its family."""

    family: str
    label: str
    first: str
    second: str
    #: The task, the group, or the aspect that was judged.
    questions: str
    paired: Paired
    #: The same without the questions that a run failed at; None where none did.
    readable: Paired | None
    #: The seeds that were compared, and how many either model has.
    seeds: tuple[int | None, ...]
    of_seeds: tuple[int, int]
    scale: Scale = ACCURACY
    adjusted: float = 1.0
    family_size: int = 1

    @property
    def verdict(self) -> str:
        """With one seed it is a run that is better, and not yet a level."""
        what = "" if self.paired.seeds > 1 else " run"
        return self.paired.verdict(self.adjusted, (f"first{what} is better", f"second{what} is better"))

    @property
    def shown(self) -> bool:
        """Whether there is more than chance."""
        return self.adjusted < LEVEL

    @property
    def detectable(self) -> float:
        """The minimum detectable difference at the level that Holm leaves to the first of the family."""
        return self.paired.detectable_at(LEVEL / self.family_size)


def pairs(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell, Cell]]:
    """What is to be compared: all levels of each series, the finer one first, then each later series with the first."""
    all_curves = curves(cells)
    for name, curve in all_curves.items():
        for fine, coarse in combinations(curve, 2):
            yield f"{name}: level {fine.level:g} - level {coarse.level:g}", fine, coarse
    first_name, *later = all_curves or [None]
    for name in later:
        for one in all_curves[first_name]:
            for other in all_curves[name]:
                if one.level == other.level:
                    yield f"level {one.level:g}: {first_name} - {name}", one, other


#: Name of the questions -> the group or the task that they are.
Parts = Mapping[str, tuple[str | None, str | None]]


def compared(models: Sequence[Cell], families: Mapping[str, Parts]) -> list[Test]:
    """Every pair of models by all parts of each family, adjusted over the family."""
    tests: list[Test] = []
    for family, parts in families.items():
        found = [
            replace(test, family=family, label=label, questions=name)
            for label, first, second in pairs(models)
            for name, (group, task) in parts.items()
            if (test := paired(first, second, group, task))
        ]
        adjusted = holm([test.paired.p for test in found])
        tests += [replace(test, adjusted=p, family_size=len(found)) for test, p in zip(found, adjusted, strict=True)]
    return tests


def paired(first: Cell, second: Cell, group: str | None = None, task: str | None = None) -> Test | None:
    """The two models on the tasks of a group, each weighing the same, or on one task; None without a common question.

    Over the seeds that both have. Their noise is pooled over the levels of a series that have them all.
    """

    def rows(run: Cell) -> list[TaskScore]:
        return run.rows(group, task)

    one, other = first.by_seed, second.by_seed
    common = tuple(seed for seed in one if seed in other)
    sides = [[side[seed] for seed in common] for side in (one, other)]
    runs = [run for side in sides for run in side]
    keys = set.intersection(*(set(run.values(group, task)) for run in runs)) if runs else set()
    if not keys:
        return None
    failed = {failure.key for run in runs for row in rows(run) for failure in row.failures} & keys
    of_task = None if task else runs[0].task_of(group)

    def on(kept: set[str]) -> Paired:
        values = ([{k: v for k, v in run.values(group, task).items() if k in kept} for run in side] for side in sides)
        noise = pooled_noise(first, second, common, rows, kept)
        return compare_seeds(*values, runs[0].clips, of_task, noise, first.scale)

    readable = on(keys - failed) if failed and keys - failed else None
    of_seeds = (len(one), len(other))
    names = (first.experiment, second.experiment)
    return Test("", "", *names, "", on(keys), readable, common, of_seeds, first.scale)


def between_neighbours(models: Sequence[Cell], tests: Sequence[Test], questions: str) -> list[Test]:
    """The tests of neighbouring levels on these questions."""
    near = {(a.experiment, b.experiment) for curve in curves(models).values() for a, b in pairwise(curve)}
    return [test for test in tests if (test.first, test.second) in near and test.questions == questions]


def detectable_of(models: Sequence[Cell], tests: Sequence[Test], questions: str) -> float | None:
    """The minimum detectable difference of neighbouring levels, the median of these; None without any."""
    found = [test.detectable for test in between_neighbours(models, tests, questions)]
    return median(found) if found else None
