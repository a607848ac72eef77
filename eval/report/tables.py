"""The tables of a report, from the cells' scores and the tests between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from eval.report.cells import (
    COSTS,
    are_grouped,
    curves,
    dominated,
    estimate,
    groups,
    seeds_said,
    tasks,
    with_control,
)
from eval.report.comparisons import Test, detectable_of
from eval.report.levels import level_tables
from eval.report.paired_tests import detectable, paired_tables, resolution_table, unpaired_said
from eval.report.parts import DETECTABLE, MEAN, Table, interval
from eval.report.results import Cell
from eval.report.sanity_checks import proof
from eval.statistics.estimates import ACCURACY
from videogpt_plus.flops import TEXT_TOKENS

#: The controls in the order of the columns, and what the note says of each.
SHOWN_INSTEAD = {
    "one_frame": "one frame repeated",
    "shuffled": "all frames shuffled",
    "blind": "blind, without any visual token",
}


def report_tables(
    models: Sequence[Cell], runs: Sequence[Cell], tests: Sequence[Test], every: int, margin: float | None = None
) -> list[Table]:
    by_series = list(curves(models).items())
    n = len(next(m for m in models if m.control is None).values())
    counted = f"{n:,} of {every:,} questions are in every run with all frames; the table is about these."
    said = f"{seeds_said(models)} {counted}"
    return [
        *_proof_table(models),
        *(_accuracy_table(models, *one, groups(models), tests, said) for one in by_series if are_grouped(models)),
        _cost_table(models),
        *(_accuracy_table(models, *one, None, tests, said) for one in by_series),
        *level_tables(models, margin),
        *paired_tables(tests, f"{seeds_said(models, of_tests=True)}{unpaired_said(models)} {counted}"),
        resolution_table(models, tests),
        _run_table(runs),
        *_failures_table(runs),
    ]


def _proof_table(cells: Sequence[Cell]) -> list[Table]:
    rows = [(claim.claim, claim.measured, claim.holds) for claim in proof(cells)]
    note = (
        "What a model that sees its clips must show on a benchmark whose answers are known by construction. Yes: the "
        "value meets the claim. NO: its 95 % interval lies outside (for claims on each task: intervals that hold for "
        "all tasks together). Undecided: the value misses the claim and its interval does not."
    )
    return [Table("Sanity checks", note, ["claim", "measured", "holds"], rows)] if rows else []


def _accuracy_table(
    cells: Sequence[Cell],
    name: str,
    curve: Sequence[Cell],
    by_group: list[str] | None,
    tests: Sequence[Test],
    said: str,
) -> Table:
    """Accuracy by level, a row for each group (or for each task where `by_group` is None), with the controls."""
    controls = [c for cell in curve for control in SHOWN_INSTEAD if (c := with_control(cells, cell, control))]
    asked = [what for control, what in SHOWN_INSTEAD.items() if any(c.control == control for c in controls)]
    shown_instead = f"Controls: {'; '.join(asked)}. " if asked else ""
    columns = [
        *(["group", "tasks"] if by_group else ["task", "group", "needs level"]),
        "n", "clips", "chance", "majority",
        *(f"level {cell.level:g}: {cell.visual_tokens:,} tokens" for cell in curve),
        *(_control_title(cell, curve) for cell in controls),
        DETECTABLE,
    ]  # fmt: skip
    shown = [*curve, *controls]

    def found(questions: str) -> str:
        return detectable(detectable_of(curve, tests, questions))

    if by_group:
        known = [group for group in [*by_group, None] if any(cell.rows(group) for cell in curve)]
        rows = [[*_group_row(shown, group), found(group or MEAN)] for group in known]
    else:
        rows = [[*_task_row(shown, task), found(task)] for task in tasks(curve)]
        rows.append([MEAN, "", "", *_group_row(shown, None)[2:], found(MEAN)])
    what = "group of tasks" if by_group else "task"
    note = (
        "Accuracy in % with its 95 % interval: Wilson's, of as many independent questions as the clips are worth. A "
        "mean is over tasks, each weighing the same. Unreadable clips and replies without one clear option count as "
        f"wrong. {shown_instead}"
        "Minimum detectable difference: the smallest one in points between neighbouring levels (their median) that the "
        f"paired tests below find with 80 % power, after Holm's adjustment. {said}"
    )
    return Table(f"{name}: accuracy by {what}", note, columns, rows, in_latex=True)


def _control_title(control: Cell, curve: Sequence[Cell]) -> str:
    """Control and level, with the number of questions where it was asked fewer than the models."""
    title, asked = f"{control.control.replace('_', ' ')}, level {control.level:g}", len(control.values())
    return title if asked >= len(curve[0].values()) else f"{title}: its {asked:,} questions"


def _cost_table(cells: Sequence[Cell]) -> Table:
    better = {name: dominated(cells, name) for name in COSTS}
    rows = [
        [
            cell.experiment, f"{cell.visual_tokens:,}", *(_number(cost(cell)) for cost in COSTS.values()),
            _seconds(cell), interval(estimate(cell, None)),
            *(found.experiment if (found := better[name].get(cell.experiment)) else "" for name in COSTS),
        ]
        for curve in curves(cells).values()
        for cell in curve
    ]  # fmt: skip
    columns = [
        "experiment", "visual tokens", *COSTS, "seconds a question", MEAN,
        *(f"Pareto-dominated ({cost}) by" for cost in ("FLOPs", "seconds", "KV cache")),
    ]  # fmt: skip
    note = (
        "What a question costs and what it buys. FLOP (2 for each multiply-add of a matrix product) of encoders, "
        f"projectors and prefill, and the KV cache in bfloat16, are computed for {TEXT_TOKENS} text "
        "tokens; seconds were measured: to the first token the median, of the whole question the mean over answers. "
        "The last three columns name a model that is at least as accurate and costs no more; accuracies are taken as "
        "measured, the paired tests say which differences are more than chance."
    )
    return Table("Cost of a question", note, columns, rows)


def _number(value: float | None) -> str:
    """Three digits that count, or that nobody measured it."""
    if value is None:
        return "not measured"
    return f"{value:,.{max(0, 2 - floor(log10(value)))}f}" if value else "0"


def _seconds(cell: Cell) -> str:
    """The mean over the answers, or that there is none."""
    seconds = cell.overall.seconds_per_question
    return "not measured" if seconds is None else f"{seconds:.2f}"


def _group_row(shown: Sequence[Cell], group: str | None) -> list[str]:
    first = next(cell for cell in shown if cell.rows(group))
    rows = first.rows(group)
    return [
        group or MEAN,
        str(len(rows)),
        f"{sum(row.n for row in rows):,}",
        f"{first.n_clips(group):,}",
        ACCURACY.show(first.mean_of(group, "chance")),
        ACCURACY.show(first.mean_of(group, "majority")),
        *(interval(estimate(cell, group)) if cell.rows(group) else "" for cell in shown),
    ]


def _task_row(shown: Sequence[Cell], task: str) -> list[str]:
    rows = [cell.tasks.get(task) for cell in shown]
    row = next(row for row in rows if row)
    return [
        task,
        row.group if row.group != task else "",
        "" if row.needs_level is None else f"{row.needs_level:g}",
        f"{row.n:,}",
        f"{shown[0].n_clips(task=task):,}",
        ACCURACY.show(row.chance),
        ACCURACY.show(row.majority),
        *(interval(one.estimate) if one else "" for one in rows),
    ]


def _run_table(cells: Sequence[Cell]) -> Table:
    rows = []
    for cell in cells:
        total = cell.overall
        rows.append([
            cell.experiment, cell.adapter, f"{cell.level:g}", "" if cell.seed is None else str(cell.seed),
            f"{cell.visual_tokens:,}", (cell.control or "none").replace("_", " "), f"{total.n:,}",
            str(total.n_failed), f"{total.n_unparsed} ({ACCURACY.show(total.n_unparsed / total.n)} %)",
            ACCURACY.show(total.estimate.value), ACCURACY.show(cell.of_questions.value),
            ACCURACY.show(total.reference_rule_accuracy), _seconds(cell),
        ])  # fmt: skip
    columns = [
        "experiment", "adapter", "level", "seed", "visual tokens", "control", "n", "unreadable clips",
        "no clear option", "mean of tasks", "mean of questions", "reference's rule", "seconds a question",
    ]  # fmt: skip
    note = (
        "Every run of the sweep, in %. The reference's rule compares the second word of a reply with the letter: it "
        "rejects right answers and accepts wrong ones, and is shown only for comparison with published numbers."
    )
    return Table("Runs", note, columns, rows)


def _failures_table(cells: Sequence[Cell]) -> list[Table]:
    """Which clips some run could not read, how many runs that were, and how many were asked about them."""
    failed: dict[tuple[str, str, str], set[int]] = {}
    keys: dict[tuple[str, str, str], set[str]] = {}
    for number, cell in enumerate(cells):
        for row in cell.rows():
            for failure in row.failures:
                at = (row.name, failure.video, failure.error)
                failed.setdefault(at, set()).add(number)
                keys.setdefault(at, set()).add(failure.key)
    asked = [cell.values().keys() for cell in cells]
    counts = {at: (len(runs), sum(not keys[at].isdisjoint(own) for own in asked)) for at, runs in failed.items()}
    rows = [[*at, *map(str, both)] for at, both in counts.items()]
    wrong = "in every run" if all(runs == of for runs, of in counts.values()) else "in the runs that could not read it"
    note = f"Clips that could not be read. A question about such a clip counts as wrong {wrong}."
    columns = ["task", "video", "error", "runs that failed", "runs that asked"]
    return [Table("Unreadable clips", note, columns, rows)] if rows else []
