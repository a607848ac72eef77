"""The command line `videogpt-plus`. Parses, shows progress and prints; all work is done in the library and in eval.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from videogpt_plus.configs import DEFAULT_ASKING, Asking
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
    from videogpt_plus.experiments import at_level, get_experiment, with_adapter
    from videogpt_plus.jobs import accounts, run_cells

    base = get_experiment(experiment)
    wanted = dict.fromkeys((a, level) for a in adapters for level in levels)
    experiments = [at_level(with_adapter(base, a), level) for a, level in wanted]
    root = output / (name or base.name)
    _prepare_toy(base)
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
    _prepare_toy(chosen)
    _check_stream(chosen, stream)
    folder = output_dir or Path("results/pretrain") / f"{chosen.name}_{stream}"
    _train("pretrain", chosen, stream, folder, deepspeed, dataloader_num_workers, f"pretrain ({stream})")
    print(f"projector of the {stream} stream: {folder}")


def train(
    experiment: Positional[Name],
    projectors: tuple[str, ...],
    output_dir: Path | None = None,
    deepspeed: str | None = None,
    dataloader_num_workers: int | None = None,
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
    _prepare_toy(chosen)
    starts = {}
    for start in projectors:
        stream, equals, folder = start.partition("=")
        if not equals:
            raise UserError(f"--projectors takes STREAM=FOLDER, such as image=results/pretrain/image, not '{start}'")
        starts[stream] = folder
    folder = output_dir or Path("results") / chosen.name
    _train("train", chosen, starts, folder, deepspeed, dataloader_num_workers, f"train {chosen.name}")
    print(f"weights of {chosen.name}: {folder}")


def answer(
    runs: Positional[tuple[str, ...]],
    task: str = "mvbench",
    control: Literal["blind", "one_frame"] | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
    asking: OmitArgPrefixes[Asking] = DEFAULT_ASKING,
) -> None:
    """Ask trained models every question of a benchmark; goes on where it was.

    Several runs share one base LLM, and each clip is decoded and encoded once for all of them.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        task: The benchmark.
        control: Withhold something: blind shows no video, one_frame repeats a single frame.
        limit: Questions a task at most; all when not given.
        benchmark: Benchmark folder; the experiment's own when not given.
        retry_errors: Ask again where the line holds an error, after repairing a clip.
    """
    from eval.runs import answer_runs
    from videogpt_plus.screen import progress

    _check_benchmark(task)
    folders = list(dict.fromkeys(folder for run in runs for folder in _find_runs(run)))
    paths = {folder: _answers(folder, control, limit) for folder in folders}
    with progress(f"answer {' '.join(folder.name for folder in folders)}") as advance:
        answered = answer_runs(paths, control, limit, benchmark, retry_errors, asking, advance)
    for folder, done in answered.items():
        torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
        print(f"{paths[folder]}: {done.new} new, {done.kept} kept, {done.failed} with an error{torn}")


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


def export(
    run: Positional[str],
    output: Positional[Path],
    control: Literal["blind", "one_frame"] | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
) -> None:
    """Write a finished run's answers as the reference's files: one JSON a question. Refuses an incomplete one.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        output: Folder for the files.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the experiment's own when not given.
    """
    from eval.reference_format import write_reference_files
    from videogpt_plus.checkpoint import load_experiment

    folder = _find_run(run)
    root = benchmark or load_experiment(folder).benchmark_root
    count = write_reference_files(_answers(folder, control, limit), root, limit, output)
    print(f"{count} answers in the reference's format: {output}")


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
    from videogpt_plus.video import STILLS

    if image and image.suffix.lower() not in STILLS:
        raise UserError(f"--image {image} is no {', '.join(sorted(STILLS))}; give a video or a folder with --video")
    folder = _find_run(run)
    still = load_experiment(folder).finetune.image_aspect_ratio if image else None  # as in training
    answerer = load_answerer({run: folder})
    print(answerer.ask(question, answerer.prepare(image or video, still=still)))


def tokens(
    experiment: Positional[Name],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16, 24),
    frames: int | None = None,
) -> None:
    """Print level, grid, visual tokens and cost of a question, before anyone books a GPU.

    Args:
        experiment: toy, qwen1_5b or qwen3b.
        levels: Pool levels.
        frames: Frames of a clip; the experiment's when not given.
    """
    from videogpt_plus.adapters import num_visual_tokens, pooled_side
    from videogpt_plus.experiments import at_level, get_experiment, level_text
    from videogpt_plus.flops import TEXT_TOKENS, sizes_of
    from videogpt_plus.screen import show
    from videogpt_plus.screen import table as new_table

    base = get_experiment(experiment)
    count = base.num_frames if frames is None else frames
    if count < 1:
        raise UserError(f"--frames {count} is not possible: a clip has at least 1 frame")
    streams = dict(base.streams)
    grids = [f"{name} grid" for name in streams]
    columns = ("level", *grids, "visual tokens", "GFLOP a question", "encoders", "key-value MB")
    table, sizes = new_table(*columns, title=f"{base.name}, {count} frames"), sizes_of(base)
    for level in levels:
        sides = [pooled_side(stream.grid, level) for stream in streams.values()]
        visual, cost = num_visual_tokens(at_level(base, level), count), ("not known",) * 3
        if sizes:
            flops = sizes.question(count, visual)
            kept = sizes.llm.key_value_bytes(visual + TEXT_TOKENS)
            cost = (f"{flops / 1e9:,.1f}", f"{100 * sizes.encode(count) / flops:.0f} %", f"{kept / 1e6:,.2f}")
        table.add_row(level_text(level), *(f"{side} x {side}" for side in sides), str(visual), *cost)
    show(table)
    print(f"A question: up to the first token, {TEXT_TOKENS} text tokens, keys and values in bfloat16.")


def convert(
    source: Positional[Path],
    target: Positional[Path],
    experiment: Name | None = None,
    to: Literal["ours", "reference"] | None = None,
    verify: bool = False,
) -> None:
    """Turn the reference's files into a run folder of ours, or a run folder into the reference's files.

    Args:
        source: A folder of either, or an mm_projector.bin.
        target: A new folder.
        experiment: Which of ours the reference's files are, such as qwen1_5b_pool4, where config.json fits several.
        to: The layout of the target, where the source holds both.
        verify: Load both and compare their logits; exit code 1 if they differ.
    """
    from videogpt_plus import convert as conversion

    written = conversion.convert(source, target, experiment, to)
    print(f"{written}: {target}")
    if verify:
        worst = conversion.largest_difference(source, target, written)
        same = worst <= conversion.TOLERANCE
        print(f"largest difference of a logit: {worst:.2g} ({'at most' if same else 'above'} {conversion.TOLERANCE:g})")
        if not same:
            sys.exit(1)


def push(run: Positional[str], repo_id: Positional[str], private: bool = False) -> None:
    """Upload a finished run to the Hugging Face Hub: weights, experiment, tokenizer and model card.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        repo_id: Repository, NAME/MODEL; made if there is none.
        private: Make it private.
    """
    from videogpt_plus.hub import push as push_run

    print(f"pushed: {push_run(_find_run(run), repo_id, private)}")


COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": sweep,
    "pretrain": pretrain,
    "train": train,
    "answer": answer,
    "score": score,
    "export": export,
    "report": report,
    "predict": predict,
    "tokens": tokens,
    "convert": convert,
    "push": push,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. What the user can mend is one line on stderr and exit code 2."""
    description = (
        "How many visual tokens does a video LLM need?\n\n"
        "`videogpt-plus sweep toy` gives the whole answer on a laptop; `videogpt-plus tokens qwen1_5b` counts tokens."
    )
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    try:
        with ExitStack() as silence:
            if not first:
                silence.enter_context(redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="videogpt-plus", description=description, args=args)
    except UserError as error:
        if not first:
            time.sleep(3)  # the first process may be about to say the same, and torchrun then ends this one
        print("error:", " ".join(str(error).split("\n")), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


# ------------------------------------------------------------------------------------------------ cells
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
        _train("pretrain", cell.experiment, cell.stream, cell.folder, deepspeed, None, title)
    elif cell.kind == "train":
        starts = {folder.name: folder for folder in cell.needs}
        _train("train", cell.experiment, starts, cell.folder, deepspeed, None, title)
    else:
        runs = {cell.needs[0]: cell.folder / "answers.jsonl" for cell in cells}
        with progress(title) as advance:
            answer_runs(runs, cell.control, cell.limit, asking=asking, progress=advance)
    for cell in cells:
        sweeps.finish(cell, time.monotonic() - began)


def _train(kind: str, experiment, start, folder: Path, deepspeed: str | None, workers: int | None, title: str) -> None:
    from videogpt_plus.screen import progress as shown

    with shown(title) as advance:
        from videogpt_plus import train as training

        if workers is not None and workers < 0:
            raise UserError(
                f"--dataloader-num-workers {workers} is not possible: 0 reads clips in the training process itself"
            )
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


def _find_runs(run: str) -> list[Path]:
    """The run of that name, or for a pattern such as 'toy_pool*' every trained run that fits, under results/."""
    if not set(run) & set("*?["):
        return [_find_run(run)]
    found = sorted({path.parent for path in Path().glob(f"results/**/{run}/projectors.safetensors")})
    found = [folder for folder in found if ".old-" not in folder.as_posix() and folder.parent.name != "pretrain"]
    if not found:
        raise UserError(f"no trained run under results/ fits '{run}'; train some, or name their folders")
    return found


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
