"""Errors of one entry of a data set: each becomes one ClipError, and the other entries are read."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from videogpt_plus.io.errors import attempted, in_one_line, translated
from videogpt_plus.types import ClipError, UserError, unreadable

#: Errors that no entry can cause: the program itself is wrong. Errors that an entry can cause cannot be listed: PyAV,
#: Pillow, zlib, struct and the tokenizers raise types of their own that share nothing but Exception.
NEVER_AN_ENTRY = (AssertionError, NameError, ImportError, NotImplementedError, StopIteration, StopAsyncIteration)


def reading(name: str | Path) -> AbstractContextManager[None]:
    """A context in which one entry is read: what goes wrong is a ClipError with the entry's name, in one line.

    A ClipError passes as it is; so does a UserError, which says that the command is wrong and not the entry, and
    NEVER_AN_ENTRY.
    """
    passing = (UserError, *NEVER_AN_ENTRY)
    return translated(Exception, to=lambda error: error if isinstance(error, passing) else fault(name, error))


def named(name: str, path: Path) -> AbstractContextManager[None]:
    """A context whose ClipErrors say `name` instead of `path`, which is a temporary file or one of the server's."""
    return translated(ClipError, to=lambda error: ClipError(str(error).replace(str(path), name)))


def fault(name: str | Path, error: Exception) -> ClipError:
    """What `error` says of the entry `name`, and what to do."""
    if isinstance(error, MemoryError):
        return unreadable(name, "it takes more memory than there is", "make its pictures smaller")
    if isinstance(error, OSError) and error.strerror:
        return unreadable(name, error.strerror, "check its name and place")
    what = f"{type(error).__name__}: {in_one_line(error)}".rstrip(": ")
    return unreadable(name, what, "correct it, or download it again")


def seconds_of(value: int | float) -> float:
    """The number as seconds; one that is too large for any clip is infinite, which reading the clip refuses."""
    with suppress(OverflowError):
        return float(value)
    return math.inf if value > 0 else -math.inf


def names_a_file(name: str) -> bool:
    """Whether the path ends in a name: `.`, `a/..` and the like lead to a folder of clips, not to a clip."""
    return name.rstrip("/").rpartition("/")[2] not in ("", ".", "..")


def json_of(text: str) -> Any:
    """The value that `text` holds, or the values of its lines where each is JSON (JSONL). ValueError, RecursionError.

    Text that began with a byte order mark comes here without it: it is read as "utf-8-sig".
    """
    value = attempted(partial(json.loads, text), json.JSONDecodeError)
    if not isinstance(value, json.JSONDecodeError):
        return value
    lines = [line for line in text.split("\n") if line.strip()]
    if value.msg == "Extra data" and len(lines) > 1:
        with suppress(json.JSONDecodeError):
            return [json.loads(line) for line in lines]
    raise value
