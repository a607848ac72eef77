"""How fast, how often and at what cost a judge is called: pauses after failures, calls a minute, a limit of money."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import isnan

from eval.judge.settings import JudgeConfig
from eval.judge.transport import Stopped
from videogpt_plus.types import UserError

#: Seconds to wait after the first failure, at least half of it; it doubles with each further one, up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0


def back_off(tries: int) -> float:
    """Seconds to wait after so many failures in a row; chance keeps the calls of one moment apart."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tries - 1, 20)) * random.uniform(0.5, 1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: milliseconds, seconds or a date; None where it says nothing of the kind."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            return None if isnan(seconds) else max(0.0, seconds)
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


class Pace:
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

    def __init__(self, judge_config: JudgeConfig):
        self.judge_config, self.lock = judge_config, threading.Lock()
        self.spent = self.reserved = 0.0

    def reserve(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Sets aside the most that a call may cost. UserError: it could go beyond the limit."""
        most = self._most(messages)
        with self.lock:
            limit = self.judge_config.max_cost
            if limit is not None and self.spent + self.reserved + most > limit:
                raise UserError(
                    f"stopped before --max-cost {limit:g} is passed: {self.spent:.4f} are spent; every score so far is "
                    "kept, and the same command resumes with a budget of its own"
                )
            self.reserved += most

    def settle(self, messages: Sequence[Mapping[str, str]], tokens_in: int | None, tokens_out: int | None) -> None:
        """The call is over and took so many tokens; where the server does not say how many (None), the most."""
        most = self._most(messages)
        with self.lock:
            self.reserved -= most
            known = tokens_in is not None and tokens_out is not None
            self.spent += self.judge_config.cost(tokens_in, tokens_out) if known else most

    def _most(self, messages: Sequence[Mapping[str, str]]) -> float:
        # A token has at least two bytes in nearly all text; messages have a few tokens of their own.
        tokens = sum(len(m["content"].encode("utf-8", "replace")) / 2 + 10 for m in messages)
        return self.judge_config.cost(tokens, self.judge_config.max_tokens)
