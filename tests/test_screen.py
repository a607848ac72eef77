"""What the commands print can be read and copied wherever it goes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from videogpt_plus.app import screen
from videogpt_plus.app.screen import new_table, show

#: What rich would take for its markup: it would colour, leave out, replace or refuse it.
MARKUP = ("run[1]", "[red]x", "[/]", "[/red] y", "[bold", "a[link=http://x]b", ":smile:", "\\[red]", "{task}")


def test_a_table_in_a_file_or_a_pipe_breaks_no_cell(capsys):
    columns = [f"column number {i}" for i in range(8)]
    cell, title = "+10.3 (+5.2 to +15.1)", "A = /a/folder" + 30 * "/deeper"
    made = new_table("task", *columns, title=f"{title}\nB = b")
    made.add_row("Counterfactual Inference", *(cell for _ in columns))
    show(made)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [title, "B = b"], "a path can be copied"
    (row,) = [line for line in lines if "Counterfactual" in line]
    assert "Counterfactual Inference" in row and row.count(cell) == 8
    made = new_table("a", "b", title="short")
    made.add_row("x" * 20, "1")
    show(made)
    assert capsys.readouterr().out.splitlines()[0].strip() == "short"


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_that_looks_like_markup_is_shown_as_it_is(name, capsys):
    made = new_table(f"column {name}", f"other {name}", title=f"title {name}")
    made.add_row(f"cell {name}", "1")
    show(made)
    with screen.progress(f"progress {name}") as advance:
        advance(1, 1, f"note {name}")
    lines = capsys.readouterr().out.splitlines()
    assert f"title {name}" in lines[0]
    assert any(f"column {name}" in line and f"other {name}" in line for line in lines)
    assert any(f"cell {name}" in line for line in lines)
    assert lines[-1] == f"progress {name}: 1/1 note {name}"


@pytest.mark.parametrize("name", MARKUP)
def test_a_terminal_shows_it_as_it_is_too(name, monkeypatch):
    out = io.StringIO()

    def terminal(width=None, **options) -> Console:
        return Console(width=width or 200, file=out, force_terminal=True, color_system=None, **options)

    monkeypatch.setattr(screen, "Console", terminal)
    made = new_table(f"column {name}", title=f"title {name}")
    made.add_row(f"cell {name}")
    show(made)
    with screen.progress(f"progress {name}") as advance:
        advance(1, 1, f"note {name}")
    shown = out.getvalue()
    assert all(f"{what} {name}" in shown for what in ("column", "title", "cell", "progress", "note"))
