"""Where tokens stand, and who reads them: pure functions of token types, True for a visual token.

A run of visual tokens (boi, patches, eoi) takes three positions: its patches share one. Frames without text between
them are one run.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def advances(visual: Bool[Tensor, "b s"], attended: Bool[Tensor, "b s"] | None = None) -> Bool[Tensor, "b s"]:
    """Where the position goes on by one: at text, at both ends of a visual run, and at the first token inside it.

    Padding does not go on, and it is no text: a run that begins right behind it has no beginning of its own.
    """
    real = torch.ones_like(visual) if attended is None else attended.bool()
    visual, text = visual & real, ~visual & real
    ends = torch.zeros_like(visual)
    ends[:, 1:] |= text[:, :-1]
    ends[:, :-1] |= text[:, 1:]
    ends[:, 0] = ends[:, -1] = True
    text = text | (visual & ends)
    inside = visual & ~text
    inside[:, 1:] &= text[:, :-1]
    return text | inside


def position_ids(visual: Bool[Tensor, "b s"], attended: Bool[Tensor, "b s"] | None = None) -> Int[Tensor, "b s"]:
    """Positions from 0. Rows padded on the left are one further on as a whole, which changes no attention."""
    steps = advances(visual, attended)
    steps[:, 0] = False
    return steps.cumsum(1)


def vision_expert(visual: Bool[Tensor, "b s"]) -> Bool[Tensor, "b s"]:
    """Which tokens the vision experts read: visual ones before another one. So boi is theirs, eoi is not."""
    chosen = torch.zeros_like(visual)
    chosen[:, :-1] = visual[:, :-1] & visual[:, 1:]
    return chosen
