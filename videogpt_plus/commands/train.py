"""`sweep`, `pretrain`, `train` and `take`: what fills run folders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from eval.task import CONTROLS
from videogpt_plus.commands.common import Control, Name, prepare_toy, take_published
from videogpt_plus.configs import DEFAULT_ASKING, DEFAULT_FEEDING, Asking, Feeding
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.sweep import Cell


def sweep(
    experiment: Positional[Name],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    adapters: tuple[str, ...] = ("average",),
    controls: tuple[Control, ...] = tuple(CONTROLS),
    control_levels: tuple[float, ...] | None = None,
    seeds: tuple[int, ...] | None = None,
    limit: int | None = None,
    name: str | None = None,
    output: Path = Path("results"),
    dry_run: bool = False,
    cell: int | None = None,
    jobs: int = 1,
    launcher: str | None = None,
    deepspeed: str | None = None,
    asking: OmitArgPrefixes[Asking] = DEFAULT_ASKING,
) -> None:
    """The whole answer in one command: pre-train, fine-tune, ask, score and report at every pool level.

    Finished cells are skipped by what they were made from; the same command goes on after any interruption.
    Models that are answered together share each clip's decoding and encoding.
    On a cluster: `--dry-run` numbers the cells, `--cell $SLURM_ARRAY_TASK_ID` runs one.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        levels: Pool levels; the grid's side is divided by each.
        adapters: Token adapters; each one is trained at every level.
        controls: What is withheld from the model to tell seeing from guessing.
        control_levels: Levels that are asked under the controls, too; the coarsest when not given.
        seeds: Seeds of fine-tuning, each with its own runs; the report then holds the noise of training.
        limit: Questions a task at most; all when not given.
        name: Name of the sweep's folder; the experiment's when not given.
        output: Folder of all sweeps.
        dry_run: Print every cell with its state and its command, run nothing.
        cell: Run this cell alone.
        jobs: Cells that run side by side, each on its share of the cores.
        launcher: Puts training cells behind a launcher, such as "torchrun --nproc_per_node 8".
        deepspeed: A DeepSpeed json for the training cells, such as scripts/zero2.json.
    """
    from functools import partial

    from videogpt_plus import sweep as sweeps
    from videogpt_plus.experiments import at_level, get_experiment, with_adapter, with_seed
    from videogpt_plus.jobs import accounts, run_cells

    base = get_experiment(experiment)
    seeds = (base.finetune.seed,) if seeds is None else seeds
    wanted = dict.fromkeys((seed, a, level) for seed in seeds for a in adapters for level in levels)
    experiments = [with_seed(at_level(with_adapter(base, a), level), seed) for seed, a, level in wanted]
    root = output / (name or base.name)
    prepare_toy(base)
    at = control_levels if control_levels is not None else (max(levels, default=0),)
    cells = sweeps.plan(base, experiments, root, controls, at, limit, asking)
    if dry_run:
        _print_cells(sweeps.describe(cells))
        return
    if cell is not None and not 0 <= cell < len(cells):
        raise UserError(f"there is no cell {cell}: this sweep has cells 0 to {len(cells) - 1}; see --dry-run")
    together = sweeps.together(cells, jobs) if cell is None else [[cells[cell]]]
    run = partial(_run_cells, launcher=launcher, deepspeed=deepspeed, asking=asking)
    with accounts(root) as said:
        run_cells(_titled(together, cells), run, jobs)
    print(said())


def pretrain(
    experiment: Positional[Name],
    stream: Positional[str],
    output_dir: Path | None = None,
    deepspeed: str | None = None,
    dataloader_num_workers: int | None = None,
    feeding: OmitArgPrefixes[Feeding] = DEFAULT_FEEDING,
) -> None:
    """Pre-train the projector of one stream; its encoder and the LLM stay frozen.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        stream: image or video.
        output_dir: Folder for the weights; results/pretrain/EXPERIMENT_STREAM when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        dataloader_num_workers: Processes that read clips; 0 reads in the training process.
    """
    from videogpt_plus.experiments import get_experiment

    chosen = get_experiment(experiment)
    prepare_toy(chosen)
    _check_stream(chosen, stream)
    folder = output_dir or Path("results/pretrain") / f"{chosen.name}_{stream}"
    _train("pretrain", chosen, stream, folder, deepspeed, dataloader_num_workers, f"pretrain ({stream})", feeding)
    print(f"projector of the {stream} stream: {folder}")


def train(
    experiment: Positional[Name],
    projectors: tuple[str, ...],
    output_dir: Path | None = None,
    deepspeed: str | None = None,
    dataloader_num_workers: int | None = None,
    feeding: OmitArgPrefixes[Feeding] = DEFAULT_FEEDING,
) -> None:
    """Fine-tune at the experiment's pool level: LoRA on the LLM, and all projectors.

    Args:
        experiment: toy, qwen1_5b or qwen3b with the level behind it: toy_pool4.
        projectors: Where each stream's pre-trained projector lies: image=FOLDER video=FOLDER.
        output_dir: Folder for the weights; results/EXPERIMENT when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        dataloader_num_workers: Processes that read clips; 0 reads in the training process.
    """
    from videogpt_plus.experiments import get_experiment

    chosen = get_experiment(experiment)
    _check_trainable(chosen)
    prepare_toy(chosen)
    starts = {}
    for start in projectors:
        stream, equals, folder = start.partition("=")
        if not equals:
            raise UserError(f"--projectors takes STREAM=FOLDER, such as image=results/pretrain/image, not '{start}'")
        starts[stream] = folder
    folder = output_dir or Path("results") / chosen.name
    _train("train", chosen, starts, folder, deepspeed, dataloader_num_workers, f"train {chosen.name}", feeding)
    print(f"weights of {chosen.name}: {folder}")


def take(experiment: Positional[Name], output_dir: Path | None = None) -> None:
    """Make a run folder of published weights, which are asked as they are, at the experiment's pool level.

    Args:
        experiment: cogvlm2_image or cogvlm2_video, with the level behind it: cogvlm2_video_pool2.
        output_dir: The run folder; results/EXPERIMENT when not given.
    """
    from videogpt_plus.experiments import get_experiment

    chosen = get_experiment(experiment)
    print(f"run of {chosen.name}: {take_published(chosen, output_dir or Path('results') / chosen.name)}")


def _titled(together: Sequence[Sequence[Cell]], cells: Sequence[Cell]) -> list[tuple[Sequence[Cell], str]]:
    """Each group with its numbers and names: `3,4/14 answer toy_pool1 toy_pool2 (all frames)`."""
    numbers = {cell.folder: str(number) for number, cell in enumerate(cells)}
    titled = []
    for group in together:
        names = " ".join(cell.experiment.name for cell in group if cell.experiment)
        first = group[0].title
        title = first.replace(group[0].experiment.name, names) if len(group) > 1 else first
        titled.append((group, f"{','.join(numbers[c.folder] for c in group)}/{len(cells) - 1} {title}"))
    return titled


def _run_cells(cells: Sequence[Cell], title: str, launcher: str | None, deepspeed: str | None, asking: Asking) -> None:
    """Fills one cell, or several answer cells together."""
    from eval.runs import report_sweep
    from videogpt_plus import sweep as sweeps

    if cells[0].kind == "report":
        print(f"{title}: {report_sweep(cells[0].folder.parent)}")
        return
    left = [cell for cell in cells if not sweeps.is_finished(cell)]
    if not left:
        print(f"{title}: finished before")
        return
    with ExitStack() as claims:
        for cell in left:
            claims.enter_context(sweeps.claimed(cell))
        _fill_cells(left, title, launcher, deepspeed, asking)


def _fill_cells(cells: Sequence[Cell], title: str, launcher: str | None, deepspeed: str | None, asking: Asking) -> None:
    from eval.runs import answer_runs
    from videogpt_plus import sweep as sweeps
    from videogpt_plus.jobs import launch
    from videogpt_plus.screen import progress

    began = time.monotonic()
    for cell in cells:
        if moved := sweeps.begin(cell):
            print(f"{title}: made from something else now; the old output is in {moved}")
    cell = cells[0]
    if launcher and cell.kind in ("pretrain", "train"):
        command = [*cell.command, *(["--deepspeed", deepspeed] if deepspeed else [])]
        if code := launch(launcher, command, cell.folder):
            print(f"{title}: exit code {code} when all was written; the weights are whole")
    elif cell.kind == "pretrain":
        _train("pretrain", cell.experiment, cell.stream, cell.folder, deepspeed, None, title, asking)
    elif cell.kind == "train":
        starts = {folder.name: folder for folder in cell.needs}
        _train("train", cell.experiment, starts, cell.folder, deepspeed, None, title, asking)
    elif cell.kind == "take":
        take_published(cell.experiment, cell.folder)
    else:
        runs = {cell.needs[0]: cell.folder / "answers.jsonl" for cell in cells}
        with progress(title) as advance:
            answer_runs(runs, cell.control, cell.limit, asking=asking, progress=advance, say=print)
    for cell in cells:
        sweeps.finish(cell, time.monotonic() - began)


def _train(
    kind: str,
    experiment,
    start,
    folder: Path,
    deepspeed: str | None,
    workers: int | None,
    title: str,
    feeding: Feeding,
) -> None:
    from videogpt_plus.screen import progress as shown

    with shown(title) as advance:
        from videogpt_plus import train as training
        from videogpt_plus.store import open_store

        if workers is not None and workers < 0:
            raise UserError(
                f"--dataloader-num-workers {workers} is not possible: 0 reads clips in the training process itself"
            )
        run = {"pretrain": training.pretrain, "train": training.finetune}[kind]

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        given = {"deepspeed": deepspeed, "workers": workers, "progress": progress}
        run(experiment, start, folder, **given, store=open_store(feeding), decoder=feeding.decoder, say=print)
    from videogpt_plus.data import read_substitutions

    if replaced := read_substitutions(folder / "substituted.jsonl"):
        print(f"{title}: {len(replaced)} unreadable samples were replaced; see {folder / 'substituted.jsonl'}")


def _check_trainable(experiment) -> None:
    if not experiment.pretrain:
        raise UserError(
            f"{experiment.name} is asked as it was published, and is not trained: "
            f"`videogpt-plus answer {experiment.name}`"
        )


def _check_stream(experiment, stream: str) -> None:
    _check_trainable(experiment)
    names = [name for name, _ in experiment.streams]
    if stream not in names:
        raise UserError(f"unknown stream '{stream}'; choose from: {', '.join(names)}")


def _print_cells(rows: Sequence[Sequence[str]]) -> None:
    for number, title, state, command in rows:
        print(f"{number:>3}  {state:<8}  {title}\n               {command}")
