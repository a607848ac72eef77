"""Rotary angles of the language model, in the three precisions that its published weights have been run with."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videogpt_plus.config.options import RopePrecision

#: fp32: frequencies, angles and rotation in float32, the exact ones.
#: ckpt_fp32load: the file's frequencies, which it keeps in bfloat16, used in float32: what the original does when it is
#: loaded in float32. reference_bf16: all of it in bfloat16, where positions above 256 collapse: what the original does
#: when it is loaded in bfloat16.
PRECISIONS: tuple[str, ...] = get_args(RopePrecision)
#: Stands in no config of the published weights.
THETA = 500000.0


def frequencies(head_dim: int) -> Float[Tensor, " half"]:
    """Turns a position, in radians, of each pair of channels."""
    return 1.0 / THETA ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def angles(
    positions: Int[Tensor, "b s"],
    head_dim: int,
    precision: RopePrecision,
    stored: Float[Tensor, " half"] | None = None,
) -> tuple[Float[Tensor, "b 1 s d"], Float[Tensor, "b 1 s d"]]:
    """Cosines and sines, for every head alike, in float32. `stored` is what the weights' file keeps as frequencies."""
    exact = frequencies(head_dim).to(positions.device)
    kept = (exact if stored is None else stored.to(positions.device)).bfloat16()
    if precision == "reference_bf16":
        turned = positions.to(torch.bfloat16)[..., None] * kept
    else:
        turned = positions.float()[..., None] * (exact if precision == "fp32" else kept.float())
    both = torch.cat([turned, turned], dim=-1)[:, None]
    return both.cos().float(), both.sin().float()


def rotate(x: Float[Tensor, "b heads s d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b heads s d"]:
    """Channel i turns with channel i + d/2."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
