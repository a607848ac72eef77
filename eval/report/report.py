"""The report of a sweep: tables, curves and tests, from the cells' scores. Imports no torch.

out_dir/  index.html  sweep.csv  pairs.csv  sweep.md  sweep.tex  accuracy_vs_tokens.png  accuracy_vs_cost.png
          differences.png (of two levels and more)  tasks_by_level.png

Of several benchmarks of options the pictures are called `BENCHMARK_...png`, and both .csv begin with their names; a
sweep whose answers are all judged has neither. Judged answers have files of their own (`judge.levels.files`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.report.cells import are_grouped, fullest, groups, in_order, on_common, over_seeds, tasks
from eval.report.comparisons import Test, compared
from eval.report.csv_files import pairs_csv, stacked, sweep_csv
from eval.report.files import markdown, page
from eval.report.latex import tables_in_latex
from eval.report.layout import file_name
from eval.report.parts import MEAN, NOTHING, Part, Section, Table
from eval.report.plots import means_vs_tokens, tasks_by_level
from eval.report.plots_cost import accuracy_vs_cost
from eval.report.plots_differences import differences
from eval.report.results import Cell
from eval.report.sanity_checks import proof
from eval.report.tables import report_tables
from videogpt_plus.io.files import write_bytes, write_text
from videogpt_plus.types import UserError

__all__ = ["Section", "Table", "proof", "write_report"]


def write_report(
    cells: Sequence[Cell],
    out_dir: str | Path,
    title: str = "Pool sweep",
    stamp: str | None = None,
    more: Section = NOTHING,
    name: str | None = None,
    margin: float | None = None,
) -> Path:
    """Writes the report of the cells into `out_dir` and returns its `index.html`.

    Each benchmark has a section of its own, and nothing is compared across them. Runs that differ in their seed alone
    become one model.
    Accuracies and tests are of the questions that all cells have; `sweep.csv` has each run on all of its own.
    The same cells give the same bytes; `stamp` is printed where it is given, for a date or a seed. `more` comes last,
    such as what is said of judged answers; it may be all that there is. `name` tells the labels of `sweep.tex` from
    those of other reports, the title where it is not given.
    """
    by_benchmark: dict[str | None, list[Cell]] = {}
    for cell in cells:
        by_benchmark.setdefault(cell.benchmark, []).append(cell)
    asked = [benchmark for benchmark, several in by_benchmark.items() if any(cell.control is None for cell in several)]
    if not asked and not more.tables:
        raise UserError(f"no finished cell to report in {out_dir}: run the sweep first")
    out_dir = Path(out_dir)
    parts = [_part(by_benchmark[one], one if len(asked) > 1 else None, margin) for one in asked]
    tables = [*(table for part in parts for table in part.tables), *more.tables]
    pictures = [file for part in (*parts, more) for file in part.pictures]
    for file, content in [item for part in (*parts, more) for item in part.files.items()]:
        write_bytes(out_dir / file, content)
    if parts:
        write_text(out_dir / "sweep.csv", stacked([(part.name, sweep_csv(part.runs)) for part in parts]))
        write_text(out_dir / "pairs.csv", stacked([(part.name, pairs_csv(part.tests)) for part in parts]))
    write_text(out_dir / "sweep.md", markdown(title, stamp, tables, pictures))
    write_text(out_dir / "sweep.tex", tables_in_latex([t for t in tables if t.in_latex], title, stamp, name))
    write_text(out_dir / "index.html", page(title, stamp, parts, more))
    return out_dir / "index.html"


def _part(cells: Sequence[Cell], name: str | None, margin: float | None) -> Part:
    """The section of one benchmark; `name` stands before its tables and pictures where there are several."""
    runs = in_order(fullest(cells))
    common, every = on_common(runs)
    models = in_order(over_seeds(common))
    tests = _tests(models)
    heat = {(t.first, t.second, t.questions): (0.0 - 100 * t.paired.difference, t.shown) for t in tests}
    pictures = {
        "accuracy_vs_tokens": means_vs_tokens(models),
        "accuracy_vs_cost": accuracy_vs_cost(models),
        "differences": differences(models, heat, MEAN),
        "tasks_by_level": tasks_by_level(models),
    }
    tables = report_tables(models, runs, tests, every, margin)
    if name:
        tables = [replace(table, title=f"{name}: {table.title}") for table in tables]
    before = f"{file_name(name)}_" if name else ""
    files = {
        f"{before}{stem}.{ending}": content
        for stem, picture in pictures.items()
        for ending, content in (picture or {}).items()
    }
    return Part(tables, files, name=name, runs=runs, tests=tests)


def _tests(models: Sequence[Cell]) -> list[Test]:
    """Every pair by the mean of tasks and by each group's, one family; and on each task, another."""
    by_group = {group: (group, None) for group in groups(models)} if are_grouped(models) else {}
    by_task = {task: (None, task) for task in tasks(models)}
    return compared(models, {"questions": {MEAN: (None, None)} | by_group, "tasks": by_task})
