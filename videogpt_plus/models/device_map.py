"""Which card holds which layers, decided from names and shapes before any weight is read; and putting them there.

Units are what no card boundary may cut: a block of the tower, a layer of the LLM, each with its residual stream. They
stand on the cards in the order in which they compute, so that what crosses from card to card is one hidden state. The
tower, projector and embeddings stand together where one card can hold them: visual tokens are spliced into text there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from videogpt_plus.models.base import VisionLM

GIB = 2**30
#: What a card loses to the driver's own tables and to gaps between tensors.
LOST = GIB // 2
#: Bytes of a weight of so many bits, with its scales: 4 bits have one of 4 bytes for 64 weights, 8 bits one a row.
BYTES = {8: 1.0, 4: 0.5 + 4 / 64}


class Unit(NamedTuple):
    """Modules that stand on one card together."""

    modules: tuple[str, ...]
    #: Of its weights.
    bytes: int
    #: Of its keys and values.
    cache: int = 0


class Needs(NamedTuple):
    """What a model takes of cards."""

    units: tuple[Unit, ...]
    #: Bytes that every card needs while it computes: an estimate from the widest layer.
    work: int

    @property
    def total(self) -> int:
        """Bytes of weights and cache."""
        return sum(unit.bytes + unit.cache for unit in self.units)


def needs(
    model: VisionLM,
    frames: int,
    tokens: int,
    rows: int,
    itemsizes: tuple[int, int],
    bits: int | None = None,
    shares: int = 1,
) -> Needs:
    """What a model takes, given on "meta" or loaded.

    `frames` go through the tower together, `tokens` a row through the LLM in `rows` rows; `itemsizes` are a number's
    bytes in the LLM and in the tower, `bits` those of a weight in the LLM's layers. `model` is the share of one of
    `shares` processes.
    """
    config = model.causal.config.get_text_config()
    itemsize = itemsizes[0]
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    cache = 2 * rows * tokens * heads * itemsize // shares
    parts, in_llm = dict(_undivided(model)), {id(layer) for layer in model.layers}
    own = {name: itemsizes[name.startswith("encoders.")] for name in parts}
    layers = [name for name, part in parts.items() if id(part) in in_llm]
    sizes = {name: _bytes(part, own[name], bits if name in layers else None) for name, part in parts.items()}
    caches = {name: cache if name in layers else 0 for name in parts}
    tower = [name for name in parts if name.startswith("encoders.")]
    embeddings = next(name for name in parts if parts[name] is model.causal.get_input_embeddings())
    # What has no weights, as tables of angles, is asked before the layers.
    inputs = [name for name in parts if name.startswith("projectors.") or name == embeddings or not sizes[name]]
    inputs = [name for name in inputs if name not in tower]
    end = [name for name in parts if name not in {*tower, *layers, *inputs}]
    units = [*((name,) for name in tower), tuple(inputs), *((name,) for name in layers), tuple(end)]
    patches = max(encoder.tower.side**2 for encoder in model.encoders.values())  # of a frame, before anything is pooled
    work = max(
        3 * _widest(parts[name]) * own[name] * (rows * tokens if name in layers else frames * patches)
        for name in (*layers, *tower)
    )
    return Needs(tuple(Unit(n, sum(sizes[i] for i in n), sum(caches[i] for i in n)) for n in units), work)


def place(asked: Needs, cards: Sequence[int]) -> list[int] | None:
    """The card of each unit, so that the fullest is as empty as it can be; None where they do not fit.

    `cards` holds the bytes that each has free.
    """
    first = next(i for i, unit in enumerate(asked.units) if len(unit.modules) > 1)  # what stands behind the tower
    whole = [sum(_size(u) for u in asked.units[: first + 1]), *(_size(u) for u in asked.units[first + 1 :])]
    if (found := _filled(whole, cards, asked.work)) is not None:
        return [found[0]] * first + found
    return _filled([_size(u) for u in asked.units], cards, asked.work)


def check(asked: Needs, cards: Sequence[int], name: str, bits: int | None, fewer: Needs | None = None) -> list[int]:
    """`place`, or a UserError that says what would fit: more such cards, or 4 bits (`fewer` is what those need)."""
    if (found := place(asked, cards)) is not None:
        return found
    have = " + ".join(gib(card) for card in cards)
    ways = []
    more = next((n for n in range(len(cards) + 1, 33) if place(asked, [max(cards)] * n) is not None), None)
    if more:
        loads = [gib(load) for load in loads_of(asked, place(asked, [max(cards)] * more), more)]
        ways.append(f"--devices {more} on cards of {gib(max(cards))} each ({' + '.join(loads)})")
    if fewer is not None and bits is None and place(fewer, cards) is not None:
        ways.append(f"--bits 4 on these cards ({gib(fewer.total)} and {gib(fewer.work)} to compute)")
    would = "; ".join(ways) or f"cards with more than {gib(asked.work + LOST + max(map(_size, asked.units)))} each"
    raise UserError(
        f"{name} takes {gib(asked.total)}, and {gib(asked.work)} a card to compute, which does not fit {len(cards)} "
        f"card{'s' if len(cards) > 1 else ''} with {have} free; what would fit: {would}"
    )


def loads_of(asked: Needs, placed: Sequence[int], cards: int) -> list[int]:
    """Bytes of weights and cache on each card."""
    loads = [0] * cards
    for unit, card in zip(asked.units, placed, strict=True):
        loads[card] += _size(unit)
    return loads


def summary(asked: Needs, placed: Sequence[int], cards: Sequence[int], name: str) -> str:
    """One line on what goes where, for before anything is loaded; no `cards` is a CPU."""
    weights = sum(unit.bytes for unit in asked.units)
    line = f"{name}: weights {gib(weights)}, cache {gib(asked.total - weights)}, about {gib(asked.work)} "
    if not cards:
        return f"{line}to compute, on the CPU"
    loads = zip(loads_of(asked, placed, len(cards)), cards, strict=True)
    return f"{line}a card to compute; " + ", ".join(
        f"card {i}: {gib(load)} of {gib(card)} free" for i, (load, card) in enumerate(loads)
    )


def spread(model: nn.Module, asked: Needs, placed: Sequence[int], devices: Sequence[torch.device | str]) -> None:
    """Moves each unit to its device, and what it computes on with it."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for unit, card in zip(asked.units, placed, strict=True):
        for name in unit.modules:
            part = model.get_submodule(name).to(devices[card])
            add_hook_to_module(part, AlignDevicesHook(devices[card], skip_keys="past_key_values"))


def free() -> list[int]:
    """Bytes that each card of this machine has free."""
    import torch

    return [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _size(unit: Unit) -> int:
    return unit.bytes + unit.cache


def _filled(sizes: Sequence[int], cards: Sequence[int], work: int) -> list[int] | None:
    """The card of each size in order, none fuller than it need be."""
    rooms = [max(0, card - work - LOST) for card in cards]

    def filled(part: float) -> list[int] | None:
        card, used, found = 0, 0, []
        for size in sizes:
            while card < len(rooms) and used + size > part * rooms[card]:
                card, used = card + 1, 0
            if card == len(rooms):
                return None
            used += size
            found.append(card)
        return found

    if filled(1.0) is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if filled(middle) is not None else (middle, high)
    return filled(high)


def _undivided(model: VisionLM) -> Iterator[tuple[str, nn.Module]]:
    """The parts of tower, projector and LLM in the order in which they compute, by name in the model."""

    whole = {id(part) for part in model.undivided()}

    def walk(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        children = list(part.named_children())
        if id(part) in whole or not children:
            yield name, part
        else:
            for child, inner in children:
                yield from walk(inner, f"{name}.{child}")

    for room in ("encoders", "projectors", "llm"):
        yield from walk(getattr(model, room), room)


def _bytes(part: nn.Module, itemsize: int, bits: int | None) -> int:
    from torch import nn

    smaller = 0.0
    if bits is not None:
        weights = [m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear)]
        smaller = sum(weights) * (itemsize - BYTES[bits])
    return round(sum(p.numel() for p in part.parameters()) * itemsize - smaller)


def _widest(part: nn.Module) -> int:
    from torch import nn

    return max((max(m.in_features, m.out_features) for m in part.modules() if isinstance(m, nn.Linear)), default=0)
