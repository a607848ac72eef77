"""`compare`: what two runs say together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from eval.report.compare import A_BETTER, B_BETTER, DECIDED_BY_FAILURES
from eval.statistics.paired import NONE_SHOWN, TOO_FEW
from videogpt_plus.app.checks import check_margin
from videogpt_plus.app.questions import WHOLE
from videogpt_plus.app.runs import find_run
from videogpt_plus.app.screen import new_table, show
from videogpt_plus.types import UserError

#: What is said where only the clips that one run could not read make two runs equivalent, or not.
UNDECIDED = "unreadable clips decide whether they are equivalent"


def compare(
    a: Positional[str],
    b: Positional[str],
    margin: float | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare two runs on the questions that both answered: paired difference, its interval, and what is chance.

    Args:
        a: An answers.jsonl, a folder of answers, a run folder or the name of a trained run.
        b: The same for the other run; differences are A - B.
        margin: Also test whether A and B are equivalent: less than so many points apart (a judge's points for scores).
        as_json: Print one JSON object; shares lie between 0 and 1.
    """
    from eval.report.compare import compare_runs, read_run

    check_margin(margin)
    paths = [_answers(name) for name in (a, b)]
    if paths[0] == paths[1]:
        raise UserError(f"both are {paths[0]}: name two runs")
    first, second = map(read_run, paths)
    unit = 1 if first.judged else 100
    found = compare_runs(first, second, None if margin is None else margin / unit)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    _show(found, unit)


def _answers(name: str) -> Path:
    """The file itself, that of an answers folder, or that of a run."""
    path = Path(name)
    if path.is_file() or path.suffix == ".jsonl":
        return path
    if (path / "answers.jsonl").is_file():
        return path / "answers.jsonl"
    return WHOLE.answers(find_run(name, make=False))


def _show(found: Mapping[str, Any], unit: int) -> None:
    from eval.report.parts import DETECTABLE

    kind = "accuracy" if "accuracy_a" in found else "score"
    columns = (kind, "n", "clips", "A", "B", "A - B (95 %)", "p", DETECTABLE, "shown")
    table = new_table(*columns, title=f"A = {found['a']}\nB = {found['b']}")
    rows = {"all questions": found}
    rows |= {"mean of tasks": found["mean_of_tasks"]} if "mean_of_tasks" in found else {}
    rows |= found["tasks"] if len(found["tasks"]) > 1 else {}
    for name, row in rows.items():
        table.add_row(*_cells(name, row, kind, unit))
    show(table)
    print(*_lines(found, kind, unit), sep="\n")


def _cells(name: str, row: Mapping[str, Any], kind: str, unit: int) -> list[str]:
    shown = {NONE_SHOWN: "no difference", A_BETTER: "A better", B_BETTER: "B better", TOO_FEW: "too few clips"}
    finds = row.get("detectable_after_holm", row["detectable_difference"])
    return [
        name,
        str(row["n"]),
        str(row["n_videos"]),
        _points(row[f"{kind}_a"], unit),
        _points(row[f"{kind}_b"], unit),
        _difference(row, unit),
        _p(row.get("p_holm", row["p"])),
        "none" if finds is None else _points(finds, unit),
        shown[row["verdict"]],
    ]


def _points(value: float | None, unit: int, sign: str = "") -> str:
    return "unknown" if value is None else f"{unit * value:{sign}.{1 if unit == 100 else 2}f}"


def _difference(row: Mapping[str, Any], unit: int) -> str:
    low, high = (_points(row[name], unit, "+") for name in ("ci_low", "ci_high"))
    return f"{_points(row['difference'], unit, '+')} ({low} to {high})"


def _lines(found: Mapping[str, Any], kind: str, unit: int) -> list[str]:
    """What the table cannot say."""
    of_tasks = found.get("mean_of_tasks")
    lines = [
        f"{found['n']} questions about {found['n_videos']} clips are in both; {found['only_a']} only in A, "
        f"{found['only_b']} only in B. Failed and counted as wrong: {found['failed_a']} in A, {found['failed_b']} in B."
        if kind == "accuracy"
        else f"{found['n']} answers about {found['n_videos']} clips have a score in both; {found['only_a']} only in A, "
        f"{found['only_b']} only in B. Left without a score: {found['failed_a']} in A, {found['failed_b']} in B."
    ]
    for name, row in {"all questions": found, "the mean of tasks": of_tasks or {}}.items():
        if fair := row.get("readable"):
            lines.append(
                f"Where both could read the clip ({fair['n']} questions), {name}: {_difference(fair, unit)}, "
                f"{_is(fair['p'])}."
            )
    if found["control_a"] != found["control_b"]:
        names = [name or "all frames" for name in (found["control_a"], found["control_b"])]
        lines.append(f"A was asked with {names[0]}, B with {names[1]}: the difference is also that of what they saw.")
    lines.append(
        f"{found['n_differing']} clips differ. p: sign flips of whole clips. The noise of training is not in it: that "
        "needs several seeds."
    )
    if kind == "accuracy" and found["n_videos"] < found["n"]:
        lines.append(
            f"McNemar's exact test, which takes the questions of a clip for independent: {_is(found['mcnemar_p'])}."
        )
    if len(found["tasks"]) > 1:
        lines.append("p and minimum detectable difference of a task: adjusted for all tasks (Holm).")
    if "verdicts" in found:
        row = found["verdicts"]
        lines.append(
            f"The judge calls right: {100 * row['accuracy_a']:.1f} % in A, {100 * row['accuracy_b']:.1f} % in B, "
            f"{_difference(row, 100)} points, {_is(row['p'])}."
        )
    said = [("over all questions", found), *([("by the mean of tasks", of_tasks)] if of_tasks else [])]
    if "margin" in found:
        whether = {TOO_FEW: f"{TOO_FEW} whether they are equivalent", DECIDED_BY_FAILURES: UNDECIDED}
        lines += [
            f"{whether.get(row['equivalence'], row['equivalence'])} within {unit * found['margin']:g} points {where} "
            f"(two one-sided tests, {_is(row['equivalence_p'])})"
            for where, row in said
        ]
    return lines + [f"{row['verdict']} {where} ({_is(row['p'])})" for where, row in said]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _is(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
