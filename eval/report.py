"""The report of a sweep: tables, curves and tests, from the cells' scores. Imports no torch.

out_dir/  index.html  sweep.csv  sweep.md  accuracy_vs_tokens.png  accuracy_vs_cost.png  tasks_by_level.png
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

from eval import plots
from eval.answer import write_atomically
from eval.cells import (
    COSTS,
    Cell,
    are_grouped,
    correct,
    curves,
    dominated,
    estimate,
    groups,
    in_order,
    mean_of,
    neighbours,
    rows_of,
    tasks,
    with_control,
)
from eval.proof import proof
from eval.stats import Estimate, compare, detectable, holm, margin
from videogpt_plus.checkpoint import write_bytes
from videogpt_plus.flops import TEXT_TOKENS
from videogpt_plus.types import UserError

__all__ = ["proof", "write_report"]

CSV_COLUMNS = [
    "experiment", "adapter", "level", "visual_tokens", "control", "task", "group", "n", "n_failed", "n_unparsed",
    "accuracy", "ci_low", "ci_high", "chance", "majority", "reference_rule_accuracy", "seconds_per_question",
    "seconds_to_first_token", "flops", "kv_bytes",
]  # fmt: skip
#: The row of `sweep.csv` that holds the mean over tasks.
MEAN = "mean of all tasks"
#: Shares of questions that change sides between two levels, as they are seen in practice.
DISCORDANCES = (0.08, 0.15, 0.20)


@dataclass(frozen=True)
class Table:
    """A table with its heading and what it says, for Markdown and HTML alike."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    cells: Sequence[Cell], out_dir: str | Path, title: str = "Pool sweep", stamp: str | None = None
) -> Path:
    """Writes the report of the cells into `out_dir` and returns its `index.html`.

    A cell is a dict of experiment, adapter, level, visual_tokens, control (None for all frames), scores, and where
    they are known flops and kv_bytes of a question.
    The same cells give the same bytes; `stamp` is printed where it is given, for a date or a seed.
    """
    if not any(cell["control"] is None for cell in cells):
        raise UserError(f"no finished cell to report in {out_dir}: run the sweep first")
    cells, out_dir = in_order(cells), Path(out_dir)
    tables = _tables(cells)
    pictures = {
        "accuracy_vs_tokens.png": plots.accuracy_vs_tokens(cells),
        "accuracy_vs_cost.png": plots.accuracy_vs_cost(cells),
        "tasks_by_level.png": plots.tasks_by_level(cells),
    }
    for name, picture in pictures.items():
        write_bytes(out_dir / name, picture)
    write_atomically(out_dir / "sweep.csv", _csv(cells))
    write_atomically(out_dir / "sweep.md", _markdown(title, stamp, tables, list(pictures)))
    write_atomically(out_dir / "index.html", _html(title, stamp, tables, pictures))
    return out_dir / "index.html"


def _tables(cells: Sequence[Cell]) -> list[Table]:
    by_series = [(name, curve) for name, curve in curves(cells).items()]
    return [
        *_proof_table(cells),
        *(_accuracy_table(cells, name, curve, groups(cells)) for name, curve in by_series if are_grouped(cells)),
        _cost_table(cells),
        *(_accuracy_table(cells, name, curve, None) for name, curve in by_series),
        *_paired_table(cells),
        _resolution_table(cells),
        _run_table(cells),
        *_failures_table(cells),
    ]


def _proof_table(cells: Sequence[Cell]) -> list[Table]:
    verdicts = {True: "yes", False: "NO", None: "not measured"}
    rows = [(claim, measured, verdicts[ok]) for claim, measured, ok in proof(cells)]
    note = "What a pipe that sees must show on a benchmark whose answers are known by construction."
    return [Table("Does the pipe see?", note, ["claim", "measured", "holds"], rows)] if rows else []


def _accuracy_table(cells: Sequence[Cell], name: str, curve: Sequence[Cell], by_group: list[str] | None) -> Table:
    """Accuracy by level, a row for each group (or for each task where `by_group` is None), with the controls."""
    controls = [c for cell in curve for control in ("one_frame", "blind") if (c := with_control(cells, cell, control))]
    columns = [
        *(["group", "tasks"] if by_group else ["task", "group", "needs level"]),
        "n", "chance", "majority",
        *(f"level {cell['level']:g}: {cell['visual_tokens']:,} tokens" for cell in curve),
        *(f"{cell['control'].replace('_', ' ')}, level {cell['level']:g}" for cell in controls),
    ]  # fmt: skip
    shown = [*curve, *controls]
    if by_group:
        rows = [_group_row(shown, group) for group in [*by_group, None]]
    else:
        rows = [_task_row(shown, task) for task in tasks(curve)]
        rows.append([MEAN, "", "", *_group_row(shown, None)[2:]])
    what = "group of tasks" if by_group else "task"
    note = (
        "Accuracy in % with its 95 % interval. Unreadable clips and replies without one clear option count as wrong. "
        "Controls: one frame repeated; blind, without any visual token."
    )
    return Table(f"{name}: accuracy by {what}", note, columns, rows)


def _cost_table(cells: Sequence[Cell]) -> Table:
    better = {name: dominated(cells, name) for name in COSTS}
    rows = [
        [
            cell["experiment"], f"{cell['visual_tokens']:,}", *(_number(cost(cell)) for cost in COSTS.values()),
            f"{cell['scores']['overall']['seconds_per_question']:.2f}", _interval(estimate(cell, None)),
            *(found["experiment"] if (found := better[name].get(cell["experiment"])) else "" for name in COSTS),
        ]
        for curve in curves(cells).values()
        for cell in curve
    ]  # fmt: skip
    columns = [
        "experiment", "visual tokens", *COSTS, "seconds a question", MEAN, "by FLOP dominated by",
        "by seconds dominated by", "by bytes dominated by",
    ]  # fmt: skip
    note = (
        "What a question costs and what it buys. FLOP (2 for each multiply-add of a matrix product) of encoders, "
        f"projectors and prefill, and bytes of the keys and values in bfloat16, are computed for {TEXT_TOKENS} text "
        "tokens; seconds were measured: to the first token the median, of the whole question the mean. The last three "
        "columns name a model that is at least as accurate and costs no more; accuracies are taken as measured, the "
        "paired tests say which differences are more than chance."
    )
    return Table("Cost of a question", note, columns, rows)


def _number(value: float | None) -> str:
    """Three digits that count, or that nobody measured it."""
    if value is None:
        return "not measured"
    return f"{value:,.{max(0, 2 - floor(log10(value)))}f}" if value else "0"


def _group_row(shown: Sequence[Cell], group: str | None) -> list[str]:
    rows = rows_of(shown[0], group)
    n = sum(row["n"] for row in rows.values())
    return [
        group or MEAN,
        str(len(rows)),
        f"{n:,}",
        _points(mean_of(shown[0], group, "chance")),
        _points(mean_of(shown[0], group, "majority")),
        *(_interval(estimate(cell, group)) if rows_of(cell, group) else "" for cell in shown),
    ]


def _task_row(shown: Sequence[Cell], task: str) -> list[str]:
    rows = [cell["scores"]["tasks"].get(task) for cell in shown]
    row = next(row for row in rows if row)
    return [
        task,
        row["group"] if row["group"] != task else "",
        "" if row["needs_level"] is None else f"{row['needs_level']:g}",
        f"{row['n']:,}",
        _points(row["chance"]),
        _points(row["majority"]),
        *(_interval(Estimate(r["accuracy"], r["ci_low"], r["ci_high"])) if r else "" for r in rows),
    ]


def _paired_table(cells: Sequence[Cell]) -> list[Table]:
    """Each comparison on the questions that both models answered; p values are adjusted over the whole table."""
    found = [
        (label, group or MEAN, compare(correct(first, group), correct(second, group)))
        for label, first, second in neighbours(cells)
        for group in [None, *(groups(cells) if are_grouped(cells) else [])]
        if correct(first, group).keys() & correct(second, group).keys()
    ]
    adjusted = holm([paired.p for *_, paired in found])
    rows = [
        [
            label, "all questions" if group == MEAN else group, f"{paired.n:,}", str(paired.only_first),
            str(paired.only_second),
            f"{100 * paired.difference:+.1f} ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})",
            _p(paired.p), _p(p),
        ]
        for (label, group, paired), p in zip(found, adjusted, strict=True)
    ]  # fmt: skip
    note = (
        "The same questions, paired: McNemar's exact test; difference in points with its 95 % interval (Bonett and "
        "Price); the last column is adjusted for the number of tests (Holm): under 0.05 a difference is more than the "
        "chance of the questions. The chance of training is not in it: that needs several seeds."
    )
    columns = [
        "comparison",
        "questions",
        "n",
        "only first right",
        "only second right",
        "difference",
        "p",
        "p adjusted",
    ]
    return [Table("Paired tests", note, columns, rows)] if rows else []


def _resolution_table(cells: Sequence[Cell]) -> Table:
    first = next(cell for cell in cells if cell["control"] is None)
    kinds = {"all tasks": rows_of(first, None)} | (
        {group: rows_of(first, group) for group in groups(cells)} if are_grouped(cells) else {}
    )
    sizes = {name: sum(row["n"] for row in rows.values()) for name, rows in kinds.items()}
    smallest = min(rows_of(first, None).values(), key=lambda row: row["n"])
    sizes["one task (the smallest)"] = smallest["n"]
    rows = [
        [
            name,
            f"{n:,}",
            f"±{100 * margin(0.55, n):.1f}",
            *(f"{100 * detectable(n, d):.1f}" for d in DISCORDANCES),
        ]
        for name, n in sizes.items()
    ]
    columns = [
        "questions",
        "n",
        "one accuracy of 55 %",
        *(f"{100 * d:.0f} % change sides" for d in DISCORDANCES),
    ]
    note = (
        "Points. Half the 95 % interval of one accuracy; then the smallest difference between two levels that a paired "
        "test at 5 % finds with 80 % power, by how many questions change sides between them. "
        f"{_seen_discordance(cells)}Noise of training is not in these numbers."
    )
    return Table("What the benchmark can resolve", note, columns, rows)


def _seen_discordance(cells: Sequence[Cell]) -> str:
    pairs = [compare(correct(first, None), correct(second, None)) for _, first, second in neighbours(cells)]
    shares = [100 * (pair.only_first + pair.only_second) / pair.n for pair in pairs]
    return f"Seen in this sweep: {min(shares):.0f} to {max(shares):.0f} %. " if shares else ""


def _run_table(cells: Sequence[Cell]) -> Table:
    rows = []
    for cell in cells:
        total = cell["scores"]["overall"]
        rows.append([
            cell["experiment"], cell["adapter"], f"{cell['level']:g}", f"{cell['visual_tokens']:,}",
            (cell["control"] or "none").replace("_", " "), f"{total['n']:,}", str(total["n_failed"]),
            f"{total['n_unparsed']} ({100 * total['n_unparsed'] / total['n']:.1f} %)",
            _points(total["macro"]["accuracy"]), _points(total["micro"]["accuracy"]),
            _points(total["reference_rule_accuracy"]), f"{total['seconds_per_question']:.2f}",
        ])  # fmt: skip
    columns = [
        "experiment", "adapter", "level", "visual tokens", "control", "n", "unreadable clips", "no clear option",
        "mean of tasks", "mean of questions", "reference's rule", "seconds a question",
    ]  # fmt: skip
    note = (
        "Every run of the sweep, in %. The reference's rule compares the second word of a reply with the letter: it "
        "rejects right answers and accepts wrong ones, and stands here only beside published numbers."
    )
    return Table("Runs", note, columns, rows)


def _failures_table(cells: Sequence[Cell]) -> list[Table]:
    found: dict[tuple[str, str, str], int] = {}
    for cell in cells:
        for task, row in cell["scores"]["tasks"].items():
            for failure in row["failures"]:
                at = (task, failure["video"], failure["error"])
                found[at] = found.get(at, 0) + 1
    rows = [[*at, str(count)] for at, count in found.items()]
    note = "Clips that could not be read. Their questions count as wrong in every run."
    return [Table("Unreadable clips", note, ["task", "video", "error", "runs"], rows)] if rows else []


def _csv(cells: Sequence[Cell]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        model = {name: cell.get(name) for name in ("experiment", "adapter", "visual_tokens", "flops", "kv_bytes")}
        model |= {"level": f"{cell['level']:g}", "control": cell["control"] or "none"}
        for row in _csv_rows(cell):
            numbers = {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}
            writer.writerow(model | numbers)
    return out.getvalue()


def _csv_rows(cell: Cell) -> Iterator[Mapping[str, Any]]:
    wanted = CSV_COLUMNS[CSV_COLUMNS.index("group") : CSV_COLUMNS.index("flops")]
    for task, row in cell["scores"]["tasks"].items():
        yield {"task": task} | {name: row[name] for name in wanted}
    total = cell["scores"]["overall"]
    row = total | total["macro"] | {"group": ""}
    yield {"task": MEAN} | {name: row[name] for name in wanted}


def _markdown(title: str, stamp: str | None, tables: Sequence[Table], pictures: Sequence[str]) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"

    parts = [f"# {title}", *([stamp] if stamp else []), *(f"![{name}]({name})" for name in pictures)]
    for table in tables:
        rule = "|" + "---|" * len(table.columns)
        rows = "\n".join([line(table.columns), rule, *map(line, table.rows)])
        parts += [f"## {table.title}", table.note, rows]
    return "\n\n".join(parts) + "\n"


def _html(title: str, stamp: str | None, tables: Sequence[Table], pictures: Mapping[str, bytes]) -> str:
    """One file that holds its style and its pictures: it opens anywhere, offline."""
    curve, *panels = (
        f'<figure><img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}"></figure>'
        for name, data in pictures.items()
    )
    # The answer first: whether the pipe sees, then the curve, then the rest.
    sections = [_html_table(table) for table in tables]
    first = [sections.pop(0)] if tables[0].columns[0] == "claim" else []
    body = "\n".join([*first, curve, sections.pop(0), *panels, *sections])
    heading = html.escape(title)
    date = f"<p>{html.escape(stamp)}</p>" if stamp else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{heading}</h1>{date}\n{body}\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    def row(tag: str, values: Sequence[str]) -> str:
        texts = (html.escape(value).replace(" %", "&nbsp;%") for value in values)
        marks = map(_mark, values)
        return "<tr>" + "".join(f"<{tag}{m}>{t}</{tag}>" for m, t in zip(marks, texts, strict=True)) + "</tr>"

    return (
        f"<section><h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
        f'<div class="wide"><table><thead>{row("th", table.columns)}</thead>\n<tbody>'
        + "\n".join(row("td", values) for values in table.rows)
        + "</tbody></table></div></section>"
    )


def _mark(value: str) -> str:
    """Verdicts in colour; a number stays with its interval on one line."""
    number = ' class="number"' if value[:1].isdigit() and len(value) < 24 else ""
    return {"yes": ' class="yes"', "NO": ' class="no"'}.get(value, number)


def _interval(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1280px; margin: 2rem auto; padding: 0
1rem } h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .2rem } p {
max-width: 52rem; margin: .3rem 0 .7rem; color: #444 } figure { margin: 1.5rem 0 } img { max-width: 100%;
height: auto } .wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric:
tabular-nums } th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align:
top } th { border-bottom: 2px solid #888; vertical-align: bottom } tbody tr:hover { background: #f4f6f8 } .yes
{ color: #0a6b3d; font-weight: 600 } .no { color: #b00020; font-weight: 700 }
.number { white-space: nowrap }
"""
