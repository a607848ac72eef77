"""What the reducer "summary" is made of."""

from __future__ import annotations

from dataclasses import dataclass

from videogpt_plus.types import UserError


@dataclass(frozen=True)
class Summary:
    """The adapter "summary": learned queries that read the tokens of all frames at once."""

    # Queries, and so tokens, of each stream at level 1; at level L as many as a square grid pooled by L would leave.
    queries: int = 197
    # Attention heads.
    heads: int = 8
    # Times that the queries read the frames.
    layers: int = 1
    # Branches: "s", or "st" for a second set of queries whose reading is added to the first one's.
    branches: str = "s"
    # Adds a sinusoid of its frame's number to each token; without it frames in any order give the same summary.
    frame_times: bool = False
    # Dropout of the attention and behind it.
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("queries", "heads", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"the adapter 'summary' has {name} {getattr(self, name)}: choose at least 1")
        if self.branches not in ("s", "st"):
            raise UserError(f"the adapter 'summary' has branches {self.branches!r}: choose 's' or 'st'")
