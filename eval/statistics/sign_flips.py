"""The test by clips: how often coins that choose the sign of each clip's change make as large a difference."""

from __future__ import annotations

from functools import cached_property

import numpy as np

#: Signs drawn where they are too many to be counted, and the seed that draws the same ones each time.
DRAWS, SEED = 100_000, 20
#: Up to so many clips all signs are tried; sums of whole numbers are counted as long as that takes so many additions.
ALL_SIGNS, ADDITIONS = 16, 100_000_000
#: Sums that lie so near to each other are equal, relative to the largest possible one.
NEAR = 1e-9


class SignFlips:
    """The distribution of |sum| where each of the clips' changes may have either sign, as likely.

    Exact where the changes are whole numbers or few; of fractions of many clips DRAWS are drawn. With one question a
    clip this is McNemar's exact test. Source: Fisher, The Design of Experiments 1935, section 21.
    """

    def __init__(self, changes: np.ndarray):
        self.changes = np.asarray(changes, float)
        self.sizes = np.sort(np.abs(self.changes[self.changes != 0]))

    @property
    def p(self) -> float:
        """Two-sided p of the sum that was seen; 1 where nothing changes."""
        seen = abs(self.changes.sum()) - NEAR * self.sizes.sum()
        sums, chances = self._sums
        beyond = float(chances[np.searchsorted(sums, seen) :].sum()) if len(self.sizes) else 1.0
        return min(1.0, beyond)

    def critical(self, level: float) -> float:
        """The smallest |sum| whose p is below `level`; infinite where even the largest one's is not."""
        if not len(self.sizes):
            return np.inf
        sums, chances = self._sums
        tails = chances[::-1].cumsum()[::-1]
        found = np.flatnonzero((tails < level) & (chances > 0))
        return float(sums[found[0]]) if len(found) else np.inf

    def critical_between(self, level: float) -> float:
        """The middle between the critical sum and the next smaller possible one, as for a continuous sum."""
        critical = self.critical(level)
        if critical == np.inf:
            return critical
        sums, chances = self._sums
        below = sums[(sums < critical) & (chances > 0)]
        return float(critical + (below[-1] if len(below) else critical)) / 2

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Possible |sums|, rising, and their chances."""
        whole = np.array_equal(self.sizes, self.sizes.round())
        if whole and len(self.sizes) * self.sizes.sum() <= ADDITIONS:
            return self._counted()
        sums = self._tried() if len(self.sizes) <= ALL_SIGNS else self._drawn()
        sums, counts = np.unique((np.abs(sums) / self.sizes.sum()).round(12), return_counts=True)
        return sums * self.sizes.sum(), counts / counts.sum()

    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        chances = np.ones(1)  # of the sum i - reach
        for size in self.sizes.astype(int):
            wider = np.zeros(len(chances) + 2 * size)
            wider[: len(chances)] += chances / 2
            wider[2 * size :] += chances / 2
            chances = wider
        reach = len(chances) // 2
        folded = chances[reach:] * 2
        folded[0] = chances[reach]
        return np.arange(reach + 1.0), folded

    def _tried(self) -> np.ndarray:
        sums = np.zeros(1)
        for size in self.sizes:
            sums = np.concatenate([sums - size, sums + size])
        return sums

    def _drawn(self) -> np.ndarray:
        """Sums of drawn signs, with the one that was seen among them, so that no p is 0."""
        rng, sums = np.random.default_rng(SEED), np.zeros(DRAWS)
        sizes, counts = np.unique(self.sizes, return_counts=True)
        for size, count in zip(sizes, counts, strict=True):
            sums += size * (2 * rng.binomial(count, 0.5, DRAWS) - count)
        return np.append(sums, self.changes.sum())
