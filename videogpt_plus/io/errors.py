"""Where the errors of other libraries become ours: one line for the user, with the file's name and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def translated(*kinds: type[Exception], to: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raises `to(error)` in the place of an error of these kinds; one that `to` returns as it is passes."""
    try:
        yield
    except kinds as error:
        if (ours := to(error)) is error:
            raise
        raise ours from error


def attempted(call: Callable[[], T], *kinds: type[Exception]) -> T | Exception:
    """What the call returns, or the error of these kinds that it raises: one entry fails, and the others go on."""
    try:
        return call()
    except kinds as error:
        return error


def reason(error: BaseException) -> str:
    """What an error says in one line: the system's words, else its first line, else its kind."""
    said = getattr(error, "strerror", None) or str(error)
    return said.strip().split("\n")[0].rstrip(":") or type(error).__name__


def in_one_line(error: BaseException, limit: int = 200) -> str:
    """All that an error says, cut to `limit` characters; white space is folded."""
    return " ".join(str(error).split())[:limit]
