"""A report as one page of HTML and as Markdown: names stand there as they are, and can be neither markup nor links."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence

from eval.report.layout import column_blocks, columns, pieces
from eval.report.parts import CODE, Part, Section, Table
from eval.report.style import STYLE

#: What Markdown would take for markup wherever it stands; an underscore only at the end of a word, as names hold many.
MARKS = re.compile(
    r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])|<(?=[\w/!?])|&(?=[#\w])|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE
)
#: What makes a list, a quotation or a rule at the beginning of a line.
BEGINNING = re.compile(r"^(\d{0,9})([-+>.)])(?=\s|-|$)")
MAIL = re.compile(r"(?<=[\w+-])@(?=[\w-]+\.)")
#: Pixels of a letter, of a column's padding, and of the whole table.
LETTER, PADDING, ROOM = 7.4, 17, 1240
#: A text in words, every second one a space: a unit, a sign before a number and an interval at the end stay whole.
WORDS = re.compile(r"((?<!^<)[ \n](?!%)(?![^()]{1,20}\)$))")
NUMBER = re.compile(r"[-–]\d")


def markdown(title: str, stamp: str | None, tables: Sequence[Table], pictures: Sequence[str]) -> str:
    """`sweep.md`: the pictures by the names of their files, then the tables."""
    head = [f"# {plain_text(title)}", *([plain_text(stamp)] if stamp else [])]
    parts = [*head, *(f"![{plain_text(name)}]({name})" for name in pictures)]
    for table in tables:
        rows = "\n".join([_line(table.columns), "|" + "---|" * len(table.columns), *map(_line, table.rows)])
        parts += [f"## {plain_text(table.title)}", _markdown_note(table.note), rows]
    return "\n\n".join(parts) + "\n"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain_text, values)) + " |"


def plain_text(text: str) -> str:
    """The text for Markdown, on one line, such that it reads as it is."""
    return BEGINNING.sub(r"\1\\\2", _escaped(" ".join(text.split())))


def _escaped(text: str) -> str:
    """Without what would be markup in the midst of a line."""
    return MAIL.sub("<!-- -->@", MARKS.sub(lambda found: f"\\{found[0]}", text))


def _markdown_note(text: str) -> str:
    """A note, whose backticks are meant as code."""
    first, *rest = CODE.split(" ".join(text.split()))
    parts = (f"`{part}`" if i % 2 == 0 else _escaped(part) for i, part in enumerate(rest))
    return BEGINNING.sub(r"\1\\\2", _escaped(first)) + "".join(parts)


def page(title: str, stamp: str | None, parts: Sequence[Part], more: Section) -> str:
    """One file that holds its style and its pictures: it opens anywhere, offline, on a narrow screen and a dark one."""
    last = [*_figures(more.pictures), *map(_html_table, more.tables)]
    body = "\n".join([*(section for part in parts for section in _html_part(part)), *last])
    heading = html.escape(title)
    date = f"<p>{html.escape(stamp)}</p>" if stamp else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{_breakable(title)}</h1>{date}\n{body}\n</body></html>\n"
    )


def _html_part(part: Part) -> list[str]:
    """The answer first: the sanity checks, then the curve, then the rest."""
    curve, *panels = _figures(part.pictures)
    sections = [_html_table(table) for table in part.tables]
    first = [sections.pop(0)] if part.tables[0].columns[0] == "claim" else []
    return [*first, curve, sections.pop(0), *panels, *sections]


def _figures(pictures: Mapping[str, bytes]) -> list[str]:
    return [
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{_breakable(name)}, also as .svg and .pdf</figcaption></figure>"
        for name, data in pictures.items()
    ]


def _html_table(table: Table) -> str:
    """The table with its heading and note; one that is wider than the page in blocks below each other."""
    cells = zip(table.columns, *table.rows, strict=True)
    widths = [PADDING + LETTER * max(map(_widest, column)) for column in cells]
    blocks = [_block(table, kept) for kept in column_blocks(widths, table.keys, ROOM)]
    note = "".join(f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
                   for i, part in enumerate(CODE.split(table.note)))  # fmt: skip
    return f"<section><h2>{_breakable(table.title)}</h2><p>{note}</p>{''.join(blocks)}</section>"


def _block(table: Table, kept: Sequence[int]) -> str:
    head = "".join(f"<th>{_breakable(table.columns[i])}</th>" for i in kept)
    rows = ["<tr>" + "".join(_cell(row[i], table.columns[i]) for i in kept) + "</tr>" for row in table.rows]
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _cell(value: str, column: str) -> str:
    """A cell, which carries the name of its column for narrow screens; verdicts in colour."""
    mark = {"yes": ' class="yes"', "NO": ' class="no"'}.get(value, "")
    return f'<td{mark} data-column="{html.escape(column)}">{_breakable(value)}</td>'


def _breakable(text: str) -> str:
    """The text in HTML: a number stays with its sign, unit and interval's end; a long word may be broken."""
    return "".join(" " if word.isspace() else _word(word) for word in WORDS.split(text))


def _word(word: str) -> str:
    escaped = [html.escape(piece).replace(" ", "&nbsp;") for piece in pieces(word)]
    # A browser would break behind a minus or a dash.
    return f"<span>{escaped[0]}</span>" if NUMBER.search(word) and len(escaped) == 1 else "<wbr>".join(escaped)


def _widest(text: str) -> int:
    """The letters of the longest part that must not be broken."""
    return max((columns(piece) for word in WORDS.split(text) for piece in pieces(word)), default=0)
