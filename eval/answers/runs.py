"""Trained runs as folders: ask one, and report all of a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.answers.answer import Answered, Target, answer_all
from eval.answers.naming import OWN
from eval.answers.places import WEIGHTS
from eval.tasks import benchmarks
from eval.tasks.benchmarks import check_scoring, copy_of, is_own, one_root, place_of, root_of
from eval.tasks.task import Example
from eval.tasks.task import fingerprint as questions_fingerprint
from videogpt_plus.clips.cache import open_cache
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.options import DEFAULT_EVAL, EvalConfig
from videogpt_plus.io import fingerprint
from videogpt_plus.io.runs import taught

if TYPE_CHECKING:
    from videogpt_plus import inference


def examples_of(root: str | Path, limit: int | None = None, task: str = "mvbench") -> list[Example]:
    """The questions of a benchmark folder, at most `limit` a task; `task` is the benchmark's name."""
    return benchmarks.examples(task, root, limit)


def answer_runs(
    runs: Mapping[Path, Path],
    control: str | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
    eval_config: EvalConfig = DEFAULT_EVAL,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    task: str = "mvbench",
) -> dict[Path, Answered]:
    """`answer_all` for the models of run folders, each clip decoded and encoded once for all of them.

    `runs` holds run folder -> its answers.jsonl. The questions are those of the benchmark called `task`, in its usual
    folder (MVBench: the experiments' own, which has to be one) unless `benchmark` names one. `say` is told what the
    grid store will take and what it lost.
    """
    experiments = {run: load_experiment(run) for run in runs}
    root = one_root(task, [e.benchmark_root for e in experiments.values()], benchmark)
    check_scoring(task, eval_config.scoring)
    examples = examples_of(root, limit, task)
    for told in (_other_words(run, examples) for run in runs):
        if told and say:
            say(told)
    headers = {run: header_of(run, e, examples, task, benchmark, eval_config) for run, e in experiments.items()}
    targets = {str(run): Target(path, headers[run]) for run, path in runs.items()}
    store = open_cache(eval_config)

    def load_all() -> inference.VideoLLM:
        from videogpt_plus import inference

        if store and say and control is None:  # a control's clips are not kept
            clips = {(example.path, example.start, example.end) for example in examples}
            dtype = str(inference.arithmetic(eval_config)[-1]).removeprefix("torch.")
            say(store.announce(len(clips), next(iter(experiments.values())), dtype))
        return inference.load({str(run): run for run in runs}, eval_config, store, say)

    done = answer_all(load_all, examples, targets, progress, control, retry_errors)
    if store and say and (lost := store.measured()):
        say(lost)
    return {run: done[str(run)] for run in runs}


def header_of(
    run: Path,
    experiment: Experiment,
    examples: Sequence[Example],
    task: str = OWN,
    benchmark: Path | None = None,
    eval_config: EvalConfig = DEFAULT_EVAL,
) -> dict[str, Any]:
    """What the run's answers to these questions depend on, as their meta file keeps it."""
    weights = [fingerprint.of_path(run / file) for file in WEIGHTS]
    if not experiment.trains_projectors:  # published with the LLM
        weights.append(fingerprint.of_path(experiment.llm))
    header = {"experiment": experiment.name, "weights": weights, "questions": questions_fingerprint(examples)}
    header |= _benchmark(task, experiment.benchmark_root, benchmark)
    header |= {"store": os.path.realpath(eval_config.store)} if eval_config.store else {}
    return {**header, **eval_config.shapes_answers()}


def _benchmark(task: str, own: str, chosen: Path | None) -> dict[str, str]:
    """What the meta file says of the benchmark: its name, and its folder if that is not the usual one."""
    named = {"benchmark": task} if task != OWN else {}
    copy = copy_of(task, own, chosen)
    if not copy and not is_own(task):
        return named
    return named | ({"copy": copy} if copy else {}) | {"root": str(place_of(root_of(task, own, chosen)))}


def _other_words(run: Path, examples: Sequence[Example]) -> str | None:
    """What is to be said of a run that was taught one question alone and is asked others."""
    learned = taught(run)
    other = next((example.prompt for example in examples if example.prompt != learned), None)
    if learned is None or other is None:
        return None
    return f"{run} was taught to answer {learned!r} and is asked otherwise, such as {other!r}"
