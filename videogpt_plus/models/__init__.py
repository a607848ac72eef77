"""Model families. A new one is one file beside this one and one line below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from videogpt_plus.configs import Experiment
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch

    from videogpt_plus.models.dual_encoder import DualEncoderVLM

#: Family -> function with the arguments of `load_model`.
FAMILIES: dict[str, str] = {
    "dual_encoder": "videogpt_plus.models.dual_encoder:load",
}


def load_model(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None = None,
) -> DualEncoderVLM:
    """The experiment's model in eval mode, with the trained parts of `run_dir`, its LoRA merged into the LLM.

    Without `run_dir` the projectors are random. `streams` names those to load, for pre-training one alone; all
    unless told. LLM and encoders are frozen and of `dtype`; projectors are trainable and of float32.
    UserError: unknown family or stream; weights are missing, damaged or of other sizes.
    """
    if experiment.family not in FAMILIES:
        raise UserError(f"unknown family '{experiment.family}'; choose from: {', '.join(FAMILIES)}")
    from videogpt_plus.models.quiet import quiet

    with quiet():
        return resolve_name(FAMILIES[experiment.family])(experiment, run_dir, device, dtype, streams)
