"""Bilinear resampling: each token is read between its four nearest patches (LLaVA-NeXT's "bilinear")."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.reducers.per_frame import PerFrame


class Bilinear(PerFrame):
    """Without antialiasing: at level 4 a token sees 4 of its 16 patches."""

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        return F.interpolate(frames, side, mode="bilinear", align_corners=False)
