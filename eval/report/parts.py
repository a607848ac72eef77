"""What a page is made of: tables, files of others and the section of one benchmark; and how its numbers are printed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unicodedata import category, normalize

from eval.statistics.estimates import ACCURACY, Estimate, Scale

if TYPE_CHECKING:
    from eval.report.comparisons import Test
    from eval.report.results import Cell
    from eval.statistics.paired import Paired

#: What stands in backticks in a note is code.
CODE = re.compile(r"`([^`\n]+)`")
#: The row of `sweep.csv` that holds the mean over tasks.
MEAN = "mean of all tasks"
#: The column of the smallest difference that a paired test sees with 80 % power.
DETECTABLE = "minimum detectable difference (80 % power)"
#: A spreadsheet runs a cell that begins so, unless it is a number; some of them leave out what is not seen before it.
RUN = ("=", "+", "-", "@", "\t", "\r", "\n")
#: Signs that are not seen, though Unicode calls them letters or symbols: fillers of Hangul, and an empty Braille cell.
UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A table with its heading and what it says, for Markdown and HTML alike."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: Whether it goes to `sweep.tex` too.
    in_latex: bool = False
    #: So many of the first columns say what a row is about.
    keys: int = 1


@dataclass(frozen=True)
class Section:
    """What others add to a report: tables, and files by name; those that end in .png are shown."""

    tables: Sequence[Table] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def pictures(self) -> dict[str, bytes]:
        """Of the files those that stand in the page and in `sweep.md`."""
        return {name: content for name, content in self.files.items() if name.endswith(".png")}


#: What is added where nobody adds anything.
NOTHING = Section()


@dataclass(frozen=True, kw_only=True)
class Part(Section):
    """What the report says of one benchmark of options; its name where there are several."""

    name: str | None
    runs: Sequence[Cell]
    tests: Sequence[Test]


def interval(found: Estimate, scale: Scale = ACCURACY) -> str:
    return f"{scale.show(found.value)} ({scale.show(found.low)} to {scale.show(found.high)})"


def difference(found: Paired, scale: Scale = ACCURACY) -> str:
    low, high = scale.show(found.low, "+"), scale.show(found.high, "+")
    return f"{scale.show(found.difference, '+')} ({low} to {high})"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A CSV in which no name is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *(map(safe, row) for row in rows)])
    return out.getvalue()


def safe(value: Any) -> Any:
    """The value for a cell: floats with 6 digits; a text that a spreadsheet would run has an apostrophe before it."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str) and not NUMBER.fullmatch(value) and (value[:1] in RUN or _first_seen(value) in RUN):
        return f"'{value}"
    return value


def _first_seen(text: str) -> str:
    """The first sign, in plain form, that is no space, control sign, mark or anything else that is not seen."""
    signs = (sign for sign in text if category(sign)[0] not in "ZCM" and sign not in UNSEEN)
    return normalize("NFKC", next(signs, " "))
