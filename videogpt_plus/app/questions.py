"""Which benchmark a user means, where it lies, and where its answers do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videogpt_plus.app.checks import check_answered
from videogpt_plus.app.made import prepare_benchmark
from videogpt_plus.types import UserError


def benchmark_stated(text: str, place: Path | None = None) -> tuple[str, Path | None]:
    """Name and place of NAME=PLACE, or the name with the `place` that was given apart.

    A name that no benchmark has is that of one of the user's own, in MVBench's layout. UserError: there is no such
    benchmark, no place, or two of them.
    """
    from eval.tasks.benchmarks import BENCHMARKS, check_own_name, get_benchmark
    from eval.tasks.mvbench import open_benchmark

    name, equals, stated = text.partition("=")
    if not equals:
        get_benchmark(name)
        return name, place
    if not stated:
        raise UserError(f"'{text}' names no folder: write {name}=FOLDER, or {name} alone for its usual place")
    if place is not None:
        raise UserError(f"'{text}' says where the benchmark lies, and so does --benchmark {place}: leave one out")
    if name not in BENCHMARKS:
        check_own_name(name)
        try:
            open_benchmark(stated)
        except UserError as error:
            known = ", ".join(BENCHMARKS)
            raise UserError(f"'{name}' is none of {known}, and as one of your own it has {error}") from error
    return name, Path(stated)


def benchmark_folder(task: str, run: Path, chosen: Path | None) -> Path:
    """Where the benchmark lies: the folder that was chosen, its usual one, or the one that the run's experiment names.

    The toy's are rendered there if they are not.
    """
    from eval.tasks.benchmarks import root_of
    from videogpt_plus.config.experiment_file import load_experiment

    root = root_of(task, load_experiment(run).benchmark_root, chosen)
    prepare_benchmark(root)
    return root


def answered_benchmark(task: str, run: Path, chosen: Path | None, path: Path, asked: Sequence[str]) -> Path:
    """`benchmark_folder`, of which the run's answers lie at `path`. UserError: there are none, and no toy's either."""
    from eval.tasks.benchmarks import root_of
    from videogpt_plus.config.experiment_file import load_experiment

    check_answered(path, root_of(task, load_experiment(run).benchmark_root, chosen), asked)
    return benchmark_folder(task, run, chosen)


def answers_of(
    run: Path, control: str | None, limit: int | None, task: str = "mvbench", benchmark: Path | None = None
) -> Path:
    """The run's answers.jsonl to a benchmark, which lies in its usual place unless `benchmark` says where."""
    from eval.answers.naming import answers_folder
    from eval.tasks.benchmarks import copy_of
    from videogpt_plus.config.experiment_file import load_experiment

    copy = copy_of(task, load_experiment(run).benchmark_root, benchmark) if benchmark else ""
    return answers_folder(run, control, limit, task, copy) / "answers.jsonl"


def which_answers(task: str, control: str | None, limit: int | None, benchmark: Path | None) -> list[str]:
    """The options of `answer` that mean the same answers."""
    from eval.answers.naming import options_of
    from eval.tasks.benchmarks import is_own

    return options_of(task, control, limit, benchmark, is_own(task))
