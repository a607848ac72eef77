"""CogVLM2's tower as its image model uses it: a picture squashed to a square, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.config.experiment import Branch
from videogpt_plus.families.cogvlm2.eva2 import load, normalised, outline
from videogpt_plus.types import Clip

__all__ = ["load", "outline", "preprocessor"]


def preprocessor(stream: Branch) -> Callable[[Clip], Float[Tensor, "t 3 p p"]]:
    """Pillow's bicubic to `pixels` x `pixels`, then CLIP's mean and deviation."""
    return partial(_preprocess, stream.pixels)


def _preprocess(pixels: int, clip: Clip) -> Float[Tensor, "t 3 p p"]:
    return normalised(torch.stack([squashed(frame, pixels) for frame in clip.frames]) / 255)


def squashed(frame: Tensor, pixels: int) -> Tensor:
    """UInt8 "3 h w" to UInt8 "3 p p"."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(rearrange(frame, "c h w -> h w c").numpy()).resize((pixels, pixels), Image.BICUBIC)
    return rearrange(torch.from_numpy(np.array(picture)), "h w c -> c h w")
