"""What a paired test can find: the smallest difference that it shows with 80 % power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log2, sqrt
from typing import TYPE_CHECKING

from eval.statistics.estimates import LEVEL
from eval.statistics.quantiles import Z80, Z95, t_quantile
from eval.statistics.seeds import Part, half_width

if TYPE_CHECKING:
    from eval.statistics.clustered import Spread
    from eval.statistics.sign_flips import SignFlips


@dataclass(frozen=True)
class Power:
    """What one paired test can find."""

    spread: Spread
    #: The test of one seed.
    flips: SignFlips | None
    #: Variances and their degrees of freedom, of the test over several seeds.
    parts: Sequence[Part]
    #: What the difference would be if all that changes changed for the better.
    most: float

    def detectable(self, level: float) -> float:
        """The smallest difference found with 80 % power by a test at `level`; infinite where it exceeds `most`."""
        if self.flips is not None:
            found = self.spread.scale * self._found_by_flips(self.flips, level)
        else:
            total = sum(part for part, _ in self.parts)
            freedom = total**2 / sum(part**2 / freedom for part, freedom in self.parts) if total else inf
            found = half_width(level, self.parts) + t_quantile(0.8, freedom) * sqrt(total)
        return found if found <= self.most else inf

    def _found_by_flips(self, flips: SignFlips, level: float) -> float:
        """The sum of changes that the test by clips finds with 80 % power: a fixed point.

        It lies as far above the critical sum as four sums of five are above their fifth. A difference turns the signs
        of clips that differ: the sum varies less, the more of them go one way. And where clips hold several questions
        that go apart, it makes all of them larger, and the critical sum with them.
        """
        critical = flips.critical_between(level)
        squares, total = float((flips.sizes**2).sum()), float(flips.sizes.sum())
        if critical == inf:
            return inf
        differing = squares**2 / float((flips.sizes**4).sum())
        together = self.spread.variance / self.spread.independent if self.spread.independent else inf
        apart = max(0.0, 1 - max(1.0, together) * self.spread.units / self.spread.questions)
        found = critical
        for _ in range(100):
            grown = squares + apart * found**2 / self.spread.clips
            z = critical / sqrt(squares)
            left = max(0.0, 1 - found / total * z / sqrt(differing) + z**2 / (4 * differing))
            found = z * sqrt(grown) + Z80 * sqrt(squares * left)
            if found > total * (1 + apart * len(flips.sizes)):
                return inf
        return found


def margin(accuracy: float, n: float) -> float:
    """Half the 95 % interval of one accuracy of `n` independent questions: 0.015 for 0.55 of 4,000."""
    return Z95 * sqrt(accuracy * (1 - accuracy) / n)


def detectable(n: float, discordance: float, level: float = LEVEL) -> float:
    """The smallest paired difference on `n` independent questions that a test at `level` finds with 80 % power.

    `discordance` is the share of questions on which exactly one of the two is right. Never below what the exact test
    can see at all; never above 1.
    """
    from scipy.special import ndtri

    fewest = ceil(log2(2 / level) + 1e-9)
    return min(1.0, max((float(ndtri(1 - level / 2)) + Z80) * sqrt(discordance / n), fewest / n))


def resolvable(n: float, discordance: float, level: float = LEVEL) -> float | None:
    """`detectable`; None where that is more than the discordant pairs can make, so nothing is found."""
    found = detectable(n, discordance, level)
    return found if found <= discordance else None
