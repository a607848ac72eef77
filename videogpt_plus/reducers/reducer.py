"""What every reducer is: a frozen config that counts its tokens and builds the module that makes them.

No file here but queries.py imports torch before a module is built: token counts are told on a bare laptop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn


@dataclass(frozen=True)
class Reducer(ABC):
    """From a grid of features, Float "b t h w d", to fewer tokens, Float "b n d", at a pool level."""

    # Pool level: the grid's side is divided by it.
    level: float = 1

    #: Its name in REDUCERS.
    name: ClassVar[str]
    #: Whether it has weights, which are trained, saved and loaded with the projectors'.
    learns: ClassVar[bool] = False
    #: Whether it pools squares of patches. What stands in no grid, such as a class token, is then reduced by itself.
    pools: ClassVar[bool] = False
    #: Whether its tokens are a square grid again, which the page can draw.
    leaves_grid: ClassVar[bool] = False
    #: Whether a token holds something of several frames.
    mixes_frames: ClassVar[bool] = True
    #: Whether it can be had at other levels than 1.
    has_levels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_level(self.level)

    @abstractmethod
    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Tokens of a grid of t frames."""

    @abstractmethod
    def build(self, width: int | None = None) -> nn.Module:
        """The module, for tokens of `width`, which only one that learns has to know. UserError: it has no such width.

        Its forward maps Float "b t h w d" to Float "b n d".
        """

    def left_of(self, side: int) -> str:
        """What it leaves of a frame with a square grid, in words: `6 x 6`."""
        count = self.num_tokens(1, side, side)
        return f"{count} tokens" if count > 1 else "1 token"

    def parameters(self, width: int) -> int:
        """Values of its weight matrices."""
        return 0

    def flops(self, width: int, t: int, h: int, w: int) -> int:
        """FLOPs of one visual with such a grid; what a reducer without weights costs is next to nothing."""
        return 0


@dataclass(frozen=True)
class Fixed(Reducer):
    """A reducer that learns nothing: a function of the grid."""

    @abstractmethod
    def reduce(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        """The tokens."""

    def build(self, width: int | None = None) -> nn.Module:
        from torch import nn

        module = nn.Module()
        module.forward = self.reduce
        return module

    def left_of(self, side: int) -> str:
        kept = pooled_side(side, self.level)
        return f"{kept} x {kept}"


@dataclass(frozen=True)
class PerFrame(Fixed):
    """Each frame's grid reduced to (pooled h) x (pooled w); tokens come frame by frame, row by row."""

    pools = True
    leaves_grid = True
    mixes_frames = False

    def num_tokens(self, t: int, h: int, w: int) -> int:
        return t * pooled_side(h, self.level) * pooled_side(w, self.level)

    def reduce(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        from einops import rearrange

        b, _, h, w, _ = grid.shape
        side = (pooled_side(h, self.level), pooled_side(w, self.level))
        if side != (h, w):  # level 1 is the identity to the last bit
            frames = self.pool(rearrange(grid, "b t h w d -> (b t) d h w"), side)
            grid = rearrange(frames, "(b t) d h w -> b t h w d", b=b)
        return rearrange(grid, "b t h w d -> b (t h w) d")

    @abstractmethod
    def pool(self, frames: Float[Tensor, "f d h w"], side: tuple[int, int]) -> Float[Tensor, "f d h2 w2"]:
        """The frames with grids of `side`."""


def pooled_side(side: int, level: float) -> int:
    """The side of a grid after pooling: `round(side / level)` half to even, as the reference does, at least 1."""
    check_level(level)
    return 1 if side / level < 1 else round(side / level)


def check_level(level: float) -> None:
    """UserError: the level is not a number above 0."""
    if not 0 < level <= 2.0**63:  # NaN is neither
        told = f"{level:g}" if isinstance(level, float) else f"{level!r:.60}"
        raise UserError(f"pool level {told} is not possible: choose a number above 0, such as 1, 2, 4")
