"""What the command line shows while it works: tables and progress, by rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from videogpt_plus.app.listener import Advance, Listener


def new_table(*columns: str, title: str) -> Table:
    """An empty table, its first column to the left and the others to the right."""
    made = Table(title=title)
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left")
    return made


def _console(width: int | None = None) -> Console:
    """Shows texts as they are: a run may be called `a[1]`, a task `[/red]` and a folder `:smile:`."""
    return Console(width=width, markup=False, emoji=False, highlight=False)


def show(made: Table) -> None:
    """On a terminal the table is as wide as that; in a file or a pipe, which have no width, no cell is broken."""
    console = _console()
    if not console.is_terminal:
        widest = _console(width=10_000)
        console.width = max(console.width, Measurement.get(widest, widest.options, made).maximum)
    title = made.title.splitlines() if isinstance(made.title, str) else []
    if any(len(line) > Measurement.get(console, console.options, made).maximum for line in title):
        made.title = None  # else it would be broken at the table's width: a path could not be copied
        print(*title, sep="\n")
    console.print(made)


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar on a terminal, a line at every tenth elsewhere; yields advance(done, total, note)."""
    console, tenth = _console(), 0
    described, noted = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
    columns = (described, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), noted)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal tenth
            bar.update(task, completed=done, total=total, note=note)
            if not console.is_terminal and 10 * done // total > tenth:
                tenth = 10 * done // total
                print(f"{title}: {done}/{total} {note}".rstrip(), flush=True)

        yield advance


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


#: What a command shows: lines on standard output, warnings on standard error, bars.
TERMINAL = Listener(print, _warn, progress)
