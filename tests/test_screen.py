"""What the commands print can be read and copied wherever it goes."""

from __future__ import annotations

from videogpt_plus.screen import show, table


def test_a_table_in_a_file_or_a_pipe_breaks_no_cell(capsys):
    columns = [f"column number {i}" for i in range(8)]
    cell, title = "+10.3 (+5.2 to +15.1)", "A = /a/folder" + 30 * "/deeper"
    made = table("task", *columns, title=f"{title}\nB = b")
    made.add_row("Counterfactual Inference", *(cell for _ in columns))
    show(made)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [title, "B = b"], "a path can be copied"
    (row,) = [line for line in lines if "Counterfactual" in line]
    assert "Counterfactual Inference" in row and row.count(cell) == 8
    made = table("a", "b", title="short")
    made.add_row("x" * 20, "1")
    show(made)
    assert capsys.readouterr().out.splitlines()[0].strip() == "short"
