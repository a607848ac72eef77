"""Hashes of contents: they say what a job of a sweep was made from, where the existence of a file would not."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from pathlib import Path

from videogpt_plus.io.errors import attempted
from videogpt_plus.io.files import located, read_object, sweep_parts, write_json
from videogpt_plus.types import UserError

#: Hashes of large files, so that 3 GB are read once and not once a job. A hash is kept as long as the file system says
#: that the file is the same: its device, inode and size, and the time of its last change, which programs cannot set.
#: Bits that a disk loses are not noticed.
CACHE = Path(".cache/fingerprints.json")
#: Bytes above which a hash is kept.
LARGE = 50_000_000
#: Nanoseconds after which a later change has another time, on file systems that count in seconds, too.
SETTLED = 3 * 10**9
HASH = re.compile(r"[0-9a-f]{16}")


def of_value(value: object, digits: int = 16) -> str:
    """So many hexadecimal digits of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def for_files(name: str) -> str:
    """A file name of its own for each name, also on a disk that ignores the case of letters.

    Lower-case letters, digits, `-` and `.` are kept; any other name becomes its beginning, `_` and a hash.
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
    state = _state(path)
    if state[2] <= LARGE:
        return _hash(path)
    known, name = _read_cache(), str(path.resolve())
    if known.get(name, [])[:-1] == state:
        return known[name][-1]
    began, found = time.time_ns(), _hash(path)
    # A file that is changing, or changed so lately that its times might not tell of another change, is read again.
    if _state(path) == state and max(state[3:]) < began - SETTLED:
        sweep_parts(CACHE.parent)
        write_json(CACHE, {**_read_cache(), name: [*state, found]})
    return found


def _state(path: Path) -> list[int]:
    """Device, inode, bytes, and the times of the last change of content and of anything, in nanoseconds."""
    state = path.stat()
    return [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read_cache() -> dict[str, list]:
    """By path, `_state` and hash of large files; a damaged cache is reported on stderr and removed."""
    if not CACHE.is_file():
        return {}
    known = attempted(lambda: read_object(CACHE, "it is made again"), UserError)
    if isinstance(known, UserError):
        print(known, file=sys.stderr)
        CACHE.unlink(missing_ok=True)
        return {}
    return {name: value for name, value in known.items() if _is_entry(value)}


def _is_entry(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 6:
        return False
    *numbers, found = value
    return all(type(n) is int for n in numbers) and isinstance(found, str) and HASH.fullmatch(found) is not None
