"""Published weights of other model families into run folders of ours and back, shard by shard.

A run folder of CogVLM2 holds in parts what is published as one: `llm/` and `eva2/`, each with its `config.json`, and
`projectors.safetensors`. Names inside the parts are the published ones. No more than one shard is in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from videogpt_plus.checkpoint import (
    TOKENIZER_FILES,
    check_fit,
    load_experiment,
    projector_key,
    read_object,
    read_tensors,
    require,
    save_experiment,
    save_tensors,
    values_of,
    weight_files,
    write_json,
)
from videogpt_plus.configs import Experiment
from videogpt_plus.convert import new_folder
from videogpt_plus.experiments import get_experiment
from videogpt_plus.training.folder import FINISHED
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("cogvlm2_image", "cogvlm2_video")
DTYPES = ("float32", "bfloat16", "float16")
#: What is copied beside weights.
COPIED = (*TOKENIZER_FILES, "generation_config.json", "tokenizer.model")
SHARD_BYTES = 2**30
#: Parts of keys that bitsandbytes writes beside packed weights.
PACKED = (".absmax", ".quant_map", ".quant_state", ".SCB", ".weight_format")


class Stored(NamedTuple):
    """A tensor of a folder, not read yet."""

    file: Path
    key: str
    #: Its published name.
    name: str


def convert_family(
    family: str, source: str | Path, target: str | Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> str:
    """Writes the weights of `source` into the new folder `target`, in the other layout: "ours" or "published".

    `dtype` is that of the target, as stored unless it is named; rotary frequencies stay as they are.
    `target` is there whole or not at all. UserError: `source` is of another family, and of which; or missing and
    unexpected keys and wrong shapes, all at once.
    """
    check_names(family, dtype)
    source, target = require(source, "weights to convert"), Path(target)
    ours = (source / "experiment.json").exists()
    stored = _of_ours(source, family) if ours else _published(source)
    config = read_object(_config(source), "download it again")
    _check(_config(source).parent, config, family, stored)
    with new_folder(target) as folder:
        if ours:
            _write_published(folder, stored, _config(source).parent, config, dtype, shard_bytes)
        else:
            _write_ours(folder, target, family, stored, source, config, dtype, shard_bytes)
    return "published" if ours else "ours"


def check_names(family: str, dtype: str | None) -> None:
    """UserError: there is no such family or dtype."""
    if family not in FAMILIES:
        raise UserError(f"unknown family '{family}'; choose from: {', '.join(FAMILIES)}")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'; choose from: {', '.join(DTYPES)}")


def differing(family: str, source: str | Path, target: str | Path, dtype: str | None = None) -> tuple[int, list[str]]:
    """How many tensors both sides of a conversion hold, and the names of those that are not bit for bit the same.

    Read back from both, a tensor at a time, the source's brought to `dtype`.
    """
    sides = []
    for folder in map(Path, (source, target)):
        stored = _of_ours(folder, family) if (folder / "experiment.json").exists() else _published(folder)
        sides.append({one.name: one for one in stored})
    left, right = sides
    wrong = sorted(left.keys() ^ right.keys())
    with _opened() as read:
        wrong += [
            name
            for name in sorted(left.keys() & right.keys())
            if not _same(_cast(name, read(left[name]), dtype), read(right[name]))
        ]
    return len(left), wrong


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.dtype == b.dtype and torch.equal(a, b)


# ------------------------------------------------------------------------------------------------ what is there
def _published(folder: Path) -> list[Stored]:
    return [Stored(file, key, key) for file in weight_files(folder) for key in _keys(file)]


def _of_ours(folder: Path, family: str) -> list[Stored]:
    """The tensors of a run folder. UserError: it is of another family, or has a LoRA, which no published file holds."""
    from videogpt_plus.models.cogvlm2 import weights

    experiment = load_experiment(folder)
    if experiment.family != family:
        raise UserError(f"{folder} is a run of {experiment.family}, not of {family}: name the family that it is")
    if weights.has_lora(folder):
        raise UserError(f"{folder} has a LoRA adapter, which the published layout has no place for: merge it first")
    file = require(folder / FINISHED, "the run's projector")
    prefix = f"{projector_key(experiment.streams[0][0])}."
    stored = [Stored(file, key, weights.PREFIX + key.removeprefix(prefix)) for key in _keys(file)]
    for part in (weights.LLM, weights.TOWER):
        stored += _published(require(folder / part, "a part of the run"))
    return stored


def _config(source: Path) -> Path:
    from videogpt_plus.models.cogvlm2.weights import LLM

    return require((source / LLM if (source / LLM).is_dir() else source) / "config.json", "the weights' config")


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        return list(read_tensors(file))
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def _check(folder: Path, config: dict[str, Any], family: str, stored: list[Stored]) -> None:
    """UserError: the weights are not the family's, and whose they are; or what they lack or have too much."""
    import torch

    from videogpt_plus.encoders.eva2 import PREFIX, Eva2, size_of
    from videogpt_plus.models.cogvlm2 import weights
    from videogpt_plus.models.cogvlm2.decoder import CogVLM2LM
    from videogpt_plus.models.cogvlm2.projector import GluProjector

    weights.check_family(folder, config, family)
    names = {one.name for one in stored}
    if packed := sorted(name for name in names if any(part in name for part in PACKED)):
        raise UserError(f"{folder} holds weights packed by bitsandbytes ({packed[0]}): name the unpacked weights")
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
    found = {one.name: one for one in stored if not one.name.endswith(weights.FREQUENCIES)}
    shapes = _shapes(list(found.values()))
    check_fit(
        folder,
        missing=expected.keys() - found.keys(),
        unexpected=found.keys() - expected.keys(),
        shapes=[
            f"{name} {shapes[name]} instead of {expected[name]}"
            for name in expected.keys() & found.keys()
            if shapes[name] != expected[name]
        ],
    )
    with _opened() as read:
        kept = [read(one) for one in stored if one.name.endswith(weights.FREQUENCIES)]
    if kept:
        weights.same_frequencies(kept, folder)


def _shapes(stored: list[Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes by published name; of safetensors no tensor is read."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in dict.fromkeys(one.file for one in stored):
        own = [one for one in stored if one.file == file]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                shapes |= {one.name: tuple(tensors.get_slice(one.key).get_shape()) for one in own}
        else:
            state = read_tensors(file)
            shapes |= {one.name: tuple(state[one.key].shape) for one in own}
    return shapes


@contextmanager
def _opened() -> Iterator[Any]:
    """A function from a Stored to its tensor, which holds no more than one file."""
    from safetensors import safe_open

    held: dict[Path, Any] = {}

    def read(one: Stored) -> Tensor:
        if one.file not in held:
            held.clear()
            whole = one.file.suffix != ".safetensors"
            held[one.file] = read_tensors(one.file) if whole else safe_open(one.file, "pt")
        tensors = held[one.file]
        return tensors[one.key] if isinstance(tensors, dict) else tensors.get_tensor(one.key)

    yield read
    held.clear()


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
    from videogpt_plus.encoders.eva2 import PREFIX, is_tower
    from videogpt_plus.models.cogvlm2 import weights

    llm = [one for one in stored if weights.is_llm(one.name)]
    tower = [one for one in stored if is_tower(one.name)]
    for part, own in ((weights.LLM, llm), (weights.TOWER, tower)):
        _write_shards(folder / part, own, dtype, shard_bytes)
        write_json(folder / part / "config.json", _with_dtype(config, dtype))
    _copy(source, folder / weights.LLM)
    experiment = _experiment(family, target, config)
    prefix = f"{projector_key(experiment.streams[0][0])}."
    save_experiment(folder, experiment)
    with _opened() as read:
        rest = [one for one in stored if one not in {*llm, *tower}]
        state = {prefix + one.name.removeprefix(PREFIX): _cast(one.name, read(one), dtype) for one in rest}
    save_tensors(folder / FINISHED, state)


def _experiment(family: str, target: Path, config: dict[str, Any]) -> Experiment:
    """The experiment that the folder `target` will be, of the sizes of its config."""
    from videogpt_plus.encoders.eva2 import size_of
    from videogpt_plus.models.cogvlm2.weights import LLM, TOWER

    size, base = size_of(config), get_experiment(family)
    ((name, stream),) = base.streams
    grid = size.patches // 2
    stream = replace(stream, weights=str(target / TOWER), pixels=size.image_size, grid=grid, width=size.hidden_size)
    return replace(base, llm=str(target / LLM), streams=((name, stream),))


def _write_published(
    folder: Path, stored: list[Stored], source: Path, config: dict[str, Any], dtype: str | None, shard_bytes: int
) -> None:
    _write_shards(folder, stored, dtype, shard_bytes)
    write_json(folder / "config.json", _with_dtype(config, dtype))
    _copy(source, folder)


def _copy(source: Path, folder: Path) -> None:
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    return {**config, "torch_dtype": dtype} if dtype else config


def _cast(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    import torch

    from videogpt_plus.models.cogvlm2.weights import FREQUENCIES

    return tensor if dtype is None or name.endswith(FREQUENCIES) else tensor.to(getattr(torch, dtype))


def _write_shards(folder: Path, stored: list[Stored], dtype: str | None, shard_bytes: int) -> None:
    """The tensors under their published names in files of at most `shard_bytes`, and the index of them."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, list[str]]] = []
    held: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        path = folder / f"part-{len(written)}.safetensors"
        save_tensors(path, held)
        written.append((path, list(held)))
        held.clear()

    with _opened() as read:
        for one in stored:
            tensor = _cast(one.name, read(one), dtype)
            total += tensor.nbytes
            if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard_bytes:
                flush()
            held[one.name] = tensor
    flush()
    weight_map = {}
    for number, (path, keys) in enumerate(written, 1):
        name = f"model-{number:05}-of-{len(written):05}.safetensors"
        path.rename(folder / name)
        weight_map |= dict.fromkeys(keys, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
