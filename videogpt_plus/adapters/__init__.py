"""Token adapters: from a projected grid to fewer tokens. A new one is one file here and one line below.

An adapter is an nn.Module made from a pool level, with `num_tokens(t, h, w) -> int` and a forward from
Float "b t h w d" to Float "b n d". This file imports no torch: token counts are told on a bare laptop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.configs import FRAME_MARKS, Experiment
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


class Adapter(NamedTuple):
    """Where an adapter's class stands, and how many tokens it makes of (level, t, h, w)."""

    path: str
    tokens: Callable[[float, int, int, int], int] = tokens_of_frames


ADAPTERS: dict[str, Adapter] = {
    "average": Adapter("videogpt_plus.adapters.average:AveragePool"),
    "max": Adapter("videogpt_plus.adapters.max:MaxPool"),
    "bilinear": Adapter("videogpt_plus.adapters.bilinear:Bilinear"),
}


def build_adapter(name: str, level: float) -> nn.Module:
    """The adapter called `name` at a pool level. UserError: unknown name, or a level that is not above 0."""
    check_level(level)
    return resolve_name(_known(name).path)(level)


def num_visual_tokens(experiment: Experiment, t: int) -> int:
    """Visual tokens of `t` frames over all streams of the experiment, with the family's own around each frame."""
    count = _known(experiment.adapter).tokens
    pooled = sum(count(experiment.level, t, stream.grid, stream.grid) for _, stream in experiment.streams)
    return pooled + t * FRAME_MARKS.get(experiment.family, 0)


def _known(name: str) -> Adapter:
    if name not in ADAPTERS:
        raise UserError(f"unknown adapter '{name}'; choose from: {', '.join(ADAPTERS)}")
    return ADAPTERS[name]
