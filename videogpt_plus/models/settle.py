"""Where a loaded model goes: onto one device, onto several cards, or a share of it onto each of several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import DEFAULT_LOAD, LoadConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.models import device_map
from videogpt_plus.models.quantize import check_bits, quantise
from videogpt_plus.models.tensor_parallel import world
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.models.dual_encoder import DualEncoderVLM

#: Tokens of a question, of those that are reckoned with.
QUESTION = 512


class Settled(NamedTuple):
    """What a family's `load_beside` does with its weights once they are read."""

    device: str | torch.device
    dtype: torch.dtype
    load_config: LoadConfig = DEFAULT_LOAD
    #: What the model takes and on which card each unit of it stands; None on a CPU.
    placed: tuple[device_map.Needs, list[int]] | None = None
    #: Leaves of a model what one of several processes computes.
    shard: Callable[[DualEncoderVLM, int, int], None] | None = None

    @property
    def first(self) -> str | torch.device:
        """Where the weights are read to."""
        return "cpu" if self.load_config.bits or self.load_config.devices > 1 or world()[1] > 1 else self.device

    def settle(self, model: DualEncoderVLM) -> DualEncoderVLM:
        """The model where it will compute."""
        rank, size = world()
        if size > 1 and self.shard:
            self.shard(model, rank, size)
        if self.load_config.bits:
            quantise(model, self.load_config.bits, self.dtype)
        if self.load_config.devices == 1:
            return model.to(self.device)
        device_map.spread(model, *self.placed, [f"cuda:{i}" for i in range(self.load_config.devices)])
        return model


def settled(
    runs: Sequence[tuple[Experiment, Path]],
    outline: Callable[[Experiment, Path], DualEncoderVLM],
    shard: Callable[[DualEncoderVLM, int, int], None],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
    load_config: LoadConfig,
    rows: int,
    cards: Sequence[int],
    tell: Callable[[str], None] | None,
) -> Settled:
    """Decides where models go, from their configs alone, and tells it in a line.

    `cards` holds the bytes that each GPU has free, none on a machine without; `rows` go through the LLM together.
    UserError: there are not so many cards, or the models do not fit on them; it says what would.
    """
    check_bits(load_config.bits)
    rank, size = world()
    if size > 1 and load_config.devices > 1:
        raise UserError(
            f"--devices {load_config.devices} in {size} processes is not possible: each process has one device"
        )
    if load_config.devices > max(1, len(cards)):
        here = f"{len(cards)} GPU{'s' if len(cards) > 1 else ''}" if cards else "no GPU"
        raise UserError(f"--devices {load_config.devices} is not possible: this machine has {here}")
    experiment, folder = runs[0]
    model = outline(experiment, folder)
    if size > 1:
        shard(model, rank, size)
    frames = max(e.num_frames for e, _ in runs)
    tokens = max(num_visual_tokens(e, frames) + QUESTION + e.max_new_tokens for e, _ in runs)

    def needs(bits: int | None) -> device_map.Needs:
        sizes = (dtype.itemsize, encoder_dtype.itemsize)
        return device_map.needs(model, frames, tokens, rows, sizes, bits, size)

    asked = needs(load_config.bits)
    if not cards:
        if tell:
            tell(device_map.told(asked, [0] * len(asked.units), [], experiment.name))
        return Settled(device, dtype, load_config, None, shard)
    used = [cards[torch.device(device).index or 0]] if load_config.devices == 1 else cards[: load_config.devices]
    placed = device_map.check(asked, used, experiment.name, load_config.bits, needs(4))
    if tell:
        tell(device_map.told(asked, placed, used, experiment.name))
    return Settled(device, dtype, load_config, (asked, placed), shard)
