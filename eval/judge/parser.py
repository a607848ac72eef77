"""A judge's reply, in whatever shape, as a score from 0 to 5; or why it is none. Never a guess."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from typing import Any, NamedTuple

LOWEST, HIGHEST = 0, 5
_NUMBER = r"(-?\d+(?:\.\d+)?)"
#: `Score: 4`, `score is **4/5**`, `score of 4 out of 5`.
_SAID = re.compile(
    rf"\bscore\b[^\w-]{{0,4}}(?:is|of|would be)?[^\w-]{{0,4}}{_NUMBER}(?![\d.]*%)(?:\s*(?:/|out of)\s*(\d+))?", re.I
)
#: Nothing but a number, perhaps of so many.
_ALONE = re.compile(rf"[^\w-]*{_NUMBER}(?:\s*(?:/|out of)\s*(\d+))?\W*")
#: What stands for `'score': 4` in an object that is neither JSON nor Python, such as `{''score': 4}`.
_FIELD = re.compile(rf"score[^\w-]{{1,6}}{_NUMBER}(?![\d.])", re.I)
_PRED = re.compile(r"""pred\W{1,6}?(yes|no)\b""", re.I)


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

    Half an object, several scores that differ, another scale and prose without a score are none. A broken number is
    cut to a whole one, as the official scripts do. `with_verdict` asks for `pred`, yes or no, as well.
    """
    text = unicodedata.normalize("NFKC", reply or "").strip()
    if not text:
        return Verdict(None, reason="an empty reply")
    readings = set(_objects(text))
    if not readings and "{" not in text and not with_verdict:
        said = _SAID.findall(text) or ([alone.groups()] if (alone := _ALONE.fullmatch(text)) else [])
        if any(scale not in (None, "", str(HIGHEST)) for _, scale in said):
            return Verdict(None, reason=f"another scale than {LOWEST} to {HIGHEST}: {_shown(text)}")
        readings = {(number, None) for number, _ in said}
    if len(readings) != 1:
        what = "several different scores" if readings else "no score"
        return Verdict(None, reason=f"{what} in the reply: {_shown(text)}")
    raw, verdict = readings.pop()
    score = _number(raw)
    if score is None:
        return Verdict(None, reason=f"a score that is no number: {_shown(text)}")
    if not LOWEST <= score <= HIGHEST:
        return Verdict(None, reason=f"another scale than {LOWEST} to {HIGHEST}: {_shown(text)}")
    if with_verdict and verdict is None:
        return Verdict(None, reason=f"neither yes nor no in the reply: {_shown(text)}")
    return Verdict(int(score), verdict if with_verdict else None)


def _objects(text: str) -> list[tuple[str, str | None]]:
    """(score, yes or no) of every innermost `{...}` that holds a score."""
    found = []
    for piece in re.findall(r"\{[^{}]*\}", text):
        value = _literal(piece)
        if isinstance(value, dict):
            fields = {str(name).strip().lower(): one for name, one in value.items()}
            if "score" in fields:
                found.append((str(fields["score"]).strip(), _yes_or_no(fields.get("pred"))))
        elif len(scores := _FIELD.findall(piece)) == 1:
            pred = _PRED.search(piece)
            found.append((scores[0], pred[1].lower() if pred else None))
    return found


def _literal(piece: str) -> Any:
    """The JSON or Python value that a text writes; None where it is neither. Nothing is run."""
    try:
        return json.loads(piece)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(piece)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _yes_or_no(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    word = re.fullmatch(r"\W*(yes|no|true|false)\W*", str(value), re.I)
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}[word[1].lower()] if word else None


def _number(raw: str) -> float | None:
    """`4`, `4.0`, `4/5`."""
    match = re.fullmatch(rf"{_NUMBER}(?:\s*/\s*{HIGHEST})?", raw)
    return float(match[1]) if match else None


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
