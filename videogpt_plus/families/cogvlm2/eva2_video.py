"""CogVLM2's tower as its video model uses it: the middle square of each frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.config.experiment import Branch
from videogpt_plus.families.cogvlm2.eva2 import load, normalised, outline
from videogpt_plus.io.scaling import HUGE, bilinear_part
from videogpt_plus.types import Clip

__all__ = ["load", "outline", "preprocessor"]


def preprocessor(stream: Branch) -> Callable[[Clip], Float[Tensor, "t 3 p p"]]:
    """CLIP's mean and deviation first; then bilinear to a short side of `pixels`, and the middle square."""
    return partial(_preprocess, stream.pixels)


def _preprocess(pixels: int, clip: Clip) -> Float[Tensor, "t 3 p p"]:
    # Frame by frame: a clip of full-HD frames in float32 at once would take hundreds of MB.
    return torch.cat([_middle(normalised(frame[None] / 255), pixels) for frame in clip.frames])


def _middle(frame: Float[Tensor, "1 3 h w"], pixels: int) -> Float[Tensor, "1 3 p p"]:
    height, width = frame.shape[-2:]
    tall, wide = int(height / width * pixels), int(width / height * pixels)
    size = (tall, pixels) if width < height else (pixels, wide)
    top, left = (round((side - pixels) / 2) for side in size)
    if 12 * size[0] * size[1] > HUGE:
        return bilinear_part(frame, size, top, left, pixels)
    frame = F.interpolate(frame, size, mode="bilinear", align_corners=False)
    return frame[..., top : top + pixels, left : left + pixels]
