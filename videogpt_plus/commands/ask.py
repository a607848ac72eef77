"""`answer`, `score`, `export`, `report` and `predict`: what asks trained runs, and what is made of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from videogpt_plus.commands.common import answers_of, check_benchmark, find_run, find_runs
from videogpt_plus.configs import DEFAULT_ASKING, Asking
from videogpt_plus.types import UserError


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

    check_benchmark(task)
    folders = list(dict.fromkeys(folder for run in runs for folder in find_runs(run)))
    paths = {folder: answers_of(folder, control, limit) for folder in folders}
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

    folder = find_run(run)
    path = answers_of(folder, control, limit)
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

    folder = find_run(run)
    root = benchmark or load_experiment(folder).benchmark_root
    count = write_reference_files(answers_of(folder, control, limit), root, limit, output)
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
    folder = find_run(run)
    still = load_experiment(folder).finetune.image_aspect_ratio if image else None  # as in training
    answerer = load_answerer({run: folder})
    print(answerer.ask(question, answerer.prepare(image or video, still=still)))
