"""A sweep from its options to its report: planned and checked whole, then run cell by cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg

from videogpt_plus.app import checks
from videogpt_plus.app.judging import NOBODY, Answers, MaybeJudge, judge_answers, key_of
from videogpt_plus.app.listener import SILENT, Listener
from videogpt_plus.app.made import prepare_benchmark, prepare_toy
from videogpt_plus.app.questions import TaskConfig, benchmark_stated
from videogpt_plus.app.runs import take_published
from videogpt_plus.app.sweep import cells as sweeps
from videogpt_plus.app.sweep.cells import Asked, Cell
from videogpt_plus.app.sweep.jobs import accounts, check_jobs, launch, launched, run_cells
from videogpt_plus.app.trainings import TRAINED, fill_run
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import named_or_filed
from videogpt_plus.config.experiments import at_level, with_reducer, with_seed
from videogpt_plus.config.options import DEFAULT_EVAL, EvalConfig
from videogpt_plus.io.files import read_object, require, sweep_parts
from videogpt_plus.types import CONTROLS, Control, UserError, check_control


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep trains, asks and compares, and how."""

    # Pool levels; the grid's side is divided by each.
    levels: tuple[float, ...] = (1, 2, 4, 8, 16)
    # How grids become fewer tokens; each one is trained at every level.
    reducers: Annotated[tuple[str, ...], arg(aliases=["--adapters"])] = ("average",)
    # What is withheld from the model to tell seeing from guessing.
    controls: tuple[Control, ...] = tuple(CONTROLS)
    # Levels that are asked under the controls, too; the coarsest when not given.
    control_levels: tuple[float, ...] | None = None
    # What the models are asked, as --task of `answer`, or NAME=FOLDER for a copy that lies elsewhere and for one of
    # your own; mvbench is the experiment's. --judge-model scores open questions.
    benchmarks: tuple[str, ...] = ("mvbench",)
    # Seeds of fine-tuning, each with its own runs; the report then holds the noise of training.
    seeds: tuple[int, ...] | None = None
    # Questions a task at most; all when not given.
    limit: int | None = None
    # Name of the sweep's folder; the experiment's when not given.
    name: str | None = None
    # Cells that run side by side, each on its share of the cores.
    jobs: int = 1
    # Ask those questions again that have no answer because their clip could not be read.
    retry_errors: bool = False
    # Puts training cells behind a launcher, such as "torchrun --nproc_per_node 8".
    launcher: str | None = None
    # A DeepSpeed json for the training cells, such as scripts/zero2.json.
    deepspeed: str | None = None
    # Points of accuracy that fewer visual tokens may cost; the report then names the fewest that cost less.
    margin: float | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep that can run: its options and its cells."""

    base: Experiment
    root: Path
    cells: tuple[Cell, ...]
    asked: tuple[Asked, ...]
    config: SweepConfig
    eval_config: EvalConfig
    judge_config: MaybeJudge


class CellScores(NamedTuple):
    """What a finished cell of answers was worth."""

    cell: Cell
    #: What its scores.json holds (`eval.answers.score.score`); of judged answers what the judge's does.
    scores: Mapping[str, Any]

    @property
    def accuracy(self) -> float | None:
        """The mean over tasks, from 0 to 1; None of judged answers."""
        overall = self.scores.get("overall", {})
        return overall["macro"]["accuracy"] if "macro" in overall else None


class Result(NamedTuple):
    """What a sweep has left."""

    root: Path
    #: Its page; None where another cell alone was run.
    report: Path | None
    cells: tuple[Cell, ...]
    #: Those of answers, in their order.
    scores: tuple[CellScores, ...]
    #: Minutes, cores and memory, in words.
    took: str


def sweep(
    experiment: str | Experiment,
    root: str | Path = "results",
    eval_config: EvalConfig = DEFAULT_EVAL,
    judge_config: MaybeJudge = NOBODY,
    listener: Listener = SILENT,
    **options: Any,
) -> Result:
    """Trains, asks and compares at every pool level, and returns where the report is and what each cell scored.

    `options` are the fields of `SweepConfig`: sweep("toy", levels=(2, 8), benchmarks=("mvbench", "toy_open"), jobs=2).
    The folder is `root`/NAME. Finished cells are kept; the same call goes on after any interruption.
    UserError: it could not run to its end as it is asked for.
    """
    plan = plan_sweep(experiment, Path(root), SweepConfig(**options), eval_config, judge_config)
    return run_sweep(plan, listener)


def plan_sweep(
    experiment: str | Experiment,
    output: Path,
    config: SweepConfig,
    eval_config: EvalConfig = DEFAULT_EVAL,
    judge_config: MaybeJudge = NOBODY,
) -> Plan:
    """The sweep's cells, with its folder below `output`. Nothing is made. UserError: an option is not possible."""
    base = experiment if isinstance(experiment, Experiment) else named_or_filed(experiment)
    check_jobs(config.jobs)
    _check_name(config.name)
    if config.launcher is not None:
        launched(config.launcher, ())
    if config.deepspeed is not None:
        read_object(require(config.deepspeed, "DeepSpeed json"), "name another one, such as scripts/zero2.json")
    checks.check_asking([base], eval_config)
    sweeps.check_once([one.partition("=")[0] for one in config.benchmarks])
    asked = tuple(_asked(one, base.benchmark_root, judge_config) for one in config.benchmarks)
    checks.check_margin(config.margin)
    for control in config.controls:
        check_control(control)
    root, levels = output / (config.name or base.name), config.control_levels
    at = levels if levels is not None else (max(config.levels, default=0),)
    how = (config.controls, at, config.limit, eval_config, asked, config.margin)
    cells = sweeps.plan(base, _experiments(base, config), root, *how)
    return Plan(base, root, tuple(cells), asked, config, eval_config, judge_config)


def _experiments(base: Experiment, config: SweepConfig) -> list[Experiment]:
    models = [at_level(with_reducer(base, r), level) for r in config.reducers for level in config.levels]
    if config.seeds is not None:
        models = [with_seed(model, seed) for seed in config.seeds for model in models]
    return list(dict.fromkeys(models))


def _check_name(name: str | None) -> None:
    """UserError unless the sweep's folder lies within --output."""
    if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts):
        raise UserError(f"--name '{name}' is no folder within --output: write a name, such as seeds")


def check_cell(plan: Plan, cell: int | None) -> None:
    """UserError: the sweep has no cell of this number."""
    if cell is not None and not 0 <= cell < len(plan.cells):
        raise UserError(f"there is no cell {cell}: this sweep has cells 0 to {len(plan.cells) - 1}; see --dry-run")


def _asked(stated: str, own: str, judge_config: MaybeJudge) -> Asked:
    """A benchmark of `--benchmarks`, with who judges it; `own` is the folder that the experiment names."""
    from eval.judge.ledger import judge_of
    from eval.tasks.benchmarks import copy_of, is_own, kind_of

    name, folder = benchmark_stated(stated)
    kind, copy = kind_of(name), copy_of(name, own, folder)
    root = folder or (Path(kind.root) if kind.root else None)
    asked = Asked(name, root, folder is not None, copy=copy, is_own=is_own(name))
    if kind.scored != "judged":
        return asked
    judge = judge_of(judge_config, kind).header if judge_config.judge_model is not None else {}
    return replace(asked, is_open=True, judge=judge, judge_config=judge_config.options)


def check_judging(plan: Plan) -> None:
    """UserError: there is nothing to judge, or the judge's key is missing, which would stop the sweep after hours."""
    from eval.judge.lexical import LEXICAL

    config = plan.judge_config
    if config.judge_model is not None and not any(one.judge for one in plan.asked):
        raise UserError(
            f"--judge-model {config.judge_model} scores open questions, and no benchmark of this sweep has any; "
            "leave it out, or add one by --benchmarks mvbench vcgbench"
        )
    if config.judge_model != LEXICAL and not all(sweeps.is_finished(one) for one in plan.cells if one.kind == "judge"):
        key_of(config)


def prepare(plan: Plan, listener: Listener = SILENT) -> None:
    """Makes what the toy needs and is not there."""
    prepare_toy(plan.base, listener)
    for one in plan.asked:
        prepare_benchmark(one.root or Path(plan.base.benchmark_root), listener)


def _look_at(plan: Plan) -> None:
    """UserError: a benchmark is missing or wrong, or its facts, which would stop the sweep after hours."""
    from eval.judge.ledger import check_facts
    from eval.judge.lexical import LEXICAL
    from eval.tasks.benchmarks import examples

    for one in plan.asked:
        questions = [] if one.root is None else examples(one.name, one.root, plan.config.limit)
        if one.is_open and plan.judge_config.judge_model == LEXICAL:
            check_facts(questions)


def run_sweep(plan: Plan, listener: Listener = SILENT, cell: int | None = None) -> Result:
    """Fills every cell that is not finished, or the one of this number alone."""
    check_cell(plan, cell)
    if cell is None:
        check_judging(plan)
    prepare(plan, listener)
    if cell is None:
        _look_at(plan)
    together = sweeps.together(plan.cells, plan.config.jobs) if cell is None else [[plan.cells[cell]]]
    with accounts(plan.root) as said:
        run_cells(_titled(together, plan.cells), partial(_run_cells, plan=plan, listener=listener), plan.config.jobs)
    done = plan.cells if cell is None else (plan.cells[cell],)
    report = next((one.folder / "index.html" for one in done if one.kind == "report"), None)
    return Result(plan.root, report, done, tuple(_scores(done)), said())


def _scores(cells: Sequence[Cell]) -> Iterator[CellScores]:
    """What was scored of these cells."""
    for cell in cells:
        if cell.kind == "answer" and not cell.benchmark.is_open:
            found = [cell.folder / "scores.json"]
        elif cell.kind == "judge":
            found = sorted(cell.needs[0].glob("scores*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        else:
            continue
        read = (read_object(path, "score the answers again") for path in found if path.is_file())
        if scores := next((one for one in read if cell.kind == "answer" or _is_judged_by(cell, one)), None):
            yield CellScores(cell, scores)


def _is_judged_by(cell: Cell, scores: Mapping[str, Any]) -> bool:
    """Whether the judge of the cell gave these scores, and not another one that scored the same answers."""
    found, wanted = scores.get("judge", {}), cell.benchmark.judge
    return all(found.get(name) == wanted[name] for name in ("judge_model", "prompt_hash"))


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


def _run_cells(cells: Sequence[Cell], title: str, plan: Plan, listener: Listener) -> None:
    """Fills one cell, or several answer cells together."""
    if cells[0].kind == "report":
        listener.say(f"{title}: {_report(cells[0], plan, listener)}")
        return
    failed = _failed(cells)
    again = failed if plan.config.retry_errors else {}
    left = [cell for cell in cells if not sweeps.is_finished(cell) or cell.folder in again]
    if not left:
        listener.say(f"{title}: finished before")
        _say_failed(title, failed, listener)
        return
    with ExitStack() as claims:
        for cell in left:
            claims.enter_context(sweeps.claimed(cell))
        began = time.monotonic()
        for cell in left:
            if told := sweeps.begin(cell):
                listener.say(f"{title}: {told}")
        if left[0].kind == "judge":
            _judge_cells(left, plan, listener, began)
            return
        _fill_cells(left, title, plan, listener)
        for cell in left:
            sweeps.finish(cell, time.monotonic() - began)
        _say_failed(title, _failed(left), listener)


def _report(cell: Cell, plan: Plan, listener: Listener) -> Path:
    from eval.report.sweep import report_sweep

    sweep_parts(cell.folder)
    chosen = {one.name: one.root for one in cell.benchmarks if one.chosen and not one.copy}
    return report_sweep(cell.folder.parent, chosen=chosen, say=listener.say, margin=plan.config.margin)


def _failed(cells: Sequence[Cell]) -> dict[Path, int]:
    """Questions without an answer, by the folder of each answer cell that has any."""
    from eval.answers.answer import read_answers

    counts = {}
    for cell in cells:
        if cell.kind == "answer":
            lines = read_answers(cell.folder / "answers.jsonl").values()
            counts[cell.folder] = sum(line.get("error") is not None for line in lines)
    return {folder: count for folder, count in counts.items() if count}


def _say_failed(title: str, failed: Mapping[Path, int], listener: Listener) -> None:
    for folder, count in failed.items():
        what = "1 question has" if count == 1 else f"{count} questions have"
        where = folder / "answers.jsonl"
        listener.say(f"{title}: {what} no answer: see 'error' in {where}; after a repair, add --retry-errors")


def _judge_cells(cells: Sequence[Cell], plan: Plan, listener: Listener, began: float) -> None:
    """Judges the answers of all these cells within one budget; each is finished as soon as it has its scores."""
    by_answers = {
        Answers(
            cell.needs[0].parent,
            TaskConfig(cell.benchmark.name, cell.control, cell.limit, cell.benchmark.root),
        ): cell
        for cell in cells
    }

    def judged(answers: Answers) -> None:
        sweeps.finish(by_answers[answers], time.monotonic() - began)

    judge_answers(plan.judge_config, list(by_answers), again=True, judged=judged, listener=listener)


def _fill_cells(cells: Sequence[Cell], title: str, plan: Plan, listener: Listener) -> None:
    from eval.answers.runs import answer_runs

    cell, config = cells[0], plan.config
    if config.launcher and cell.kind in TRAINED:
        if code := launch(config.launcher, command_of(cell, config.launcher, config.deepspeed), cell.folder):
            listener.say(f"{title}: exit code {code} when all was written; the weights are whole")
    elif cell.kind in TRAINED:
        start = cell.stream if cell.kind == "pretrain" else {folder.name: folder for folder in cell.needs}
        fill_run(cell.experiment, start, cell.folder, plan.eval_config, title, config.deepspeed, listener=listener)
    elif cell.kind == "register":
        take_published(cell.experiment, cell.folder)
    else:
        runs = {cell.needs[0]: cell.folder / "answers.jsonl" for cell in cells}
        asked, say = cell.benchmark, listener.say
        with listener.progress(title) as advance:
            how = (asked.root, config.retry_errors, plan.eval_config, advance, say, asked.name)
            answer_runs(runs, cell.control, cell.limit, *how)


def command_of(cell: Cell, launcher: str | None, deepspeed: str | None) -> list[str]:
    """The cell's arguments of `videogpt-plus`, with the DeepSpeed json where it trains."""
    words = cell.launched if launcher and cell.kind in TRAINED else cell.command
    return [*words, *(["--deepspeed", deepspeed] if deepspeed and cell.kind in TRAINED else [])]
