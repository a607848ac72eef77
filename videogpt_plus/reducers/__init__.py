"""Reducers: from a grid of features to fewer tokens. A new one is one file here and one line below.

A reducer is a frozen dataclass (reducer.py): a level and options of its own, how many tokens it makes, and the
nn.Module that makes them. The weights of one that learns are trained, saved and loaded with the projectors'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videogpt_plus.reducers.average import Average
from videogpt_plus.reducers.bilinear import Bilinear
from videogpt_plus.reducers.concat import Concat
from videogpt_plus.reducers.frame_mean import FrameMean
from videogpt_plus.reducers.max import Max
from videogpt_plus.reducers.reducer import Reducer, check_level, pooled_side
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["REDUCERS", "Reducer", "build_reducer", "check_level", "get_reducer", "pooled_side", "register"]

REDUCERS: dict[str, type[Reducer]] = {
    "average": Average,
    "max": Max,
    "bilinear": Bilinear,
    "concat": Concat,
    "frame_mean": FrameMean,
    "summary": Summary,
}


def register(name: str, kind: type[Reducer]) -> None:
    """Adds a reducer of the user's own. UserError: the name is another one's."""
    if REDUCERS.setdefault(name, kind) is not kind:
        raise UserError(f"there is a reducer '{name}' already: register yours under another name")
    kind.name = name


def get_reducer(name: str) -> type[Reducer]:
    """The reducer of that name. UserError: there is none."""
    if name not in REDUCERS:
        raise UserError(f"unknown reducer '{name}'; choose from: {', '.join(REDUCERS)}")
    return REDUCERS[name]


def build_reducer(reducer: Reducer, width: int | None = None) -> nn.Module:
    """The module of a reducer, for tokens of `width`; it keeps its config as `reducer`.

    UserError: it cannot have this width, or it learns where no width is given: the model has no place for its weights.
    """
    if reducer.learns and width is None:
        fixed = ", ".join(name for name, other in REDUCERS.items() if not other.learns)
        raise UserError(
            f"reducer '{reducer.name}' learns, and these weights are asked as published: choose from {fixed}"
        )
    module = reducer.build(width)
    module.reducer = reducer
    return module
