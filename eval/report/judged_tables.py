"""Judged benchmarks in the report of a sweep: a row a run and a column an aspect, one judge a table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.answer import read_meta
from eval.answers.naming import limit_of
from eval.answers.places import name_of, options, task_of
from eval.judge.scoring import columns_of, dates_of, fresh_scores, identity
from eval.report.judged_levels import Column, Run, detectable, files, test_table, tests
from eval.report.parts import DETECTABLE, Section, Table


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
    whole = Section((), {})
    for name, paths in by_benchmark.items():
        part = _section(name, {path: runs[path] for path in paths}, chosen or {})
        whole = Section((*whole.tables, *part.tables), {**whole.files, **part.files})
    return whole


def _section(name: str, runs: Mapping[Path, Run], chosen: Mapping[str, Path]) -> Section:
    older: list[str] = []
    scores = {path: list(fresh_scores(path, older.append).values()) for path in runs}
    for line in older:
        print(line, file=sys.stderr)
    waiting = [path for path, several in scores.items() if not several]
    tables, made = [], {}
    for one in columns_of({path: several for path, several in scores.items() if several}):
        column = Column(one, runs)
        found = tests(column)
        others = {path: scores[path][0] for path in scores if path not in one and path not in waiting}
        tables += [_table(name, column, found, waiting, others, older), *test_table(name, column, found)]
        made |= files(name.replace(", ", "_").replace(" ", "_"), column, found)
    if waiting:
        tables.append(_waiting_table(name, {path: runs[path] for path in waiting}, chosen))
    return Section(tables, made)


def _named(path: Path, run: Run) -> str:
    control = read_meta(path)["control"]
    return run.described + (f", {control.replace('_', ' ')}" if control else "")


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
    name: str,
    column: Column,
    found: Sequence[Any],
    waiting: Sequence[Path],
    others: Mapping[Path, Mapping[str, Any]],
    older: Sequence[str],
) -> Table:
    first, runs = column.first, column.runs
    aspects = list(first["aspects"])
    rows = [
        [
            _named(path, runs[path]),
            *(_cell(one["aspects"].get(aspect)) for aspect in aspects),
            str(one["overall"]["n_unscored"]),
        ]
        for path, one in column.scores.items()
    ]
    if found:
        rows.append([DETECTABLE, *(detectable(column, found, aspect) for aspect in aspects), ""])
    note = (
        f"Mean score from 0 to 5 with its 95 % interval (Student's t over clips), judged by {identity(first)} "
        f"({first['judge']['wording']} wording), {dates_of(column.scores.values())}. Clips that "
        "cannot be read earn 0; answers that the judge gave no score are left out and counted."
    )
    if found:
        note += " The last row is of the paired tests between neighbouring levels, after Holm's adjustment."
    if not first["judge"]["comparable"]:
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
    right = f", {100 * row['accuracy']:.1f} % right" if "accuracy" in row else ""
    known = None not in (row["ci_low"], row["ci_high"])
    interval = f"{row['ci_low']:.2f} to {row['ci_high']:.2f}" if known else "one clip, no interval"
    return f"{row['mean']:.2f} ({interval}){right}, n = {row['n']} ({row.get('n_videos', row['n'])} clips)"
