"""Append-only files of JSON lines that survive kill -9: locked, fsync'd line by line, a torn last line cut off."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from videogpt_plus.io.errors import attempted, reason, translated
from videogpt_plus.io.files import locked, read_object, sweep_parts, write_text
from videogpt_plus.types import UserError


def clip_of(line: Mapping[str, Any]) -> str:
    """The clip of an answer: its folder and name, or the file's name alone where no folder was recorded."""
    return line.get("clip", line["video"])


def wrong_field(
    line: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], needed: Sequence[str] = ()
) -> str | None:
    """What is wrong with the first field that is needed and missing, or of another kind; None where all are fine.

    Kinds are those of JSON's values: str, bool, int, float (any number that is finite), dict, list, NoneType.
    """
    missing = next((name for name in needed if name not in line), None)
    if missing is not None:
        return f"no '{missing}'"
    wrong = next((name for name in kinds.keys() & line.keys() if not _fits(line[name], kinds[name])), None)
    return None if wrong is None else f"'{wrong}' is {json.dumps(line[wrong])[:60]}"


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int | float) and float in kinds:
        return abs(value) <= sys.float_info.max  # NaN is not
    return isinstance(value, kinds)


def open_locked(path: Path) -> BinaryIO:
    """The file, open for appending, unbuffered and locked. UserError: another process writes it."""
    with _disk(path), ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(path.open("ab+", buffering=0))
        if not locked(file):
            raise UserError(f"{path} is being written by another process; wait for it or stop it")
        stack.pop_all()
    sweep_parts(path.parent)
    return file


def append(file: BinaryIO, path: Path, *lines: Mapping[str, Any]) -> None:
    """Writes the lines and returns when they are on disk."""
    texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    left = "".join(texts).encode("utf-8", "backslashreplace")
    with _disk(path):
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def cut_torn_line(file: BinaryIO, path: Path) -> int:
    """Cuts off what follows the last line end: a kill during a write leaves it. Returns its bytes."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with _disk(path):
            file.truncate(whole)
    return len(content) - whole


def read_lines(
    path: str | Path, what: str, then: str, wrong: Callable[[Mapping[str, Any]], str | None] | None = None
) -> dict[str, dict[str, Any]]:
    """Lines by their `key`, the latest of each key; {} without a file. A torn last line does not count.

    UserError names a line that is not `what`, or of which `wrong` says that something is, and says `then`.
    """
    path = Path(path)
    if not path.exists():
        return {}
    lines = {}
    *whole, _torn = path.read_bytes().split(b"\n")
    for number, raw in enumerate(whole, start=1):
        line = attempted(partial(json.loads, raw), ValueError, RecursionError)
        told = _not_a_line(line) or (wrong and wrong(line))
        if told:
            raise UserError(f"{path}, line {number}: not {what} ({told}); {then}")
        lines[line["key"]] = line
    return lines


def _not_a_line(value: Any) -> str | None:
    """Why a value is no line with a key; None where it is one."""
    if isinstance(value, Exception):
        return str(value)
    if not isinstance(value, dict):
        return "it is no object"
    key = value.get("key")
    return None if isinstance(key, str) else f"'key' is {json.dumps(key)[:60]}"


def meta_path(path: str | Path) -> Path:
    """`answers.meta.json` of `answers.jsonl`."""
    return Path(path).with_suffix(".meta.json")


def claim(
    path: Path, header: dict[str, Any], what: str, read: Mapping[str, Any] | None = None, told: Collection[str] = ()
) -> None:
    """Writes `header` to the meta file. UserError: the lines that are there have another header.

    `read` is the header that was found; without it, it is read from the meta file. Fields named in `told` are
    locations: they may differ, and the new ones are written.
    """
    header = json.loads(json.dumps(header))
    found = dict(header)
    if path.stat().st_size:
        found = dict(read) if read is not None else read_object(meta_path(path), f"move it and {path} away")
    names = sorted((found.keys() | header.keys()) - set(told))
    differing = [name for name in names if found.get(name) != header.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"{path} holds {what} with {name} = {json.dumps(found.get(name))}, "
            f"this run has {json.dumps(header.get(name))}; move them away or choose another folder"
        )
    if not path.stat().st_size or found != header:
        text = json.dumps(header, indent=2, sort_keys=True) + "\n"
        write_text(meta_path(path), text)


def _disk(path: Path) -> AbstractContextManager[None]:
    """Turns a full or read-only disk into one clear line."""
    advice = "free space, permit writing or choose another folder, then run the same command again: it resumes"
    return translated(OSError, to=lambda error: UserError(f"{path} cannot be written: {reason(error)}; {advice}"))
