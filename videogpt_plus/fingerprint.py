"""Names for contents: what a cell of a sweep was made from, told by hashes and never by a file's existence."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from videogpt_plus.checkpoint import located, read_object, write_json

#: Hashes of large files by path, size and time of change, so that 3 GB are read once and not once a cell.
CACHE = Path(".cache/fingerprints.json")


def of_value(value: object) -> str:
    """16 hexadecimal digits of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def for_files(name: str) -> str:
    """A name for files that no other name has, whatever letters a disk takes for the same.

    Small letters, digits, `-` and `.` stay as they are; of any other name stands its beginning and, behind `_`, a hash.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)[:60]
    same = plain == name and name == name.lower() and name.strip(".")
    return plain if same else f"{plain}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def of_path(path: str | Path) -> str:
    """16 hexadecimal digits of a file's bytes, or of all files of a folder with their names; "absent" without one."""
    path = located(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return of_value([(p.relative_to(path).as_posix(), _of_file(p)) for p in files])
    return _of_file(path) if path.is_file() else "absent"


def _of_file(path: Path) -> str:
    state = path.stat()
    name = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    large = state.st_size > 50_000_000
    known = read_object(CACHE, "remove it") if large and CACHE.is_file() else {}
    if name not in known:
        with path.open("rb") as file:
            known[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if large:
            write_json(CACHE, known)
    return known[name]
