"""CogVLM2's vision tower: EVA2-CLIP-E's trunk and the strided convolution behind it, under the published key names.

What differs from other vision transformers: the norms stand on the output of each branch, never on its input, whatever
their names suggest, and there is none on the residual stream. The grid is that behind the convolution, of half the
patches' side: 48 x 48 for an image of 1344 pixels, 8 x 8 for a frame of 224.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.config.experiment import Branch
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import read_matching, values_of
from videogpt_plus.io.tensors import load_exactly
from videogpt_plus.types import UserError

#: What the tower's keys begin with in the published file.
PREFIX = "model.vision."
#: Parts of `model.vision` that are not the tower's but the projector's.
PROJECTOR_PARTS = ("linear_proj.", "boi", "eoi")
#: CLIP's, in 0..1.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Eva2Size:
    """Sizes of a tower, in the words of the published `vision_config`."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_heads: int = 16
    layer_norm_eps: float = 1e-6

    @property
    def patches(self) -> int:
        """Patches a side, before the convolution."""
        return self.image_size // self.patch_size


def size_of(config: dict[str, Any]) -> Eva2Size:
    """The tower's sizes in a published `config.json`. KeyError, TypeError: it lacks one."""
    vision = config["vision_config"]
    return Eva2Size(**{name: vision[name] for name in Eva2Size.__dataclass_fields__})


class Attention(nn.Module):
    """Bidirectional self-attention. Rows of the fused layer: all of q, then all of k, then all of v."""

    def __init__(self, size: Eva2Size):
        super().__init__()
        self.heads = size.num_heads
        self.query_key_value = nn.Linear(size.hidden_size, 3 * size.hidden_size)
        self.dense = nn.Linear(size.hidden_size, size.hidden_size)

    def forward(self, x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n d"]:
        q, k, v = rearrange(self.query_key_value(x), "f n (qkv heads d) -> qkv f heads n d", qkv=3, heads=self.heads)
        return self.dense(rearrange(F.scaled_dot_product_attention(q, k, v), "f heads n d -> f n (heads d)"))


class Mlp(nn.Module):
    def __init__(self, size: Eva2Size):
        super().__init__()
        self.fc1 = nn.Linear(size.hidden_size, size.intermediate_size)
        self.fc2 = nn.Linear(size.intermediate_size, size.hidden_size)

    def forward(self, x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, size: Eva2Size):
        super().__init__()
        self.attention = Attention(size)
        self.input_layernorm = nn.LayerNorm(size.hidden_size, eps=size.layer_norm_eps)
        self.mlp = Mlp(size)
        self.post_attention_layernorm = nn.LayerNorm(size.hidden_size, eps=size.layer_norm_eps)

    def forward(self, x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n d"]:
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))


class PatchEmbedding(nn.Module):
    """Patches row by row behind a class token, with a learned place each."""

    def __init__(self, size: Eva2Size):
        super().__init__()
        self.proj = nn.Conv2d(3, size.hidden_size, kernel_size=size.patch_size, stride=size.patch_size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, size.hidden_size))
        self.position_embedding = nn.Embedding(size.patches**2 + 1, size.hidden_size)

    def forward(self, frames: Float[Tensor, "f 3 p p"]) -> Float[Tensor, "f n d"]:
        patches = rearrange(self.proj(frames), "f d h w -> f (h w) d")
        return torch.cat([self.cls_embedding.expand(len(frames), 1, -1), patches], 1) + self.position_embedding.weight


class Transformer(nn.Module):
    def __init__(self, size: Eva2Size):
        super().__init__()
        self.layers = nn.ModuleList(Block(size) for _ in range(size.num_hidden_layers))

    def forward(self, x: Float[Tensor, "f n d"]) -> Float[Tensor, "f n d"]:
        for block in self.layers:
            x = block(x)
        return x


class Eva2(nn.Module):
    """Frames to the grid behind the convolution, each frame on its own; the class token is dropped."""

    def __init__(self, size: Eva2Size):
        super().__init__()
        self.side = size.patches
        self.patch_embedding = PatchEmbedding(size)
        self.transformer = Transformer(size)
        self.conv = nn.Conv2d(size.hidden_size, size.hidden_size, kernel_size=2, stride=2)

    @property
    def blocks(self) -> list[nn.Module]:
        """See `GridEncoder.blocks`."""
        return [self.patch_embedding, *self.transformer.layers, self.conv]

    def forward(self, frames: Float[Tensor, "b t 3 p p"]) -> Float[Tensor, "b t h w d"]:
        b = len(frames)
        tokens = self.transformer(self.patch_embedding(rearrange(frames, "b t c y x -> (b t) c y x")))
        grid = self.conv(rearrange(tokens[:, 1:], "f (h w) d -> f d h w", h=self.side))
        return rearrange(grid, "(b t) d h w -> b t h w d", b=b)


def load(stream: Branch) -> Eva2:
    """The tower from a published CogVLM2 folder, or from one that `convert` wrote; of whole weights it reads its own.

    UserError: files are missing or no tower's, or have other sizes than the stream.
    """
    tower, folder = outline(stream), Path(stream.weights)
    state = read_matching(folder, is_tower)
    load_exactly(tower, {k.removeprefix(PREFIX): v for k, v in state.items()}, folder, assign=True)
    return tower


def outline(stream: Branch) -> Eva2:
    """The tower on "meta": its config is all that is read. UserError: as for `load`."""
    file = require(Path(stream.weights) / "config.json", "CogVLM2's config")
    config = read_object(file, "download it again")
    with values_of(file, "correct it or download it again"), torch.device("meta"):
        size = size_of(config)
        found, wanted = (
            (size.image_size, size.patches // 2, size.hidden_size),
            (stream.pixels, stream.grid, stream.width),
        )
        if found != wanted:
            raise UserError(
                f"CogVLM2's tower in {stream.weights} has (pixels, grid, width) {found}, the experiment's stream says "
                f"{wanted}; name other weights or correct the stream"
            )
        return Eva2(size)


def is_tower(key: str) -> bool:
    """Whether a published key is the tower's."""
    return key.startswith(PREFIX) and not key.removeprefix(PREFIX).startswith(PROJECTOR_PARTS)


def normalised(pixels: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    """Pixels in 0..1 with CLIP's mean and deviation taken out."""
    mean, deviation = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, DEVIATION))
    return (pixels - mean) / deviation
