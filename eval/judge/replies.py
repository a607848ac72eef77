"""What a server's answer holds: the judge's words, why they ended, tokens, or an error. Every field may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

#: More tokens than any call takes: such a count is not believed.
MOST_TOKENS = 10_000_000


class ErrorSaid(NamedTuple):
    """The error that a body holds."""

    message: str
    code: Any = None
    #: The part of the request that is wrong, where the server says it.
    param: Any = None
    kind: Any = None

    @property
    def words(self) -> str:
        """Code and message in one line."""
        text = " ".join(self.message.split())
        return f"{self.code}: {text}" if isinstance(self.code, str) and self.code not in text else text

    @property
    def status(self) -> int | None:
        """The HTTP status that it stands for, where its code is one."""
        is_status = isinstance(self.code, int) and not isinstance(self.code, bool) and 400 <= self.code < 600
        return self.code if is_status else None

    @property
    def without_credit(self) -> bool:
        return "insufficient_quota" in (self.code, self.kind)


def error_said(body: Any) -> ErrorSaid | None:
    """The error in a body, in the shapes that servers give it; None where there is none."""
    if not isinstance(body, dict):
        return None
    found = body.get("error") or _first_choice(body).get("error")
    if not found and body.get("object") == "error":
        found = body
    if not found and "choices" not in body:
        found = body.get("detail")
    if not found:
        return None
    if isinstance(found, list):
        found = found[0]
    if not isinstance(found, dict):
        return ErrorSaid(str(found))
    place = found.get("loc")
    param = found.get("param") or (place[-1] if isinstance(place, list) and place else None)
    message = found.get("message") or found.get("msg") or json.dumps(found, ensure_ascii=False)
    return ErrorSaid(str(message), found.get("code"), param, found.get("type"))


def error_in(text: bytes) -> ErrorSaid:
    """The error in the body of an answer of a status that is one; its plain text where it holds no object."""
    said = None
    with suppress(ValueError, RecursionError):
        said = error_said(json.loads(text))
    return said or ErrorSaid(" ".join(text[:2000].decode("utf-8", "replace").split())[:300] or "no reason given")


def words(body: Mapping[str, Any]) -> str:
    """The reply; "" where there is none, the refusal where it is one."""
    message = _first_choice(body).get("message")
    message = message if isinstance(message, dict) else {}
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    refusal = message.get("refusal")
    return content if isinstance(content, str) and content else refusal if isinstance(refusal, str) else ""


def why_none(body: Mapping[str, Any], max_tokens: int) -> str | None:
    """Why the reply ended before it said a score, where the server names a reason for that; None where it does not."""
    reason = _first_choice(body).get("finish_reason")
    if reason == "length":
        return f"cut off after --max-tokens {max_tokens} (finish_reason length), raise it"
    if reason == "content_filter":
        return "kept back by the server's filter (finish_reason content_filter)"
    if reason in ("tool_calls", "function_call"):
        return f"a call of a tool and no words (finish_reason {reason})"
    return None


def is_whole(body: Mapping[str, Any], reply: str) -> bool:
    """Whether nothing can follow on what the reply says: not cut off or filtered, or a whole object for all that."""
    if _first_choice(body).get("finish_reason") not in ("length", "content_filter"):
        return True
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(reply), dict)
    return False


def model_of(body: Mapping[str, Any]) -> str | None:
    """The model that the server says it was."""
    return body["model"] if isinstance(body.get("model"), str) else None


def tokens(body: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens sent and received by the server's count; 0 where it does not say."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _count(value: Any) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST_TOKENS
    return value if is_count else 0
