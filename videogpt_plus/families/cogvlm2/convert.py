"""CogVLM2's published weights into run folders of ours and back, shard by shard.

A run folder of CogVLM2 holds in parts what is published as one: `llm/` and `eva2/`, each with its `config.json`, and
`projectors.safetensors`. Names inside the parts are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import get_experiment
from videogpt_plus.io.files import read_object, require, write_json
from videogpt_plus.io.folders import new_folder
from videogpt_plus.io.model_folders import values_of
from videogpt_plus.io.run_weights import projector_key
from videogpt_plus.io.runs import FINISHED
from videogpt_plus.io.shards import (
    SHARD_BYTES,
    Change,
    Differing,
    Stored,
    check_shapes,
    check_unpacked,
    copy_files,
    keys_of,
    opened,
    stored_in,
    to_dtype,
    with_dtype,
    write_shards,
)
from videogpt_plus.io.shards import differing as differing_tensors
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


def convert(
    family: str,
    source: str | Path,
    target: str | Path,
    to: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[str], None] | None = None,
) -> str:
    """See `convert.convert_family`: from "published" to "ours" or back, as `source` is the other."""
    source, target = require(source, "weights to convert"), Path(target)
    ours = (source / "experiment.json").exists()
    layout = "published" if ours else "ours"
    if to not in (None, layout):
        raise UserError(f"{source} becomes '{layout}' and nothing else, not '{to}': leave out --to")
    stored = _of_ours(source, family) if ours else stored_in(source)
    config = read_object(_config(source), "download it again")
    _check(_config(source).parent, config, family, stored)
    with new_folder(target) as folder:
        if ours:
            write_shards(folder, stored, _cast(dtype), shard_bytes)
            write_json(folder / "config.json", with_dtype(config, dtype))
            copy_files(_config(source).parent, folder)
        else:
            _write_ours(folder, target, family, stored, source, config, dtype, shard_bytes)
    return layout


def differing(family: str, source: str | Path, target: str | Path, dtype: str | None = None) -> Differing:
    """See `convert.differing`."""
    sides = [
        _of_ours(folder, family) if (folder / "experiment.json").exists() else stored_in(folder)
        for folder in map(Path, (source, target))
    ]
    return differing_tensors(*sides, _cast(dtype), lambda _, tensor: tensor)


# ------------------------------------------------------------------------------------------------ what is there
def _of_ours(folder: Path, family: str) -> list[Stored]:
    """The tensors of a run folder. UserError: it is of another family, or has a LoRA, which no published file holds."""
    from videogpt_plus.families.cogvlm2 import weights
    from videogpt_plus.models.lora import has_lora

    experiment = load_experiment(folder)
    if experiment.family != family:
        raise UserError(f"{folder} is a run of {experiment.family}, not of {family}: name the family that it is")
    if has_lora(folder):
        raise UserError(f"{folder} has a LoRA adapter, which the published layout has no place for: merge it first")
    file = require(folder / FINISHED, "the run's projector")
    prefix = f"{projector_key(experiment.branches[0][0])}."
    stored = [Stored(file, key, weights.PREFIX + key.removeprefix(prefix)) for key in keys_of(file)]
    for part in (weights.LLM, weights.TOWER):
        stored += stored_in(require(folder / part, "a part of the run"))
    return stored


def _config(source: Path) -> Path:
    from videogpt_plus.families.cogvlm2.weights import LLM

    return require((source / LLM if (source / LLM).is_dir() else source) / "config.json", "the weights' config")


def _check(folder: Path, config: dict[str, Any], family: str, stored: list[Stored]) -> None:
    """UserError: the weights are not the family's, and whose they are; or what they lack or have too much."""
    import torch

    from videogpt_plus.families.cogvlm2 import weights
    from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
    from videogpt_plus.families.cogvlm2.eva2 import PREFIX, Eva2, size_of
    from videogpt_plus.families.cogvlm2.projector import GluProjector

    weights.check_family(folder, config, family)
    names = {one.name for one in stored}
    check_unpacked(folder, names)
    if not any(name.startswith(f"{PREFIX}conv.") for name in names):
        raise UserError(f"{folder} has no strided convolution, as CogVLM, the first version: name weights of CogVLM2")
    experts = any(".vision_expert_" in name for name in names)
    if experts != (family == "cogvlm2_image"):
        other = "cogvlm2_image" if experts else "cogvlm2_video"
        what = "has visual experts" if experts else "has no visual experts"
        raise UserError(f"{folder} {what}: it is {other}, not {family}")
    with values_of(folder / "config.json", "correct it or download it again"), torch.device("meta"):
        llama, size = weights.llama_config(config), size_of(config)
        parts = {"": CogVLM2LM(llama, experts), PREFIX: Eva2(size)}
        projector = GluProjector(size.hidden_size, llama.hidden_size, llama.intermediate_size)
    expected = {
        prefix + key: tuple(value.shape)
        for prefix, part in (*parts.items(), (PREFIX, projector))
        for key, value in part.state_dict().items()
    }
    check_shapes(folder, [one for one in stored if not one.name.endswith(weights.FREQUENCIES)], expected)
    with opened() as read:
        kept = [read(one) for one in stored if one.name.endswith(weights.FREQUENCIES)]
    if kept:
        weights.same_frequencies(kept, folder)


# ------------------------------------------------------------------------------------------------ writing
def _write_ours(
    folder: Path,
    target: Path,
    family: str,
    stored: list[Stored],
    source: Path,
    config: dict[str, Any],
    dtype: str | None,
    shard_bytes: int,
) -> None:
    from videogpt_plus.families.cogvlm2 import weights
    from videogpt_plus.families.cogvlm2.eva2 import PREFIX, is_tower

    llm = [one for one in stored if weights.is_llm(one.name)]
    tower = [one for one in stored if is_tower(one.name)]
    for part, own in ((weights.LLM, llm), (weights.TOWER, tower)):
        write_shards(folder / part, own, _cast(dtype), shard_bytes)
        write_json(folder / part / "config.json", with_dtype(config, dtype))
    copy_files(source, folder / weights.LLM)
    experiment = _experiment(family, target, config)
    prefix = f"{projector_key(experiment.branches[0][0])}."
    save_experiment(folder, experiment)
    rest, cast = [one for one in stored if one not in {*llm, *tower}], _cast(dtype)
    with opened() as read:
        state = {prefix + one.name.removeprefix(PREFIX): cast(one.name, read(one)) for one in rest}
    save_tensors(folder / FINISHED, state)


def _experiment(family: str, target: Path, config: dict[str, Any]) -> Experiment:
    """The experiment that the folder `target` will be, of the sizes of its config."""
    from videogpt_plus.families.cogvlm2.eva2 import size_of
    from videogpt_plus.families.cogvlm2.weights import LLM, TOWER

    size, base = size_of(config), get_experiment(family)
    ((name, stream),) = base.branches
    grid = size.patches // 2
    stream = replace(stream, weights=str(target / TOWER), pixels=size.image_size, grid=grid, width=size.hidden_size)
    return replace(base, llm=str(target / LLM), branches=((name, stream),))


def _cast(dtype: str | None) -> Change:
    """Brings tensors to a dtype, all but rotary frequencies; None leaves them as they are stored."""
    from videogpt_plus.families.cogvlm2.weights import FREQUENCIES

    def cast(name: str, tensor: Tensor) -> Tensor:
        return tensor if name.endswith(FREQUENCIES) else to_dtype(name, tensor, dtype)

    return cast
