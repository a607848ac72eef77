"""Judged runs of a sweep beside each other: means over seeds, paired tests between levels, their files. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from eval import plots
from eval.answer import read_answers
from eval.cells import Cell, curves, pairs, series
from eval.compare import LEVEL, NONE_SHOWN
from eval.journal import clip_of
from eval.judge.parser import HIGHEST
from eval.judge.scoring import identity
from eval.report_csv import safe
from eval.report_parts import DETECTABLE, Table
from eval.stats import Estimate, PairedScores, compare_scores_seeds, holm, with_seed_noise

Scores = Mapping[str, Any]
TEST_COLUMNS = ["comparison", "aspect", "n", "first", "second", "difference", "p", "p adjusted", DETECTABLE, "shown"]
CSV_COLUMNS = [
    "benchmark", "judge_model", "served_models", "prompt_hash", "first_date", "last_date", "experiment", "level",
    "seed", "visual_tokens", "control", "aspect", "n", "n_expected", "n_failed", "n_unscored", "mean", "ci_low",
    "ci_high", "accuracy", "accuracy_low", "accuracy_high",
]  # fmt: skip


class Run(NamedTuple):
    """What the report says of a run whose answers are judged."""

    experiment: str
    level: float
    seed: int
    visual_tokens: int

    @property
    def described(self) -> str:
        return f"{self.experiment}: {self.visual_tokens:,} tokens"


@dataclass(frozen=True)
class Test:
    """Two levels by one aspect; `adjusted` is its p after Holm over all pairs and aspects of the table."""

    label: str
    first: str
    second: str
    aspect: str
    paired: PairedScores
    adjusted: float = 1.0

    @property
    def verdict(self) -> str:
        return NONE_SHOWN if self.adjusted >= LEVEL else "first" if self.paired.difference > 0 else "second"


class Column(NamedTuple):
    """Runs that one judge scored, and what follows of them."""

    #: answers.jsonl -> its scores.
    scores: Mapping[Path, Scores]
    runs: Mapping[Path, Run]

    @property
    def first(self) -> Scores:
        return next(iter(self.scores.values()))

    @property
    def name(self) -> str:
        """For files: the judge's model and the beginning of its prompts' hash."""
        judge = self.first["judge"]
        plain = "".join(c if c.isalnum() or c in "-." else "-" for c in judge["judge_model"])
        return f"{plain}_{judge['prompt_hash'][:8]}"

    def models(self) -> list[Cell]:
        """A cell for each level of each series with all frames: its aspects as means over seeds, and its runs."""
        found: dict[tuple[str, float], dict[int, Path]] = {}
        for path, scores in self.scores.items():
            run = self.runs[path]
            if scores["control"] is None:
                found.setdefault((series({"experiment": run.experiment}), run.level), {})[run.seed] = path
        return [
            {
                "experiment": f"{name}_pool{level:g}",
                "level": level,
                "control": None,
                "visual_tokens": self.runs[next(iter(paths.values()))].visual_tokens,
                "aspects": {aspect: self._mean(aspect, list(paths.values())) for aspect in self.first["aspects"]},
                "paths": paths,
            }
            for (name, level), paths in found.items()
        ]

    def _mean(self, aspect: str, paths: Sequence[Path]) -> Estimate | None:
        rows = [row for path in paths if (row := self.scores[path]["aspects"].get(aspect)) and row["mean"] is not None]
        if not rows:
            return None
        values = [Estimate(*(row[name] / HIGHEST for name in ("mean", "ci_low", "ci_high"))) for row in rows]
        whole = Estimate(*(fmean(part) for part in zip(*values, strict=True)))
        return Estimate(*(HIGHEST * part for part in with_seed_noise(whole, [value.value for value in values])))


def tests(column: Column) -> list[Test]:
    """Every pair of levels, and of series at a level, by every aspect, over the seeds that both have."""
    found, clips = [], {}
    for path in column.scores:
        clips |= {key: clip_of(line) for key, line in read_answers(path).items()}
    for label, first, second in pairs(column.models()):
        seeds = [seed for seed in first["paths"] if seed in second["paths"]]
        sides = [[model["paths"][seed] for seed in seeds] for model in (first, second)]
        for aspect in column.first["aspects"]:
            one, other = ([_known(column.scores[path], aspect) for path in paths] for paths in sides)
            if not seeds or not (common := set.intersection(*(set(run) for run in (*one, *other)))):
                continue
            videos = {key: clips[key.partition("/")[0]] for key in common}
            names = (first["experiment"], second["experiment"])
            found.append(Test(label, *names, aspect, compare_scores_seeds(one, other, videos)))
    adjusted = holm([test.paired.p for test in found])
    return [replace(test, adjusted=p) for test, p in zip(found, adjusted, strict=True)]


def _known(scores: Scores, aspect: str) -> dict[str, float]:
    """The scores of an aspect, without the answers that have none."""
    row = scores["aspects"].get(aspect, {"scores": {}})
    return {key: score for key, score in row["scores"].items() if score is not None}


def detectable(column: Column, found: Sequence[Test], aspect: str) -> str:
    """The minimum detectable difference between neighbouring levels, the median over these; "" without any."""
    all_curves = curves(column.models()).values()
    near = {(fine["experiment"], coarse["experiment"]) for curve in all_curves for fine, coarse in pairwise(curve)}
    of = [test.paired.detectable for test in found if (test.first, test.second) in near and test.aspect == aspect]
    return _score(median(of)) if of else ""


def test_table(name: str, column: Column, found: Sequence[Test]) -> list[Table]:
    """The paired tests as a table; [] where there are not two levels."""
    if not found:
        return []
    seeds = max(test.paired.seeds for test in found)
    said = (
        f"Means over {seeds} seeds, whose noise is in interval and p (t test)."
        if seeds > 1
        else "p: Wilcoxon's signed rank test on the clips' mean differences. One training seed: the noise of training "
        "is not in these numbers."
    )
    note = (
        f"The same questions, paired, judged by {identity(column.first)}; difference in the judge's points with its "
        f"95 % interval, clips being resampled as a whole. {said} The adjusted p (Holm) keeps the chance of any false "
        "alarm in this table at 5 %."
    )
    rows = [
        [
            test.label, test.aspect, f"{test.paired.n:,}", _score(test.paired.first), _score(test.paired.second),
            f"{test.paired.difference:+.2f} ({_score(test.paired.low, '+')} to {_score(test.paired.high, '+')})",
            _p(test.paired.p), _p(test.adjusted), _score(test.paired.detectable),
            test.verdict if test.verdict == NONE_SHOWN else f"{test.verdict} is better",
        ]
        for test in found
    ]  # fmt: skip
    return [Table(f"{name}: paired tests of judged answers", note, TEST_COLUMNS, rows, in_latex=True, keys=2)]


def files(benchmark: str, column: Column, found: Sequence[Test]) -> dict[str, bytes]:
    """`BENCHMARK_JUDGE.csv`, a row for each run and aspect; `..._pairs.csv`; `..._score_vs_tokens` .png, .svg, .pdf."""
    stem = f"{benchmark}_{column.name}"
    made = {f"{stem}.csv": _csv(column)}
    if found:
        made[f"{stem}_pairs.csv"] = _pairs_csv(found)
    models = [model for model in column.models() if any(model["aspects"].values())]
    if models:
        picture = plots.score_vs_tokens(models, HIGHEST)
        made |= {f"{stem}_score_vs_tokens.{ending}": content for ending, content in picture.items()}
    return made


def _csv(column: Column) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for path, scores in column.scores.items():
        judge, run = scores["judge"], column.runs[path]._asdict()
        told = judge | run | {"benchmark": scores["benchmark"], "control": scores["control"] or "none"}
        told |= {"served_models": " ".join(judge["served_models"]), "level": f"{run['level']:g}"}
        for aspect, row in scores["aspects"].items():
            writer.writerow({name: safe(value) for name, value in (told | dict(row) | {"aspect": aspect}).items()})
    return out.getvalue().encode()


def _pairs_csv(found: Sequence[Test]) -> bytes:
    out = io.StringIO()
    numbers, names = list(PairedScores._fields), {"first": "score_first", "second": "score_second"}
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["first", "second", "aspect", *(names.get(name, name) for name in numbers), "p_holm", "verdict"])
    for test in found:
        told = (test.first, test.second, test.aspect, *test.paired, test.adjusted, test.verdict)
        writer.writerow(map(safe, told))
    return out.getvalue().encode()


def _score(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if isfinite(value) else "unknown"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
