"""A limit that several visitors share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from videogpt_plus.types import UserError


class Room:
    """At most `most` of something; `full(used)` is the message of the UserError when too little is free."""

    def __init__(self, most: float, full: Callable[[float], str]):
        self.most, self.used = most, 0.0
        self._full, self._lock = full, threading.Lock()

    @contextmanager
    def taken(self, size: float = 1) -> Iterator[None]:
        """A context that holds so much of it. UserError: too little is free."""
        with self._lock:
            if self.used + size > self.most:
                raise UserError(self._full(self.used))
            self.used += size
        with ExitStack() as at_the_end:
            at_the_end.callback(self._give_back, size)
            yield

    def _give_back(self, size: float) -> None:
        with self._lock:
            self.used -= size
