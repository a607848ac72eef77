"""The mean of all frames, token by token: the number of tokens is that of one frame, however many there are."""

from __future__ import annotations

from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from videogpt_plus.reducers import tokens_of_mean
from videogpt_plus.reducers.average import AveragePool


class FrameMean(AveragePool):
    """At a level above 1 the mean frame is average-pooled. The order of the frames leaves no trace."""

    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Tokens of a grid, whatever its number of frames."""
        return tokens_of_mean(self.level, t, h, w)

    def forward(
        self, grid: Float[Tensor, "b t h w d"], frame_mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Frames that the mask leaves out do not count."""
        if frame_mask is None:
            return super().forward(reduce(grid, "b t h w d -> b 1 h w d", "mean"))
        weights = frame_mask.to(grid.dtype) / frame_mask.sum(1, keepdim=True)
        kept = grid.masked_fill(~frame_mask[:, :, None, None, None], 0)  # what pads may be anything, NaN included
        return super().forward(reduce(kept * weights[:, :, None, None, None], "b t h w d -> b 1 h w d", "sum"))
