"""One judgement from an OpenAI-compatible server: paced, retried with bounds, within a budget.

What a server may do to a call, and what becomes of it:
    429, 5xx, 408, 409, time-out, lost connection   again later, after Retry-After where the server says it
    an empty reply, prose, another scale, ...       again at once
    400, 422                                        without the option that the server does not know, else unscored
    401, 402, 403, 404, no credit left              UserError: nothing that follows could go better
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from eval.judge.parser import HIGHEST, LOWEST, parse
from eval.judge.prompts import Prompt
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import openai

#: A server that asks for a longer pause than this many seconds is not waited for.
LONGEST_PAUSE = 900.0
#: Judgements in a row without a score; then the server is taken to be gone, or no judge.
GIVE_UP_AFTER = 10
#: How many times more often a call may be told to wait (429) than it may fail.
PATIENCE = 5
#: What a server may not know -> another way to say the same, or None to leave it out.
SUBSTITUTES = {"response_format": None, "temperature": None, "max_tokens": "max_completion_tokens"}


@dataclass(frozen=True)
class Judging:
    """Who judges, and what that may take."""

    # Name of the model as its server knows it, or `lexical` for the toy's offline judge.
    judge_model: str
    # Address of the OpenAI-compatible server.
    base_url: str = "https://api.openai.com/v1"
    # Stop before more than this is spent, in the currency of the prices; needs both prices.
    max_cost: float | None = None
    # Price of a million tokens sent.
    price_in: float | None = None
    # Price of a million tokens received.
    price_out: float | None = None
    # Calls at a time.
    concurrency: int = 8
    # Calls a minute at most; no limit when not given.
    rate: float | None = None
    # Calls for one score at most; then it is recorded as unscored.
    attempts: int = 12
    # Seconds that a call may take.
    timeout: float = 60.0
    # Tokens of a reply at most.
    max_tokens: int = 300
    # Folder of your copy of the official evaluation scripts: their wording is read, nothing of them is run.
    official_prompts: Path | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is not possible: choose at least 1")
        for name in ("rate", "timeout", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} {value:g} is not possible: choose a number above 0")
        for name in ("price_in", "price_out"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name):g} is not possible")
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise UserError("--max-cost needs --price-in and --price-out: what a million tokens cost")
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise UserError(f"--base-url {self.base_url!r} is no address: it begins with http:// or https://")

    @property
    def server(self) -> str:
        """The server's host and port, without whatever else an address may hold."""
        parts = urlsplit(self.base_url)
        return parts.hostname + (f":{parts.port}" if parts.port else "") if parts.hostname else ""

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """What so many tokens cost; 0 without prices."""
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / 1e6


class Judgement(NamedTuple):
    """What came of one question to the judge."""

    #: 0 to 5; None where there is none.
    score: int | None
    #: "yes" or "no" where it was asked for.
    verdict: str | None = None
    #: Why there is no score.
    unscored: str | None = None
    #: The judge's last words.
    reply: str | None = None
    #: The model that the server says it was.
    model: str | None = None
    #: Tokens of all calls, as the server counts them.
    tokens_in: int = 0
    tokens_out: int = 0
    #: Calls that were made.
    calls: int = 0
    #: How the reply was asked for: "schema", or "text" where the server has none.
    format: str | None = None


class Stopped(Exception):
    """Another call found that nothing can go on."""


class _Again(Exception):
    """This call may go better the next time, after `pause` seconds where the server says so."""

    def __init__(self, reason: str, pause: float | None = None, busy: bool = False):
        super().__init__(reason)
        self.pause, self.busy = pause, busy


class _Never(Exception):
    """This one call can never go better."""


class Endpoint:
    """The judge at the other end; may be called by several threads. `key` is the server's and is written nowhere."""

    def __init__(
        self,
        judging: Judging,
        key: str,
        say: Callable[[str], None] = lambda _: None,
        budget: Budget | None = None,
    ):
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "a judge over the network needs the package openai: pip install -e '.[judge]'; the toy's offline one "
                "is --judge-model lexical"
            ) from error
        self.judging, self.say, self._key = judging, say, key
        self.client = openai.OpenAI(api_key=key, base_url=judging.base_url, max_retries=0, timeout=judging.timeout)
        self.stop = threading.Event()
        self.pace, self.budget = _Pace(judging.rate, self.stop), budget or Budget(judging)
        self._lock, self._in_vain = threading.Lock(), 0
        # What this server turned out not to know: option -> what stands for it.
        self._refused: dict[str, str | None] = {}

    def judge(self, prompt: Prompt, fields: Mapping[str, str], with_verdict: bool = False) -> Judgement:
        """The score of one answer, or why there is none. UserError: no call can succeed; Stopped: one has failed so."""
        try:
            return self._judge(prompt, prompt.messages(fields), with_verdict)
        except UserError:
            self.stop.set()
            raise

    def _judge(self, prompt: Prompt, messages: list[dict[str, str]], with_verdict: bool) -> Judgement:
        total_in = total_out = calls = failures = waits = 0
        reply = model = None
        reason, form, lost = "no call was made", None, 0
        while failures < self.judging.attempts and waits < self.judging.attempts * PATIENCE:
            self.pace.wait()
            self.budget.reserve(messages)
            calls += 1
            try:
                body, form = self._call(prompt, messages, with_verdict)
            except _Never as error:
                self.budget.settle(messages, 0, 0)
                self._unscored(str(error))
                return Judgement(None, None, str(error), None, model, total_in, total_out, calls, form)
            except _Again as error:
                self.budget.settle(messages, 0, 0)
                reason, failures, waits, lost = str(error), failures + (not error.busy), waits + error.busy, lost + 1
                self._pause(error, lost)
                continue
            except BaseException:
                self.budget.settle(messages, 0, 0)
                raise
            usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
            spent = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
            total_in, total_out = total_in + spent[0], total_out + spent[1]
            self.budget.settle(messages, *(spent if any(spent) else (None, None)))
            reply, model = _content(body), body.get("model") if isinstance(body.get("model"), str) else None
            reply = reply.replace(self._key, "***") if len(self._key) >= 8 else reply
            said = parse(reply, with_verdict)
            if said.score is not None:
                self._scored()
                return Judgement(said.score, said.verdict, None, reply, model, total_in, total_out, calls, form)
            reason, failures = said.reason or "", failures + 1
        why = f"{reason} ({calls} calls)"
        self._unscored(why)
        return Judgement(None, None, why, reply, model, total_in, total_out, calls, form)

    def _call(self, prompt: Prompt, messages: list, with_verdict: bool) -> tuple[dict[str, Any], str]:
        """The server's answer as it wrote it, and how it was asked. An option that it does not know is left out."""
        while True:
            with self._lock:
                refused = dict(self._refused)
            options = self._options(prompt, with_verdict, refused)
            form = "schema" if "response_format" in options else "text"
            try:
                return self._send(messages, options), form
            except _Unknown as error:
                self._leave_out(error, messages, options)

    def _options(self, prompt: Prompt, with_verdict: bool, refused: Mapping[str, str | None]) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": self.judging.max_tokens}
        if prompt.temperature is not None:
            options["temperature"] = prompt.temperature
        if prompt.wording == "own":  # the official scripts ask for a dict in words, and nothing else
            options["response_format"] = _schema(with_verdict)
        for name, instead in refused.items():
            value = options.pop(name, None)
            if instead and value is not None:
                options[instead] = value
        return options

    def _send(self, messages: list, options: dict[str, Any]) -> dict[str, Any]:
        import openai

        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=self.judging.judge_model, messages=messages, **options
            )
            text = raw.text
        except openai.APIStatusError as error:
            raise self._of_status(error, options) from error
        except openai.APITimeoutError as error:
            raise _Again(f"no reply within {self.judging.timeout:g} seconds") from error
        except (openai.APIError, UnicodeError) as error:
            raise _Again(f"no reply: {self._told(error)}") from error
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _Again("an empty body" if not text.strip() else "a body that is not JSON") from error
        if not isinstance(body, dict):
            raise _Again("a body that is no object")
        return body

    def _of_status(self, error: openai.APIStatusError, options: Mapping[str, Any]) -> Exception:
        """What becomes of an HTTP error."""
        status, told = error.status_code, self._told(error)
        where, model = self.judging.server, self.judging.judge_model
        if status in (401, 403):
            return UserError(f"{where} refuses the key in OPENAI_API_KEY ({status}: {told}); nothing more was sent")
        if status == 402 or "insufficient_quota" in f"{error.code} {error.type}":
            return UserError(f"{where} says that no credit is left ({status}: {told}); the same command goes on after")
        if status == 404:
            return UserError(f"{where} has no model '{model}' at this address ({status}: {told}); see --base-url")
        if status in (400, 422):
            return _Unknown(told) if any(name in options for name in SUBSTITUTES) else _Never(f"{status}: {told}")
        if status in (408, 409, 425, 429) or status >= 500:
            return _Again(f"{status}: {told}", _retry_after(error.response.headers), busy=status == 429)
        return _Never(f"{status}: {told}")

    def _leave_out(self, error: _Unknown, messages: list, options: dict[str, Any]) -> None:
        """Finds which option the server does not know: the one that it names, else by asking without the schema.

        _Never: it is none of them, so that this one question is refused.
        """
        told = str(error)
        named = [name for name in SUBSTITUTES if name in options and name in told]
        if not named and "response_format" in options and "schema" in told.lower():
            named = ["response_format"]
        if not named and "response_format" in options:
            plain = {name: value for name, value in options.items() if name != "response_format"}
            try:
                self._send(messages, plain)
            except _Unknown:
                raise _Never(f"400: {told}") from error
            named = ["response_format"]
        if not named:
            raise _Never(f"400: {told}") from error
        with self._lock:
            new = named[0] not in self._refused
            self._refused[named[0]] = SUBSTITUTES[named[0]]
        if new:
            instead = SUBSTITUTES[named[0]]
            then = f"{instead} takes its place" if instead else "it is left out from here on"
            self.say(f"{self.judging.server} does not take {named[0]} ({told[:100]}): {then}")

    def _pause(self, error: _Again, tries: int) -> None:
        """Waits after a failure; a server that is busy makes every call wait."""
        if error.pause is not None and error.pause > LONGEST_PAUSE:
            raise UserError(
                f"{self.judging.server} asks to wait {error.pause:.0f} seconds ({error}); the same command goes on then"
            )
        pause = error.pause if error.pause is not None else min(20.0, 0.25 * 2 ** (tries - 1)) * random.uniform(0.5, 1)
        if error.busy:
            self.pace.hold(pause)
        elif self.stop.wait(pause):
            raise Stopped

    def _scored(self) -> None:
        with self._lock:
            self._in_vain = 0

    def _unscored(self, why: str) -> None:
        with self._lock:
            self._in_vain += 1
            in_vain = self._in_vain
        if in_vain >= GIVE_UP_AFTER:
            raise UserError(
                f"{self.judging.server} gave no score to {in_vain} answers in a row, the last time: {why}; "
                "the same command with --retry-unscored goes on when it does"
            )

    def _told(self, error: Exception) -> str:
        """The error in one line, without the key and the server's address: scores, which may be published, cite it."""
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, dict) else None
        code = getattr(error, "code", None)
        text = " ".join(str(message or error).split())
        text += f" ({cause})" if (cause := error.__cause__) and str(cause) else ""
        text = f"{code}: {text}" if isinstance(code, str) and code not in text else text
        return self._hidden(text)[:300]

    def _hidden(self, text: str) -> str:
        """The text without the key and the server's address."""
        host = urlsplit(self.judging.base_url).hostname
        for secret, instead in ((self._key, "***"), (self.judging.server, "the server"), (host, "the server")):
            text = text.replace(secret, instead) if secret else text
        return text


class _Unknown(Exception):
    """400 or 422: perhaps an option that the server does not know."""


class _Pace:
    """So many calls a minute, and none before the time that a busy server asked for."""

    def __init__(self, rate: float | None, stop: threading.Event):
        self.between = 60 / rate if rate else 0.0
        self.stop, self.lock, self.next = stop, threading.Lock(), 0.0

    def wait(self) -> None:
        """Returns when it is this call's turn. Raises Stopped."""
        while True:
            with self.lock:
                now = time.monotonic()
                if self.next <= now:
                    self.next = now + self.between
                    pause = None
                else:
                    pause = self.next - now
            if self.stop.wait(pause or 0):
                raise Stopped
            if pause is None:
                return

    def hold(self, seconds: float) -> None:
        """No call for so long."""
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)


class Budget:
    """What was spent, and what the calls under way may cost at most. Several runs may share one."""

    def __init__(self, judging: Judging):
        self.judging, self.lock = judging, threading.Lock()
        self.spent = self.reserved = 0.0

    def reserve(self, messages: list) -> None:
        """Sets aside the most that a call may cost. UserError: it could go beyond the limit."""
        most = self._most(messages)
        with self.lock:
            limit = self.judging.max_cost
            if limit is not None and self.spent + self.reserved + most > limit:
                raise UserError(
                    f"stopped before --max-cost {limit:g} is passed: {self.spent:.4f} are spent; every score so far is "
                    "kept, and the same command goes on with a budget of its own"
                )
            self.reserved += most

    def settle(self, messages: list, tokens_in: int | None, tokens_out: int | None) -> None:
        """The call is over and took so many tokens; where the server does not say how many (None), the most."""
        most = self._most(messages)
        with self.lock:
            self.reserved -= most
            known = tokens_in is not None and tokens_out is not None
            self.spent += self.judging.cost(tokens_in, tokens_out) if known else most

    def _most(self, messages: list) -> float:
        # A token has at least two bytes in nearly all text; messages have a few tokens of their own.
        tokens = sum(len(m["content"].encode("utf-8", "replace")) / 2 + 10 for m in messages)
        return self.judging.cost(tokens, self.judging.max_tokens)


def _schema(with_verdict: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"score": {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}}
    if with_verdict:
        properties = {"pred": {"type": "string", "enum": ["yes", "no"]}, **properties}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}


def _content(body: Mapping[str, Any]) -> str:
    """The reply's words; "" where there are none, the refusal where it is one."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    message = first.get("message") if isinstance(first, dict) else None
    message = message if isinstance(message, dict) else {}
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    refusal = message.get("refusal")
    return content if isinstance(content, str) and content else refusal if isinstance(refusal, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: milliseconds, seconds or a date; None where it says nothing."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        try:
            if value is not None:
                return max(0.0, float(value) * unit)
        except ValueError:
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, TypeError, ValueError):
        return None
