"""Benchmarks in MVBench's published layout: `json/<task>.json` beside `video/<folder>/<clip>`."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.task import Example, Task
from videogpt_plus.types import UserError

KINDS = ("video", "gif", "frames")
#: Optional fields of `tasks.json`: what they must be, for the reader and in words.
FIELD_TYPES = {
    "bounds": (bool, "true or false"),
    "questions": (int, "a whole number"),
    "group": (str, "a text"),
    "needs_level": (int | float, "a number"),
}


@dataclass(frozen=True)
class TaskFolder:
    """Where a task's clips lie and how its annotation is to be read; one entry of `tasks.json`."""

    # Folder of the clips, from the benchmark's root.
    folder: str
    # What a clip is: "video", "gif" or "frames" (a folder of pictures).
    kind: str = "video"
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


@dataclass(frozen=True)
class MultipleChoice:
    """One task of a benchmark in MVBench's layout, read and checked."""

    name: str
    group: str
    expected_examples: int
    questions: tuple[Example, ...]

    def examples(self) -> Sequence[Example]:
        """Every question, in the order of the annotation."""
        return self.questions


def load_benchmark(root: str | Path, tasks: Sequence[str] | None = None) -> list[Task]:
    """The tasks of the benchmark at `root`, or those named in `tasks`, with every annotation checked.

    `root/tasks.json` states task -> folder, kind, bounds, ... (see TaskFolder) and takes the place of
    MVBench's own table; without that file all 20 tasks of MVBench are expected. Raises UserError with the
    file and the entry.
    """
    root = Path(root).absolute()
    table = task_table(root)
    names = list(table) if tasks is None else list(dict.fromkeys(tasks))
    unknown = [name for name in names if name not in table]
    if unknown:
        raise UserError(f"unknown task '{unknown[0]}' of the benchmark {root}; choose from: {', '.join(table)}")
    if not names:
        raise UserError(f"no task to ask of the benchmark {root}; choose from: {', '.join(table)}")
    return [_load_task(root, name, table[name]) for name in names]


def task_table(root: Path) -> dict[str, TaskFolder]:
    """The benchmark's tasks: those of `tasks.json`, then those of MVBENCH whose annotation lies there.

    Without a `tasks.json` they are MVBENCH's, whether or not their files are there.
    """
    if not (root / "json").is_dir():
        raise UserError(
            f"no benchmark at {root}: there is no folder {root / 'json'} of annotations; build or download it"
        )
    path = root / "tasks.json"
    if not path.exists():
        return MVBENCH
    stated = _read_json(path)
    if not isinstance(stated, dict) or not stated:
        raise UserError(f"{path}: expected an object of task -> folder, kind, bounds; found {_shown(stated)}")
    own = {name: _task_folder(path, name, entry) for name, entry in stated.items()}
    return own | {n: t for n, t in MVBENCH.items() if n not in own and _annotation(root, n).exists()}


def _task_folder(path: Path, name: str, entry: Any) -> TaskFolder:
    fields = TaskFolder.__dataclass_fields__
    if not isinstance(entry, dict) or not isinstance(entry.get("folder"), str):
        raise UserError(f"{path}, task '{name}': expected an object with a 'folder'; found {_shown(entry)}")
    unknown = sorted(entry.keys() - fields.keys())
    if unknown:
        raise UserError(f"{path}, task '{name}': unknown field '{unknown[0]}'; choose from: {', '.join(fields)}")
    if entry.get("kind", "video") not in KINDS:
        raise UserError(f"{path}, task '{name}': unknown kind {_shown(entry['kind'])}; choose from: {', '.join(KINDS)}")
    for field, (kind, said) in FIELD_TYPES.items():
        if entry.get(field) is not None and not isinstance(entry[field], kind):
            raise UserError(f"{path}, task '{name}': '{field}' must be {said}; found {_shown(entry[field])}")
    return TaskFolder(**entry)


def _annotation(root: Path, task: str) -> Path:
    return root / "json" / (task.lower().replace(" ", "_").replace("-", "_") + ".json")


def _load_task(root: Path, name: str, table: TaskFolder) -> MultipleChoice:
    path = _annotation(root, name)
    entries = _read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path}: expected a list of questions; found {_shown(entries)}; build or download the benchmark again"
        )
    if table.questions not in (None, len(entries)):
        raise UserError(
            f"{path}: {len(entries)} questions, {table.questions} expected; download it again, "
            f"or state the number as 'questions' of '{name}' in {root / 'tasks.json'}"
        )
    first: dict[str, int] = {}
    questions = []
    for i, entry in enumerate(entries):
        example = _example(root, name, table, entry, where=f"{path}, entry {i}")
        if example.key in first:
            raise UserError(
                f"{path}, entry {i}: the same clip, bounds and question as entry {first[example.key]}; "
                "remove one, answers could not be told apart"
            )
        first[example.key] = i
        questions.append(example)
    return MultipleChoice(name, table.group or name, len(entries), tuple(questions))


def _example(root: Path, task: str, table: TaskFolder, entry: Any, where: str) -> Example:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object with video, question, candidates, answer; found {_shown(entry)}")
    video, question = _text(entry, "video", where), _text(entry, "question", where)
    answer = _text(entry, "answer", where)
    candidates = entry.get("candidates")
    if not isinstance(candidates, list) or not 2 <= len(candidates) <= len(string.ascii_uppercase):
        raise UserError(f"{where}: 'candidates' must be a list of 2 to 26 options; found {_shown(candidates)}")
    options = tuple(_text({"candidates": c}, "candidates", where) for c in candidates)
    if answer not in options:
        raise UserError(f"{where}: the answer {_shown(answer)} is not among the candidates {_shown(list(options))}")
    start, end = (_second(entry, name, where) if table.bounds else None for name in ("start", "end"))
    path = root / table.folder / video
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
    )


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    """The field as text; a number is written out, as the reference's prompt does."""
    value = entry.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: '{name}' must be a text that is not empty; found {_shown(value)}")
    return value


def _second(entry: Mapping[str, Any], name: str, where: str) -> float:
    value = entry.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{where}: '{name}' must be a time in seconds; found {_shown(value)}")
    return float(value)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; build or download the benchmark again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); build or download it again") from error
    except (ValueError, RecursionError) as error:
        what = "is empty" if not path.stat().st_size else f"is not JSON ({error})"
        raise UserError(f"{path}: {what}; build or download it again") from error


def _shown(value: Any) -> str:
    """The value in a message: nothing at all reads `nothing`, long ones are cut."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
