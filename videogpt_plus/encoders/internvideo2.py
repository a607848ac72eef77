"""The video stream: InternVideo2 (OpenGVLab, stage 2) in plain PyTorch, chunks of 4 frames.

Kept from the published model: what changes its features. Left out: its decoders and projections, which the
features do not pass, DropPath, which a frozen tower must not use, and fused kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from videogpt_plus.config.experiment import Branch, InternVideo2Size
from videogpt_plus.io.tensors import load_exactly, read_tensors, without_prefixes
from videogpt_plus.types import Clip, UserError

#: Parts and tensors of the published file that the features do not depend on.
UNUSED_PARTS = (
    "clip_projector.",
    "clip_decoder.",
    "final_clip_decoder.",
    "vision_proj.",
    "text_encoder.",
    "text_proj.",
    "itm_head.",
)
UNUSED = ("clip_pos_embed", "clip_img_pos_embed", "temp")
#: What the tower's keys begin with in a checkpoint of the reference, and in the published file.
PREFIXES = ("model.vision_tower.", "vision_encoder.")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RMSNorm(nn.RMSNorm):
    """torch's, which on a CPU makes five passes over its input: here three, where nothing is rounded on the way."""

    def forward(self, x: Float[Tensor, "c n d"]) -> Float[Tensor, "c n d"]:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()
        return x * torch.rsqrt(squares / x.shape[-1] + self.eps) * self.weight


class Attention(nn.Module):
    """Self-attention; q and k pass an RMSNorm over the full width before they are split into heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width, eps=1e-6)
        self.k_norm = RMSNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "c n d"]) -> Float[Tensor, "c n d"]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (
            rearrange(y, "c n (heads d) -> c heads n d", heads=self.heads) for y in (self.q_norm(q), self.k_norm(k), v)
        )
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "c heads n d -> c n (heads d)"))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "c n d"]) -> Float[Tensor, "c n d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel, applied in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "c n d"]) -> Float[Tensor, "c n d"]:
        return (x.float() * self.gamma.float()).to(x.dtype)


class Block(nn.Module):
    def __init__(self, size: InternVideo2Size):
        super().__init__()
        self.norm1 = RMSNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.heads)
        self.ls1 = LayerScale(size.width)
        self.norm2 = RMSNorm(size.width, eps=1e-6)
        self.mlp = Mlp(size.width, int(size.width * size.mlp_ratio))
        self.ls2 = LayerScale(size.width)

    def forward(self, x: Float[Tensor, "c n d"]) -> Float[Tensor, "c n d"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, size: InternVideo2Size):
        super().__init__()
        patch = (1, size.patch, size.patch)
        self.proj = nn.Conv3d(3, size.width, kernel_size=patch, stride=patch)

    def forward(self, frames: Float[Tensor, "c f 3 p p"]) -> Float[Tensor, "c n d"]:
        return rearrange(self.proj(rearrange(frames, "c f rgb y x -> c rgb f y x")), "c d f h w -> c (f h w) d")


class InternVideo2(nn.Module):
    """The tower, under the key names of the published file. Chunks do not see one another.

    Blocks 0 to depth-2 alone: the features are the output of block depth-2, without class token or final norm.
    """

    def __init__(self, size: InternVideo2Size, pixels: int):
        super().__init__()
        self.chunk = size.chunk
        self.side = pixels // size.patch
        patches = self.side**2
        self.patch_embed = PatchEmbed(size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.chunk * patches, size.width))
        self.img_pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, size.width))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth - 1))

    def forward(self, frames: Float[Tensor, "b t 3 p p"]) -> Float[Tensor, "b t h w d"]:
        """Any number of frames: one is an image; a last chunk that is not full repeats its last frame."""
        b, t = frames.shape[:2]
        chunk, pos_embed = (1, self.img_pos_embed) if t == 1 else (self.chunk, self.pos_embed)
        filled = torch.cat([frames, frames[:, -1:].expand(-1, -t % chunk, -1, -1, -1)], dim=1)
        x = self.patch_embed(rearrange(filled, "b (k f) c y x -> (b k) f c y x", f=chunk))
        x = torch.cat([repeat(self.cls_token, "1 1 d -> c 1 d", c=len(x)), x], dim=1) + pos_embed
        for block in self.blocks:
            x = block(x)
        grid = rearrange(x[:, 1:], "(b k) (f h w) d -> b (k f) h w d", b=b, f=chunk, h=self.side)
        return grid[:, :t]


def load(stream: Branch) -> InternVideo2:
    """The tower from the published `.pt` or from safetensors, with or without PREFIXES before its keys.

    UserError: no file, other keys or shapes, or a stream whose sizes contradict one another.
    """
    size = _checked_size(stream)
    state = without_prefixes(read_tensors(stream.weights), PREFIXES)
    last = f"blocks.{size.depth - 1}."  # in the published file, but never run
    with torch.device("meta"):  # a billion random numbers would be drawn only to be replaced
        tower = InternVideo2(size, stream.pixels)

    def unused(key: str) -> bool:
        return key in UNUSED or key.startswith((*UNUSED_PARTS, last))

    load_exactly(tower, state, stream.weights, unused, assign=True)
    return tower


def _checked_size(stream: Branch) -> InternVideo2Size:
    size = stream.size
    if size is None:
        raise UserError("an internvideo2 stream needs `size=InternVideo2Size(...)`: its weight file carries none")
    if (size.patch * stream.grid, size.width) != (stream.pixels, stream.width):
        raise UserError(
            f"internvideo2 stream of {stream.pixels} pixels, grid {stream.grid}, width {stream.width} contradicts "
            f"its size: patch {size.patch}, width {size.width}; pixels must be patch x grid"
        )
    return size


def preprocessor(stream: Branch) -> Callable[[Clip], Float[Tensor, "t 3 p p"]]:
    """Each uint8 frame squashed to a square, then ImageNet's mean and deviation."""
    return partial(_preprocess, stream.pixels)


def _preprocess(pixels: int, clip: Clip) -> Float[Tensor, "t 3 p p"]:
    # Frame by frame: sixteen full-HD frames in float32 at once would take 400 MB.
    squashed = torch.cat([_squash(frame, pixels) for frame in clip.frames])
    mean, deviation = (rearrange(torch.tensor(v), "c -> c 1 1") for v in (MEAN, DEVIATION))
    return (squashed / 255 - mean) / deviation


def _squash(frame: Tensor, pixels: int) -> Float[Tensor, "1 3 p p"]:
    """OpenCV's INTER_LINEAR up to its fixed-point weights: no antialiasing, result rounded to whole levels."""
    # In the order that the scaling wants its pixels in; it would copy them into it.
    levels = frame[None].to(torch.float32, memory_format=torch.channels_last)
    return F.interpolate(levels, (pixels, pixels), mode="bilinear", align_corners=False).round()
