"""Made-up outcomes whose truth is known, to see how often an interval or a test is right.

A question has a difficulty and each run answers it with noise of its own; both are shared within a clip as far as
`within` says. A run is luckier than its level on all questions together. `changing` is the share of questions on which
runs of two equal levels disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm


@dataclass(frozen=True)
class Case:
    """`n` questions, so many a clip; `within`: correlation within a clip; `luck` in points."""

    n: int = 1000
    per_clip: int = 1
    within: float = 0.0
    changing: float = 0.16
    seeds: int = 3
    luck: float = 0.0
    #: The part of the noise that stays from one training of a level to the next: what its tokens show or hide.
    lasting: float = 0.5

    def __str__(self) -> str:
        return (
            f"{self.n:,} | {self.per_clip} | {self.within:g} | {100 * self.changing:g} % | {self.seeds} | {self.luck:g}"
        )

    def row(self, *found: float) -> str:
        """A row of a table: the case, then shares in %."""
        return f"| {self} | " + " | ".join(f"{100 * share:.1f}" for share in found) + " |"

    @property
    def clips(self) -> list[str]:
        return [f"c{i // self.per_clip}" for i in range(self.n)]


def header(*columns: str) -> str:
    """The head of a table whose rows are made by `Case.row`."""
    names = ["questions", "a clip", "within", "changing", "seeds", "luck", *columns]
    return "| " + " | ".join(names) + " |\n|" + "---:|" * len(names)


def outcomes(case: Case, truth: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Bool "seeds levels questions"; `truth` is each level's expected accuracy."""
    shape, share = (case.seeds, len(truth), case.n), _shared(round(float(np.mean(truth)), 2), case.changing)
    hard = _normal((case.n,), case, rng)
    lasting, fresh = _normal(shape[1:], case, rng), _normal(shape, case, rng)
    noise = np.sqrt(case.lasting) * lasting + np.sqrt(1 - case.lasting) * fresh
    lucky = rng.normal(0, case.luck / 100, shape[:2])
    chance = np.clip(np.asarray(truth) + lucky, 1e-6, 1 - 1e-6)
    return np.sqrt(share) * hard + np.sqrt(1 - share) * noise < norm.ppf(chance)[:, :, None]


def _normal(shape: tuple[int, ...], case: Case, rng: np.random.Generator) -> np.ndarray:
    own = rng.standard_normal(shape)
    if not case.within:
        return own
    clips = rng.standard_normal((*shape[:-1], -(-case.n // case.per_clip)))
    return (
        np.sqrt(case.within) * np.repeat(clips, case.per_clip, axis=-1)[..., : case.n] + np.sqrt(1 - case.within) * own
    )


@cache
def _shared(accuracy: float, changing: float) -> float:
    """The part of a latent value that two runs share, so that they disagree on `changing` of the questions."""
    at = norm.ppf(accuracy)

    def disagreeing(share: float) -> float:
        both = multivariate_normal.cdf([at, at], cov=[[1, share], [share, 1]])
        return 2 * (accuracy - both)

    return brentq(lambda share: disagreeing(share) - changing, 0.0, 1 - 1e-9)
