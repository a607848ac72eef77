"""Where a loaded model computes: on one device, on several cards, or a share of it in each of several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import DEFAULT_LOAD, LoadConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.families.record import Family
from videogpt_plus.models import device_map, tensor_parallel
from videogpt_plus.models.quantize import check_bits, quantise
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.models.base import VisionLM

#: Text tokens of a question for which memory is planned.
QUESTION = 512


class Placement(NamedTuple):
    """Where a model goes once its weights are read."""

    device: str | torch.device
    dtype: torch.dtype
    load_config: LoadConfig = DEFAULT_LOAD
    #: What the model takes and on which card each unit of it stands; None where nothing was planned.
    planned: tuple[device_map.Needs, list[int]] | None = None
    #: Leaves of a model what one of several processes computes.
    shard: Callable[[VisionLM, int, int], None] | None = None

    @property
    def read_to(self) -> str | torch.device:
        """Where weights are read to."""
        return (
            "cpu"
            if self.load_config.bits or self.load_config.devices > 1 or tensor_parallel.world()[1] > 1
            else self.device
        )

    def place(self, model: VisionLM) -> VisionLM:
        """The model where it will compute."""
        rank, size = tensor_parallel.world()
        if size > 1 and self.shard:
            self.shard(model, rank, size)
        if self.load_config.bits:
            quantise(model, self.load_config.bits, self.dtype)
        if self.load_config.devices == 1:
            return model.to(self.device)
        device_map.spread(model, *self.planned, [f"cuda:{i}" for i in range(self.load_config.devices)])
        return model


def plan(
    family: Family,
    runs: Sequence[tuple[Experiment, Path]],
    outline: Callable[[Experiment, Path], VisionLM],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
    load_config: LoadConfig,
    rows: int,
    cards: Sequence[int],
    tell: Callable[[str], None] | None,
) -> Placement:
    """Decides where models go, from their configs alone, and tells it in a line; a family without `options` goes whole.

    `cards` holds the bytes that each GPU has free, none on a machine without; `rows` go through the LLM together.
    UserError: there are not so many cards, or the models do not fit on them; it says what would.
    """
    rank, size = tensor_parallel.world()
    if not family.options:
        if size > 1:
            raise UserError(f"the family '{family.name}' is answered in one process: leave the launcher out")
        return Placement(device, dtype)
    check_bits(load_config.bits)
    _check_devices(load_config.devices, size, len(cards))
    experiment, folder = runs[0]
    model, shard = outline(experiment, folder), family.function("shard")
    if size > 1:
        shard(model, rank, size)
    frames = max(e.num_frames for e, _ in runs)
    tokens = max(num_visual_tokens(e, frames) + QUESTION + e.max_new_tokens for e, _ in runs)

    def needs(bits: int | None) -> device_map.Needs:
        sizes = (dtype.itemsize, encoder_dtype.itemsize)
        return device_map.needs(model, frames, tokens, rows, sizes, bits, size)

    asked = needs(load_config.bits)
    used, placed = [], [0] * len(asked.units)
    if cards:
        used = [cards[torch.device(device).index or 0]] if load_config.devices == 1 else cards[: load_config.devices]
        placed = device_map.check(asked, used, experiment.name, load_config.bits, needs(4))
    if tell:
        tell(device_map.summary(asked, placed, used, experiment.name))
    return Placement(device, dtype, load_config, (asked, placed), shard)


def _check_devices(devices: int, processes: int, cards: int) -> None:
    """UserError: so many cards cannot be used."""
    if processes > 1 and devices > 1:
        raise UserError(f"--devices {devices} in {processes} processes is not possible: each process has one device")
    if devices > max(1, cards):
        here = f"{cards} GPU{'s' if cards > 1 else ''}" if cards else "no GPU"
        raise UserError(f"--devices {devices} is not possible: this machine has {here}")
