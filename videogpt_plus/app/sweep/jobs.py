"""Running the cells of a sweep: one after another or side by side, and what a run took."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

from videogpt_plus.app.sweep.cells import Cell
from videogpt_plus.io.files import writing
from videogpt_plus.io.output import watch
from videogpt_plus.io.runs import FINISHED
from videogpt_plus.types import UserError


def run_cells(
    titled: Sequence[tuple[Sequence[Cell], str]], run: Callable[[Sequence[Cell], str], None], jobs: int
) -> None:
    """Calls `run(cells, title)` for every group of cells in order, or for `jobs` at a time in processes of their own.

    A group begins as soon as what it needs is there. `run` has to be picklable. What it raises ends the sweep when
    the groups beside it are through.
    """
    check_jobs(jobs)
    if jobs == 1:
        for cells, title in titled:
            run(cells, title)
        return
    left, running = list(titled), {}
    threads = max(1, cores() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker, (threads, os.getpid())) as pool:
        while left or running:
            unfinished = {cell.folder for cells, _ in left for cell in cells}
            unfinished |= {cell.folder for cells in running.values() for cell in cells}
            ready = [one for one in left if not any(unfinished & set(cell.needs) for cell in one[0])]
            for cells, title in ready[: jobs - len(running)]:
                left.remove((cells, title))
                running[pool.submit(run, cells, title)] = cells
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cells = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool as error:  # all of them are ended then, and nobody knows by which one
                    begun = "; ".join(one[0].title for one in (cells, *running.values()))
                    raise UserError(
                        f"a process of this sweep was ended while it ran {begun}: perhaps memory ran out, which fewer "
                        "--jobs need less of; run the same command again: it goes on"
                    ) from error


def check_jobs(jobs: int) -> None:
    """UserError: it is no number of cells that can run side by side."""
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is not possible: at least one cell runs at a time")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_worker(threads: int, parent: int) -> None:
    """A worker takes its share of the cores, and dies with the sweep that started it."""
    import ctypes

    watch()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported, which is later
    die_with_parent = 1  # PR_SET_PDEATHSIG; elsewhere than on Linux a worker ends with its cell
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the sweep has ended")


def launched(launcher: str, command: Sequence[str]) -> list[str]:
    """The command of `videogpt-plus` behind a launcher such as torchrun, as it is run. UserError: it names none."""
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise UserError(f"--launcher {launcher}: {str(error).lower()}; close each quotation mark") from error
    if not words:
        raise UserError("--launcher names no program: write one, such as 'torchrun --nproc_per_node 8'")
    return [*words, "-m", "videogpt_plus", *command]


def launch(launcher: str, command: Sequence[str], folder: Path) -> int:
    """Runs the command of a training of `folder` behind a launcher such as torchrun; returns its exit code.

    The file that a training writes last tells whether it ended well: many processes may stumble over each other when
    they leave, and then the code is not 0. UserError: that file is not there, or there is no such launcher.
    """
    call = launched(launcher, command)
    try:
        code = subprocess.run(call, check=False).returncode
    except OSError as error:
        raise UserError(f"cannot start the launcher '{launcher}': {error.strerror}; name one that is there") from error
    if not (folder / FINISHED).exists():
        raise UserError(
            f"exit code {code} and no {folder / FINISHED} after: {shlex.join(call)}; mend what it says above and run "
            "the sweep again"
        )
    return code


@contextmanager
def accounts(root: Path) -> Iterator[Callable[[], str]]:
    """Appends what the run took to `runs.jsonl` when it ends well; yields a function that says it."""
    began, line = time.monotonic(), {"date": f"{datetime.now():%Y-%m-%d %H:%M}"}
    yield lambda: f"{line['minutes']} minutes on {line['cores']} cores, largest process {line['largest_gib']} GiB"
    # Workers run beside each other: `jobs` times the largest process is an upper bound.
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    line["minutes"] = round((time.monotonic() - began) / 60, 2)
    line["largest_gib"] = round(max(resource.getrusage(one).ru_maxrss for one in who) / 2**20, 2)
    line["cores"], line["machine"] = cores(), platform.machine()
    with writing(root), (root / "runs.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
