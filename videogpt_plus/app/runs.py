"""Runs that a user names: found by folder, name or pattern, and made where that takes no training."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from videogpt_plus.app.listener import SILENT, Listener
from videogpt_plus.app.made import prepare_twin, say_random
from videogpt_plus.app.screen import TERMINAL
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.experiments import EXPERIMENTS, TOY_WEIGHTS, base_of, get_experiment, level_text
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.io.files import located, read_object, require
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.inference import VideoLLM


def load(*runs: str | Path, listener: Listener = SILENT, **how: Any) -> VideoLLM:
    """The models of these runs, which are asked together: run folders, or names as on the command line.

    `how` are fields of `EvalConfig`: load("toy_pool2", "toy_pool8", batch_size=8). UserError: there is no such run,
    or they do not see clips in the same way.
    """
    from videogpt_plus import inference

    wanted = wanted_runs([str(run) for run in runs])
    folders = {one.name: one.made(listener=listener) for one in wanted}
    return inference.load(folders, EvalConfig(**how), tell=listener.say)


def find_runs(run: str, make: bool = True) -> list[Path]:
    """The run of that name, or for a pattern such as 'toy_pool*' every trained run that fits, under results/."""
    return [one.made(make) for one in _fitting(run)]


def _fitting(run: str) -> list[Wanted]:
    """A folder that is called like this, as `run[1]` is, comes before what its name would fit as a pattern."""
    if not set(run) & set("*?[") or os.path.isdir(run):
        return [wanted_run(run)]
    found = [folder for folder in trained_runs() if folder.match(run) or folder.absolute().match(run)]
    if not found:
        raise UserError(f"no trained run under results/ fits '{run}'; train some, or name their folders")
    return [wanted_run(str(folder)) for folder in found]


def trained_runs() -> list[Path]:
    """What was trained under results/; not what was moved aside, pre-trained, or is a copy that a kill cut short."""
    found = sorted({path.parent for path in Path("results").glob("**/projectors.safetensors")})
    found = [folder for folder in found if ".old-" not in folder.as_posix() and folder.parent.name != "pretrain"]
    return [folder for folder in found if not folder.name.startswith(".")]


def all_runs(folder: Path) -> Iterator[tuple[Experiment, Path]]:
    """What was trained here, the packaged run, published weights that are there, and the families' tiny twins.

    Run folders of published weights are made below `folder`.
    """
    for run in (*trained_runs(), *sorted(located(f"{TOY_WEIGHTS}/runs").iterdir())):
        if (run / "experiment.json").is_file():
            yield load_experiment(run), run
    for experiment in EXPERIMENTS.values():
        if not experiment.is_trained:
            if experiment.is_random:
                prepare_twin(experiment)
            if located(experiment.llm).exists():
                yield experiment, take_published(experiment, folder / experiment.name)


def find_run(run: str, make: bool = True) -> Path:
    """The folder itself, or the only trained run of that name under results/, or the packaged one.

    With `make` the run of published weights is made, and a tiny twin's weights are written, if they are not there.
    Without it nothing is written: for a command that reads what was answered.
    """
    return wanted_run(run).made(make)


class Wanted(NamedTuple):
    """A run that is named; whatever is wrong with a command line is told before it is made."""

    #: As it was named.
    name: str
    #: Where it lies, or will.
    folder: Path
    experiment: Experiment
    #: Whether it is one of published weights, which may have to be taken first.
    is_published: bool

    def made(self, make: bool = True, listener: Listener = TERMINAL) -> Path:
        """Its folder; see `find_run`."""
        if self.is_published and make:
            take_published(self.experiment, self.folder)
        elif self.is_published and not (self.folder / "experiment.json").is_file():
            what = f"{self.name} was not asked here yet: there is no {self.folder}"
            raise UserError(f"{what}; run `videogpt-plus answer {self.name}`")
        if self.experiment.is_random:
            if make:
                prepare_twin(self.experiment)
            say_random(self.experiment.name, listener)
        return self.folder


def wanted_run(run: str) -> Wanted:
    """The run of that name; nothing is made. UserError: there is none, or there are several."""
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
    if run and base_of(run) in EXPERIMENTS and not Path(run).exists():
        experiment = get_experiment(run)
        if not experiment.is_trained and not (Path("results") / experiment.name / "experiment.json").is_file():
            with TemporaryDirectory() as folder:
                taken = take_published(experiment, Path(folder))
                if experiment.is_random:
                    say_random(experiment.name)
                TERMINAL.warn(f"{run}: {experiment.llm}")
                yield taken
            return
    folder = find_run(run)
    if not Path(run).is_dir():
        TERMINAL.warn(f"{run}: {folder}")  # the packaged one, or one that was trained here
    yield folder


def _found(run: str) -> tuple[Path, Experiment | None]:
    """Where the run lies, and the experiment where it is one of published weights that may have to be taken there."""
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
    found = [folder for folder in trained_runs() if folder.name == run]
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


def _training(name: str, experiment: Experiment) -> str:
    """The command that trains the run called `name`."""
    if not experiment.trains_projectors:
        return f"videogpt-plus train {name}"
    base = EXPERIMENTS[base_of(name)]
    options = ["--levels", level_text(experiment.level)] if "_pool" in name else []
    reducer = experiment.reducer.name
    options += ["--reducers", reducer] if reducer != base.reducer.name else []
    options += ["--seeds", str(experiment.seed)] if experiment.seed != base.seed else []
    return shlex.join(["videogpt-plus", "sweep", base.name, *options])


def _published(folder: Path) -> str | None:
    """How weights are asked that the folder holds as they were published; None where its config.json says none."""
    from videogpt_plus.config.experiments import EXPERIMENTS
    from videogpt_plus.families import FAMILIES

    if not (folder / "config.json").is_file():
        return None
    config = read_object(folder / "config.json", "name a folder that `train` filled")
    names = [family.name for family in FAMILIES.values() if family.published(config)]
    published = [e for e in EXPERIMENTS.values() if not e.is_trained and e.family in names]
    if not published:
        return None
    there = [e for e in published if Path(e.llm) == folder]
    experiment = (there or published)[0]
    put = "" if there else f"put them at {experiment.llm} and "
    return f"for weights as they were published {put}name the experiment {experiment.name}"


def named_runs(runs: Sequence[str], make: bool = True) -> list[Path]:
    """`find_runs` of all, each once."""
    return list(dict.fromkeys(one.made(make) for one in wanted_runs(runs)))


def own_runs(runs: Sequence[str]) -> list[Path]:
    """`named_runs` for a command that writes answers beside the weights: a packaged run is copied first."""
    packaged = located(f"{TOY_WEIGHTS}/runs")
    return [_copied(folder) if folder.parent == packaged else folder for folder in named_runs(runs)]


def _copied(folder: Path) -> Path:
    """A copy of the packaged run under results/, whole or not there."""
    from shutil import copytree

    from videogpt_plus.io.folders import new_folder

    target = Path("results") / folder.name
    with new_folder(target) as scratch:
        copytree(folder, scratch, dirs_exist_ok=True)
    TERMINAL.say(f"{target}: copied from the package")
    return target


def take_published(experiment: Experiment, folder: Path) -> Path:
    """Makes `folder` the run of weights that are asked as they were published, at the experiment's level.

    UserError: it holds another run, or something else.
    """
    from videogpt_plus.training.folder import check_claim, claim

    if experiment.is_trained:
        raise UserError(f"{experiment.name} is trained before it is asked: `videogpt-plus sweep {experiment.name}`")
    check_claim(folder, experiment)
    prepare_twin(experiment)
    require(experiment.llm, f"weights of {experiment.name}")
    claim(folder, experiment)
    return folder
