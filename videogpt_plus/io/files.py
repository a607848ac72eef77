"""Files that are written completely or not at all, locks, and paths inside this package."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from videogpt_plus.io.errors import reason, translated
from videogpt_plus.types import UserError

#: What `write_bytes` calls a file until it is whole, with the id of its process.
PART = re.compile(r"\..+\.(\d+)\.part")


#: Prefix of a path inside this package, such as the toy's weights.
PACKAGE = "package:"


def located(path: str | Path) -> Path:
    """The path itself, or the place in this package that `package:...` names."""
    inside = str(path).removeprefix(PACKAGE)
    return Path(path) if inside == str(path) else Path(__file__).parents[1] / inside


def require(path: str | Path, what: str) -> Path:
    """`located(path)` if it exists. UserError: it does not."""
    path = located(path)
    if not path.exists():
        raise UserError(f"{what} not found: {path} does not exist; download it there or name another path")
    return path


def read_json(path: str | Path, then: str, parse: Callable[[str], Any] = json.loads, encoding: str = "utf-8") -> Any:
    """The value that a file holds. UserError: it holds none that can be read; `then` says what to do about it."""

    def told(error: Exception) -> UserError:
        if isinstance(error, OSError):
            return UserError(f"cannot read {path}: {error.strerror}; {then}")
        what = f"is not JSON ({error})" if Path(path).stat().st_size else "is empty"
        return UserError(f"{path} {what}; {then}")

    with translated(OSError, ValueError, RecursionError, to=told):
        return parse(Path(path).read_text(encoding=encoding))


def read_object(path: str | Path, then: str) -> dict[str, Any]:
    """The JSON object in a file. UserError: it holds none; `then` says what to do about it."""
    value = read_json(path, then)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; {then}")
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Replaces `path` by the value as JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of the text in UTF-8; half a pair of surrogates as JSON itself spells it."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Replaces `path` by `data` in one step. UserError: the folder is full, read-only or no folder.

    Not `durable`: a power cut may leave a torn file, for those who check what they read.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def told(error: Exception) -> UserError:
        return UserError(
            f"cannot write {path}: {reason(error)}; free space or choose another folder, then run the same command "
            "again: it resumes"
        )

    with translated(OSError, to=told), ExitStack() as undo:
        undo.callback(remove, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            flush_to_disk(path.parent)  # so that the new name lasts, too


def remove(path: Path) -> None:
    """Removes a file if there is one and the system permits it; another process may have been faster."""
    with suppress(OSError):
        path.unlink()


def sweep_parts(folder: Path) -> None:
    """Removes what killed processes left half-written in `folder` by `write_bytes`; that of a living one stays."""
    for path in folder.glob(".*.part"):
        found = PART.fullmatch(path.name)
        if found and path.is_file() and not is_alive(int(found[1])):
            remove(path)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs on this machine."""
    with suppress(ProcessLookupError, OverflowError):  # of a number that no process can have
        with suppress(PermissionError):  # another user's
            os.kill(pid, 0)
        return True
    return False


#: Texts of torch's zip writer when the disk is full.
TORCH_WRITE_ERRORS = ("PytorchStreamWriter", "inline_container", "iostream error")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what a full, read-only or impossible `folder` raises into a UserError that names it."""

    def told(error: Exception) -> Exception:
        # torch.save tells of a full disk only in the text of a RuntimeError.
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in TORCH_WRITE_ERRORS):
            return error
        advice = "free space there or choose another output folder, then run the same command again: it resumes"
        return UserError(f"cannot write into {folder}: {reason(error)}; {advice}")

    with translated(OSError, RuntimeError, to=told):
        yield


def flush_to_disk(path: Path) -> None:
    """Returns when the file or folder `path` is on the disk."""
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


def locked(file: IO, wait: bool = False) -> bool:
    """Keeps other processes out of an open file until it is closed, even by kill -9; False: one of them is in it.

    With `wait` it returns when nobody else is in it. OSError: the file system has no locks.
    """
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False
