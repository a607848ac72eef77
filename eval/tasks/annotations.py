"""Reading a benchmark's annotations: each error is one line with the file and the entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videogpt_plus.io import files
from videogpt_plus.io.entries import json_of, names_a_file
from videogpt_plus.types import UserError


def read_json(path: Path) -> Any:
    """The file's value. UserError: it cannot be read."""
    return files.read_json(path, "build or download the benchmark again", json_of, "utf-8-sig")


def read_list(path: Path) -> list[Any]:
    """The entries of a file of questions. UserError: it holds none."""
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path}: expected a list of questions; found {shown(entries)}; build or download the benchmark again"
        )
    return entries


def text_of(entry: Mapping[str, Any], name: str, where: str) -> str:
    """The field as text; a number is written out, as the reference's prompt does. Raises UserError."""
    value = entry.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: '{name}' must be a text that is not empty; found {shown(value)}")
    return value


def clip_of(folder: Path, video: str) -> Path:
    """The path of the clip `video` of an entry; one that names no file leads to no clip, even if its folder exists."""
    return folder / video if names_a_file(video) else folder / f"{video} (which names no file)"


def shown(value: Any) -> str:
    """The value in a message: nothing at all reads `nothing`, long ones are cut."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
