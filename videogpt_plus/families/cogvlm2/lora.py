"""The fused layer of q, k and v taken apart for a LoRA, and put together again behind it.

A LoRA on the fused layer would read its input once for all three. The published recipe, and every LoRA on a plain
Llama, has three pairs of matrices, one each for q, k and v.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.types import UserError

#: Layers of the language model that a LoRA wraps, by their whole names in it. The vision tower and the projector,
#: which has a `gate_proj`, too, are no part of it.
TARGETS = (
    r"model\.layers\.\d+\."
    r"(self_attn\.(language_expert_query_key_value\.[qkv]_proj|language_expert_dense)"
    r"|mlp\.language_mlp\.(gate|up|down)_proj)"
)


class SplitRows(nn.Module):
    """A fused layer as three, over the same rows."""

    def __init__(self, fused: nn.Linear, sections: Sequence[int]):
        super().__init__()
        q, k, v = fused.weight.detach().split(list(sections))
        self.q_proj, self.k_proj, self.v_proj = _linear(q), _linear(k), _linear(v)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def fused(self) -> nn.Linear:
        """One layer again."""
        return _linear(torch.cat([part.weight.detach() for part in (self.q_proj, self.k_proj, self.v_proj)]))


def split(llm: CogVLM2LM) -> None:
    """Takes the language experts' fused layers apart, where they are not yet; frozen. UserError: they are packed."""
    for attention in (layer.self_attn for layer in llm.model.layers):
        fused = attention.language_expert_query_key_value
        if isinstance(fused, SplitRows):
            continue
        if type(fused) is not nn.Linear:
            raise UserError("a LoRA needs the LLM's weights whole: load them neither quantised nor divided among cards")
        attention.language_expert_query_key_value = SplitRows(fused, attention.sections)


def fuse(llm: CogVLM2LM) -> None:
    """Puts together what `split` took apart, with what a LoRA has added to it."""
    for attention in (layer.self_attn for layer in llm.model.layers):
        attention.language_expert_query_key_value = attention.language_expert_query_key_value.fused()


def _linear(weight: Float[Tensor, "e d"]) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
