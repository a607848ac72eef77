"""Encoders made from their records: preprocessing alone, with weights, or without memory for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videogpt_plus.config.experiment import Branch
from videogpt_plus.encoders import encoder_of
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.types import Clip


def preprocessor(stream: Branch) -> Callable[[Clip], Tensor]:
    """The stream's preprocessing alone, Clip -> Float "t 3 p p": for data workers, which load no weights."""
    return encoder_of(stream.encoder).file.preprocessor(stream)


def load_encoder(stream: Branch, device: str | torch.device, dtype: torch.dtype) -> GridEncoder:
    """The stream's encoder with its weights, frozen and always in eval mode.

    UserError: unknown encoder, missing weights, or weights and sizes of another architecture.
    """
    file = encoder_of(stream.encoder).file
    return GridEncoder(file.load(stream), stream, file.preprocessor(stream)).to(device=device, dtype=dtype)


def outline_encoder(stream: Branch) -> GridEncoder:
    """The stream's encoder on "meta": names and shapes. UserError: as in `load_encoder`, or nothing outlines it."""
    file = encoder_of(stream.encoder).file
    return GridEncoder(file.outline(stream), stream, file.preprocessor(stream))
