"""Freed memory is kept: the next tensor of that size is not paid for page by page again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

#: Prints how many pages the kernel had to fill while tensors of 64 MB came and went.
FAULTS = """
import resource, sys
from videogpt_plus.io.memory import keep_freed
if "keep" in sys.argv:
    keep_freed()
import torch
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
NAMES = ("THP_MEM_ALLOC_ENABLE", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's settings")


def run(code: str, *args: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    call = [sys.executable, "-c", code, *args]
    return subprocess.run(call, env=inherited | environment, capture_output=True, text=True, check=True).stdout


def test_memory_that_comes_and_goes_is_filled_once():
    kept, handed_back = int(run(FAULTS, "keep")), int(run(FAULTS))
    assert handed_back > 5 * kept, "without it every tensor's pages are new"


def test_processes_that_are_started_keep_theirs_and_the_user_has_the_last_word():
    code = (
        f"import os\nfrom videogpt_plus.io.memory import keep_freed\nkeep_freed()\nprint(*map(os.environ.get, {NAMES}))"
    )
    assert run(code).split() == ["1", str(2**30), str(2**28)]
    chosen = {"THP_MEM_ALLOC_ENABLE": "0", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    assert run(code, **chosen).split() == ["0", str(2**30), "1000000"]
    assert int(run(FAULTS, "keep", **chosen)) > 5 * int(run(FAULTS, "keep"))
