"""Learned queries that read the tokens of all frames at once: Cinego's VideoSummary. Its weights are in queries.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from videogpt_plus.reducers.reducer import Reducer
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Summary(Reducer):
    """As many tokens as there are queries at the level, of any number of frames and any grid."""

    # Queries, and so tokens, of each branch at level 1; at level L as many as a square grid pooled by L would leave.
    queries: int = 197
    # Attention heads.
    heads: int = 8
    # Times that the queries read the frames.
    layers: int = 1
    # Sets of queries: "s", or "st" for a second set whose reading is added to the first one's.
    branches: str = "s"
    # Adds a sinusoid of its frame's number to each token; without it frames in any order give the same summary.
    frame_times: bool = False
    # Dropout of the attention and behind it.
    dropout: float = 0.1

    name = "summary"
    learns = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queries", "heads", "layers"):
            if not 1 <= (value := getattr(self, name)) < 2**63:
                raise UserError(f"the reducer 'summary' has {name} {value!r:.60}: choose at least 1")
        if not 0 <= self.dropout <= 1:
            raise UserError(f"the reducer 'summary' has dropout {self.dropout!r:.60}: choose 0 to 1")
        if self.branches not in ("s", "st"):
            raise UserError(f"the reducer 'summary' has branches {self.branches!r}: choose 's' or 'st'")

    @property
    def num_queries(self) -> int:
        """Queries at the level; at least 1."""
        return round(self.queries / self.level**2) or 1

    def num_tokens(self, t: int, h: int, w: int) -> int:
        return self.num_queries if t else 0

    def build(self, width: int | None = None) -> nn.Module:
        from videogpt_plus.reducers.queries import VideoSummary

        if width % self.heads:
            raise UserError(f"reducer 'summary' has {self.heads} heads, which do not divide the width {width}")
        options = {name: value for name, value in asdict(self).items() if name not in ("level", "queries")}
        return VideoSummary(width, queries=self.num_queries, **options)

    def left_of(self, side: int) -> str:
        return f"{self.num_queries} queries" if self.num_queries > 1 else "1 query"

    def parameters(self, width: int) -> int:
        return self.layers * len(self.branches) * 4 * width**2

    def flops(self, width: int, t: int, h: int, w: int) -> int:
        queries, read = self.num_queries, t * h * w + self.num_queries
        linear = 2 * width**2 * (2 * queries + 2 * read)
        return self.layers * len(self.branches) * (linear + 4 * queries * read * width)
