"""What every encoder is to the rest of the pipe: frozen, in eval mode, frames to grids."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.config.experiment import Branch
from videogpt_plus.types import Clip


class GridEncoder(nn.Module):
    """A frozen tower with its sizes and its preprocessing.

    Stays in eval mode whatever the model around it does: dropping paths in a frozen tower changes its features by
    about 13 %, and no projector could learn to undo that.
    """

    def __init__(self, tower: nn.Module, stream: Branch, preprocess: Callable[[Clip], Tensor]):
        super().__init__()
        self.tower = tower
        self.pixels, self.grid, self.width = stream.pixels, stream.grid, stream.width
        self.shape: tuple[int, int] = getattr(tower, "shape", (stream.grid, stream.grid))
        self.preprocess = preprocess
        self.requires_grad_(False).eval()

    @property
    def blocks(self) -> list[nn.Module]:
        """Its parts in the order in which they compute, each on one device; one part where the tower names none."""
        return list(getattr(self.tower, "blocks", [self.tower]))

    def train(self, mode: bool = True) -> GridEncoder:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, frames: Float[Tensor, "b t 3 p p"]) -> Float[Tensor, "b t h w d"]:
        grid = self.tower(frames)
        assert grid.shape[2:] == (*self.shape, self.width), f"unexpected grid {tuple(grid.shape)}"
        return grid
