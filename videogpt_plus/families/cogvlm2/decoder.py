"""CogVLM2's language model: Llama-3 with fused q, k and v, and in the image model a second set of weights, the vision
experts, for visual tokens. Under the published key names.

It is called like a causal LLM of transformers, with embeddings and positions, and shares its cache; attention is
PyTorch's own. Rotary angles are computed once a forward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, LlamaConfig
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from videogpt_plus.families.cogvlm2.rope import RopePrecision, angles, rotate
from videogpt_plus.models.attention import visible

Angles = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """In float32 up to and with the weight, as the original; transformers casts before it."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class Routes(NamedTuple):
    """Which tokens of a batch each expert reads, counted row by row; found once a forward pass."""

    language: Int[Tensor, " l"]
    vision: Int[Tensor, " v"]


def routed(
    x: Float[Tensor, "b s d"], routes: Routes | None, language_expert: nn.Module, vision_expert: nn.Module | None
) -> Float[Tensor, "b s e"]:
    """Each token through its expert. Both run where there are routes, so that no process lacks a gradient."""
    if routes is None or vision_expert is None:
        return language_expert(x)
    tokens = x.flatten(0, 1)
    read, seen = (language_expert(tokens[routes.language]), vision_expert(tokens[routes.vision]))
    out = read.new_empty(len(tokens), read.shape[-1])
    out[routes.language], out[routes.vision] = read, seen
    return out.unflatten(0, x.shape[:2])


class Attention(nn.Module):
    """Rows of the fused layers: all of q, then of k, then of v. The attention itself is one for both experts."""

    def __init__(self, config: LlamaConfig, experts: bool, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.hidden_size // config.num_attention_heads
        width, keys = config.hidden_size, config.num_key_value_heads * self.head_dim
        self.sections = [width, keys, keys]
        self.language_expert_query_key_value = nn.Linear(width, sum(self.sections), bias=False)
        self.language_expert_dense = nn.Linear(width, width, bias=False)
        self.vision_expert_query_key_value = nn.Linear(width, sum(self.sections)) if experts else None
        self.vision_expert_dense = nn.Linear(width, width, bias=False) if experts else None

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        routes: Routes | None,
        rope: Angles,
        mask: Bool[Tensor, "b 1 s k"] | None,
        cache: DynamicCache | None,
    ) -> Float[Tensor, "b s d"]:
        fused = routed(x, routes, self.language_expert_query_key_value, self.vision_expert_query_key_value)
        q, k, v = (
            rearrange(part, "b s (heads d) -> b heads s d", d=self.head_dim)
            for part in fused.split(self.sections, dim=-1)
        )
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        causal = mask is None and q.shape[2] > 1
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)
        out = rearrange(out, "b heads s d -> b s (heads d)")
        return routed(out, routes, self.language_expert_dense, self.vision_expert_dense)


class SwiGlu(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Mlp(nn.Module):
    def __init__(self, config: LlamaConfig, experts: bool):
        super().__init__()
        self.language_mlp = SwiGlu(config)
        self.vision_mlp = SwiGlu(config) if experts else None

    def forward(self, x: Float[Tensor, "b s d"], routes: Routes | None) -> Float[Tensor, "b s d"]:
        return routed(x, routes, self.language_mlp, self.vision_mlp)


class Layer(nn.Module):
    def __init__(self, config: LlamaConfig, experts: bool, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, experts, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config, experts)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        routes: Routes | None,
        rope: Angles,
        mask: Bool[Tensor, "b 1 s k"] | None,
        cache: DynamicCache | None,
    ) -> Float[Tensor, "b s d"]:
        x = x + self.self_attn(self.input_layernorm(x), routes, rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x), routes)


class Decoder(nn.Module):
    """Embeddings to normed hidden states."""

    def __init__(self, config: LlamaConfig, experts: bool, rope_precision: RopePrecision):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.rope_precision = rope_precision
        #: The frequencies that the weights' file keeps; None where it keeps none.
        self.stored_frequencies: Tensor | None = None
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, experts, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        inputs_embeds: Float[Tensor, "b s d"],
        position_ids: Int[Tensor, "b s"],
        attention_mask: Bool[Tensor, "b k"] | None = None,
        past_key_values: DynamicCache | None = None,
        vision: Bool[Tensor, "b s"] | None = None,
    ) -> BaseModelOutputWithPast:
        """`attention_mask` has a place for each key, cached ones included; None where all are real.

        `vision` marks the tokens of the vision experts; None where there are none among them.
        """
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        mask = visible(inputs_embeds.shape[:2], past, attention_mask, inputs_embeds.device)
        rope = angles(position_ids, self.head_dim, self.rope_precision, self.stored_frequencies)
        routes = None if vision is None else Routes(*(m.flatten().nonzero().flatten() for m in (~vision, vision)))
        x = inputs_embeds
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, routes, rope, mask, None, use_reentrant=False)
            else:
                x = layer(x, routes, rope, mask, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)


class CogVLM2LM(nn.Module):
    """The decoder and its head, called as `generation.generate` calls an LLM."""

    def __init__(self, config: LlamaConfig, experts: bool, rope_precision: RopePrecision = "fp32"):
        super().__init__()
        self.config, self.experts = config, experts
        self.model = Decoder(config, experts, rope_precision)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def activation_checkpointing_enable(self) -> None:
        """Computes the layers again in the backward pass, which never re-enters autograd."""
        self.model.gradient_checkpointing = True

    def forward(
        self,
        inputs_embeds: Float[Tensor, "b s d"],
        position_ids: Int[Tensor, "b s"],
        attention_mask: Bool[Tensor, "b k"] | None = None,
        past_key_values: DynamicCache | None = None,
        vision: Bool[Tensor, "b s"] | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
    ) -> CausalLMOutputWithPast:
        """Logits Float "b s v" in float32, of the last `logits_to_keep` positions or, for 0, of all."""
        out = self.model(inputs_embeds, position_ids, attention_mask, past_key_values if use_cache else None, vision)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:]).float()
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)
