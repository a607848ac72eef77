"""`sweep`, `pretrain`, `train` and `take`: what fills run folders."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from videogpt_plus.app.commands.checks import check_asking, check_feeding, check_margin, check_workers
from videogpt_plus.app.commands.common import Control, benchmark_stated, prepare_benchmark, prepare_toy, take_published
from videogpt_plus.app.commands.judge import NOBODY, Answers, MaybeJudge, judge_answers, key_of
from videogpt_plus.config.experiments import choices
from videogpt_plus.config.options import DEFAULT_EVAL, DEFAULT_LOADER, EvalConfig, LoaderConfig
from videogpt_plus.types import CONTROLS, UserError

if TYPE_CHECKING:
    from videogpt_plus.app.sweep.cells import Asked, Cell

#: Names of experiments, with their choices in the help.
AnyName = Annotated[str, arg(metavar="EXPERIMENT", help=f"{choices()}.")]
PretrainedName = Annotated[str, arg(metavar="EXPERIMENT", help=f"{choices(lambda e: bool(e.pretrain))}.")]
TRAINED_NAMES, PUBLISHED_NAMES = choices(lambda e: e.is_trained), choices(lambda e: not e.is_trained)
TrainedAtLevel = Annotated[
    str, arg(metavar="EXPERIMENT", help=f"{TRAINED_NAMES}, with the level behind it: toy_pool4.")
]
PublishedAtLevel = Annotated[
    str, arg(metavar="EXPERIMENT", help=f"{PUBLISHED_NAMES}, with the level behind it: cogvlm2_video_pool2.")
]
#: Kinds of cells that --launcher and --deepspeed are for.
TRAINED = ("pretrain", "train")


def sweep(
    experiment: Positional[AnyName],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    adapters: tuple[str, ...] = ("average",),
    controls: tuple[Control, ...] = tuple(CONTROLS),
    control_levels: tuple[float, ...] | None = None,
    benchmarks: tuple[str, ...] = ("mvbench",),
    seeds: tuple[int, ...] | None = None,
    limit: int | None = None,
    name: str | None = None,
    output: Path = Path("results"),
    dry_run: bool = False,
    cell: int | None = None,
    jobs: int = 1,
    retry_errors: bool = False,
    launcher: str | None = None,
    deepspeed: str | None = None,
    margin: float | None = None,
    eval_config: OmitArgPrefixes[EvalConfig] = DEFAULT_EVAL,
    judge_config: OmitArgPrefixes[MaybeJudge] = NOBODY,
) -> None:
    """The whole answer in one command: pre-train, fine-tune, ask, score and report at every pool level.

    Finished cells are skipped by what they were made from; the same command goes on after any interruption.
    Models that are answered together share each clip's decoding and encoding.
    On a cluster: `--dry-run` numbers the cells, `--cell $SLURM_ARRAY_TASK_ID` runs one.

    Args:
        levels: Pool levels; the grid's side is divided by each.
        adapters: Token adapters; each one is trained at every level.
        controls: What is withheld from the model to tell seeing from guessing.
        control_levels: Levels that are asked under the controls, too; the coarsest when not given.
        benchmarks: What the models are asked, as --task of `answer`, or NAME=FOLDER for a copy that lies elsewhere and
            for one of your own; mvbench is the experiment's. --judge-model scores open questions.
        seeds: Seeds of fine-tuning, each with its own runs; the report then holds the noise of training.
        limit: Questions a task at most; all when not given.
        name: Name of the sweep's folder; the experiment's when not given.
        output: Folder of all sweeps.
        dry_run: Print every cell, or the one of --cell, with its state and its command; run nothing.
        cell: Run this cell alone.
        jobs: Cells that run side by side, each on its share of the cores.
        retry_errors: Ask those questions again that have no answer because their clip could not be read.
        launcher: Puts training cells behind a launcher, such as "torchrun --nproc_per_node 8".
        deepspeed: A DeepSpeed json for the training cells, such as scripts/zero2.json.
        margin: Points of accuracy that fewer visual tokens may cost; the report then names the fewest that cost less.
    """
    from functools import partial

    from videogpt_plus.app.sweep import cells as sweeps
    from videogpt_plus.app.sweep.jobs import accounts, check_jobs, launched, run_cells
    from videogpt_plus.config.experiments import at_level, get_experiment, with_adapter, with_seed
    from videogpt_plus.io.files import read_object, require

    base = get_experiment(experiment)
    check_jobs(jobs)
    _check_name(name)
    if launcher is not None:
        launched(launcher, ())
    if deepspeed is not None:
        read_object(require(deepspeed, "DeepSpeed json"), "name another one, such as scripts/zero2.json")
    seeds = (base.finetune.seed,) if seeds is None else seeds
    wanted = dict.fromkeys((seed, a, level) for seed in seeds for a in adapters for level in levels)
    experiments = [with_seed(at_level(with_adapter(base, a), level), seed) for seed, a, level in wanted]
    root = output / (name or base.name)
    check_asking([base], eval_config)
    at = control_levels if control_levels is not None else (max(levels, default=0),)
    sweeps.check_once([one.partition("=")[0] for one in benchmarks])
    asked = [_asked(one, base.benchmark_root, judge_config) for one in benchmarks]
    check_margin(margin)
    cells = sweeps.plan(base, experiments, root, controls, at, limit, eval_config, asked, margin)
    if cell is not None and not 0 <= cell < len(cells):
        raise UserError(f"there is no cell {cell}: this sweep has cells 0 to {len(cells) - 1}; see --dry-run")
    if cell is None and not dry_run:
        _check_judging(asked, cells, judge_config)
    prepare_toy(base)
    for one in asked:
        prepare_benchmark(one.root or Path(base.benchmark_root))
    if dry_run:
        _print_cells(cells, cell, launcher, deepspeed)
        return
    if cell is None:
        _look_at(asked, limit, judge_config)
    together = sweeps.together(cells, jobs) if cell is None else [[cells[cell]]]
    options = {
        "launcher": launcher,
        "deepspeed": deepspeed,
        "eval_config": eval_config,
        "judge_config": judge_config,
        "margin": margin,
    }
    run = partial(_run_cells, retry_errors=retry_errors, **options)
    with accounts(root) as said:
        run_cells(_titled(together, cells), run, jobs)
    print(said())


def _check_name(name: str | None) -> None:
    """UserError unless the sweep's folder lies within --output."""
    if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts):
        raise UserError(f"--name '{name}' is no folder within --output: write a name, such as seeds")


def _asked(stated: str, own: str, judge_config: MaybeJudge) -> Asked:
    """A benchmark of `--benchmarks`, with who judges it; `own` is the folder that the experiment names."""
    from eval.judge.ledger import judge_of
    from eval.tasks.benchmarks import copy_of, is_own, kind_of
    from videogpt_plus.app.sweep.cells import Asked

    name, folder = benchmark_stated(stated)
    kind, copy = kind_of(name), copy_of(name, own, folder)
    root = folder or (Path(kind.root) if kind.root else None)
    asked = Asked(name, root, folder is not None, copy=copy, is_own=is_own(name))
    if kind.scored != "judged":
        return asked
    judge = judge_of(judge_config, kind).header if judge_config.judge_model is not None else {}
    return replace(asked, is_open=True, judge=judge, judge_config=judge_config.options)


def _look_at(asked: Sequence[Asked], limit: int | None, judge_config: MaybeJudge) -> None:
    """UserError: a benchmark is missing or wrong, or its facts, which would stop the sweep after hours."""
    from eval.judge.ledger import check_facts
    from eval.judge.lexical import LEXICAL
    from eval.tasks.benchmarks import examples

    for one in asked:
        questions = [] if one.root is None else examples(one.name, one.root, limit)
        if one.is_open and judge_config.judge_model == LEXICAL:
            check_facts(questions)


def _check_judging(asked: Sequence[Asked], cells: Sequence[Cell], judge_config: MaybeJudge) -> None:
    """UserError: there is nothing to judge, or the judge's key is missing, which would stop the sweep after hours."""
    from eval.judge.lexical import LEXICAL
    from videogpt_plus.app.sweep.cells import is_finished

    if judge_config.judge_model is not None and not any(one.judge for one in asked):
        raise UserError(
            f"--judge-model {judge_config.judge_model} scores open questions, and no benchmark of this sweep has any; "
            "leave it out, or add one by --benchmarks mvbench vcgbench"
        )
    if judge_config.judge_model != LEXICAL and not all(is_finished(cell) for cell in cells if cell.kind == "judge"):
        key_of(judge_config)


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
    from videogpt_plus.config.experiments import get_experiment

    chosen = get_experiment(experiment)
    _check_stream(chosen, stream)
    folder = output_dir or Path("results/pretrain") / f"{chosen.name}_{stream}"
    _check_training(chosen, stream, folder, deepspeed, dataloader_num_workers, loader_config)
    prepare_toy(chosen)
    _train("pretrain", chosen, stream, folder, deepspeed, dataloader_num_workers, f"pretrain ({stream})", loader_config)
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
    from videogpt_plus.config.experiments import base_of, get_experiment

    chosen = get_experiment(experiment)
    _check_trainable(chosen)
    starts = {}
    for start in projectors:
        stream, equals, folder = start.partition("=")
        if not equals:
            raise UserError(f"--projectors takes STREAM=FOLDER, such as image=results/pretrain/image, not '{start}'")
        _check_stream(chosen, stream)
        if not Path(folder).exists():
            raise UserError(
                f"no pre-trained projector at {folder}: make it with "
                f"`videogpt-plus pretrain {base_of(chosen.name)} {stream} --output-dir {shlex.quote(folder)}`"
            )
        starts[stream] = folder
    folder = output_dir or Path("results") / chosen.name
    _check_training(chosen, starts, folder, deepspeed, dataloader_num_workers, loader_config)
    prepare_toy(chosen)
    _train("train", chosen, starts, folder, deepspeed, dataloader_num_workers, f"train {chosen.name}", loader_config)
    print(f"weights of {chosen.name}: {folder}")


def take(experiment: Positional[PublishedAtLevel], output_dir: Path | None = None) -> None:
    """Make a run folder of published weights, which are asked as they are, at the experiment's pool level.

    Args:
        output_dir: The run folder; results/EXPERIMENT when not given.
    """
    from videogpt_plus.config.experiments import get_experiment

    chosen = get_experiment(experiment)
    print(f"run of {chosen.name}: {take_published(chosen, output_dir or Path('results') / chosen.name)}")


def _titled(together: Sequence[Sequence[Cell]], cells: Sequence[Cell]) -> list[tuple[Sequence[Cell], str]]:
    """Each group with its numbers and names: `3,4/14 answer toy_pool1 toy_pool2 (all frames)`."""
    numbers = {cell.folder: str(number) for number, cell in enumerate(cells)}
    titled = []
    for group in together:
        names = " ".join(dict.fromkeys(cell.experiment.name for cell in group if cell.experiment))
        title = group[0].title
        if len(group) > 1 and group[0].kind == "judge":
            title = f"judge {names} ({', '.join(dict.fromkeys(cell.benchmark.name for cell in group))})"
        elif len(group) > 1:
            title = title.replace(group[0].experiment.name, names)
        titled.append((group, f"{','.join(numbers[c.folder] for c in group)}/{len(cells) - 1} {title}"))
    return titled


def _run_cells(
    cells: Sequence[Cell],
    title: str,
    launcher: str | None,
    deepspeed: str | None,
    eval_config: EvalConfig,
    judge_config: MaybeJudge,
    margin: float | None,
    retry_errors: bool,
) -> None:
    """Fills one cell, or several answer cells together."""
    from eval.report.sweep import report_sweep
    from videogpt_plus.app.sweep import cells as sweeps
    from videogpt_plus.io.files import sweep_parts

    if cells[0].kind == "report":
        sweep_parts(cells[0].folder)
        chosen = {one.name: one.root for one in cells[0].benchmarks if one.chosen and not one.copy}
        print(f"{title}: {report_sweep(cells[0].folder.parent, chosen=chosen, say=print, margin=margin)}")
        return
    failed = _failed(cells)
    left = [cell for cell in cells if not sweeps.is_finished(cell) or (retry_errors and failed.get(cell.folder))]
    if not left:
        print(f"{title}: finished before")
        _say_failed(title, failed)
        return
    with ExitStack() as claims:
        for cell in left:
            claims.enter_context(sweeps.claimed(cell))
        if left[0].kind == "judge":
            _judge_cells(left, title, judge_config)
        else:
            _fill_cells(left, title, launcher, deepspeed, eval_config, retry_errors)
            _say_failed(title, _failed(left))


def _failed(cells: Sequence[Cell]) -> dict[Path, int]:
    """Questions without an answer, by the folder of each answer cell that has any."""
    from eval.answers.answer import read_answers

    counts = {}
    for cell in cells:
        if cell.kind == "answer":
            lines = read_answers(cell.folder / "answers.jsonl").values()
            counts[cell.folder] = sum(line.get("error") is not None for line in lines)
    return {folder: count for folder, count in counts.items() if count}


def _say_failed(title: str, failed: dict[Path, int]) -> None:
    for folder, count in failed.items():
        what = "1 question has" if count == 1 else f"{count} questions have"
        where = folder / "answers.jsonl"
        print(f"{title}: {what} no answer: see 'error' in {where}; after a repair, add --retry-errors")


def _judge_cells(cells: Sequence[Cell], title: str, judge_config: MaybeJudge) -> None:
    """Judges the answers of all these cells within one budget; each is finished as soon as it has its scores."""
    from videogpt_plus.app.sweep import cells as sweeps

    began, by_answers = time.monotonic(), {}
    for cell in cells:
        if told := sweeps.begin(cell):
            print(f"{title}: {told}")
        answers = cell.needs[0]
        by_answers[Answers(answers.parent, cell.benchmark.name, cell.control, cell.limit, cell.benchmark.root)] = cell

    def judged(answers: Answers) -> None:
        sweeps.finish(by_answers[answers], time.monotonic() - began)

    judge_answers(judge_config, list(by_answers), again=True, judged=judged)


def _fill_cells(
    cells: Sequence[Cell],
    title: str,
    launcher: str | None,
    deepspeed: str | None,
    eval_config: EvalConfig,
    retry_errors: bool,
) -> None:
    from eval.answers.runs import answer_runs
    from videogpt_plus.app.screen import progress
    from videogpt_plus.app.sweep import cells as sweeps
    from videogpt_plus.app.sweep.jobs import launch

    began = time.monotonic()
    for cell in cells:
        if told := sweeps.begin(cell):
            print(f"{title}: {told}")
    cell = cells[0]
    if launcher and cell.kind in TRAINED:
        if code := launch(launcher, _command(cell, deepspeed), cell.folder):
            print(f"{title}: exit code {code} when all was written; the weights are whole")
    elif cell.kind == "pretrain":
        _train("pretrain", cell.experiment, cell.stream, cell.folder, deepspeed, None, title, eval_config)
    elif cell.kind == "train":
        starts = {folder.name: folder for folder in cell.needs}
        _train("train", cell.experiment, starts, cell.folder, deepspeed, None, title, eval_config)
    elif cell.kind == "take":
        take_published(cell.experiment, cell.folder)
    else:
        runs = {cell.needs[0]: cell.folder / "answers.jsonl" for cell in cells}
        asked = cell.benchmark
        with progress(title) as advance:
            answer_runs(
                runs, cell.control, cell.limit, asked.root, retry_errors, eval_config, advance, print, asked.name
            )
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
    loader_config: LoaderConfig,
) -> None:
    from videogpt_plus.app.screen import progress as shown

    with shown(title) as advance:
        from videogpt_plus.clips.cache import open_cache
        from videogpt_plus.training import stages as training

        run = {"pretrain": training.pretrain, "train": training.finetune}[kind]

        def progress(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        given = {"deepspeed": deepspeed, "workers": workers, "progress": progress}
        run(
            experiment,
            start,
            folder,
            **given,
            store=open_cache(loader_config),
            decoder=loader_config.decoder,
            say=print,
        )
    from videogpt_plus.training.data import read_substitutions

    if replaced := read_substitutions(folder / "substituted.jsonl"):
        print(f"{title}: {len(replaced)} unreadable samples were replaced; see {folder / 'substituted.jsonl'}")


def _check_training(
    experiment, start, folder: Path, deepspeed: str | None, workers: int | None, loader_config: LoaderConfig
) -> None:
    """UserError: the training would not begin; see `train.check`."""
    from videogpt_plus.training.stages import check

    check_workers(workers)
    check_feeding(loader_config)
    check(experiment, start, folder, deepspeed)


def _check_trainable(experiment) -> None:
    if not experiment.is_trained:
        raise UserError(
            f"{experiment.name} is asked as it was published, and is not trained: "
            f"`videogpt-plus answer {experiment.name}`"
        )


def _check_stream(experiment, stream: str) -> None:
    _check_trainable(experiment)
    if not experiment.pretrain:
        raise UserError(
            f"{experiment.name} was published with its projectors, and none is pre-trained: "
            f"`videogpt-plus train {experiment.name}`"
        )
    names = [name for name, _ in experiment.streams]
    if stream not in names:
        raise UserError(f"unknown stream '{stream}'; choose from: {', '.join(names)}")


def _command(cell: Cell, deepspeed: str | None) -> list[str]:
    """The cell's arguments of `videogpt-plus`, with the DeepSpeed json where it trains."""
    return [*cell.command, *(["--deepspeed", deepspeed] if deepspeed and cell.kind in TRAINED else [])]


def _print_cells(cells: Sequence[Cell], only: int | None, launcher: str | None, deepspeed: str | None) -> None:
    """Every cell, or one of them, with the command as it will be run."""
    from videogpt_plus.app.sweep.cells import describe
    from videogpt_plus.app.sweep.jobs import launched

    for cell, (number, title, state) in zip(cells, describe(cells), strict=True):
        if only is not None and cells[only] is not cell:
            continue
        command = _command(cell, deepspeed)
        call = launched(launcher, command) if launcher and cell.kind in TRAINED else ["videogpt-plus", *command]
        print(f"{number:>3}  {state:<8}  {title}\n               {shlex.join(call)}")
