"""`judge` and `rejudge`: what gives answers in free words their scores."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tyro.conf import OmitArgPrefixes, Positional

from eval.judge.endpoint import JudgeConfig
from videogpt_plus.app.commands.common import (
    Control,
    answered_benchmark,
    answers_of,
    benchmark_stated,
    named_runs,
    which_answers,
)
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
    task: str
    control: str | None = None
    limit: int | None = None
    #: The benchmark's folder where it is not the usual one.
    benchmark: Path | None = None


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


def judge(
    runs: Positional[tuple[str, ...]],
    judge_config: OmitArgPrefixes[JudgeConfig],
    task: str = "vcgbench",
    control: Control | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let a judge score finished answers in free words; goes on where it was, and pays for nothing twice.

    The judge is any OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and is written
    nowhere. What it will take and cost is shown before the first call. --max-cost is for all runs together.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        task: The benchmark, as for `answer`.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the usual one when not given.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(runs, judge_config, task, control, limit, benchmark, retry_unscored, dry_run, again=False)


def rejudge(
    runs: Positional[tuple[str, ...]],
    judge_config: OmitArgPrefixes[JudgeConfig],
    task: str = "vcgbench",
    control: Control | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let another judge score the same answers; the scores of the first are kept, and the two never mixed.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        task: The benchmark, as for `answer`.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the usual one when not given.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(runs, judge_config, task, control, limit, benchmark, retry_unscored, dry_run, again=True)


def _judge(
    runs: Sequence[str],
    judge_config: JudgeConfig,
    task: str,
    control: str | None,
    limit: int | None,
    benchmark: Path | None,
    retry_unscored: bool,
    dry_run: bool,
    again: bool,
) -> None:
    from eval.judge.scoring import identity
    from eval.tasks.benchmarks import check_limit

    task, benchmark = benchmark_stated(task, benchmark)
    check_limit(limit)
    folders = named_runs(runs, take=False)
    wanted = [Answers(folder, task, control, limit, benchmark) for folder in folders]
    scores = judge_answers(judge_config, wanted, retry_unscored, dry_run, again)
    short = len({folder.name for folder in folders}) == len(folders)
    named = {folder.name if short else str(folder): one for folder, one in zip(folders, scores, strict=bool(scores))}
    for who in dict.fromkeys(map(identity, named.values())):  # a server may name another model from run to run
        _show({name: one for name, one in named.items() if identity(one) == who})


def judge_answers(
    judge_config: JudgeConfig,
    wanted: Sequence[Answers],
    retry_unscored: bool = False,
    dry_run: bool = False,
    again: bool = False,
    judged: Callable[[Answers], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Judges the answers of several runs one after the other, within one budget, and returns their scores in order.

    Says first what all of it will take; a dry run ends there, with []. `judged` is called as soon as a run has its
    scores. UserError: answers are missing, or the judge costs too much; nothing was sent then.
    """
    from eval.judge import ledger
    from eval.judge.endpoint import Budget
    from eval.judge.scoring import score_judged
    from videogpt_plus.app.screen import progress

    jobs = [_job(judge_config, one, retry_unscored, again) for one in wanted]
    _announce(judge_config, jobs)
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
        with progress(job.title) as advance:
            given = (judge_config, job.who, job.items, job.ledger, key, retry_unscored, advance, print, budget)
            done = ledger.judge_all(*given)
        torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
        spent = f", {done.cost:.4f} spent" if judge_config.price_in is not None else ""
        print(f"{job.ledger}: {done.new} new, {done.kept} kept, {done.unscored} without a score{spent}{torn}")
        scores.append(score_judged(job.path, job.task, job.kind, job.examples, job.who, job.ledger))
        judged(one)
    return scores


def _job(judge_config: JudgeConfig, one: Answers, retry_unscored: bool, again: bool) -> _Job:
    from eval.answers.runs import examples_of
    from eval.judge import ledger
    from eval.tasks.benchmarks import kind_of

    kind, asked = kind_of(one.task), which_answers(one.task, one.control, one.limit, one.benchmark)
    if kind.scored != "judged":
        command = shlex.join(["videogpt-plus", "score", str(one.run), *asked])
        raise UserError(f"{one.task} has options and needs no judge: `{command}` counts the right ones")
    path = answers_of(one.run, one.control, one.limit, one.task, one.benchmark)
    who = ledger.judge_of(judge_config, kind)
    root = answered_benchmark(one.task, one.run, one.benchmark, path, asked)
    examples = examples_of(root, one.limit, one.task)
    items = ledger.items_of(who, kind, examples, ledger.finished_answers(path, examples, asked))
    where = ledger.ledger_path(path, who, again)
    expected = ledger.estimate(judge_config, who, items, ledger.lines_left(where, who, retry_unscored))
    what = ", ".join(part for part in (one.task, one.control) if part)
    return _Job(f"judge {one.run.name} ({what})", one.task, kind, path, examples, who, items, where, expected)


def show_judged(answers: Mapping[str, Path]) -> None:
    """One table a judge that all of these runs have; answers.jsonl by name. UserError: they have none in common."""
    from eval.judge.scoring import common_scores

    for scores in common_scores(answers):
        _show(scores)


def _announce(judge_config: JudgeConfig, jobs: Sequence[_Job]) -> None:
    """One line a wording: what its judgements of all runs together will take."""
    for who in {job.who.header["prompt_hash"]: job.who for job in jobs}.values():
        hashed = who.header["prompt_hash"]
        parts = [job.expected for job in jobs if job.who.header["prompt_hash"] == hashed]
        wording = f", {who.header['wording']} wording" if who.prompts else ""
        runs = f" of {len(parts)} runs" if len(parts) > 1 else ""
        name = f"judge: {judge_config.judge_model}{wording}, prompts {hashed}"
        calls, tokens_in = sum(p.calls for p in parts), sum(p.tokens_in for p in parts)
        if not tokens_in:
            print(f"{name}: {calls} judgements{runs} to make, nothing to pay")
            continue
        cost = "cost unknown without --price-in and --price-out"
        if all(p.cost is not None for p in parts):
            cost = f"about {sum(p.cost or 0 for p in parts):.2f} in the currency of the prices"
        minutes = sum(p.seconds for p in parts) / 60
        print(
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


def _show(named: Mapping[str, Mapping[str, Any]]) -> None:
    """A table a run, side by side only if they are one judge's."""
    from eval.judge.scoring import check_alike, dates_of, identity
    from videogpt_plus.app.screen import show
    from videogpt_plus.app.screen import table as new_table

    check_alike(named)
    first = next(iter(named.values()))
    note = "" if first["judge"]["comparable"] else "; comparable with nothing but itself"
    print(f"{first['benchmark']}, 0 to 5, judged by {identity(first)} on {dates_of(named.values())}{note}")
    columns = ("aspect", "n", "failed", "unscored", "mean", "95 %", "right %")
    for name, scores in named.items():
        table = new_table(*columns, title=name)
        for aspect, row in scores["aspects"].items():
            mean = "" if row["mean"] is None else f"{row['mean']:.2f}"
            known = None not in (row["ci_low"], row["ci_high"])  # one clip alone has none
            interval = f"{row['ci_low']:.2f} to {row['ci_high']:.2f}" if known else ""
            right = f"{100 * row['accuracy']:.1f}" if "accuracy" in row else ""
            counts = (f"{row['n']} of {row['n_expected']}", str(row["n_failed"]), str(row["n_unscored"]))
            table.add_row(aspect, *counts, mean, interval, right)
        show(table)
