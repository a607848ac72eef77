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
    "llava15": "videogpt_plus.models.llava:load",
    "cogvlm2_image": "videogpt_plus.models.cogvlm2.model:load",
    "cogvlm2_video": "videogpt_plus.models.cogvlm2.model:load",
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
    On device "meta" it has names and shapes alone, checked against the files like any other.
    UserError: unknown family or stream; weights are missing, damaged or of other sizes.
    """
    if experiment.family not in FAMILIES:
        raise UserError(f"unknown family '{experiment.family}'; choose from: {', '.join(FAMILIES)}")
    from videogpt_plus.models.quiet import quiet

    with quiet():
        return resolve_name(FAMILIES[experiment.family])(experiment, run_dir, device, dtype, streams)


def load_models(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
) -> list[DualEncoderVLM]:
    """The models of several run folders, in eval mode and frozen, for answering.

    They share their encoders, and their LLM where it is the same one: each has its LoRA beside it, unmerged, and
    its own projectors and adapter. UserError: as in `load_model`, or they do not see clips in the same way.
    """
    families = {experiment.family for experiment, _ in runs}
    if len(families) > 1:
        raise UserError(f"families {', '.join(sorted(families))} share no encoders: answer them one after the other")
    (family,) = families
    if family not in FAMILIES:
        raise UserError(f"unknown family '{family}'; choose from: {', '.join(FAMILIES)}")
    from videogpt_plus.models.quiet import quiet

    with quiet():
        return resolve_name(f"{FAMILIES[family].partition(':')[0]}:load_beside")(runs, device, dtype, encoder_dtype)
