"""Clocks: interleaved repeats, matrix products, memory, fresh processes, and what machine this is."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

Result = TypeVar("Result")
#: What is timed. A dict that it returns holds seconds of its parts by name, which are kept beside its own.
Case = Callable[[], object]


def interleaved(cases: Mapping[str, Case], repeats: int) -> dict[str, list[float]]:
    """Seconds of every case and part, one for each repeat.

    Each round runs every case once, so that a machine that slows down slows all of them; the first round is thrown
    away. Every second round runs backwards: a case follows another neighbour.
    """
    seconds: dict[str, list[float]] = {}
    for number in range(repeats + 1):
        for name in list(cases)[:: -1 if number % 2 else 1]:
            wait()
            began = time.perf_counter()
            parts = cases[name]()
            wait()
            ended = time.perf_counter()
            if number:
                found = {name: ended - began, **(parts if isinstance(parts, dict) else {})}
                for part, value in found.items():
                    seconds.setdefault(part, []).append(value)
    return seconds


def has_gpu() -> bool:
    return torch.cuda.is_available()


def wait() -> None:
    """For what a GPU still does."""
    if has_gpu():
        torch.cuda.synchronize()


def matmul_rates(device: str = "cpu") -> dict[str, float]:
    """FLOPs a second of the best large matrix product, by number format."""
    sides = (2048, 3072) if device == "cpu" else (4096, 8192)
    rates = {}
    for name in ("float32", "bfloat16"):
        best = 0.0
        for side in sides:
            a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, name)) for _ in range(2))
            found = interleaved({"product": partial(_product, a, b)}, 3)
            best = max(best, 2 * side**3 / min(found["product"]))
        rates[name] = best
    return rates


def _product(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.mm(a, b)


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` returns in a process that has done nothing else: its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes() -> int:
    """The most memory that this process has held in RAM."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with what the parent held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """What this process and those that it started hold in RAM now."""
    own = psutil.Process()
    return sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))


def busy_percent() -> float:
    """What of the processor others use, looked at for two seconds in which this process rests."""
    return psutil.cpu_percent(interval=2)


def machine() -> dict[str, Any]:
    """What the figures depend on, without names of machines or people."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if has_gpu() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Its name and the units that multiply matrices."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    fields = dict(line.split("\t:", 1) for line in info.read_text().splitlines() if "\t:" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in fields.get("flags", "").split()]
    return " ".join(filter(None, (fields.get("model name"), f"({', '.join(units)})" if units else "")))
