"""Files and command lines of every kind that was ever read wrong, made on the spot, each with what must come of it.

`python -m tests.faults` reads them all, kills processes, fills disks and counts; the tests of each room take the same
tables. See docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from videogpt_plus.types import UserError


@dataclass(frozen=True)
class Line:
    """What a refused file is told in one line: this text is in it."""

    text: str


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what reading it must give."""

    group: str
    name: str
    #: Writes the file (or the folder) into an empty folder; returns its path.
    make: Callable[[Path], Path]
    #: Returns a value that can be compared with ==, or raises UserError.
    read: Callable[[Path], object]
    #: The value, the Line of a file that is refused, or a function of the file's path that returns the value.
    expected: object

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


def failure(kind: Kind, folder: Path) -> str | None:
    """What is wrong with what came of the kind, in words; None where it is as expected."""
    path = kind.make(folder)
    wanted = kind.expected(path) if callable(kind.expected) else kind.expected
    try:
        found = kind.read(path)
    except UserError as error:
        found = Line(str(error))
    if isinstance(wanted, Line) and isinstance(found, Line):
        fits = wanted.text in found.text and "\n" not in found.text
    else:
        fits = found == wanted
    return None if fits else f"expected {wanted}; found {found}"


def all_kinds() -> list[Kind]:
    """Every kind of every group."""
    from . import entries, pictures, records, videos, weights

    return [kind for room in (videos, pictures, entries, records, weights) for kind in room.kinds()]
