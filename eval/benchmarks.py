"""Every benchmark by its name: how its files are read, where they lie, and how answers become scores.

A new one in a layout that is known is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval.labels import load_rwf2000
from eval.mvbench import load_benchmark
from eval.open_questions import CLIP_FOLDERS, OpenExample, load_vcgbench, load_vcgbench_diverse, load_zero_shot
from eval.task import Example, Task
from videogpt_plus.types import UserError

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
    # Where it lies unless the user says otherwise; None for the folder that the experiment names.
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


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`, a key of BENCHMARKS. UserError: there is none."""
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark '{name}'; choose from: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def root_of(name: str, own: str | Path, chosen: str | Path | None = None) -> Path:
    """The benchmark's folder: the one that was chosen, or its default; `own` is what the experiment names."""
    return Path(chosen or get_benchmark(name).root or own)


def examples(name: str, root: str | Path, limit: int | None = None) -> list[Example] | list[OpenExample]:
    """The questions of the benchmark at `root`, at most `limit` entries a task."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible: ask at least 1 question a task, or leave it out for all")
    return [e for task in get_benchmark(name).load(root) for e in _first(task.examples(), limit)]


def _first(questions: list[Any], limit: int | None) -> list[Any]:
    """The questions of the first `limit` entries: the two of one consistency entry stay together."""
    if limit is None or not isinstance(questions[0], OpenExample):
        return list(questions)[:limit]
    kept = set(list(dict.fromkeys(question.entry for question in questions))[:limit])
    return [question for question in questions if question.entry in kept]
