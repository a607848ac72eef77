"""Ways to do CogVLM2 wrong. Each must change the logits, or the comparison could not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videogpt_plus.families.cogvlm2 import decoder, eva2, model, projector, rope
from videogpt_plus.families.cogvlm2.model import CogVLM2
from videogpt_plus.families.cogvlm2.projector import Glu, GluProjector
from videogpt_plus.types import Visual


@dataclass
class Spoilt:
    """A model to be spoilt, and what it is shown."""

    model: CogVLM2
    visuals: list[list[Visual]]

    @property
    def tower(self) -> eva2.Eva2:
        return self.model.encoders[self.model.stream].tower

    @property
    def projector(self) -> GluProjector:
        return self.model.projectors[self.model.stream]

    def change_pixels(self, change: Callable[[Tensor], Tensor]) -> None:
        self.visuals = [
            [Visual({name: change(p) for name, p in v.pixels.items()}, v.placeholders) for v in sample]
            for sample in self.visuals
        ]


@contextmanager
def restored() -> Iterator[None]:
    """Puts back every function of a module that a control replaces."""
    kept = [
        (model, "vision_expert"),
        (model, "position_ids"),
        (decoder, "rotate"),
        (rope, "THETA"),
        (eva2.Block, "forward"),
        (eva2.Mlp, "forward"),
        (Glu, "forward"),
    ]
    values = [getattr(place, name) for place, name in kept]
    try:
        yield
    finally:
        for (place, name), value in zip(kept, values, strict=True):
            setattr(place, name, value)


def eoi_to_vision(s: Spoilt) -> None:
    model.vision_expert = lambda visual: visual


def boi_to_language(s: Spoilt) -> None:
    usual = model.vision_expert

    def inner(visual: Tensor) -> Tensor:
        chosen = usual(visual)
        chosen[:, 1:] &= visual[:, :-1]
        return chosen

    model.vision_expert = inner


def language_everywhere(s: Spoilt) -> None:
    model.vision_expert = torch.zeros_like


def pre_norm(s: Spoilt) -> None:
    def forward(self: eva2.Block, x: Tensor) -> Tensor:
        x = x + self.attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))

    eva2.Block.forward = forward


def arange(s: Spoilt) -> None:
    model.position_ids = lambda visual, mask: torch.arange(visual.shape[1]).expand(visual.shape)


def raw_types(s: Spoilt) -> None:
    def positions(visual: Tensor, mask: Tensor) -> Tensor:
        steps = ~visual
        steps[:, 1:] |= visual[:, 1:] & ~visual[:, :-1]
        steps[:, 0] = False
        return steps.cumsum(1)

    model.position_ids = positions


def interleaved(s: Spoilt) -> None:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        cos, sin = cos[..., :half], sin[..., :half]
        a, b = x[..., 0::2], x[..., 1::2]
        return rearrange(torch.stack([a * cos - b * sin, b * cos + a * sin], -1), "... d two -> ... (d two)")

    decoder.rotate = rotate


def theta(s: Spoilt) -> None:
    rope.THETA = 10000.0


def swap(a: nn.Parameter, b: nn.Parameter) -> None:
    a.data, b.data = b.data, a.data


def marks_swapped(s: Spoilt) -> None:
    swap(s.projector.boi, s.projector.eoi)


def gate_up_swapped(s: Spoilt) -> None:
    swap(s.projector.linear_proj.gate_proj.weight, s.projector.linear_proj.dense_h_to_4h.weight)


def glu_eps(s: Spoilt) -> None:
    s.projector.linear_proj.norm1.eps = 1e-6


def tower_eps(s: Spoilt) -> None:
    for module in s.tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def rms_eps(s: Spoilt) -> None:
    for module in s.model.llm.modules():
        if isinstance(module, decoder.RMSNorm):
            module.eps = 1e-6


def tanh_gelu(s: Spoilt) -> None:
    def mlp(self: eva2.Mlp, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    def glu(self: projector.Glu, patches: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.linear_proj(patches)), approximate="tanh")
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))

    eva2.Mlp.forward, Glu.forward = mlp, glu


def zero_class_token(s: Spoilt) -> None:
    s.tower.patch_embedding.cls_embedding.data.zero_()


def norms_swapped(s: Spoilt) -> None:
    for block in s.tower.transformer.layers:
        swap(block.input_layernorm.weight, block.post_attention_layernorm.weight)
        swap(block.input_layernorm.bias, block.post_attention_layernorm.bias)


def class_place_last(s: Spoilt) -> None:
    table = s.tower.patch_embedding.position_embedding.weight
    table.data = table.data.roll(1, 0)


def no_vision_bias(s: Spoilt) -> None:
    for layer in s.model.causal.model.layers:
        layer.self_attn.vision_expert_query_key_value.bias.data.zero_()


def noise(s: Spoilt) -> None:
    s.change_pixels(lambda p: p + 1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))


#: The recording's name of each.
CONTROLS: dict[str, Callable[[Spoilt], None]] = {
    "none (repeat)": lambda s: None,
    "eoi routed to vision expert": eoi_to_vision,
    "boi routed to language expert": boi_to_language,
    "language expert everywhere": language_everywhere,
    "pre-norm ViT": pre_norm,
    "arange positions": arange,
    "eoi repeats the patch position (positions from raw types)": raw_types,
    "interleaved rope": interleaved,
    "rope theta 10000": theta,
    "boi/eoi swapped": marks_swapped,
    "GLU gate/up swapped": gate_up_swapped,
    "GLU norm eps 1e-6": glu_eps,
    "ViT LayerNorm eps 1e-5": tower_eps,
    "RMSNorm eps 1e-6": rms_eps,
    "tanh GELU everywhere": tanh_gelu,
    "zero cls_embedding": zero_class_token,
    "ViT norms swapped": norms_swapped,
    "position table with CLS last": class_place_last,
    "vision qkv bias dropped": no_vision_bias,
    "pixels + 1e-3 noise": noise,
    "pixels transposed (h<->w)": lambda s: s.change_pixels(lambda p: p.transpose(-1, -2)),
    "frame order reversed": lambda s: s.change_pixels(lambda p: p.flip(0)),
}
