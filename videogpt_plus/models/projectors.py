"""Projectors: from an encoder's width to the LLM's, patch by patch."""

from __future__ import annotations

import re

from torch import nn

from videogpt_plus.types import UserError


def build_projector(name: str, width: int, llm_width: int) -> nn.Module:
    """`linear`, `mlp{n}x_gelu` with n linear layers, or `identity` where both widths are equal.

    Keys of `mlp2x_gelu` are the reference's: `0.weight, 0.bias, 2.weight, 2.bias`.
    UserError: unknown name, or `identity` between unequal widths.
    """
    if name == "identity":
        if width != llm_width:
            raise UserError(f"projector 'identity' cannot take width {width} to {llm_width}; choose mlp2x_gelu")
        return nn.Identity()
    if name == "linear":
        return nn.Linear(width, llm_width)
    if match := re.fullmatch(r"mlp([1-9]\d*)x_gelu", name):
        layers: list[nn.Module] = [nn.Linear(width, llm_width)]
        for _ in range(int(match[1]) - 1):
            layers += [nn.GELU(), nn.Linear(llm_width, llm_width)]
        return nn.Sequential(*layers)
    raise UserError(f"unknown projector '{name}'; choose from: linear, identity, mlp{{n}}x_gelu such as mlp2x_gelu")
