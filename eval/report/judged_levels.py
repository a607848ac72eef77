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

from eval.answers.answer import read_answers
from eval.judge.parser import HIGHEST, LOWEST
from eval.judge.scoring import identity
from eval.report import plots
from eval.report.cells import Cell, curves, pairs, series
from eval.report.compare import verdict
from eval.report.csv_files import safe
from eval.report.parts import DETECTABLE, Table
from eval.statistics.estimates import LEVEL, SCORE, Estimate
from eval.statistics.paired import Paired, compare_seeds, holm
from eval.statistics.seeds import SeedNoise, of_differences, of_means, with_seed_noise
from videogpt_plus.io.jsonl_log import clip_of

Scores = Mapping[str, Any]
TEST_COLUMNS = [
    "comparison", "aspect", "n (clips)", "seeds", "first", "second", "difference", "p", "p adjusted", DETECTABLE,
    "shown",
]  # fmt: skip
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
    """Two levels by one aspect; `adjusted` is its p after Holm over all `family` pairs and aspects of the table."""

    label: str
    first: str
    second: str
    aspect: str
    paired: Paired
    seeds: tuple[int, ...]
    adjusted: float = 1.0
    family: int = 1

    @property
    def verdict(self) -> str:
        return verdict(self.paired, self.adjusted, ("first is better", "second is better"))

    @property
    def detectable(self) -> float:
        """The difference found with 80 % power at the level that Holm leaves to the first of the family."""
        return self.paired.detectable_at(LEVEL / self.family)


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
        """For files: the judge, the models that answered for it, and a hash of what keeps its scores from others."""
        return identity(self.first).for_files

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
        if not rows or None in (ends := [row[name] for row in rows for name in ("ci_low", "ci_high")]):
            return Estimate(fmean(row["mean"] for row in rows), LOWEST, HIGHEST) if rows else None
        values = [Estimate(*(row[name] / HIGHEST for name in ("mean", "ci_low", "ci_high"))) for row in rows]
        assert len(ends) == 2 * len(values)
        whole = Estimate(*(fmean(part) for part in zip(*values, strict=True)))
        noise = of_means(self._by_level(aspect, paths[0]))
        return Estimate(*(HIGHEST * part for part in with_seed_noise(whole, [value.value for value in values], noise)))

    def _by_level(self, aspect: str, of: Path) -> list[list[float]]:
        """The means of each seed, at each level of the series that this run belongs to."""
        name, levels = series({"experiment": self.runs[of].experiment}), {}
        for path, scores in self.scores.items():
            run, row = self.runs[path], scores["aspects"].get(aspect)
            alike = scores["control"] is None and series({"experiment": run.experiment}) == name
            if alike and row and row["mean"] is not None:
                levels.setdefault(run.level, []).append(row["mean"] / HIGHEST)
        return list(levels.values())


def tests(column: Column) -> list[Test]:
    """Every pair of levels, and of series at a level, by every aspect, over the seeds that both have."""
    found, clips, models = [], {}, column.models()
    for path in column.scores:
        clips |= {key: clip_of(line) for key, line in read_answers(path).items()}
    for label, first, second in pairs(models):
        seeds = tuple(seed for seed in first["paths"] if seed in second["paths"])
        sides = [[model["paths"][seed] for seed in seeds] for model in (first, second)]
        for aspect in column.first["aspects"]:
            one, other = ([_known(column.scores[path], aspect) for path in paths] for paths in sides)
            if not seeds or not (common := set.intersection(*(set(run) for run in (*one, *other)))):
                continue
            videos = {key: clips[key.partition("/")[0]] for key in common}
            noise = _noise(column, models, first, second, seeds, aspect, common)
            result = compare_seeds(one, other, videos, noise=noise, scale=SCORE)
            found.append(Test(label, first["experiment"], second["experiment"], aspect, result, seeds))
    adjusted = holm([test.paired.p for test in found])
    return [replace(test, adjusted=p, family=len(found)) for test, p in zip(found, adjusted, strict=True)]


def _noise(
    column: Column,
    models: Sequence[Cell],
    first: Cell,
    second: Cell,
    seeds: Sequence[int],
    aspect: str,
    common: set[str],
) -> SeedNoise | None:
    """The luck of one training, pooled over the levels that have all of these seeds; None of unlike series."""
    if series(first) != series(second):
        return None
    means = []
    for model in models:
        if series(model) == series(first) and all(seed in model["paths"] for seed in seeds):
            runs = [_known(column.scores[model["paths"][seed]], aspect) for seed in seeds]
            if all(common <= run.keys() for run in runs):
                means.append([fmean(run[key] for key in common) for run in runs])
    return of_differences(means)


def _known(scores: Scores, aspect: str) -> dict[str, float]:
    """The scores of an aspect, without the answers that have none."""
    row = scores["aspects"].get(aspect, {"scores": {}})
    return {key: score for key, score in row["scores"].items() if score is not None}


def detectable(column: Column, found: Sequence[Test], aspect: str) -> str:
    """The minimum detectable difference between neighbouring levels, the median over these; "" without any."""
    all_curves = curves(column.models()).values()
    near = {(fine["experiment"], coarse["experiment"]) for curve in all_curves for fine, coarse in pairwise(curve)}
    of = [test.detectable for test in found if (test.first, test.second) in near and test.aspect == aspect]
    return _detectable(median(of)) if of else ""


def test_table(name: str, column: Column, found: Sequence[Test]) -> list[Table]:
    """The paired tests as a table; [] where there are not two levels."""
    if not found:
        return []
    several = max(test.paired.seeds for test in found) > 1
    said = (
        "Over several seeds p is of a t test that holds the noise of training, pooled over the levels of a series."
        if several
        else "One training seed: the noise of training is not in these numbers, so a difference is one of two runs."
    )
    note = (
        f"The same questions, paired, judged by {identity(column.first)}; difference of the means in the judge's "
        "points with its 95 % interval (Student's t over clips). p: sign flips of whole clips' sums (exact, or 100,000 "
        f"draws). {said} The adjusted p (Holm) keeps the chance of any false alarm among the {len(found)} tests of "
        f"this table at 5 %. {DETECTABLE}: after that adjustment; none where the scores that change could not make one."
    )
    rows = [
        [
            test.label, test.aspect, f"{test.paired.n:,} ({test.paired.n_videos:,})", ", ".join(map(str, test.seeds)),
            _score(test.paired.first), _score(test.paired.second),
            f"{test.paired.difference:+.2f} ({_score(test.paired.low, '+')} to {_score(test.paired.high, '+')})",
            _p(test.paired.p), _p(test.adjusted), _detectable(test.detectable), test.verdict,
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


PAIRED_COLUMNS = [
    "n", "n_videos", "n_differing", "score_first", "score_second", "difference", "low", "high", "p", "detectable",
    "method", "seeds",
]  # fmt: skip


def _pairs_csv(found: Sequence[Test]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tail = ["seeds_compared", "p_holm", "detectable_after_holm", "verdict"]
    writer.writerow(["first", "second", "aspect", *PAIRED_COLUMNS, *tail])
    for test in found:
        values = [getattr(test.paired, name.removeprefix("score_")) for name in PAIRED_COLUMNS]
        values += [" ".join(map(str, test.seeds)), test.adjusted, test.detectable, test.verdict]
        writer.writerow(map(safe, [test.first, test.second, test.aspect, *values]))
    return out.getvalue().encode()


def _detectable(value: float) -> str:
    return _score(value) if isfinite(value) else "none"


def _score(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if isfinite(value) else "unknown"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
