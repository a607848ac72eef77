"""Folders of answers: run, folder and meta file have to agree; and the commands that finish answers.

    RUN/answers[_BENCHMARK[_of_COPY]][_CONTROL][_firstN]/answers.jsonl

The meta file says what was asked. A folder that was renamed, or copied from another run, is an error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.answer import TOLD, are_among, read_meta
from eval.answers.naming import OWN, answers_folder, asked_name, limit_of, options_of
from eval.tasks.benchmarks import BENCHMARKS, is_own, kind_of
from eval.tasks.task import Example
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.options import DEFAULT_EVAL
from videogpt_plus.io import fingerprint
from videogpt_plus.io.jsonl_log import meta_path
from videogpt_plus.types import CONTROLS, UserError

#: The files of a run whose fingerprints its answers keep as `weights`, in that order.
WEIGHTS = ("adapter_model.safetensors", "projectors.safetensors")


class OtherAnswers(UserError):
    """The answers are whole, and to something else than they would be taken for."""


def task_of(meta: Mapping[str, Any]) -> str:
    """The name of the benchmark that was asked."""
    return meta.get("benchmark", OWN)


def name_of(meta: Mapping[str, Any]) -> str:
    """What tells it from others, `vcgbench_of_COPY` for another copy of it."""
    return asked_name(task_of(meta), meta.get("copy", ""))


def is_judged(meta: Mapping[str, Any]) -> bool:
    """Whether a judge gives the scores of these answers."""
    return kind_of(task_of(meta)).scored == "judged"


def without_places(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a meta file that answers depend on, without locations on this machine."""
    return {name: value for name, value in meta.items() if name not in TOLD}


def check_place(path: str | Path) -> None:
    """Raises OtherAnswers unless the answers are those of their run, asked as the name of their folder says.

    Answers outside of a run's `answers...` folder are what their meta file says.
    """
    path = Path(path)
    run = path.parent.parent
    in_a_run = path.parent.name.startswith("answers") and (run / "experiment.json").is_file()
    if not in_a_run or not meta_path(path).exists():
        return
    meta = read_meta(path)
    own = answers_folder(run, meta.get("control"), limit_of(path.parent), task_of(meta), meta.get("copy", ""))
    if own != path.parent:
        raise OtherAnswers(
            f"{path} holds answers to {name_of(meta)} with {meta.get('control') or 'all frames'}, which belong into "
            f"{own}: call the folder so, or move it away"
        )
    name = load_experiment(run).name
    if meta.get("experiment", name) != name:
        raise OtherAnswers(
            f"{path} holds answers of {meta['experiment']}, and {run} is {name}: move them to their own run"
        )
    for file, then in zip(WEIGHTS, meta.get("weights", ()), strict=False):
        if (run / file).exists() and fingerprint.of_path(run / file) != then:
            raise OtherAnswers(
                f"{path} holds answers of other weights: {run / file} has changed since; move {path.parent} away, then "
                f"answer again with: {answer_command(path)}"
            )


def check_complete(
    path: str | Path,
    answers: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Example],
    asked: Sequence[str] | None = None,
) -> None:
    """Raises UserError unless every one of these questions has its answer; OtherAnswers where others were asked.

    More answers than questions are no fault: a benchmark may be asked whole and scored in parts. `asked` is what
    `options_of` gives, for the command where nothing was answered yet.
    """
    path = Path(path)
    meta = read_meta(path) if meta_path(path).exists() else {}
    same = are_among(answers, examples, meta.get("questions"))
    missing, command = sum(example.key not in answers for example in examples), answer_command(path, asked)
    if missing and same:
        raise UserError(f"{path}: {missing} of {len(examples)} answers are missing; finish them with: {command}")
    again = f"move {path.parent} away, then answer again with: {command}"
    if missing:
        raise OtherAnswers(
            f"{path}: {missing} of {len(examples)} answers are missing, and the others are to other questions than the "
            f"benchmark has now; {again}"
        )
    for example in examples:
        found = answers[example.key]["reference"]
        if found != example.reference:
            raise OtherAnswers(
                f"{path}: '{example.question}' of {example.video} was asked with the answer {found!r}, the benchmark "
                f"now says {example.reference!r}; {again}"
            )
    if not same and len(answers) == len(examples):
        raise OtherAnswers(f"{path}: the options of the benchmark have changed since these answers; {again}")


def answer_command(path: str | Path, asked: Sequence[str] | None = None) -> str:
    """The command that finishes these answers, with the same options.

    `asked` is what `options_of` gives. Without it and without a meta file the folder's name says what is meant.
    """
    path = Path(path)
    meta = read_meta(path) if meta_path(path).exists() else {}
    which = options(path, meta) if meta else _as_named(path.parent.name) if asked is None else asked
    return shlex.join(["videogpt-plus", "answer", str(_run(path)), *which, *_ways(meta)])


def options(path: str | Path, meta: Mapping[str, Any]) -> list[str]:
    """The options of `answer`, `score` and `judge` that mean these answers."""
    place = Path(meta["root"]) if "root" in meta else None
    task = task_of(meta)
    return options_of(task, meta.get("control"), limit_of(Path(path).parent), place, is_own(task) and place is not None)


def _run(path: Path) -> Path:
    return path.parent.parent if path.parent.name.startswith("answers") else path.parent


def _as_named(folder: str) -> list[str]:
    tasks, controls = "|".join(BENCHMARKS), "|".join(CONTROLS)
    named = re.fullmatch(rf"answers(?:_({tasks}))?(?:_({controls}))?(?:_first(\d+))?", folder)
    task, control, limit = named.groups() if named else (None, None, None)
    return options_of(task or OWN, control, limit and int(limit), None, False)


def _ways(meta: Mapping[str, Any]) -> list[str]:
    """The options of `answer` that ask as these answers were asked; the defaults are left out."""
    usual = DEFAULT_EVAL.shapes_answers()
    chosen = {name: meta.get(name) for name in ("scoring", "encoder_dtype", "store_dtype", "bits", "rope_precision")}
    chosen = {name: value for name, value in chosen.items() if value not in (None, usual.get(name))}
    if "store_dtype" in chosen:
        chosen["store"] = meta["store"]
    return [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
