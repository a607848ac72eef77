"""Every benchmark by its name: how its files are read, where they are, and how answers become scores.

A new one in a layout that is known is one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval.tasks.binary_labels import load_rwf2000
from eval.tasks.mvbench import load_benchmark
from eval.tasks.open_questions import CLIP_FOLDERS, OpenExample, load_vcgbench, load_vcgbench_diverse, load_zero_shot
from eval.tasks.task import Example, Task, fingerprint
from videogpt_plus.types import CONTROLS, UserError

#: What a judge is asked about the answers of a task.
Aspects = Mapping[str, tuple[str, ...]]

VCGBENCH_ASPECTS: Aspects = {
    "generic": ("correctness", "detail", "context"),
    "temporal": ("temporal",),
    "consistency": ("consistency",),
}
DIVERSE_ASPECTS: Aspects = {
    **{kind: ("correctness", "detail", "context") for kind in ("summary", "spatial", "reasoning")},
    "temporal": ("temporal",),
    "consistency": ("consistency",),
}
#: Mean over the correctness and detail scores of the questions of one type.
DIVERSE_MEANS = {"dense caption": "summary", "spatial": "spatial", "reasoning": "reasoning"}
QA_ASPECTS: Aspects = {"qa": ("answer",)}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's line in the table below."""

    # Folder -> its tasks.
    load: Callable[[Any], list[Task]]
    # Its usual folder; None for the one that the experiment names.
    root: str | None
    # "choice": the parsed option is right or wrong. "judged": a judge gives scores.
    scored: Literal["choice", "judged"]
    # Of a judged one: task -> what the judge is asked of each answer.
    aspects: Aspects = field(default_factory=dict)
    # Name of a further mean -> the task whose correctness and detail scores it is over.
    means: Mapping[str, str] = field(default_factory=dict)
    # The reference's files of its answers: "mvbench", "vcgbench", "diverse" or "qa"; empty where it has none.
    files: str = "mvbench"


def _zero_shot(name: str) -> Benchmark:
    return Benchmark(load_zero_shot, f".cache/GPT_Zero_Shot_QA/{name}_Zero_Shot_QA", "judged", QA_ASPECTS, files="qa")


BENCHMARKS: dict[str, Benchmark] = {
    "mvbench": Benchmark(load_benchmark, None, "choice"),
    "vcgbench": Benchmark(load_vcgbench, ".cache/VCGBench", "judged", VCGBENCH_ASPECTS, files="vcgbench"),
    "vcgbench_diverse": Benchmark(
        load_vcgbench_diverse, ".cache/VCGBench-Diverse", "judged", DIVERSE_ASPECTS, DIVERSE_MEANS, "diverse"
    ),
    "msvd_qa": _zero_shot("MSVD"),
    "msrvtt_qa": _zero_shot("MSRVTT"),
    "tgif_qa": _zero_shot("TGIF"),
    "activitynet_qa": _zero_shot("Activitynet"),
    "rwf2000": Benchmark(load_rwf2000, ".cache/RWF-2000", "choice", files=""),
    "toy_rwf2000": Benchmark(load_rwf2000, ".cache/toy/rwf2000", "choice", files=""),
    "toy_open": Benchmark(
        partial(load_vcgbench, clip_folders=("../bench/video", *CLIP_FOLDERS)),
        ".cache/toy/open",
        "judged",
        VCGBENCH_ASPECTS,
        files="vcgbench",
    ),
}


#: A benchmark of the user's own: in MVBench's layout, under a name that is not in the table, in a place that is stated.
ONES_OWN = Benchmark(load_benchmark, None, "choice")


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`, a key of BENCHMARKS. UserError: there is none."""
    if name not in BENCHMARKS:
        raise UserError(
            f"unknown benchmark '{name}'; choose from: {', '.join(BENCHMARKS)}, or write {name}=FOLDER for one of your "
            "own in MVBench's layout"
        )
    return BENCHMARKS[name]


def kind_of(name: str) -> Benchmark:
    """The benchmark called `name`; where the table has none, one of the user's own."""
    return BENCHMARKS.get(name, ONES_OWN)


def is_own(name: str) -> bool:
    """Whether `name` is that of a benchmark of the user's own."""
    return name not in BENCHMARKS


def check_own_name(name: str) -> None:
    """UserError: a benchmark of the user's own cannot be called so, for a folder of other answers may be."""
    known = next((one for one in BENCHMARKS if one.lower() == name.lower()), None)
    if known:
        raise UserError(f"'{name}' is {known} in other letters: write {known}=FOLDER for a copy of it, or another name")
    ends = [*CONTROLS, r"first\d+", r"of_.*-[0-9a-f]{8}"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}", name) or ".old-" in name:
        what = "letters without accents, digits, '_', '.' and '-', 60 at most"
    elif re.fullmatch(rf"(.*_)?({'|'.join(ends)})", name):
        what = f"a name that does not end like answers to others: {', '.join(CONTROLS)}, first20"
    else:
        return
    raise UserError(f"a benchmark cannot be called '{name}': take {what}")


def root_of(name: str, own: str | Path, chosen: str | Path | None = None) -> Path:
    """The benchmark's place: the one that was chosen, or its default; `own` is what the experiment names.

    UserError: `name` is in no table and no place was chosen.
    """
    return Path(chosen or get_benchmark(name).root or own)


def copy_of(name: str, own: str | Path, chosen: str | Path | None) -> str:
    """A name for the chosen copy of a benchmark: its file's name and a fingerprint of its questions.

    "" for the usual place, and for a benchmark of the user's own, which has its own name. UserError: there is no
    such benchmark.
    """
    if chosen is None or is_own(name) or place_of(chosen) == place_of(root_of(name, own)):
        return ""
    place = place_of(chosen)
    title = place.stem if place.is_file() else place.name
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in title)[:40].strip("-.")
    plain = plain.replace(".old-", "-old-")  # what was moved aside is called so
    return f"{plain or 'copy'}-{fingerprint(examples(name, chosen))[:8]}"


def place_of(root: str | Path) -> Path:
    """The real path of a benchmark's folder, also where its `tasks.json` is named."""
    place = Path(os.path.realpath(root))
    return place.parent if place.name == "tasks.json" and place.is_file() else place


def examples(name: str, root: str | Path, limit: int | None = None) -> list[Example] | list[OpenExample]:
    """The questions of the benchmark at `root`, at most `limit` entries a task."""
    check_limit(limit)
    return [e for task in kind_of(name).load(root) for e in _first(task.examples(), limit)]


def check_limit(limit: int | None) -> None:
    """UserError unless at least one question a task is asked."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible: ask at least 1 question a task, or leave it out for all")


def check_scoring(name: str, scoring: str) -> None:
    """UserError: the benchmark's questions have no options to be compared."""
    if kind_of(name).scored == "judged" and scoring != "generate":
        raise UserError(f"--scoring {scoring} needs options, and the questions of {name} are open; leave it out")


def one_root(name: str, own: Iterable[str], chosen: str | Path | None = None) -> Path:
    """The one place of the benchmark for runs whose experiments name these. UserError: they have several."""
    roots = {str(root_of(name, one, chosen)) for one in own}
    if len(roots) > 1:
        raise UserError(f"these runs have {len(roots)} benchmarks: {', '.join(sorted(roots))}; name one by --benchmark")
    return Path(roots.pop())


def _first(questions: list[Any], limit: int | None) -> list[Any]:
    """The questions of the first `limit` entries: the two of one consistency entry stay together."""
    if limit is None or not isinstance(questions[0], OpenExample):
        return list(questions)[:limit]
    kept = set(list(dict.fromkeys(question.entry for question in questions))[:limit])
    return [question for question in questions if question.entry in kept]
