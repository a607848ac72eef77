"""`subset`: which questions need visual tokens, and what choosing the level would be worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from eval.statistics.estimates import LEVEL
from videogpt_plus.app.questions import WHOLE
from videogpt_plus.app.runs import named_runs
from videogpt_plus.app.screen import new_table, show
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.types import UserError


def subset(runs: Positional[tuple[str, ...]], output: Path | None = None) -> None:
    """The questions that need visual tokens by the published rule, beside what the rule picks without any effect.

    Args:
        runs: Answered runs of one experiment at several levels, best 2, 4, 8 and 16, with one or more seeds;
            'toy_pool*' is every one that fits.
        output: JSON file for the subset, every question's minimal level and all the numbers.
    """
    from eval.statistics.subset import analyse
    from videogpt_plus.io.files import write_text

    if output and not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; make it, or name another file")
    made = analyse(*_read(runs))
    if output:
        write_text(output, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    _show(made)
    if output:
        print(f"subset: {output}")


def _read(runs: tuple[str, ...]) -> tuple[dict[tuple[int, float], Mapping[str, bool]], dict[str, dict[str, str]]]:
    """(seed, level) -> key -> right or wrong, and the task and clip of each question."""
    from eval.report.compare import read_run
    from eval.report.results import series_of

    found, about, named = {}, {}, {}
    for folder in named_runs(runs, make=False):
        experiment = load_experiment(folder)
        named.setdefault(series_of(experiment.name), folder)
        if len(named) > 1:
            raise UserError(f"{' and '.join(map(str, named.values()))} are not one experiment at several levels")
        at = (experiment.seed, experiment.level)
        if at in found:
            raise UserError(f"{folder} is a second run of level {at[1]:g} with seed {at[0]}: name one series of runs")
        answers = read_run(WHOLE.answers(folder))
        if answers.judged:
            raise UserError(f"{answers.path} holds a judge's scores: the rule is for answers that are right or wrong")
        found[at] = answers.values
        tasks = {key: task for task, part in answers.parts.items() for key in part}
        about |= {key: {"task": tasks[key], "video": video} for key, video in answers.videos.items()}
    return found, about


def _show(made: Mapping[str, Any]) -> None:

    levels = " ".join(f"{level:g}" for level in made["rule"]["levels"])
    table = new_table(
        "seed", "picked", "of", "expected without an effect (90 %)", "p", title=f"Right, then wrong: levels {levels}"
    )
    rows = made["rule"]["by_seed"] | ({"all": made["rule"]["all_seeds"]} if len(made["seeds"]) > 1 else {})
    for seed, row in rows.items():
        n = made["n"] * (len(made["seeds"]) if seed == "all" else 1)
        table.add_row(seed, str(row["observed"]), str(n), _expected(row), _p(row["p"]))
    show(table)
    if made["cross_fit"]:
        levels = list(made["accuracy"])
        chosen = [level for level in levels if any(level in row["accuracy"] for row in made["cross_fit"])]
        table = new_table(
            "chosen by, scored on", "n", *chosen, title="Accuracy of the subset in % on runs it was not chosen by"
        )
        for row in made["cross_fit"]:
            values = [f"{100 * row['accuracy'][level][0]:.1f}" if level in row["accuracy"] else "" for level in chosen]
            table.add_row(f"seed {row['select']}, seed {row['score']}", str(row["n"]), *values)
        show(table)
    print(*sentences(made), sep="\n")


def sentences(made: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences to quote; each says what it was tested against."""
    counts = ", ".join(f"{level}: {count}" for level, count in made["minimal_levels"]["count"].items())
    return [
        f"{made['n']} of {made['n_all']} questions are in all runs, about {made['n_clips']} clips.",
        _of_rule(made),
        f"Minimal sufficient level: {counts}.",
        *_of_agreement(made["minimal_levels"]["agreement"]),
        *_of_oracle(made["oracle"]),
        *made["unknown"],
    ]


def _of_rule(made: Mapping[str, Any]) -> str:
    row, seeds, levels = made["rule"]["all_seeds"], len(made["seeds"]), len(made["rule"]["levels"])
    over = f"over {seeds} seeds " if seeds > 1 else ""
    verdict = (
        "the rule picks more questions than it would if the level had no effect"
        if row["p"] < LEVEL
        else "the rule is not shown to pick more questions than it would if the level had no effect"
    )
    least = f"; no p is below {row['least_p']:.3f} with one seed" if seeds == 1 else ""
    return (
        f"Rule: {over}{row['observed']} picked, {_expected(row)} expected without an effect of the level (90 % range), "
        f"{_is(row['p'])} (every order of the {levels} runs of each seed{least}): {verdict}."
    )


def _of_agreement(found: Mapping[str, float] | None) -> list[str]:
    if found is None:
        return []
    verdict = "the seeds agree beyond it" if found["p"] < LEVEL else "the seeds are not shown to agree beyond it"
    return [
        f"Agreement of the seeds on it (Fleiss' kappa): {found['kappa']:.2f}. The questions' difficulty alone gives "
        f"{found['expected']:.2f} ({found['low']:.2f} to {found['high']:.2f}, 90 % range), {_is(found['p'])}: "
        f"{verdict}."
    ]


def _of_oracle(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Right at any level: {100 * found['oracle']:.1f} %; best single level ({found['best_level']:g}): "
        f"{100 * found['best_fixed']:.1f} %. The difference of {100 * found['gain']:.1f} points includes what as many "
        "guesses gain by themselves."
    ]
    if found["excess"]:
        lines.append(_of_excess(found))
    if found["by_question"]:
        lines.append("Level chosen for each question on the other seeds: " + _of_choice(found["by_question"]))
    if found["by_type"]:
        where = "clips and seeds" if found["by_question"] else "clips of the same runs, whose luck is in it"
        lines.append(
            f"Level chosen for each of {found['types']} tasks on other {where}: " + _of_choice(found["by_type"])
        )
    return lines


def _of_excess(found: Mapping[str, Any]) -> str:
    excess = found["excess"]
    if excess["low"] is None:
        said = "too few clips differ to tell whether the levels add anything"
    elif excess["low"] > 0:
        said = "the level matters for some questions; whether choosing it pays is another matter"
    else:
        said = "the levels are not shown to add anything to as many guesses"
    return (
        f"As many runs drawn without regard to level are right on {100 * found['guesses']:.1f} %; any level is "
        f"{100 * excess['value']:+.1f} points above{_between(excess)}: {said}."
    )


def _of_choice(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        said = "too few clips differ to tell"
    elif found["low"] > 0:
        said = "a gain"
    elif found["high"] < 0:
        said = "a loss"
    else:
        said = "no gain shown"
    return f"{100 * found['value']:+.1f} points over one level for all{_between(found)}: {said}."


def _between(found: Mapping[str, Any]) -> str:
    """The interval in points; "" where there is none."""
    return "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}, 95 %)"


def _expected(row: Mapping[str, Any]) -> str:
    return f"{row['expected']:.0f} ({row['low']} to {row['high']})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _is(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
