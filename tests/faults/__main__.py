"""`python -m tests.faults [--only PART ...]`: a line each, counts at the end; exit code 0 if nothing failed.

What is not as expected is one line more. Parts: files, commands, kills, disks, clips. Nothing is kept between runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # clips, conftest and train_worker are top-level modules

Outcomes = Iterator[tuple[str, str | None]]
#: Seconds that one file or command line may take.
LIMIT = 120
KILLS, QUESTIONS = 40, 640
CLIPS, BROKEN, HANGING = 500, 5, 5


def guarded(check: Callable[..., str | None], *arguments: object) -> str | None:
    """What a check says; what it raises, and that it did not end in time, in words."""
    pool = ThreadPoolExecutor(1)
    with tempfile.TemporaryDirectory() as folder:
        running = pool.submit(check, *arguments, Path(folder))
        pool.shutdown(wait=False)
        try:
            raised = running.exception(timeout=LIMIT)
        except TookTooLong:
            return f"it did not end within {LIMIT} s"
        return f"{type(raised).__name__}: {raised}" if raised else running.result()


def files() -> Outcomes:
    from . import all_kinds, failure

    for kind in all_kinds():
        yield str(kind), guarded(failure, kind)


def commands() -> Outcomes:
    from .lines import OUTPUTS, all_lines, line_failure, output_failure

    for line in all_lines():
        yield str(line), guarded(line_failure, line)
    for command, code, said in OUTPUTS:
        yield f"shell: {command}", guarded(output_failure, command, code, said)


def kills() -> Outcomes:
    from .kills import kill_answers, kill_trainings
    from .tiny import tiny

    with tempfile.TemporaryDirectory() as folder, tiny(Path(folder), QUESTIONS) as made:
        yield from kill_trainings(made, Path(folder) / "trainings", KILLS)
        yield from kill_answers(made, Path(folder) / "answers", KILLS, QUESTIONS)


def disks() -> Outcomes:
    from .disks import fill_disks
    from .tiny import tiny

    with tempfile.TemporaryDirectory() as folder, tiny(Path(folder), 20) as made:
        yield from fill_disks(made, Path(folder) / "disks")


def clips() -> Outcomes:
    from .many import check_many

    yield from check_many(CLIPS, BROKEN, HANGING)


PARTS = {part.__name__: part for part in (files, commands, kills, disks, clips)}


def main(args: Sequence[str] | None = None) -> int:
    """0: all is as expected; 1: something is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    done, failed, summary = Counter(), Counter(), []
    for name in parser.parse_args(args).only:
        began = time.monotonic()
        for what, told in PARTS[name]():
            done[name] += 1
            failed[name] += bool(told)
            print(f"{name} {done[name]:>4} {'FAILED' if told else 'ok':6} {what}", flush=True)
            if told:
                print(f"    {told}", flush=True)
        summary.append((name, time.monotonic() - began))
    print(f"\n{'part':<10}{'tried':>8}{'as expected':>13}{'failed':>8}{'seconds':>9}")
    for name, seconds in summary:
        print(f"{name:<10}{done[name]:>8}{done[name] - failed[name]:>13}{failed[name]:>8}{seconds:>9.0f}")
    return 1 if failed.total() else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Python would wait for threads in which something hangs
