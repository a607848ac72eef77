"""What a benchmark offers: examples out, replies in.

load_benchmark -> Task.examples() -> Answerer.answers(examples, control) -> answers.jsonl -> scores.json ->
report
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from eval.tasks.options import parse_option
from videogpt_plus.io.fingerprint import of_value
from videogpt_plus.types import Outcome, Question


@dataclass(frozen=True)
class Example:
    """One multiple-choice question about one clip."""

    # Name of the task, as in the table of tasks.
    task: str
    # A file or a folder of frames.
    path: Path
    # The clip's name as the annotation writes it.
    video: str
    # The question alone.
    question: str
    # The options in order; the first is (A).
    candidates: tuple[str, ...]
    # The right option's text, one of `candidates`.
    answer: str
    # Bounds in seconds; None where the whole clip is meant.
    start: float | None = None
    end: float | None = None
    # "video", "gif" or "frames".
    kind: str = "video"
    # Tasks of one group are averaged in the report; the task itself where nobody groups them.
    group: str = ""
    # The finest pool level that the task needs, where it is known by construction.
    needs_level: float | None = None
    # How often the annotation held the same clip, bounds and question before this one.
    occurrence: int = 0
    # The clip's folder under the benchmark's root: two folders may hold clips of one name.
    folder: str = ""

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the question by its content: task, video, bounds, question.

        A repetition is told from the first by its number.
        """
        content = [self.task, self.video, self.start, self.end, self.question]
        return of_value([*content, self.occurrence] if self.occurrence else content)

    @property
    def clip(self) -> str:
        """The clip's unique name in the benchmark; questions about one clip are not independent."""
        return f"{self.folder}/{self.video}" if self.folder else self.video

    @property
    def letter(self) -> str:
        """The right option's letter: the last one where two options read the same, as in the reference."""
        return string.ascii_uppercase[max(i for i, c in enumerate(self.candidates) if c == self.answer)]

    @property
    def reference(self) -> str:
        """The right answer as the reference writes it: `(C) text`."""
        return f"({self.letter}) {self.answer}"

    @property
    def prompt(self) -> str:
        """The question in MVBench's wording, without placeholders."""
        options = "\n".join(f"({a}) {c}" for a, c in zip(string.ascii_uppercase, self.candidates, strict=False))
        return f"Question: {self.question}\nOptions:\n{options}".rstrip() + "\nOnly give the best option."

    @property
    def spoken(self) -> tuple[str, ...] | None:
        """What a model says for each option; None for its letter in brackets."""
        return None

    def parse(self, reply: str) -> str | None:
        """The letter of the option that a reply names, or None."""
        return parse_option(reply, self.candidates)

    def is_right(self, choice: str | None) -> bool:
        """Whether the chosen letter's text is the answer; None is wrong."""
        if choice is None:
            return False
        return self.candidates[string.ascii_uppercase.index(choice)].strip() == self.answer.strip()


@dataclass(frozen=True)
class Task:
    """One benchmark task, read and checked."""

    name: str
    group: str
    # In the order of the annotation: `Example`, or what an Answerer takes for one.
    questions: tuple[Example, ...]

    def examples(self) -> Sequence[Example]:
        """Every question, in the order of the annotation."""
        return self.questions


class Answerer(Protocol):
    """All that a benchmark knows of one model, or of several that share what they see."""

    def answers(self, questions: Sequence[Question], control: str | None) -> Iterator[tuple[Question, Outcome]]:
        """Each question once, in any order, with the replies of its models under `control`.

        An iterator over all of them, so that an answerer may decode ahead, batch, or share a clip's encoding.
        """
        ...


def fingerprint(examples: Sequence[Example]) -> str:
    """16 hexadecimal digits of the questions, options and answers, whatever their order.

    The clips' bytes stay outside: a repaired file must not forbid `retry_errors` in the same folder.
    """
    return of_value(sorted([e.key, *e.candidates, e.answer] for e in examples))
