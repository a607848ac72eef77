"""The command line `videogpt-plus`. Parses, shows progress and prints; all work is done in the library and in eval.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.sweep import Cell

Name = Annotated[str, arg(metavar="EXPERIMENT")]


def sweep(
    experiment: Positional[Name],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    adapters: tuple[str, ...] = ("average",),
    controls: tuple[Literal["blind", "one_frame"], ...] = ("blind", "one_frame"),
    control_levels: tuple[float, ...] | None = None,
    limit: int | None = None,
    name: str | None = None,
    output: Path = Path("results"),
    dry_run: bool = False,
    cell: int | None = None,
    jobs: int = 1,
    launcher: str | None = None,
) -> None:
    """The whole answer in one command: pre-train, fine-tune, ask, score and report at every pool level.

    Finished cells are skipped by what they were made from; the same command goes on after any interruption.
    On a cluster: `--dry-run` numbers the cells, `--cell $SLURM_ARRAY_TASK_ID` runs one.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        levels: Pool levels; the grid's side is divided by each.
        adapters: Token adapters; each one is trained at every level.
        controls: What is withheld from the model to tell seeing from guessing.
        control_levels: Levels that are asked under the controls, too; the coarsest when not given.
        limit: Questions a task at most; all when not given.
        name: Name of the sweep's folder; the experiment's when not given.
        output: Folder of all sweeps.
        dry_run: Print every cell with its state and its command, run nothing.
        cell: Run this cell alone.
        jobs: Cells that run side by side, each on its share of the cores.
        launcher: Puts training cells behind a launcher, such as "torchrun --nproc_per_node 8".
    """
    from functools import partial

    from videogpt_plus import sweep as sweeps
    from videogpt_plus.experiments import at_level, get_experiment, with_adapter
    from videogpt_plus.jobs import accounts, run_cells

    base = get_experiment(experiment)
    wanted = dict.fromkeys((a, level) for a in adapters for level in levels)
    experiments = [at_level(with_adapter(base, a), level) for a, level in wanted]
    root = output / (name or base.name)
    _prepare_toy(base)
    at = control_levels if control_levels is not None else (max(levels, default=0),)
    cells = sweeps.plan(base, experiments, root, controls, at, limit)
    if dry_run:
        _print_cells(sweeps.describe(cells))
        return
    if cell is not None and not 0 <= cell < len(cells):
        raise UserError(f"there is no cell {cell}: this sweep has cells 0 to {len(cells) - 1}; see --dry-run")
    titled = [(one, f"{number}/{len(cells) - 1} {one.title}") for number, one in enumerate(cells)]
    if cell is not None:
        titled = titled[cell : cell + 1]
    with accounts(root) as said:
        run_cells(titled, partial(_run_cell, launcher=launcher), jobs)
    print(said())


def pretrain(
    experiment: Positional[Name],
    stream: Positional[str],
    output: Path | None = None,
    deepspeed: str | None = None,
    workers: int | None = None,
) -> None:
    """Pre-train the projector of one stream; its encoder and the LLM stay frozen.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        stream: image or video.
        output: Folder for the weights; results/pretrain/EXPERIMENT_STREAM when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        workers: Processes that read clips; 0 reads in the training process.
    """
    from videogpt_plus.experiments import get_experiment

    chosen = get_experiment(experiment)
    _prepare_toy(chosen)
    _check_stream(chosen, stream)
    folder = output or Path("results/pretrain") / f"{chosen.name}_{stream}"
    _train("pretrain", chosen, stream, folder, deepspeed, workers, f"pretrain ({stream})")
    print(f"projector of the {stream} stream: {folder}")


def train(
    experiment: Positional[Name],
    projectors: tuple[str, ...],
    output: Path | None = None,
    deepspeed: str | None = None,
    workers: int | None = None,
) -> None:
    """Fine-tune at the experiment's pool level: LoRA on the LLM, and all projectors.

    Args:
        experiment: toy, qwen1_5b or qwen3b with the level behind it: toy_pool4.
        projectors: Where each stream's pre-trained projector lies: image=FOLDER video=FOLDER.
        output: Folder for the weights; results/EXPERIMENT when not given.
        deepspeed: A DeepSpeed json, passed on unchanged.
        workers: Processes that read clips; 0 reads in the training process.
    """
    from videogpt_plus.experiments import get_experiment

    chosen = get_experiment(experiment)
    _prepare_toy(chosen)
    starts = {}
    for start in projectors:
        stream, equals, folder = start.partition("=")
        if not equals:
            raise UserError(f"--projectors takes STREAM=FOLDER, such as image=results/pretrain/image, not '{start}'")
        starts[stream] = folder
    folder = output or Path("results") / chosen.name
    _train("train", chosen, starts, folder, deepspeed, workers, f"train {chosen.name}")
    print(f"weights of {chosen.name}: {folder}")


def answer(
    run: Positional[str],
    task: str = "mvbench",
    control: Literal["blind", "one_frame"] | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
) -> None:
    """Ask a trained model every question of a benchmark; goes on where it was.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        task: The benchmark.
        control: Withhold something: blind shows no video, one_frame repeats a single frame.
        limit: Questions a task at most; all when not given.
        benchmark: Benchmark folder; the experiment's own when not given.
        retry_errors: Ask again where the line holds an error, after repairing a clip.
    """
    from eval.runs import answer_run
    from videogpt_plus.screen import progress

    _check_benchmark(task)
    folder = _find_run(run)
    path = _answers(folder, control, limit)
    with progress(f"answer {folder.name}") as advance:
        done = answer_run(folder, path, control, limit, benchmark, retry_errors, advance)
    torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
    print(f"{path}: {done.new} new, {done.kept} kept, {done.failed} with an error{torn}")


def score(
    run: Positional[str],
    control: Literal["blind", "one_frame"] | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
) -> None:
    """Score a finished run: accuracy of every task with its 95 % interval. Refuses an incomplete one.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the experiment's own when not given.
    """
    from eval.runs import examples_of
    from eval.score import score as score_answers
    from eval.score import scores_path
    from videogpt_plus.checkpoint import load_experiment
    from videogpt_plus.screen import show
    from videogpt_plus.screen import table as new_table

    folder = _find_run(run)
    path = _answers(folder, control, limit)
    scores = score_answers(path, examples_of(benchmark or load_experiment(folder).benchmark_root, limit))
    table = new_table("task", "n", "failed", "unparsed", "accuracy", "95 %", "chance", title=folder.name)
    for task, row in scores["tasks"].items():
        interval = f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}"
        counts = (row["n"], row["n_failed"], row["n_unparsed"])
        table.add_row(task, *map(str, counts), f"{100 * row['accuracy']:.1f}", interval, f"{100 * row['chance']:.1f}")
    show(table)
    print(f"scores: {scores_path(path)}")


def report(sweep: Positional[Path], title: str | None = None) -> None:
    """Collect the scores of a sweep into a table, two plots and a page.

    Args:
        sweep: Folder of the sweep, such as results/toy.
        title: Heading of the page.
    """
    from eval.runs import report_sweep

    print(f"report: {report_sweep(sweep, title)}")


def predict(
    run: Positional[str],
    question: Positional[str],
    video: Path | None = None,
    image: Path | None = None,
) -> None:
    """Ask a model one question about one video or image.

    Args:
        run: A run folder, or an experiment's name.
        question: What to ask.
        video: A video file or a folder of frames.
        image: A picture.
    """
    if (video is None) == (image is None):
        raise UserError("predict takes one file: give --video FILE or --image FILE")
    from eval.runs import load_answerer
    from videogpt_plus.checkpoint import load_experiment
    from videogpt_plus.video import STILLS, read_clip

    if image and image.suffix.lower() not in STILLS:
        raise UserError(f"--image {image} is no {', '.join(sorted(STILLS))}; give a video or a folder with --video")
    folder = _find_run(run)
    experiment = load_experiment(folder)
    clip = read_clip(image, 1) if image else read_clip(video, experiment.num_frames)  # before minutes of loading
    answerer = load_answerer(folder)
    print(answerer.ask(question, answerer.visual(clip)).text)


def tokens(
    experiment: Positional[Name],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16, 24),
    frames: int | None = None,
) -> None:
    """Print level, grid and visual tokens of an experiment, before anyone books a GPU.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        levels: Pool levels.
        frames: Frames of a clip; the experiment's when not given.
    """
    from videogpt_plus.adapters import num_visual_tokens, pooled_side
    from videogpt_plus.experiments import at_level, get_experiment, level_text
    from videogpt_plus.screen import show
    from videogpt_plus.screen import table as new_table

    base = get_experiment(experiment)
    count = base.num_frames if frames is None else frames
    if count < 1:
        raise UserError(f"--frames {count} is not possible: a clip has at least 1 frame")
    streams = dict(base.streams)
    table = new_table(
        "level", *(f"{name} grid" for name in streams), "visual tokens", title=f"{base.name}, {count} frames"
    )
    for level in levels:
        grids = [f"{pooled_side(s.grid, level)} x {pooled_side(s.grid, level)}" for s in streams.values()]
        table.add_row(level_text(level), *grids, str(num_visual_tokens(at_level(base, level), count)))
    show(table)


COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": sweep,
    "pretrain": pretrain,
    "train": train,
    "answer": answer,
    "score": score,
    "report": report,
    "predict": predict,
    "tokens": tokens,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. What the user can mend is one line on stderr and exit code 2."""
    description = (
        "How many visual tokens does a video LLM need?\n\n"
        "`videogpt-plus sweep toy` gives the whole answer on a laptop; `videogpt-plus tokens qwen1_5b` counts tokens."
    )
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="videogpt-plus", description=description, args=args)
    except UserError as error:
        print("error:", " ".join(str(error).split("\n")), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


# ------------------------------------------------------------------------------------------------ cells
def _run_cell(cell: Cell, title: str, launcher: str | None) -> None:
    from eval.runs import report_sweep
    from videogpt_plus import sweep as sweeps

    if cell.kind == "report":
        print(f"{title}: {report_sweep(cell.folder.parent)}")
    elif sweeps.is_finished(cell):
        print(f"{title}: finished before")
    else:
        with sweeps.claimed(cell):
            _fill_cell(cell, title, launcher)


def _fill_cell(cell: Cell, title: str, launcher: str | None) -> None:
    import time

    from eval.runs import answer_run
    from videogpt_plus import sweep as sweeps
    from videogpt_plus.jobs import launch
    from videogpt_plus.screen import progress

    began = time.monotonic()
    if moved := sweeps.begin(cell):
        print(f"{title}: made from something else now; the old output is in {moved}")
    if launcher and cell.kind in ("pretrain", "train"):
        launch(launcher, cell.command)
    elif cell.kind == "pretrain":
        _train("pretrain", cell.experiment, cell.stream, cell.folder, None, None, title)
    elif cell.kind == "train":
        starts = {folder.name: folder for folder in cell.needs}
        _train("train", cell.experiment, starts, cell.folder, None, None, title)
    else:
        with progress(title) as advance:
            path = cell.folder / "answers.jsonl"
            answer_run(cell.needs[0], path, cell.control, cell.limit, progress=advance)
    sweeps.finish(cell, time.monotonic() - began)


def _train(kind: str, experiment, start, folder: Path, deepspeed: str | None, workers: int | None, title: str) -> None:
    from videogpt_plus.screen import progress as shown

    with shown(title) as advance:
        from videogpt_plus import train as training

        if workers is not None and workers < 0:
            raise UserError(f"--workers {workers} is not possible: 0 reads clips in the training process itself")
        run = {"pretrain": training.pretrain, "train": training.finetune}[kind]

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        run(experiment, start, folder, deepspeed=deepspeed, workers=workers, progress=progress)
    from videogpt_plus.data import read_substitutions

    if replaced := read_substitutions(folder / "substituted.jsonl"):
        print(f"{title}: {len(replaced)} unreadable samples were replaced; see {folder / 'substituted.jsonl'}")


# ------------------------------------------------------------------------------------------------ helpers
def _prepare_toy(experiment) -> None:
    """Render the toy's clips where the experiment reads them and they are not there."""
    from videogpt_plus.experiments import TOY

    if experiment.benchmark_root == TOY.benchmark_root:
        from videogpt_plus.screen import progress
        from videogpt_plus.toy.render import ensure_toy_data

        with progress("render toy clips") as advance:
            ensure_toy_data(Path(TOY.benchmark_root).parent, progress=advance)


def _check_benchmark(task: str) -> None:
    if task != "mvbench":
        raise UserError(f"unknown benchmark '{task}'; choose from: mvbench")


def _check_stream(experiment, stream: str) -> None:
    names = [name for name, _ in experiment.streams]
    if stream not in names:
        raise UserError(f"unknown stream '{stream}'; choose from: {', '.join(names)}")


def _answers(run: Path, control: str | None, limit: int | None) -> Path:
    from videogpt_plus.sweep import answers_folder

    return answers_folder(run, control, limit) / "answers.jsonl"


def _find_run(run: str) -> Path:
    """The folder itself, or the only trained run of that name under results/, or the packaged one."""
    from videogpt_plus.checkpoint import located
    from videogpt_plus.experiments import TOY_WEIGHTS, get_experiment

    folder = Path(run)
    if folder.is_dir() and folder.name.startswith("answers") and (folder.parent / "experiment.json").is_file():
        return folder.parent
    if (folder / "experiment.json").is_file():
        return folder
    if folder.is_dir():
        raise UserError(f"{folder} is no run folder: it has no experiment.json; name the folder that `train` filled")
    if folder.parent != Path():  # a path, and no experiment's name holds a slash
        raise UserError(f"run folder not found: {folder} does not exist; name a folder that `train` filled")
    get_experiment(run)
    found = sorted(path.parent for path in Path("results").glob(f"**/{run}/projectors.safetensors"))
    packaged = located(f"{TOY_WEIGHTS}/runs/{run}")
    if not found and packaged.is_dir():
        return packaged
    if len(found) != 1:
        what = f"{len(found)} runs are called '{run}': {', '.join(map(str, found))}" if found else f"no trained '{run}'"
        then = (
            "name one of the folders" if found else f"train it with `videogpt-plus sweep {run.partition('_pool')[0]}`"
        )
        raise UserError(f"{what} under results/; {then}")
    return found[0]


def _print_cells(rows: Sequence[Sequence[str]]) -> None:
    for number, title, state, command in rows:
        print(f"{number:>3}  {state:<8}  {title}\n               {command}")


if __name__ == "__main__":
    main()
