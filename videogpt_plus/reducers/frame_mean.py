"""The mean of all frames, token by token: the number of tokens is that of one frame, however many there are."""

from __future__ import annotations

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.reducers import tokens_of_mean
from videogpt_plus.reducers.average import AveragePool


class FrameMean(AveragePool):
    """At a level above 1 the mean frame is average-pooled. The order of the frames leaves no trace."""

    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Tokens of a grid, whatever its number of frames."""
        return tokens_of_mean(self.level, t, h, w)

    def forward(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        """Tokens of the mean frame."""
        return super().forward(reduce(grid, "b t h w d -> b 1 h w d", "mean"))
