"""RWF-2000, clips of surveillance cameras with fights and without them: its folders as a file of conversations.

    DIR/{train,val}/{Fight,NonFight}/CLIP.avi  ->  [{"id": "CLIP.avi", "conversations": [user turn, assistant turn]}]

The file is that of CogVLM2-Video's published recipe. What the recipe's script loses is kept here: clips with long
names, folders with `val` in their path, the validation clips, and the order, which depended on the file system.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from videogpt_plus.io.entries import reading
from videogpt_plus.io.files import write_json
from videogpt_plus.types import ClipError, UserError, Visual

SPLITS = ("train", "val")
#: Folder -> what the model shall say.
LABELS = {"Fight": "1", "NonFight": "0"}
#: The label that F1 is about.
POSITIVE = "1"
QUESTIONS = {
    "zh": "判断视频中是否包含暴力内容，输出1为包含暴力内容，输出0为不包含暴力内容。",
    "en": "Judge whether the video contains violence. Output 1 if it contains violence, output 0 if it does not.",
}
#: What stands around a clip's path in the user's turn.
OPEN, CLOSE = "<|reserved_special_token_3|>", "<|reserved_special_token_4|>"
ENDINGS = frozenset({".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
#: The recipe's seed of the order.
SEED = 64
#: Frames that the decode check reads of a clip, as many as the model is shown.
FRAMES = 24


class Labelled(NamedTuple):
    """One conversation of the file."""

    #: As it is written there.
    path: str
    question: str
    answer: str


@dataclass
class Written:
    """What came of a call of `write`."""

    #: (split, folder) -> clips in the file.
    clips: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: What is no video by its name, or has a name that JSON cannot hold.
    others: list[Path] = field(default_factory=list)
    #: What the decode check said of the clips that cannot be read.
    unreadable: list[ClipError] = field(default_factory=list)


def write(
    data_dir: str | Path,
    output: str | Path,
    split: str = "train",
    language: str = "zh",
    relative_paths: bool = False,
    decode: bool = True,
    workers: int = 2,
    clip_seconds: float = 120.0,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Writes the clips of a split below `data_dir` into the JSON file `output`, and says what was left out.

    Paths in it are `data_dir`/split/label/clip, with `relative_paths` those from the output's folder on, so that both
    can be moved together. The order is a seeded shuffle of the sorted paths. With `decode` the frames that a model
    would be shown are read of each clip: one of train is left out where that fails, one of val stays, for it counts
    as failed when it is asked about. UserError: an unknown split or language, no such folders, not one clip to write.
    """
    root, output = Path(data_dir), Path(output)
    for name, value, known in (("split", split, (*SPLITS, "all")), ("language", language, tuple(QUESTIONS))):
        if value not in known:
            raise UserError(f"unknown {name} '{value}' of RWF-2000; choose from: {', '.join(known)}")
    done = Written()
    clips = _listed(root, SPLITS if split == "all" else (split,), done)
    random.Random(SEED).shuffle(clips)
    found = len(clips)
    if decode:
        clips = _readable(root, clips, done, workers, clip_seconds, progress)
    if found == len(done.unreadable):
        why = f"there is no video among {len(done.others)} files; unpack the clips there"
        for error in done.unreadable[:1]:
            why = f"none of {found} can be read, first: {error}"
        raise UserError(f"no clip of split '{split}' in {root}: {why}")
    done.clips.update((clip.parts[0], clip.parts[1]) for clip in clips)
    start = Path(os.path.relpath(root, output.parent)) if relative_paths else root
    content = [_conversation(clip.name, start / clip, QUESTIONS[language], LABELS[clip.parts[1]]) for clip in clips]
    write_json(output, content)
    return done


def parse(item: Any) -> Labelled | None:
    """The clip, the question and the label of an entry of such a file; None where it is an entry of another file."""
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        return None
    asked, told = (turn.get("value") for turn in turns)
    if [turn.get("from") for turn in turns] != ["user", "assistant"] or not isinstance(asked, str):
        return None
    before, opened, rest = asked.partition(OPEN)
    path, closed, question = rest.partition(CLOSE)
    if before or not opened or not closed or not path or not question.strip() or not isinstance(told, str):
        return None
    return Labelled(path, question, told)


def located(path: str, file: str | Path) -> Path:
    """Where a path of the JSON `file` leads: from the working folder if it is there, else from the file's folder."""
    return Path(path) if os.path.exists(path) else Path(file).parent / path


def _listed(root: Path, splits: Sequence[str], done: Written) -> list[Path]:
    """The clips below `root` as split/label/clip, sorted."""
    found = []
    for split in splits:
        for label in LABELS:
            folder = root / split / label
            if not os.path.isdir(folder):
                raise UserError(
                    f"{folder} is not there: RWF-2000 has {'/'.join(('DIR', '{train,val}', '{Fight,NonFight}'))}; name "
                    "the folder that holds them"
                )
            with reading(folder):
                paths = sorted(folder.iterdir())
            for path in paths:
                if path.suffix.lower() in ENDINGS and _plain(path.name) and os.path.isfile(path):
                    found.append(path.relative_to(root))
                else:
                    done.others.append(path)
    return sorted(found)


def _plain(name: str) -> bool:
    """Whether it is a visible file's name in whole characters; archives bring `._NAME.avi` along."""
    return not name.startswith(".") and name == name.encode(errors="replace").decode()


def _readable(
    root: Path,
    clips: Sequence[Path],
    done: Written,
    workers: int,
    seconds: float,
    progress: Callable[[int, int], None] | None,
) -> list[Path]:
    from videogpt_plus.clips.prefetch import Job, Prefetcher

    kept = []
    with Prefetcher(Check(), workers, 2 * max(1, workers), seconds) as feeder:
        outcomes = feeder([Job(root / clip) for clip in clips])
        for number, (clip, (outcome, _)) in enumerate(zip(clips, outcomes, strict=True), 1):
            if isinstance(outcome, ClipError):
                done.unreadable.append(outcome)
            if not isinstance(outcome, ClipError) or clip.parts[0] == "val":
                kept.append(clip)
            if progress:
                progress(number, len(clips))
    return kept


class Check:
    """Reads the frames of a clip that a model would be shown; what a worker of a `Prefetcher` runs."""

    def __call__(self, path: str | Path, *_: object) -> Visual:
        """How many they were, as placeholders. Raises ClipError."""
        from videogpt_plus.clips.video import read_clip

        return Visual({}, len(read_clip(path, FRAMES, sampling="average").frames))


def _conversation(name: str, path: Path, question: str, answer: str) -> dict[str, Any]:
    asked = {"from": "user", "value": f"{OPEN}{path.as_posix()}{CLOSE}{question}"}
    return {"id": name, "conversations": [asked, {"from": "assistant", "value": answer}]}
