"""What several commands need: names of runs, folders of answers, the toy's data."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import arg

from videogpt_plus.app.commands.checks import check_answered
from videogpt_plus.types import CONTROLS, UserError

if TYPE_CHECKING:
    from videogpt_plus.config.experiment import Experiment

Name = Annotated[str, arg(metavar="EXPERIMENT")]
Control = Literal[tuple(CONTROLS)]


def prepare_toy(experiment) -> None:
    """Render the toy's clips where the experiment reads them and they are not there, and write a twin's weights."""
    from videogpt_plus.config.experiments import TOY, is_random

    if experiment.finetune.data == "TOY_RWF":
        prepare_toy_rwf()
    elif experiment.benchmark_root == TOY.benchmark_root:
        from videogpt_plus.app.screen import progress
        from videogpt_plus.toy.render import ensure_toy_data

        with progress("render toy clips") as advance:
            ensure_toy_data(Path(TOY.benchmark_root).parent, progress=advance)
    if is_random(experiment):
        prepare_twin(experiment.llm)
        say_random(experiment.name)


def prepare_toy_rwf() -> None:
    """Render the toy's RWF-2000 where it is not there."""
    from videogpt_plus.app.screen import progress
    from videogpt_plus.config.mixtures import get_mixture
    from videogpt_plus.toy.rwf2000 import ensure_rwf2000

    with progress("render the toy's RWF-2000") as advance:
        ensure_rwf2000(Path(get_mixture("TOY_RWF")[0][0]).parent, progress=advance)


def prepare_twin(folder: str) -> None:
    """Write the random weights of a family's tiny twin where this is its folder and they are not there."""
    from videogpt_plus.config.experiments import TOY_FAMILIES

    if folder.startswith(f"{TOY_FAMILIES}/"):
        from videogpt_plus.toy.families import ensure_family

        ensure_family(folder)


def say_random(name: str) -> None:
    print(f"{name}: its weights are random, so what it answers means nothing; it shows that it runs", file=sys.stderr)


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


def prepare_benchmark(root: Path) -> None:
    """Render the toy's clips, or write its open questions or labels, where one of its benchmarks is meant and not
    there.
    """
    from eval.tasks.benchmarks import BENCHMARKS
    from videogpt_plus.config.experiments import TOY

    if str(root) == BENCHMARKS["toy_open"].root:
        prepare_open_toy(root.parent)
    elif str(root) == BENCHMARKS["toy_rwf2000"].root:
        prepare_toy_rwf()
    elif str(root) == TOY.benchmark_root and not root.exists():
        prepare_toy(TOY)


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


def prepare_open_toy(data: Path) -> None:
    """Render the toy's clips below `data`, and write the open questions about them, where they are not there."""
    from videogpt_plus.app.screen import progress
    from videogpt_plus.toy.open_questions import ensure_open_questions
    from videogpt_plus.toy.render import ensure_toy_data

    with progress("render toy clips") as advance:
        ensure_toy_data(data, progress=advance)
    ensure_open_questions(data)


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


def find_runs(run: str, take: bool = True) -> list[Path]:
    """The run of that name, or for a pattern such as 'toy_pool*' every trained run that fits, under results/.

    A folder that is called like this, as `run[1]` is, comes before what its name would fit as a pattern.
    """
    return [one.made(take) for one in _fitting(run)]


def _fitting(run: str) -> list[Wanted]:
    if not set(run) & set("*?[") or os.path.isdir(run):
        return [wanted_run(run)]
    trained = sorted({path.parent for path in Path("results").glob("**/projectors.safetensors")})
    found = [folder for folder in trained if folder.match(run) or folder.absolute().match(run)]
    found = [folder for folder in found if ".old-" not in folder.as_posix() and folder.parent.name != "pretrain"]
    found = [folder for folder in found if not folder.name.startswith(".")]  # a copy that a kill cut short
    if not found:
        raise UserError(f"no trained run under results/ fits '{run}'; train some, or name their folders")
    return [wanted_run(str(folder)) for folder in found]


def find_run(run: str, take: bool = True) -> Path:
    """The folder itself, or the only trained run of that name under results/, or the packaged one.

    With `take` the run of published weights is made, and a tiny twin's weights are written, if they are not there.
    Without it nothing is written: for a command that reads what was answered.
    """
    return wanted_run(run).made(take)


class Wanted(NamedTuple):
    """A run that is named; whatever is wrong with a command line is told before it is made."""

    #: As it was named.
    name: str
    #: Where it lies, or will.
    folder: Path
    experiment: Experiment
    #: Whether it is one of published weights, which may have to be taken first.
    is_published: bool

    def made(self, take: bool = True) -> Path:
        """Its folder; see `find_run`."""
        from videogpt_plus.config.experiments import is_random

        if self.is_published and take:
            take_published(self.experiment, self.folder)
        elif self.is_published and not (self.folder / "experiment.json").is_file():
            what = f"{self.name} was not asked here yet: there is no {self.folder}"
            raise UserError(f"{what}; run `videogpt-plus answer {self.name}`")
        if is_random(self.experiment):
            if take:
                prepare_twin(self.experiment.llm)
            say_random(self.experiment.name)
        return self.folder


def wanted_run(run: str) -> Wanted:
    """The run of that name; nothing is made. UserError: there is none, or there are several."""
    from videogpt_plus.config.experiment_file import load_experiment

    folder, published = _found(run)
    return Wanted(run, folder, published or load_experiment(folder), published is not None)


def wanted_runs(runs: Sequence[str]) -> list[Wanted]:
    """All runs that are named or fit; nothing is made. UserError: one of them is none."""
    if not runs:
        raise UserError("no run is named: give a run folder, or the name of a trained experiment such as toy_pool2")
    return [one for run in runs for one in _fitting(run)]


@contextmanager
def run_to_ask(run: str) -> Iterator[Path]:
    """`find_run`, for one question: the run of published weights is made for as long as it takes, and leaves nothing.

    A tiny twin's weights are kept where they usually lie.
    """
    from videogpt_plus.config.experiments import EXPERIMENTS, base_of, get_experiment, is_random

    if run and base_of(run) in EXPERIMENTS and not Path(run).exists():
        experiment = get_experiment(run)
        if not experiment.is_trained and not (Path("results") / experiment.name / "experiment.json").is_file():
            with TemporaryDirectory() as folder:
                taken = take_published(experiment, Path(folder))
                if is_random(experiment):
                    say_random(experiment.name)
                print(f"{run}: {experiment.llm}", file=sys.stderr)
                yield taken
            return
    folder = find_run(run)
    if not Path(run).is_dir():
        print(f"{run}: {folder}", file=sys.stderr)  # the packaged one, or one that was trained here
    yield folder


def _found(run: str) -> tuple[Path, Experiment | None]:
    """Where the run lies, and the experiment where it is one of published weights that may have to be taken there."""
    from videogpt_plus.config.experiments import TOY_WEIGHTS, get_experiment
    from videogpt_plus.io.files import located

    folder = Path(run)
    if folder.is_dir() and folder.name.startswith("answers") and (folder.parent / "experiment.json").is_file():
        if folder.name == "answers":
            return folder.parent, None
        raise UserError(
            f"{folder} holds answers: name the run, {folder.parent}, and say how it was asked by --task, --control or "
            "--limit where the command has them"
        )
    if (folder / "experiment.json").is_file():
        return folder, None
    if folder.is_dir():
        then = _published(folder) or "name the folder that `train` filled"
        raise UserError(f"{folder} is no run folder: it has no experiment.json; {then}")
    if folder.parent != Path():  # a path, and no experiment's name holds a slash
        raise UserError(f"run folder not found: {folder} does not exist; name a folder that `train` filled")
    experiment = get_experiment(run)
    found = sorted(p.parent for p in Path("results").glob("**/projectors.safetensors") if p.parent.name == run)
    packaged = located(f"{TOY_WEIGHTS}/runs/{run}")
    if not found and packaged.is_dir():
        return packaged, None
    if not found and not experiment.is_trained:
        return Path("results") / experiment.name, experiment
    if len(found) != 1:
        what = f"{len(found)} runs are called '{run}': {', '.join(map(str, found))}" if found else f"no trained '{run}'"
        training = _training(run, experiment)
        then = "name one of the folders" if found else f"train it with `{training}`"
        raise UserError(f"{what} under results/; {then}")
    return found[0], None


def _training(name: str, experiment) -> str:
    """The command that trains the run called `name`."""
    from videogpt_plus.config.experiments import EXPERIMENTS, base_of, level_text

    if not experiment.pretrain:
        return f"videogpt-plus train {name}"
    base = EXPERIMENTS[base_of(name)]
    options = ["--levels", level_text(experiment.level)] if "_pool" in name else []
    options += ["--adapters", experiment.adapter] if experiment.adapter != base.adapter else []
    options += ["--seeds", str(experiment.finetune.seed)] if experiment.finetune.seed != base.finetune.seed else []
    return shlex.join(["videogpt-plus", "sweep", base.name, *options])


def _published(folder: Path) -> str | None:
    """How weights are asked that the folder holds as they were published; None where its config.json says none."""
    from videogpt_plus.config.experiments import EXPERIMENTS
    from videogpt_plus.families.cogvlm2.weights import ARCHITECTURES
    from videogpt_plus.io.files import read_object

    if not (folder / "config.json").is_file():
        return None
    config = read_object(folder / "config.json", "name a folder that `train` filled")
    names = [name for name, known in ARCHITECTURES.items() if config.get("architectures") == [known]]
    names += ["llava15_7b"] if config.get("model_type") == "llava" else []
    if not names:
        return None
    there = [e for e in EXPERIMENTS.values() if not e.is_trained and Path(e.llm) == folder]
    experiment = there[0] if there else EXPERIMENTS[names[0]]
    put = "" if there else f"put them at {experiment.llm} and "
    return f"for weights as they were published {put}name the experiment {experiment.name}"


def named_runs(runs: Sequence[str], take: bool = True) -> list[Path]:
    """`find_runs` of all, each once."""
    return list(dict.fromkeys(one.made(take) for one in wanted_runs(runs)))


def own_runs(runs: Sequence[str]) -> list[Path]:
    """`named_runs` for a command that writes answers beside the weights: a packaged run is copied first."""
    from videogpt_plus.config.experiments import TOY_WEIGHTS
    from videogpt_plus.io.files import located

    packaged = located(f"{TOY_WEIGHTS}/runs")
    return [_copied(folder) if folder.parent == packaged else folder for folder in named_runs(runs)]


def _copied(folder: Path) -> Path:
    """A copy of the packaged run under results/, whole or not there."""
    from shutil import copytree

    from videogpt_plus.io.folders import new_folder

    target = Path("results") / folder.name
    with new_folder(target) as scratch:
        copytree(folder, scratch, dirs_exist_ok=True)
    print(f"{target}: copied from the package")
    return target


def take_published(experiment, folder: Path) -> Path:
    """Makes `folder` the run of weights that are asked as they were published, at the experiment's level.

    UserError: it holds another run, or something else.
    """
    from videogpt_plus.io.files import require
    from videogpt_plus.training.folder import check_claim, claim

    if experiment.is_trained:
        raise UserError(f"{experiment.name} is trained before it is asked: `videogpt-plus sweep {experiment.name}`")
    check_claim(folder, experiment)
    prepare_twin(experiment.llm)
    require(experiment.llm, f"weights of {experiment.name}")
    claim(folder, experiment)
    return folder
