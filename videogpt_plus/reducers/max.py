"""Adaptive max pooling: each channel of a token is the largest of its window."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.reducers.per_frame import PerFrame


class MaxPool(PerFrame):
    """Windows as in average pooling."""

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        return F.adaptive_max_pool2d(frames, side)
