"""What adapters share that pool each frame on its own; a subclass says how in `pool`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.reducers import pooled_side, tokens_of_frames


class PerFrame(nn.Module, ABC):
    """Each frame's grid reduced to (pooled h) x (pooled w); tokens come frame by frame, row by row."""

    def __init__(self, level: float):
        super().__init__()
        self.level = level

    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Tokens of a grid of t frames."""
        return tokens_of_frames(self.level, t, h, w)

    def forward(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        b, _, h, w, _ = grid.shape
        side = (pooled_side(h, self.level), pooled_side(w, self.level))
        if side != (h, w):  # level 1 is the identity to the last bit
            frames = self.pool(rearrange(grid, "b t h w d -> (b t) d h w"), side)
            grid = rearrange(frames, "(b t) d h w -> b t h w d", b=b)
        return rearrange(grid, "b t h w d -> b (t h w) d")

    @abstractmethod
    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        """The frames with grids of `side`."""
