"""Benchmarks in MVBench's published layout: `json/<task>.json` and `video/<folder>/<clip>`.

A benchmark is named by its folder, or by a file of rows that says where the folder is: see `open_benchmark`.
"""

from __future__ import annotations

import shlex
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from eval.tasks.annotations import clip_of, read_json, read_list, shown, text_of
from eval.tasks.task import Example, Task
from videogpt_plus.clips.names import with_ending
from videogpt_plus.io.entries import names_a_file, seconds_of
from videogpt_plus.io.errors import attempted
from videogpt_plus.types import UserError

KINDS = ("video", "gif", "frames")
#: Optional fields of `tasks.json`: what they must be, for the reader and in words.
FIELD_TYPES = {
    "folder": (str, "a text"),
    "suffix": (str, "a text"),
    "bounds": (bool, "true or false"),
    "questions": (int, "a whole number"),
    "group": (str, "a text"),
    "needs_level": (int | float, "a number"),
}


@dataclass(frozen=True)
class TaskFolder:
    """The folder of a task's clips and how its annotation is read; one entry of `tasks.json`."""

    # Folder of the clips, relative to the benchmark's root, or absolute.
    folder: str
    # What a clip is: "video", "gif" or "frames" (a folder of pictures).
    kind: str = "video"
    # Ending of the clips' names, such as ".mp4", in a copy that was encoded again; "" for what the annotation says.
    suffix: str = ""
    # Whether `start` and `end` of an entry bound its clip.
    bounds: bool = False
    # How many questions the published file holds; None takes any number.
    questions: int | None = None
    # Tasks of one group are averaged in the report.
    group: str = ""
    # The finest pool level that the task needs, where it is known by construction.
    needs_level: float | None = None


#: MVBench as published: 20 tasks of 200 questions.
MVBENCH: dict[str, TaskFolder] = {
    "Action Sequence": TaskFolder("video/star/Charades_v1_480", bounds=True, questions=200),
    "Action Prediction": TaskFolder("video/star/Charades_v1_480", bounds=True, questions=200),
    "Action Antonym": TaskFolder("video/ssv2_video", questions=200),
    "Fine-grained Action": TaskFolder("video/Moments_in_Time_Raw/videos", questions=200),
    "Unexpected Action": TaskFolder("video/FunQA_test/test", questions=200),
    "Object Existence": TaskFolder("video/clevrer/video_validation", questions=200),
    "Object Interaction": TaskFolder("video/star/Charades_v1_480", bounds=True, questions=200),
    "Object Shuffle": TaskFolder("video/perception/videos", questions=200),
    "Moving Direction": TaskFolder("video/clevrer/video_validation", questions=200),
    "Action Localization": TaskFolder("video/sta/sta_video", bounds=True, questions=200),
    "Scene Transition": TaskFolder("video/scene_qa/video", questions=200),
    "Action Count": TaskFolder("video/perception/videos", questions=200),
    "Moving Count": TaskFolder("video/clevrer/video_validation", questions=200),
    "Moving Attribute": TaskFolder("video/clevrer/video_validation", questions=200),
    "State Change": TaskFolder("video/perception/videos", questions=200),
    "Fine-grained Pose": TaskFolder("video/nturgbd", questions=200),
    "Character Order": TaskFolder("video/perception/videos", questions=200),
    "Egocentric Navigation": TaskFolder("video/vlnqa", questions=200),
    "Episodic Reasoning": TaskFolder("video/tvqa/frames_fps3_hq", kind="frames", bounds=True, questions=200),
    "Counterfactual Inference": TaskFolder("video/clevrer/video_validation", questions=200),
}


class Benchmark(NamedTuple):
    """A benchmark's folder and its table of tasks, before any annotation is read."""

    #: The folder that holds `json/`.
    root: Path
    #: Task name -> its row of the table.
    tasks: Mapping[str, TaskFolder]
    #: The file that states rows of the table, whether or not it is there.
    rows: Path

    @property
    def name(self) -> Path:
        """What `open_benchmark` takes."""
        return self.root if self.rows == self.root / "tasks.json" else self.rows


class Reading(NamedTuple):
    """What an annotation holds: the questions that can be asked, and what is wrong with it."""

    questions: tuple[Example, ...]
    #: One line each, with file and entry.
    problems: tuple[str, ...]


def load_benchmark(root: str | Path, tasks: Sequence[str] | None = None) -> list[Task]:
    """The tasks of the benchmark at `root`, or those named in `tasks`, with every annotation checked.

    `root` is a folder or a file of rows (`open_benchmark`). Raises UserError with the file and the entry.
    """
    benchmark = open_benchmark(root)
    root, table = benchmark.root, benchmark.tasks
    names = list(table) if tasks is None else list(dict.fromkeys(tasks))
    unknown = [name for name in names if name not in table]
    if unknown:
        raise UserError(f"unknown task '{unknown[0]}' of the benchmark {root}; choose from: {', '.join(table)}")
    if not names:
        raise UserError(f"no task to ask of the benchmark {root}; choose from: {', '.join(table)}")
    return [_load_task(benchmark, name) for name in names]


def open_benchmark(path: str | Path) -> Benchmark:
    """The benchmark at `path`: its folder, or a file of rows like its `tasks.json`, in any place.

    Such a file states task -> folder, suffix, kind, bounds, ... (see TaskFolder), and by `"root"` the benchmark's
    folder where that is not its own: from the file's folder on, or where nothing is there, from the working folder.
    What a row leaves out is as MVBENCH has it; null leaves the task out. Tasks of MVBENCH that it does not name follow
    if their annotation is there; without a file all 20 of MVBENCH are expected. Raises UserError.
    """
    path = Path(path).absolute()
    rows = path if path.is_file() else path / "tasks.json"
    stated = read_json(rows) if rows.is_file() else {}
    if not isinstance(stated, dict) or (rows.is_file() and not stated):
        raise UserError(
            f"no benchmark at {path}: {rows.name} should hold an object of task -> folder, kind, bounds; "
            f"found {shown(stated)}"
        )
    folder = stated.pop("root", ".")
    if not isinstance(folder, str):
        raise UserError(f"{rows}: 'root' must be the benchmark's folder; found {shown(folder)}")
    root = next((r for r in (rows.parent / folder, Path(folder).absolute()) if (r / "json").is_dir()), None)
    if root is None:
        root = rows.parent / folder
        raise UserError(
            f"no benchmark at {root}: there is no folder {root / 'json'} of annotations; build or download it, "
            'or name its folder by "root" in a file of rows'
        )
    if not stated:
        return Benchmark(root, MVBENCH, rows)
    own = {name: _row(rows, name, entry) for name, entry in stated.items() if entry is not None}
    there = {n: row for n, row in MVBENCH.items() if n not in stated and annotation_of(root, n).exists()}
    return Benchmark(root, own | there, rows)


def annotation_of(root: Path, task: str) -> Path:
    """The file of the task's questions."""
    return root / "json" / (task.lower().replace(" ", "_").replace("-", "_") + ".json")


def read_task(benchmark: Benchmark, name: str) -> Reading:
    """The questions of a task that are well formed, and a line for each that is not. Raises nothing.

    A question that the file holds more than once stays in; `occurrence` counts from 0.
    """
    root, _, rows = benchmark
    row, path = benchmark.tasks[name], annotation_of(benchmark.root, name)
    questions, problems, seen = [], [], Counter[str]()
    entries = attempted(partial(read_list, path), UserError)
    if isinstance(entries, UserError):
        named = "" if name in MVBENCH or path.exists() else f", or correct the name '{name}' in {rows}"
        return Reading((), (f"{entries}{named}",))
    if row.questions not in (None, len(entries)):
        problems.append(
            f"{path}: {len(entries)} questions, {row.questions} expected; download it again, "
            f"or state the number as 'questions' of '{name}' in {rows}"
        )
    for i, entry in enumerate(entries):
        example = attempted(partial(_example, root, name, row, entry, where=f"{path}, entry {i}"), UserError)
        if isinstance(example, UserError):
            problems.append(str(example))
            continue
        questions.append(replace(example, occurrence=seen[example.key]))
        seen[example.key] += 1
    return Reading(tuple(questions), tuple(problems))


def _row(path: Path, name: str, entry: Any) -> TaskFolder:
    known = asdict(MVBENCH[name]) if name in MVBENCH else {}
    fields = TaskFolder.__dataclass_fields__
    if not isinstance(entry, dict) or not known and "folder" not in entry:
        raise UserError(f"{path}, task '{name}': expected an object with a 'folder'; found {shown(entry)}")
    unknown = sorted(entry.keys() - fields.keys())
    if unknown:
        raise UserError(f"{path}, task '{name}': unknown field '{unknown[0]}'; choose from: {', '.join(fields)}")
    if entry.get("kind", "video") not in KINDS:
        raise UserError(f"{path}, task '{name}': unknown kind {shown(entry['kind'])}; choose from: {', '.join(KINDS)}")
    for field, (kind, said) in FIELD_TYPES.items():
        if entry.get(field) is not None and not isinstance(entry[field], kind):
            raise UserError(f"{path}, task '{name}': '{field}' must be {said}; found {shown(entry[field])}")
    row = TaskFolder(**(known | entry))
    if not row.folder or row.suffix and not row.suffix.startswith("."):
        what, found = ("folder", row.folder) if not row.folder else ("suffix", row.suffix)
        raise UserError(f"{path}, task '{name}': '{what}' must be like video/clips and .mp4; found {shown(found)}")
    return row


def _load_task(benchmark: Benchmark, name: str) -> Task:
    questions, problems = read_task(benchmark, name)
    if problems:
        command = shlex.join(["videogpt-plus", "check", str(benchmark.name)])
        more = f" ({len(problems) - 1} more; all: {command})" if problems[1:] else ""
        raise UserError(problems[0] + more)
    return Task(name, benchmark.tasks[name].group or name, questions)


def _example(root: Path, task: str, table: TaskFolder, entry: Any, where: str) -> Example:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object with video, question, candidates, answer; found {shown(entry)}")
    video, question = text_of(entry, "video", where), text_of(entry, "question", where)
    answer = text_of(entry, "answer", where)
    candidates = entry.get("candidates")
    if not isinstance(candidates, list) or not 2 <= len(candidates) <= len(string.ascii_uppercase):
        raise UserError(f"{where}: 'candidates' must be a list of 2 to 26 options; found {shown(candidates)}")
    options = tuple(text_of({"candidates": c}, "candidates", where) for c in candidates)
    if answer not in options:
        raise UserError(f"{where}: the answer {shown(answer)} is not among the candidates {shown(list(options))}")
    start, end = (_second(entry, name, where) if table.bounds else None for name in ("start", "end"))
    named = with_ending(video, table.suffix) if table.suffix and names_a_file(video) else video
    path = clip_of(root / table.folder, named)
    return Example(
        task,
        path,
        video,
        question,
        options,
        answer,
        start,
        end,
        table.kind,
        table.group or task,
        table.needs_level,
        folder=table.folder,
    )


def _second(entry: Mapping[str, Any], name: str, where: str) -> float:
    value = entry.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{where}: '{name}' must be a time in seconds; found {shown(value)}")
    return seconds_of(value)  # whether the clip is so long is checked when it is read
