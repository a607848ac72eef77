"""The report of a sweep: tables, curves and tests, from the cells' scores. Imports no torch.

out_dir/  index.html  sweep.csv  pairs.csv  sweep.md  sweep.tex  accuracy_vs_tokens.png  accuracy_vs_cost.png
          differences.png (of two levels and more)  tasks_by_level.png

Of several benchmarks of options the pictures are called `BENCHMARK_...png`, and both .csv begin with their names; a
sweep whose answers are all judged has neither. Judged answers have files of their own (`judge.levels.files`).
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from math import floor, log10
from pathlib import Path
from statistics import median
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
    fullest,
    groups,
    in_order,
    mean_of,
    on_common,
    over_seeds,
    paired,
    pairs,
    rows_of,
    runs_of,
    seeds_said,
    tasks,
    with_control,
)
from eval.compare import LEVEL, NONE_SHOWN
from eval.latex import tables_in_latex
from eval.proof import proof
from eval.stats import Estimate, Paired, holm, margin, resolvable
from videogpt_plus.checkpoint import write_bytes
from videogpt_plus.flops import TEXT_TOKENS
from videogpt_plus.types import UserError

__all__ = ["proof", "write_report"]

CSV_COLUMNS = [
    "experiment", "adapter", "level", "seed", "visual_tokens", "control", "task", "group", "n", "n_failed",
    "n_unparsed", "accuracy", "ci_low", "ci_high", "chance", "majority", "reference_rule_accuracy",
    "seconds_per_question", "seconds_to_first_token", "flops", "kv_bytes",
]  # fmt: skip
#: The row of `sweep.csv` that holds the mean over tasks.
MEAN = "mean of all tasks"
#: What is compared over all tasks, in the tables of tests.
ALL = "all questions"
#: The controls in the order of the columns, and what the note says of each.
SHOWN_INSTEAD = {
    "one_frame": "one frame repeated",
    "shuffled": "all frames shuffled",
    "blind": "blind, without any visual token",
}
#: Shares of questions that change sides between two levels, as they are seen in practice.
DISCORDANCES = (0.08, 0.15, 0.20)


TEST_COLUMNS = [
    "comparison", "questions", "n", "only first right", "only second right", "difference", "p", "p adjusted", "finds",
    "shown",
]  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table with its heading and what it says, for Markdown and HTML alike."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: Whether it goes to `sweep.tex` too.
    in_latex: bool = False


@dataclass(frozen=True)
class Section:
    """What others add to a report: tables, and files by name; those that end in .png are shown."""

    tables: Sequence[Table] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def pictures(self) -> dict[str, bytes]:
        return {name: content for name, content in self.files.items() if name.endswith(".png")}


@dataclass(frozen=True)
class Test:
    """One comparison of two models; `adjusted` is its p after Holm over all comparisons of its family."""

    family: str
    label: str
    first: str
    second: str
    questions: str
    paired: Paired
    adjusted: float = 1.0

    @property
    def verdict(self) -> str:
        return NONE_SHOWN if self.adjusted >= LEVEL else "first" if self.paired.difference > 0 else "second"


@dataclass(frozen=True)
class Part:
    """What the report says of one benchmark of options."""

    #: Its name where there are several.
    name: str | None
    runs: Sequence[Cell]
    tests: Sequence[Test]
    tables: Sequence[Table]
    #: PNG by the name of its file.
    pictures: Mapping[str, bytes]


def write_report(
    cells: Sequence[Cell],
    out_dir: str | Path,
    title: str = "Pool sweep",
    stamp: str | None = None,
    more: Section = Section(),
) -> Path:
    """Writes the report of the cells into `out_dir` and returns its `index.html`.

    A cell is a dict of experiment, adapter, level, visual_tokens, control (None for all frames), scores, and where
    they are known seed, num_frames, random (weights that nobody trained), flops and kv_bytes of a question, and
    benchmark where there are several: each has a section of its own, and nothing is compared across them. Runs that
    differ in their seed alone become one model.
    Accuracies and tests are of the questions that all cells have; `sweep.csv` has each run on all of its own.
    The same cells give the same bytes; `stamp` is printed where it is given, for a date or a seed. `more` comes last,
    such as what is said of judged answers; it may be all that there is.
    """
    by_benchmark: dict[str | None, list[Cell]] = {}
    for cell in cells:
        by_benchmark.setdefault(cell.get("benchmark"), []).append(cell)
    asked = [name for name, several in by_benchmark.items() if any(cell["control"] is None for cell in several)]
    if not asked and not more.tables:
        raise UserError(f"no finished cell to report in {out_dir}: run the sweep first")
    out_dir = Path(out_dir)
    parts = [_part(by_benchmark[name], name if len(asked) > 1 else None) for name in asked]
    tables = [*(table for part in parts for table in part.tables), *more.tables]
    pictures = {name: picture for part in (*parts, more) for name, picture in part.pictures.items()}
    for name, content in {**pictures, **more.files}.items():
        write_bytes(out_dir / name, content)
    if parts:
        write_atomically(out_dir / "sweep.csv", _stacked([(part.name, _csv(part.runs)) for part in parts]))
        write_atomically(out_dir / "pairs.csv", _stacked([(part.name, _pairs_csv(part.tests)) for part in parts]))
    write_atomically(out_dir / "sweep.md", _markdown(title, stamp, tables, list(pictures)))
    write_atomically(out_dir / "sweep.tex", tables_in_latex([t for t in tables if t.in_latex], title, stamp))
    write_atomically(out_dir / "index.html", _html(title, stamp, parts, more))
    return out_dir / "index.html"


def _part(cells: Sequence[Cell], name: str | None) -> Part:
    """The section of one benchmark; `name` stands before its tables and pictures where there are several."""
    runs = in_order(fullest(cells))
    common, every = on_common(runs)
    models = in_order(over_seeds(common))
    tests = _tests(models)
    heat = {(t.first, t.second, t.questions): (0.0 - 100 * t.paired.difference, t.verdict != NONE_SHOWN) for t in tests}
    pictures = {
        "accuracy_vs_tokens.png": plots.accuracy_vs_tokens(models),
        "accuracy_vs_cost.png": plots.accuracy_vs_cost(models),
        "differences.png": plots.differences(models, heat, ALL),
        "tasks_by_level.png": plots.tasks_by_level(models),
    }
    tables = _tables(models, runs, tests, every)
    if name:
        tables = [replace(table, title=f"{name}: {table.title}") for table in tables]
    named = {f"{name}_{file}" if name else file: picture for file, picture in pictures.items() if picture}
    return Part(name, runs, tests, tables, named)


def _stacked(files: Sequence[tuple[str | None, str]]) -> str:
    """One CSV of several with equal columns; where they have names, these are the first column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, (name, text) in enumerate(files):
        head, *rows = csv.reader(io.StringIO(text))
        if not number:
            writer.writerow(["benchmark", *head] if name else head)
        writer.writerows([name, *row] if name else row for row in rows)
    return out.getvalue()


def _tests(models: Sequence[Cell]) -> list[Test]:
    """Every pair over all questions and over each group, one family; and over each task, another."""
    by_group = groups(models) if are_grouped(models) else []
    families = {
        "questions": [(ALL, None, None), *((group, group, None) for group in by_group)],
        "tasks": [(task, None, task) for task in tasks(models)],
    }
    tests: list[Test] = []
    for family, parts in families.items():
        found = [
            Test(family, label, first["experiment"], second["experiment"], name, result)
            for label, first, second in pairs(models)
            for name, group, task in parts
            if (result := paired(first, second, group, task))
        ]
        adjusted = holm([test.paired.p for test in found])
        tests += [replace(test, adjusted=p) for test, p in zip(found, adjusted, strict=True)]
    return tests


def _tables(models: Sequence[Cell], runs: Sequence[Cell], tests: Sequence[Test], every: int) -> list[Table]:
    by_series = list(curves(models).items())
    n = len(correct(next(m for m in models if m["control"] is None), None))
    said = f"{seeds_said(models)} {n:,} of {every:,} questions are in every run; the table is about these."
    return [
        *_proof_table(models),
        *(_accuracy_table(models, *one, groups(models), tests, said) for one in by_series if are_grouped(models)),
        _cost_table(models),
        *(_accuracy_table(models, *one, None, tests, said) for one in by_series),
        *_paired_tables(tests, said),
        _resolution_table(models, tests),
        _run_table(runs),
        *_failures_table(runs),
    ]


def _proof_table(cells: Sequence[Cell]) -> list[Table]:
    verdicts = {True: "yes", False: "NO", None: "not measured"}
    rows = [(claim, measured, verdicts[ok]) for claim, measured, ok in proof(cells)]
    note = "What a pipe that sees must show on a benchmark whose answers are known by construction."
    return [Table("Does the pipe see?", note, ["claim", "measured", "holds"], rows)] if rows else []


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
    asked = [what for control, what in SHOWN_INSTEAD.items() if any(c["control"] == control for c in controls)]
    shown_instead = f"Controls: {'; '.join(asked)}. " if asked else ""
    columns = [
        *(["group", "tasks"] if by_group else ["task", "group", "needs level"]),
        "n", "chance", "majority",
        *(f"level {cell['level']:g}: {cell['visual_tokens']:,} tokens" for cell in curve),
        *(f"{cell['control'].replace('_', ' ')}, level {cell['level']:g}" for cell in controls),
        "finds",
    ]  # fmt: skip
    shown = [*curve, *controls]
    if by_group:
        rows = [[*_group_row(shown, group), _finds(curve, tests, group or ALL)] for group in [*by_group, None]]
    else:
        rows = [[*_task_row(shown, task), _finds(curve, tests, task)] for task in tasks(curve)]
        rows.append([MEAN, "", "", *_group_row(shown, None)[2:], _finds(curve, tests, ALL)])
    what = "group of tasks" if by_group else "task"
    note = (
        "Accuracy in % with its 95 % interval. Unreadable clips and replies without one clear option count as wrong. "
        f"{shown_instead}"
        "Finds: the smallest difference in points between two levels that a paired test at 5 % sees with 80 % power, "
        f"by how many questions change sides between neighbouring levels; smaller ones are not shown. {said}"
    )
    return Table(f"{name}: accuracy by {what}", note, columns, rows, in_latex=True)


def _finds(curve: Sequence[Cell], tests: Sequence[Test], questions: str) -> str:
    """The smallest difference that a test finds, at the median discordance of neighbouring levels."""
    neighbours = {(fine["experiment"], coarse["experiment"]) for fine, coarse in pairwise(curve)}
    found = [t.paired.detectable for t in tests if (t.first, t.second) in neighbours and t.questions == questions]
    return _points(median(found)) if found else ""


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


def _paired_tables(tests: Sequence[Test], said: str) -> list[Table]:
    """All pairs over all questions and groups; of the pairs by task, those that show a difference."""
    whole, by_task = ([t for t in tests if t.family == family] for family in ("questions", "tasks"))
    shown = [t for t in by_task if t.verdict != NONE_SHOWN]
    how = (
        "The same questions, paired; difference in points with its 95 % interval, clips being resampled as a whole. "
        "p: exact, the questions of a clip changing sides together (McNemar's exact test where a clip has one "
        "question); of several seeds a t test that holds their noise. The adjusted p (Holm) of one table keeps the "
        f"chance of any false alarm in it at 5 %. Finds: the smallest difference seen with 80 % power. {said}"
    )
    only = f"{len(shown)} of {len(by_task)} comparisons of two models on one task show a difference"
    return [
        *([Table("Paired tests", how, TEST_COLUMNS, list(map(_test_row, whole)), in_latex=True)] if whole else []),
        *(
            [Table("Paired tests by task", f"{only}; {NONE_SHOWN} in the others, which `pairs.csv` lists. {how}",
                   TEST_COLUMNS, list(map(_test_row, shown)))]
            if by_task
            else []
        ),
    ]  # fmt: skip


def _test_row(test: Test) -> list[str]:
    found = test.paired
    return [
        test.label, test.questions, f"{found.n:,}", _count(found.only_first), _count(found.only_second),
        f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})",
        _p(found.p), _p(test.adjusted), _points(found.detectable),
        test.verdict if test.verdict == NONE_SHOWN else f"{test.verdict} is better",
    ]  # fmt: skip


def _count(number: float) -> str:
    """A mean over seeds has a digit behind the point."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def _pairs_csv(tests: Sequence[Test]) -> str:
    out = io.StringIO()
    numbers = list(Paired.__dataclass_fields__)
    columns = ["family", "first", "second", "questions", *numbers, "p_holm", "verdict"]
    names = {"first": "accuracy_first", "second": "accuracy_second"}
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns[:4], *(names.get(name, name) for name in columns[4:])])
    for test in tests:
        row = [*asdict(test.paired).values(), test.adjusted, test.verdict]
        values = [round(v, 6) if isinstance(v, float) else v for v in row]
        writer.writerow([test.family, test.first, test.second, test.questions, *values])
    return out.getvalue()


def _resolution_table(cells: Sequence[Cell], tests: Sequence[Test]) -> Table:
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
            *("too few" if (found := resolvable(n, d)) is None else _points(found) for d in DISCORDANCES),
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
        "test at 5 % finds with 80 % power, by how many questions change sides between them; too few questions find "
        "none. "
        f"{_seen_discordance(tests)}Noise of training is not in these numbers."
    )
    return Table("What the benchmark can resolve", note, columns, rows)


def _seen_discordance(tests: Sequence[Test]) -> str:
    shares = [100 * test.paired.discordance for test in tests if test.questions == ALL]
    return f"Seen in this sweep: {min(shares):.0f} to {max(shares):.0f} %. " if shares else ""


def _run_table(cells: Sequence[Cell]) -> Table:
    rows = []
    for cell in cells:
        total = cell["scores"]["overall"]
        rows.append([
            cell["experiment"], cell["adapter"], f"{cell['level']:g}", str(cell.get("seed", "")),
            f"{cell['visual_tokens']:,}", (cell["control"] or "none").replace("_", " "), f"{total['n']:,}",
            str(total["n_failed"]),
            f"{total['n_unparsed']} ({100 * total['n_unparsed'] / total['n']:.1f} %)",
            _points(total["macro"]["accuracy"]), _points(total["micro"]["accuracy"]),
            _points(total["reference_rule_accuracy"]), f"{total['seconds_per_question']:.2f}",
        ])  # fmt: skip
    columns = [
        "experiment", "adapter", "level", "seed", "visual tokens", "control", "n", "unreadable clips",
        "no clear option", "mean of tasks", "mean of questions", "reference's rule", "seconds a question",
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


def _csv(runs: Sequence[Cell]) -> str:
    """A row for each run and task, then the means over seeds where there are several."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in [*runs, *(model for model in over_seeds(runs) if "runs" in model)]:
        names = ("experiment", "adapter", "seed", "visual_tokens", "flops", "kv_bytes")
        model = {name: cell.get(name) for name in names}
        model |= {"level": f"{cell['level']:g}", "control": cell["control"] or "none"}
        model |= {"seed": f"mean of {len(runs_of(cell))}"} if "runs" in cell else {}
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


def _html(title: str, stamp: str | None, parts: Sequence[Part], more: Section) -> str:
    """One file that holds its style and its pictures: it opens anywhere, offline."""
    last = [*_figures(more.pictures), *map(_html_table, more.tables)]
    body = "\n".join([*(section for part in parts for section in _html_part(part)), *last])
    heading = html.escape(title)
    date = f"<p>{html.escape(stamp)}</p>" if stamp else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{heading}</h1>{date}\n{body}\n</body></html>\n"
    )


def _html_part(part: Part) -> list[str]:
    """The answer first: whether the pipe sees, then the curve, then the rest."""
    curve, *panels = _figures(part.pictures)
    sections = [_html_table(table) for table in part.tables]
    first = [sections.pop(0)] if part.tables[0].columns[0] == "claim" else []
    return [*first, curve, sections.pop(0), *panels, *sections]


def _figures(pictures: Mapping[str, bytes]) -> list[str]:
    return [
        f'<figure><img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}"></figure>'
        for name, data in pictures.items()
    ]


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
