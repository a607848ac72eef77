"""`answer`, `score`, `export`, `report` and `predict`: what asks trained runs, and what is made of their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory

from tyro.conf import OmitArgPrefixes, Positional

from videogpt_plus.app.checks import check_asking, check_loading, check_margin, check_questions
from videogpt_plus.app.questions import WHOLE, TaskConfig, answered_benchmark, benchmark_folder, benchmark_stated
from videogpt_plus.app.runs import find_run, named_runs, own_runs, run_to_ask, wanted_run, wanted_runs
from videogpt_plus.app.screen import new_table, progress, show
from videogpt_plus.config.options import DEFAULT_EVAL, DEFAULT_LOAD, GREEDY, EvalConfig, GenerationConfig, LoadConfig
from videogpt_plus.types import UserError, unreadable

#: What a task's scores keep of each question, for paired tests.
PAIRED_PARTS = ("correct", "videos")


def answer(
    runs: Positional[tuple[str, ...]],
    config: OmitArgPrefixes[TaskConfig] = WHOLE,
    retry_errors: bool = False,
    eval_config: OmitArgPrefixes[EvalConfig] = DEFAULT_EVAL,
) -> None:
    """Ask trained models every question of a benchmark; goes on where it stopped.

    Several runs share one base LLM, and each clip is decoded and encoded once for all of them.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        retry_errors: Ask again where the line holds an error, after repairing a clip.
    """
    from eval.answers.runs import answer_runs

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("answer writes one file in one process: leave the launcher out, and share cards by --devices N")
    config = config.read()
    experiments = [one.experiment for one in wanted_runs(runs)]
    check_asking(experiments, eval_config)
    check_questions(config.task, experiments, config.limit, config.benchmark, eval_config.scoring)
    folders = own_runs(runs)
    for folder in folders:
        benchmark_folder(config, folder)
    paths = {folder: config.answers(folder) for folder in folders}
    with progress(f"answer {' '.join(folder.name for folder in folders)}") as advance:
        how = (config.benchmark, retry_errors, eval_config, advance, print, config.task)
        answered = answer_runs(paths, config.control, config.limit, *how)
    for folder, done in answered.items():
        torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
        print(f"{paths[folder]}: {done.new} new, {done.kept} kept, {done.failed} with an error{torn}")


def score(runs: Positional[tuple[str, ...]], config: OmitArgPrefixes[TaskConfig] = WHOLE) -> None:
    """Score finished runs: accuracy of every task with its 95 % interval. Refuses an incomplete one.

    Of a judged benchmark: the scores that `judge` left, several runs in one table only if one judge gave them all.

    Args:
        runs: Run folders, or names of trained experiments under results/.
    """
    from eval.tasks.benchmarks import check_limit, kind_of

    config = config.read()
    check_limit(config.limit)
    folders = named_runs(runs, make=False)
    if kind_of(config.task).scored == "judged":
        _show_judged({folder: config.answers(folder) for folder in folders}, config.options)
        return
    roots = {folder: answered_benchmark(config, folder) for folder in folders}
    for folder, root in roots.items():
        _score(folder, config, root)


def _show_judged(paths: Mapping[Path, Path], asked: Sequence[str]) -> None:
    from eval.answers.places import answer_command
    from videogpt_plus.app.commands.judge import show_judged

    if none := next((path for path in paths.values() if not path.exists()), None):
        raise UserError(f"{none}: not judged yet; run `{answer_command(none, asked)}` first, then judge the answers")
    show_judged({folder.name: path for folder, path in paths.items()})


def _score(folder: Path, config: TaskConfig, root: Path) -> None:
    from eval.answers.answer import read_answers
    from eval.answers.runs import examples_of
    from eval.answers.score import score as score_answers
    from eval.answers.score import scores_path

    examples, path = examples_of(root, config.limit, config.task), config.answers(folder)
    scores = score_answers(path, examples, config.options)
    table = new_table("task", "answered", "failed", "unparsed", "accuracy", "95 %", "chance", title=folder.name)
    for task, row in scores["tasks"].items():
        interval = f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}"
        counts = (f"{row['n_answered']} of {row['n']}", row["n_failed"], row["n_unparsed"])
        table.add_row(task, *map(str, counts), f"{100 * row['accuracy']:.1f}", interval, f"{100 * row['chance']:.1f}")
    show(table)
    whole = scores["overall"]
    if "labels" in scores:
        _show_labels(scores["labels"])
    of_all = f"{whole['n_answered']:,} of {whole['n']:,} questions were answered"
    print(f"{of_all}; the {whole['n_failed']:,} that failed count as wrong" if whole["n_failed"] else of_all)
    print(_detectable(*_worth(scores["tasks"])))
    if more := len(read_answers(path)) - len(examples):
        print(f"{more:,} further answers are there, to questions that {root} does not hold")
    print(f"scores: {scores_path(path)}")


def _worth(tasks: Mapping[str, dict]) -> tuple[int, int]:
    """How many questions about clips of their own all tasks together are worth, and the one that is worth least."""
    from eval.statistics.estimates import independent_questions

    of_each = [round(independent_questions(row["correct"], row["videos"])) for row in tasks.values()]
    correct, videos = ({key: one for row in tasks.values() for key, one in row[part].items()} for part in PAIRED_PARTS)
    of_task = {key: task for task, row in tasks.items() for key in row["correct"]}
    return round(independent_questions(correct, videos, of_task)), min(of_each)


def _show_labels(labels: dict) -> None:
    """Confusion and what follows from it, of what was said and of the likelier label."""

    for kind, title in (("said", "what was said"), ("likelier", "the label of higher probability")):
        if kind not in labels:
            continue
        found = labels[kind]
        columns = next(iter(found["confusion"].values()))
        table = new_table("right label", *(f"{c!r}" if len(c) == 1 else c for c in columns), title=title)
        for right, row in found["confusion"].items():
            table.add_row(f"{right!r}", *(f"{row[column]:,}" for column in columns))
        show(table)
        told = []
        for name in ("accuracy", "precision", "recall", "f1"):
            value = found[name] and [100 * part for part in found[name]]
            told.append(f"{name} {value[0]:.1f} ({value[1]:.1f} to {value[2]:.1f})" if value else f"{name} none")
        print(f"{', '.join(told)}; precision, recall and F1 of {labels['positive']!r}")


def _detectable(questions: int, of_a_task: int) -> str:
    """What a comparison with another run can show, before there is one."""
    from eval.report.paired_tests import DISCORDANCES
    from eval.statistics.power import resolvable

    def span(values: Iterable[float], form: str) -> str:
        ends = [f"{100 * value:{form}}" for value in values]
        return " to ".join(dict.fromkeys((ends[0], ends[-1])))

    told, parts = [], {"over all questions": questions}
    if of_a_task < questions:
        parts["on one task"] = of_a_task
    for where, n in parts.items():
        found = {share: points for share in DISCORDANCES if (points := resolvable(n, share)) is not None}
        if found:
            sides = f"with {span(found, '.0f')} % discordant pairs"
            told.append(f"{span(found.values(), '.1f')} points {where} ({sides})")
        elif not told:
            return f"{n:,} questions are too few for a paired test with another run to show any difference"
        else:
            told.append(f"nothing {where}: {n:,} questions are too few")
    return f"minimum detectable difference from another run (paired, 80 % power): {', '.join(told)}"


def export(
    run: Positional[str],
    output: Positional[Path],
    config: OmitArgPrefixes[TaskConfig] = WHOLE,
) -> None:
    """Write a finished run's answers as the reference's files, which its own scripts read. Refuses an incomplete one.

    MVBench: one JSON a question. Open benchmarks: one JSON a list of answers, and of each aspect's scores if judged.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        output: Folder for the files.
    """
    from eval.report.reference_format import write_open_files, write_reference_files
    from eval.tasks.benchmarks import check_limit, kind_of

    config = config.read()
    kind = kind_of(config.task)
    if not kind.files:
        told = "answers.jsonl and scores.json hold them all"
        raise UserError(f"the reference has no files of {config.task}'s answers; {told}")
    check_limit(config.limit)
    folder = find_run(run, make=False)
    path, root = config.answers(folder), answered_benchmark(config, folder)
    if kind.scored == "judged":
        count = write_open_files(path, config.task, root, config.limit, output, config.options)
    else:
        count = write_reference_files(path, root, config.limit, output, config.options)
    print(f"{count} answers in the reference's format: {output}")


def report(
    sweep: Positional[Path],
    title: str | None = None,
    benchmarks: tuple[str, ...] = (),
    margin: float | None = None,
) -> None:
    """Collect the scores of a sweep into tables, plots and a page.

    Args:
        sweep: Folder of the sweep, such as results/toy.
        title: Heading of the page.
        benchmarks: NAME=FOLDER of each benchmark that does not lie where it usually does, or where it was asked; scores
            of judges need none.
        margin: Points of accuracy that fewer visual tokens may cost; the page then names the fewest that cost less.
    """
    from eval.report.sweep import report_sweep

    check_margin(margin)
    named = (benchmark_stated(one) for one in benchmarks)
    chosen = {name: folder for name, folder in named if folder}
    print(f"report: {report_sweep(sweep, title, chosen, print, margin)}")


def predict(
    run: Positional[str],
    question: Positional[tuple[str, ...]],
    video: Path | None = None,
    image: str | None = None,
    url: bool = True,
    generation_config: OmitArgPrefixes[GenerationConfig] = GREEDY,
    load_config: OmitArgPrefixes[LoadConfig] = DEFAULT_LOAD,
) -> None:
    """Ask a model about one video or image; a terminal shows the answer as it comes.

    Under `torchrun --nproc_per_node N` N processes share each layer of LLaVA-1.5 or CogVLM2.

    Args:
        run: A run folder, or an experiment's name.
        question: What to ask; each further one goes on with the conversation. A model that was taught one question
            alone is asked that one when none is given.
        video: A video file or a folder of frames.
        image: A picture (JPEG, PNG, WebP, BMP, GIF): its file or its http(s) address. An animated one is a clip.
        url: Whether an address may be fetched; with --no-url nothing is.
    """
    if (video is None) == (image is None) or image == "":
        raise UserError("predict takes one file: give --video FILE or --image FILE")
    wanted = wanted_run(run)
    check_loading([wanted.experiment], load_config)
    if question:
        _check_there(video)
    if image is not None:
        _check_image(image, url)
    with run_to_ask(run) as folder:  # before seconds of imports
        asked = question or (_taught(folder),)
        _check_there(video)
        _predict(run, folder, asked, video, image, generation_config, load_config)


def _check_there(video: Path | None) -> None:
    """Raises UserError where a file that was named is not there."""
    if video and not os.path.exists(video):
        raise UserError(f"cannot read {video}: there is no such file; check the data path, or download the file")


def _predict(
    run: str,
    folder: Path,
    question: tuple[str, ...],
    video: Path | None,
    image: str | None,
    generation_config: GenerationConfig,
    load_config: LoadConfig,
) -> None:
    from videogpt_plus import inference
    from videogpt_plus.clips.picture_files import header, is_still
    from videogpt_plus.models.tensor_parallel import agreed, processes, world

    with processes(), _picture(image) if image is not None else nullcontext(video) as path:
        tell = partial(print, file=sys.stderr) if world()[0] == 0 else None
        if image and not is_still(path) and tell:
            tell(f"{image} is animated: its {len(header(path).shown)} pictures are shown as a clip")
        answerer = inference.load(
            {run: folder}, EvalConfig(**asdict(load_config)), tell=tell, longest=generation_config.max_new_tokens
        )
        visual = answerer.see(path) if image else answerer.prepare(path)
        if generation_config.seed is None and generation_config.temperature > 0:
            generation_config = replace(
                generation_config, seed=agreed(randrange(2**63))
            )  # of several processes each draws the same
        past: list[tuple[str, str]] = []
        for asked in question:
            pieces = []
            for piece in answerer.stream(asked, visual, tuple(past), generation_config):
                pieces.append(piece)
                if sys.stdout.isatty():
                    print(piece, end="", flush=True)
            reply = "".join(pieces)
            print("" if sys.stdout.isatty() else reply)
            past.append((asked, reply))


def _taught(folder: Path) -> str:
    """The one question of the run's training. UserError: it had none, or several."""
    from videogpt_plus.io.runs import taught

    question = taught(folder)
    if question is None:
        raise UserError("predict takes a question behind the run: what shall be asked?")
    print(f"asked as in training: {question}", file=sys.stderr)
    return question


@contextmanager
def _picture(image: str) -> Iterator[Path]:
    """The file of `--image`; one that was fetched is gone afterwards. UserError: it is no picture there."""
    from videogpt_plus.clips.fetch import fetch_image, is_url
    from videogpt_plus.io.entries import named

    if not is_url(image):
        yield Path(image)
        return
    picture = fetch_image(image)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{picture.suffix}"
        path.write_bytes(picture.data)
        with named(image, path):
            yield path


def _check_image(image: str, url: bool) -> None:
    """UserError: it is no picture that can be read, or an address where nothing may be fetched."""
    from videogpt_plus.clips.fetch import is_url

    if not is_url(image):
        _check_picture(Path(image))
    elif not url:
        raise UserError(f"--image {image} is an address, and --no-url fetches none: name a file, or leave --no-url out")


def _check_picture(path: Path) -> None:
    """UserError: there is no such file, or it is no picture that can be read. Nothing is decoded."""
    from videogpt_plus.clips.picture_files import form_of, header
    from videogpt_plus.clips.video import VIDEOS

    if path.is_dir() or (path.suffix.lower() in VIDEOS and form_of(path) is None):
        raise UserError(f"--image {path} is no picture; give a video or a folder of frames with --video")
    if not path.exists():
        raise unreadable(path, "there is no such file", "check the data path, or download the file")
    header(path)
