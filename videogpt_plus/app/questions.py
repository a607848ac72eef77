"""Which benchmark a user means, where it lies, and where its answers do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from videogpt_plus.app.checks import check_answered
from videogpt_plus.app.made import prepare_benchmark
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.types import Control, UserError


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


@dataclass(frozen=True)
class TaskConfig:
    """What a model is asked, or was."""

    # The benchmark: mvbench, vcgbench, vcgbench_diverse, msvd_qa, msrvtt_qa, tgif_qa, activitynet_qa, rwf2000,
    # toy_open, toy_rwf2000; or NAME=FOLDER for one of your own in MVBench's layout.
    task: str = "mvbench"
    # What is withheld: blind shows no video, one_frame repeats a single frame, shuffled mixes their order; nothing when
    # not given.
    control: Control | None = None
    # Questions a task at most; all when not given.
    limit: int | None = None
    # Another copy of the benchmark, a folder or a file of rows, whose answers have a folder of their own; the usual one
    # when not given, for mvbench the experiment's own.
    benchmark: Path | None = None

    def read(self) -> TaskConfig:
        """The same with the folder of NAME=FOLDER as `benchmark`. UserError: it names none; see `benchmark_stated`."""
        name, place = benchmark_stated(self.task, self.benchmark)
        return replace(self, task=name, benchmark=place)

    @property
    def options(self) -> list[str]:
        """The options of a command that mean the same."""
        from eval.answers.naming import options_of
        from eval.tasks.benchmarks import is_own

        return options_of(self.task, self.control, self.limit, self.benchmark, is_own(self.task))

    def answers(self, run: Path) -> Path:
        """The run's answers.jsonl."""
        from eval.answers.naming import answers_folder
        from eval.tasks.benchmarks import copy_of

        own = load_experiment(run).benchmark_root
        copy = copy_of(self.task, own, self.benchmark) if self.benchmark else ""
        return answers_folder(run, self.control, self.limit, self.task, copy) / "answers.jsonl"

    def root(self, run: Path) -> Path:
        """Where the benchmark lies: as chosen, in its usual place, or where the run's experiment says."""
        from eval.tasks.benchmarks import root_of

        return root_of(self.task, load_experiment(run).benchmark_root, self.benchmark)


#: All frames, every question, of MVBench in its usual place.
WHOLE = TaskConfig()


def benchmark_folder(config: TaskConfig, run: Path) -> Path:
    """Where the benchmark lies; the toy's is made there if it is not."""
    root = config.root(run)
    prepare_benchmark(root)
    return root


def answered_benchmark(config: TaskConfig, run: Path) -> Path:
    """`benchmark_folder` of answers. UserError: there are none, and no toy's questions either."""
    check_answered(config.answers(run), config.root(run), config.options)
    return benchmark_folder(config, run)
