"""Model families. A new one is one file beside this one and one line below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import DEFAULT_LOAD, LoadConfig
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch

    from videogpt_plus.models.dual_encoder import DualEncoderVLM

#: Family -> function with the arguments of `load_model`.
FAMILIES: dict[str, str] = {
    "dual_encoder": "videogpt_plus.models.dual_encoder:load",
    "llava15": "videogpt_plus.families.llava15.model:load",
    "cogvlm2_image": "videogpt_plus.families.cogvlm2.model:load",
    "cogvlm2_video": "videogpt_plus.families.cogvlm2.model:load",
    "cinego": "videogpt_plus.families.cinego.model:load",
}

#: Family -> what of `LoadConfig` it knows. Each has an `outline` of its model, and `shard` is where it is cut up.
LOADINGS: dict[str, tuple[str, ...]] = {
    "llava15": ("devices", "bits"),
    "cogvlm2_image": ("devices", "bits", "rope_precision"),
    "cogvlm2_video": ("devices", "bits", "rope_precision"),
}
SHARDS: dict[str, str] = {
    "llava15": "videogpt_plus.families.llava15.model:shard",
    "cogvlm2_image": "videogpt_plus.families.cogvlm2.tensor_parallel:shard",
    "cogvlm2_video": "videogpt_plus.families.cogvlm2.tensor_parallel:shard",
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
    from videogpt_plus.models.silence import quiet

    with quiet():
        return resolve_name(FAMILIES[experiment.family])(experiment, run_dir, device, dtype, streams)


def load_models(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
    load_config: LoadConfig = DEFAULT_LOAD,
    rows: int = 1,
    cards: Sequence[int] = (),
    tell: Callable[[str], None] | None = None,
) -> list[DualEncoderVLM]:
    """The models of several run folders, in eval mode and frozen, for answering.

    They share their encoders, and their LLM where it is the same one: each has its LoRA beside it, unmerged, and
    its own projectors and adapter. `rows` questions go through the LLM together; `cards` holds the bytes that each GPU
    has free; `tell` is told what the models take before anything is loaded. In processes that torchrun started each
    holds its share.
    UserError: as in `load_model`, they do not see clips in the same way, or there is no room for them.
    """
    family = one_family([experiment for experiment, _ in runs])
    if family not in FAMILIES:
        raise UserError(f"unknown family '{family}'; choose from: {', '.join(FAMILIES)}")
    from videogpt_plus.models.silence import quiet

    check_known(family, load_config)
    room = FAMILIES[family].partition(":")[0]
    with quiet():
        from videogpt_plus.models.settle import settled
        from videogpt_plus.models.tensor_parallel import world

        if family not in LOADINGS:
            if world()[1] > 1:
                raise UserError(f"the family '{family}' is answered in one process: leave the launcher out")
            return resolve_name(f"{room}:load_beside")(runs, device, dtype, encoder_dtype)

        parts = (resolve_name(f"{room}:outline"), resolve_name(SHARDS[family]))
        where = settled(runs, *parts, device, dtype, encoder_dtype, load_config, rows, cards, tell)
        return resolve_name(f"{room}:load_beside")(runs, device, dtype, encoder_dtype, where)


def one_family(experiments: Sequence[Experiment]) -> str:
    """The family of all of them. UserError: they have several."""
    families = {experiment.family for experiment in experiments}
    if len(families) > 1:
        raise UserError(f"families {', '.join(sorted(families))} share no encoders: answer them one after the other")
    return families.pop()


def check_known(family: str, load_config: LoadConfig) -> None:
    """UserError: the family cannot be loaded like that."""
    for name in ("devices", "bits", "rope_precision"):
        if getattr(load_config, name) != getattr(DEFAULT_LOAD, name) and name not in LOADINGS.get(family, ()):
            families = [other for other, known in LOADINGS.items() if name in known]
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(load_config, name)} is not for the family '{family}'; "
                f"leave it out, or name a model of: {', '.join(families)}"
            )
