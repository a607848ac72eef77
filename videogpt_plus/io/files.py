"""Files that are there whole or not at all, and paths inside this package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from videogpt_plus.types import UserError

#: What `write_bytes` calls a file until it is whole, with the id of its process.
PART = re.compile(r"\..+\.(\d+)\.part")


#: Before a path inside this package: the toy's weights lie there wherever it is installed.
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


def read_object(path: str | Path, then: str) -> dict[str, Any]:
    """The JSON object in a file that is there. UserError: it holds none; `then` says what to do about it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {then}") from error
    except (ValueError, RecursionError) as error:
        what = f"is not JSON ({error})" if Path(path).stat().st_size else "is empty"
        raise UserError(f"{path} {what}; {then}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; {then}")
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON as safely as `save_tensors` does; half a pair of surrogates as JSON itself spells it."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Replaces `path` by `data` in one step. UserError: the folder is full, read-only or no folder.

    Not `durable`: a power cut may leave a torn file, for those who check what they read.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the same trouble may forbid this, too
            part.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder, then run the same command "
            "again: it goes on"
        ) from error


def sweep_parts(folder: Path) -> None:
    """Removes what killed processes left half-written in `folder` by `write_bytes`; that of a living one stays."""
    for path in folder.glob(".*.part"):
        found = PART.fullmatch(path.name)
        if found and path.is_file() and not is_alive(int(found[1])):
            with suppress(OSError):  # another process was faster, or a folder that may only be read
                path.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    except OverflowError:  # no id of any process
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


#: Texts of torch's zip writer when the disk is full.
TORCH_WRITE_ERRORS = ("PytorchStreamWriter", "inline_container", "iostream error")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what a full, read-only or impossible `folder` raises into a UserError that names it."""
    advice = "free space there or choose another output folder, then run the same command again: it goes on"
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; {advice}") from error
    except RuntimeError as error:
        # torch.save tells of a full disk only in the text of a RuntimeError.
        if not any(sign in str(error) for sign in TORCH_WRITE_ERRORS):
            raise
        raise UserError(f"cannot write into {folder}: {str(error).splitlines()[0]}; {advice}") from error


def flush_to_disk(path: Path) -> None:
    """Returns when the file or folder `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
