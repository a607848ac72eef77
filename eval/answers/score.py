"""From answers to scores: every question counts, whether or not it could be asked. Imports no torch."""

from __future__ import annotations

import json
import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from eval.answers.answer import SCORED, read_answers, read_meta
from eval.answers.places import check_complete, check_place, without_places
from eval.statistics.estimates import share
from eval.tasks.binary_labels import LabelExample, label_scores
from eval.tasks.options import reference_verdict
from eval.tasks.task import Example
from videogpt_plus.io.files import write_text
from videogpt_plus.types import UserError


def scores_path(answers_path: str | Path) -> Path:
    """`scores.json` of `answers.jsonl`, `scores.blind.json` of `answers.blind.jsonl`."""
    path = Path(answers_path)
    return path.with_name(path.name.replace("answers", "scores", 1)).with_suffix(".json")


def score(answers_path: str | Path, examples: Sequence[Example], asked: Sequence[str] | None = None) -> dict[str, Any]:
    """Scores of a finished run, written next to the answers (`scores_path`) and returned.

    `tasks` has, for each task: n (all that were asked), n_answered, n_failed (clips that could not be read),
    n_unparsed, n_videos, right, accuracy over all n with its interval by clips (ci_low, ci_high),
    reference_rule_accuracy, chance, majority, seconds_per_question (mean over the answers; None without any),
    seconds_to_first_token (median; None where no answer says it), visual_tokens, the failures, and for paired tests
    `correct` (key -> bool) and `videos` (key -> clip). `overall` has the mean over tasks, as MVBench reports it
    (`macro`), and over questions (`micro`). Of clips with labels there is `labels`, too
    (`binary_labels.label_scores`). The kept replies are parsed anew, so that a better parser needs no new answers.
    `asked` is for the command that finishes them (`places`). UserError: an answer is missing. OtherAnswers: they are
    another run's, or to other questions.
    """
    answers_path = Path(answers_path)
    if not examples:
        raise UserError("no question to score: the benchmark is empty")
    check_place(answers_path)
    answers = read_answers(answers_path, SCORED)
    check_complete(answers_path, answers, examples, asked)
    by_task: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_task[example.task].append(example)
    tasks = {task: _score_task(group, answers) for task, group in by_task.items()}
    overall = _overall(tasks) | _to_first_token([answers[example.key] for example in examples])
    scores = {**without_places(read_meta(answers_path)), "overall": overall, "tasks": tasks}
    if labelled := [example for example in examples if isinstance(example, LabelExample)]:
        scores["labels"] = label_scores(labelled, answers)
    write_text(scores_path(answers_path), json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    return scores


def _score_task(examples: Sequence[Example], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    lines = [answers[example.key] for example in examples]
    asked = [(e, line) for e, line in zip(examples, lines, strict=True) if line["error"] is None]
    choices = {e.key: e.parse(line["reply"]) for e, line in asked}
    correct = {e.key: e.is_right(choices.get(e.key)) for e in examples}
    n, right = len(examples), sum(correct.values())
    videos = {e.key: e.clip for e in examples}
    accuracy = share(correct, videos)
    return {
        "group": examples[0].group,
        "needs_level": examples[0].needs_level,
        "n": n,
        "n_answered": len(asked),
        "n_failed": n - len(asked),
        "n_unparsed": sum(choice is None for choice in choices.values()),
        "right": right,
        "accuracy": accuracy.value,
        "ci_low": accuracy.low,
        "ci_high": accuracy.high,
        "reference_rule_accuracy": sum(bool(reference_verdict(line["reply"], e.reference)) for e, line in asked) / n,
        "chance": sum(1 / len(e.candidates) for e in examples) / n,
        "majority": _majority(examples) / n,
        "seconds_per_question": sum(line["seconds"] for _, line in asked) / len(asked) if asked else None,
        **_to_first_token(lines),
        "visual_tokens": sum(line["visual_tokens"] for _, line in asked) / len(asked) if asked else None,
        "failures": [
            {"key": line["key"], "video": line["video"], "error": line["error"]}
            for line in lines
            if line["error"] is not None
        ],
        "correct": correct,
        "videos": videos,
        "n_videos": len(set(videos.values())),
    }


def _to_first_token(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The median, which a slow first question does not move."""
    seconds = [line["seconds_first"] for line in lines if line.get("seconds_first") is not None]
    return {"seconds_to_first_token": median(seconds) if seconds else None}


def _majority(examples: Sequence[Example]) -> int:
    """How many questions the best constant guess gets: always one letter, or always one text."""
    letters = Counter(a for e in examples for a in string.ascii_uppercase[: len(e.candidates)] if e.is_right(a))
    texts = Counter(e.answer for e in examples)
    return max(letters.most_common(1)[0][1], texts.most_common(1)[0][1])


def _overall(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = list(tasks.values())
    n = sum(row["n"] for row in rows)
    correct, videos = ({key: one for row in rows for key, one in row[name].items()} for name in ("correct", "videos"))
    of_task = {key: task for task, row in tasks.items() for key in row["correct"]}
    macro, micro = share(correct, videos, of_task), share(correct, videos)

    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    return {
        "n": n,
        "n_videos": len(set(videos.values())),
        "n_answered": sum(row["n_answered"] for row in rows),
        "n_failed": sum(row["n_failed"] for row in rows),
        "n_unparsed": sum(row["n_unparsed"] for row in rows),
        "macro": {"accuracy": macro.value, "ci_low": macro.low, "ci_high": macro.high},
        "micro": {"accuracy": micro.value, "ci_low": micro.low, "ci_high": micro.high},
        "reference_rule_accuracy": mean("reference_rule_accuracy"),
        "chance": mean("chance"),
        "majority": mean("majority"),
        "seconds_per_question": _mean_seconds(rows),
    }


def _mean_seconds(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean over all answers; clips that could not be read took no time to answer."""
    known = [(row["seconds_per_question"], row["n_answered"]) for row in rows if row["n_answered"]]
    return sum(seconds * n for seconds, n in known) / sum(n for _, n in known) if known else None
