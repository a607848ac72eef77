"""Token adapters: from a grid of features to fewer tokens. A new one is one file here and one line below.

An adapter is an nn.Module made from a pool level, with `num_tokens(t, h, w) -> int` and a forward from
Float "b t h w d" to Float "b n d". One that learns is made from (level, width, Summary), and its weights are trained,
saved and loaded with the projectors'. This file imports no torch: token counts are told on a bare laptop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.reducers.summary_options import Summary
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import nn


def pooled_side(side: int, level: float) -> int:
    """The side of a grid after pooling: `round(side / level)` half to even, as the reference does, at least 1."""
    check_level(level)
    return 1 if side / level < 1 else round(side / level)


def check_level(level: float) -> None:
    """UserError: the level is not a number above 0."""
    if not (level > 0 and math.isfinite(level)):
        raise UserError(f"pool level {level:g} is not possible: choose a number above 0, such as 1, 2, 4")


def tokens_of_frames(level: float, t: int, h: int, w: int) -> int:
    """Tokens where each frame is pooled on its own to (pooled h) x (pooled w)."""
    return t * pooled_side(h, level) * pooled_side(w, level)


def tokens_of_mean(level: float, t: int, h: int, w: int) -> int:
    """Tokens where the mean of all frames is pooled."""
    return tokens_of_frames(level, 1, h, w)


def tokens_of_all(level: float, t: int, h: int, w: int) -> int:
    """Tokens where every one is kept. UserError: a level that would keep fewer."""
    if level != 1:
        raise UserError(
            f"adapter 'concat' keeps every token, and has no level {level:g}: choose level 1, or the adapter 'average'"
        )
    return t * h * w


def tokens_of_summary(summary: Summary, level: float) -> int:
    """Queries at a level: as many fewer as pooling a square grid by it would leave tokens; at least 1."""
    check_level(level)
    return round(summary.queries / level**2) or 1  # `max` is an adapter's file here, once that is imported


class Adapter(NamedTuple):
    """Where an adapter's class stands, and how many tokens it makes of (level, t, h, w)."""

    path: str
    #: None where the number is that of the queries, whatever comes in.
    tokens: Callable[[float, int, int, int], int] | None = tokens_of_frames


ADAPTERS: dict[str, Adapter] = {
    "average": Adapter("videogpt_plus.reducers.average:AveragePool"),
    "max": Adapter("videogpt_plus.reducers.max:MaxPool"),
    "bilinear": Adapter("videogpt_plus.reducers.bilinear:Bilinear"),
    "concat": Adapter("videogpt_plus.reducers.concat:Concat", tokens_of_all),
    "frame_mean": Adapter("videogpt_plus.reducers.frame_mean:FrameMean", tokens_of_mean),
    "summary": Adapter("videogpt_plus.reducers.summary:VideoSummary", None),
}


def build_adapter(name: str, level: float, width: int | None = None, summary: Summary | None = None) -> nn.Module:
    """The adapter called `name` at a pool level, for tokens of `width`; `summary` is what "summary" is made of.

    UserError: unknown name, a level that is not above 0 or that the adapter has not, heads that do not divide the
    width, or an adapter that learns where no width is given: the model has no place for its weights.
    """
    check_level(level)
    adapter, summary = known(name), summary or Summary()
    kind = resolve_name(adapter.path)
    if adapter.tokens is not None:
        return kind(level)
    if width is None:
        fixed = ", ".join(name for name, other in ADAPTERS.items() if other.tokens is not None)
        raise UserError(f"adapter '{name}' learns, and these weights are asked as published: choose from {fixed}")
    if width % summary.heads:
        raise UserError(f"adapter '{name}' has {summary.heads} heads, which do not divide the width {width}")
    return kind(level, width, summary)


def known(name: str) -> Adapter:
    if name not in ADAPTERS:
        raise UserError(f"unknown adapter '{name}'; choose from: {', '.join(ADAPTERS)}")
    return ADAPTERS[name]
