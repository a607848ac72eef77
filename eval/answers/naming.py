"""How folders of answers are called, and the options of a command that mean the same answers."""

from __future__ import annotations

import re
from pathlib import Path

#: The multiple-choice benchmark whose folder the experiment names.
OWN = "mvbench"


def options_of(task: str, control: str | None, limit: int | None, place: Path | None, is_own: bool) -> list[str]:
    """The options of `answer`, `score`, `export` and `judge` that say which answers are meant.

    `place` is the benchmark's folder, None for its usual one; one of the user's own states it with its name.
    """
    stated = f"{task}={place}" if is_own else task
    options = ["--task", stated] if stated != OWN else []
    options += ["--control", control] if control else []
    options += ["--limit", str(limit)] if limit else []
    return [*options, *(["--benchmark", str(place)] if place and not is_own else [])]


def answers_folder(run: Path, control: str | None, limit: int | None = None, task: str = OWN, copy: str = "") -> Path:
    """`RUN/answers`, `RUN/answers_blind`, `RUN/answers_vcgbench_of_COPY`, ...: each way of asking has its own."""
    named = asked_name(task, copy)
    parts = (named if named != OWN else None, control, f"first{limit}" if limit else None)
    return run / "_".join(["answers", *(part for part in parts if part)])


def asked_name(task: str, copy: str = "") -> str:
    """`vcgbench`, or `vcgbench_of_COPY` of another copy of it: what tells benchmarks apart in folders and reports."""
    return f"{task}_of_{copy}" if copy else task


def limit_of(folder: Path) -> int | None:
    """The `--limit` in the name of a folder of answers: 20 of `answers_blind_first20`."""
    found = re.search(r"_first(\d+)$", folder.name)
    return int(found[1]) if found else None
