"""Every token of every frame, frame after frame: what BLIP-2 does with the features of several frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.reducer import Fixed
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Concat(Fixed):
    """At level 1, and at no other: fewer tokens of each frame are what the reducers `average` and so on make."""

    name = "concat"
    mixes_frames = False
    leaves_grid = True
    has_levels = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level != 1:
            raise UserError(
                f"reducer 'concat' keeps every token, and has no level {self.level:g}: choose level 1, or the reducer "
                "'average'"
            )

    def num_tokens(self, t: int, h: int, w: int) -> int:
        return t * h * w

    def reduce(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        return grid.flatten(1, 3)
