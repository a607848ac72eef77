"""Judged benchmarks in the report of a sweep: a row a run and a column an aspect, one judge a table, and its tests."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from eval.answers.answer import read_answers, read_meta
from eval.answers.naming import limit_of
from eval.answers.places import name_of, options, task_of
from eval.judge.scoring import columns_of, dates_of, fresh_scores, identity
from eval.report.cells import has_mean, over_seeds
from eval.report.comparisons import Test, compared, detectable_of
from eval.report.csv_files import pairs_csv
from eval.report.paired_tests import detectable
from eval.report.parts import DETECTABLE, Section, Table, csv_text, difference, p_value
from eval.report.plots import means_vs_tokens
from eval.report.results import Cell, judged_estimate
from eval.statistics.estimates import SCORE, Estimate
from videogpt_plus.io.jsonl_log import clip_of

Scores = Mapping[str, Any]
TEST_COLUMNS = [
    "comparison", "aspect", "n (clips)", "seeds", "first", "second", "difference", "p", "p adjusted", DETECTABLE,
    "shown",
]  # fmt: skip
CSV_COLUMNS = [
    "benchmark", "judge_model", "served_models", "prompt_hash", "first_date", "last_date", "experiment", "level",
    "seed", "visual_tokens", "control", "aspect", "n", "n_expected", "n_failed", "n_unscored", "mean", "ci_low",
    "ci_high", "accuracy", "accuracy_low", "accuracy_high",
]  # fmt: skip


class Run(NamedTuple):
    """What the report says of a run whose answers are judged."""

    experiment: str
    level: float
    seed: int
    visual_tokens: int


class Column:
    """Runs that one judge scored (answers.jsonl -> its scores), and what follows of them."""

    def __init__(self, scores: Mapping[Path, Scores], runs: Mapping[Path, Run]):
        self.scores, self.runs = scores, runs
        self.first = next(iter(scores.values()))
        self.judge = identity(self.first)

    @cached_property
    def models(self) -> list[Cell]:
        """A cell for each level of each series with all frames, the mean over its seeds."""
        return over_seeds([
            Cell.of_judged(one, {key: clip_of(line) for key, line in read_answers(path).items()},
                           **self.runs[path]._asdict())
            for path, one in self.scores.items() if one["control"] is None
        ])  # fmt: skip

    @cached_property
    def tests(self) -> list[Test]:
        """Every pair of levels, and of series at a level, by every aspect: one family."""
        return compared(self.models, {"aspects": {aspect: (None, aspect) for aspect in self.first["aspects"]}})

    def files(self, benchmark: str) -> dict[str, bytes]:
        """`BENCHMARK_JUDGE.csv`, a row for each run and aspect; `..._pairs.csv`; `..._score_vs_tokens` as pictures."""
        stem = f"{benchmark}_{self.judge.for_files}"
        made = {f"{stem}.csv": csv_text(CSV_COLUMNS, self._rows()).encode()}
        if self.tests:
            made[f"{stem}_pairs.csv"] = pairs_csv(self.tests, SCORE).encode()
        if models := [model for model in self.models if any(map(has_mean, model.rows()))]:
            picture = means_vs_tokens(models)
            made |= {f"{stem}_score_vs_tokens.{ending}": content for ending, content in picture.items()}
        return made

    def _rows(self) -> list[list[Any]]:
        rows = []
        for path, scores in self.scores.items():
            judge, run = scores["judge"], self.runs[path]
            told = judge | run._asdict() | {"benchmark": scores["benchmark"], "control": scores["control"] or "none"}
            told |= {"served_models": " ".join(judge["served_models"]), "level": f"{run.level:g}"}
            for aspect, row in scores["aspects"].items():
                values = told | dict(row) | {"aspect": aspect}
                rows.append([values.get(name, "") for name in CSV_COLUMNS])
        return rows


def judged_section(runs: Mapping[Path, Run], chosen: Mapping[str, Path] | None = None) -> Section:
    """The scores of answers.jsonl files of open questions: tables, and files for `report/` by their names.

    A table for each benchmark and judge, with the paired tests of its levels behind it; and one of the runs that nobody
    judged yet, or before their answers changed, with the commands that do. Where the runs of one benchmark have no
    judge in common each judge has a table of its own, which says what is missing and why: a column is never of two.
    `chosen` holds the folders of benchmarks that do not lie where they usually do, by name, for these commands.
    """
    by_benchmark: dict[str, list[Path]] = {}
    for path in runs:
        limit = limit_of(path.parent)
        name = name_of(read_meta(path)) + (f", first {limit} of a task" if limit else "")
        by_benchmark.setdefault(name, []).append(path)
    parts = [_section(name, {path: runs[path] for path in paths}, chosen or {}) for name, paths in by_benchmark.items()]
    files = {name: content for part in parts for name, content in part.files.items()}
    return Section([table for part in parts for table in part.tables], files)


def _section(name: str, runs: Mapping[Path, Run], chosen: Mapping[str, Path]) -> Section:
    older: list[str] = []
    scores = {path: list(fresh_scores(path, older.append).values()) for path in runs}
    for line in older:
        print(line, file=sys.stderr)
    waiting = [path for path, several in scores.items() if not several]
    tables, made = [], {}
    for one in columns_of({path: several for path, several in scores.items() if several}):
        column = Column(one, runs)
        others = {path: scores[path][0] for path in scores if path not in one and path not in waiting}
        tables += [_table(name, column, waiting, others, older), *_test_table(name, column)]
        made |= column.files(name.replace(", ", "_").replace(" ", "_"))
    if waiting:
        tables.append(_waiting_table(name, {path: runs[path] for path in waiting}, chosen))
    return Section(tables, made)


def _named(path: Path, run: Run) -> str:
    control = read_meta(path)["control"]
    named = f"{run.experiment}: {run.visual_tokens:,} tokens"
    return named + (f", {control.replace('_', ' ')}" if control else "")


def _waiting_table(name: str, runs: Mapping[Path, Run], chosen: Mapping[str, Path]) -> Table:
    """What is to be judged, a row for each call of `judge`."""
    calls: dict[tuple[str, ...], list[Path]] = {}
    for path in runs:
        meta = read_meta(path)
        place = chosen.get(task_of(meta)) if "root" not in meta else None
        which = [*options(path, meta), *(["--benchmark", str(place)] if place else [])]
        calls.setdefault(tuple(which), []).append(path)
    rows = []
    for which, paths in calls.items():
        folders = [str(path.parent.parent) for path in paths]
        command = shlex.join(["videogpt-plus", "judge", *folders, *which, "--judge-model", "MODEL"])
        rows.append(["; ".join(_named(path, runs[path]) for path in paths), command])
    note = (
        "These answers are written and not judged yet, or have changed since they were. Each command judges those of "
        "its row; the next report shows their scores. `sweep --judge-model MODEL` does the same for all."
    )
    return Table(f"{name}: not judged yet", note, ["runs", "command"], rows)


def _table(
    name: str, column: Column, waiting: Sequence[Path], others: Mapping[Path, Scores], older: Sequence[str]
) -> Table:
    judge, runs, aspects = column.first["judge"], column.runs, list(column.first["aspects"])
    rows = [
        [
            _named(path, runs[path]),
            *(_cell(one["aspects"].get(aspect)) for aspect in aspects),
            str(one["overall"]["n_unscored"]),
        ]
        for path, one in column.scores.items()
    ]
    note = (
        f"Mean score from 0 to 5 with its 95 % interval (Student's t over clips), judged by {column.judge} "
        f"({judge['wording']} wording), {dates_of(column.scores.values())}. Clips that "
        "cannot be read earn 0; answers that the judge gave no score are left out and counted."
    )
    if column.tests:
        found = [detectable(detectable_of(column.models, column.tests, aspect), SCORE) for aspect in aspects]
        rows.append([DETECTABLE, *found, ""])
        note += " The last row is of the paired tests between neighbouring levels, after Holm's adjustment."
    if not judge["comparable"]:
        note += " The lexical judge looks up known facts: comparable with nothing but itself."
    if waiting:
        note += f" Not judged yet: {', '.join(_named(path, runs[path]) for path in waiting)}."
    if others:
        said = "; ".join(f"{_named(path, runs[path])} (judged by {identity(one)})" for path, one in others.items())
        note += (
            f" Cannot be compared with these and is not in this table: {said}. One column would compare judges, not "
            "models; `videogpt-plus rejudge` scores stored answers again."
        )
    note += "".join(f" {line}." for line in older)
    return Table(f"{name}: judged answers", note, ["run", *aspects, "unscored"], rows, in_latex=True)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "no score"
    found: Estimate = judged_estimate(row)
    right = f", {100 * row['accuracy']:.1f} % right" if "accuracy" in row else ""
    ends = f"{SCORE.show(found.low)} to {SCORE.show(found.high)}" if isfinite(found.low) else "one clip, no interval"
    return f"{SCORE.show(found.value)} ({ends}){right}, n = {row['n']} ({row.get('n_videos', row['n'])} clips)"


def _test_table(name: str, column: Column) -> list[Table]:
    """The paired tests as a table; [] where there are not two levels."""
    if not column.tests:
        return []
    several = max(test.paired.seeds for test in column.tests) > 1
    said = (
        "Over several seeds p is of a t test that holds the noise of training, pooled over the levels of a series."
        if several
        else "One training seed: the noise of training is not in these numbers, so a difference is one of two runs."
    )
    note = (
        f"The same questions, paired, judged by {column.judge}; difference of the means in the judge's "
        "points with its 95 % interval (Student's t over clips). p: sign flips of whole clips' sums (exact, or 100,000 "
        f"draws). {said} The adjusted p (Holm) keeps the chance of any false alarm among the {len(column.tests)} tests "
        f"of this table at 5 %. {DETECTABLE}: after that adjustment; none where the scores that change could not make "
        "one."
    )
    rows = [
        [
            test.label, test.questions, f"{test.paired.n:,} ({test.paired.n_videos:,})",
            ", ".join(map(str, test.seeds)), SCORE.show(test.paired.first), SCORE.show(test.paired.second),
            difference(test.paired, SCORE), p_value(test.paired.p), p_value(test.adjusted),
            detectable(test.detectable, SCORE), test.verdict,
        ]
        for test in column.tests
    ]  # fmt: skip
    return [Table(f"{name}: paired tests of judged answers", note, TEST_COLUMNS, rows, in_latex=True, keys=2)]
