"""How often the statistics of ordered levels are right: fewest tokens, trend, simultaneous band, budget.

python -m benchmarks.levels_coverage --repeats 1000
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import tyro

from benchmarks.made_up import Case, header, outcomes
from eval.statistics.band import band
from eval.statistics.budget import components
from eval.statistics.contrast import Clips, contrast
from eval.statistics.fewest_tokens import fewest_tokens
from eval.statistics.trend import trend

#: Corners of what sweeps look like.
CASES = (
    Case(40, 1, 0.0, 0.16, 1, 0.0),
    Case(100, 5, 0.4, 0.20, 3, 1.0),
    Case(200, 20, 0.4, 0.20, 1, 0.0),
    Case(400, 1, 0.0, 0.10, 1, 0.0),
    Case(400, 1, 0.0, 0.40, 1, 0.0),
    Case(400, 20, 0.8, 0.16, 1, 0.0),
    Case(500, 1, 0.0, 0.16, 1, 0.0),
    Case(400, 5, 0.4, 0.16, 2, 1.0),
    Case(1000, 5, 0.8, 0.05, 1, 0.0),
    Case(1000, 1, 0.0, 0.16, 2, 3.0),
    Case(1000, 1, 0.0, 0.16, 3, 0.0),
    Case(1000, 20, 0.8, 0.16, 3, 3.0),
    Case(1000, 1, 0.0, 0.16, 5, 1.0),
    Case(4000, 1, 0.0, 0.01, 1, 0.0),
    Case(4000, 1, 0.0, 0.01, 3, 1.0),
    Case(4000, 4, 0.4, 0.16, 3, 1.0),
)
FINEST = 0.62
#: Visual tokens of five levels.
TOKENS = (3328, 832, 208, 52, 13)


def main(
    repeats: int = 1000,
    tests: tuple[str, ...] = ("fewest", "trend", "band", "budget"),
    questions: tuple[int, ...] = (40, 100, 200, 400, 500, 1000, 4000),
) -> None:
    """Print a table for each statistic.

    Args:
        repeats: Made-up sweeps a row, a quarter of them with 4,000 questions.
        tests: Which of fewest, trend, band and budget.
        questions: Only sweeps of so many questions.
    """
    for name in tests:
        made, columns = STATISTICS[name]
        print(f"\n{name}\n" + header(*columns))
        for case in CASES:
            if case.n in questions and (name != "budget" or case.seeds > 1):
                print(case.row(*made(case, repeats if case.n < 4000 else repeats // 4)), flush=True)


def fewest(case: Case, repeats: int, margin: float = 0.05) -> list[float]:
    """A level claimed that costs the margin (5 % at most); the third of five claimed where it costs nothing."""
    rng, wrong, found = np.random.default_rng(1), 0, 0
    for _ in range(repeats):
        lost = outcomes(case, [FINEST, *[FINEST - margin] * 3], rng)
        wrong += fewest_tokens(lost, case.clips, margin).place > 0
        kept = outcomes(case, [FINEST] * 3 + [FINEST - 2 * margin] * 2, rng)
        found += fewest_tokens(kept, case.clips, margin).place == 2
    return [wrong / repeats, found / repeats]


def trends(case: Case, repeats: int, fall: float = 0.01) -> list[float]:
    """A trend found where there is none (5 %); where each level loses `fall` more: by the trend, by a pair (Holm)."""
    rng, wrong, found, by_pairs = np.random.default_rng(1), 0, 0, 0
    falling = FINEST - fall * np.arange(5)
    for _ in range(repeats):
        wrong += trend(outcomes(case, [FINEST] * 5, rng), case.clips, TOKENS).p < 0.05
        runs = outcomes(case, falling, rng)
        found += trend(runs, case.clips, TOKENS).p < 0.05
        by_pairs += len(every := pairs(runs, case)) * min(every) < 0.05  # the first step of Holm's
    return [wrong / repeats, found / repeats, by_pairs / repeats]


def pairs(runs: np.ndarray, case: Case) -> list[float]:
    """The p of every pair of levels."""
    of, one = Clips(case.clips), np.eye(runs.shape[1])
    return [contrast(runs, of, one[a] - one[b]).p for a, b in combinations(range(runs.shape[1]), 2)]


def bands(case: Case, repeats: int) -> list[float]:
    """The band holds all five accuracies (95 %), of a flat curve and of a steep one; each level's own interval does."""
    rng, held = np.random.default_rng(1), []
    for _ in range(repeats):
        row = []
        for truth in ([0.64, 0.63, 0.62, 0.60, 0.55], [0.90, 0.75, 0.62, 0.50, 0.40]):
            runs = outcomes(case, truth, rng)
            row.append(_holds(band(runs, case.clips), truth))
        row.append(_holds([band(runs[:, [level]], case.clips)[0] for level in range(5)], truth))
        held.append(row)
    return [float(share) for share in np.mean(held, axis=0)]


def _holds(found: list, truth: list[float]) -> bool:
    return all(one.low <= value <= one.high for one, value in zip(found, truth, strict=True))


def budgets(case: Case, repeats: int) -> list[float]:
    """The power of the test of two levels at the minimum detectable difference (80 %), and the luck found, in points.

    The difference is that which the mean of the estimated components gives.
    """
    rng, measured = np.random.default_rng(1), []
    for _ in range(repeats // 2):
        measured.append(components(outcomes(case, [FINEST] * 4, rng), case.clips))
    averaged = ("of_questions", "of_turns", "of_luck")
    mean = measured[0]._replace(**{name: float(np.mean([getattr(one, name) for one in measured])) for name in averaged})
    difference, found = mean.detectable(case.seeds, case.n), 0
    of = Clips(case.clips)
    for _ in range(repeats):
        runs = outcomes(case, [FINEST] * 3 + [FINEST - difference], rng)
        found += contrast(runs, of, [1, 0, 0, -1]).p < 0.05
    return [found / repeats, difference, (mean.of_luck / 2) ** 0.5]


STATISTICS = {
    "fewest": (fewest, ("claims a level that costs the margin, %", "finds the right one, %")),
    "trend": (trends, ("no trend: rejects, %", "trend: rejects, %", "trend: some pair rejects (Holm), %")),
    "band": (bands, ("flat: band holds all, %", "steep: band holds all, %", "steep: single intervals hold all, %")),
    "budget": (budgets, ("power, %", "detectable, points", "luck found, points")),
}


if __name__ == "__main__":
    tyro.cli(main)
