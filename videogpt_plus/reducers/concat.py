"""Every token of every frame, frame after frame: what BLIP-2 does with the features of several frames."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.reducers import tokens_of_all


class Concat(nn.Module):
    """At level 1, and at no other: fewer tokens of each frame are what the adapters `average` and so on make."""

    def __init__(self, level: float):
        super().__init__()
        tokens_of_all(level, 1, 1, 1)
        self.level = level

    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Tokens of a grid of t frames."""
        return tokens_of_all(self.level, t, h, w)

    def forward(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        """Tokens in their order."""
        return rearrange(grid, "b t h w d -> b (t h w) d")
