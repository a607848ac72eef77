"""The LLM's layers in 8 or 4 bits, by bitsandbytes where it is installed.

Everything else stays as it is: tower, convolution, projector, embeddings, norms and head are few bytes or many errors.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch

    from videogpt_plus.models.base import VisionLM


def check_bits(bits: int | None) -> None:
    """UserError: fewer bits are asked for, and bitsandbytes is not installed."""
    if bits is not None and find_spec("bitsandbytes") is None:
        raise UserError(f"--bits {bits} needs bitsandbytes: pip install 'videogpt_plus[bits]', or leave --bits out")


def chosen(model: VisionLM) -> list[str]:
    """The linear layers that get fewer bits, by name: those inside the LLM's layers."""
    from torch import nn

    inside = {id(m) for layer in model.layers for m in layer.modules() if isinstance(m, nn.Linear)}
    return [name for name, m in model.named_modules() if id(m) in inside]


def skipped(model: VisionLM) -> list[str]:
    """The modules with weights of their own that keep all their bits, by name."""
    fewer = set(chosen(model))
    return [
        n for n, m in model.named_modules() if n not in fewer and next(m.parameters(recurse=False), None) is not None
    ]


def quantise(model: VisionLM, bits: int, dtype: torch.dtype) -> None:
    """Replaces the chosen layers. Their weights are rounded as they move to a device: no `to(dtype)` from then on."""
    check_bits(bits)
    import bitsandbytes as bnb
    import torch

    for name in chosen(model):
        old = model.get_submodule(name)
        sizes, bias = (old.in_features, old.out_features), old.bias is not None
        with torch.device("meta"):
            if bits == 8:
                new = bnb.nn.Linear8bitLt(*sizes, bias, has_fp16_weights=False, threshold=6.0)
            else:
                new = bnb.nn.Linear4bit(*sizes, bias, compute_dtype=dtype, quant_type="nf4")
        if bits == 8:
            new.weight = bnb.nn.Int8Params(old.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
        new.bias = old.bias
        model.set_submodule(name, new.requires_grad_(False))
