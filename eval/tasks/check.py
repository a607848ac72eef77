"""Which questions of a benchmark can be asked: clips and annotations are checked before anything is computed.

Nothing is written and nothing repaired: each finding says what to do.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.tasks.benchmarks import BENCHMARKS, examples, root_of
from eval.tasks.mvbench import MVBENCH, TaskFolder, open_benchmark, read_task
from eval.tasks.open_questions import OpenExample
from eval.tasks.probe import Probe, View, probe_all
from eval.tasks.task import Example
from videogpt_plus.clips.names import VIDEOS, without_ending
from videogpt_plus.clips.picture_files import STILLS
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.io.entries import reading
from videogpt_plus.io.errors import attempted
from videogpt_plus.types import ClipError, UserError

if TYPE_CHECKING:
    pass

#: How many clips are decoded: some of each task, every one, none.
DECODE = ("sampled", "all", "none")
#: An end of a question's bounds may pass the clip's by this many seconds: the sampling rule cuts to whole seconds.
SLACK = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    task: str
    #: "annotation", "missing", "empty", "undecodable", "bounds" or "duplicate".
    kind: str
    #: One line: what, where, and what to do.
    what: str
    #: The clip as the annotation names it; "" where no clip is meant.
    video: str = ""
    #: How many questions it concerns.
    questions: int = 1
    #: The file that was probably meant, of a clip that is missing.
    meant: str | None = None


@dataclass
class TaskReport:
    """A task as found. `expected`, `questions`, `present`, ... count questions; `clips` and `decoded` count views."""

    task: str
    folder: str
    #: As published, or as many as the annotation holds where nobody says it.
    expected: int
    #: Well-formed entries of the annotation.
    questions: int
    #: Questions whose clip is there.
    present: int
    missing: int
    #: Questions whose clip is empty or could not be decoded, of those that were tried.
    undecodable: int
    #: Questions whose bounds hold no frame of their clip.
    outside: int
    duplicates: int
    #: Clips that are missing under their name, while a file that was probably meant is there.
    renamed: int
    #: Different clips with their bounds, and how many of them were decoded.
    clips: int
    decoded: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def askable(self) -> int:
        """Questions of which nothing is known that would make them fail."""
        return self.questions - self.missing - self.undecodable - self.outside


@dataclass(frozen=True)
class Report:
    """All tasks, and what they have in common."""

    benchmark: str
    root: str
    tasks: tuple[TaskReport, ...]
    #: Bytes of all clips that are there, each counted once.
    clip_bytes: int
    #: Different clips with their bounds, over all tasks.
    clips: int
    #: Mean seconds to decode and prepare a clip in one process, weighted by the tasks' clips; None if none was.
    seconds_per_clip: float | None
    #: What is no fault of a task.
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every question that is expected can be asked, as far as it was looked at."""
        wrong = any(finding.kind == "annotation" for task in self.tasks for finding in task.findings)
        return not wrong and all(task.askable >= task.expected for task in self.tasks)

    def as_json(self) -> dict[str, Any]:
        """Everything, with the sums of the tasks' counts under `total`."""
        tasks = [asdict(task) | {"askable": task.askable} for task in self.tasks]
        counts = [name for name, value in tasks[0].items() if isinstance(value, int)] if tasks else []
        total = {name: sum(task[name] for task in tasks) for name in counts}
        return asdict(self) | {"tasks": tasks, "total": total, "complete": self.complete}


def examine(
    benchmark: str,
    root: str | Path | None = None,
    decode: str = "sampled",
    per_task: int = 5,
    probe: Probe | None = None,
    workers: int = 2,
    clip_seconds: float = 60,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Looks through a benchmark: a name in BENCHMARKS, or a folder or file of rows in MVBench's layout.

    `decode` is one of DECODE: `per_task` clips of each task, every clip with its bounds, or none. A clip that takes
    longer than `clip_seconds` counts as undecodable; `workers` processes read ahead. `progress(done, total)` counts
    clips. Raises UserError where there is no such benchmark.
    """
    check_numbers(decode, per_task)
    sections, folder, notes = _sections(benchmark, root)
    shelf = _Shelf()
    found = [_Search(section, shelf) for section in sections]
    chosen = {search: search.choose(None if decode == "all" else per_task) for search in found if decode != "none"}
    views = list(dict.fromkeys(view for part in chosen.values() for view in part))
    outcomes = probe_all(views, probe or Probe(Sampling()), workers, clip_seconds, progress) if views else {}
    rates = {search: search.judge(part, outcomes) for search, part in chosen.items()}
    return Report(
        benchmark,
        str(folder),
        tuple(search.report for search in found),
        sum(shelf.size(path) or 0 for path in {e.path for section in sections for e in section.examples}),
        len({view for search in found for view in search.views}),
        _mean_rate({search: len(search.views) for search in found}, rates),
        (*notes, *(note for search in found if (note := search.other_ending()))),
    )


def check_numbers(decode: str = "none", per_task: int = 1, tflops: float | None = None) -> None:
    """UserError: a benchmark cannot be looked through like that."""
    if decode not in DECODE:
        raise UserError(f"unknown choice of clips '{decode}'; choose from: {', '.join(DECODE)}")
    if per_task < 1:
        raise UserError(f"{per_task} clips a task are not possible: decode at least 1, or choose 'none'")
    if tflops is not None and not tflops > 0:
        raise UserError(f"--tflops {tflops:g} is not possible: choose a number above 0")


class _Section(NamedTuple):
    """A task, whichever benchmark it is of."""

    name: str
    folder: Path
    expected: int
    examples: Sequence[Example | OpenExample]
    problems: Sequence[str]
    #: Its row, where there is a table.
    row: TaskFolder | None


def _sections(benchmark: str, root: str | Path | None) -> tuple[list[_Section], Path, list[str]]:
    """The tasks, the benchmark's folder, and notes."""
    if benchmark not in BENCHMARKS and not Path(benchmark).exists():
        raise UserError(
            f"unknown benchmark '{benchmark}', and there is no such folder; name a folder in MVBench's layout, "
            f"or choose from: {', '.join(BENCHMARKS)}"
        )
    if benchmark not in BENCHMARKS or benchmark == "mvbench":
        named = root or (benchmark if benchmark not in BENCHMARKS else ".cache/MVBench")
        return _mvbench_sections(named)
    folder = root_of(benchmark, "", root).absolute()
    by_task: dict[str, list[Any]] = defaultdict(list)
    for example in examples(benchmark, folder):
        by_task[example.task].append(example)
    sections = [
        _Section(name, Counter(e.path.parent for e in part).most_common(1)[0][0], len(part), part, (), None)
        for name, part in by_task.items()
    ]
    return sections, folder, []


def _mvbench_sections(root: str | Path) -> tuple[list[_Section], Path, list[str]]:
    benchmark = open_benchmark(root)
    sections = []
    for name, row in benchmark.tasks.items():
        questions, problems = read_task(benchmark, name)
        expected = row.questions or len(questions)
        sections.append(_Section(name, benchmark.root / row.folder, expected, questions, problems, row))
    absent = [name for name in MVBENCH if name not in benchmark.tasks]
    notes = []
    if absent and len(absent) < len(MVBENCH):
        listed = ", ".join(absent)
        notes.append(f"{len(absent)} of MVBench's 20 tasks are left out, or have no annotation here: {listed}")
    return sections, benchmark.root, notes


class _Search:
    """One task, looked through."""

    def __init__(self, section: _Section, shelf: _Shelf):
        self.section, self.shelf = section, shelf
        questions = section.examples
        self.views = dict.fromkeys(View(e.path, e.start, e.end) for e in questions)
        self.asked = Counter(View(e.path, e.start, e.end) for e in questions)
        absent = [e for e in questions if shelf.size(e.path) is None]
        empty = {view for view in self.views if shelf.size(view.path) == 0}
        self.turned = {v for v in self.views if v.end is not None and v.end <= max(0, v.start or 0)} - empty
        #: Bounds that are turned round hold no frame of a folder; those of a video are taken in order, as everywhere.
        self.lost = {v for v in self.turned if os.path.isdir(v.path)}
        self.fits = {e.path: shelf.beside(e.path) for e in absent}
        self.meant = {path: str(found[0]) if len(found) == 1 else None for path, found in self.fits.items()}
        repeated = [e for e in questions if (e.occurrence if isinstance(e, Example) else e.again)]
        self.report = TaskReport(
            section.name,
            str(section.folder),
            section.expected,
            len(questions),
            len(questions) - len(absent),
            len(absent),
            sum(self.asked[view] for view in empty),
            sum(self.asked[v] for v in self.lost if shelf.size(v.path)),
            len(repeated),
            sum(meant is not None for meant in self.meant.values()),
            len(self.views),
            0,
        )
        self._note("annotation", ((problem, "", 1, None) for problem in section.problems))
        by_path = Counter(e.path for e in absent)
        names = {e.path: e.video for e in questions}
        self._note("missing", ((self._missing(p), names[p], n, self.meant[p]) for p, n in by_path.items()))
        gone = Counter({path: sum(self.asked[v] for v in empty if v.path == path) for path in {v.path for v in empty}})
        self._note("empty", ((f"{p} is empty; download it again", names[p], n, None) for p, n in gone.items()))
        self.names = names
        for view in self.turned:
            end, start = f"{view.end:g} s", f"{view.start or 0:g} s"
            then = "correct the bounds" if view in self.lost else "they are taken in order, in whole seconds"
            what = f"{view.path}: its end at {end} is not behind its start at {start}; {then}"
            self._note("bounds", [(what, names[view.path], self.asked[view], None)])
        self._note(
            "duplicate",
            (
                (f"{e.video}: '{e.question}' is asked again; each is answered and counted", e.video, 1, None)
                for e in repeated
            ),
        )

    def choose(self, count: int | None) -> list[View]:
        """The views to decode: at most `count` for a task, spread over it and the same ones each time."""
        there = [v for v in self.views if self.shelf.size(v.path) and v not in self.lost]
        if count is None or count >= len(there):
            return there
        return [there[i * len(there) // count] for i in range(count)]

    def judge(self, chosen: Sequence[View], outcomes: Mapping[View, Any]) -> list[float]:
        """Notes what became of the chosen views; returns the seconds that the readable ones took."""
        taken = []
        self.report.decoded = len(chosen)
        for view in chosen:
            asked, name, outcome = self.asked[view], self.names[view.path], outcomes[view]
            if isinstance(outcome, ClipError):
                self.report.undecodable += asked
                self._note("undecodable", [(str(outcome), name, asked, None)])
                continue
            took, seconds = outcome
            if took != took:  # the bounds begin behind the end
                self.report.outside += asked
                what = f"{view.path}: it has {seconds:.2f} s and the question begins at {view.start:g} s"
                then = "correct the bounds, or take the whole clip if this one was cut"
                self._note("bounds", [(f"{what}; {then}", name, asked, None)])
                continue
            taken.append(took)
            if view.end is not None and view.end > seconds + SLACK:
                what = f"{view.path}: it has {seconds:.2f} s and the question ends at {view.end:g} s"
                self._note("bounds", [(f"{what}; it is asked about what is there", name, asked, None)])
        return taken

    def other_ending(self) -> str | None:
        """What to write into the task's row where most of its clips are there with one other ending."""
        endings = Counter(Path(meant).suffix for meant in self.meant.values() if meant)
        if self.section.row is None or not endings:
            return None
        (ending, count), *_ = endings.most_common()
        if not ending or 2 * count <= len({view.path for view in self.views}):
            return None
        task = self.section.name
        row = f'"suffix": "{ending}"'
        return f"{count} clips of {task} end in {ending} here: write {row} into its row of tasks.json"

    def _missing(self, path: Path) -> str:
        if path in self.shelf.faults:
            return self.shelf.faults[path]
        found = [str(one) for one in self.fits[path]]
        if found[1:]:
            return f"{path}: there is no such file, and {' and '.join(found)} fit: rename the one that is meant"
        return f"{path}: there is no such file" + (f", but {found[0]}" if found else "")

    def _note(self, kind: str, found: Iterable[tuple[str, str, int, str | None]]) -> None:
        for what, video, questions, meant in found:
            self.report.findings.append(Finding(self.section.name, kind, what, video, questions, meant))


class _Shelf:
    """What lies in the folders of a benchmark, each of them read once."""

    def __init__(self) -> None:
        self._sizes: dict[Path, int | None] = {}
        #: Why a path has no size, where more is to be said than that it is not there.
        self.faults: dict[Path, str] = {}
        self._listed: dict[Path, list[Path]] = {}

    def size(self, path: Path) -> int | None:
        """Bytes of a clip: of a file, or of the pictures of a folder; None where neither is there to be read."""
        if path not in self._sizes:
            size = attempted(partial(_size, path), ClipError)
            self._sizes[path] = None if isinstance(size, ClipError) else size
            if isinstance(size, ClipError) and not isinstance(size.__cause__, FileNotFoundError | NotADirectoryError):
                self.faults[path] = str(size)
        return self._sizes[path]

    def beside(self, path: Path) -> list[Path]:
        """Files of the same folder that may be meant by a missing path: another ending, else another case."""
        found = [one for one in self._in(path.parent) if _bare(one.name) == _bare(path.name)]
        name = without_ending(path.name)
        return sorted([one for one in found if without_ending(one.name) == name] or found)

    def _in(self, folder: Path) -> list[Path]:
        if folder not in self._listed:
            self._listed[folder] = []
            with suppress(OSError, ValueError):  # none, or said of the clips in it
                self._listed[folder] = [one for one in map(folder.joinpath, os.listdir(folder)) if _is_clip(one)]
        return self._listed[folder]


def _mean_rate(clips: Mapping[Any, int], rates: Mapping[Any, Sequence[float]]) -> float | None:
    """Mean seconds a clip: every task by its number of clips, one without a measurement as the others."""
    means = {task: sum(taken) / len(taken) for task, taken in rates.items() if taken}
    total = sum(clips[task] for task in means)
    return sum(mean * clips[task] for task, mean in means.items()) / total if total else None


def _size(path: Path) -> int:
    """Bytes of a file, or of the pictures of a folder. ClipError: there is neither."""
    with reading(path):
        if path.is_dir():
            return sum(f.stat().st_size for f in path.iterdir() if f.suffix.lower() in STILLS and f.is_file())
        return path.stat().st_size


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS or os.path.isdir(path)


def _bare(name: str) -> str:
    """The name without a video's ending and without case."""
    return without_ending(name, VIDEOS).lower()
