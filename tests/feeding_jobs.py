"""Preparations that behave and misbehave, for the processes of a feeder to import."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from multiprocessing import parent_process
from pathlib import Path

import torch

from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.types import ClipError, UserError, Visual


def prepare(path, start=None, end=None, still=None, frame=None, shuffle=None) -> Visual:
    """Does what the path's name says; a visual of the process's id and of the number before the name's first "_"."""
    what = Path(path).name
    if "hang" in what:
        time.sleep(600)
    if "crash" in what:
        ctypes.string_at(0)
    if "killed" in what:
        os.kill(os.getpid(), signal.SIGKILL)
    if "once" in what and not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in what:
        os._exit(3)
    if "unreadable" in what:
        raise ClipError(f"cannot read {path}: it is damaged; download it again")
    if "wrong" in what:
        raise UserError("the encoder is unknown; choose another")
    if "bug" in what:
        raise NameError("of all things")
    if "odd" in what:
        raise ZeroDivisionError("of all things")
    if "memory" in what:
        raise MemoryError
    if "slow" in what:
        time.sleep(0.3)
    if Path(path).is_absolute():
        Path(path).touch()
    number = int(what.partition("_")[0])
    return Visual({"image": torch.full((2, 3), number), "threads": torch.tensor(torch.get_num_threads())}, os.getpid())


class HangsAt:
    """A preparation that hangs at the clip of this name."""

    def __init__(self, prepare: Preparation, name: str):
        self.prepare, self.name = prepare, name

    def __call__(self, path, *job: object) -> Visual:
        if Path(path).name == self.name:
            time.sleep(600)
        return self.prepare(path, *job)


class DiesAtTheStart:
    """Ends the worker that unpickles it."""

    def __getstate__(self) -> dict:
        return {"any": 1}

    def __setstate__(self, state: dict) -> None:
        if parent_process() is not None:
            os._exit(4)

    def __call__(self, *job: object) -> Visual:
        return Visual({}, 0)
