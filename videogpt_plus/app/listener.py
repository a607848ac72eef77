"""Who is told how the work goes on: nobody, unless a caller says; `screen.TERMINAL` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol


class Advance(Protocol):
    """How far a task has come."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def _nothing(_: str) -> None:
    pass


@contextmanager
def _unseen(_: str) -> Iterator[Advance]:
    yield lambda done, total, note="": None


class Listener(NamedTuple):
    """What is called with news. Behind several jobs it is pickled: take functions of a module."""

    #: A line about what was made, kept, moved aside or left out.
    say: Callable[[str], None] = _nothing
    #: A line about what should not be overlooked, such as weights that are random.
    warn: Callable[[str], None] = _nothing
    #: A task of this title begins; what the context gives is called as it advances.
    progress: Callable[[str], AbstractContextManager[Advance]] = _unseen


#: Nobody is told.
SILENT = Listener()
