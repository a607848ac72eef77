"""What the families have in common when they are loaded: their one stream, and runs beside one another on one LLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.io.run_weights import ADAPTER_FILES
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.models.dual_encoder import DualEncoderVLM

Model = TypeVar("Model", bound="DualEncoderVLM")
#: What a training with LoRA leaves in a run folder, the reference's or ours.
LORA_FILES = ("adapter_config.json", *ADAPTER_FILES, "non_lora_trainables.bin")


def has_lora(folder: str | Path) -> bool:
    """Any file of one: a folder that lost the others must not pass for one without LoRA."""
    return any((Path(folder) / name).exists() for name in LORA_FILES)


def only_stream(experiment: Experiment, names: Sequence[str] | None = None) -> tuple[str, Branch]:
    """The name of the experiment's stream, and the stream. UserError: it has several, or `names` has another."""
    if len(experiment.branches) != 1:
        raise UserError(
            f"experiment '{experiment.name}' has {len(experiment.branches)} streams, the family {experiment.family} "
            "has one: leave the others out"
        )
    ((name, stream),) = experiment.branches
    if unknown := [other for other in names or () if other != name]:
        raise UserError(f"unknown stream '{unknown[0]}'; choose from: {name}")
    return name, stream


def check_one_set(runs: Sequence[tuple[Experiment, Path]]) -> None:
    """UserError: a run has other weights than the first, or sees clips differently."""
    first, folder = runs[0]
    for experiment, other in runs[1:]:
        if (experiment.llm, experiment.branches, experiment.sampling) != (first.llm, first.branches, first.sampling):
            raise UserError(f"{other} and {folder} have other weights or see clips differently: answer them apart")


def check_without_lora(runs: Sequence[tuple[Experiment, Path]]) -> None:
    """UserError: of several runs on one LLM one has a LoRA, which the family merges into it."""
    for _, folder in runs if len(runs) > 1 else ():
        if has_lora(folder):
            raise UserError(f"{folder} has a LoRA, and cannot share its LLM with others: answer it alone")


def frozen(models: Sequence[Model]) -> list[Model]:
    """The models in eval mode, without gradients."""
    return [model.requires_grad_(False).eval() for model in models]
