"""Frozen encoders: frames in, patch grids out. A new encoder is one file beside this one and one line below.

An encoder's file offers two functions:
    load(branch) -> nn.Module that maps Float "b t 3 p p" to Float "b t h w d", with the weights of `branch.weights`;
    preprocessor(branch) -> a picklable callable from a Clip to Float "t 3 p p", which needs no weights;
and, where it was trained on still pictures that were padded to squares, PADDING: their colour, three of 0..255.
One whose preprocessing begins with Pillow's bicubic to `branch.pixels` says so by SCALES_BY_PILLOW: a huge square may
then be scaled before it is made. A module whose grids are no squares says so by `shape`, (h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from videogpt_plus.config.experiment import Branch
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
}


def preprocessor(branch: Branch) -> Callable[[Clip], Tensor]:
    """The branch's preprocessing alone, Clip -> Float "t 3 p p": for data workers, which load no weights."""
    return _file_of(branch).preprocessor(branch)


def padding(branch: Branch) -> tuple[int, int, int] | None:
    """The colour by which the encoder's still pictures are padded to squares; None where they are cropped."""
    return getattr(_file_of(branch), "PADDING", None)


def scales_by_pillow(branch: Branch) -> bool:
    """Whether the branch's preprocessing begins with Pillow's bicubic to `branch.pixels`."""
    return getattr(_file_of(branch), "SCALES_BY_PILLOW", False)


def load_encoder(branch: Branch, device: str | torch.device, dtype: torch.dtype) -> GridEncoder:
    """The branch's encoder with its weights, frozen and always in eval mode.

    UserError: unknown encoder, missing weights, or weights and sizes of another architecture.
    """
    from videogpt_plus.encoders.grid import GridEncoder

    file = _file_of(branch)
    encoder = GridEncoder(file.load(branch), branch, file.preprocessor(branch))
    return encoder.to(device=device, dtype=dtype)


def _file_of(branch: Branch) -> ModuleType:
    if branch.encoder not in ENCODERS:
        raise UserError(f"unknown encoder '{branch.encoder}'; choose from: {', '.join(ENCODERS)}")
    return import_module(ENCODERS[branch.encoder])
