"""Uploaded files: their folders, how long they are kept, and how much of the disk they may take."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from videogpt_plus.app.web.room import Room
from videogpt_plus.io.errors import attempted, translated
from videogpt_plus.io.files import remove
from videogpt_plus.types import UserError

log = logging.getLogger(__name__)

#: Folders below the page's own: of files that arrive, and of files that are shown.
INCOMING, VISITORS = "incoming", "visitors"
#: Seconds that an unused file is kept.
KEPT = {INCOMING: 600.0, VISITORS: 24 * 3600.0}
#: Seconds between two sweeps.
EVERY = 20.0


class _Upload(NamedTuple):
    used: float
    path: Path
    size: int


class Uploads:
    """The uploads below a folder, `most` bytes in all: where there are more, the oldest go first."""

    def __init__(self, folder: Path, most: float):
        self.folder, self.most = folder, most
        full = "too many files are being uploaded at the same time: try again in a minute"
        self._promised = Room(most, lambda _: full)

    @property
    def visitors(self) -> Path:
        """Where each visitor has a folder."""
        return self.folder / VISITORS

    def keep(self, uploaded: Path, folder: Path) -> Path:
        """Moves an upload out of where it arrived into a visitor's folder, under a name that nobody else knows.

        UserError: it is gone; the same file may have come from somebody else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{secrets.token_hex(8)}{uploaded.suffix.lower()}"
        what = f"{uploaded.name} did not arrive whole: upload it again"
        with translated(FileNotFoundError, to=lambda _: UserError(what)):
            uploaded.replace(kept)  # nobody else can be served it from there
        os.utime(kept)
        return kept

    def sweep(self) -> None:
        """Removes what has lain for too long, then the oldest until the rest is within the limit."""
        left = []
        for place, seconds in KEPT.items():
            for upload in _files(self.folder / place):
                if upload.used < time.time() - seconds:
                    remove(upload.path)
                else:
                    left.append(upload)
            _remove_empty(self.folder / place)
        total = sum(upload.size for upload in left) + self._promised.used
        for upload in sorted(left):
            if total <= self.most:
                return
            remove(upload.path)
            total -= upload.size

    @contextmanager
    def arriving(self, size: float) -> Iterator[None]:
        """Room for so many bytes that are on their way. UserError: too many others are."""
        with self._promised.taken(size):
            self.sweep()
            yield

    @contextmanager
    def swept(self, every: float = EVERY) -> Iterator[None]:
        """A context in which the folder is swept again and again."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(every):
                if error := attempted(self.sweep, OSError):
                    log.error("uploads could not be swept", exc_info=error)

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        with ExitStack() as at_the_end:
            at_the_end.callback(thread.join)
            at_the_end.callback(ended.set)
            yield


def _files(folder: Path) -> Iterator[_Upload]:
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if not path.is_dir():
                state = path.lstat()
                yield _Upload(state.st_mtime, path, state.st_size)


def _remove_empty(folder: Path) -> None:
    """Folders without a file that have been so for a minute: one that is new may be waiting for its file."""
    for path in folder.glob("*"):
        with suppress(OSError):
            if path.is_dir() and path.stat().st_mtime < time.time() - 60 and not any(_files(path)):
                shutil.rmtree(path)
