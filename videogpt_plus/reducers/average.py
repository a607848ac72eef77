"""Adaptive average pooling, the reference's reducer: each token is the mean of its window."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.reducers.per_frame import PerFrame


class AveragePool(PerFrame):
    """Windows overlap where the pooled side does not divide the grid's."""

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        return F.adaptive_avg_pool2d(frames, side)
