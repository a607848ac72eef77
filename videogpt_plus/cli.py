"""The command line `videogpt-plus`. Parses, shows progress and prints; all work is done in the library and in eval.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from videogpt_plus.types import UserError

Name = Annotated[str, arg(metavar="EXPERIMENT")]


def sweep(
    experiment: Positional[Name],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    adapters: tuple[str, ...] = ("average",),
    controls: tuple[Literal["blind", "one_frame"], ...] = ("blind", "one_frame"),
    limit: int | None = None,
    name: str | None = None,
    output: Path = Path("results"),
    dry_run: bool = False,
    cell: int | None = None,
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
        limit: Questions a task at most; all when not given.
        name: Name of the sweep's folder; the experiment's when not given.
        output: Folder of all sweeps.
        dry_run: Print every cell with its state and its command, run nothing.
        cell: Run this cell alone.
        launcher: Puts training cells behind a launcher, such as "torchrun --nproc_per_node 8".
    """
    from videogpt_plus import sweep as sweeps
    from videogpt_plus.experiments import at_level, get_experiment, with_adapter

    base = get_experiment(experiment)
    experiments = [at_level(with_adapter(base, a), level) for a in adapters for level in levels]
    root = output / (name or base.name)
    _prepare_toy(base)
    cells = sweeps.plan(base, experiments, root, controls, limit)
    if dry_run:
        _print_cells(sweeps.describe(cells))
        return
    if cell is not None and not 0 <= cell < len(cells):
        raise UserError(f"there is no cell {cell}: this sweep has cells 0 to {len(cells) - 1}; see --dry-run")
    for number, one in enumerate(cells):
        if cell is None or number == cell:
            _run_cell(one, f"{number + 1}/{len(cells)} {one.title}", launcher)


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
    _check_benchmark(task)
    folder = _find_run(run)
    path = _answers(folder, control, limit)
    done = _answer(folder, path, control, limit, benchmark, retry_errors, f"answer {folder.name}")
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
    from eval.score import score as score_answers
    from eval.score import scores_path
    from videogpt_plus.checkpoint import load_experiment

    folder = _find_run(run)
    path = _answers(folder, control, limit)
    scores = score_answers(path, _examples(benchmark or load_experiment(folder).benchmark_root, limit))
    table = _table("task", "n", "failed", "unparsed", "accuracy", "95 %", "chance", title=folder.name)
    for task, row in scores["tasks"].items():
        interval = f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}"
        counts = (row["n"], row["n_failed"], row["n_unparsed"])
        table.add_row(task, *map(str, counts), f"{100 * row['accuracy']:.1f}", interval, f"{100 * row['chance']:.1f}")
    _console().print(table)
    print(f"scores: {scores_path(path)}")


def report(sweep: Positional[Path], title: str | None = None) -> None:
    """Collect the scores of a sweep into a table, two plots and a page.

    Args:
        sweep: Folder of the sweep, such as results/toy.
        title: Heading of the page.
    """
    print(f"report: {_report(sweep, title)}")


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
    from eval.video_llm import ask_about
    from videogpt_plus.checkpoint import load_experiment

    folder = _find_run(run)
    experiment = load_experiment(folder)
    print(ask_about(_load(experiment, folder), experiment, video or image, question))


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

    base = get_experiment(experiment)
    count = base.num_frames if frames is None else frames
    if count < 1:
        raise UserError(f"--frames {count} is not possible: a clip has at least 1 frame")
    streams = dict(base.streams)
    table = _table(
        "level", *(f"{name} grid" for name in streams), "visual tokens", title=f"{base.name}, {count} frames"
    )
    for level in levels:
        grids = [f"{pooled_side(s.grid, level)} x {pooled_side(s.grid, level)}" for s in streams.values()]
        table.add_row(level_text(level), *grids, str(num_visual_tokens(at_level(base, level), count)))
    _console().print(table)


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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


# ------------------------------------------------------------------------------------------------ cells
def _run_cell(cell, title: str, launcher: str | None) -> None:
    import time

    from videogpt_plus import sweep as sweeps

    began = time.monotonic()
    if cell.kind == "report":
        print(f"{title}: {_report(cell.folder.parent, None)}")
        return
    if sweeps.is_finished(cell):
        print(f"{title}: finished before")
        return
    if moved := sweeps.begin(cell):
        print(f"{title}: made from something else now; the old output is in {moved}")
    if launcher and cell.kind in ("pretrain", "train"):
        _launch(launcher, cell.command)
    elif cell.kind == "pretrain":
        _train("pretrain", cell.experiment, cell.stream, cell.folder, None, None, title)
    elif cell.kind == "train":
        starts = {folder.name: folder for folder in cell.needs}
        _train("train", cell.experiment, starts, cell.folder, None, None, title)
    else:
        _answer(cell.needs[0], cell.folder / "answers.jsonl", cell.control, cell.limit, None, False, title)
    sweeps.finish(cell, time.monotonic() - began)


def _launch(launcher: str, command: Sequence[str]) -> None:
    import shlex
    import subprocess

    call = [*shlex.split(launcher), "-m", "videogpt_plus.cli", *command]
    if code := subprocess.run(call, check=False).returncode:
        raise UserError(f"exit code {code} of: {shlex.join(call)}; mend what it says above and run the sweep again")


def _train(kind: str, experiment, start, folder: Path, deepspeed: str | None, workers: int | None, title: str) -> None:
    with _progress(title) as advance:
        from videogpt_plus import train as training

        run = {"pretrain": training.pretrain, "train": training.finetune}[kind]

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        run(experiment, start, folder, deepspeed=deepspeed, workers=workers, progress=progress)


def _answer(run: Path, path: Path, control, limit, benchmark: Path | None, retry_errors: bool, title: str):
    from videogpt_plus import fingerprint
    from videogpt_plus.checkpoint import load_experiment

    experiment = load_experiment(run)
    examples = _examples(benchmark or experiment.benchmark_root, limit)
    with _progress(title) as advance:
        from eval.answer import answer_all
        from eval.task import fingerprint as questions
        from eval.video_llm import VideoLLM

        weights = [fingerprint.of_path(run / f) for f in ("adapter_model.safetensors", "projectors.safetensors")]
        header = {"experiment": experiment.name, "weights": weights, "questions": questions(examples)}
        answerer = VideoLLM(_load(experiment, run), experiment)
        return answer_all(answerer, examples, path, header, advance, control, retry_errors)


def _report(root: Path, title: str | None) -> Path:
    """Score every answered cell of the sweep and write the report."""
    from eval.answer import read_meta
    from eval.report import write_report
    from eval.score import score as score_answers
    from videogpt_plus.adapters import num_visual_tokens
    from videogpt_plus.checkpoint import load_experiment

    cells = []
    for path in sorted(root.glob("*/answers*/answers.jsonl")):
        run = path.parent.parent
        if ".old-" in path.as_posix():
            continue
        experiment, meta = load_experiment(run), read_meta(path)
        limit = path.parent.name.partition("_first")[2]
        scores = score_answers(path, _examples(experiment.benchmark_root, int(limit) if limit else None))
        cells.append(
            {
                "experiment": experiment.name,
                "adapter": experiment.adapter,
                "level": experiment.level,
                "visual_tokens": num_visual_tokens(experiment, experiment.num_frames),
                "control": meta["control"],
                "scores": scores,
            }
        )
    if not cells:
        raise UserError(f"nothing to report: no answers under {root}; run `videogpt-plus sweep` first")
    return write_report(cells, root / "report", title or f"Pool sweep: {root.name}", _stamp(root))


def _stamp(root: Path) -> str:
    """When the newest answers were given: the report of the same answers stays the same."""
    from datetime import datetime

    newest = max(path.stat().st_mtime for path in root.glob("*/answers*/answers.jsonl"))
    return f"answers of {datetime.fromtimestamp(newest):%Y-%m-%d}"


# ------------------------------------------------------------------------------------------------ helpers
def _prepare_toy(experiment) -> None:
    """Render the toy's clips where the experiment reads them and they are not there."""
    from videogpt_plus.experiments import TOY

    if experiment.benchmark_root == TOY.benchmark_root:
        with _progress("render toy clips") as advance:
            from videogpt_plus.toy.render import ensure_toy_data

            ensure_toy_data(Path(TOY.benchmark_root).parent, progress=advance)


def _load(experiment, run: Path):
    import torch

    from videogpt_plus.models import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return load_model(experiment, run, device, dtype)


def _examples(root: str | Path, limit: int | None) -> list:
    from eval.mvbench import load_benchmark

    return [e for task in load_benchmark(root) for e in list(task.examples())[:limit]]


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
    """The folder itself, or the only trained run of that name under results/, or the one that comes with the package."""
    from videogpt_plus.checkpoint import located
    from videogpt_plus.experiments import TOY_WEIGHTS, get_experiment

    folder = Path(run)
    if folder.is_dir() and folder.name.startswith("answers") and (folder.parent / "experiment.json").is_file():
        return folder.parent
    if (folder / "experiment.json").is_file():
        return folder
    if folder.is_dir():
        raise UserError(f"{folder} is no run folder: it has no experiment.json; name the folder that `train` filled")
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


def _console():
    from rich.console import Console

    return Console()


def _table(*columns: str, title: str):
    from rich.table import Table

    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _print_cells(rows: Sequence[Sequence[str]]) -> None:
    for number, title, state, command in rows:
        print(f"{number:>3}  {state:<8}  {title}\n               {command}")


@contextmanager
def _progress(title: str) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, a line now and then elsewhere; yields advance(done, total, note)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = _console()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    shown = {"tenth": 0}
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)
            tenth = 10 * done // total
            if not console.is_terminal and tenth > shown["tenth"]:
                shown["tenth"] = tenth
                print(f"{title}: {done}/{total} {note}".rstrip(), flush=True)

        yield advance


if __name__ == "__main__":
    main()
