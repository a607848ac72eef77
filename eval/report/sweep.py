"""All answered runs below a folder, scored and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from eval.answers.answer import read_answers
from eval.answers.places import OtherAnswers, name_of, task_of
from eval.report.found import Answers, find, is_copy, scores_of
from eval.report.judged import Run, judged_section
from eval.report.parts import Section, Table
from eval.report.report import write_report
from eval.report.results import Cell
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import base_of
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import costs
from videogpt_plus.types import UserError


def _seen(path: Path, experiment: Experiment) -> tuple[int, int]:
    """Visual tokens and frames of a question in these answers, on average: short clips have fewer than the most.

    Where nothing was answered: the most that the experiment allows.
    """
    lines = read_answers(path, ("visual_tokens",)).values()
    counts = [line["visual_tokens"] for line in lines if line["visual_tokens"] is not None]
    if not counts:
        return num_visual_tokens(experiment, experiment.num_frames), experiment.num_frames
    mean = sum(counts) / len(counts)
    # A reducer may make as many tokens of any number of frames: then it is the most.
    return round(mean), min(
        range(experiment.num_frames, -1, -1), key=lambda frames: abs(num_visual_tokens(experiment, frames) - mean)
    )


def report_sweep(
    root: Path,
    title: str | None = None,
    chosen: Mapping[str, Path] | None = None,
    say: Callable[[str], None] = lambda _: None,
    margin: float | None = None,
) -> Path:
    """Scores every answered run below `root`, writes `root/report` and returns its page.

    `chosen` holds the folders of benchmarks of options that do not lie where they usually do, by name. Answers that
    are not what their folder says, or to a copy of a benchmark that is gone, are left out: a table of the page says
    so, and so is `say` told. `margin` is what fewer visual tokens may cost, in points of accuracy. UserError: answers
    are missing, or there is nothing to report.
    """
    found, chosen = find(root), chosen or {}
    usual = _of_usual(found.answers, chosen)
    cells, judged, notes = [], {}, list(found.notes)
    for one in found.answers:
        tokens, frames = _seen(one.path, one.experiment)
        if one.is_judged:
            judged[one.path] = Run(one.shown, one.experiment.level, one.experiment.seed, tokens)
            continue
        try:
            scores, told = scores_of(one, chosen if "root" in one.meta else usual)
        except OtherAnswers as error:
            notes.append((str(one.path.parent), f"not reported: {error}"))
            continue
        notes += [(str(one.path.parent), line) for line in told]
        cells.append(_cell(one, tokens, frames, scores))
    for what, why in notes:
        say(f"{what}: {why}")
    if not cells and not judged:
        raise UserError(_nothing(root, notes))
    more = judged_section(judged, chosen)
    return write_report(
        cells,
        root / "report",
        title or f"Pool sweep: {root.name}",
        _stamp(found.answers),
        _with_notes(more, notes),
        name=_called(root),
        margin=None if margin is None else margin / 100,
    )


def _called(root: Path) -> str:
    """What tells the sweep from others: its folder as seen from here, or the whole path of one that lies elsewhere."""
    here, there = Path().resolve(), root.resolve()
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else there.as_posix()


def _of_usual(answers: Sequence[Answers], chosen: Mapping[str, Path]) -> dict[str, Path]:
    """The places that are no copy's which was asked by itself: what answers to the usual benchmark are scored by."""
    copies = [one.meta for one in answers if "copy" in one.meta]
    return {
        name: place
        for name, place in chosen.items()
        if not any(task_of(meta) == name and place.exists() and is_copy(meta, place) for meta in copies)
    }


def _cell(one: Answers, tokens: int, frames: int, scores: Mapping[str, Any]) -> Cell:
    experiment = one.experiment
    return Cell.of(
        scores,
        benchmark=name_of(one.meta),
        experiment=one.shown,
        adapter=experiment.reducer.name,
        level=experiment.level,
        seed=experiment.seed,
        visual_tokens=tokens,
        num_frames=experiment.num_frames,
        random=experiment.is_random,
        control=one.meta["control"],
        **costs(experiment, frames),
    )


def _stamp(answers: Sequence[Answers]) -> str:
    """The day of the newest answers, so that the report of the same answers stays the same, and what trained them."""
    day = datetime.fromtimestamp(max(one.path.stat().st_mtime for one in answers))
    seeds = sorted({seed for one in answers if (seed := one.experiment.seed) is not None})
    random = sorted({base_of(one.experiment.name) for one in answers if one.experiment.is_random})
    stamp = f"answers of {day:%Y-%m-%d}"
    stamp += f", training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else ""
    return stamp + (f"; the weights are random and the answers mean nothing: {', '.join(random)}" if random else "")


def _nothing(root: Path, notes: Sequence[tuple[str, str]]) -> str:
    if not notes:
        return f"nothing to report: no answers under {root}; run `videogpt-plus sweep toy` first, or name another"
    what, why = notes[0]
    return f"nothing to report under {root}: {what} is {why}" + (f" ({len(notes) - 1} more)" if notes[1:] else "")


def _with_notes(more: Section, notes: Sequence[tuple[str, str]]) -> Section:
    if not notes:
        return more
    note = "Answers that the tables of this report leave out, or show under another name or in part."
    return replace(more, tables=[Table("Left out or renamed", note, ["answers", "reason"], notes), *more.tables])
