"""Frozen encoders: frames in, patch grids out. A new one is one file in this folder and one line below.

Encoders of a model family stand in its record; `encoders.loading` makes any of them. This file imports no torch.
"""

from __future__ import annotations

from videogpt_plus.families import FAMILIES
from videogpt_plus.families.record import CLIP_MEAN_COLOUR, Encoder
from videogpt_plus.types import UserError

ENCODERS: dict[str, Encoder] = {
    "clip": Encoder("videogpt_plus.encoders.clip", CLIP_MEAN_COLOUR, True, tower="videogpt_plus.flops:clip"),
    "internvideo2": Encoder("videogpt_plus.encoders.internvideo2", tower="videogpt_plus.flops:internvideo2"),
}


def known() -> dict[str, Encoder]:
    """All encoders by name, the families' own included."""
    return ENCODERS | {name: own for family in FAMILIES.values() for name, own in family.encoders.items()}


def encoder_of(name: str) -> Encoder:
    """The record of an encoder. UserError: there is none of that name."""
    if name not in known():
        raise UserError(f"unknown encoder '{name}'; choose from: {', '.join(known())}")
    return known()[name]


def register(name: str, encoder: Encoder) -> None:
    """Adds an encoder from outside. UserError: its name is taken."""
    if name in known():
        raise UserError(f"an encoder is called '{name}' already: name yours differently")
    ENCODERS[name] = encoder
