"""One row a quantity, and how a recorded value is compared with ours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Largest absolute difference that float32 arithmetic in another order may make.
TOLERANCE = 2e-5
#: The same for gradients, as a part of the largest value of the tensor.
GRADIENT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One comparison. `difference` of exact values is how many of them differ; inf where shapes do."""

    case: str
    quantity: str
    #: Pool level as the recording writes it; empty where it has none.
    level: str
    difference: float
    tolerance: float
    #: What differs or, of a skipped row, why nothing was compared.
    note: str = ""
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Compared, and within the tolerance; NaN is not."""
        return not self.skipped and self.difference <= self.tolerance

    @property
    def failed(self) -> bool:
        return not self.skipped and not self.ok


class Sheet:
    """The rows of one case. Knows which recorded tensors were compared, so that none is passed over."""

    #: Largest absolute difference of tensors, but for gradients.
    tolerance = TOLERANCE

    def __init__(
        self,
        case: str,
        tell: Callable[[Row], None],
        meta: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ):
        self.case, self.tell = case, tell
        self.meta, self.tensors = meta or {}, tensors or {}
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        """The recorded tensor of that name. KeyError: there is none."""
        self.read.add(name)
        return self.tensors[name]

    def number(
        self, quantity: str, difference: float, tolerance: float = TOLERANCE, level: str = "", note: str = ""
    ) -> None:
        self.tell(Row(self.case, quantity, level, float(difference), tolerance, note))

    def skip(self, quantity: str, why: str, level: str = "") -> None:
        self.tell(Row(self.case, quantity, level, math.nan, 0, why, skipped=True))

    def fail(self, quantity: str, why: str, level: str = "") -> None:
        self.tell(Row(self.case, quantity, level, math.inf, 0, why))

    def exact(self, quantity: str, ours: Any, recorded: Any, level: str = "") -> None:
        """A row for integers, texts and lists of them: how many values differ."""
        ours, recorded = _plain(ours), _plain(recorded)
        wrong = _differing(ours, recorded)
        note = f"ours {_short(ours)}, recorded {_short(recorded)}" if wrong else ""
        self.number(quantity, wrong, 0, level, note)

    def close(self, quantity: str, ours: Tensor, recorded: Tensor, level: str = "") -> None:
        """A row for two tensors of which neither is stored under a name."""
        ours, recorded = ours.detach(), recorded.detach()
        if ours.shape != recorded.shape:
            self.fail(quantity, f"shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}", level)
        else:
            self.number(quantity, largest(ours - recorded), self.tolerance, level)

    def stored(self, name: str) -> list[str]:
        """The tensors that are stored of `name`: itself, or parts such as `name.first64`."""
        return [
            key for key in self.tensors if re.fullmatch(rf"{re.escape(name)}(\.(first|probe)\d+|\.tok\d+_\d+)?", key)
        ]

    def tensor(
        self,
        quantity: str,
        name: str,
        ours: Tensor,
        level: str = "",
        attended: Tensor | None = None,
        gradient: bool = False,
    ) -> None:
        """A row for all that is stored of the tensor `name`: it, its parts, its moments; none if nothing is.

        `attended` Bool "b s" marks the positions that count; padding holds other things than the recording's.
        """
        keys = self.stored(name)
        if not keys:
            return
        ours = ours.detach().float()
        facts = self.meta.get(name) or {}
        shape = facts.get("shape", list(self.tensors[name].shape) if name in keys else list(ours.shape))
        if list(ours.shape) != list(shape):
            self.read.update(keys)
            self.fail(quantity, f"shape {list(ours.shape)}, recorded {list(shape)}", level)
            return
        counted = torch.ones(ours.shape, dtype=torch.bool) if attended is None else _spread(attended, ours)
        differences = [0.0]
        for key in keys:
            there, recorded = _part(key.removeprefix(name), ours), self[key].float()
            if there.shape != recorded.shape:
                self.fail(quantity, f"{key} has shape {list(recorded.shape)}, ours {list(there.shape)}", level)
                return
            kept = _part(key.removeprefix(name), counted)
            differences.append(largest((there - recorded)[kept]))
        if "absmax" in facts and counted.all():
            differences += _moments(ours, facts)
        scale = largest(self.tensors[name] if name in keys else ours) if gradient else 1
        tolerance = GRADIENT_TOLERANCE * scale if gradient else self.tolerance
        self.number(quantity, _largest_of(differences), tolerance, level)

    def unread(self) -> None:
        """A failing row for each recorded tensor that no comparison has looked at."""
        for name in sorted(self.tensors.keys() - self.read):
            self.fail(name, "no check knows this tensor")


def largest(values: Tensor) -> float:
    """The largest magnitude; 0 of nothing, NaN if one is."""
    return values.abs().max().item() if values.numel() else 0.0


def _largest_of(differences: list[float]) -> float:
    return math.nan if any(math.isnan(d) for d in differences) else max(differences)


def _part(suffix: str, whole: Tensor) -> Tensor:
    """What a stored part shows of the whole: its first values, probed ones, or the first tokens."""
    if not suffix:
        return whole
    if match := re.fullmatch(r"\.first(\d+)", suffix):
        return whole.flatten()[: int(match[1])]
    if match := re.fullmatch(r"\.probe(\d+)", suffix):
        places = np.random.RandomState(0).randint(0, whole.numel(), int(match[1]))
        return whole.flatten()[torch.from_numpy(places)]
    first, last = (int(number) for number in re.findall(r"\d+", suffix))
    part = whole[..., first : last + 1, :]
    return part.squeeze(0) if part.dim() == 4 else part


def _spread(attended: Tensor, like: Tensor) -> Tensor:
    return attended.bool()[..., None].expand(like.shape)


def _moments(ours: Tensor, facts: Mapping[str, float]) -> list[float]:
    """Mean, root mean square and largest magnitude: of the whole tensor, where only parts of it are stored."""
    wide = ours.double()
    return [
        abs(wide.mean().item() - facts["mean"]),
        abs(wide.norm().item() - facts["l2"]) / math.sqrt(wide.numel()),
        abs(largest(wide) - facts["absmax"]),
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differing(ours: Any, recorded: Any) -> int:
    """How many values differ; a length that differs counts for as many as are too few or too many."""
    if isinstance(ours, list) and isinstance(recorded, list):
        pairs = sum(_differing(a, b) for a, b in zip(ours, recorded, strict=False))
        return pairs + abs(len(ours) - len(recorded))
    return int(type(ours) is not type(recorded) or ours != recorded)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def names(root: Path) -> list[str]:
    """Every case of a family's folder: those with a `meta.json`, its tables, and pixels that stand by themselves."""
    cases = [path.name for path in root.iterdir() if (path / "meta.json").exists()]
    tables = [path.stem for path in root.glob("*.json") if path.name != "config.json"]
    tensors = [path.stem for path in root.glob("*.safetensors") if path.stem == "pixels"]
    return sorted([*cases, *tables, *tensors])
