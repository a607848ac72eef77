"""Masks for decoders that we wrote ourselves."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor


def visible(
    shape: tuple[int, int], past: int, attended: Bool[Tensor, "b k"] | None, device: torch.device
) -> Bool[Tensor, "b 1 s k"] | None:
    """Which keys each new position looks at; None where that is all before it and itself, from the first on.

    Padding looks at itself alone: at nothing at all it would become NaN, and so would what it is multiplied with.
    """
    new = shape[1]
    if attended is None and (past == 0 or new == 1):
        return None
    places = torch.arange(past + new, device=device)
    own = places[past:, None]
    mask = (places <= own)[None, None]
    if attended is not None:
        mask = (mask & attended.bool().to(device)[:, None, None]) | (places == own)
    return mask
