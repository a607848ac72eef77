"""How often the intervals hold the truth, and how often the tests err, by simulation of the functions that reports use.

    python -m benchmarks.coverage [paired accuracies seeds scores detectable] [--repeats 400] [--output FILE]

Each row is one world: questions n, questions a clip, the correlation of two questions of one clip, and the share of
questions that two runs answer differently (discordance). Clips are made in two ways: `copied` ones answer a part of
their questions alike, `mixed` ones have shares of their own. A cell that leaves its goal is marked with `!`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from eval.statistics.estimates import SCORE, mean_score, share
from eval.statistics.paired import compare, compare_seeds, equivalence
from eval.statistics.seeds import of_differences


class World(NamedTuple):
    """What answers of two runs are drawn from."""

    n: int
    per_clip: int
    correlation: float
    discordance: float
    #: Of the questions that differ, how many are for the first run.
    share: float = 0.5
    kind: str = "mixed"

    @property
    def difference(self) -> float:
        return self.discordance * (2 * self.share - 1)

    def changes(self, rng: np.random.Generator) -> np.ndarray:
        """-1, 0 or 1 for each question, Int "clips questions"."""
        clips, (up, down) = (
            self.n // self.per_clip,
            (self.discordance * self.share, self.discordance * (1 - self.share)),
        )
        shape = (clips, self.per_clip)
        if self.kind == "copied":
            alike = rng.random(shape) < self.correlation**0.5
            drawn = np.where(alike, rng.random((clips, 1)), rng.random(shape))
        else:
            drawn = rng.random(shape)
            if self.correlation:
                parts = np.maximum([up, down, 1 - up - down], 1e-9) * (1 - self.correlation) / self.correlation
                up, down, _ = rng.dirichlet(parts, clips).T[:, :, None]
        return np.where(drawn < up, 1, np.where(drawn < up + down, -1, 0))

    def right(self, rng: np.random.Generator) -> np.ndarray:
        """Right or wrong for each question at the accuracy `share`, Bool "clips questions"."""
        clips = self.n // self.per_clip
        shape, free = (clips, self.per_clip), (1 - self.correlation) / max(self.correlation, 1e-9)
        if self.kind == "copied":
            alike = rng.random(shape) < self.correlation**0.5
            return np.where(alike, rng.random((clips, 1)), rng.random(shape)) < self.share
        easy = rng.beta(self.share * free, (1 - self.share) * free, (clips, 1)) if self.correlation else self.share
        return rng.random(shape) < easy


def runs(changes: np.ndarray, rng: np.random.Generator) -> tuple[dict, dict, dict]:
    """Two runs with these changes, and each question's clip."""
    clip = np.repeat(np.arange(len(changes)), changes.shape[1])
    flat, both = changes.ravel(), rng.random(changes.size) < 0.5
    keys = [f"{i:04}" for i in range(flat.size)]
    first, second = (flat == 1) | ((flat == 0) & both), (flat == -1) | ((flat == 0) & both)
    named = (dict(zip(keys, side.tolist(), strict=True)) for side in (first, second))
    return *named, dict(zip(keys, map(str, clip), strict=True))


def worlds(discordances: Sequence[float], shares: Sequence[float]) -> Iterator[World]:
    for kind, n, per_clip, correlation, discordance, side in product(
        ("mixed", "copied"), (40, 200, 1000, 4000), (1, 5, 20), (0.0, 0.3, 0.8), discordances, shares
    ):
        if per_clip > 1 or (not correlation and kind == "mixed"):
            yield World(n, per_clip, correlation, discordance, side, kind)


def paired(repeats: int) -> tuple[list[str], list[list[str]]]:
    """Coverage of the difference; how often equivalence is claimed where the difference is the margin itself."""
    rows = []
    for world in worlds((0.01, 0.1, 0.4), (0.5, 0.8)):
        rng, held, wrong, refused, differing = np.random.default_rng(1), 0, 0, 0, []
        for _ in range(_fewer(repeats, world.n)):
            first, second, videos = runs(world.changes(rng), rng)
            found = compare(first, second, videos)
            held += found.low <= world.difference <= found.high
            differing.append(found.n_differing)
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high), "p and interval disagree"
            if world.difference > 0:
                said = equivalence(first, second, world.difference, videos)
                wrong, refused = wrong + bool(said.shown), refused + said.too_few
        n, many = len(differing), fmean(differing) >= 20
        rows.append([
            *_named(world), f"{fmean(differing):.1f}", _share(held, n, (0.93, 0.97) if many else (0.90, 1.0)),
            _share(wrong, n, (0, 0.06)) if world.difference > 0 else "", _share(refused, n),
        ])  # fmt: skip
    return [*COLUMNS, "clips that differ", "coverage", "wrong equivalence", "too few to tell"], rows


def accuracies(repeats: int) -> tuple[list[str], list[list[str]]]:
    """Coverage of one model's accuracy, whose value stands under `share`."""
    rows = []
    for world in worlds((0.0,), (0.25, 0.55, 0.9)):
        rng, held, naive, widths = np.random.default_rng(2), 0, 0, []
        for _ in range(_fewer(repeats, world.n)):
            right = world.right(rng)
            values = {f"{i:04}": float(value) for i, value in enumerate(right.ravel())}
            videos = {key: str(i // world.per_clip) for i, key in enumerate(values)}
            found, alone = share(values, videos), share(values)
            held, naive = (
                held + (found.low <= world.share <= found.high),
                naive + (alone.low <= world.share <= alone.high),
            )
            widths.append(found.high - found.low)
        n = len(widths)
        rows.append([*_named(world), _share(held, n, (0.92, 1)), _share(naive, n), f"{100 * fmean(widths) / 2:.1f}"])
    return [*COLUMNS, "coverage", "without clips", "half width"], rows


def seeds(repeats: int) -> tuple[list[str], list[list[str]]]:
    """Tests over several seeds: false alarms without an effect, and how often 4 points are found."""
    rows = []
    for (n, per_clip), levels, count, luck in product(((400, 1), (2000, 5)), (2, 5), (2, 3, 5), (0.0, 0.01, 0.03)):
        shares = {}
        for lift in (0.0, 0.04):
            rng, own, pooled = np.random.default_rng(3), 0, 0
            for _ in range(repeats := _fewer(repeats, n)):
                right = _sweep(rng, n, per_clip, levels, count, luck, lift)
                keys = [f"{i:04}" for i in range(n)]
                videos = {key: str(i // per_clip) for i, key in enumerate(keys)}
                sides = [[dict(zip(keys, run.tolist(), strict=True)) for run in level] for level in right[:2]]
                noise = of_differences(right.mean(axis=2))
                own += compare_seeds(*sides, videos).p < 0.05
                pooled += compare_seeds(*sides, videos, noise=noise).p < 0.05
            shares[lift] = (own, pooled)
        rows.append([
            f"{n:,}", str(per_clip), str(levels), str(count), f"{100 * luck:.0f}",
            *(_share(hits, repeats, (0, 0.06)) for hits in shares[0.0]),
            *(_share(hits, repeats) for hits in shares[0.04]),
        ])  # fmt: skip
    return [
        "n", "a clip", "levels", "seeds", "luck (points)", "false alarms, own noise", "pooled", "power, own noise",
        "pooled",
    ], rows  # fmt: skip


def _sweep(rng, n: int, per_clip: int, levels: int, seeds: int, luck: float, lift: float) -> np.ndarray:
    """Answers of a sweep, Bool "levels seeds questions"; the first level is better by `lift`."""
    clips = n // per_clip
    easy = 0.6 + 0.25 * np.repeat(rng.standard_normal(clips), per_clip) + 0.25 * rng.standard_normal(n)
    easy, own = np.clip(easy, 0.02, 0.98), rng.random(n)
    right = np.empty((levels, seeds, n), bool)
    for level in range(levels):
        of_level = np.where(rng.random(n) < 0.15, rng.random(n), own)
        for seed in range(seeds):
            drawn = np.where(rng.random(n) < 0.15, rng.random(n), of_level)
            right[level, seed] = drawn < easy + luck * rng.standard_normal() + (lift if level == 0 else 0)
    return right


def scores(repeats: int) -> tuple[list[str], list[list[str]]]:
    """A judge's scores: coverage of the difference and of a mean, and false alarms."""
    rows = []
    for clips, per_clip, tied in product((4, 8, 20, 100, 500), (1, 5), (0.0, 0.7, 0.95)):
        rng, held, of_mean, alarms, total = np.random.default_rng(4), 0, 0, 0, min(repeats, 400)
        for _ in range(total):
            shape, same = (clips, per_clip), rng.random((clips, 1)) < tied
            base = np.clip(3 + rng.standard_normal((clips, 1)) + rng.standard_normal(shape), 0, 5).round()
            # Changes that are rarely large and mostly small, with a mean of zero.
            change = np.where(same, 0, rng.choice([-1, 0, 3], size=shape, p=[0.45, 0.40, 0.15]))
            keys = [f"{i:04}" for i in range(base.size)]
            videos = {key: str(i // per_clip) for i, key in enumerate(keys)}
            second = dict(zip(keys, base.ravel().tolist(), strict=True))
            first = dict(zip(keys, (base + change).ravel().tolist(), strict=True))
            found = compare(first, second, videos, scale=SCORE)
            held, alarms = held + (found.low <= 0 <= found.high), alarms + (found.p < 0.05)
            mean = mean_score(second, videos)
            of_mean += mean.low <= MEAN_OF_SCORES <= mean.high
        rows.append([
            str(clips), str(per_clip), f"{100 * tied:.0f}", _share(held, total, (0.90, 1)),
            _share(alarms, total, (0, 0.08)), _share(of_mean, total, (0.90, 1)),
        ])  # fmt: skip
    return ["clips", "a clip", "clips without a change (%)", "coverage", "false alarms", "coverage of a mean"], rows


def _mean_of_scores() -> float:
    rng = np.random.default_rng(0)
    return float(np.clip(3 + 2**0.5 * rng.standard_normal(4_000_000), 0, 5).round().mean())


def power(repeats: int) -> tuple[list[str], list[list[str]]]:
    """The power at the difference that is called detectable, alone and after Bonferroni over ten tests."""
    rows = []
    for world in worlds((0.1, 0.3), (0.5,)):
        if world.n < 200:
            continue
        for level in (0.05, 0.005):
            rng, total = np.random.default_rng(5), min(_fewer(repeats, world.n), 200)
            finds = [compare(*runs(world.changes(rng), rng)).detectable_at(level) for _ in range(20)]
            typical = float(np.median(finds))
            if not typical < world.discordance:
                rows.append([*_named(world), f"{level:g}", "more than can change", ""])
                continue
            lifted = world._replace(share=(1 + typical / world.discordance) / 2)
            found = sum(compare(*runs(lifted.changes(rng), rng)).p < level for _ in range(total))
            rows.append([*_named(world), f"{level:g}", f"{100 * typical:.1f}", _share(found, total, (0.75, 0.85))])
    return [*COLUMNS, "level", "detectable (points)", "power"], rows


COLUMNS = ["clips are", "n", "a clip", "correlation", "discordance (%)", "share"]
PARTS: dict[str, Callable[[int], tuple[list[str], list[list[str]]]]] = {
    "paired": paired,
    "accuracies": accuracies,
    "seeds": seeds,
    "scores": scores,
    "power": power,
}


def _named(world: World) -> list[str]:
    return [
        world.kind, f"{world.n:,}", str(world.per_clip), f"{world.correlation:g}", f"{100 * world.discordance:g}",
        f"{world.share:g}",
    ]  # fmt: skip


def _fewer(repeats: int, n: int) -> int:
    """A world of many questions takes longer."""
    return max(100, repeats // 4) if n >= 4000 else repeats


def _share(count: int, n: int, goal: tuple[float, float] | None = None) -> str:
    """In %, with ! where more than two standard errors lie between it and its goal."""
    found = count / n
    slack = 2 * (max(found * (1 - found), 0.02) / n) ** 0.5
    missed = goal and not goal[0] - slack <= found <= goal[1] + slack
    return f"{100 * found:.1f}" + (" !" if missed else "")


def markdown(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"### {name}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def summary(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The rows by n and questions a clip: how many worlds, and from where to where each measured column goes (median).

    Rows without these two columns, or with columns of words, stay as they are.
    """
    if "clips are" not in columns:
        return list(columns), [list(row) for row in rows]
    first, keys = columns.index("share") + 1, (columns.index("n"), columns.index("a clip"))
    groups: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[i] for i in keys), []).append(row)
    found = []
    for group, members in groups.items():
        spans = []
        for i in range(first, len(columns)):
            values = [float(row[i].split()[0]) for row in members if row[i] and row[i][0].isdigit()]
            spans.append(f"{min(values):g} to {max(values):g} ({median(values):g})" if values else "")
        found.append([*group, str(len(members)), *spans])
    return ["n", "a clip", "worlds", *columns[first:]], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--repeats", type=int, default=400, help="draws of each world")
    parser.add_argument("--summary", action="store_true", help="one row for each n and number of questions a clip")
    parser.add_argument("--output", type=Path, help="Markdown file of the tables; printed when not given")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from: {', '.join(PARTS)}")
    made = [f"`python -m benchmarks.coverage {' '.join(sys.argv[1:])}`, {date.today()}", ""]
    for name in args.parts or PARTS:
        columns, rows = PARTS[name](args.repeats)
        missed = sum("!" in cell for row in rows for cell in row)
        print(f"{name}: {len(rows)} worlds, {missed} cells outside their goal", file=sys.stderr)
        made.append(markdown(name, *(summary(columns, rows) if args.summary else (columns, rows))))
    text = "\n".join(made)
    if args.output:
        args.output.write_text(text)
    else:
        print(text)


MEAN_OF_SCORES = _mean_of_scores()

if __name__ == "__main__":
    main()
