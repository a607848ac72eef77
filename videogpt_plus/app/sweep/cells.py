"""A sweep as a list of cells: projectors pre-trained once, then for every model training and answers, then a report.

Several benchmarks are asked of the same models; where a judge is named, its scores are cells behind the answers.

A cell is one command that fills one folder. It is finished when its `cell.json` says so and says that it was made
from what it would be made from now: configs, weights, data, and the outputs of the cells before it. So changing a
config redoes exactly what it touches. What a changed cell had written is moved aside, never deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from eval.answers.naming import OWN, answers_folder, asked_name, options_of
from videogpt_plus.config.experiment import Experiment, pretraining_experiment
from videogpt_plus.config.experiment_file import experiment_json
from videogpt_plus.config.experiments import EXPERIMENTS, base_of, get_experiment
from videogpt_plus.config.mixtures import get_mixture
from videogpt_plus.config.options import DEFAULT_EVAL, EvalConfig, LoaderConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.config.training import Training
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import read_object, sweep_parts, write_json, writing
from videogpt_plus.io.runs import CELL as RECORD
from videogpt_plus.io.runs import FINISHED, TUNED, are_there, check_own, difference
from videogpt_plus.text.chat import check_template
from videogpt_plus.types import UserError


@dataclass(frozen=True)
class Asked:
    """A benchmark that a sweep asks, and who judges its answers."""

    #: Its name in the table of benchmarks.
    name: str = OWN
    #: Where it lies; None for the folder that the experiment names.
    root: Path | None = None
    #: Whether the folder was chosen by the user, so that a command has to name it.
    chosen: bool = False
    #: Whether its questions are open, so that a judge gives the scores.
    is_open: bool = False
    #: Who judges, told by content (model, hash of the prompts); {} for nobody.
    judge: Mapping[str, str] = field(default_factory=dict)
    #: The options of `videogpt-plus judge` that name the judge.
    judge_config: tuple[str, ...] = ()
    #: What tells another copy of the benchmark from the usual one; "" for that.
    copy: str = ""
    #: Whether it is one of the user's own, so that a command states its folder with its name.
    is_own: bool = False

    @property
    def stated(self) -> str:
        """As `--benchmarks` takes it: NAME, or NAME=FOLDER."""
        return f"{self.name}={self.root}" if self.chosen else self.name


#: What a sweep asks unless it is told.
ASKED = (Asked(),)


@dataclass(frozen=True)
class Cell:
    """One step of a sweep."""

    #: "pretrain", "train", "register" (of weights that are asked as published), "answer", "judge" or "report".
    kind: str
    #: Its output folder.
    folder: Path
    #: Arguments of `videogpt-plus` that do the same.
    command: tuple[str, ...]
    #: What it is made of; None for the report, which reads its cells.
    experiment: Experiment | None = None
    #: The stream of a pre-training.
    stream: str = ""
    #: What an answer cell withholds from the model, or a judge's withheld; None for nothing.
    control: str | None = None
    #: Questions a task at most in an answer cell or a judge's; None for all.
    limit: int | None = None
    #: How an answer cell asks, and where clips come from in any.
    eval_config: EvalConfig = DEFAULT_EVAL
    #: Folders of the cells that have to be finished before.
    needs: tuple[Path, ...] = ()
    #: What an answer cell asks and a judge's cell scores.
    benchmark: Asked = ASKED[0]
    #: What the report is of.
    benchmarks: tuple[Asked, ...] = ASKED
    #: Where the experiment of a cell that fills a run folder is written, for a process that is launched for it.
    file: Path | None = None

    @property
    def launched(self) -> tuple[str, ...]:
        """The command with the experiment whole, by its file: a name in it says neither frames nor rates."""
        return (self.kind, str(self.file), *self.command[2:])

    @property
    def title(self) -> str:
        named = self.benchmark.name != OWN or self.benchmark.copy
        asked = f"{asked_name(self.benchmark.name, self.benchmark.copy)}, " if named else ""
        asked += self.control or "all frames"
        what = {"pretrain": self.stream, "answer": asked, "judge": asked}.get(self.kind)
        name = self.experiment.name if self.experiment and self.kind != "pretrain" else ""
        return " ".join(part for part in (self.kind, name, f"({what})" if what else "") if part)


def plan(
    base: Experiment,
    experiments: Sequence[Experiment],
    root: Path,
    controls: Sequence[str] = (),
    control_levels: Sequence[float] = (),
    limit: int | None = None,
    eval_config: EvalConfig = DEFAULT_EVAL,
    benchmarks: Sequence[Asked] = ASKED,
    margin: float | None = None,
) -> list[Cell]:
    """Every cell, each behind what it needs. The experiments are diffs of one base and share its projectors.

    `margin` is what fewer tokens may cost, in points: the report's, as in its command.
    """
    _check_asked(benchmarks, eval_config)
    if not experiments:
        raise UserError("the sweep has no cell: give at least one level and one adapter, such as --levels 1 4 16")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible: ask at least 1 question a task, or leave it out for all")
    for e in experiments:  # what cannot be trained at the end is said before anything trains
        check_template(e.prompting.template)
        for _, training in e.pretrain:
            check_template(training.template)
            get_mixture(training.data)
        if e.is_trained:
            get_mixture(e.training.data)
    pretrain = {name: _pretrain_cell(base, name, root, eval_config) for name, _ in base.pretrain}
    starts = [f"{name}={cell.folder}" for name, cell in pretrain.items()]
    cells = list(pretrain.values())
    for e in experiments:
        folder = root / e.name
        needs = tuple(cell.folder for cell in pretrain.values())
        kind = "train" if e.is_trained else "register"
        trained = ("--projectors", *starts) if starts else ()
        file = _file(e, root)
        command = (kind, _word(e, file), *trained, "--output-dir", str(folder))
        command += tuple(_options(eval_config, LoaderConfig)) if e.is_trained else ()
        cells.append(Cell(kind, folder, command, e, eval_config=eval_config, needs=needs, file=file))
    answers = [
        _answer_cell(e, root / e.name, control, limit, eval_config, benchmark)
        for benchmark in benchmarks
        for e in experiments
        for control in ((None, *controls) if e.level in control_levels else (None,))
    ]
    scores = [_judge_cell(answer) for answer in answers if answer.benchmark.judge]
    command = ["report", str(root)]
    moved = [b.stated for b in benchmarks if b.chosen and not b.copy]  # where a copy lies stands beside its answers
    command += ["--benchmarks", *moved] if moved else []
    command += ["--margin", f"{margin:g}"] if margin is not None else []
    needs = tuple(cell.folder for cell in (*answers, *scores))
    report = Cell("report", root / "report", tuple(command), needs=needs, benchmarks=tuple(benchmarks))
    return [*cells, *answers, *scores, report]


def _pretrain_cell(base: Experiment, name: str, root: Path, eval_config: EvalConfig) -> Cell:
    folder, file = root / "pretrain" / name, _file(base, root)
    command = ("pretrain", _word(base, file), name, "--output-dir", str(folder), *_options(eval_config, LoaderConfig))
    return Cell("pretrain", folder, command, base, stream=name, eval_config=eval_config, file=file)


def _file(experiment: Experiment, root: Path) -> Path:
    return root / "experiments" / f"{experiment.name}.json"


def _word(experiment: Experiment, file: Path) -> str:
    """What names the experiment in a command: its name where that says all of it, else its file."""
    known = base_of(experiment.name) in EXPERIMENTS and get_experiment(experiment.name) == experiment
    return experiment.name if known else str(file)


def write_experiment(cell: Cell) -> None:
    """Writes the file of the cell's experiment."""
    if cell.file and cell.experiment:
        write_json(cell.file, experiment_json(cell.experiment))


def _check_asked(benchmarks: Sequence[Asked], eval_config: EvalConfig) -> None:
    """What cannot be asked at the end is said before anything trains."""
    names = [benchmark.name for benchmark in benchmarks]
    if not names:
        raise UserError(f"--benchmarks names none: give at least one, or leave it out for {OWN}")
    check_once(names)
    is_open = next((benchmark.name for benchmark in benchmarks if benchmark.is_open), None)
    if is_open and eval_config.scoring != "generate":
        raise UserError(
            f"--scoring {eval_config.scoring} needs options, and the questions of {is_open} are open; leave it out, or "
            f"sweep {is_open} by itself"
        )


def check_once(names: Sequence[str]) -> None:
    """UserError: one of these benchmarks is named twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"--benchmarks names {twice} twice; sweep it once, or give a copy in MVBench's layout a name of its own: "
            "NAME=FOLDER"
        )


def _answer_cell(
    experiment: Experiment, run: Path, control: str | None, limit: int | None, eval_config: EvalConfig, benchmark: Asked
) -> Cell:
    command = ("answer", str(run), *_which(benchmark, control, limit), *_options(eval_config, EvalConfig))
    folder = answers_folder(run, control, limit, benchmark.name, benchmark.copy)
    return Cell("answer", folder, command, experiment, "", control, limit, eval_config, (run,), benchmark)


def _judge_cell(answer: Cell) -> Cell:
    """The scores of an answer cell. Another judge has a folder of its own, so that the first one's cells stay."""
    run, judge = answer.needs[0], answer.benchmark.judge["judge_model"]
    command = (
        "judge",
        str(run),
        *_which(answer.benchmark, answer.control, answer.limit),
        *answer.benchmark.judge_config,
    )
    folder = answer.folder / f"judged_by_{fingerprint.for_files(judge)}"
    return replace(answer, kind="judge", folder=folder, command=command, needs=(answer.folder,))


def _which(benchmark: Asked, control: str | None, limit: int | None) -> list[str]:
    """The options that say which answers are meant."""
    place = benchmark.root if benchmark.chosen else None
    return options_of(benchmark.name, control, limit, place, benchmark.is_own)


def _options(eval_config: EvalConfig, kind: type[LoaderConfig]) -> list[str]:
    """The options that make the fields of `kind` what they are in `eval_config`."""
    changed = [f.name for f in fields(kind) if getattr(eval_config, f.name) != f.default]
    return [part for name in changed for part in (f"--{name.replace('_', '-')}", str(getattr(eval_config, name)))]


def together(cells: Sequence[Cell], jobs: int) -> list[list[Cell]]:
    """The cells in groups that run as one: models asked one benchmark under one control share each clip's encoding.

    With several jobs these models are dealt out to as many groups, evenly by their visual tokens, so that no job waits
    for another's training. All that is judged is one group, because it has one budget.
    """
    groups: list[list[Cell]] = []
    seen: set[tuple[str, ...]] = set()
    for cell in cells:
        kinship = _kinship(cell)
        if kinship is None:
            groups.append([cell])
        elif kinship not in seen:
            seen.add(kinship)
            mates = [one for one in cells if _kinship(one) == kinship]
            groups += _dealt(mates, jobs) if cell.kind == "answer" else [mates]
    return groups


def _kinship(cell: Cell) -> tuple[str, ...] | None:
    """What cells of one group have in common; None for a cell that runs alone."""
    if cell.kind == "answer":
        return "answer", cell.benchmark.name, cell.control or ""
    return ("judge",) if cell.kind == "judge" else None


def _dealt(cells: Sequence[Cell], jobs: int) -> list[list[Cell]]:
    """The cells in at most `jobs` groups of about equal visual tokens, each in the order of `cells`."""

    def load(group: Sequence[Cell]) -> int:
        return sum(num_visual_tokens(cell.experiment, cell.experiment.num_frames) for cell in group)

    groups: list[list[Cell]] = [[] for _ in range(min(jobs, len(cells)))]
    for cell in sorted(cells, key=lambda one: -load([one])):
        min(groups, key=load).append(cell)
    return [sorted(group, key=cells.index) for group in groups]


def inputs(cell: Cell) -> dict[str, object]:
    """What the cell's output depends on, told by content."""
    e = cell.experiment
    if e is None:
        return {}
    if cell.kind == "judge":
        return {"answers": fingerprint.of_path(cell.needs[0] / "answers.jsonl"), "judge": dict(cell.benchmark.judge)}
    before = {folder.name: _outputs(folder) for folder in cell.needs}
    if cell.kind == "pretrain":
        alone = pretraining_experiment(e, cell.stream)
        return _made_of(alone) | {"training": _training(alone.training), **cell.eval_config.shapes_training()}
    if cell.kind == "register":
        return _made_of(e)
    if cell.kind == "train":
        settings = {"training": _training(e.training), "lora": vars(e.lora), **cell.eval_config.shapes_training()}
        return _made_of(e) | settings | {"before": before}
    asked = {"control": cell.control, "limit": cell.limit, **cell.eval_config.shapes_answers()}
    settings = {**asked, "max_new_tokens": e.max_new_tokens}
    settings |= {} if e.trains_projectors else {"llm": fingerprint.of_path(e.llm)}
    root = cell.benchmark.root or Path(e.benchmark_root)
    beside = cell.benchmark.is_open or (root.is_dir() and not (root / "json").exists())
    benchmark = _open_benchmark(root) if beside else _benchmark(str(root))
    return {"before": before, "benchmark": benchmark, **settings}


def _made_of(experiment: Experiment) -> dict[str, object]:
    """What a run folder depends on beside its training: parts by their content, and how clips and questions enter."""
    told = experiment_json(experiment)
    parts = {
        name: {**told["branches"][name], "weights": fingerprint.of_path(branch.weights)}
        for name, branch in experiment.branches
    }
    shown = {name: told[name] for name in ("reducer", "sampling")}
    return {
        "llm": fingerprint.of_path(experiment.llm),
        "branches": parts,
        **shown,
        "template": experiment.prompting.template,
    }


def _training(training: Training) -> dict[str, object]:
    data = [(fingerprint.of_path(annotations), media) for annotations, media in get_mixture(training.data)]
    # Where checkpoints fall does not change what comes out.
    settings = {**vars(training), "save_steps": 0}
    return {**settings, "data": data}


def _benchmark(root: str) -> str:
    """Annotations and rows of a folder, or of a file of rows that names its folder (mvbench.open_benchmark)."""
    rows = Path(root) if Path(root).is_file() else Path(root) / "tasks.json"
    stated = read_object(rows, "correct it or build the benchmark again") if rows.is_file() else {}
    folder = rows.parent / str(stated.get("root", "."))
    return fingerprint.of_value([fingerprint.of_path(folder / "json"), fingerprint.of_path(rows)])


def _open_benchmark(root: Path) -> str:
    """Annotations of a folder of open questions or labels: the JSON files beside the clips' folders."""
    files = sorted(path for folder in (root, root / "Benchmarking_QA") for path in folder.glob("*.json"))
    return fingerprint.of_value([(path.relative_to(root).as_posix(), fingerprint.of_path(path)) for path in files])


def _outputs(folder: Path) -> str:
    """The trained weights of a folder."""
    names = ("adapter_model.safetensors", "projectors.safetensors")
    return fingerprint.of_value([fingerprint.of_path(folder / name) for name in names])


def outputs(cell: Cell) -> list[Path]:
    """The files that a finished cell has left. A judge's are those of every judge beside the answers."""
    if cell.kind == "judge":
        answers = cell.needs[0]
        found = [sorted(answers.glob(f"{name}*{kind}")) for name, kind in (("judged", ".jsonl"), ("scores", ".json"))]
        return [*(found[0] or [answers / "judged.jsonl"]), *(found[1] or [answers / "scores.json"])]
    names = {
        "pretrain": ("experiment.json", FINISHED),
        "train": ("experiment.json", *TUNED),
        "register": ("experiment.json",),
        "answer": ("answers.jsonl", "answers.meta.json"),
    }
    return [cell.folder / name for name in names.get(cell.kind, ())]


def is_finished(cell: Cell) -> bool:
    """Whether the cell's output stands and was made from what it would be made from now."""
    try:
        record = _read_record(cell.folder)
    except UserError:  # said when it is made again
        return False
    return (
        bool(record) and record["finished"] and record["inputs"] == _as_json(inputs(cell)) and not _gone(cell, record)
    )


def _gone(cell: Cell, record: Mapping) -> Path | None:
    """An output of a finished cell that is not there any more, or empty."""
    left = [cell.folder / name for name in record["outputs"]] if "outputs" in record else outputs(cell)
    return next((path for path in left if not are_there(path.parent, [path.name])), None)


def begin(cell: Cell) -> str | None:
    """Make the folder ready: a half-made one from the same inputs goes on, one from others is moved aside.

    Returns what there is to say of it, or None. UserError: a cell that it needs is not finished, or the folder is
    somebody else's.
    """
    for folder in cell.needs:
        if not _was_finished(folder):
            raise UserError(f"{cell.title} needs {folder}, which is not finished: run that cell of the sweep first")
    if cell.kind in ("pretrain", "train", "register") and cell.folder.is_dir():
        check_own(cell.folder)
    sweep_parts(cell.folder)
    wanted, told = _as_json(inputs(cell)), None
    try:
        record = _read_record(cell.folder)
    except UserError as error:
        told = f"{error}; what was made is in {_aside(cell.folder, fingerprint.of_path(cell.folder / RECORD))}"
        record = None
    if record is not None and record["inputs"] != wanted:
        moved = _aside(cell.folder, fingerprint.of_value(record["inputs"]))
        told = f"made from something else now; what was made before is in {moved}"
    elif record and record["finished"] and (gone := _gone(cell, record)):
        told = f"{gone} is gone: it is made again"
    write_json(cell.folder / RECORD, {"inputs": wanted, "finished": False})
    write_experiment(cell)
    return told


def _aside(folder: Path, name: str) -> Path:
    """Moves the folder to FOLDER.old-NAME, and returns that."""
    moved = folder.with_name(f"{folder.name}.old-{name[:8]}")
    while moved.exists():
        moved = moved.with_name(moved.name + "+")
    folder.rename(moved)
    return moved


def finish(cell: Cell, seconds: float) -> None:
    """The cell's output is whole, and from what `begin` saw. UserError: that has changed since, or an output is not
    there.
    """
    record, now = _read_record(cell.folder), _as_json(inputs(cell))
    if record is None or record["inputs"] != now:
        told = difference(record["inputs"], now) if record else f"{cell.folder / RECORD} is gone"
        what = f"what it is made from has changed meanwhile ({told})"
        raise UserError(f"{cell.title}: {what}; run the sweep again: it is made anew from what is there now")
    if gone := _gone(cell, {}):
        raise UserError(f"{cell.title}: {gone} is not there although all was made; run the sweep again")
    names = [os.path.relpath(path, cell.folder) for path in outputs(cell)]
    write_json(
        cell.folder / RECORD,
        {"inputs": record["inputs"], "finished": True, "outputs": names, "seconds": round(seconds, 1)},
    )


@contextmanager
def claimed(cell: Cell) -> Iterator[None]:
    """Keeps other processes out of the cell while it is filled; the lock goes with the process, even by kill -9."""
    path = cell.folder.with_name(cell.folder.name + ".lock")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{cell.folder} is being filled by another process; wait for it or stop it") from error
        yield
        path.unlink()


def _was_finished(folder: Path) -> bool:
    try:
        return bool(record := _read_record(folder)) and record["finished"]
    except UserError:
        return False


def _read_record(folder: Path) -> dict | None:
    """What stands in a cell's folder, with `inputs` and `finished`; None where nothing does. UserError: damaged."""
    path, then = folder / RECORD, "nothing else says what the cell was made from, and it is made again"
    if not path.is_file():
        return None
    record = read_object(path, then)
    if not isinstance(record.get("finished"), bool) or not isinstance(record.get("inputs"), dict):
        raise UserError(f"{path} is no record of a cell: it needs 'inputs' and 'finished', true or false; {then}")
    return record


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def describe(cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
    """Rows (number, what, state) for `--dry-run`."""
    rows = []
    for i, cell in enumerate(cells):
        tokens = ""
        if cell.kind in ("train", "register"):
            tokens = f", {num_visual_tokens(cell.experiment, cell.experiment.num_frames)} visual tokens"
        state = "finished" if cell.experiment and is_finished(cell) else "to do"
        rows.append((str(i), cell.title + tokens, state))
    return rows
