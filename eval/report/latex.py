"""Tables as LaTeX, for a paper: they fit the page, and their labels are unique over several reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import wrap

from eval.report.layout import column_blocks, columns, pieces, slug
from eval.report.parts import CODE, Table

#: A text as LaTeX, character by character. A `[` or `*` behind the end of a row would belong to that end.
ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "−": "$-$", "→": r"$\rightarrow$",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\dots{}", "`": r"\textasciigrave{}", '"': r"{\char34}",
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
#: Letters that pdflatex knows; others take lualatex or xelatex.
KNOWN = range(0x180)
#: Letters that fit in a line at 0.75 of the size of the text, and lines that fit on a page.
ROOM, ROWS = 100, 35
#: A heading is broken into lines of so many letters, and a text.
HEADING, TEXT = 14, 40

PREAMBLE = r"""
% \usepackage{booktabs, graphicx, textcomp} \usepackage[T1]{fontenc}
\ifdefined\reportbox\else\newsavebox{\reportbox}\fi
"""


def tables_in_latex(tables: Sequence[Table], title: str, stamp: str | None = None, name: str | None = None) -> str:
    """A file to `\\input`: a `table` environment for each table, several where it would not fit a page.

    The preamble needs what the comment at the top says. Labels are `tab:NAME:TABLE`; `name` tells this report from
    others, the title where it is not given. A table that is too wide still is made smaller.
    """
    comment = f"% {title}" + (f", {stamp}" if stamp else "")
    body, taken = [], set()
    for table in tables:
        label = _label(f"tab:{slug(name or title)}:{slug(table.title)}", taken)
        body += [_table(part, part_label) for part, part_label in _parts(table, label)]
    text = " ".join(comment.split()) + PREAMBLE + "\n" + "\n".join(body)
    unknown = sorted({letter for letter in text if ord(letter) not in KNOWN})
    if unknown:
        text = f"% pdflatex does not know {' '.join(unknown)}: take lualatex or xelatex, and a font that does\n{text}"
    return text


def _label(wanted: str, taken: set[str]) -> str:
    """The label, with a number where another table of the file has it."""
    label, number = wanted, 2
    while label in taken:
        label, number = f"{wanted}-{number}", number + 1
    taken.add(label)
    return label


def _parts(table: Table, label: str) -> Iterator[tuple[Table, str]]:
    """The table in parts that fit a page, the first column in each; with their labels."""
    columns_of_texts = zip(table.columns, *table.rows, strict=True)
    widths = [2 + max(map(columns, _broken(head, texts))) for head, *texts in columns_of_texts]
    count = 0
    for kept in column_blocks(widths, table.keys, ROOM):
        for rows in _pages([[row[i] for i in kept] for row in table.rows]):
            count += 1
            title, note = (f"{table.title} (continued)", "") if count > 1 else (table.title, table.note)
            part = Table(title, note, [table.columns[i] for i in kept], rows)
            yield part, label if count == 1 else f"{label}:{count}"


def _pages(rows: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
    """The rows in parts of at most `ROWS` lines; one that is higher alone."""
    pages, used = [[]], 0
    for row in rows:
        lines = max(len(_lines(text, TEXT)) for text in row)
        if pages[-1] and used + lines > ROWS:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += lines
    return pages


def _table(table: Table, label: str) -> str:
    return "\n".join([
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_prose(table.title)}. {_note(table.note)}}}",
        rf"\label{{{label}}}",
        rf"\sbox{{\reportbox}}{{\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _row(table.columns, HEADING),
        r"\midrule",
        *(_row(row, TEXT) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\ifdim\wd\reportbox>\textwidth\resizebox{\textwidth}{!}{\usebox{\reportbox}}\else\usebox{\reportbox}\fi",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _row(values: Sequence[str], width: int) -> str:
    """One line of the file; texts that are wider in several lines of the table."""
    cells = []
    for i, value in enumerate(values):
        lines = [escape(line) for line in _lines(value, width)]
        stacked = rf"\shortstack[{'r' if i else 'l'}]{{" + r"\\".join(lines) + "}"
        cells.append(lines[0] if len(lines) == 1 else stacked)
    return " & ".join(cells) + r" \\"


def _broken(head: str, texts: Sequence[str]) -> list[str]:
    """All lines of a column."""
    return [*_lines(head, HEADING), *(line for text in texts for line in _lines(text, TEXT))]


def _lines(text: str, width: int) -> list[str]:
    return wrap(text, width, break_on_hyphens=False, break_long_words=width == TEXT) or [""]


def _note(text: str) -> str:
    """The text, what stands in backticks as code."""
    parts = CODE.split(text)  # every second one is code
    return "".join(rf"\texttt{{{escape(part)}}}" if i % 2 else _prose(part) for i, part in enumerate(parts))


def _prose(text: str) -> str:
    """The text, whose long words may be broken."""
    return " ".join(r"\allowbreak{}".join(map(escape, pieces(word))) for word in text.split(" "))


def escape(text: str) -> str:
    """The text as it is to be read; a minus or plus before a number as mathematics."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    signed = re.split(r"(?<![\w.-])([+-])(?=\d)", plain)  # every second one is a sign
    escaped = "".join(
        f"${part}$" if i % 2 else "".join(ESCAPED.get(letter, letter) for letter in part)
        for i, part in enumerate(signed)
    )
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)  # two of them would become a dash or a quotation mark
