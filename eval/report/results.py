"""What a report is made of: one run under one control with its tasks' outcomes, right or wrong or a judge's scores.

`scores.score` and a judge's `scores.json` are read once, here; all else takes these values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from statistics import fmean
from typing import Any, NamedTuple, Self

from eval.statistics.estimates import ACCURACY, SCORE, Estimate, Scale

#: The end of an experiment's name that its level and seed make.
ENDING = re.compile(r"(_pool[\d.]+)?(_seed\d+)?$")


def series_of(name: str) -> str:
    """What stays the same along one curve: an experiment's name without its level and seed."""
    return ENDING.sub("", name)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was counted and measured of some questions: a number that nobody knows is None."""

    n: float
    n_videos: float | None = None
    n_failed: float | None = None
    n_unparsed: float | None = None
    chance: float | None = None
    majority: float | None = None
    reference_rule_accuracy: float | None = None
    seconds_per_question: float | None = None
    seconds_to_first_token: float | None = None
    #: The mean with its interval; infinite where a single clip says nothing.
    estimate: Estimate

    @staticmethod
    def means(rows: Sequence[Numbers]) -> dict[str, Any]:
        """The mean of each number over seeds; None where a row lacks it."""
        columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Numbers) if f.name != "estimate"}
        estimate = Estimate(*(fmean(part) for part in zip(*(row.estimate for row in rows), strict=True)))
        return {n: None if None in values else fmean(values) for n, values in columns.items()} | {"estimate": estimate}


class Failure(NamedTuple):
    """A question whose clip could not be read."""

    key: str
    video: str
    error: str


@dataclass(frozen=True, kw_only=True)
class TaskScore(Numbers):
    """One task (or what a judge was asked about); over several seeds the mean over them."""

    name: str
    group: str
    #: Question -> right or wrong, or its score; question -> its clip.
    values: Mapping[str, float]
    clips: Mapping[str, str]
    needs_level: float | None = None
    failures: Sequence[Failure] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model under one control. Of several seeds there is a cell for each, until `over_seeds` makes them one."""

    experiment: str
    level: float
    #: None for all frames.
    control: str | None
    visual_tokens: int
    tasks: Mapping[str, TaskScore]
    #: The mean over tasks, each weighing the same, and over questions; None of judged answers.
    overall: Numbers | None = None
    of_questions: Estimate | None = None
    adapter: str = ""
    seed: int | None = None
    num_frames: int | None = None
    #: Whether nobody trained the weights.
    random: bool = False
    #: Of one question (`flops.costs`).
    flops: float | None = None
    kv_bytes: float | None = None
    #: Where there are several.
    benchmark: str | None = None
    scale: Scale = ACCURACY
    #: The runs of a model, one for each seed, and those of every level of its series under its control.
    runs: Sequence[Cell] = ()
    peers: Sequence[Sequence[Cell]] = ()

    @classmethod
    def of(cls, scores: Mapping[str, Any], **known: Any) -> Self:
        """The cell with what `score.score` returned."""
        total = scores["overall"]
        tasks = {
            name: TaskScore(
                name=name,
                group=row["group"],
                needs_level=row["needs_level"],
                values=row["correct"],
                clips=row["videos"],
                failures=[Failure(one["key"], one["video"], one["error"]) for one in row["failures"]],
                **_numbers(row, row),
            )
            for name, row in scores["tasks"].items()
        }
        overall = Numbers(**_numbers(total, total["macro"]))
        return cls(tasks=tasks, overall=overall, of_questions=_accuracy(total["micro"]), **known)

    @classmethod
    def of_judged(cls, scores: Mapping[str, Any], clips: Mapping[str, str], **known: Any) -> Self:
        """The cell with a judge's scores, a task for each aspect; `clips` is that of each answer."""
        tasks = {}
        for name, row in scores["aspects"].items():
            values = {key: score for key, score in row["scores"].items() if score is not None}
            tasks[name] = TaskScore(
                name=name,
                group=name,
                values=values,
                clips={key: clips[key.partition("/")[0]] for key in values},
                n=row["n"],
                estimate=judged_estimate(row),
            )
        return cls(tasks=tasks, scale=SCORE, control=scores["control"], **known)

    @property
    def series(self) -> str:
        return series_of(self.experiment)

    @property
    def model(self) -> tuple[str, float, str | None]:
        """What the runs of all its seeds have alike."""
        return self.series, self.level, self.control

    @property
    def by_seed(self) -> dict[int | None, Cell]:
        return {run.seed: run for run in self.runs or [self]}

    def rows(self, group: str | None = None, task: str | None = None) -> list[TaskScore]:
        """The tasks of a group, or the one task; all of them for None."""
        return [row for row in self.tasks.values() if group in (None, row.group) and task in (None, row.name)]

    def values(self, group: str | None = None, task: str | None = None) -> dict[str, float]:
        """Question -> right or wrong, or its score."""
        return {key: value for row in self.rows(group, task) for key, value in row.values.items()}

    def task_of(self, group: str | None = None) -> dict[str, str]:
        """Question -> its task."""
        return {key: row.name for row in self.rows(group) for key in row.values}

    @property
    def clips(self) -> dict[str, str]:
        return {key: clip for row in self.tasks.values() for key, clip in row.clips.items()}

    def n_clips(self, group: str | None = None, task: str | None = None) -> int:
        """How many clips the questions are about."""
        return len({row.clips[key] for row in self.rows(group, task) for key in row.values})

    def mean_of(self, group: str | None, name: str) -> float:
        """The mean of the field `name` (chance, majority, ...) over the tasks of `group`."""
        rows = self.rows(group)
        return sum(getattr(row, name) for row in rows) / len(rows)


def _numbers(row: Mapping[str, Any], accuracy: Mapping[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(Numbers) if f.name != "estimate"]
    return {name: row.get(name) for name in names} | {"estimate": _accuracy(accuracy)}


def _accuracy(row: Mapping[str, float]) -> Estimate:
    return Estimate(row["accuracy"], row["ci_low"], row["ci_high"])


def judged_estimate(row: Mapping[str, Any]) -> Estimate:
    """The mean of an aspect; NaN without a score."""
    if row["mean"] is None:
        return Estimate(float("nan"), -inf, inf)
    known = None not in (row["ci_low"], row["ci_high"])
    return Estimate(row["mean"], row["ci_low"], row["ci_high"]) if known else Estimate(row["mean"], -inf, inf)
