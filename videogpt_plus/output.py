"""Standard output and errors of a command: closed ones, full ones, and pipes whose reader has gone."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: What a shell says of a tool that was ended by SIGPIPE, as `head` ends those before it.
ENDED_BY_PIPE = 128 + 13

#: How a write fails that nobody can take.
FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


@contextmanager
def written_out() -> Iterator[None]:
    """Within it a command prints, and at its end all is written.

    A pipe that nobody reads any more ends the command without a word, as it ends Unix tools; a disk that is full, or
    an output that is closed, with one line and exit code 2.
    """
    _open_closed()
    _write_any_name()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            _let_go(sys.stdout, sys.stderr)
            sys.exit(ENDED_BY_PIPE)
        if not _output_fails(error):
            raise
        _let_go(sys.stdout)
        complain(f"error: cannot write to standard output: {error.strerror}; free space, or send it elsewhere")
        sys.exit(2)


def complain(text: str) -> None:
    """Writes a line to standard error; where nobody can read it the exit code has to do."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)


def _open_closed() -> None:
    """Takes the place of what is closed, which the next file that is opened would take otherwise.

    To write to such an output fails, as it does for any other tool; of errors nobody would hear.
    """
    for number, how in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, how)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _write_any_name() -> None:
    """A file's name need not be UTF-8: what is no character is printed as its number, as errors are."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _reader_has_gone() -> bool:
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)  # an error is always told
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _output_fails(error: OSError) -> bool:
    """Whether it is standard output that raised the error: to write to it fails again."""
    if error.filename is not None or error.errno not in FULL_OR_CLOSED:
        return False
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _let_go(*streams: object) -> None:
    """What is left in their buffers goes nowhere: Python would fail on it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
