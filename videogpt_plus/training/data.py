"""LLaVA JSON -> samples -> Batch.

An entry that cannot be read is replaced by the next readable sample after it, and listed in `substituted.jsonl`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from videogpt_plus.clips.prefetch import SQUARES, Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.mixtures import get_mixture
from videogpt_plus.io.entries import json_of, names_a_file, reading, seconds_of
from videogpt_plus.text import chat
from videogpt_plus.training import rwf2000
from videogpt_plus.types import IGNORE, PLACEHOLDER, Batch, ClipError, UserError, Visual, unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from videogpt_plus.clips.cache import GridCache

MARKERS = {"<image>": "image", "<video>": "video"}
#: So many unreadable samples in a row mean a wrong folder, not bad luck.
MOST_IN_A_ROW = 100


class Encoded(TypedDict):
    """One sample, ready to be collated."""

    input_ids: list[int]
    labels: list[int]
    visuals: list[Visual]


@dataclass(frozen=True)
class Entry:
    """One checked entry of an annotation file."""

    #: Turns of `from` (human, gpt) and `value`.
    turns: list[dict[str, str]]
    #: ("image" | "video", path) in the order of their markers in the text.
    media: list[tuple[str, str]]
    start: float | None
    end: float | None
    #: "annotations.json: entry 12", counted from 0, for messages.
    where: str


def read_annotations(path: str | Path, media_folder: str | Path) -> list[Entry]:
    """All entries of a LLaVA JSON file, or of one of RWF-2000. UserError names the file and the entry, from 0."""
    try:
        raw = json_of(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"cannot read annotations {path}: {error.strerror}; prepare the data, or take another mixture"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; download or write it again") from error
    if isinstance(raw, dict) and Path(path).suffix == ".jsonl":  # of one line
        raw = [raw]
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path} holds no list of samples; expected [{{'conversations': [...], 'video': ...}}, ...]")
    return [
        _labelled(found, f"{path}: entry {number}", Path(path))
        if (found := rwf2000.parse(item))
        else _entry(item, f"{path}: entry {number}", Path(media_folder))
        for number, item in enumerate(raw)
    ]


def _labelled(item: rwf2000.Labelled, where: str, file: Path) -> Entry:
    """An entry of RWF-2000's file, which names its clip within the question."""
    asked = {"from": "human", "value": f"<video>{item.question}"}
    media = [("video", str(rwf2000.located(item.path, file)))]
    return Entry([asked, {"from": "gpt", "value": item.answer}], media, None, None, where)


def _entry(item: object, where: str, folder: Path) -> Entry:
    if not isinstance(item, dict):
        raise UserError(f"{where} is a {type(item).__name__}; expected an object with 'conversations'")
    turns = _turns(item.get("conversations"), where)
    bounds = [_seconds(item.get(name), name, where) for name in ("start", "end")]
    return Entry(turns, _media(item, turns, where, folder), *bounds, where)


def _turns(turns: object, where: str) -> list[dict[str, str]]:
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: 'conversations' must be a list of turns, not {turns!r:.60}")
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("from") not in ("human", "gpt"):
            raise UserError(f"{where}: a turn must be {{'from': 'human' or 'gpt', 'value': text}}, not {turn!r:.60}")
        if not isinstance(turn.get("value"), str):
            raise UserError(f"{where}: the 'value' of a turn must be text, not {turn.get('value')!r:.60}")
    speakers = [turn["from"] for turn in turns]
    if "human" not in speakers or "gpt" not in speakers[speakers.index("human") :]:
        raise UserError(f"{where}: no 'gpt' turn answers a 'human' turn, so there is nothing to learn; add an answer")
    return [{"from": turn["from"], "value": turn["value"]} for turn in turns]


def _seconds(value: object, name: str, where: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{where}: '{name}' must be a number of seconds, not {value!r:.60}")
    return None if value is None else seconds_of(value)


def _media(item: dict, turns: list[dict[str, str]], where: str, folder: Path) -> list[tuple[str, str]]:
    """Gives each marker of the text its file; a file without a marker or the other way round is an error."""
    files = {kind: _files(item.get(kind), kind, where, folder) for kind in MARKERS.values()}
    said = " ".join(turn["value"] for turn in turns if turn["from"] == "human")
    kinds = [MARKERS[marker] for marker in re.findall("|".join(MARKERS), said)]
    for marker, kind in MARKERS.items():
        if kinds.count(kind) != len(files[kind]):
            raise UserError(
                f"{where}: {kinds.count(kind)} {marker} in the text but {len(files[kind])} in '{kind}'; "
                "write one marker for each file"
            )
    left = {kind: iter(paths) for kind, paths in files.items()}
    return [(kind, next(left[kind])) for kind in kinds]


def _files(value: object, kind: str, where: str, folder: Path) -> list[str]:
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{where}: '{kind}' must be a path or a list of paths, not {value!r:.60}")
    return [os.path.join(folder, name) for name in names]  # as it is written: `.` is found out when it is read


class Room(NamedTuple):
    """What fits into the LLM."""

    #: Tokens that it reads at most, visual ones included.
    reads: int
    #: Frames of a visual -> the tokens that stand for them.
    visual_tokens: Callable[[int], int]


class Conversations(Dataset[Encoded]):
    """The samples of the mixture that the stage of an experiment trains on, in the order of its files.

    `substituted` is the file that lists replaced samples. A video is sampled as in evaluation; a still image is one
    frame. What `store` has is not decoded. What does not fit into `room` is replaced, too.
    """

    def __init__(
        self,
        experiment: Experiment,
        tokenizer: PreTrainedTokenizerBase,
        substituted: str | Path,
        store: GridCache | None = None,
        decoder: str = "pyav",
        room: Room | None = None,
    ):
        self.training, self.tokenizer, self.room = experiment.training, tokenizer, room
        self.template, self.stills = experiment.prompting.template, experiment.sampling.stills
        chat.check_template(self.template)
        if self.stills not in SQUARES:
            raise UserError(f"unknown sampling.stills '{self.stills}'; choose from: {', '.join(SQUARES)}")
        self.substituted = Path(substituted)
        #: What the encoders compute in: see `Preparation`.
        self.arithmetic = "autocast" if self.training.bf16 else "float32"
        self.prepare = Preparation(experiment.branches, experiment.sampling, decoder, store, self.arithmetic)
        self.entries = [e for path, folder in get_mixture(self.training.data) for e in read_annotations(path, folder)]
        self.wheres = [entry.where for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def count_media(self) -> tuple[int, int]:
        """How many different videos, or parts of them, and how many different still images there are."""
        shown = {(*media, entry.start, entry.end) for entry in self.entries for media in entry.media}
        videos = {part for part in shown if part[0] == "video"}
        return len(videos), len({path for _, path, *_ in shown - videos})

    def __getitem__(self, index: int) -> Encoded:
        """The sample, or the next readable one after it if a clip of it cannot be read."""
        media = f"the media of '{self.training.data}'"
        return readable(index, self.wheres, lambda i: self.encode(self.entries[i]), self.substituted, media)

    def encode(self, entry: Entry) -> Encoded:
        """Reads the clips of one entry and tokenizes its text. ClipError: it cannot be learned from."""
        visuals = [self._visual(kind, path, entry) for kind, path in entry.media]
        counts = [visual.placeholders for visual in visuals]
        try:
            with reading(entry.where):
                input_ids, labels = chat.encode_conversation(self.tokenizer, entry.turns, counts, self.template)
        except ClipError:
            raise
        except UserError as error:
            raise ClipError(f"{entry.where}: {error}") from error
        return {**self._cut(input_ids, labels, counts, entry), "visuals": visuals}

    def _visual(self, kind: str, path: str, entry: Entry) -> Visual:
        if not names_a_file(path):
            raise unreadable(path, "it names a folder and no clip in it", "write the clip's name")
        if kind == "video":
            return self.prepare(path, entry.start, entry.end)
        return self.prepare(path, still=self.stills)

    def _cut(
        self, input_ids: list[int], labels: list[int], counts: Sequence[int], entry: Entry
    ) -> dict[str, list[int]]:
        """Cuts the end off a sample that is too long; no frame and not all of the answer may go with it: ClipError."""
        length = self.training.model_max_length
        advice = "raise model_max_length or take the entry out"
        if PLACEHOLDER in input_ids[length:]:
            raise ClipError(f"{entry.where}: a visual begins or ends behind {length} tokens; {advice}")
        if all(label == IGNORE for label in labels[:length]):
            raise ClipError(f"{entry.where}: no part of an answer is in its first {length} tokens; {advice}")
        self._check_room(min(len(input_ids), length), counts, entry)
        return {"input_ids": input_ids[:length], "labels": labels[:length]}

    def _check_room(self, tokens: int, counts: Sequence[int], entry: Entry) -> None:
        """ClipError unless the LLM reads so many tokens, of which each placeholder is replaced by visual ones."""
        if self.room is None:
            return
        merged = tokens - sum(counts) + sum(map(self.room.visual_tokens, counts))
        if merged > self.room.reads:
            raise ClipError(
                f"{entry.where}: it takes {merged:,} tokens, visual ones included, and the LLM reads "
                f"{self.room.reads:,}; shorten the entry, or take a coarser pool level"
            )

    def question(self) -> str | None:
        """What every sample asks, without its markers, where all ask the same once; None where they do not."""
        asked = {tuple(turn["value"] for turn in entry.turns if turn["from"] == "human") for entry in self.entries}
        if len(asked) != 1 or len(turns := asked.pop()) != 1:
            return None
        return chat.MARKER.sub("", turns[0]).strip() or None

    def modality_lengths(self) -> list[int]:
        """Words of each sample, at least 1; negative for text alone. Reads no clip."""
        return [length if entry.media else -length for entry, length in zip(self.entries, self.lengths(), strict=True)]

    def lengths(self) -> list[int]:
        """Words of each sample, at least 1. Reads no clip."""
        return [max(1, sum(len(turn["value"].split()) for turn in entry.turns)) for entry in self.entries]


def readable(
    index: int, wheres: Sequence[str], read: Callable[[int], Encoded], substituted: Path, media: str
) -> Encoded:
    """Sample `index` by `read`, or the next readable one after it, which is then listed in `substituted`.

    `wheres` says where each sample comes from, `media` what all their clips are called. UserError: none of many in a
    row can be read.
    """
    first_error: ClipError | None = None
    for tried in range(min(len(wheres), MOST_IN_A_ROW)):
        replacement = (index + tried) % len(wheres)
        try:
            sample = read(replacement)
        except ClipError as error:
            first_error = first_error or error
            continue
        if first_error is not None:
            line = {"sample": index, "where": wheres[index], "replaced_by": replacement}
            append_once(substituted, {**line, "replacement": wheres[replacement], "error": str(first_error)})
        return sample
    raise UserError(
        f"no clip of {tried + 1} samples from {wheres[index]} on can be read; first error: {first_error}; check that "
        f"{media} are complete"
    )


def append_once(path: Path, line: dict) -> None:
    """Appends the line unless its `sample` is listed. Safe with other processes, and behind a torn line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:  # "a" is O_APPEND
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        if line["sample"] in {old["sample"] for old in _parse_lines(text)}:
            return
        separator = b"" if not text or text.endswith(b"\n") else b"\n"
        file.write(separator + json.dumps(line).encode() + b"\n")
        os.fsync(file.fileno())


def read_substitutions(path: str | Path) -> list[dict]:
    """The listed substitutions, one for each replaced sample; none if there is no file."""
    path = Path(path)
    return _parse_lines(path.read_bytes()) if path.exists() else []


def _parse_lines(text: bytes) -> list[dict]:
    """The whole lines; one torn by a kill is listed again when its sample is met again."""
    whole = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            whole += [value] if isinstance(value, dict) and isinstance(value.get("sample"), int) else []
    return whole


def collate(samples: Sequence[Encoded], pad_id: int) -> Batch:
    """Right-padded text; visuals stay lists, for each sample may have other numbers of them and of frames."""
    ids = [torch.tensor(sample["input_ids"]) for sample in samples]
    labels = [torch.tensor(sample["labels"]) for sample in samples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(i, dtype=torch.bool) for i in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        "visuals": [sample["visuals"] for sample in samples],
    }
