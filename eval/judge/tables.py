"""Judged benchmarks in the report of a sweep: a row a run and a column an aspect, one judge a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answer import read_meta
from eval.judge.scoring import all_scores, common_scores, identity
from eval.report import Table


def judged_tables(runs: Mapping[Path, str], chosen: Mapping[str, Path] | None = None) -> list[Table]:
    """The scores of answers.jsonl files of open questions, each with its run's description (`level 4: 832 tokens`).

    A table for each benchmark and each judge that all of its runs have, and one of the runs that nobody judged yet with
    the commands that do. UserError: runs of one benchmark have no judge in common: a column would compare judges.
    `chosen` holds the folders of benchmarks that do not lie where they usually do, by name, for these commands.
    """
    by_benchmark: dict[str, dict[str, Path]] = {}
    for path, described in runs.items():
        meta = read_meta(path)
        control = f", {meta['control'].replace('_', ' ')}" if meta["control"] else ""
        limit = path.parent.name.partition("_first")[2]
        name = meta["benchmark"] + (f", first {limit} of a task" if limit else "")
        by_benchmark.setdefault(name, {})[f"{described}{control}"] = path
    return [table for name, paths in by_benchmark.items() for table in _tables(name, paths, chosen or {})]


def _tables(name: str, paths: Mapping[str, Path], chosen: Mapping[str, Path]) -> list[Table]:
    waiting = [run for run, path in paths.items() if not all_scores(path)]
    judged = {run: path for run, path in paths.items() if run not in waiting}
    columns = common_scores(judged) if judged else []
    tables = [_table(name, scores, waiting) for scores in columns]
    return [*tables, _waiting_table(name, {run: paths[run] for run in waiting}, chosen)] if waiting else tables


def _waiting_table(name: str, paths: Mapping[str, Path], chosen: Mapping[str, Path]) -> Table:
    """What is to be judged, a row for each call of `judge`."""
    calls: dict[tuple[str, ...], list[str]] = {}
    for run, path in paths.items():
        meta, limit = read_meta(path), path.parent.name.partition("_first")[2]
        options = ["--task", meta["benchmark"]]
        options += ["--control", meta["control"]] if meta["control"] else []
        options += ["--limit", limit] if limit else []
        options += ["--benchmark", str(chosen[meta["benchmark"]])] if meta["benchmark"] in chosen else []
        calls.setdefault(tuple(options), []).append(run)
    rows = []
    for options, runs in calls.items():
        folders = [str(paths[run].parent.parent) for run in runs]
        command = shlex.join(["videogpt-plus", "judge", *folders, *options, "--judge-model", "MODEL"])
        rows.append(["; ".join(runs), command])
    note = (
        "These answers are written and not judged yet. Each command judges those of its row; the next report shows "
        "their scores. `sweep --judge-model MODEL` does the same for all."
    )
    return Table(f"{name}: not judged yet", note, ["runs", "command"], rows)


def _table(name: str, scores: Mapping[str, Mapping[str, Any]], waiting: Sequence[str]) -> Table:
    first = next(iter(scores.values()))
    aspects = list(first["aspects"])
    rows = [
        [run, *(_cell(one["aspects"][aspect]) for aspect in aspects), str(one["overall"]["n_unscored"])]
        for run, one in scores.items()
    ]
    dates = sorted(one["judge"][when] for one in scores.values() for when in ("first_date", "last_date"))
    note = (
        f"Mean score from 0 to 5 with its 95 % interval (bootstrap over videos), judged by {identity(first)} "
        f"({first['judge']['wording']} wording), {' to '.join(dict.fromkeys((dates[0], dates[-1])))}. Clips that "
        "cannot be read earn 0; answers that the judge gave no score are left out and counted."
    )
    if not first["judge"]["comparable"]:
        note += " The lexical judge looks up known facts: comparable with nothing but itself."
    if waiting:
        note += f" Not judged yet: {', '.join(waiting)}."
    return Table(f"{name}: judged answers", note, ["run", *aspects, "unscored"], rows, in_latex=True)


def _cell(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "no score"
    right = f", {100 * row['accuracy']:.1f} % right" if "accuracy" in row else ""
    return f"{row['mean']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f}){right}, n = {row['n']}"
