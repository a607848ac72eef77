"""A report as one page of HTML and as Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from eval.report_parts import Part, Section, Table


def markdown(title: str, stamp: str | None, tables: Sequence[Table], pictures: Sequence[str]) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"

    parts = [f"# {title}", *([stamp] if stamp else []), *(f"![{name}]({name})" for name in pictures)]
    for table in tables:
        rule = "|" + "---|" * len(table.columns)
        rows = "\n".join([line(table.columns), rule, *map(line, table.rows)])
        parts += [f"## {table.title}", table.note, rows]
    return "\n\n".join(parts) + "\n"


def page(title: str, stamp: str | None, parts: Sequence[Part], more: Section) -> str:
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
    """The answer first: the sanity checks, then the curve, then the rest."""
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
