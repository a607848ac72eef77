"""Scaling of long pictures in little memory, with the pixels that scaling the whole would give.

A square around a picture of 1000 x 20000 has 20 times its pixels; a picture of 3000 x 2 that is scaled by its shorter
side to 336 has 30,000 times as many, of which the middle alone is kept.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from videogpt_plus.types import Clip

#: Bytes of a picture above which it is not made whole: of one in float, and of one in whole numbers.
HUGE, LONG = 64 * 2**20, 8 * 2**20


def is_huge(clip: Clip) -> bool:
    """Whether the square around a frame is."""
    return 3 * max(clip.frames.shape[-2:]) ** 2 > LONG


def small_square(frame: UInt8[Tensor, "3 h w"], colour: tuple[int, int, int], pixels: int) -> UInt8[Tensor, "3 p p"]:
    """The frame in the middle of a square of this colour, as Pillow's bicubic scales it to `pixels`.

    Pillow scales the rows first, then the columns of what came of it. So some rows at a time are enough.
    """
    _, height, width = frame.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    scaled = np.empty((side, pixels, 3), np.uint8)
    scaled[:] = _bicubic(np.full((1, side, 3), colour, np.uint8), (pixels, 1))
    rows = max(1, LONG // 2 // (3 * side))
    for begin in range(0, height, rows):
        part = rearrange(frame[:, begin : begin + rows], "c h w -> h w c").numpy()
        padded = np.full((len(part), side, 3), colour, np.uint8)
        padded[:, left : left + width] = part
        scaled[top + begin : top + begin + len(part)] = _bicubic(padded, (pixels, len(part)))
    return rearrange(torch.from_numpy(_bicubic(scaled, (pixels, pixels))), "h w c -> c h w")


def shorter_side_to(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is this long."""
    height, width = size
    long = int(shorter * max(size) / min(size))
    return (long, shorter) if width <= height else (shorter, long)


def middle_by_pillow(frame: UInt8[Tensor, "3 h w"], size: tuple[int, int], pixels: int) -> UInt8[Tensor, "3 p p"]:
    """The middle of what Pillow's bicubic to `size`, (height, width), makes of the frame, without the rest."""
    from PIL import Image

    ends = []
    for side, scaled in zip(frame.shape[1:], size, strict=True):
        begin = (scaled - pixels) // 2
        ends.append((begin * side / scaled, (begin + pixels) * side / scaled))
    (top, bottom), (left, right) = ends
    picture = Image.fromarray(rearrange(frame, "c h w -> h w c").numpy())
    middle = picture.resize((pixels, pixels), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    return rearrange(torch.from_numpy(np.array(middle)), "h w c -> c h w")


def bilinear_part(
    frame: Float[Tensor, "1 3 h w"], size: tuple[int, int], top: int, left: int, pixels: int
) -> Float[Tensor, "1 3 p p"]:
    """The square at (top, left) of what torch's bilinear to `size` makes of the frame, without the rest."""
    for axis, (scaled, begin) in enumerate(zip(size, (top, left), strict=True), 2):
        length = frame.shape[axis]
        place = ((torch.arange(begin, begin + pixels) + 0.5) * (length / scaled) - 0.5).clamp(min=0)
        low = place.long().clamp(max=length - 1)
        part = (place - low).view([-1, 1] if axis == 2 else [-1]).to(frame.dtype)
        high = (low + 1).clamp(max=length - 1)
        frame = frame.index_select(axis, low) * (1 - part) + frame.index_select(axis, high) * part
    return frame


def _bicubic(picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
    from PIL import Image

    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
