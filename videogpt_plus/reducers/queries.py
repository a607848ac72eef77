"""The weights of the reducer "summary": learned queries read the tokens of all frames at once.

As its authors built it, after GPT4Video: keys and values are the frames' tokens and the queries themselves; there is no
residual, norm or feed-forward layer. So a still image is not the same as several copies of it: the queries weigh less
among more tokens. Names of tensors are the published ones, below `video_summarizer.`.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Queries read tokens and themselves."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.mha = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b k d"]) -> Float[Tensor, "b q d"]:
        read = torch.cat([tokens, queries], dim=1)
        return self.dropout(self.mha(queries, read, read, need_weights=False)[0])


class VideoSummary(nn.Module):
    """Grids of any number of frames and any size -> as many tokens as there are queries at the level."""

    def __init__(
        self, width: int, *, queries: int, heads: int, layers: int, branches: str, frame_times: bool, dropout: float
    ):
        super().__init__()
        self.branches, self.frame_times = branches, frame_times
        for branch in branches:
            setattr(self, f"query_{branch}", nn.Parameter(torch.randn(1, queries, width)))
            readers = (CrossAttention(width, heads, dropout) for _ in range(layers))
            setattr(self, f"cross_attn_{branch}", nn.ModuleList(readers))

    def forward(self, grid: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b n d"]:
        if self.frame_times:
            grid = grid + sinusoids(grid.shape[1], grid.shape[-1], grid)[:, None, None]
        tokens = rearrange(grid, "b t h w d -> b (t h w) d")
        summary = self.query_s.expand(len(grid), -1, -1)
        # The second branch's queries are the same in every layer, as in the original.
        second = self.query_t.expand(len(grid), -1, -1) if self.branches == "st" else None
        for i, attention in enumerate(self.cross_attn_s):
            summary = attention(summary, tokens)
            if second is not None:
                summary = summary + self.cross_attn_t[i](second, tokens)
        return summary


def sinusoids(count: int, width: int, like: Tensor) -> Float[Tensor, "t d"]:
    """The numbers 0 to count - 1 as sines and cosines of wave lengths from 2 pi to 10,000 times that."""
    turns = torch.arange((width + 1) // 2, device=like.device) * (-2 * math.log(10000) / width)
    angles = torch.arange(count, device=like.device)[:, None] * turns.exp()
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(like.dtype)
