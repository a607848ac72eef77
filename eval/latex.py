"""Tables as LaTeX, for a paper: booktabs, and nothing that needs another package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol


class Table(Protocol):
    """What is needed of a table."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


#: A text as LaTeX, character by character.
ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--",
    "`": r"\textasciigrave{}",
}  # fmt: skip


def tables_in_latex(tables: Sequence[Table], title: str, stamp: str | None = None) -> str:
    """A file to `\\input`: one `table` environment for each table. The preamble needs `\\usepackage{booktabs}`."""
    comment = f"% {title}" + (f", {stamp}" if stamp else "")
    lines = [comment.replace("\n", " "), r"% \usepackage{booktabs}", ""]
    return "\n".join([*lines, *map(_table, tables)])


def _table(table: Table) -> str:
    label = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
    body = [_row(row) for row in table.rows]
    return "\n".join([
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(table.title)}. {escape(table.note)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _row(table.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _row(values: Sequence[str]) -> str:
    return " & ".join(map(escape, values)) + r" \\"


def escape(text: str) -> str:
    """The text as it is to be read; a minus or plus before a number as mathematics."""
    escaped = "".join(ESCAPED.get(character, character) for character in text.replace("\n", " "))
    return re.sub(r"(?<![\w.-])([+-])(?=\d)", r"$\1$", escaped)
