"""What a report is made of: tables, files of others, comparisons and the section of one benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.report.cells import Cell
from eval.report.compare import verdict
from eval.statistics.estimates import LEVEL
from eval.statistics.paired import Paired

#: What stands in backticks in a note is code.
CODE = re.compile(r"`([^`\n]+)`")
#: The row of `sweep.csv` that holds the mean over tasks.
MEAN = "mean of all tasks"
#: The column of the smallest difference that a paired test sees with 80 % power.
DETECTABLE = "minimum detectable difference (80 % power)"


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
        return shown(self.files)


#: What is added where nobody adds anything.
NOTHING = Section()


@dataclass(frozen=True)
class Test:
    """One comparison of two models; `adjusted` is its p after Holm over all `family_size` comparisons of its family."""

    family: str
    label: str
    first: str
    second: str
    questions: str
    paired: Paired
    #: The same without the questions that a run failed at; None where none did.
    readable: Paired | None
    #: The seeds that were compared, and how many either model has.
    seeds: tuple[int | None, ...]
    of_seeds: tuple[int, int]
    adjusted: float = 1.0
    family_size: int = 1

    @property
    def verdict(self) -> str:
        """With one seed it is a run that is better, and not yet a level."""
        what = "" if self.paired.seeds > 1 else " run"
        return verdict(self.paired, self.adjusted, (f"first{what} is better", f"second{what} is better"))

    @property
    def shown(self) -> bool:
        """Whether there is more than chance."""
        return self.adjusted < LEVEL

    @property
    def detectable(self) -> float:
        """The minimum detectable difference at the level that Holm leaves to the first of the family."""
        return self.paired.detectable_at(LEVEL / self.family_size)


@dataclass(frozen=True)
class Part:
    """What the report says of one benchmark of options."""

    #: Its name where there are several.
    name: str | None
    runs: Sequence[Cell]
    tests: Sequence[Test]
    tables: Sequence[Table]
    #: Pictures by the names of their files, each as PNG, SVG and PDF.
    files: Mapping[str, bytes]

    @property
    def pictures(self) -> dict[str, bytes]:
        return shown(self.files)


def shown(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of the files those that stand in the page and in `sweep.md`."""
    return {name: content for name, content in files.items() if name.endswith(".png")}
