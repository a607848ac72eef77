"""The mean of all frames, token by token: the number of tokens is that of one frame, however many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.average import Average

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class FrameMean(Average):
    """At a level above 1 the mean frame is average-pooled. The order of the frames leaves no trace."""

    name = "frame_mean"
    mixes_frames = True

    def num_tokens(self, t: int, h: int, w: int) -> int:
        return super().num_tokens(min(t, 1), h, w)

    def reduce(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        return super().reduce(grid.mean(1, keepdim=True))
