"""Imported by the server that reading processes are forked from, and nowhere else: what they say of a lost parent.

One whose parent is killed while it begins finds the pipe to it empty or cut. multiprocessing prints a traceback of
that, which would stand on the screen after the command has ended, and nobody could do anything about it.
"""

from __future__ import annotations

import sys
from pickle import UnpicklingError
from types import TracebackType

#: multiprocessing's functions that read what the parent sends to a process that begins.
BEGINNING = ("_main", "recvfds")


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own excepthook, but for a parent that ended while a process began."""
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code if last is not None else None
    begins = code is not None and code.co_name in BEGINNING and "multiprocessing" in code.co_filename
    if not (begins and issubclass(kind, EOFError | OSError | UnpicklingError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell
