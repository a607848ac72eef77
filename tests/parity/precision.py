"""Recorded logits in half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from videogpt_plus.models.base import VisionLM
from videogpt_plus.types import IGNORE, Visual

from .cases import chunk_of
from .folder import Folder
from .models import pixels, placeholders, set_level, visuals_of_the_reference
from .rows import TOLERANCE, Sheet, largest


def precision(folder: Folder, sheet: Sheet) -> None:
    """Logits in half precision, whose rounding differs from build to build: the recorded distance is the tolerance.

    Ours in float32 lies within it of the recorded half, ours in half within twice of it: each half lies within once.
    """
    regimes = {key.removesuffix("_regime"): value for key, value in sheet.meta.items() if key.endswith("_regime")}
    base = precise_case(folder, sheet, regimes)
    if base is None:
        sheet.read.update(sheet.tensors)
        sheet.skip("logits in half precision", "the case in float32 that they belong to is not in this folder")
        return
    weights, level, meta, ids = base
    precise = last_logits(folder.model(weights), level, meta, ids)
    for name, facts in regimes.items():
        recorded, distance = sheet[f"{name}.logits_last"].float(), facts["max_abs_diff_vs_fp32"]
        half, towers, images = (
            getattr(torch, facts[key].removeprefix("torch.")) for key in ("llm", "towers", "images")
        )
        within = distance + TOLERANCE
        sheet.number(f"logits in float32, to the recorded {name} regime's", largest(precise - recorded), within, level)
        model = folder.fresh(weights)
        model.llm.to(half)
        model.encoders.to(towers)
        ours = last_logits(model, level, meta, ids, images)
        sheet.number(
            f"logits in the {name} regime ({facts['llm'].removeprefix('torch.')})",
            largest(ours - recorded),
            2 * within,
            level,
        )
    if "error" in sheet.meta.get("float64_images", {}):
        wide = last_logits(folder.model(weights), level, meta, ids, torch.float64)
        sheet.number("logits of float64 frames (the reference raises)", largest(wide - precise), level=level)


def precise_case(
    folder: Folder, sheet: Sheet, regimes: dict[str, dict[str, Any]]
) -> tuple[str, str, dict[str, Any], Tensor] | None:
    """Weights, level, meta and ids of the recorded case whose float32 logits lie as near as the regimes say."""
    for _, meta, tensors in folder.cases():
        for level in meta.get("pools", {}) if "prompt" in meta and "weights" in meta else ():
            there = tensors.get(f"p{level}.logits_last")
            if there is not None and all(
                there.shape == sheet.tensors[f"{regime}.logits_last"].shape
                # On average, for one value that is wrong must not hide the case that it belongs to.
                and (there - sheet.tensors[f"{regime}.logits_last"].float()).abs().mean()
                <= facts["max_abs_diff_vs_fp32"]
                for regime, facts in regimes.items()
            ):
                return meta["weights"], level, meta, tensors["input_ids"]
    return None


def last_logits(
    model: VisionLM, level: str, meta: dict[str, Any], ids: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Float32 logits at the end of a recorded prompt, its frames being of `dtype`."""
    set_level(model, float(level))
    visuals = visuals_of_the_reference([pixels(f) for f in meta["frames"]], placeholders(ids), chunk_of(model))
    shown = [[Visual({k: v.to(dtype) for k, v in visual.pixels.items()}, visual.placeholders)] for visual in visuals]
    with torch.inference_mode():
        return model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), shown).logits[0, -1].float()
