"""Asking a model every question of a benchmark, one fsync'd line each. A missing answer is an answer.

answers.jsonl       one line a question, append-only; of two lines with one key the later one counts
answers.meta.json   what the answers depend on: answers of another model never mix in
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from eval.options import parse_option, reference_verdict
from eval.task import Answerer, Example, Reply, check_control
from videogpt_plus.checkpoint import read_object, write_bytes
from videogpt_plus.types import ClipError, UserError


class Answered(NamedTuple):
    """What a call of `answer_all` did."""

    # Questions answered by this call, bad clips included.
    new: int
    # Questions that had their line already.
    kept: int
    # Lines with an error among all of them.
    failed: int
    # Bytes of a half-written last line that were cut off before going on; 0 after a clean end.
    torn_bytes: int


def answer_all(
    answerer: Answerer,
    examples: Sequence[Example],
    path: str | Path,
    header: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
    control: str | None = None,
    retry_errors: bool = False,
) -> Answered:
    """Appends an answer line to `path` for each example that has none, each on disk before the next.

    `header` says what the answers depend on: "experiment" (its name), fingerprints of the weights and the
    benchmark. It is kept beside the answers, and other answers in the same file raise UserError.
    `retry_errors` asks again where the line holds an error. `progress(done, total)` is called after each
    answer. A clip that cannot be read becomes a line with its error, and the rest goes on.
    """
    path = Path(path)
    check_control(control)
    header = {**header, "control": control}
    with _open_locked(path) as file:
        torn = _cut_torn_line(file, path)
        _claim(path, header)
        lines = read_answers(path)
        kept = {key for key, line in lines.items() if not (retry_errors and line["error"])}
        todo = [example for example in examples if example.key not in kept]
        done = len(examples) - len(todo)
        began = time.perf_counter()
        outcomes = zip(todo, answerer.answers(todo, control) if todo else (), strict=True)
        for i, (example, outcome) in enumerate(outcomes, start=1):
            seconds = time.perf_counter() - began
            lines[example.key] = line = _line(example, outcome, seconds, header["experiment"], control)
            _append(file, path, line)
            if progress:
                progress(done + i, len(examples))
            began = time.perf_counter()
    failed = sum(lines[example.key]["error"] is not None for example in examples)
    return Answered(len(todo), done, failed, torn)


def read_answers(path: str | Path) -> dict[str, dict[str, Any]]:
    """Answer lines by key, the latest of each key; {} without a file. A torn last line does not count."""
    path = Path(path)
    if not path.exists():
        return {}
    lines = {}
    *whole, _torn = path.read_bytes().split(b"\n")
    for number, raw in enumerate(whole, start=1):
        try:
            line = json.loads(raw)
            lines[line["key"]] = line
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: not an answer ({error}); remove that line and answer again"
            ) from error
    return lines


def meta_path(path: str | Path) -> Path:
    """`answers.meta.json` of `answers.jsonl`."""
    return Path(path).with_suffix(".meta.json")


def read_meta(path: str | Path) -> dict[str, Any]:
    """What the answers in `path` depend on; raises UserError where nothing says so."""
    meta = meta_path(path)
    if not meta.exists():
        raise UserError(f"{meta} is missing: nothing says which model gave {path}; move the answers away")
    return read_object(meta, f"move it and {path} away and answer again")


def write_atomically(path: Path, text: str) -> None:
    """`checkpoint.write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def _line(
    example: Example, outcome: Reply | ClipError, seconds: float, experiment: str, control: str | None
) -> dict[str, Any]:
    failed = isinstance(outcome, ClipError)
    text, visual_tokens = (None, None) if failed else outcome
    error = str(outcome) if failed else None
    choice = None if text is None else parse_option(text, example.candidates)
    return {
        "key": example.key,
        "experiment": experiment,
        "control": control,
        "task": example.task,
        "video": example.video,
        "question": example.question,
        "reference": example.reference,
        "reply": text,
        "choice": choice,
        "correct": example.is_right(choice),
        "reference_verdict": None if text is None else reference_verdict(text, example.reference),
        "error": error,
        "visual_tokens": visual_tokens,
        "seconds": round(seconds, 4),
    }


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one clear line."""
    try:
        yield
    except BlockingIOError as error:
        raise UserError(f"{path} is being written by another process; wait for it or stop it") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}; free space, permit writing or choose another folder, "
            "then run the same command again: it goes on where it was"
        ) from error


def _open_locked(path: Path) -> BinaryIO:
    """The file at its end, unbuffered and locked: a second process would repeat the questions."""
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file


def _append(file: BinaryIO, path: Path, line: Mapping[str, Any]) -> None:
    left = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    with _disk(path):
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def _cut_torn_line(file: BinaryIO, path: Path) -> int:
    """Cuts off what follows the last line end: a kill during a write leaves it. Returns its bytes."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with _disk(path):
            file.truncate(whole)
    return len(content) - whole


def _claim(path: Path, header: dict[str, Any]) -> None:
    """Keeps `header` beside the answers, or raises UserError where they are another model's."""
    header = json.loads(json.dumps(header))
    if not path.stat().st_size:
        write_atomically(meta_path(path), json.dumps(header, indent=2, sort_keys=True) + "\n")
        return
    found = read_meta(path)
    differing = [name for name in sorted(found.keys() | header.keys()) if found.get(name) != header.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"{path} holds answers with {name} = {json.dumps(found.get(name))}, "
            f"this run has {json.dumps(header.get(name))}; move them away or choose another folder"
        )
