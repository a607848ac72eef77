"""From judgements to scores, and which scores are comparable. Imports no torch and calls no server."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.answers.answer import read_answers, read_meta
from eval.answers.places import without_places
from eval.judge.command import judge_command
from eval.judge.header import left_out_by
from eval.judge.ledger import Item, Judge, finished_answers, items_of, read_judged
from eval.judge.lexical import LEXICAL
from eval.judge.options import options_of, sent
from eval.judge.parser import HIGHEST, LOWEST
from eval.judge.prompts import VERDICTS
from eval.statistics.estimates import mean_score, share
from eval.tasks.benchmarks import Benchmark
from eval.tasks.open_questions import OpenExample
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import read_object, write_text
from videogpt_plus.types import UserError

#: Aspects that VCGBench-Diverse's further means are over.
MEANS_OVER = ("correctness", "detail")
JUDGE_AGAIN = "judge again: what was paid for is not paid twice"


def scores_of_ledger(path: str | Path) -> Path:
    """`scores.json` of `judged.jsonl`, `scores_NAME.json` of `judged_NAME.jsonl`."""
    path = Path(path)
    return path.with_name(path.name.replace("judged", "scores", 1)).with_suffix(".json")


def score_judged(
    answers_path: str | Path,
    name: str,
    benchmark: Benchmark,
    examples: Sequence[OpenExample],
    judge: Judge,
    ledger: str | Path,
) -> dict[str, Any]:
    """Scores of a judged run, written next to its ledger (`scores_of_ledger`) and returned.

    `aspects` has, for each aspect: n (with a score), n_expected, n_failed (clips that could not be read: 0 points,
    they stay in n), n_unscored (they lower n), n_videos, mean from 0 to 5 with its interval over clips (ci_low,
    ci_high; None of a single clip), accuracy with its interval where the judge says yes or no, and `scores` (example ->
    score) for paired tests. `judge` says who judged: model, the models that the server named, prompt hash, wording,
    dates. UserError: an answer or a judgement is missing.
    """
    answers = finished_answers(answers_path, examples)
    items, lines = items_of(judge, benchmark, examples, answers), read_judged(ledger)
    missing = sum(item.key is not None and item.key not in lines for item in items)
    if missing:
        again = judge_command(answers_path, judge.model, "judge" if Path(ledger).name == "judged.jsonl" else "rejudge")
        raise UserError(f"{ledger}: {missing} of {len(items)} judgements are missing; finish them with: {again}")
    by_aspect: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_aspect[item.aspect].append(item)
    aspects = {aspect: _aspect(group, lines, aspect in VERDICTS) for aspect, group in by_aspect.items()}
    for mean, task in benchmark.means.items():
        group = [item for item in items if item.task == task and item.aspect in MEANS_OVER]
        if group:
            aspects[mean] = _aspect(group, lines, False)
    used = [lines[item.key] for item in items if item.key]
    scores = {
        **without_places(read_meta(answers_path)),
        "benchmark": name,
        "answers": _hash(answers),
        "judge": _judge(judge, used, ledger),
        "overall": _overall(aspects, [aspect for aspect in by_aspect]),
        "aspects": aspects,
    }
    write_text(scores_of_ledger(ledger), json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    return scores


def _hash(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """16 hexadecimal digits of what the answers say; their order, and the seconds that they took, do not count."""
    return fingerprint.of_value(sorted([key, line.get("reply"), line.get("error")] for key, line in answers.items()))


def is_of_answers(scores: Mapping[str, Any], answers_path: str | Path) -> bool:
    """Whether scores are of the answers that are there now."""
    return scores.get("answers") == _hash(read_answers(answers_path))


def _judge(judge: Judge, used: Sequence[Mapping[str, Any]], ledger: str | Path) -> dict[str, Any]:
    dates = sorted(line["date"] for line in used)
    return {
        **judge.header,
        "prompts": {aspect: prompt.hash for aspect, prompt in judge.prompts.items()},
        "served_models": sorted({line["model"] for line in used if line["model"]}),
        "formats": sorted({line["format"] for line in used if line["format"]}),
        "sent": _sent(judge, ledger),
        "first_date": dates[0][:10] if dates else None,
        "last_date": dates[-1][:10] if dates else None,
        "tokens_in": sum(line["tokens_in"] for line in used),
        "tokens_out": sum(line["tokens_out"] for line in used),
        "comparable": judge.model != LEXICAL,
    }


def _sent(judge: Judge, ledger: str | Path) -> dict[str, Any] | None:
    """What went with the messages of all prompts; None where there was no reply."""
    left_out = left_out_by(ledger, judge)
    if judge.model == LEXICAL or left_out is None:
        return None
    told = [sent(options_of(prompt, False, judge.token_limit, left_out)) for prompt in judge.prompts.values()]
    temperatures = {one["temperature"] for one in told}
    return {**told[0], "temperature": sorted(temperatures, key=lambda value: (value is not None, value))}


def _aspect(items: Sequence[Item], lines: Mapping[str, Mapping[str, Any]], with_verdict: bool) -> dict[str, Any]:
    """A clip that could not be read earns 0; an answer that the judge gave no score is left out, and counted."""
    scores: dict[str, int | None] = {}
    verdicts: dict[str, bool] = {}
    unscored: Counter[str] = Counter()
    clips: dict[str, str] = {}
    for item in items:
        line = lines[item.key] if item.key else {"score": 0, "verdict": "no"}
        name = f"{item.examples[0].key}/{item.aspect}"
        scores[name] = line["score"]
        if line["score"] is None:
            # Scores may be published: the server's own words, which may name hosts, stay in the ledger.
            unscored[line["unscored"].partition(":")[0]] += 1
            continue
        clips[name] = item.examples[0].clip
        if with_verdict:
            verdicts[name] = line["verdict"] == "yes"
    known = {key: score for key, score in scores.items() if score is not None}
    found_mean = mean_score(known, clips) if known else None
    found: dict[str, Any] = {
        "n": len(known),
        "n_expected": len(items),
        "n_failed": sum(item.key is None for item in items),
        "n_unscored": len(items) - len(known),
        "n_videos": len(set(clips.values())),
        "mean": sum(known.values()) / len(known) if known else None,
        # A single clip says nothing of others.
        "ci_low": found_mean and found_mean.low,
        "ci_high": found_mean and found_mean.high,
        "unscored": dict(unscored.most_common(5)),
        "scores": scores,
    }
    if with_verdict and verdicts:
        accuracy = share(verdicts, clips)
        found |= {"accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
        found["correct"] = verdicts
    return found


def _overall(aspects: Mapping[str, Mapping[str, Any]], asked: Sequence[str]) -> dict[str, Any]:
    """The mean of the aspects that were asked, as VCGBench reports it, and how much of it is there."""
    means = [aspects[aspect]["mean"] for aspect in asked]
    return {
        "mean": sum(means) / len(means) if means and None not in means else None,
        **{name: sum(aspects[aspect][name] for aspect in asked) for name in ("n", "n_expected", "n_failed")},
        "n_unscored": sum(aspects[aspect]["n_unscored"] for aspect in asked),
    }


def dates_of(several: Iterable[Mapping[str, Any]]) -> str:
    """From the first day to the last on which these scores were given, as words."""
    dates = sorted(date for one in several for w in ("first_date", "last_date") if (date := one["judge"][w]))
    return " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "no day: there was no answer to judge"


class Identity(NamedTuple):
    """What has to be equal for two scores to be comparable."""

    judge_model: str
    served_models: tuple[str, ...]
    prompt_hash: str
    #: Temperature, format and token limit as words; "" for the lexical judge.
    asked: str = ""

    def __str__(self) -> str:
        served = [model for model in self.served_models if model != self.judge_model]
        answered = f", answered by {' and '.join(served)}" if served else ""
        asked = f", {self.asked}" if self.asked else ""
        return f"{self.judge_model}{answered}, prompts {self.prompt_hash}{asked}"

    @property
    def for_files(self) -> str:
        """A name for files that no other judge has.

        The model asked for, those that answered for it under other names, the prompts, and a hash of it all.
        """
        served = " ".join(self.served_models)
        names = [self.judge_model, *([served] if served not in ("", self.judge_model) else []), self.prompt_hash[:8]]
        return "_".join([*map(fingerprint.for_files, names), fingerprint.of_value(self)[:8]])


def identity(scores: Mapping[str, Any]) -> Identity:
    """Who judged these scores. Alias names such as `gpt-3.5-turbo` change their meaning: the server's word counts."""
    judge = scores["judge"]
    return Identity(judge["judge_model"], tuple(judge["served_models"]), judge["prompt_hash"], _asked(judge))


def _asked(judge: Mapping[str, Any]) -> str:
    """How a judge was asked, in words."""
    if judge["judge_model"] == LEXICAL:
        return ""
    how = judge.get("sent")
    if how is None:
        return "without a reply"
    given = ["the server's own" if value is None else f"{value:g}" for value in how["temperature"]]
    form = "replies by a schema" if how["format"] == "schema" else "replies in words"
    return f"temperature {' or '.join(given)}, {form}, at most {how['token_limit']} tokens"


def check_alike(named: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError unless all these scores (by the name of what was judged) are comparable."""
    first, *others = [(name, scores, identity(scores)) for name, scores in named.items()]
    for name, scores, who in others:
        if scores["benchmark"] != first[1]["benchmark"]:
            raise UserError(
                f"{first[0]} was asked {first[1]['benchmark']}, {name} {scores['benchmark']}: not one column"
            )
        if who != first[2]:
            raise UserError(
                f"{first[0]} was judged by {first[2]}; {name} by {who}: one column would compare judges, not models; "
                "score one of them again with `videogpt-plus rejudge`"
            )


def all_scores(answers_path: str | Path, say: Callable[[str], None] | None = None) -> dict[str, dict[str, Any]]:
    """Every judge's scores of one answers.jsonl, by the name of their file: scores.json, scores_NAME.json.

    Those of answers that have changed since are left out, a line for each to `say` (to standard error without one).
    UserError: there are no others.
    """
    fresh, old = _fresh_and_old(answers_path)
    if old and not fresh:
        raise UserError(f"{_older(answers_path, old[0])}; {JUDGE_AGAIN}")
    for name in old:
        (say or _to_stderr)(f"{_older(answers_path, name)} and is left out; {JUDGE_AGAIN}")
    return fresh


def fresh_scores(answers_path: str | Path, say: Callable[[str], None] | None = None) -> dict[str, dict[str, Any]]:
    """`all_scores`, or {} where there are none."""
    fresh, old = _fresh_and_old(answers_path)
    for name in old:
        (say or _to_stderr)(f"{_older(answers_path, name)} and is left out; {JUDGE_AGAIN}")
    return fresh


def check_numbers(path: str | Path, scores: Mapping[str, Any]) -> None:
    """Raises UserError where a score is no number from 0 to 5: JSON writes NaN, which no test would notice."""
    for aspect, row in scores["aspects"].items():
        for key, score in row["scores"].items():
            number = isinstance(score, int | float) and not isinstance(score, bool)
            if score is not None and not (number and LOWEST <= score <= HIGHEST):
                raise UserError(
                    f"{path}: the score of {key} ({aspect}) is {score!r}, which is no number from {LOWEST} to "
                    f"{HIGHEST}; {JUDGE_AGAIN}"
                )


def _older(answers_path: str | Path, name: str) -> str:
    return f"{Path(answers_path).parent / name} is not of the answers that are there now"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _fresh_and_old(answers_path: str | Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Judges' scores of the answers that are there now, by the name of their file; names of those of others."""
    paths = sorted(Path(answers_path).parent.glob("scores*.json"))
    found = {path.name: scores for path in paths if "judge" in (scores := read_object(path, JUDGE_AGAIN))}
    old = [name for name, scores in found.items() if not is_of_answers(scores, answers_path)]
    fresh = {name: scores for name, scores in found.items() if name not in old}
    for name, scores in fresh.items():
        check_numbers(Path(answers_path).with_name(name), scores)
    return fresh, old


def columns_of(scores: Mapping[Path, Sequence[Mapping[str, Any]]]) -> list[dict[Path, Mapping[str, Any]]]:
    """Comparable scores: all runs for each judge that scored all; where none did, each judge's own runs."""
    judges = dict.fromkeys(identity(one) for several in scores.values() for one in several)
    columns = [
        {run: one for run, several in scores.items() for one in several if identity(one) == who} for who in judges
    ]
    return [column for column in columns if len(column) == len(scores)] or columns


def common_scores(named: Mapping[str, str | Path]) -> list[dict[str, Mapping[str, Any]]]:
    """For answers by name, one column for each judge that all of them have: name -> scores.

    UserError: they have no judge in common, or some have none.
    """
    found = {name: list(all_scores(path).values()) for name, path in named.items()}
    for name, several in found.items():
        if not several:
            raise UserError(f"{named[name]}: not judged yet; run `{judge_command(named[name])}` first")
    columns = []
    for who in dict.fromkeys(identity(scores) for scores in next(iter(found.values()))):
        column = {
            name: next((scores for scores in several if identity(scores) == who), None)
            for name, several in found.items()
        }
        if None not in column.values():
            columns.append(column)
    if not columns:
        check_alike({name: several[0] for name, several in found.items()})
    return columns
