"""A judge's reply, in whatever shape, as a score from 0 to 5; or why it is none. Never a guess.

reply     = objects and prose, which together state one score
object    = {..., "score": value, ...} once, at any depth       JSON, Python, or near to them
prose     = sentences; those that state a score are
            label [(scale)] separators value rest               "Score (0-5): 4", "a score of 4 since ..."
          | I give it value rest                                "I'd rate this 4 out of 5"
          | value rest                                          a line that is nothing else, or the first one
value     = number [unit] [scale] [unit]                        "4", "4.0", "4/5", "4 points out of 5"
rest      = what names no second number
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from eval.judge.objects import Object, objects
from eval.judge.scales import HIGHEST, LOWEST
from eval.judge.statements import NO_NUMBER, SCALE, UNCLEAR, Stated, limit_of, stated, value_of, verdicts_of
from eval.tasks.replies import plain

__all__ = ["HIGHEST", "LOWEST", "Verdict", "parse"]
SEVERAL = "several different scores in the reply"
#: Fields beside a score that say what it is of.
_LIMITS = ("max_score", "maxscore", "max score", "out_of", "maximum", "scale")
_EXAMPLE = re.compile(r"\b(?:example|instance|e\.g|sample|template)s?\b", re.I)
_DENIAL = re.compile(r"\b(?:not|never|cannot|neither|nor)\b|n't\b", re.I)
_SENTENCE_END = re.compile(r"(?<!e\.g)[.!?](?:\s|$)|(?<!:)\n")


class Verdict(NamedTuple):
    """What a reply says."""

    #: 0 to 5; None where it says none.
    score: int | None
    #: "yes" or "no" where it was asked for.
    verdict: str | None = None
    #: Why there is no score.
    reason: str | None = None


def parse(reply: str | None, with_verdict: bool = False) -> Verdict:
    """The score in a reply: JSON, a Python dict, either of them in prose or a code fence, `Score: 4`, `4`, `4/5`.

    A score counts where exactly one number on the asked scale is stated, and what stands behind the number is read,
    too. Half an object, several scores, another scale, a range, a denied score, thinking that was cut off and prose
    without a score are none. A broken number is cut to a whole one, as the official scripts do. `with_verdict` asks for
    `pred`, yes or no, as well.
    """
    text = plain(reply)
    if not text:
        return Verdict(None, reason="thinking that was cut off" if text is None else "an empty reply")
    found = list(objects(text))
    if found and not found[-1].whole:
        return _none("half an object", text)
    scores, verdicts = _said(text, found)
    problem = _problem(scores)
    if problem:
        return _none(problem, text)
    if with_verdict and verdicts not in ({"yes"}, {"no"}):
        return _none("neither yes nor no in the reply", text)
    return Verdict(int(float(scores[0].number or 0)), verdicts.pop() if with_verdict else None)


def _said(text: str, found: Sequence[Object]) -> tuple[list[Stated], set[str]]:
    """All scores and verdicts that objects and the prose around them state. An example that is given states none."""
    scores: list[Stated] = []
    verdicts: set[str] = set()
    prose: list[str] = []
    at = 0
    for number, one in enumerate(found):
        before = text[at : one.begin]
        after = text[one.end : found[number + 1].begin if number + 1 < len(found) else len(text)]
        prose.append(before)
        at = one.end
        around = _SENTENCE_END.split(before)[-1], _SENTENCE_END.split(after, maxsplit=1)[0]
        if any(_EXAMPLE.search(piece) for piece in around):
            continue
        if _DENIAL.search(around[0]):
            scores.append(Stated(None, UNCLEAR))
        scores += _scores(one)
        verdicts |= {_yes_or_no(value) for name, value in one.fields if name.lower().strip() == "pred"}
    rest = "\n".join([*prose, text[at:]])
    return scores + list(stated(rest)), verdicts | verdicts_of(rest)


def _scores(one: Object) -> Iterator[Stated]:
    """The scores that an object states: a second one makes it unclear, even where it is the same."""
    named = [(limit, value) for name, value in one.fields if (limit := limit_of(name))]
    for limit, value in named:
        if len(named) > 1:
            yield Stated(None, SEVERAL)
        elif limit.problem:
            yield limit
        else:
            yield Stated(None, NO_NUMBER) if value is None else value_of(value)
    for name, value in one.fields:
        if named and name.lower().strip() in _LIMITS and limit_of(f"score {value}") != Stated(HIGHEST):
            yield Stated(None, SCALE)


def _yes_or_no(value: str | None) -> str:
    """What a verdict's value says; "?" where it is neither."""
    word = re.fullmatch(r"\W*(yes|no|true|false)\W*", value or "", re.I)
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}[word[1].lower()] if word else "?"


def _problem(scores: Sequence[Stated]) -> str | None:
    """Why the scores that a reply states are not one."""
    problem = next((score.problem for score in scores if score.problem), None)
    if problem:
        return problem
    return "no score in the reply" if not scores else SEVERAL if len(set(scores)) > 1 else None


def _none(why: str, text: str) -> Verdict:
    text = " ".join(text.split())
    return Verdict(None, reason=f"{why}: {text if len(text) <= 60 else text[:57] + '...'!r}")
