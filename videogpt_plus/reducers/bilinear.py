"""Bilinear resampling: each token is read between its four nearest patches (LLaVA-NeXT's "bilinear")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.reducer import PerFrame

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Bilinear(PerFrame):
    """Without antialiasing: at level 4 a token sees 4 of its 16 patches."""

    name = "bilinear"

    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        from torch.nn.functional import interpolate

        return interpolate(frames, side, mode="bilinear", align_corners=False)
