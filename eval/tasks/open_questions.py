"""Open questions, without options: VCGBench, VCGBench-Diverse and zero-shot QA in their published files.

    VCGBench/          [Benchmarking_QA/]{generic,temporal,consistency}_qa.json   Test_Videos/
    VCGBench-Diverse/  vcgbench_diverse_qa.json                                   videos/
    *_Zero_Shot_QA/    test_q.json test_a.json                                    videos/ | all_test/ | mp4/ ...

A clip is looked for under every usual ending. One that is missing keeps its question: it becomes an answer line with
its error, as everywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from eval.tasks.annotations import clip_of, read_list, shown, text_of
from eval.tasks.task import Task
from videogpt_plus.clips.names import VIDEO_ORDER, VIDEOS, ending_of, without_ending
from videogpt_plus.io.fingerprint import of_value
from videogpt_plus.types import UserError

#: Where benchmarks keep their clips, from the benchmark's root.
CLIP_FOLDERS = ("Test_Videos", "videos", "videos/all", "all_test", "mp4", "video", "gif", "gifs", ".")
DIVERSE_TYPES = ("summary", "spatial", "reasoning", "temporal", "consistency")


@dataclass(frozen=True)
class OpenExample:
    """One question about one clip that is answered in free words. An Answerer sees no difference to `task.Example`."""

    # Name of the task, such as "generic".
    task: str
    # A file or a folder of frames.
    path: Path
    # The clip's name as the annotation writes it.
    video: str
    question: str
    # The right answer in the annotation's words.
    answer: str
    # Number of its entry in the published file: the two questions of one consistency entry share it.
    entry: int
    # 1 or 2 where an entry asks twice, else 0.
    part: int = 0
    # How many earlier entries ask the same of the same clip.
    again: int = 0
    # The entry's own id (`id` of VCGBench-Diverse, `question_id` of zero-shot QA); None where it has none.
    id: int | str | None = None
    # What a right answer names, where it is known by construction; `a|b` is either.
    facts: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    kind: str = "video"
    group: str = ""
    needs_level: float | None = None
    # There are none: this is what makes it open.
    candidates: ClassVar[tuple[str, ...]] = ()
    spoken: ClassVar[None] = None

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the question by its content: task, video, question and which of equals."""
        content = [self.task, self.video, self.start, self.end, self.question, self.part, self.again]
        return of_value(content)

    @property
    def clip(self) -> str:
        """The clip's name, which is unique in such a benchmark."""
        return self.video

    @property
    def reference(self) -> str:
        return self.answer

    @property
    def prompt(self) -> str:
        """The question alone, as the reference asks it, without placeholders."""
        return self.question


def load_vcgbench(root: str | Path, clip_folders: Sequence[str] = CLIP_FOLDERS) -> list[Task]:
    """VCGBench's three files: lists of {Q, A, video_name}, and {Q1, Q2, A, video_name} for consistency.

    An entry may state `facts`, a list of texts, for the lexical judge. UserError names the file and the entry.
    """
    root = _root(root)
    clips = _Clips(root, clip_folders)
    folder = next((f for f in (root / "Benchmarking_QA", root) if (f / "generic_qa.json").exists()), root)
    tasks = []
    for name in ("generic", "temporal", "consistency"):
        path = folder / f"{name}_qa.json"
        entries = _entries(path)
        keyed = ((i, name, None, entry, f"{path}, entry {i}") for i, entry in enumerate(entries))
        tasks.append(Task(name, "", tuple(_examples(keyed, clips, pairs=name == "consistency"))))
    return tasks


def load_vcgbench_diverse(root: str | Path) -> list[Task]:
    """VCGBench-Diverse's one file: a list of {id, type, video_name, Q, A}, with Q1 and Q2 where type is consistency.

    Its tasks are the types. UserError: an unknown type, an id that comes twice, ...
    """
    root = _root(root)
    path = root / "vcgbench_diverse_qa.json"
    clips, by_type = _Clips(root, CLIP_FOLDERS), {name: [] for name in DIVERSE_TYPES}
    seen: dict[int | str, int] = {}
    for i, entry in enumerate(_entries(path)):
        where = f"{path}, entry {i}"
        if entry.get("type") not in by_type:
            raise UserError(f"{where}: unknown type {shown(entry.get('type'))}; choose from: {', '.join(by_type)}")
        by_type[entry["type"]].append((i, entry["type"], _id(entry, "id", where, seen, i), entry, where))
    tasks = []
    for name, entries in by_type.items():
        if entries:
            tasks.append(Task(name, "", tuple(_examples(entries, clips, pairs=name == "consistency"))))
    return tasks


def load_zero_shot(root: str | Path) -> list[Task]:
    """test_q.json, a list of {video_name, question, question_id}, with test_a.json, a list of {answer, question_id}.

    Answers belong to questions by their id, not by their place. UserError names the file and the entry.
    """
    root = _root(root)
    questions, answers = root / "test_q.json", root / "test_a.json"
    by_id: dict[int | str, Any] = {}
    seen: dict[int | str, int] = {}
    for i, entry in enumerate(_entries(answers)):
        where = f"{answers}, entry {i}"
        by_id[_id(entry, "question_id", where, seen, i)] = text_of(entry, "answer", where)
    clips, seen, keyed = _Clips(root, CLIP_FOLDERS), {}, []
    for i, entry in enumerate(_entries(questions)):
        where = f"{questions}, entry {i}"
        name = _id(entry, "question_id", where, seen, i)
        if name not in by_id:
            raise UserError(f"{where}: {answers} has no answer with question_id {shown(name)}; download both again")
        told = {**entry, "Q": entry.get("question"), "A": by_id[name]}
        keyed.append((i, "qa", name, told, where))
    return [Task("qa", "", tuple(_examples(keyed, clips, pairs=False)))]


def _examples(entries: Iterable[tuple], clips: _Clips, pairs: bool) -> list[OpenExample]:
    """Examples of (number, task, id, entry, where); `pairs` says that each entry asks twice."""
    seen: Counter[tuple] = Counter()
    examples = []
    for number, task, name, entry, where in entries:
        video = text_of(entry, "video_name", where)
        path = clips.find(video, name, where)
        kind = "frames" if os.path.isdir(path) else "gif" if path.suffix.lower() == ".gif" else "video"
        answer, facts = text_of(entry, "A", where), _facts(entry, where)
        for part, field in enumerate(("Q1", "Q2"), 1) if pairs else ((0, "Q"),):
            question = text_of(entry, field, where)
            again = seen[video, question, part]
            seen[video, question, part] += 1
            examples.append(
                OpenExample(task, path, video, question, answer, number, part, again, name, facts, kind=kind)
            )
    return examples


class _Clips:
    """Finds clips by the name of the annotation, with or without its ending. Each folder is read once."""

    def __init__(self, root: Path, folders: Sequence[str]):
        self.folders = [root / folder for folder in folders if (root / folder).is_dir()]
        self.default = root / folders[0]
        self.known: dict[Path, dict[str, list[str]]] = {}

    def find(self, video: str, name: int | str | None, where: str) -> Path:
        """The clip, or where it would be. ActivityNet-QA's clips are called by the question's id: `v_X_3` -> `v_X`.

        What is called as it is written, with each ending, comes before any guess; then what has another ending than
        the one that is written, and last what is written in other letters. UserError: a guess fits several files.
        """
        names = [video, f"v_{video}"]
        if isinstance(name, str) and "_" in name:
            names.append(name.rsplit("_", 1)[0])
        for fit in _FITS:
            for one in names:
                found = [path for folder in self.folders for path in self._in(folder, one, fit)]
                if found:
                    return found[0] if fit == _WRITTEN else _only(found, video, where)
        return clip_of(self.folders[0] if self.folders else self.default, video)

    def _in(self, folder: Path, video: str, fit: int) -> list[Path]:
        """What fits the name so well in the folder, in the order of VIDEO_ORDER."""
        folder, video = (folder / video).parent, Path(video).name
        if folder not in self.known:
            self.known[folder] = _listed(folder)
        there = [name for name in self.known[folder].get(_bare(video).lower(), ()) if _fit(name, video) == fit]
        return [folder / name for name in sorted(there, key=lambda name: (name != video, _rank(name)))]


#: How well a file's name fits a written one: as it is, but for its ending, but for its case of letters.
_FITS = _WRITTEN, _OTHER_ENDING, _OTHER_CASE = range(3)


def _fit(name: str, written: str) -> int:
    """One of _FITS for two names that are equal but for their endings and their case."""
    if _bare(name) != _bare(written):
        return _OTHER_CASE
    same = _ending(written) in ("", _ending(name))
    return _WRITTEN if same else _OTHER_ENDING


def _ending(name: str) -> str:
    """The clip's ending in small letters; "" for a folder, or for a name that was written without one."""
    return ending_of(name, VIDEOS).lower()


def _bare(name: str) -> str:
    return without_ending(name, VIDEOS)


def _rank(name: str) -> tuple[int, str]:
    """Where its ending stands in VIDEO_ORDER, a folder of frames first; small letters before large ones."""
    ending = _ending(name)
    return VIDEO_ORDER.index(ending) if ending else -1, name.swapcase()


def _listed(folder: Path) -> dict[str, list[str]]:
    """The folder's entries by their names without ending, in small letters; none of one that cannot be listed."""
    found: dict[str, list[str]] = {}
    with suppress(OSError, ValueError):  # a clip in it says why when it is read
        for name in sorted(os.listdir(folder)):
            found.setdefault(_bare(name).lower(), []).append(name)
    return found


def _only(found: Sequence[Path], video: str, where: str) -> Path:
    """The one file that a guess fits. UserError: there are several."""
    files = {os.path.realpath(path): path for path in found}
    if len(files) > 1:
        raise UserError(
            f"{where}: there is no clip called {shown(video)}, and {' and '.join(map(str, files.values()))} fit but "
            "for their endings or the case of letters; rename the one that is meant, or write its name as it is"
        )
    return found[0]


def _root(root: str | Path) -> Path:
    root = Path(root).absolute()
    if not root.is_dir():
        raise UserError(f"no benchmark at {root}: there is no such folder; download it there or name another folder")
    return root


def _entries(path: Path) -> list[dict[str, Any]]:
    entries = read_list(path)
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, entry {i}: expected an object; found {shown(entry)}; download it again")
    return entries


def _facts(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    facts = entry.get("facts", [])
    if not isinstance(facts, list) or not all(isinstance(fact, str) and fact.strip() for fact in facts):
        raise UserError(f"{where}: 'facts' must be a list of texts; found {shown(facts)}")
    return tuple(facts)


def _id(entry: Mapping[str, Any], name: str, where: str, seen: dict[int | str, int], i: int) -> int | str:
    """The entry's id, which no entry before may have."""
    value = entry.get(name)
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise UserError(f"{where}: '{name}' must be a number or a text; found {shown(value)}")
    if value in seen:
        raise UserError(f"{where}: '{name}' {shown(value)} stands at entry {seen[value]}, too; remove one of them")
    seen[value] = i
    return value
