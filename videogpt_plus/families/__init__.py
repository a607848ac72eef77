"""Model families: a folder and a record each, and one line below. This file imports no torch.

The dual encoder is trained here; the others were published whole.
"""

from __future__ import annotations

from videogpt_plus.families import cinego, cogvlm2, llava15
from videogpt_plus.families.record import Family
from videogpt_plus.types import UserError

DUAL_ENCODER = Family(
    name="dual_encoder",
    build="videogpt_plus.models.dual_encoder:build",
    tokenizer="videogpt_plus.models.dual_encoder:tokenizer",
    sizes="videogpt_plus.flops:dual_encoder",
    many_branches=True,
    merges_lora=False,
    shares_lora=True,
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        DUAL_ENCODER,
        llava15.FAMILY,
        cogvlm2.IMAGE,
        cogvlm2.VIDEO,
        cinego.FAMILY,
    )
}


def register(family: Family) -> None:
    """Adds a family from outside. UserError: its name is taken."""
    if family.name in FAMILIES:
        raise UserError(f"a model family is called '{family.name}' already: name yours differently")
    FAMILIES[family.name] = family


def family_of(name: str) -> Family:
    """The record of a family. UserError: there is none of that name."""
    if name not in FAMILIES:
        raise UserError(f"unknown family '{name}'; choose from: {', '.join(FAMILIES)}")
    return FAMILIES[name]
