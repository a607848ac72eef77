"""How often the tests of `videogpt-plus subset` reject without an effect of the level, and with one.

python -m benchmarks.subset_size --repeats 400
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tyro

from benchmarks.made_up import Case, header, outcomes
from eval.statistics.oracle import oracle
from eval.statistics.subset import agreement_beyond_difficulty, null_of_rule

#: Corners of what sweeps look like, without an effect.
CASES = (
    Case(400, 1, 0.0, 0.16, 1, 0.0),
    Case(400, 1, 0.0, 0.16, 2, 1.0),
    Case(400, 5, 0.4, 0.16, 3, 1.0),
    Case(1000, 1, 0.0, 0.16, 1, 3.0),
    Case(1000, 1, 0.0, 0.16, 3, 0.0),
    Case(1000, 1, 0.0, 0.16, 3, 3.0),
    Case(1000, 20, 0.8, 0.16, 3, 1.0),
    Case(4000, 4, 0.4, 0.20, 3, 3.0),
)
#: The share of questions on which the level decides, where there is an effect.
DECIDED = {"rule": 0.04, "agreement": 0.1, "oracle": 0.1}


def main(repeats: int = 400, tests: tuple[str, ...] = ("rule", "agreement", "oracle")) -> None:
    """Print a table for each test.

    Args:
        repeats: Made-up sweeps a row, a quarter of them with 4,000 questions.
        tests: Which of rule, agreement and oracle.
    """
    for name in tests:
        print(f"\n{name}\n" + header(*COLUMNS[name]))
        for case in CASES:
            print(case.row(*rates(case, repeats if case.n < 4000 else repeats // 4, name)), flush=True)


def rates(case: Case, repeats: int, test: str) -> list[float]:
    """Shares of made-up sweeps in which each of the test's claims was made: without an effect, then with one."""
    rng = np.random.default_rng(1)
    claims: dict[bool, list[Sequence[bool]]] = {False: [], True: []}
    for effect in claims:
        for _ in range(repeats):
            # Nothing of a level may last from one training to the next, or the level has an effect on single questions.
            runs = outcomes(replace(case, lasting=0), [0.6] * 4, rng)
            claims[effect].append(CLAIMS[test](with_effect(runs, rng, test) if effect else runs, case))
    return [float(share) for found in claims.values() for share in np.mean(found, axis=0)]


def with_effect(runs: np.ndarray, rng: np.random.Generator, test: str) -> np.ndarray:
    """DECIDED of the questions become right down to a level of their own and wrong below it, nine times in ten.

    For the oracle half of the tasks want few tokens instead: a steady fall would make one level best for all.
    """
    chosen = rng.permutation(runs.shape[2])[: int(DECIDED[test] * runs.shape[2])]
    chance = np.where(np.arange(4)[:, None] <= chosen % 3, 0.9, 0.1)
    if test == "oracle":
        chance = np.where(chosen % 2, chance, chance[::-1])
    runs[:, :, chosen] = rng.random((*runs.shape[:2], len(chosen))) < chance
    return runs


def _rule(runs: np.ndarray, case: Case) -> list[bool]:
    return [null_of_rule(runs).p < 0.05]


def _agreement(runs: np.ndarray, case: Case) -> list[bool]:
    found = agreement_beyond_difficulty(runs, shuffles=200)
    return [found is not None and found.p < 0.05]


def _oracle(runs: np.ndarray, case: Case) -> list[bool]:
    """What the command says: that the levels add something, and that a choice gains."""
    found = oracle(runs, case.clips, [f"task {i % 8}" for i in range(case.n)])
    rows = (found.excess, found.by_question, found.by_type)
    return [row is not None and row.low is not None and row.low > 0 for row in rows]


CLAIMS = {"rule": _rule, "agreement": _agreement, "oracle": _oracle}
COLUMNS = {
    "rule": ("no effect: picks more, %", "effect: picks more, %"),
    "agreement": ("no effect: beyond difficulty, %", "effect: beyond difficulty, %"),
    "oracle": (
        *("no effect: " + claim for claim in ("levels add, %", "gain by question, %", "gain by type, %")),
        *("effect: " + claim for claim in ("levels add, %", "gain by question, %", "gain by type, %")),
    ),
}


if __name__ == "__main__":
    tyro.cli(main)
