"""The token-aware subset of a benchmark: questions that a model answers only while it has visual tokens enough."""

from __future__ import annotations

from collections.abc import Sequence

from videogpt_plus.types import UserError

#: The pool levels by which the subset is chosen, from the most visual tokens to the fewest.
LEVELS = (2, 4, 8, 16)


def needs_tokens(correct: Sequence[bool]) -> bool:
    """Whether a question belongs to the subset, given whether it was answered rightly at each of LEVELS.

    It does if it is right at the first level, wrong at the last, and never right again behind a level at which it is
    wrong: it turns over once, so that the tokens decide and not chance. UserError: not one result for each level.
    Source: the motivation experiment of LangDC (arXiv 2509.00969), `mvbench_hard`.
    """
    if len(correct) != len(LEVELS):
        raise UserError(f"{len(correct)} results for the levels {', '.join(map(str, LEVELS))}: give one for each")
    falling = all(finer or not coarser for finer, coarser in zip(correct, correct[1:], strict=False))
    return bool(correct[0] and not correct[-1] and falling)
