"""A time limit for work that cannot be stopped: after it the caller no longer waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from videogpt_plus.types import ClipError, unreadable

T = TypeVar("T")
#: Seconds that a clip may take where no option says it.
SECONDS = 120.0
#: Set in a process that its parent ends when a clip takes too long: it needs no limit of its own.
_ended_from_outside = threading.Event()


def end_from_outside() -> None:
    """From now on the parent of this process ends it in time."""
    _ended_from_outside.set()


def within(seconds: float | None, path: str | Path, call: Callable[..., T], *given: Any, **named: Any) -> T:
    """What the call gives or raises, or the ClipError of `path` if that takes longer than so many seconds.

    Work that hangs stays in its thread until the process ends.
    """
    if seconds is None or _ended_from_outside.is_set():
        return call(*given, **named)
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call(*given, **named))
        except BaseException as error:  # whatever it is, it is raised where the call was made
            done.set_exception(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    if not wait([done], seconds).done:
        raise too_long(path, seconds)
    thread.join()  # a process that is forked next inherits no thread
    return done.result()


def too_long(path: str | Path, seconds: float) -> ClipError:
    """The ClipError of a clip that took longer than it may."""
    what = f"not decoded within {seconds:g} s"
    return unreadable(path, what, "raise --clip-seconds, or encode or download it again")
