"""Answers in free words of several runs, judged within one budget."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.judge.endpoint import JudgeConfig
from videogpt_plus.app.listener import Listener
from videogpt_plus.app.questions import TaskConfig, answered_benchmark
from videogpt_plus.app.screen import TERMINAL
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from eval.judge.ledger import Estimate, Item, Judge
    from eval.tasks.benchmarks import Benchmark
    from eval.tasks.open_questions import OpenExample

#: Where the judge's key is looked for, and nowhere else.
KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class MaybeJudge(JudgeConfig):
    """Who judges a sweep's open questions, if anybody does, and what that may take."""

    # Name of the model that judges open questions, as its server knows it, or `lexical` for toy_open; nobody judges
    # when not given.
    judge_model: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `videogpt-plus judge` that say the same."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return tuple(part for f in changed for part in (f"--{f.name.replace('_', '-')}", str(getattr(self, f.name))))


#: Nobody judges.
NOBODY = MaybeJudge()


class Answers(NamedTuple):
    """Answers that a judge is to score."""

    #: The run's folder.
    run: Path
    config: TaskConfig


@dataclass(frozen=True)
class _Job:
    """One run's answers, with what has to be judged of them."""

    title: str
    task: str
    kind: Benchmark
    path: Path
    examples: Sequence[OpenExample]
    who: Judge
    items: Sequence[Item]
    ledger: Path
    expected: Estimate


def judge_answers(
    judge_config: JudgeConfig,
    wanted: Sequence[Answers],
    retry_unscored: bool = False,
    dry_run: bool = False,
    again: bool = False,
    judged: Callable[[Answers], None] = lambda _: None,
    listener: Listener = TERMINAL,
) -> list[dict[str, Any]]:
    """Judges the answers of several runs one after the other, within one budget, and returns their scores in order.

    Says first what all of it will take; a dry run ends there, with []. `judged` is called as soon as a run has its
    scores. UserError: answers are missing, or the judge costs too much; nothing was sent then.
    """
    from eval.judge import ledger
    from eval.judge.endpoint import Budget
    from eval.judge.scoring import score_judged

    jobs = [_job(judge_config, one, retry_unscored, again) for one in wanted]
    for line in _expected(judge_config, jobs):
        listener.say(line)
    if dry_run:
        return []
    cost = sum(job.expected.cost or 0 for job in jobs)
    if judge_config.max_cost is not None and cost > judge_config.max_cost:
        raise UserError(
            f"about {cost:.2f} is more than --max-cost {judge_config.max_cost:g}: nothing was sent; raise it, or "
            "choose a cheaper judge"
        )
    key = key_of(judge_config) if any(job.expected.calls and job.expected.tokens_in for job in jobs) else ""
    budget, scores = Budget(judge_config), []
    for one, job in zip(wanted, jobs, strict=True):
        with listener.progress(job.title) as advance:
            given = (judge_config, job.who, job.items, job.ledger, key, retry_unscored, advance, listener.say, budget)
            done = ledger.judge_all(*given)
        torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
        spent = f", {done.cost:.4f} spent" if judge_config.price_in is not None else ""
        listener.say(f"{job.ledger}: {done.new} new, {done.kept} kept, {done.unscored} without a score{spent}{torn}")
        scores.append(score_judged(job.path, job.task, job.kind, job.examples, job.who, job.ledger))
        judged(one)
    return scores


def _job(judge_config: JudgeConfig, one: Answers, retry_unscored: bool, again: bool) -> _Job:
    from eval.answers.runs import examples_of
    from eval.judge import ledger
    from eval.tasks.benchmarks import kind_of

    task, asked = one.config.task, one.config.options
    kind = kind_of(task)
    if kind.scored != "judged":
        command = shlex.join(["videogpt-plus", "score", str(one.run), *asked])
        raise UserError(f"{task} has options and needs no judge: `{command}` counts the right ones")
    path = one.config.answers(one.run)
    who = ledger.judge_of(judge_config, kind)
    examples = examples_of(answered_benchmark(one.config, one.run), one.config.limit, task)
    items = ledger.items_of(who, kind, examples, ledger.finished_answers(path, examples, asked))
    where = ledger.ledger_path(path, who, again)
    expected = ledger.estimate(judge_config, who, items, ledger.lines_left(where, who, retry_unscored))
    what = ", ".join(part for part in (task, one.config.control) if part)
    return _Job(f"judge {one.run.name} ({what})", task, kind, path, examples, who, items, where, expected)


def _expected(judge_config: JudgeConfig, jobs: Sequence[_Job]) -> Iterator[str]:
    """One line a wording: what its judgements of all runs together will take."""
    for who in {job.who.header["prompt_hash"]: job.who for job in jobs}.values():
        hashed = who.header["prompt_hash"]
        parts = [job.expected for job in jobs if job.who.header["prompt_hash"] == hashed]
        wording = f", {who.header['wording']} wording" if who.prompts else ""
        runs = f" of {len(parts)} runs" if len(parts) > 1 else ""
        name = f"judge: {judge_config.judge_model}{wording}, prompts {hashed}"
        calls, tokens_in = sum(p.calls for p in parts), sum(p.tokens_in for p in parts)
        if not tokens_in:
            yield f"{name}: {calls} judgements{runs} to make, nothing to pay"
            continue
        cost = "cost unknown without --price-in and --price-out"
        if all(p.cost is not None for p in parts):
            cost = f"about {sum(p.cost or 0 for p in parts):.2f} in the currency of the prices"
        minutes = sum(p.seconds for p in parts) / 60
        yield (
            f"{name}: {calls} calls{runs} to {judge_config.server}, about {tokens_in:,} tokens there and "
            f"{sum(p.tokens_out for p in parts):,} back, {cost}, about {minutes:.1f} minutes"
        )


def key_of(judge_config: JudgeConfig) -> str:
    """The key from the environment. UserError: there is none, or it can be none."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(
            f"{KEY} is not set: export the key of {judge_config.server} under that name (any text will do for a server "
            "that asks for none)"
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{KEY} holds characters that no key has; export it again")
    return key
