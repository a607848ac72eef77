"""Where the faults of one entry end: what reading it raises becomes one ClipError, and the rest goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from videogpt_plus.types import ClipError, UserError, unreadable

#: What no entry can cause: the program itself is wrong, and that has to be seen at once. There is no list of what an
#: entry can cause, for it would never end: PyAV, Pillow, zlib, struct and the tokenizers each raise kinds of their
#: own, which have nothing in common but Exception. Ctrl-C, exit and the like are no Exception and end the run, too.
NEVER_AN_ENTRY = (AssertionError, NameError, ImportError, NotImplementedError, StopIteration, StopAsyncIteration)


class reading:
    """A context in which one entry is read: what goes wrong is a ClipError with the entry's name, in one line.

    A ClipError passes as it is; so does a UserError, which says that the command is wrong and not the entry, and
    NEVER_AN_ENTRY.
    """

    def __init__(self, name: str | Path):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (UserError, *NEVER_AN_ENTRY)):
            raise fault(self.name, error) from error


def fault(name: str | Path, error: Exception) -> ClipError:
    """What `error` says of the entry `name`, and what to do."""
    if isinstance(error, MemoryError):
        return unreadable(name, "it takes more memory than there is", "make its pictures smaller")
    if isinstance(error, OSError) and error.strerror:
        return unreadable(name, error.strerror, "check its name and place")
    told = " ".join(str(error).split())
    return unreadable(name, f"{type(error).__name__}: {told:.200}".rstrip(": "), "correct it, or download it again")


def seconds_of(value: int | float) -> float:
    """The number as seconds; one that is too large for any clip is infinite, which reading the clip refuses."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def names_a_file(name: str) -> bool:
    """Whether the path ends in a name: `.`, `a/..` and the like lead to a folder that holds clips and is none."""
    return name.rstrip("/").rpartition("/")[2] not in ("", ".", "..")


def json_of(text: str) -> Any:
    """The value that `text` holds, or the values of its lines where each is JSON (JSONL). ValueError, RecursionError.

    Text that began with a byte order mark comes here without it: it is read as "utf-8-sig".
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if error.msg != "Extra data" or len(lines) < 2:
            raise
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            raise error from None
