"""A run folder while it is trained: its lock, its log, and the files that say that it is finished."""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from videogpt_plus.io.errors import translated
from videogpt_plus.io.files import PART, locked, sweep_parts, write_bytes, writing
from videogpt_plus.types import UserError

#: Seconds in which what a killed training left behind ends, such as data workers, which hold its lock, too.
PATIENCE = 10


#: The file that a training writes last.
FINISHED = "projectors.safetensors"


#: What a fine-tuning leaves.
TUNED = (FINISHED, "adapter_model.safetensors", "adapter_config.json")


#: What a sweep keeps of a cell in the folder that it fills.
CELL = "cell.json"


#: What a model was asked in training, where that was one question for all samples.
QUESTION = "question.txt"


def check_own(folder: Path) -> None:
    """UserError: `folder` holds something, and is neither a training's nor a sweep's."""
    if (folder / "experiment.json").exists() or (folder / CELL).exists():
        return
    if names := sorted(path.name for path in folder.iterdir() if not PART.fullmatch(path.name)):
        raise UserError(
            f"{folder} is no run folder and holds {names[0]}: it is left as it is; choose a new or an empty folder"
        )


def are_there(folder: Path, outputs: Sequence[str]) -> bool:
    """Whether all these files of `folder` hold something."""
    return all((folder / name).is_file() and (folder / name).stat().st_size for name in outputs)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a claimed `folder`; the lock goes with the process, even by kill -9.

    UserError: another training is in it, and still is after PATIENCE.
    """
    with writing(folder):
        file = (folder / "experiment.json").open("r+")
    with file:
        give_up = time.monotonic() + PATIENCE
        while not _locked(file):
            if time.monotonic() > give_up:
                raise UserError(
                    f"{folder} is being filled by another process, perhaps one that a killed launcher left behind; "
                    "wait for it, or end it and run the same command again"
                )
            time.sleep(0.1)
        with ExitStack() as at_the_end:
            # Data workers hold the file, too, so that closing it here would not unlock it.
            at_the_end.callback(fcntl.flock, file, fcntl.LOCK_UN)
            sweep_parts(folder)
            yield


def _locked(file: IO) -> bool:
    with suppress(OSError):  # a file system without locks: nothing keeps others out there
        return locked(file)
    return True


def taught(run: Path) -> str | None:
    """The one question of a run's training; None where it had none, or several. UserError: it cannot be read."""
    path = run / QUESTION
    if not path.is_file():
        return None
    then = "copy it again, or remove it"
    with translated(UnicodeDecodeError, to=lambda error: UserError(f"{path} is not UTF-8 ({error}); {then}")):
        return path.read_text(encoding="utf-8")


class Log:
    """`log.jsonl`: one header line that says what trains, then one line a step."""

    def __init__(self, path: Path):
        self.path = path

    def start(self, header: dict, step: int) -> None:
        """Writes the header; to resume after `step`, checks that it is the same and removes later steps."""
        kept = [header]
        if step:
            lines = self._read()
            if len(lines) <= step or [line.get("step") for line in lines[1 : step + 1]] != list(range(1, step + 1)):
                raise UserError(
                    f"{self.path} does not hold the {step} steps that the checkpoint is behind: remove the folder or "
                    "choose another one"
                )
            if told := difference(lines[0], header):
                raise UserError(
                    f"{self.path.parent} holds a training that began otherwise ({told}): "
                    "remove the folder or choose another one"
                )
            kept += lines[1 : step + 1]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _read(self) -> list[dict]:
        """The complete lines."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def append(self, line: dict) -> None:
        """Adds one step."""
        with writing(self.path.parent), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def difference(then: dict, now: dict) -> str:
    """The values of `now` that were different `then`, in words, by their innermost keys; "" if none was."""
    return "; ".join(f"{key}: {old!r:.80} there, {new!r:.80} now" for key, old, new in _changes("", then, now))


def _changes(where: str, then: object, now: object) -> Iterator[tuple[str, object, object]]:
    """(`finetune.learning_rate`, old, new) of every value of `now` that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in now:
            yield from _changes(f"{where}.{key}".removeprefix("."), then.get(key), now[key])
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _changes(f"{where}.{i}", old, new)
    elif isinstance(then, list) and isinstance(now, list):
        yield f"number of {where}", len(then), len(now)
    elif then != now:
        yield where, then, now


def check_finite(step: int, **values: float) -> None:
    """Stops a training whose numbers are lost, before a checkpoint keeps them."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}, so the weights are lost: lower the learning rate, "
                "warm up longer or turn bf16 off; the last checkpoint is untouched"
            )
