"""CogVLM2's projector: a gated MLP on every patch, and the learned tokens around each frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Glu(nn.Module):
    """From the tower's width to the LLM's. Its norm's eps is PyTorch's, not the tower's."""

    def __init__(self, width: int, llm_width: int, hidden: int):
        super().__init__()
        self.linear_proj = nn.Linear(width, llm_width, bias=False)
        self.norm1 = nn.LayerNorm(llm_width)
        self.gate_proj = nn.Linear(llm_width, hidden, bias=False)
        self.dense_h_to_4h = nn.Linear(llm_width, hidden, bias=False)
        self.dense_4h_to_h = nn.Linear(hidden, llm_width, bias=False)

    def forward(self, patches: Float[Tensor, "... d"]) -> Float[Tensor, "... d_llm"]:
        x = F.gelu(self.norm1(self.linear_proj(patches)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class GluProjector(nn.Module):
    """The MLP with boi and eoi, which stand around what the adapter makes of each frame."""

    def __init__(self, width: int, llm_width: int, hidden: int):
        super().__init__()
        self.linear_proj = Glu(width, llm_width, hidden)
        self.boi = nn.Parameter(torch.zeros(1, 1, llm_width))
        self.eoi = nn.Parameter(torch.zeros(1, 1, llm_width))

    def forward(self, patches: Float[Tensor, "... d"]) -> Float[Tensor, "... d_llm"]:
        return self.linear_proj(patches)

    def framed(self, tokens: Float[Tensor, "t n d"]) -> Float[Tensor, "t m d"]:
        """Each frame's tokens between boi and eoi."""
        t = len(tokens)
        return torch.cat([self.boi.expand(t, 1, -1), tokens, self.eoi.expand(t, 1, -1)], dim=1)
