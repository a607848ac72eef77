"""Adaptive max pooling: each channel of a token is the largest of its window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.reducer import PerFrame

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Max(PerFrame):
    """Windows as in average pooling."""

    name = "max"

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        from torch.nn.functional import adaptive_max_pool2d

        return adaptive_max_pool2d(frames, side)
