"""`judge` and `rejudge`: what gives answers in free words their scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes, Positional

from eval.judge.endpoint import Judging
from videogpt_plus.commands.common import Control, answers_of, benchmark_folder, find_run
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from eval.judge.ledger import Estimate, Judge

#: Where the judge's key is looked for, and nowhere else.
KEY = "OPENAI_API_KEY"


def judge(
    run: Positional[str],
    judging: OmitArgPrefixes[Judging],
    task: str = "vcgbench",
    control: Control | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let a judge score a finished run's answers in free words; goes on where it was, and pays for nothing twice.

    The judge is any OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and is written
    nowhere. What it will take and cost is shown before the first call.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        task: The benchmark, as for `answer`.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the usual one when not given.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(run, judging, task, control, limit, benchmark, retry_unscored, dry_run, again=False)


def rejudge(
    run: Positional[str],
    judging: OmitArgPrefixes[Judging],
    task: str = "vcgbench",
    control: Control | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let another judge score the same answers; the scores of the first are kept, and the two never mixed.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        task: The benchmark, as for `answer`.
        control: The control that was answered; all frames when not given.
        limit: As it was answered.
        benchmark: Benchmark folder; the usual one when not given.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(run, judging, task, control, limit, benchmark, retry_unscored, dry_run, again=True)


def _judge(
    run: str,
    judging: Judging,
    task: str,
    control: str | None,
    limit: int | None,
    benchmark: Path | None,
    retry_unscored: bool,
    dry_run: bool,
    again: bool,
) -> None:
    from eval.benchmarks import get_benchmark
    from eval.judge import ledger
    from eval.judge.scoring import score_judged
    from eval.runs import examples_of
    from videogpt_plus.screen import progress

    kind = get_benchmark(task)
    if kind.scored != "judged":
        raise UserError(f"{task} has options and needs no judge: `videogpt-plus score {run}` counts the right ones")
    folder = find_run(run)
    answers_path = answers_of(folder, control, limit, task)
    examples = examples_of(benchmark_folder(task, folder, benchmark), limit, task)
    answers = ledger.finished_answers(answers_path, examples)
    who = ledger.judge_of(judging, kind)
    items = ledger.items_of(who, kind, examples, answers)
    path = ledger.ledger_path(answers_path, who, again)
    expected = ledger.estimate(judging, who, items, ledger.lines_left(path, retry_unscored))
    _announce(judging, who, expected)
    if dry_run:
        return
    if judging.max_cost is not None and expected.cost is not None and expected.cost > judging.max_cost:
        raise UserError(
            f"about {expected.cost:.2f} is more than --max-cost {judging.max_cost:g}: nothing was sent; raise it, or "
            "choose a cheaper judge"
        )
    key = _key(judging) if expected.calls and expected.tokens_in else ""
    with progress(f"judge {folder.name} ({task})") as advance:
        done = ledger.judge_all(judging, who, items, path, key, retry_unscored, advance, print)
    torn = f"; {done.torn_bytes} bytes of a half-written line were cut off first" if done.torn_bytes else ""
    spent = f", {done.cost:.4f} spent" if judging.price_in is not None else ""
    print(f"{path}: {done.new} new, {done.kept} kept, {done.unscored} without a score{spent}{torn}")
    scores = score_judged(answers_path, task, kind, examples, who, path)
    _show({folder.name: scores})


def show_judged(answers: Mapping[str, Path]) -> None:
    """One table a judge that all of these runs have; answers.jsonl by name. UserError: they have none in common."""
    from eval.judge.scoring import common_scores

    for scores in common_scores(answers):
        _show(scores)


def _announce(judging: Judging, who: Judge, expected: Estimate) -> None:
    wording = f", {who.header['wording']} wording" if who.prompts else ""
    name = f"judge: {judging.judge_model}{wording}, prompts {who.header['prompt_hash']}"
    if not expected.tokens_in:
        print(f"{name}: {expected.calls} judgements to make, nothing to pay")
        return
    cost = "cost unknown without --price-in and --price-out"
    if expected.cost is not None:
        cost = f"about {expected.cost:.2f} in the currency of the prices"
    minutes = expected.seconds / 60
    print(
        f"{name}: {expected.calls} calls to {judging.server}, about {expected.tokens_in:,} tokens there and "
        f"{expected.tokens_out:,} back, {cost}, about {minutes:.1f} minutes"
    )


def _key(judging: Judging) -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(
            f"{KEY} is not set: export the key of {judging.server} under that name (any text will do for a server "
            "that asks for none)"
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{KEY} holds characters that no key has; export it again")
    return key


def _show(named: Mapping[str, Mapping[str, Any]]) -> None:
    """A table a run, side by side only if they are one judge's."""
    from eval.judge.scoring import check_alike, identity
    from videogpt_plus.screen import show
    from videogpt_plus.screen import table as new_table

    check_alike(named)
    first = next(iter(named.values()))
    who, dates = first["judge"], sorted({s["judge"][d] for s in named.values() for d in ("first_date", "last_date")})
    note = "" if who["comparable"] else "; comparable with nothing but itself"
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    print(f"{first['benchmark']}, 0 to 5, judged by {identity(first)} on {when}{note}")
    columns = ("aspect", "n", "failed", "unscored", "mean", "95 %", "right %")
    for name, scores in named.items():
        table = new_table(*columns, title=name)
        for aspect, row in scores["aspects"].items():
            mean = "" if row["mean"] is None else f"{row['mean']:.2f}"
            interval = "" if row["mean"] is None else f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"
            right = f"{100 * row['accuracy']:.1f}" if "accuracy" in row else ""
            counts = (f"{row['n']} of {row['n_expected']}", str(row["n_failed"]), str(row["n_unscored"]))
            table.add_row(aspect, *counts, mean, interval, right)
        show(table)
