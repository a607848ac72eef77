"""Frozen encoders: frames in, patch grids out. A new encoder is one file beside this one and one line below.

An encoder's file offers two functions:
    load(stream) -> nn.Module that maps Float "b t 3 p p" to Float "b t h w d", with the weights of `stream.weights`;
    preprocessor(stream) -> a picklable callable from a Clip to Float "t 3 p p", which needs no weights;
and, where it was trained on frames that another rule than "spread" took, SAMPLING: a name in `video.SAMPLINGS`.
One whose preprocessing begins with Pillow's bicubic to `stream.pixels` says so by SCALES_BY_PILLOW: a huge square may
then be scaled before it is made. A module whose grids are no squares says so by `shape`, (h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from videogpt_plus.config.experiment import Stream
from videogpt_plus.types import Clip, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from videogpt_plus.encoders.grid import GridEncoder

ENCODERS: dict[str, str] = {
    "clip": "videogpt_plus.encoders.clip",
    "internvideo2": "videogpt_plus.encoders.internvideo2",
    "clip_llava": "videogpt_plus.families.llava15.encoder",
    "clip_cinego": "videogpt_plus.families.cinego.encoder",
    "eva2_image": "videogpt_plus.families.cogvlm2.eva2_image",
    "eva2_video": "videogpt_plus.families.cogvlm2.eva2_video",
    "eva2_video_even": "videogpt_plus.families.cogvlm2.eva2_video_even",
    "eva2_video_average": "videogpt_plus.families.cogvlm2.eva2_video_average",
}


def preprocessor(stream: Stream) -> Callable[[Clip], Tensor]:
    """The stream's preprocessing alone, Clip -> Float "t 3 p p": for data workers, which load no weights."""
    return _file_of(stream).preprocessor(stream)


def sampling(stream: Stream) -> str:
    """The rule by which a video's frames are taken for the stream, a name in `video.SAMPLINGS`."""
    return getattr(_file_of(stream), "SAMPLING", "spread")


def scales_by_pillow(stream: Stream) -> bool:
    """Whether the stream's preprocessing begins with Pillow's bicubic to `stream.pixels`."""
    return getattr(_file_of(stream), "SCALES_BY_PILLOW", False)


def load_encoder(stream: Stream, device: str | torch.device, dtype: torch.dtype) -> GridEncoder:
    """The stream's encoder with its weights, frozen and always in eval mode.

    UserError: unknown encoder, missing weights, or weights and sizes of another architecture.
    """
    from videogpt_plus.encoders.grid import GridEncoder

    file = _file_of(stream)
    encoder = GridEncoder(file.load(stream), stream, file.preprocessor(stream))
    return encoder.to(device=device, dtype=dtype)


def _file_of(stream: Stream) -> ModuleType:
    if stream.encoder not in ENCODERS:
        raise UserError(f"unknown encoder '{stream.encoder}'; choose from: {', '.join(ENCODERS)}")
    return import_module(ENCODERS[stream.encoder])
