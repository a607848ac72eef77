"""CLIP as Cinego takes it: the last layer's tokens before the final norm, with the class token.

A frame of CLIP-B/16 is 197 tokens, which is a prime number: no rectangle holds them but a row. So the grid is
"t 1 197 d", the class token first, which keeps one tensor of one rank for the store, the batches and the adapters,
and invents no token to fill a square up. `divided` takes the row apart again for those who want the square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.config.experiment import Branch
from videogpt_plus.encoders import clip
from videogpt_plus.encoders.clip import preprocessor

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

__all__ = ["ClassTower", "divided", "load", "preprocessor"]


class ClassTower(nn.Module):
    """Each frame's class token and patches: `last_hidden_state`."""

    def __init__(self, model: CLIPVisionModel):
        super().__init__()
        self.model = model
        self.side = model.config.image_size // model.config.patch_size

    @property
    def blocks(self) -> list[nn.Module]:
        """See `GridEncoder.blocks`."""
        return [self.model.embeddings, *self.model.encoder.layers]

    @property
    def shape(self) -> tuple[int, int]:
        """One row of all tokens."""
        return 1, self.side**2 + 1

    def forward(self, frames: Float[Tensor, "b t 3 p p"]) -> Float[Tensor, "b t 1 n d"]:
        tokens = self.model(pixel_values=rearrange(frames, "b t c y x -> (b t) c y x")).last_hidden_state
        return rearrange(tokens, "(b t) n d -> b t 1 n d", b=len(frames))


def divided(grid: Float[Tensor, "... t 1 n d"]) -> tuple[Float[Tensor, "... t 1 1 d"], Float[Tensor, "... t s s d"]]:
    """The class tokens and the square grid of patches of such a row."""
    patches = grid[..., 0, 1:, :]
    side = round(patches.shape[-2] ** 0.5)
    return grid[..., :1, :], patches.unflatten(-2, (side, side))


def load(stream: Branch) -> ClassTower:
    """From a Hugging Face folder of a whole CLIP or of its vision tower. UserError: as in `clip.load`."""
    return ClassTower(clip.load_model(stream))
