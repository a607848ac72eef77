"""Standard output and errors of a command: closed ones, full ones, and pipes whose reader has gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from videogpt_plus.io.errors import attempted, translated

#: What a shell says of a tool that was ended by SIGPIPE, as `head` ends those before it.
ENDED_BY_PIPE = 128 + 13


class OutputLost(Exception):
    """What was printed could not be written. No OSError: who writes a file would take that for a fault of the file."""


class _Watched(io.TextIOWrapper):
    """A stream whose faults are OutputLost; of a name in other bytes than UTF-8 the bytes are written as numbers."""

    def write(self, text: str) -> int:
        with translated(OSError, to=OutputLost):
            return super().write(text)

    def flush(self) -> None:
        with translated(OSError, to=OutputLost):
            super().flush()


@contextmanager
def written_out() -> Iterator[None]:
    """Within it a command prints, and at its end all is written.

    A closed pipe ends the command silently, as it ends Unix tools; a full disk or a closed output with one line and
    exit code 2.
    """
    watch()
    try:
        with ExitStack() as at_the_end:
            at_the_end.callback(lambda: sys.stdout.flush())
            yield
    except OutputLost as lost:
        (error,) = lost.args
        _let_go()
        if isinstance(error, BrokenPipeError):
            sys.exit(ENDED_BY_PIPE)
        complain(f"error: cannot write to standard output: {error.strerror}; free space, or send it elsewhere")
        sys.exit(2)


def watch() -> None:
    """Has standard output and errors say by OutputLost that they cannot be written; other streams are left alone.

    What is closed is opened as an output that takes nothing: the next file would take its place otherwise, and what is
    printed would go into that.
    """
    for number, how in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        if isinstance(attempted(partial(os.fstat, number), OSError), OSError):
            os.open(os.devnull, how)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        watched = _watched(stream, number)
        setattr(sys, name, watched)
        if getattr(sys, f"__{name}__") in (stream, None):
            setattr(sys, f"__{name}__", watched)


def _watched(stream: io.TextIOBase | None, number: int) -> io.TextIOBase:
    if stream is None:
        return _Watched(open(number, "wb", closefd=False), errors="backslashreplace", line_buffering=number == 2)
    if type(stream) is not io.TextIOWrapper:  # somebody else's, such as a test's
        return stream
    settings = {"encoding": stream.encoding, "line_buffering": stream.line_buffering}
    return _Watched(stream.detach(), errors="backslashreplace", **settings)


def complain(text: str) -> None:
    """Writes a line to standard error; where nobody can read it the exit code has to do."""
    if attempted(lambda: print(text, file=sys.stderr, flush=True), OSError, OutputLost):
        _let_go(2)


def _let_go(*numbers: int) -> None:
    """What is left to be written goes nowhere: Python would fail on it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in numbers or (1,):
        os.dup2(nowhere, number)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OutputLost, OSError):
            stream.flush()
