"""A training's `checkpoint-N/`: when one counts, which one a training resumes from, and which ones are removed.

COMPLETE is written into it after all else is on the disk, and lists the SHA-256 of every other file. So a checkpoint
that a kill cut short does not count, and one that was damaged later is found before anything is read from it. The last
two are kept: where the last one is damaged, a training resumes from the one before.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from videogpt_plus.io.files import PART, flush_to_disk, read_object, write_json, writing
from videogpt_plus.types import UserError

COMPLETE = "COMPLETE"
#: What trained, by parameter name, and the optimizer's state; DeepSpeed keeps both in a folder of its own.
TRAINABLE, OPTIMIZER = "trainable.safetensors", "optimizer.pt"
#: Complete checkpoints that are kept, the last one included.
KEPT = 2
NAME = re.compile(r"checkpoint-[0-9]+")
#: What a training writes into one, DeepSpeed's files among them.
WRITTEN = (COMPLETE, TRAINABLE, OPTIMIZER, "rng_state_*.pth", "global_step*", "latest", "zero_to_*.py")


def mark_complete(checkpoint: Path) -> None:
    """Makes `checkpoint` count, once it is on the disk, and removes those before the last KEPT."""
    with writing(checkpoint.parent):
        for file in checkpoint.rglob("*"):
            flush_to_disk(file)
        flush_to_disk(checkpoint)
        flush_to_disk(checkpoint.parent / "log.jsonl")
        sums = {name: _sum(file) for name, file in _files(checkpoint).items()}
    write_json(checkpoint / COMPLETE, {"sha256": sums})
    for old in complete_checkpoints(checkpoint.parent)[:-KEPT]:
        if not _foreign(old):
            _remove(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of `folder` that count, oldest step first."""
    return sorted((c for c in _checkpoints(folder) if (c / COMPLETE).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """`checkpoint-12` -> 12."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def ready_to_resume(folder: Path, say: Callable[[str], None]) -> None:
    """Keeps the complete checkpoints of `folder` up to the last undamaged one, and removes the others.

    `say` is told of damaged ones. UserError: all are damaged, or one to remove holds what no training wrote.
    """
    damaged: dict[Path, str] = {}
    whole = None
    for checkpoint in reversed(complete_checkpoints(folder)):
        if (fault := _fault(checkpoint)) is None:
            whole = checkpoint
            break
        damaged[checkpoint] = fault
    if damaged and whole is None:
        last, fault = next(iter(damaged.items()))
        raise UserError(
            f"{last} is damaged ({fault}), and there is no whole checkpoint before it: put the file back, or remove "
            f"{' and '.join(map(str, damaged))} to begin the training again"
        )
    for one in _checkpoints(folder):
        if one in damaged or not (one / COMPLETE).is_file():
            _remove(one)
    for one, fault in damaged.items():
        say(f"{one} is damaged ({fault}): the training resumes from {whole.name}, the one before")


def _checkpoints(folder: Path) -> Iterator[Path]:
    """What is called as a checkpoint is: `checkpoint-old` and a link are somebody else's."""
    return (c for c in folder.glob("checkpoint-*") if NAME.fullmatch(c.name) and c.is_dir() and not c.is_symlink())


def _foreign(checkpoint: Path) -> str | None:
    """The name of something in it that no training wrote; None where there is nothing."""
    names = [path.name for path in checkpoint.iterdir() if not any(path.match(pattern) for pattern in WRITTEN)]
    return next((name for name in names if not PART.fullmatch(name)), None)


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint. UserError: it holds what no training wrote."""
    if name := _foreign(checkpoint):
        raise UserError(f"{checkpoint} is in the way and holds {name}, which no training wrote: move it away")
    with writing(checkpoint.parent):
        (checkpoint / COMPLETE).unlink(missing_ok=True)  # first, so that a half-removed checkpoint does not count
        shutil.rmtree(checkpoint)


def _files(checkpoint: Path) -> dict[str, Path]:
    """All files but COMPLETE, by their names below the checkpoint."""
    found = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE)
    return {path.relative_to(checkpoint).as_posix(): path for path in found if not PART.fullmatch(path.name)}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each file as it was written. UserError: COMPLETE does not say."""
    sums = read_object(checkpoint / COMPLETE, "see the checkpoint before").get("sha256")
    if not isinstance(sums, dict) or not sums:
        raise UserError(f"{checkpoint / COMPLETE} lists no files")
    return sums


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a complete checkpoint, in a few words; None where nothing is."""
    try:
        sums, files = _sums(checkpoint), _files(checkpoint)
        if "trainer_state.json" in sums:
            return "an earlier version wrote it, and otherwise"
        if missing := next((name for name in sums if name not in files), None):
            return f"{missing} is missing"
        wrong = next((name for name, wanted in sums.items() if _sum(files[name]) != wanted), None)
        return wrong and f"{wrong} is not as it was written"
    except UserError:
        return f"{COMPLETE} is no list of its files"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
