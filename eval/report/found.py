"""What lies below a sweep's folder: runs that are told apart by what they were trained as, and their answers.

Nothing is mixed because of its name. Two recipes under one name are shown as two models; of two runs of one model the
second is left out; and each answer that is left out, or shown under another name, is one line of `Found.notes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers.answer import read_answers, read_meta
from eval.answers.naming import limit_of
from eval.answers.places import OtherAnswers, check_place, is_judged, name_of, task_of
from eval.answers.score import score
from eval.report.results import series_of
from eval.tasks.benchmarks import copy_of, examples, is_own, root_of
from eval.tasks.task import Example
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import experiment_json, load_experiment
from videogpt_plus.io import fingerprint
from videogpt_plus.types import UserError

#: Settings that runs of one curve may differ in: what a level and a seed change, and where the benchmark lies.
FREE = ("name", "reducer.level", "source.finetune.seed", "benchmark_root")
#: What answers of one curve may be asked in alike alone.
WAYS = ("scoring", "encoder_dtype", "store_dtype", "bits", "rope_precision")


@dataclass(frozen=True)
class Answers:
    """One answers.jsonl of a run."""

    path: Path
    experiment: Experiment
    meta: Mapping[str, Any]
    #: The experiment's name in the report.
    shown: str

    @property
    def run(self) -> Path:
        return self.path.parent.parent

    @property
    def is_judged(self) -> bool:
        return is_judged(self.meta)


@dataclass(frozen=True)
class Found:
    """The answers that can be reported, and a line for everything that is not as its name says."""

    answers: Sequence[Answers]
    #: (what, why).
    notes: Sequence[tuple[str, str]]


def find(root: Path) -> Found:
    """The answers of every run below `root`."""
    kept, notes = [], []
    for path in sorted(root.glob("*/answers*/answers.jsonl")):
        if ".old-" in path.relative_to(root).as_posix():
            continue
        try:
            check_place(path)
        except OtherAnswers as error:
            notes.append((str(path.parent), f"not reported: {error}"))
            continue
        kept.append(path)
    experiments = {run: load_experiment(run) for run in dict.fromkeys(path.parent.parent for path in kept)}
    seconds = _seconds(experiments)
    notes += [(str(run), f"not reported: {why}") for run, why in seconds.items()]
    shown, told = _names({run: e for run, e in experiments.items() if run not in seconds})
    answers = [Answers(p, experiments[r], read_meta(p), shown[r]) for p in kept if (r := p.parent.parent) in shown]
    return Found(answers, [*notes, *told, *_ways(answers)])


def scores_of(answers: Answers, chosen: Mapping[str, Path]) -> tuple[dict[str, Any], list[str]]:
    """The scores of answers to questions with options, and what is to be said of them.

    `chosen` holds where benchmarks lie by name. UserError: an answer is missing, or the benchmark is. OtherAnswers:
    they are to other questions, or to a copy that is gone.
    """
    meta, task, limit = answers.meta, task_of(answers.meta), limit_of(answers.path.parent)
    elsewhere = "copy" in meta or is_own(task)
    try:
        place = _place(answers, chosen)
        asked: list[Example] = examples(task, place, limit)
        scores = score(answers.path, asked)
    except OtherAnswers:
        raise
    except UserError as error:
        if not elsewhere:
            raise
        raise OtherAnswers(str(error)) from error
    told = [f"answers to another copy of {task}, {place}"] if "copy" in meta else []
    if more := len(read_answers(answers.path)) - len(asked):
        told.append(f"holds {more:,} answers more than the {len(asked):,} questions of {place}, which alone count here")
    return scores, told


def _place(answers: Answers, chosen: Mapping[str, Path]) -> Path:
    """Where the benchmark of these answers lies. OtherAnswers: it is a copy that is gone or has changed."""
    meta, task = answers.meta, task_of(answers.meta)
    if "root" not in meta:
        return root_of(task, answers.experiment.benchmark_root, chosen.get(task))
    known, stated = Path(meta["root"]), chosen.get(task)
    places = [place for place in ((known, stated) if "copy" in meta else (stated, known)) if place and place.exists()]
    moved = f"if it lies elsewhere now, say so by --benchmarks {task}=FOLDER"
    for place in places:
        if "copy" not in meta or is_copy(meta, place):
            return place
    what = "which has other questions now" if known.exists() else "which is gone"
    raise OtherAnswers(f"{task} was asked at {known}, {what}; {moved}")


def is_copy(meta: Mapping[str, Any], place: Path) -> bool:
    """Whether the copy of the benchmark that was asked lies at `place`, under whatever name."""
    return copy_of(task_of(meta), "", place).rpartition("-")[2] == meta["copy"].rpartition("-")[2]


def _seconds(experiments: Mapping[Path, Experiment]) -> dict[Path, str]:
    """Second runs of one name and recipe -> why they are left out; the run whose folder has the name stays."""
    first: dict[tuple[str, str], Path] = {}
    found = {}
    for run in sorted(experiments, key=lambda run: (run.name != experiments[run].name, run)):
        e = experiments[run]
        other = first.setdefault((e.name, _recipe(e)), run)
        if other != run:
            found[run] = f"a second run of {e.name} with the recipe of {other}; report it in a folder of its own"
    return found


def _names(experiments: Mapping[Path, Experiment]) -> tuple[dict[Path, str], list[tuple[str, str]]]:
    """Names for the report, and what is said of them: runs of one series whose recipes differ are not one curve."""
    by_series: dict[str, dict[str, list[Path]]] = {}
    for run, e in experiments.items():
        by_series.setdefault(series_of(e.name), {}).setdefault(_recipe(e), []).append(run)
    shown, told = {run: e.name for run, e in experiments.items()}, []
    for name, recipes in by_series.items():
        settings = {recipe: _settings(experiments[runs[0]]) for recipe, runs in recipes.items()}
        for recipe, runs in recipes.items() if len(recipes) > 1 else ():
            called = f"{name} (recipe {recipe[:6]})"
            shown |= {run: called + experiments[run].name.removeprefix(name) for run in runs}
            what = f"shown as {called}: of {len(recipes)} recipes called {name} this one has "
            told.append((", ".join(map(str, runs)), what + _apart(settings, recipe)))
    return shown, told


def _apart(settings: Mapping[str, Mapping[str, Any]], recipe: str) -> str:
    """What the recipe has where the recipes differ, in words."""
    names = dict.fromkeys(name for one in settings.values() for name in one)
    differing = [name for name in names if len({str(one.get(name)) for one in settings.values()}) > 1]
    said = ", ".join(f"{name} {settings[recipe].get(name)}" for name in differing[:4])
    return said + (f" and {len(differing) - 4} more" if differing[4:] else "")


def _recipe(experiment: Experiment) -> str:
    return fingerprint.of_value(_settings(experiment))


def _settings(experiment: Experiment) -> dict[str, Any]:
    """All settings by their dotted names, without those that are free."""
    return {name: value for name, value in _flat(experiment_json(experiment), "") if name not in FREE}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Dotted name and plain value of all that nested dicts hold."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else key)


def _ways(answers: Sequence[Answers]) -> list[tuple[str, str]]:
    """What is said where answers of one curve to one benchmark were asked in several ways."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in answers:
        way = ", ".join(f"{name} {one.meta[name]}" for name in WAYS if one.meta.get(name) is not None)
        at = (series_of(one.shown), name_of(one.meta))
        found.setdefault(at, {}).setdefault(way or "settings that were not recorded", []).append(str(one.path.parent))
    return [
        (", ".join(paths), f"asked with {way}, and other answers of {name} to {asked} were not")
        for (name, asked), ways in found.items()
        if len(ways) > 1
        for way, paths in ways.items()
    ]
