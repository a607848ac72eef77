"""Memory that a process frees is kept for its next tensor, instead of going back to the kernel each time.

An encoder's layer frees and takes some hundred MB. glibc hands blocks of that size back at once, and the kernel fills
the next ones with zeros page by page, which costs as much time as the arithmetic between matrix products.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: Larger blocks, such as a published LLM's embeddings, still come and go by themselves; bytes.
LARGEST_KEPT = 2**28
#: Bytes that may stay unused at the end of the heap.
MOST_IDLE = 2**30
#: Parameters of glibc's mallopt: name in the environment -> number and value.
SETTINGS = {"MALLOC_TRIM_THRESHOLD_": (-1, MOST_IDLE), "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST_KEPT)}


def keep_freed() -> None:
    """For this process and those that it will start; call it before torch is imported. Linux alone knows it.

    Settings of the environment are kept. torch is asked to use huge pages, too.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, (parameter, value) in SETTINGS.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            if mallopt is not None:  # another C library has none
                mallopt(parameter, value)
