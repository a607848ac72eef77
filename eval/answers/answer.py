"""Asking a model every question of a benchmark, one fsync'd line each. A missing answer is an answer.

answers.jsonl       one line a question, append-only; of two lines with one key the later one counts
answers.meta.json   what the answers depend on: answers of another model never mix in
"""

from __future__ import annotations

import shlex
import string
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from eval.tasks.open_questions import OpenExample
from eval.tasks.options import reference_verdict
from eval.tasks.task import Answerer, Example, fingerprint
from videogpt_plus.io.files import read_object
from videogpt_plus.io.jsonl_log import append, claim, cut_torn_line, meta_path, open_locked, read_lines, wrong_field
from videogpt_plus.types import ClipError, Question, Reply, UserError, check_control

#: Fields of a meta file that are locations: the benchmark's, where it is not the usual one, and the feature cache's.
TOLD = ("root", "store")
TEXT, TEXT_OR_NONE, NUMBER_OR_NONE = (str,), (str, NoneType), (float, NoneType)
#: Types of the fields of an answer.
FIELDS = {
    **dict.fromkeys(("key", "task", "video", "clip", "question", "reference", "experiment"), TEXT),
    **dict.fromkeys(("reply", "error", "control", "choice", "logprob_choice"), TEXT_OR_NONE),
    "reference_verdict": (bool, NoneType),  # `correct` is looked at by `compare` alone, which says more of it
    **dict.fromkeys(("logprob_margin", "seconds_encode", "seconds_first"), NUMBER_OR_NONE),
    "visual_tokens": (int, NoneType),
    "seconds": (float,),
}
#: Fields that scoring needs.
SCORED = ("video", "reference", "reply", "error", "seconds", "visual_tokens")
META_FIELDS = {"experiment": TEXT, "control": TEXT_OR_NONE, "benchmark": TEXT}


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


class Target(NamedTuple):
    """Where a model's answers go, and what they depend on."""

    path: Path
    #: "experiment" (its name), fingerprints of the weights and the benchmark. Written to the meta file.
    header: Mapping[str, Any]


def answer_all(
    load: Callable[[], Answerer],
    examples: Sequence[Example | OpenExample],
    targets: Mapping[str, Target],
    progress: Callable[[int, int], None] | None = None,
    control: str | None = None,
    retry_errors: bool = False,
) -> dict[str, Answered]:
    """Appends an answer line for each example that has none to each model's file, each on disk before the next.

    `targets` holds the models by the names that the answerer knows. `load()` makes the answerer, if there is a
    question left. Answers of other models in the same file raise UserError. `retry_errors` asks again where the line
    holds an error. `progress(done, total)` counts questions over all models. A clip that cannot be read becomes a
    line with its error, and the rest goes on.
    """
    check_control(control)
    with ExitStack() as open_files:
        files = {name: open_files.enter_context(_File(target, control, examples)) for name, target in targets.items()}
        todo = {name: file.left(examples, retry_errors) for name, file in files.items()}
        total, new = len(examples) * len(files), 0
        done = total - sum(map(len, todo.values()))
        questions = [
            Question(example, asked)
            for example in examples
            if (asked := tuple(name for name in files if example.key in todo[name]))
        ]
        outcomes = load().answers(questions, control) if questions else ()
        began = time.perf_counter()
        for question, outcome in outcomes:
            seconds = (time.perf_counter() - began) / len(question.models)
            for name in question.models:
                reply = outcome if isinstance(outcome, ClipError) else outcome[name]
                files[name].append(question.example, reply, seconds)
                todo[name].remove(question.example.key)
                new += 1
                if progress:
                    progress(done + new, total)
            began = time.perf_counter()
        assert not any(todo.values()), "the answerer left questions out"
        return {name: file.account(examples) for name, file in files.items()}


class _File:
    """A model's answers.jsonl, locked and open at its end."""

    def __init__(self, target: Target, control: str | None, examples: Sequence[Example | OpenExample]):
        self.path, self.header, self.control = Path(target.path), {**target.header, "control": control}, control
        self.examples = examples

    def __enter__(self) -> _File:
        with ExitStack() as opened:
            self.file = opened.enter_context(open_locked(self.path))
            self.torn = cut_torn_line(self.file, self.path)
            found = read_meta(self.path) if self.path.stat().st_size else None
            _check_root(self.path, found or {}, self.header)
            self.lines = read_answers(self.path, ("error",))
            grown = found and are_among(self.lines, self.examples, found.get("questions"))
            claim(self.path, self.header, "answers", found, (*TOLD, "questions") if grown else TOLD)
            opened.pop_all()  # whole: `__exit__` closes it
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def left(self, examples: Sequence[Example | OpenExample], retry_errors: bool) -> set[str]:
        """Keys of the examples without a line."""
        kept = {key for key, line in self.lines.items() if not (retry_errors and line["error"])}
        self.todo = {example.key for example in examples} - kept
        return set(self.todo)

    def append(self, example: Example | OpenExample, outcome: Reply | ClipError, seconds: float) -> None:
        line = _line(example, outcome, seconds, self.header["experiment"], self.control)
        self.lines[example.key] = line
        append(self.file, self.path, line)

    def account(self, examples: Sequence[Example | OpenExample]) -> Answered:
        failed = sum(self.lines[example.key]["error"] is not None for example in examples)
        return Answered(len(self.todo), len(examples) - len(self.todo), failed, self.torn)


def are_among(
    lines: Mapping[str, Mapping[str, Any]], examples: Sequence[Example | OpenExample], recorded: str | None
) -> bool:
    """Whether these answers are to some or all of these questions, with the same options and the same right answers.

    `recorded` is the fingerprint of what was asked: of a benchmark that has grown since, where all was answered, it is
    that of the questions with an answer. Open questions have no options, so that their lines alone tell.
    """
    known = [example for example in examples if example.key in lines]
    if recorded in (None, fingerprint(examples), fingerprint(known)):
        return True
    is_open = not any(example.candidates for example in examples)
    return is_open and len(known) == len(lines) and all(lines[e.key]["reference"] == e.reference for e in known)


def _check_root(path: Path, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """UserError: the answers are to another copy of the benchmark, which is still there."""
    old, new = found.get("root"), header.get("root")
    if old and new and old != new and Path(old).exists():
        raise UserError(
            f"{path} holds answers to the benchmark at {old}, which is still there, and this one lies at {new}: name "
            f"one of them by itself, such as --task NAME={shlex.quote(new)}, or move the answers away"
        )


def read_answers(path: str | Path, needed: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Answer lines by key, the latest of each key; {} without a file. A torn last line does not count.

    Each holds what is in `needed`. UserError names the line and the field that is missing or of another type.
    """
    return read_lines(path, "an answer", "remove that line and answer again", partial(_wrong, needed))


def _wrong(needed: Sequence[str], line: Mapping[str, Any]) -> str | None:
    """What is wrong with the line of an answer, in a few words; None where nothing is."""
    if told := wrong_field(line, FIELDS, needed):
        return told
    if line.get("error", "") is not None:
        return None
    empty = next((name for name in ("reply", "visual_tokens") if line.get(name, "") is None), None)
    return empty and f"no 'error', and '{empty}' is null"


def read_meta(path: str | Path) -> dict[str, Any]:
    """What the answers in `path` depend on; raises UserError where nothing says so."""
    meta = meta_path(path)
    if not meta.exists():
        raise UserError(f"{meta} is missing: nothing says which model gave {path}; move the answers away")
    then = f"move it and {path} away and answer again"
    value = read_object(meta, then)
    if told := wrong_field(value, META_FIELDS, ("control",)):
        raise UserError(f"{meta} says not what answers depend on ({told}); {then}")
    return value


def _line(
    example: Example | OpenExample, outcome: Reply | ClipError, seconds: float, experiment: str, control: str | None
) -> dict[str, Any]:
    reply = None if isinstance(outcome, ClipError) else outcome
    # An open question has no options: nothing to choose, and right or wrong is for a judge to say.
    chosen = reply if example.candidates else None
    choice = chosen and example.parse(chosen.text)
    if reply is not None and reply.seconds is not None:
        seconds = reply.seconds
    logprobs = reply.option_logprobs if reply else None
    likely, margin = _likeliest(logprobs)
    return {
        "key": example.key,
        "experiment": experiment,
        "control": control,
        "task": example.task,
        "video": example.video,
        "clip": example.clip,
        "question": example.question,
        "reference": example.reference,
        "reply": reply and reply.text,
        "choice": choice,
        "correct": example.is_right(choice) if example.candidates else None,
        "reference_verdict": chosen and reference_verdict(chosen.text, example.reference),
        "error": None if reply else str(outcome),
        "visual_tokens": reply and reply.visual_tokens,
        "logprob_choice": likely,
        "logprob_margin": margin,
        # log P of each option in the order of the options; None where it was not asked for.
        "option_logprobs": None if logprobs is None else [round(value, 6) for value in logprobs],
        "seconds": round(seconds, 4),
        "seconds_encode": _rounded(reply and reply.seconds_encode),
        "seconds_first": _rounded(reply and reply.seconds_first),
    }


def _likeliest(logprobs: Sequence[float] | None) -> tuple[str | None, float | None]:
    """The letter of the most likely option, and by how much log P it leads the second; None where none is."""
    if logprobs is None:
        return None, None
    best, *others = sorted(logprobs, reverse=True)
    letter = string.ascii_uppercase[list(logprobs).index(best)]
    return letter, round(best - others[0], 4) if others else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
