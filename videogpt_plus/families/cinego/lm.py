"""MiniMind's language model: a decoder with grouped queries, rotary positions and tied embeddings, and in one form a
mixture of experts. Under the published key names.

It is called like a causal LLM of transformers, with embeddings or ids, and shares its cache. No mask is kept: attention
is PyTorch's own, and one is made where padding or cached keys ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, LlamaConfig
from transformers.modeling_outputs import BaseModelOutputWithPast, MoeCausalLMOutputWithPast

from videogpt_plus.models.attention import visible
from videogpt_plus.types import IGNORE

#: Which channels of a head turn together: neighbours, or channel i with channel i + d/2. The same weights are other
#: models under the two, and nothing in a file says which one it was trained with.
RopeLayout = Literal["interleaved", "half"]
LAYOUTS: tuple[str, ...] = get_args(RopeLayout)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in every layer, beside one that always runs."""

    # Experts that are chosen from.
    count: int = 4
    # Experts that each token goes through.
    chosen: int = 2
    # What the balance of the choices weighs in the loss of a training.
    balance: float = 0.1


@dataclass(frozen=True)
class Size:
    """The architecture of a MiniMind."""

    # Width of a token.
    width: int = 512
    # Layers.
    layers: int = 8
    # Attention heads of queries.
    heads: int = 8
    # Attention heads of keys and values.
    kv_heads: int = 2
    # Hidden width of the feed-forward layers.
    mlp: int = 1408
    # Entries of the vocabulary.
    vocabulary: int = 6400
    # Mixture of experts; None for one feed-forward layer.
    experts: Experts | None = None
    # Which channels turn together.
    rope_layout: RopeLayout = "interleaved"
    # Longest wave of the rotary positions, over 2 pi.
    rope_theta: float = 1e6
    # Below the root of the norms.
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    def config(self) -> LlamaConfig:
        """These sizes as transformers' cache, DeepSpeed and PEFT want to know them."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            rms_norm_eps=self.norm_eps,
            tie_word_embeddings=True,
            max_position_embeddings=8192,  # as its authors ask it; weights say nothing of it
        )


#: The sizes that the authors trained.
MINIMIND_512 = Size()
MINIMIND_768 = Size(width=768, layers=16, mlp=2048)


def mlp_width(width: int, multiple: int = 64) -> int:
    """MiniMind's rule: two thirds of four times the width, up to the next multiple."""
    return -(-int(8 * width / 3) // multiple) * multiple


class RMSNorm(nn.Module):
    """In float32, cast back before the weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


Angles = tuple[Tensor, Tensor]


def angles(positions: Int[Tensor, "b s"], head_dim: int, theta: float) -> Angles:
    """Cosines and sines Float "b 1 s half" of each pair of channels, in float32."""
    evens = torch.arange(0, head_dim, 2, device=positions.device)[: head_dim // 2].float()
    turned = (positions.float()[..., None] * (1.0 / theta ** (evens / head_dim)))[:, None]
    return turned.cos(), turned.sin()


def rotate(x: Float[Tensor, "b heads s d"], rope: Angles, layout: RopeLayout) -> Float[Tensor, "b heads s d"]:
    """Each pair of channels turned by its angle, in float32."""
    cos, sin = rope
    wide = x.float()
    if layout == "interleaved":
        a, b = wide[..., 0::2], wide[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    a, b = wide.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, size: Size, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.layout = layer, size.head_dim, size.rope_layout
        keys = size.kv_heads * size.head_dim
        self.wq = nn.Linear(size.width, size.width, bias=False)
        self.wk = nn.Linear(size.width, keys, bias=False)
        self.wv = nn.Linear(size.width, keys, bias=False)
        self.wo = nn.Linear(size.width, size.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        rope: Angles,
        mask: Bool[Tensor, "b 1 s k"] | None,
        cache: DynamicCache | None,
    ) -> Float[Tensor, "b s d"]:
        q, k, v = (
            rearrange(part(x), "b s (heads d) -> b heads s d", d=self.head_dim) for part in (self.wq, self.wk, self.wv)
        )
        q, k = rotate(q, rope, self.layout), rotate(k, rope, self.layout)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        causal = mask is None and q.shape[2] > 1
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)
        return self.wo(rearrange(out, "b heads s d -> b s (heads d)"))


class FeedForward(nn.Module):
    """SwiGLU: w1 is the gate, w3 goes up, w2 down."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(
        self, x: Float[Tensor, "... d"], real: Bool[Tensor, "b s"] | None = None
    ) -> tuple[Float[Tensor, "... d"], None]:
        """Nothing has to be balanced."""
        return self.down(x), None

    def down(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Gate(nn.Module):
    """Which experts a token goes through, and how much each counts."""

    def __init__(self, width: int, experts: Experts):
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.count, width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(
        self, x: Float[Tensor, "b s d"], real: Bool[Tensor, "b s"] | None
    ) -> tuple[Int[Tensor, "b s k"], Float[Tensor, "b s k"], Float[Tensor, ""] | None]:
        """Experts, their weights, and in training how unevenly each sequence's real tokens chose."""
        scores = F.linear(x, self.weight).softmax(-1)
        weights, chosen = scores.topk(self.experts.chosen, dim=-1, sorted=False)
        if self.experts.chosen > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if not self.training or self.experts.balance == 0:
            return chosen, weights, None
        counted = torch.ones(x.shape[:2], dtype=scores.dtype, device=x.device) if real is None else real.to(scores)
        tokens = counted.sum(1, keepdim=True).clamp(min=1)
        times = F.one_hot(chosen, self.experts.count).sum(2).to(scores.dtype)  # "b s e"
        load = (times * counted[..., None]).sum(1) * self.experts.count / (tokens * self.experts.chosen)
        mean = (scores * counted[..., None]).sum(1) / tokens
        return chosen, weights, (load * mean).sum(1).mean() * self.experts.balance


class Mixture(nn.Module):
    """Experts that a gate chooses, and one that every token goes through beside them."""

    def __init__(self, size: Size):
        super().__init__()
        self.experts = nn.ModuleList(FeedForward(size.width, size.mlp) for _ in range(size.experts.count))
        self.gate = Gate(size.width, size.experts)
        self.shared_experts = FeedForward(size.width, size.mlp)

    def forward(
        self, x: Float[Tensor, "b s d"], real: Bool[Tensor, "b s"] | None = None
    ) -> tuple[Float[Tensor, "b s d"], Float[Tensor, ""] | None]:
        """Tokens, and in training the loss of an uneven choice."""
        chosen, weights, uneven = self.gate(x, real)
        tokens, out = x.flatten(0, 1), torch.zeros_like(x).flatten(0, 1)
        chosen, weights = chosen.flatten(0, 1), weights.flatten(0, 1)
        for number, expert in enumerate(self.experts):
            # One that nobody chose is called all the same: in a training every process has to have its gradient.
            token, place = (chosen == number).nonzero(as_tuple=True)
            part = expert.down(tokens[token]) * weights[token, place, None]
            out = out.index_add(0, token, part.to(out.dtype))
        return out.unflatten(0, x.shape[:2]) + self.shared_experts.down(x), uneven


class Layer(nn.Module):
    def __init__(self, size: Size, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(size.width, size.norm_eps)
        self.attention = Attention(size, layer)
        self.ffn_norm = RMSNorm(size.width, size.norm_eps)
        self.feed_forward = Mixture(size) if size.experts else FeedForward(size.width, size.mlp)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        rope: Angles,
        mask: Bool[Tensor, "b 1 s k"] | None,
        cache: DynamicCache | None,
        real: Bool[Tensor, "b s"] | None,
    ) -> tuple[Float[Tensor, "b s d"], Float[Tensor, ""] | None]:
        x = x + self.attention(self.attention_norm(x), rope, mask, cache)
        out, uneven = self.feed_forward(self.ffn_norm(x), real)
        return x + out, uneven


class MiniMind(nn.Module):
    """Ids or embeddings in, logits out; called as `generation.generate` calls an LLM."""

    def __init__(self, size: Size):
        super().__init__()
        self.size, self.config = size, size.config()
        self.gradient_checkpointing = False
        self.tok_embeddings = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size, i) for i in range(size.layers))
        self.norm = RMSNorm(size.width, size.norm_eps)
        self.output = nn.Linear(size.width, size.vocabulary, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Makes the head's weight the embeddings'."""
        self.output.weight = self.tok_embeddings.weight

    def reset_parameters(self, deviation: float = 0.02) -> None:
        """Draws every matrix anew, to begin a training from nothing."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=deviation)

    @property
    def device(self) -> torch.device:
        return self.output.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tok_embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.output

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        """Computes the layers again in the backward pass, which never re-enters autograd, whatever is asked."""
        self.gradient_checkpointing = True

    def hidden(
        self,
        inputs_embeds: Float[Tensor, "b s d"],
        position_ids: Int[Tensor, "b s"] | None = None,
        attention_mask: Bool[Tensor, "b k"] | None = None,
        past_key_values: DynamicCache | None = None,
        real: Bool[Tensor, "b s"] | None = None,
    ) -> tuple[BaseModelOutputWithPast, Float[Tensor, ""] | None]:
        """Normed hidden states, and in training the loss of uneven choices of experts.

        `attention_mask` has a place for each key, cached ones included; None where all are real. `real` marks the
        tokens that the choice of experts is counted of, padding left out.
        """
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        b, s = inputs_embeds.shape[:2]
        if position_ids is None:
            position_ids = repeat(torch.arange(past, past + s, device=inputs_embeds.device), "s -> b s", b=b)
        mask = visible((b, s), past, attention_mask, inputs_embeds.device)
        rope = angles(position_ids, self.size.head_dim, self.size.rope_theta)
        x, uneven = inputs_embeds, []
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x, own = checkpoint(layer, x, rope, mask, None, real, use_reentrant=False)
            else:
                x, own = layer(x, rope, mask, past_key_values, real)
            uneven += [] if own is None else [own]
        out = BaseModelOutputWithPast(self.norm(x), past_key_values)
        return out, sum(uneven) if uneven else None

    def forward(
        self,
        input_ids: Int[Tensor, "b s"] | None = None,
        inputs_embeds: Float[Tensor, "b s d"] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        attention_mask: Bool[Tensor, "b k"] | None = None,
        labels: Int[Tensor, "b s"] | None = None,
        past_key_values: DynamicCache | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
        loss_only: bool = False,
    ) -> MoeCausalLMOutputWithPast:
        """Logits Float "b s v" in float32, of the last `logits_to_keep` positions or, for 0, of all.

        With `labels` (not shifted, IGNORE where none is) also the loss: the mean cross-entropy, in training with
        `aux_loss`, that of uneven choices of experts. `loss_only` computes the logits where there is a label alone.
        """
        embeds = self.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        # Of a batch that pads on the right no mask is needed: what is behind is never looked at.
        padded = labels is not None and attention_mask is not None
        seen = None if padded else attention_mask
        real = attention_mask.bool() if padded else None
        out, uneven = self.hidden(embeds, position_ids, seen, past_key_values if use_cache else None, real)
        hidden = out.last_hidden_state
        if labels is None:
            logits = self.output(hidden[:, -logits_to_keep:]).float()
            return MoeCausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)
        following = labels[:, 1:]
        supervised = following != IGNORE
        if loss_only:
            logits, scored = None, self.output(hidden[:, :-1][supervised]).float()
        else:
            logits = self.output(hidden).float()
            scored = logits[:, :-1][supervised]
        loss = F.cross_entropy(scored, following[supervised])
        loss = loss if uneven is None else loss + uneven
        return MoeCausalLMOutputWithPast(loss=loss, aux_loss=uneven, logits=logits)
