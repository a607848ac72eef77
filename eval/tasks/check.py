"""What of a benchmark can be asked, told before anything is computed: clips, annotations, disk, memory, hours.

`examine` looks, `expect` estimates. Nothing is written and nothing repaired: what is found comes with what to do.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.tasks.benchmarks import BENCHMARKS, examples, root_of
from eval.tasks.mvbench import MVBENCH, TaskFolder, open_benchmark, read_task
from eval.tasks.open_questions import OpenExample
from eval.tasks.task import Example
from videogpt_plus.clips.names import with_ending, without_ending
from videogpt_plus.clips.picture_files import STILLS
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.io.entries import names_a_file, reading
from videogpt_plus.io.files import located
from videogpt_plus.types import ClipError, UserError, Visual

if TYPE_CHECKING:
    from videogpt_plus.config.experiment import Branch, Experiment

#: How many clips are decoded: some of each task, every one, none.
DECODE = ("sampled", "all", "none")
#: Endings that a clip of the same name may have.
MEDIA = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".gif", ".m4v", ".mpg", ".mpeg", ".flv", ".ogv", ".wmv", ".ts")
#: An end of a question's bounds may pass the clip's by this many seconds: the sampling rule cuts to whole seconds.
SLACK = 1.0
#: Bytes of a line of answers.jsonl, rounded up from the toy's, whose questions and options are shorter than MVBench's.
ANSWER_BYTES = 700


class View(NamedTuple):
    """What a question looks at."""

    path: Path
    start: float | None
    end: float | None


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
    #: Rows of `tasks.json` that would find clips which are missing now.
    rows: Mapping[str, Mapping[str, Any]]
    #: What is no fault of a task.
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every question that is expected can be asked, as far as it was looked at."""
        return all(task.askable >= task.expected and not _faults(task) for task in self.tasks)

    def as_json(self) -> dict[str, Any]:
        """Everything, with the sums of the tasks' counts under `total`."""
        tasks = [asdict(task) | {"askable": task.askable} for task in self.tasks]
        counts = [name for name, value in tasks[0].items() if isinstance(value, int)] if tasks else []
        total = {name: sum(task[name] for task in tasks) for name in counts}
        return asdict(self) | {"tasks": tasks, "total": total, "complete": self.complete}


@dataclass(frozen=True)
class Expectation:
    """What asking one model every question once will take, and what each figure is made of."""

    #: Bytes of answers.jsonl; of the grid store in bfloat16, if one is used.
    answer_bytes: int
    store_bytes: int | None
    #: Bytes of the weights, and of one question's keys and values, in bfloat16. Activations come on top.
    weight_bytes: int | None
    kv_bytes: int | None
    #: Decoding and preparing all clips in so many processes, at the rate of the clips that were decoded.
    workers: int
    decode_hours: float | None
    #: All arithmetic up to the first token of each reply, at `tflops`: hours at least.
    flops: int | None
    tflops: float | None
    compute_hours: float | None
    visual_tokens: int | None

    @property
    def hours(self) -> float | None:
        """The longer of decoding and computing, which run side by side; None where neither is known."""
        known = [hours for hours in (self.decode_hours, self.compute_hours) if hours is not None]
        return max(known) if known else None


class Probe:
    """Decodes and prepares a clip as answering does; what a worker of a `Prefetcher` runs.

    Instead of pixels it gives one tensor: seconds that this took (NaN where the bounds begin behind the clip's end),
    and the clip's seconds.
    """

    def __init__(self, sampling: Sampling, branches: Sequence[tuple[str, Branch]] = (), decoder: str = "pyav"):
        from videogpt_plus.clips.decoders import check_decoder
        from videogpt_plus.clips.prefetch import Preparation
        from videogpt_plus.clips.video import read_clip

        check_decoder(decoder)
        read = partial(read_clip, num_frames=sampling.num_frames, decoder=decoder)
        self.prepare = Preparation(branches, sampling, decoder) if branches else read
        self.warm = False

    def __call__(self, path: Path, start: float | None, end: float | None, *_: object) -> Visual:
        """Raises ClipError."""
        import torch

        from videogpt_plus.clips.video import duration

        seconds = duration(path)
        took = float("nan")
        if start is None or not min(start, start if end is None else end) >= seconds:
            if not self.warm:  # the first clip of a process loads libraries, too
                self.prepare(path, start=start, end=end)
                self.warm = True
            began = time.perf_counter()
            self.prepare(path, start=start, end=end)
            took = time.perf_counter() - began
        return Visual({"found": torch.tensor([took, seconds], dtype=torch.float64)}, 0)


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
    shelf = _Shelf(folder, {section.folder for section in sections})
    homes, unclear = _homes(sections, shelf)
    found = [_Search(section, shelf, homes.get(section.name)) for section in sections]
    chosen = {search: search.choose(None if decode == "all" else per_task) for search in found if decode != "none"}
    views = list(dict.fromkeys(view for part in chosen.values() for view in part))
    outcomes = _probe(views, probe or Probe(16), workers, clip_seconds, progress) if views else {}
    rates = {search: search.judge(part, outcomes) for search, part in chosen.items()}
    return Report(
        benchmark,
        str(folder),
        tuple(search.report for search in found),
        sum(shelf.size(path) or 0 for path in {e.path for section in sections for e in section.examples}),
        len({view for search in found for view in search.views}),
        _mean_rate({search: len(search.views) for search in found}, rates),
        {s.section.name: row for s in found if (row := s.row())},
        (*notes, *unclear, *_unmerged(sections, shelf)),
    )


def check_numbers(decode: str = "none", per_task: int = 1, tflops: float | None = None) -> None:
    """UserError: a benchmark cannot be looked through like that."""
    if decode not in DECODE:
        raise UserError(f"unknown choice of clips '{decode}'; choose from: {', '.join(DECODE)}")
    if per_task < 1:
        raise UserError(f"{per_task} clips a task are not possible: decode at least 1, or choose 'none'")
    if tflops is not None and not tflops > 0:
        raise UserError(f"--tflops {tflops:g} is not possible: choose a number above 0")


def probe_of(experiment: Experiment | None, decoder: str = "pyav") -> Probe:
    """What decodes as answering with this experiment does, and prepares, too, where its weights are here."""
    if experiment is None:
        return Probe(Sampling(), (), decoder)
    here = all(located(stream.weights).exists() for _, stream in experiment.branches)
    return Probe(experiment.sampling, experiment.branches if here else (), decoder)


def expect(
    report: Report, experiment: Experiment | None = None, workers: int = 2, tflops: float | None = None
) -> Expectation:
    """What asking all that is there will take: an Expectation, where None stands for what is not known.

    `tflops` is what the device computes in a second, in 10^12 operations; without it the best rate of a large matrix
    product on this machine is measured. Both are more than a model reaches: the hours of computing are the least.
    """
    check_numbers(tflops=tflops)
    questions = sum(task.questions for task in report.tasks)
    decoding = None if report.seconds_per_clip is None else report.seconds_per_clip * report.clips
    common = {
        "answer_bytes": ANSWER_BYTES * questions,
        "workers": workers,
        "decode_hours": None if decoding is None else decoding / max(1, workers) / 3600,
    }
    unknown = dict.fromkeys(
        ("store_bytes", "weight_bytes", "kv_bytes", "flops", "tflops", "compute_hours", "visual_tokens")
    )
    if experiment is None:
        return Expectation(**common, **unknown)
    from videogpt_plus.clips.cache import clip_bytes
    from videogpt_plus.config.tokens import num_visual_tokens
    from videogpt_plus.flops import TEXT_TOKENS, sizes_of

    frames = experiment.num_frames
    visual = num_visual_tokens(experiment, frames)
    known = unknown | {"visual_tokens": visual, "store_bytes": report.clips * clip_bytes(experiment, "bfloat16")}
    if sizes := sizes_of(experiment):
        each_clip = sizes.encode(frames) + sizes.project(frames)
        flops = report.clips * each_clip + questions * sizes.llm.forward(visual + TEXT_TOKENS)
        rate = tflops or matmul_tflops()
        known |= {
            "weight_bytes": 2 * sizes.parameters,
            "kv_bytes": sizes.llm.key_value_bytes(visual + TEXT_TOKENS),
            "flops": flops,
            "tflops": rate,
            "compute_hours": flops / (rate * 1e12) / 3600,
        }
    return Expectation(**common, **known)


def matmul_tflops(seconds: float = 0.3) -> float:
    """10^12 operations a second of a large matrix product here: bfloat16 on a GPU, else float32 on the CPU."""
    import torch

    on_gpu = torch.cuda.is_available()
    side = 8192 if on_gpu else 1024
    a = torch.randn(side, side, device="cuda" if on_gpu else "cpu", dtype=torch.bfloat16 if on_gpu else torch.float32)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best / 1e12


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

    def __init__(self, section: _Section, shelf: _Shelf, home: Path | None):
        self.section, self.shelf = section, shelf
        questions = section.examples
        self.views = dict.fromkeys(View(e.path, e.start, e.end) for e in questions)
        self.asked = Counter(View(e.path, e.start, e.end) for e in questions)
        absent = [e for e in questions if shelf.size(e.path) is None]
        empty = {view for view in self.views if shelf.size(view.path) == 0}
        self.turned = {v for v in self.views if v.end is not None and v.end <= max(0, v.start or 0)} - empty
        #: Bounds that are turned round hold no frame of a folder; those of a video are taken in order, as everywhere.
        self.lost = {v for v in self.turned if os.path.isdir(v.path)}
        self.fits = {e.path: shelf.fits(e.path, e.video, section.folder, home) for e in absent}
        self.meant = {path: str(found[0]) if len(found) == 1 else None for path, found in self.fits.items()}
        repeated = [e for e in questions if _repetition(e)]
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

    def row(self) -> dict[str, Any] | None:
        """A row of the table that finds more clips than the present one; None if there is none.

        A task most of whose clips are there keeps its row: another one would ask about other clips.
        """
        if self.section.row is None or 2 * self.report.present > self.report.questions:
            return None
        places = Counter()
        for e in self.section.examples:
            if (meant := self.meant.get(e.path)) and (folder := _folder_of(Path(meant), e.video)):
                places[folder, Path(meant).suffix if meant.lower().endswith(MEDIA) else ""] += 1
        best, most = None, self.report.present
        for folder, suffix in places:
            renamed = {e.video: _renamed(e.video, suffix) for e in self._examples}
            count = sum(os.path.exists(folder / renamed[e.video]) for e in self._examples)
            if count > most:
                same = all(name == str(path) for name, path in renamed.items())
                inside = folder.is_relative_to(self.shelf.root)
                named = folder.relative_to(self.shelf.root).as_posix() if inside else str(folder)
                best, most = {"folder": named} | ({} if same else {"suffix": suffix}), count
        return best

    @property
    def _examples(self) -> Sequence[Example | OpenExample]:
        return self.section.examples

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
    """What lies below a benchmark's folder, each folder read once."""

    def __init__(self, root: Path, taken: set[Path]):
        self.root, self.taken = root, taken
        self._sizes: dict[Path, int | None] = {}
        #: Why a path has no size, where more is to be said than that it is not there.
        self.faults: dict[Path, str] = {}
        self._listed: dict[Path, list[Path]] = {}
        self._real = {_real(folder) for folder in taken}

    def size(self, path: Path) -> int | None:
        """Bytes of a clip: of a file, or of the pictures of a folder; None where neither is there to be read."""
        if path not in self._sizes:
            try:
                with reading(path):
                    self._sizes[path] = _size(path)
            except ClipError as error:
                self._sizes[path] = None
                if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                    self.faults[path] = str(error)
        return self._sizes[path]

    def fits(self, path: Path, video: str, own: Path, home: Path | None) -> list[Path]:
        """The files that may be meant by a missing path: another ending, else another case, else as it is in `home`."""
        found = self.beside(path)
        if not found and home:
            found = [one for one, folder in self.elsewhere(path, video, own) if folder == home]
        name = without_ending(path.name)
        return sorted([one for one in found if without_ending(one.name) == name] or found)

    def beside(self, path: Path) -> list[Path]:
        """What lies in the same folder under the same name with another ending or case."""
        return [one for one in self._in(path.parent) if _bare(one.name) == _bare(path.name)]

    def elsewhere(self, path: Path, video: str, own: Path) -> Iterator[tuple[Path, Path]]:
        """Files of that name outside all other tasks' folders, each with the folder from which `video` names it."""
        # Several data sets number their clips: what lies in another task's folder is another clip.
        others = {folder for folder in self.taken | self._real if folder not in (own, _real(own))}
        for one, real in self._everywhere.get(_bare(path.name), []):
            folder = _folder_of(one, video) or one.parent
            if folder != own and not others & {*one.parents, real, *real.parents}:
                yield one, folder

    def _in(self, folder: Path) -> list[Path]:
        if folder not in self._listed:
            try:
                names = os.listdir(folder)
            except (OSError, ValueError):  # none, or said of the clips in it
                names = []
            self._listed[folder] = [one for one in map(folder.joinpath, names) if _is_clip(one)]
        return self._listed[folder]

    @cached_property
    def _everywhere(self) -> dict[str, list[tuple[Path, Path]]]:
        """Bare name -> paths, each with its folder behind all links: a link may lead into a task's folder."""
        found: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
        seen = set()
        for place, folders, files in os.walk(self.root, followlinks=True):
            if (real := os.path.realpath(place)) in seen or Path(place) == self.root / "json":
                folders.clear()  # a link that leads back would never end
                continue
            seen.add(real)
            for name in (*folders, *(f for f in files if f.lower().endswith(MEDIA))):
                found[_bare(name)].append((Path(place) / name, Path(real)))
        return found


def _homes(sections: Sequence[_Section], shelf: _Shelf) -> tuple[dict[str, Path], list[str]]:
    """Task without a single clip -> the free folder that holds them by their names; and what is ambiguous.

    A name proves little where clips are numbered. So a folder has to hold half of the clips, fit no other lost task as
    well, and fit better than every other folder; one that lies in the task's own, or is called like it, comes first.
    Tasks of one published folder go together.
    """
    lost: dict[Path, dict[Path, str]] = defaultdict(dict)
    tasks: dict[Path, list[str]] = defaultdict(list)
    for section in sections:
        clips = {e.path: e.video for e in section.examples}
        there = any(shelf.size(path) is not None for path in clips)
        if not there and 2 * sum(bool(shelf.beside(path)) for path in clips) < len(clips):
            lost[section.folder] |= clips
            tasks[section.folder].append(section.name)
    fits: dict[Path, dict[Path, tuple[bool, float]]] = {}
    for own, clips in lost.items():
        held = Counter(
            f for p, video in clips.items() for f in {folder for _, folder in shelf.elsewhere(p, video, own)}
        )
        fits[own] = {
            folder: (folder.is_relative_to(own) or folder.name == own.name, count / len(clips))
            for folder, count in held.items()
            if 2 * count >= len(clips)
        }
    homes: dict[str, Path] = {}
    unclear: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for own, folders in fits.items():
        if not folders:
            continue
        best = max(folders.values())
        first = [folder for folder, fit in folders.items() if fit == best]
        rivals = [o for o in fits if o != own and any(f in fits[o] and fits[o][f] >= best for f in first)]
        if len(first) == 1 and not rivals:
            homes |= dict.fromkeys(tasks[own], first[0])
        elif len(first) > 1 or all(fits[rival][first[0]] == best for rival in rivals):
            names = [name for folder in (own, *rivals) for name in tasks[folder]]
            unclear[tuple(sorted(map(str, first)))] |= dict.fromkeys(names)
    return homes, [
        f"ambiguous: by the names of its clips, {' or '.join(folders)} may belong to {' or '.join(names)}; no row is "
        "offered: look at the clips and write the row yourself"
        for folders, names in unclear.items()
    ]


def _unmerged(sections: Sequence[_Section], shelf: _Shelf) -> list[str]:
    """Notes on folders that are called like a task's own, lie elsewhere and hold some clips which it lacks."""
    found: dict[tuple[Path, Path], set[Path]] = defaultdict(set)
    for section in sections:
        own = section.folder
        if not any(shelf.size(e.path) is not None for e in section.examples):
            continue
        for e in section.examples:
            if shelf.size(e.path) is None and not shelf.beside(e.path):
                for _, folder in shelf.elsewhere(e.path, e.video, own):
                    if folder.parts[-2:] == own.parts[-2:]:
                        found[folder, own].add(e.path)
    return [
        f"{folder} holds {len(paths)} of the clips that {own} lacks: merge it into that folder"
        for (folder, own), paths in found.items()
    ]


def _probe(
    views: Sequence[View], probe: Probe, workers: int, seconds: float, progress: Callable[[int, int], None] | None
) -> dict[View, ClipError | tuple[float, float]]:
    """What became of each view: a ClipError, or seconds that it took and seconds of the clip."""
    from videogpt_plus.clips.prefetch import Job, Prefetcher

    outcomes: dict[View, ClipError | tuple[float, float]] = {}
    with Prefetcher(probe, workers, 2 * max(1, workers), seconds) as feeder:
        for view, (outcome, _) in zip(views, feeder(Job(*view) for view in views), strict=True):
            unreadable = isinstance(outcome, ClipError)
            outcomes[view] = outcome if unreadable else tuple(outcome.pixels["found"].tolist())
            if progress:
                progress(len(outcomes), len(views))
    return outcomes


def _mean_rate(clips: Mapping[Any, int], rates: Mapping[Any, Sequence[float]]) -> float | None:
    """Mean seconds a clip: every task by its number of clips, one without a measurement as the others."""
    means = {task: sum(taken) / len(taken) for task, taken in rates.items() if taken}
    total = sum(clips[task] for task in means)
    return sum(mean * clips[task] for task, mean in means.items()) / total if total else None


def _faults(task: TaskReport) -> bool:
    return any(finding.kind == "annotation" for finding in task.findings)


def _repetition(example: Example | OpenExample) -> int:
    return example.occurrence if isinstance(example, Example) else example.again


def _size(path: Path) -> int:
    """Raises OSError; ValueError of a name that no file can have."""
    if path.is_dir():
        return sum(f.stat().st_size for f in path.iterdir() if f.suffix.lower() in STILLS and f.is_file())
    return path.stat().st_size


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in MEDIA or os.path.isdir(path)


def _bare(name: str) -> str:
    """The name without a media file's ending and without case."""
    low = name.lower()
    return next((low.removesuffix(ending) for ending in MEDIA if low.endswith(ending)), low)


def _renamed(video: str, suffix: str) -> Path:
    return Path(with_ending(video, suffix) if suffix and names_a_file(video) else video)


def _folder_of(meant: Path, video: str) -> Path | None:
    """The folder in which `video`, but for its ending, is `meant`; None where it is called otherwise."""
    parts = _renamed(video, meant.suffix if meant.suffix.lower() in MEDIA else "").parts
    return Path(*meant.parts[: -len(parts)]) if meant.parts[-len(parts) :] == parts else None
