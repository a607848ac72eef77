"""JSONL -> samples of Cinego: images, videos, stored features and text alone, mixed in one loader.

A line is `{"conversations": [{"role": "user", "content": "<image>\\nWhat is it?"}, ...], "image": "a.mp4"}` or
`{"text": "..."}`. `<image>` and `<video>` in a user turn stand for the files of `image` and `video`, or of `features`
in their place, in the order of the words; everything else that people write is text. Supervised is every assistant
turn, with its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from videogpt_plus.clips.picture_files import is_still
from videogpt_plus.families.cinego.chat import SYSTEM, Said, pieces_of
from videogpt_plus.families.cinego.placeholders import MARK, with_placeholders
from videogpt_plus.io.entries import names_a_file, reading
from videogpt_plus.text.chat import MARKER
from videogpt_plus.training.cinego.features import SUFFIX, read_features
from videogpt_plus.training.data import Encoded, readable
from videogpt_plus.types import IGNORE, PLACEHOLDER, ClipError, UserError, Visual, unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from videogpt_plus.clips.prefetch import Preparation

ROLES = ("system", "user", "assistant")
#: Keys of a line that name its files, in the order in which markers take them.
MEDIA_KEYS = ("image", "video", "features")


@dataclass(frozen=True)
class Row:
    """One checked line: a conversation with its files, or a text."""

    #: (role, content), in order; one ("text", ...) where the line is a text.
    turns: tuple[tuple[str, str], ...]
    #: Paths in the order of their markers.
    media: tuple[str, ...]
    #: "data.jsonl: line 3", counted from 1, for messages.
    where: str


class Sample(NamedTuple):
    """A row as ids: one PLACEHOLDER for each of `media`."""

    ids: np.ndarray
    #: IGNORE where nothing is learned.
    labels: np.ndarray
    media: tuple[str, ...]
    #: Supervised tokens that did not fit.
    cut: int


def read_rows(path: str | Path, folder: str | Path, reference: bool = False) -> list[Row]:
    """All lines of a JSONL file; its media are looked for under `folder`. UserError names the file and the line.

    `reference`: roles by position, and a file without a marker is allowed, as in the original.
    """
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_row(line, f"{path}: line {number}", Path(folder), reference))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; prepare the data, or name another file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); write it again") from error
    if not rows:
        raise UserError(f"{path} holds no rows; expected a JSON object with 'conversations' or 'text' on each line")
    return rows


def _row(line: str, where: str, folder: Path, reference: bool) -> Row:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}; write it again") from error
    if not isinstance(item, dict):
        raise UserError(f"{where} is a {type(item).__name__}; expected an object with 'conversations' or 'text'")
    if "conversations" not in item and isinstance(item.get("text"), str):
        return Row((("text", item["text"]),), (), where)
    turns = _turns(item.get("conversations"), where, reference)
    if not reference:
        _check_answered([role for role, _ in turns], where)
    return Row(turns, _media(item, turns, where, folder, reference), where)


def _turns(turns: object, where: str, reference: bool) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: 'conversations' must be a list of turns, not {turns!r:.60}")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise UserError(f"{where}: a turn must be {{'role': {'|'.join(ROLES)}, 'content': text}}, not {turn!r:.60}")
        if not reference and turn.get("role") not in ROLES:
            raise UserError(f"{where}: unknown role {turn.get('role')!r:.60}; choose from: {', '.join(ROLES)}")
    if reference:
        return tuple((ROLES[1 + i % 2], turn["content"]) for i, turn in enumerate(turns))
    return tuple((turn["role"], turn["content"]) for turn in turns)


def _check_answered(roles: list[str], where: str) -> None:
    if "user" not in roles or "assistant" not in roles[roles.index("user") :]:
        raise UserError(f"{where}: no assistant turn answers a user turn, so there is nothing to learn; add an answer")


def _media(
    item: dict, turns: tuple[tuple[str, str], ...], where: str, folder: Path, reference: bool
) -> tuple[str, ...]:
    markers = [marker for role, content in turns if role == "user" for marker in MARKER.findall(content)]
    files: dict[str, list[str]] = {}
    for key in MEDIA_KEYS:
        value = item.get(key)
        files[key] = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in files[key]):
            raise UserError(f"{where}: '{key}' must be a path or a list of paths, not {value!r:.60}")
    names = [name for own in files.values() for name in own]
    if len(names) == 1 < len(markers):  # the parent project lists several pictures in one string
        names = [name.strip() for name in names[0].split(",")]
    elif not reference:
        names = _in_order(markers, files) or names
    if not reference and len(names) != len(markers):
        raise UserError(
            f"{where}: {len(markers)} markers in user turns but {len(names)} files; write one <image> for each"
        )
    return tuple(os.path.join(folder, name) for name in names)  # as it is written: `.` is found out when it is read


def _in_order(markers: Sequence[str], files: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The files in the order of the markers that stand for them, each of its own key or of `features`.

    None where they do not come out even by these: `<image>` may stand for a video, as in the authors' rows.
    """
    left = {key: list(own) for key, own in files.items()}
    names = []
    for marker in markers:
        own = left[marker.strip("<>")] or left["features"]
        if not own:
            return None
        names.append(own.pop(0))
    return None if any(left.values()) else names


def encode(
    row: Row, tokenizer: PreTrainedTokenizerBase, visual_tokens: Callable[[str], int], max_length: int
) -> list[Sample]:
    """A row's samples, none longer than `max_length` with its visuals: none where no answer is left; a text may
    make several.

    What is too long loses its end. A visual goes with the turn that it does not fit into, never in part; and an
    unanswered end of a conversation is left out.
    """
    if row.turns[0][0] == "text":
        return list(_text_samples(row.turns[0][1], tokenizer, max_length))
    said = [Said(role, _parts(content) if role == "user" else [content]) for role, content in row.turns]
    pieces = pieces_of(tokenizer, said)
    ids = np.array([token for piece in pieces for token in piece.ids], np.int32)
    supervised = np.array([piece.supervised for piece in pieces for _ in piece.ids])
    sizes = np.ones(len(ids), np.int64)
    sizes[ids == PLACEHOLDER] = [visual_tokens(path) for path in row.media]
    fits = supervised & (sizes.cumsum() <= max_length)
    if not fits.any():
        return []
    end = int(fits.nonzero()[0][-1]) + 1
    kept, media = ids[:end], row.media[: int((ids[:end] == PLACEHOLDER).sum())]
    labels = np.where(supervised[:end], kept, IGNORE).astype(np.int32)
    return [Sample(kept, labels, media, int(supervised[end:].sum()))]


def _parts(content: str) -> list[str | int]:
    """`"<image>\\nWhat?"` -> `[1, "\\nWhat?"]`."""
    parts: list[str | int] = []
    for number, text in enumerate(MARKER.split(content)):
        parts += [1] * (number > 0) + [text] * (text != "")
    return parts


def _text_samples(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Sample]:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    whole = np.array([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], np.int32)
    for start in range(0, len(whole) - 1, max_length):
        part = whole[start : start + max_length]
        yield Sample(part, part, (), 0)


def reference_ids(
    row: Row, tokenizer: PreTrainedTokenizerBase, visual_tokens: int, max_length: int
) -> tuple[list[int], list[int]]:
    """Ids and labels of a row as the original builds them: its shifted mask, cut placeholders and padding included.

    Each visual is `visual_tokens` marks (`@`). Positions that the original trains by mistake have labels here, too.
    """
    text = f"<s>system\n{SYSTEM}</s>\n"
    for role, content in row.turns:
        content = content.replace("<image>", MARK * visual_tokens)
        text += f"<s>user\n{content}</s>\n<s>assistant\n" if role == "user" else f"{content}</s>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids[:max_length]
    ids += [tokenizer.pad_token_id] * (max_length - len(ids))
    header = tokenizer("<s>assistant\n", add_special_tokens=False).input_ids
    end = tokenizer("</s>\n", add_special_tokens=False).input_ids
    labels = [IGNORE] * max_length
    i = 0
    while i < max_length:
        if ids[i : i + len(header)] != header:
            i += 1
            continue
        start = i + len(header)
        stop = next((j for j in range(start, max_length) if ids[j : j + len(end)] == end), max_length)
        trained = slice(start + 1, min(stop + len(end) + 1, max_length))
        labels[trained] = ids[trained]
        i = stop + len(end)
    return ids, labels


def encode_reference(row: Row, tokenizer: PreTrainedTokenizerBase, visual_tokens: int, max_length: int) -> Sample:
    """`reference_ids` as a sample. As in the original, only the first whole run of marks is a visual."""
    ids, labels = reference_ids(row, tokenizer, visual_tokens, max_length)
    placed = with_placeholders(ids, visual_tokens, len(row.media[:1]))
    if shown := PLACEHOLDER in placed:
        at = placed.index(PLACEHOLDER)
        ids[at : at + visual_tokens], labels[at : at + visual_tokens] = [PLACEHOLDER], [IGNORE]
    return Sample(np.array(ids, np.int32), np.array(labels, np.int32), row.media[:1] if shown else (), 0)


class Left(NamedTuple):
    """What did not fit."""

    #: Rows of which no part of an answer was left, by `where`.
    out: list[str]
    #: Rows that lost a part of their answers.
    cut: int
    #: What is said of rows whose words are none that the tokenizer can read; they are left out.
    unreadable: Sequence[str] = ()


class Samples(Dataset[Encoded]):
    """The samples of some rows, encoded once. `left` says what was too long.

    A file that cannot be read is replaced by the next readable sample after it, and listed in `substituted`.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Sample, str]],
        prepare: Preparation | None,
        stream: str,
        substituted: str | Path,
        left: Left | None = None,
        keep: bool = False,
    ):
        """`samples` come with their rows' `where`; `prepare` reads images and videos; a grid is of `stream`.

        `keep` holds what was read in memory.
        """
        self.samples, self.prepare, self.stream = list(samples), prepare, stream
        self.wheres = [where for _, where in self.samples]
        self.left, self.substituted = left or Left([], 0), Path(substituted)
        self._kept: dict[str, Visual] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Encoded:
        """The sample, or the next readable one after it. UserError: there are none for long."""
        return readable(index, self.wheres, self._read, self.substituted, "the media")

    def _read(self, index: int) -> Encoded:
        sample, _ = self.samples[index]
        visuals = [self.visual(path) for path in sample.media]
        return {"input_ids": sample.ids.tolist(), "labels": sample.labels.tolist(), "visuals": visuals}

    def visual(self, path: str) -> Visual:
        """A file as the model takes it; one placeholder stands for it. Raises ClipError, UserError."""
        if self._kept is not None and path in self._kept:
            return self._kept[path]
        if not names_a_file(path):
            raise unreadable(path, "it names a folder and no file in it", "write the file's name")
        if Path(path).suffix.lower() == SUFFIX:
            visual = Visual({}, 1, {self.stream: read_features(path)})
        elif self.prepare is None:
            raise UserError(f"{path} is to be read as pixels, and this training takes stored features alone")
        else:
            visual = self.prepare(path, still="crop" if is_still(Path(path)) else None)._replace(placeholders=1)
        if self._kept is not None:
            self._kept[path] = visual
        return visual


def encode_all(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, visual_tokens: Callable[[str], int], max_length: int
) -> tuple[list[tuple[Sample, str]], Left]:
    """Every row's samples with their `where`, and what did not fit. UserError: nothing fits."""
    samples, out, cut, unreadable_rows = [], [], 0, []
    for row in rows:
        try:
            with reading(row.where):
                own = encode(row, tokenizer, visual_tokens, max_length)
        except ClipError as error:
            unreadable_rows.append(str(error))
            continue
        if not own:
            out.append(row.where)
        cut += any(sample.cut for sample in own)
        samples += [(sample, row.where) for sample in own]
    if not samples and not out:
        raise UserError(f"no row can be read; the first: {unreadable_rows[0]}")
    if not samples:
        raise UserError(
            f"no part of any answer is in the first {max_length} tokens of its conversation (first: {out[0]}); raise "
            "the length, or take fewer visual tokens"
        )
    return samples, Left(out, cut, unreadable_rows)
