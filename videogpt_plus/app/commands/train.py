"""`sweep`, `pretrain`, `train` and `register`: what fills run folders."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from videogpt_plus.app.judging import NOBODY, MaybeJudge
from videogpt_plus.app.made import prepare_toy
from videogpt_plus.app.runs import take_published
from videogpt_plus.app.screen import TERMINAL
from videogpt_plus.app.sweep.cells import describe, write_experiment
from videogpt_plus.app.sweep.jobs import launched
from videogpt_plus.app.sweep.run import Plan, SweepConfig, check_cell, command_of, plan_sweep, prepare, run_sweep
from videogpt_plus.app.trainings import TRAINED, check_training, fill_run
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import named_or_filed
from videogpt_plus.config.experiments import base_of, choices
from videogpt_plus.config.options import DEFAULT_EVAL, DEFAULT_LOADER, EvalConfig, LoaderConfig
from videogpt_plus.types import UserError

#: Names of experiments, with their choices in the help.
AnyName = Annotated[str, arg(metavar="EXPERIMENT", help=f"{choices()}.")]
PretrainedName = Annotated[str, arg(metavar="EXPERIMENT", help=f"{choices(lambda e: e.trains_projectors)}.")]
TRAINED_NAMES, PUBLISHED_NAMES = choices(lambda e: e.is_trained), choices(lambda e: not e.is_trained)
TrainedAtLevel = Annotated[
    str, arg(metavar="EXPERIMENT", help=f"{TRAINED_NAMES}, followed by its level, as in toy_pool4.")
]
PublishedAtLevel = Annotated[
    str, arg(metavar="EXPERIMENT", help=f"{PUBLISHED_NAMES}, followed by its level, as in cogvlm2_video_pool2.")
]
DEFAULT_SWEEP = SweepConfig()


def sweep(
    experiment: Positional[AnyName],
    config: OmitArgPrefixes[SweepConfig] = DEFAULT_SWEEP,
    output: Path = Path("results"),
    dry_run: bool = False,
    cell: int | None = None,
    eval_config: OmitArgPrefixes[EvalConfig] = DEFAULT_EVAL,
    judge_config: OmitArgPrefixes[MaybeJudge] = NOBODY,
) -> None:
    """The whole answer in one command: pre-train, fine-tune, ask, score and report at every pool level.

    Finished cells are skipped by what they were made from; the same command resumes after any interruption.
    Models that are answered together share each clip's decoding and encoding.
    On a cluster: `--dry-run` numbers the cells, `--cell $SLURM_ARRAY_TASK_ID` runs one.

    Args:
        output: Folder of all sweeps.
        dry_run: Print every cell, or the one of --cell, with its state and its command; run nothing.
        cell: Run this cell alone.
    """
    plan = plan_sweep(experiment, output, config, eval_config, judge_config)
    check_cell(plan, cell)
    if dry_run:
        prepare(plan, TERMINAL)
        _print_cells(plan, cell)
    else:
        print(run_sweep(plan, TERMINAL, cell).took)


def pretrain(
    experiment: Positional[PretrainedName],
    stream: Positional[Annotated[str, arg(metavar="STREAM")]],
    output_dir: Path | None = None,
    deepspeed: str | None = None,
    dataloader_num_workers: int | None = None,
    loader_config: OmitArgPrefixes[LoaderConfig] = DEFAULT_LOADER,
) -> None:
    """Pre-train the projector of one stream; its encoder and the LLM stay frozen.

    Args:
        stream: image or video.
        output_dir: Folder for the weights; results/pretrain/EXPERIMENT_STREAM when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        dataloader_num_workers: Processes that read clips; 0 reads in the training process.
    """
    chosen = named_or_filed(experiment)
    _check_stream(chosen, stream)
    folder = output_dir or Path("results/pretrain") / f"{chosen.name}_{stream}"
    check_training(chosen, stream, folder, loader_config, deepspeed, dataloader_num_workers)
    prepare_toy(chosen)
    fill_run(chosen, stream, folder, loader_config, f"pretrain ({stream})", deepspeed, dataloader_num_workers)
    print(f"projector of the {stream} stream: {folder}")


def train(
    experiment: Positional[TrainedAtLevel],
    projectors: tuple[str, ...] = (),
    output_dir: Path | None = None,
    deepspeed: str | None = None,
    dataloader_num_workers: int | None = None,
    loader_config: OmitArgPrefixes[LoaderConfig] = DEFAULT_LOADER,
) -> None:
    """Fine-tune at the experiment's pool level: LoRA on the LLM, and all projectors that were pre-trained here.

    Args:
        projectors: Where each stream's pre-trained projector lies: image=FOLDER video=FOLDER. None for a model that
            was published with its projectors, which stay as they are.
        output_dir: Folder for the weights; results/EXPERIMENT when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        dataloader_num_workers: Processes that read clips; 0 reads in the training process.
    """
    chosen = named_or_filed(experiment)
    chosen.check_finetuned()
    starts = {}
    for start in projectors:
        stream, equals, folder = start.partition("=")
        if not equals:
            raise UserError(f"--projectors takes STREAM=FOLDER, such as image=results/pretrain/image, not '{start}'")
        _check_stream(chosen, stream)
        if not Path(folder).exists():
            words = ["pretrain", base_of(experiment), stream, "--output-dir", folder]
            raise UserError(f"no pre-trained projector at {folder}: make it with `videogpt-plus {shlex.join(words)}`")
        starts[stream] = folder
    folder = output_dir or Path("results") / chosen.name
    check_training(chosen, starts, folder, loader_config, deepspeed, dataloader_num_workers)
    prepare_toy(chosen)
    fill_run(chosen, starts, folder, loader_config, f"train {chosen.name}", deepspeed, dataloader_num_workers)
    print(f"weights of {chosen.name}: {folder}")


def register(experiment: Positional[PublishedAtLevel], output_dir: Path | None = None) -> None:
    """Make a run folder of published weights, which are asked as they are, at the experiment's pool level.

    Args:
        output_dir: The run folder; results/EXPERIMENT when not given.
    """
    chosen = named_or_filed(experiment)
    print(f"run of {chosen.name}: {take_published(chosen, output_dir or Path('results') / chosen.name)}")


def _check_stream(experiment: Experiment, stream: str) -> None:
    if experiment.training and not experiment.trains_projectors:
        raise UserError(
            f"{experiment.name} was published with its projectors, and none is pre-trained: "
            f"`videogpt-plus train {experiment.name}`"
        )
    names = [name for name, _ in experiment.branches]
    if stream not in names:
        raise UserError(f"unknown stream '{stream}'; choose from: {', '.join(names)}")


def _print_cells(plan: Plan, only: int | None) -> None:
    """Every cell, or one of them, with the command as it will be run."""
    launcher, deepspeed = plan.config.launcher, plan.config.deepspeed
    for cell, (number, title, state) in zip(plan.cells, describe(plan.cells), strict=True):
        if only is not None and plan.cells[only] is not cell:
            continue
        command = command_of(cell, launcher, deepspeed)
        call = launched(launcher, command) if launcher and cell.kind in TRAINED else ["videogpt-plus", *command]
        if str(cell.file) in command:
            write_experiment(cell)
        print(f"{number:>3}  {state:<8}  {title}\n               {shlex.join(call)}")
