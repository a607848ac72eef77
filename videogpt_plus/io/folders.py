"""Folders that this project makes: rendered clips, random weights, copies. Each is there complete or not at all.

`made.json` in a folder says what it was made from. Only a folder with that file is ever replaced.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from videogpt_plus.io.errors import attempted
from videogpt_plus.io.files import is_alive, locked, read_object, write_json, writing
from videogpt_plus.types import UserError

MADE = "made.json"


@contextmanager
def making(root: Path, wanted: object, names: Sequence[str], shared: bool = False) -> Iterator[Path | None]:
    """A new folder to fill with `names`, which then replace those in `root`; None if they are there, from `wanted`.

    Whatever else `root` holds is kept. Of several processes one fills it while the others wait; a killed one leaves
    nothing under the names. `shared`: `root` also holds files of others. UserError: `root` holds something that was not
    made here, or cannot be written.
    """
    wanted = json.loads(json.dumps(wanted))
    if _made_from(root, quiet=True) == wanted:
        yield None
        return
    scratch = root.with_name(f".{root.name}.part")
    with writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f"{root.name}.lock").open("a")
    with lock:
        locked(lock, wait=True)
        if _made_from(root) == wanted:
            yield None
            return
        _check_ours(root, names if shared else None)
        with writing(root):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            yield scratch
            _replace(root, scratch, wanted, names)
            Path(lock.name).unlink(missing_ok=True)  # who waits for it finds all made


def _made_from(root: Path, quiet: bool = False) -> object:
    """What `root` was made from; None if that is unknown. A damaged record is reported on stderr unless `quiet`."""
    if not (root / MADE).is_file():
        return None
    made = attempted(lambda: read_object(root / MADE, "the folder is made again"), UserError)
    if not isinstance(made, UserError):
        return made
    if not quiet:
        print(made, file=sys.stderr)
    return None


def _check_ours(root: Path, names: Sequence[str] | None) -> None:
    """UserError: `root` holds one of the names, or anything at all, and was not made here."""
    if (root / MADE).is_file() or not os.path.lexists(root):
        return
    if not root.is_dir():
        raise UserError(f"{root} is no folder: move it away or choose another place")
    there = sorted(path.name for path in root.iterdir() if names is None or path.name in names)
    if there:
        raise UserError(
            f"{root} was not made here (it has no {MADE}) and holds {there[0]}: it is left as it is; move it away or "
            "choose another folder"
        )


def _replace(root: Path, scratch: Path, wanted: object, names: Sequence[str]) -> None:
    """Moves the names from `scratch` to `root`; meanwhile `made.json` says that `root` is incomplete."""
    root.mkdir(exist_ok=True)
    write_json(root / MADE, {"whole": False})
    for name in names:
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
        shutil.move(scratch / name, old)  # `root` may be a disk of its own
    write_json(root / MADE, wanted)
    shutil.rmtree(scratch)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` in one step when it is full. UserError: `target` holds something.

    What a killed process left of one is removed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: remove it or name another target")
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        pid = left.name.split(".")[-2]
        if left.is_dir() and pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with ExitStack() as undo, writing(part):
        undo.callback(shutil.rmtree, part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        os.replace(part, target)
