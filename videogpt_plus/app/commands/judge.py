"""`judge` and `rejudge`: what gives answers in free words their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from eval.judge.endpoint import JudgeConfig
from videogpt_plus.app.judging import Answers, judge_answers
from videogpt_plus.app.questions import TaskConfig
from videogpt_plus.app.runs import named_runs
from videogpt_plus.app.screen import new_table, show

#: What is judged unless another benchmark is named.
JUDGED = TaskConfig("vcgbench")


def judge(
    runs: Positional[tuple[str, ...]],
    judge_config: OmitArgPrefixes[JudgeConfig],
    config: OmitArgPrefixes[TaskConfig] = JUDGED,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let a judge score finished answers in free words; goes on where it stopped, and never pays twice for one score.

    The judge is any OpenAI-compatible server; its key comes from the environment (OPENAI_API_KEY) and is written
    nowhere. What it will take and cost is shown before the first call. --max-cost is for all runs together.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(runs, judge_config, config, retry_unscored, dry_run, again=False)


def rejudge(
    runs: Positional[tuple[str, ...]],
    judge_config: OmitArgPrefixes[JudgeConfig],
    config: OmitArgPrefixes[TaskConfig] = JUDGED,
    retry_unscored: bool = False,
    dry_run: bool = False,
) -> None:
    """Let another judge score the same answers; the scores of the first are kept, and the two never mixed.

    Args:
        runs: Run folders, or names of trained experiments under results/; 'toy_pool*' is every one that fits.
        retry_unscored: Ask again where the judge gave no score.
        dry_run: Show what it will take and cost, and call nobody.
    """
    _judge(runs, judge_config, config, retry_unscored, dry_run, again=True)


def _judge(
    runs: Sequence[str],
    judge_config: JudgeConfig,
    config: TaskConfig,
    retry_unscored: bool,
    dry_run: bool,
    again: bool,
) -> None:
    from eval.judge.scoring import identity
    from eval.tasks.benchmarks import check_limit

    config = config.read()
    check_limit(config.limit)
    folders = named_runs(runs, make=False)
    wanted = [Answers(folder, config) for folder in folders]
    scores = judge_answers(judge_config, wanted, retry_unscored, dry_run, again)
    short = len({folder.name for folder in folders}) == len(folders)
    named = {folder.name if short else str(folder): one for folder, one in zip(folders, scores, strict=bool(scores))}
    for who in dict.fromkeys(map(identity, named.values())):  # a server may name another model from run to run
        _show({name: one for name, one in named.items() if identity(one) == who})


def show_judged(answers: Mapping[str, Path]) -> None:
    """One table a judge that all of these runs have; answers.jsonl by name. UserError: they have none in common."""
    from eval.judge.scoring import common_scores

    for scores in common_scores(answers):
        _show(scores)


def _show(named: Mapping[str, Mapping[str, Any]]) -> None:
    """A table a run, side by side only if they are one judge's."""
    from eval.judge.scoring import check_alike, dates_of, identity

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
