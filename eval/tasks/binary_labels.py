"""Clips of one label out of two, asked in the words that a model was trained with: RWF-2000.

    ROOT/val.json    as `videogpt-plus data rwf2000 --split val` writes it

In addition to accuracy: confusion, precision, recall and F1 of the positive label, from what the model said and, where
the labels' probabilities were asked for, from the likelier one.
"""

from __future__ import annotations

import re
import shlex
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.statistics.estimates import Estimate, wilson
from eval.tasks.annotations import read_json, shown
from eval.tasks.replies import plain
from eval.tasks.task import Example, Task
from videogpt_plus.training import rwf2000
from videogpt_plus.types import UserError

TASK = "violence"
LABELS = tuple(sorted(rwf2000.LABELS.values()))
#: What may stand before a label.
_LEAD = re.compile(
    r"(?:the\s+)?(?:(?:short|final)\s+)?(?:answer|output|label)\s*(?:is\b)?\s*:?\s*|(?:答案|输出|结果|标签)[是为]?\s*:?\s*",
    re.IGNORECASE,
)
#: What may stand around it, and what may end it before something else is said. Full-width forms are plain by then.
_AROUND, _ENDS = "\"'`“”‘’()[]{} \t\n", ".,:;!?。、"


@dataclass(frozen=True)
class LabelExample(Example):
    """One clip that is asked for its label. `candidates` are the labels, and `answer` is one of them."""

    # The label that precision, recall and F1 are about.
    positive: str = rwf2000.POSITIVE

    @property
    def reference(self) -> str:
        return self.answer

    @property
    def prompt(self) -> str:
        """The question alone, as in training."""
        return self.question

    @property
    def spoken(self) -> tuple[str, ...]:
        """The labels themselves: there are no letters."""
        return self.candidates

    def parse(self, reply: str) -> str | None:
        """The letter of the one label that the reply gives, or None."""
        label = parse_label(reply, self.candidates)
        return None if label is None else string.ascii_uppercase[self.candidates.index(label)]


def parse_label(reply: str, labels: Sequence[str]) -> str | None:
    """The label that stands first in `reply`, alone or before a punctuation mark, where no other one follows.

    `1`, `1.`, `**1**`, `Answer: 1`, `输出1。` and `1, there is a fight` are 1; `10`, `1.5`, `1 man`, `1 or 0` and
    thinking that was cut off are nothing.
    """
    text = (plain(reply) or "").strip(_AROUND)
    text = _LEAD.sub("", text, count=1).strip(_AROUND) if _LEAD.match(text) else text
    for label in labels:
        rest = text.removeprefix(label)
        if rest == text or re.match(r"[.,:]\d", rest) or rest.strip(_AROUND)[:1] not in ("", *_ENDS):
            continue
        others = re.findall(r"\d+", rest)
        return label if not any(other in others for other in labels if other != label) else None
    return None


def load_rwf2000(root: str | Path) -> list[Task]:
    """RWF-2000's clips from `root`/val.json. UserError: there is no such file, or an entry is malformed."""
    file = Path(root).absolute() / "val.json"
    if not file.is_file():
        raise UserError(
            f"no clips of RWF-2000 to ask about: {file} does not exist; write it with `videogpt-plus data rwf2000 "
            f"--data-dir FOLDER --split val --output {shlex.quote(str(file))}`"
        )
    entries, seen, questions = read_json(file), Counter(), []
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: expected a list of conversations; found {shown(entries)}; write it again")
    for number, entry in enumerate(entries):
        if (found := rwf2000.parse(entry)) is None or found.answer not in LABELS:
            raise UserError(
                f"{file}, entry {number}: expected a question about a clip between {rwf2000.OPEN} and {rwf2000.CLOSE}, "
                f"answered with {' or '.join(LABELS)}; found {shown(entry)}; write the file again"
            )
        path = rwf2000.located(found.path, file)
        video, question = "/".join(path.parts[-3:]), found.question.strip()
        questions.append(
            LabelExample(
                TASK, path, video, question, LABELS, found.answer, group=TASK, occurrence=seen[video, question]
            )
        )
        seen[video, question] += 1
    return [Task(TASK, TASK, tuple(questions))]


def label_scores(examples: Sequence[LabelExample], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `confusion` gives for what was said (`said`) and, where it was asked for, for the likelier label
    (`likelier`); each clip counts, whether or not it could be read.
    """
    lines = [(example, answers[example.key]) for example in examples]
    said = {e.key: e.parse(line["reply"]) for e, line in lines if line["error"] is None}
    found = {"positive": examples[0].positive, "said": confusion(examples, said)}
    if any(line.get("logprob_choice") for _, line in lines):
        likelier = {e.key: line["logprob_choice"] for e, line in lines if line["error"] is None}
        found["likelier"] = confusion(examples, likelier)
    return found


def confusion(examples: Sequence[LabelExample], choices: Mapping[str, str | None]) -> dict[str, Any]:
    """`confusion` (right label -> given label, "unparsed" or "failed" -> clips); accuracy, precision, recall and f1,
    each with its 95 % interval as [value, low, high], or None where nothing can be said of it; n.

    `choices` holds a letter, or None, for each clip that could be read. A clip of the positive label without an
    answer is a missed one; one of the other label is wrong for the accuracy and nothing to F1.
    """
    labels, positive = examples[0].candidates, examples[0].positive
    table = {right: dict.fromkeys((*labels, "unparsed", "failed"), 0) for right in labels}
    for e in examples:
        letter = choices.get(e.key)
        given = "failed" if e.key not in choices else "unparsed"
        table[e.answer][given if letter is None else labels[string.ascii_uppercase.index(letter)]] += 1
    hits, all_positive = table[positive][positive], sum(table[positive].values())
    called = sum(row[positive] for row in table.values())
    estimates = {
        "accuracy": _share(sum(table[label][label] for label in labels), len(examples)),
        "precision": _share(hits, called),
        "recall": _share(hits, all_positive),
        "f1": f1(hits, called + all_positive - 2 * hits),
    }
    return {"n": len(examples), "confusion": table, **{name: e and list(e) for name, e in estimates.items()}}


def f1(hits: int, misses: int) -> Estimate | None:
    """2 hits / (2 hits + misses), where misses are both false alarms and what was overlooked; None without either.

    It is 2s / (1 + s) of the share s = hits / (hits + misses), and so is its interval of that share's Wilson
    interval. Source: the indirect Wilson method of Lam, "Confidence Intervals for the F1 Score" (2023).
    """
    share = _share(hits, hits + misses)
    return share and Estimate(*(2 * s / (1 + s) for s in share))


def _share(right: int, n: int) -> Estimate | None:
    return wilson(right, n) if n else None
