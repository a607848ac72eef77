"""One judgement from an OpenAI-compatible server: paced, retried with bounds, within a budget.

What a server may do to a call, and what becomes of it:
    429, 5xx, 408, 409, time-out, lost connection   again later, after Retry-After where the server says it
    200 with an error, an empty reply, prose, ...   again later
    400, 422                                        unscored; before the first reply the options are found out
    401, 402, 403, 404, a redirect, no credit left  UserError: nothing that follows could go better
    no connection                                   UserError within seconds, nothing recorded
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from eval.judge import replies
from eval.judge.masking import Mask
from eval.judge.options import SMALL, LeftOut, described, named_option, options_of, sent, ways, without
from eval.judge.pace import Budget, Pace, back_off, retry_after
from eval.judge.parser import parse
from eval.judge.prompts import Prompt
from eval.judge.settings import JudgeConfig
from eval.judge.transport import Lost, Reply, Stopped, Transport, Unreachable
from videogpt_plus.io.errors import attempted, translated
from videogpt_plus.types import UserError

__all__ = ["Budget", "Endpoint", "Judgement", "JudgeConfig", "NoConnection", "Stopped"]

#: A server that asks for a longer pause than this many seconds is not waited for.
LONGEST_WAIT = 900.0
#: Seconds for which a connection is tried: to a server that never answered, and to one that did.
PATIENCE_AT_FIRST, PATIENCE_LATER = 3.0, 10.0
#: Judgements in a row without a score; then the server is taken to be no judge.
GIVE_UP_AFTER = 10
#: How many times more often a call may be asked to wait (429) than it may fail.
PATIENCE = 5
#: Statuses of an address that takes no chats.
NO_SUCH_PLACE = (404, 405, 407, 410, 421, 426)
AGAIN = (408, 409, 425, 429)
#: Seconds at most for which others wait for the first reply, which says what the server takes.
WAIT_FOR_FIRST = 5.0
#: Seconds between two tries to connect.
BETWEEN_TRIES = 0.5
_NOTHING = "nothing was recorded for what is left, and the same command asks it again"
#: Fields of a judgement that hold a server's words.
_SAID = ("unscored", "reply", "model")


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
    #: What went with the messages of the last call: temperature, token limit and format (`options.sent`).
    sent: Mapping[str, Any] | None = None


class NoConnection(UserError):
    """The server cannot be reached, or has never answered."""


class _Again(Exception):
    """This call may go better the next time, after `pause` seconds where the server says so."""

    def __init__(self, reason: str, pause: float | None = None, busy: bool = False):
        super().__init__(reason)
        self.pause, self.busy = pause, busy


class _Never(Exception):
    """This one call can never go better."""


class _Refused(_Never):
    """400 or 422, for what this prompt says or for an option; `option` is the one that the server names."""

    def __init__(self, reason: str, option: str | None):
        super().__init__(reason)
        self.option = option


class _Tally:
    """What one question took."""

    def __init__(self) -> None:
        self.calls = self.tokens_in = self.tokens_out = 0
        self.sent: Mapping[str, Any] | None = None

    def judgement(self, score: int | None, verdict: str | None, why: str | None, body: Mapping[str, Any]) -> Judgement:
        reply = replies.words(body) if body else None
        counts = (self.tokens_in, self.tokens_out, self.calls, self.sent)
        return Judgement(score, verdict, why, reply, replies.model_of(body), *counts)


class Endpoint:
    """The judge at the other end; may be called by several threads. `key` is the server's and is written nowhere.

    `prompts` are all that may be asked. `left_out` are the options that a ledger's earlier calls went without, so that
    all of it is asked alike; None without earlier calls. `settled` gets such options as soon as they are known.
    """

    def __init__(
        self,
        judge_config: JudgeConfig,
        key: str,
        say: Callable[[str], None] = lambda _: None,
        budget: Budget | None = None,
        prompts: Sequence[Prompt] = (),
        left_out: LeftOut | None = None,
        settled: Callable[[LeftOut], None] = lambda _: None,
    ):
        self.transport = Transport(judge_config, key)
        self.judge_config, self.say, self._hide_key = judge_config, say, Mask(key)
        self.stop = threading.Event()
        self.pace, self.budget = Pace(judge_config.rate, self.stop), budget or Budget(judge_config)
        self._prompts, self._recorded, self._tell_settled = prompts, left_out, settled
        # What calls go without, None until it is known; one thread finds it out, under the locks.
        self.left_out: LeftOut | None = None
        self._first, self._settling = threading.Lock(), threading.Lock()
        self._lock, self._in_vain = threading.Lock(), 0
        # Whether the server has ever answered, and since when no connection comes about.
        self._reached, self._gone_since = False, None

    def judge(self, prompt: Prompt, fields: Mapping[str, str], with_verdict: bool = False) -> Judgement:
        """The score of one answer, or why there is none. UserError: no call can succeed; Stopped: one has failed so."""

        def final(error: Exception) -> Exception:
            self.stop.set()
            return type(error)(self._hide_key(str(error)))

        with translated(UserError, to=final):
            found = self._judge(prompt, prompt.messages(fields), with_verdict)
        hidden = {name: value and self._hide_key(value) for name, value in found._asdict().items() if name in _SAID}
        return found._replace(**hidden)

    def close(self) -> None:
        """Ends the calls under way, which raise Stopped, and lets none begin."""
        self.stop.set()
        self.transport.close()

    def _judge(self, prompt: Prompt, messages: list[dict[str, str]], with_verdict: bool) -> Judgement:
        tally, body, reason = _Tally(), {}, "no call was made"
        failures = waits = 0
        while failures < self.judge_config.attempts and waits < self.judge_config.attempts * PATIENCE:
            found = attempted(partial(self._ask, prompt, messages, with_verdict, tally), _Again, _Never)
            if isinstance(found, _Never):
                self._unscored(str(found))
                return tally.judgement(None, None, str(found), {})
            if isinstance(found, _Again):
                error, reason = found, str(found)
            else:
                body = found
                score, verdict, reason = self._read(body, with_verdict)
                if score is not None:
                    self._scored()
                    return tally.judgement(score, verdict, None, body)
                error = _Again(reason)
            failures, waits = failures + (not error.busy), waits + error.busy
            if failures < self.judge_config.attempts:
                self._pause(error, failures + waits)
        if not self._reached:
            raise NoConnection(
                f"{self.judge_config.server} answered none of {tally.calls} calls ({reason}); {_NOTHING}"
            )
        why = f"{reason} ({tally.calls} calls)"
        self._unscored(why)
        return tally.judgement(None, None, why, body)

    def _read(self, body: Mapping[str, Any], with_verdict: bool) -> tuple[int | None, str | None, str]:
        """The score and the verdict of a reply, or why it has none."""
        reply = replies.words(body)
        said, whole = parse(reply, with_verdict), replies.is_whole(body, reply)
        if said.score is not None and whole:
            return said.score, said.verdict, ""
        # The parser cites the beginning of a reply, which may be a part of the key.
        reason = said.reason and parse(self._hide_key(reply), with_verdict).reason
        ended = replies.why_none(body, self.judge_config.max_tokens)
        return None, None, ": ".join(part for part in (ended, reason) if part) or "no score in the reply"

    def _ask(self, prompt: Prompt, messages: list, with_verdict: bool, tally: _Tally) -> dict[str, Any]:
        """The answer to a question. The first to ask finds out what the server takes; others wait for that a while."""
        if self.left_out is None:
            with ExitStack() as at_the_end:
                if self._first.acquire(timeout=min(WAIT_FOR_FIRST, self.judge_config.timeout / 4)):
                    at_the_end.callback(self._first.release)
                if self.left_out is None:
                    return self._ask_first(prompt, messages, with_verdict, tally)
        options = options_of(prompt, with_verdict, self.judge_config.max_tokens, self.left_out)
        return self._call(messages, options, tally)

    def _ask_first(self, prompt: Prompt, messages: list, with_verdict: bool, tally: _Tally) -> dict[str, Any]:
        """Asks with every option: a reply says that all are taken. A refusal says nothing: a small question decides."""
        everything, tried = self._with_most(prompt), self._recorded or frozenset()
        options = options_of(prompt, with_verdict, self.judge_config.max_tokens)
        decides, body, refusal = ways(everything) == ways(options), None, None
        if decides:
            first = options_of(prompt, with_verdict, self.judge_config.max_tokens, tried)
            found = attempted(partial(self._call, messages, first, tally), _Refused)
            body, refusal = (None, found) if isinstance(found, _Refused) else (found, None)
        with self._settling:
            if self.left_out is None:
                found = self._find_out(everything, prompt, with_verdict, tally) if body is None else tried
                self._settle(found)
        if refusal and self.left_out == tried:  # the options are fine, so that the prompt was refused
            raise refusal
        if body is not None and self.left_out == tried:
            return body
        options = options_of(prompt, with_verdict, self.judge_config.max_tokens, self.left_out)
        return self._call(messages, options, tally)

    def _with_most(self, prompt: Prompt) -> dict[str, Any]:
        """The options of the prompt that has most of them."""
        several = (options_of(one, False, self.judge_config.max_tokens) for one in (prompt, *self._prompts))
        return max(several, key=len)

    def _find_out(self, everything: Mapping[str, Any], prompt: Prompt, with_verdict: bool, tally: _Tally) -> LeftOut:
        """What the server does not take, by a small question. UserError: it refuses that in every way."""
        most = max((prompt, *self._prompts), key=lambda one: len(options_of(one, False, 1)))
        left = ways(everything) if self._recorded is None else [self._recorded]
        failures, told, small = 0, "", most.messages(SMALL)
        while left:
            options = options_of(most, with_verdict and most is prompt, self.judge_config.max_tokens, left[0])
            error = attempted(partial(self._call, small, options, tally), _Again, _Never)
            if not isinstance(error, Exception):
                return left[0]
            if isinstance(error, _Never):
                told, left = str(error), without(left[1:], error.option) if isinstance(error, _Refused) else []
            else:
                failures += 1
                if failures >= self.judge_config.attempts * (PATIENCE if error.busy else 1):
                    where = self.judge_config.server
                    raise NoConnection(f"{where} does not answer a small question ({error}); {_NOTHING}") from error
                self._pause(error, failures)
        if self._recorded is not None:
            names = ", ".join(sorted(ways(everything)[-1] - self._recorded)) or "no option"
            raise UserError(
                f"{self.judge_config.server} no longer takes what this run was judged with ({names}; {told}); "
                "move its judged*.jsonl and judged*.meta.json away to judge all of it alike"
            )
        raise UserError(f"{self.judge_config.server} refuses even a small question, with and without options ({told})")

    def _settle(self, left_out: LeftOut) -> None:
        """From here on every call goes without these options."""
        self._tell_settled(left_out)
        for told in described(left_out):
            self.say(f"{self.judge_config.server} {told}" + (", as so far in this run" if self._recorded else ""))
        self.left_out = left_out

    def _call(self, messages: list, options: dict[str, Any], tally: _Tally) -> dict[str, Any]:
        """The body of one reply. Its tokens are counted and settled with the budget, whatever comes of it."""
        self.pace.wait()
        self.budget.reserve(messages)
        spent: tuple[int | None, int | None] = (0, 0)
        tally.calls, tally.sent = tally.calls + 1, sent(options)
        with ExitStack() as at_the_end:
            at_the_end.callback(lambda: self.budget.settle(messages, *spent))
            reply = self._post({"model": self.judge_config.judge_model, "messages": messages, **options})
            if not 200 <= reply.status < 300:
                raise self._of_status(reply.status, replies.error_in(reply.body), reply.headers, options)
            body = _object(reply.body)
            counted = replies.tokens(body)
            tally.tokens_in, tally.tokens_out = tally.tokens_in + counted[0], tally.tokens_out + counted[1]
            if (said := replies.error_said(body)) is not None:
                spent = counted
                if said.status in (401, 402, 403, 429) or said.without_credit:
                    raise self._of_status(said.status or 402, said, reply.headers, options)
                raise _Again(f"an error in the reply: {self._told(said.words)}", retry_after(reply.headers))
            spent = counted if any(counted) else (None, None)
            return body

    def _post(self, request: Mapping[str, Any]) -> Reply:
        """The server's answer of whatever status, after tries to connect. UserError: none can be had."""
        while True:
            began = time.monotonic()
            reply = attempted(partial(self.transport.post, request), Unreachable, Lost)
            if isinstance(reply, Reply):
                with self._lock:
                    self._reached, self._gone_since = True, None
                return reply
            if isinstance(reply, Lost) and (self._reached or reply.waited):
                raise _Again(self._told(str(reply))) from reply
            self._no_connection(reply, began, isinstance(reply, Unreachable) and reply.final)
            if self.stop.wait(BETWEEN_TRIES):
                raise Stopped

    def _no_connection(self, error: Exception, began: float, final: bool) -> None:
        """Raises UserError once a connection was tried for long enough."""
        with self._lock:
            self._gone_since = self._gone_since or began
            patience = PATIENCE_LATER if self._reached else PATIENCE_AT_FIRST
            if not final and time.monotonic() - self._gone_since < patience:
                return
        by = " by way of the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY" if self.transport.proxied else ""
        told = self._told(str(error))
        raise NoConnection(f"no connection to {self.judge_config.server}{by} ({told}); {_NOTHING}") from error

    def _of_status(
        self, status: int, said: replies.ErrorSaid, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> Exception:
        """What becomes of an HTTP error."""
        where, model, told = self.judge_config.server, self.judge_config.judge_model, self._told(said.words)
        if status < 400:
            place = headers.get("location", "").partition("?")[0]
            return UserError(f"{where} sends calls elsewhere ({status}, to {place or 'nowhere'}); see --base-url")
        if status in (401, 403):
            return UserError(f"{where} refuses the key in OPENAI_API_KEY ({status}: {told}); nothing more was sent")
        if status == 402 or said.without_credit:
            return UserError(
                f"{where} says that no credit is left ({status}: {told}); the same command resumes after that"
            )
        if status in NO_SUCH_PLACE:
            return UserError(f"{where} has no model '{model}' at this address ({status}: {told}); see --base-url")
        if status in (400, 422):
            return _Refused(f"{status}: {told}", named_option(said.param, options))
        if status in AGAIN or status >= 500:
            return _Again(f"{status}: {told}", retry_after(headers), busy=status == 429)
        return _Never(f"{status}: {told}")

    def _pause(self, error: _Again, tries: int) -> None:
        """Waits after a failure, never less than `back_off`; a server that is busy makes every call wait."""
        if error.pause is not None and error.pause > LONGEST_WAIT:
            raise UserError(
                f"{self.judge_config.server} asks to wait {error.pause:.0f} seconds ({error}); "
                "the same command resumes then"
            )
        pause = max(error.pause or 0.0, back_off(tries) if error.pause is None else back_off(1))
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
                f"{self.judge_config.server} gave no score to {in_vain} answers in a row, the last time: {why}; "
                "the same command with --retry-unscored resumes when it does"
            )

    def _told(self, text: str) -> str:
        """A server's words in one line, without the key and its address: scores, which may be published, cite them."""
        text = self._hide_key(" ".join(text.split()))
        for place in (self.judge_config.server, urlsplit(self.judge_config.base_url).hostname):
            text = text.replace(place, "the server")
        return text[:300]


def _object(text: bytes) -> dict[str, Any]:
    """The object that a body holds. _Again: it holds none."""
    what = "a body that is not JSON" if text.strip() else "an empty body"
    with translated(ValueError, RecursionError, to=lambda _: _Again(what)):
        body = json.loads(text)
    if not isinstance(body, dict):
        raise _Again("a body that is no object")
    return body
