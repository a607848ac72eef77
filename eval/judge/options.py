"""What goes with a prompt (temperature, token limit, format of the reply), and which of it a server does not take.

A server's options are found out once, before the first score: by the first call, which says nothing where all is taken,
else by a small question that no server has a reason to refuse. What is said of one answer's prompt never counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from eval.judge.parser import HIGHEST, LOWEST
from eval.judge.prompts import Prompt

#: What a server may not take -> another name for the same, or None to leave it out.
SUBSTITUTES = {"response_format": None, "temperature": None, "max_tokens": "max_completion_tokens"}
#: A small question that no server has a reason to refuse: what the prompts' $names stand for in it.
SMALL = {
    "question": "What colour is snow?", "question1": "What colour is snow?", "question2": "Which colour has snow?",
    "answer": "White.",
    "pred": "It is white.", "pred1": "It is white.", "pred2": "White.",
}  # fmt: skip
LeftOut = frozenset[str]


def options_of(prompt: Prompt, with_verdict: bool, max_tokens: int, left_out: LeftOut = frozenset()) -> dict[str, Any]:
    """What goes with the messages of a prompt, to a server that does not take the options in `left_out`."""
    wanted: dict[str, Any] = {"max_tokens": max_tokens}
    if prompt.temperature is not None:
        wanted["temperature"] = prompt.temperature
    if prompt.wording == "own":  # the official scripts ask for a dict in words, and nothing else
        wanted["response_format"] = _schema(with_verdict)
    named = {SUBSTITUTES[name] if name in left_out else name: value for name, value in wanted.items()}
    return {name: value for name, value in named.items() if name is not None}


def sent(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger keeps of a call's options. A temperature of None is the server's own."""
    limit = next((name for name in ("max_tokens", "max_completion_tokens") if name in options), None)
    return {
        "temperature": options.get("temperature"),
        "token_limit": options.get(limit) if limit else None,
        "limit_option": limit,
        "format": "schema" if "response_format" in options else "text",
    }


def ways(options: Mapping[str, Any]) -> list[LeftOut]:
    """All that may be left out of these options, from nothing to everything."""
    known = [name for name in SUBSTITUTES if name in options]
    return [frozenset(some) for count in range(len(known) + 1) for some in combinations(known, count)]


def without(left: Sequence[LeftOut], refused: str | None) -> list[LeftOut]:
    """The ways that a server may take which has just named the option that it refuses; all of them if it names none."""
    if refused in SUBSTITUTES:
        return [way for way in left if refused in way]
    original = next((name for name, other in SUBSTITUTES.items() if other and other == refused), None)
    return [way for way in left if original not in way] if original else list(left)


def named_option(param: Any, options: Mapping[str, Any]) -> str | None:
    """The option that an error's `param` names: `response_format.json_schema` is response_format."""
    root = param.replace("[", ".").partition(".")[0] if isinstance(param, str) else None
    return root if root in options else None


def described(left_out: LeftOut) -> Iterator[str]:
    """A sentence for each option that a server does not take."""
    for name in sorted(left_out):
        instead = SUBSTITUTES[name]
        then = f"{instead} takes its place" if instead else "it is left out of every call"
        yield f"does not take {name}: {then}"


def _schema(with_verdict: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"score": {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}}
    if with_verdict:
        properties = {"pred": {"type": "string", "enum": ["yes", "no"]}, **properties}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}
