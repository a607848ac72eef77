"""Tensor parallelism for answering: every process holds a share of each layer, and the shares' outputs are added up.

A layer's first linears are cut by rows, that is by heads or by channels of the MLP; its last one by columns. A fused
layer is cut section by section: a rank's rows are its heads of q, then its heads of k, then those of v.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from videogpt_plus.types import UserError


@contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun started, if it did, for as long as the context is open."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(dist.get_node_local_rank())
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agreed(value: int) -> int:
    """The first process's value, in all of them."""
    values = [value]
    if world()[1] > 1:
        dist.broadcast_object_list(values)
    return values[0]


def world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where no group was made."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def check_shares(size: int, counts: Mapping[str, int]) -> None:
    """UserError: something cannot be shared out evenly between `size` processes; it says how many can."""
    odd = [f"{count} {what}" for what, count in counts.items() if count % size]
    if odd:
        most = gcd(*counts.values())
        fits = ", ".join(str(n) for n in range(1, min(most, 64) + 1) if most % n == 0)
        raise UserError(f"{size} processes cannot share {' and '.join(odd)} evenly; start one of: {fits}")


def rows(linear: nn.Linear | None, rank: int, size: int, sections: Sequence[int] | None = None) -> None:
    """Keeps the rank's rows of every section of a layer's output; of all of it where it has no sections."""
    if linear is None:
        return
    sections = list(sections or [linear.out_features])
    for name in ("weight", "bias"):
        if (whole := getattr(linear, name)) is not None:
            own = torch.cat([part.chunk(size)[rank] for part in whole.data.split(sections)])
            setattr(linear, name, nn.Parameter(own, whole.requires_grad))
    linear.out_features = len(linear.weight)


def columns(linear: nn.Linear | None, rank: int, size: int) -> None:
    """Keeps the rank's columns of a layer. Its bias stays with the first rank: it is to be added once."""
    if linear is None:
        return
    whole = linear.weight
    linear.weight = nn.Parameter(whole.data.chunk(size, dim=1)[rank].clone(), whole.requires_grad)
    linear.in_features = linear.weight.shape[1]
    if linear.bias is not None and rank:
        linear.bias.data = torch.zeros_like(linear.bias)


def summed(module: nn.Module) -> None:
    """What the module returns, or the first of it, is the sum over all processes from now on. Without gradients."""
    module.register_forward_hook(_sum)


def _sum(module: nn.Module, args: Any, output: Any) -> Any:
    share = output[0] if isinstance(output, tuple) else output
    dist.all_reduce(share)
    return output
