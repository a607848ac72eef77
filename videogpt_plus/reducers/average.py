"""Adaptive average pooling, the reference's reducer: each token is the mean of its window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.reducer import PerFrame

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Average(PerFrame):
    """Windows overlap where the pooled side does not divide the grid's."""

    name = "average"

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        from torch.nn.functional import adaptive_avg_pool2d

        return adaptive_avg_pool2d(frames, side)
