"""A reducer of a user's own that learns: one file, and `register("latents", Latents)` is the one line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.reducers.reducer import Reducer


@dataclass(frozen=True)
class Latents(Reducer):
    """Each token is a weighted mean of all patches of all frames; a learned vector says how they are weighted."""

    # Tokens at level 1.
    latents: int = 8

    learns = True

    def num_tokens(self, t: int, h: int, w: int) -> int:
        return round(self.latents / self.level) or 1

    def build(self, width: int | None = None) -> nn.Module:
        return Weighting(self.num_tokens(1, 1, 1), width)

    def parameters(self, width: int) -> int:
        return self.num_tokens(1, 1, 1) * width

    def flops(self, width: int, t: int, h: int, w: int) -> int:
        return 2 * 2 * self.num_tokens(t, h, w) * t * h * w * width


class Weighting(nn.Module):
    """The weights of `Latents`."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.latent = nn.Parameter(0.1 * torch.randn(count, width))

    def forward(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        patches = grid.flatten(1, 3)
        return (self.latent @ patches.transpose(1, 2)).softmax(-1) @ patches
