"""Work on a visitor's file in a process of its own, which ends in time and takes no more memory than it may.

Whatever a file does to what reads it costs the visitor a message, and nobody else anything.
"""

from __future__ import annotations

import logging
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from videogpt_plus.app.web.room import Room
from videogpt_plus.io.errors import attempted, translated
from videogpt_plus.io.processes import end_with_parent
from videogpt_plus.types import UserError, unreadable

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Bytes that a process may take beyond those it begins with.
ROOM = 6 * 2**30
#: So many files are read at the same time, and so many more may wait for it.
AT_ONCE, WAITING = 2, 8
#: Imported once, before there is a file to read.
PRELOADED = (
    "videogpt_plus.app.web.clips",
    "videogpt_plus.clips.prefetch",
    "videogpt_plus.toy.render",
    "av",
    "PIL.Image",
)


class _Fault(NamedTuple):
    """An exception that no file should raise: its name, and where it came from."""

    name: str
    told: str


class Readers:
    """At most `at_once` processes that read; with `waiting` others in line a call is refused.

    `modules` are imported in addition to PRELOADED.
    """

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING, modules: Collection[str] = ()):
        self._modules = [*PRELOADED, *sorted(modules)]
        self._slots = threading.BoundedSemaphore(at_once)
        self.line = Room(
            at_once + waiting, lambda used: f"{used:.0f} files are being read or wait for it: try again in a minute"
        )

    def __call__(self, work: Callable[..., T], *given: object, name: str, seconds: float, room: int = ROOM) -> T:
        """What `work(*given)` returns; both must be picklable.

        UserError: what it raised; or the file called `name` takes too long or too much memory, or brings the process
        down; or too many files wait.
        """
        with self.line.taken(), self._slots:
            return _apart(self._modules, work, given, name, seconds, room)

    def warm(self) -> None:
        """Begins what processes are forked from, which takes seconds; nothing is waited for."""

        def begin() -> None:
            with suppress(UserError):  # raised again when there is a file to read
                self(int, name="nothing", seconds=120)

        threading.Thread(target=begin, daemon=True).start()


def _apart(
    modules: list[str], work: Callable[..., T], given: tuple[object, ...], name: str, seconds: float, room: int
) -> T:
    context = get_context("forkserver")
    context.set_forkserver_preload(modules)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, given, name, room), daemon=True)

    def died(_: Exception) -> UserError:
        return unreadable(name, "its decoder brought the process down", "encode it again")

    with ours, ExitStack() as at_the_end:
        with theirs:
            resource_tracker.ensure_running()
            process.start()
        at_the_end.callback(process.join, 5)
        at_the_end.callback(process.kill)
        with translated(EOFError, OSError, to=died):
            if not ours.poll(seconds):
                raise unreadable(name, f"it was not read within {seconds:g} s", "cut it shorter, or encode it again")
            done = pickle.loads(ours.recv_bytes())
    if isinstance(done, _Fault):
        log.error("%s could not be read:\n%s", name, done.told)
        raise unreadable(name, f"it could not be read ({done.name})", "choose another; the server's log says more")
    if isinstance(done, Exception):
        raise done
    return done


def _serve(connection: Connection, work: Callable[..., object], given: tuple, name: str, room: int) -> None:
    """The life of a process: one piece of work, and what became of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the page, which ends its processes
    end_with_parent()
    _keep_within(room)
    with suppress(OSError):  # the page is gone, or has waited long enough
        connection.send_bytes(pickle.dumps(_done(work, given, name)))


def _done(work: Callable[..., object], given: tuple, name: str) -> object:
    done = attempted(partial(work, *given), Exception)  # whatever a file does concerns one visitor
    if not isinstance(done, Exception) or isinstance(done, UserError):
        return done
    if isinstance(done, MemoryError) or "can't allocate memory" in str(done):
        return unreadable(name, "it takes more memory than it may", "make its pictures smaller")
    return _Fault(type(done).__name__, "".join(traceback.format_exception(done)))


def _keep_within(room: int) -> None:
    import torch
    from psutil import Process

    torch.set_num_threads(1)  # others are reading, too
    resource.setrlimit(resource.RLIMIT_AS, (Process().memory_info().vms + room, resource.RLIM_INFINITY))
