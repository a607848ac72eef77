"""Tensors of published folders: listed, compared and rewritten, with at most one shard in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from videogpt_plus.io import tensors
from videogpt_plus.io.model_folders import TOKENIZER_FILES, weight_files
from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")
SHARD_BYTES = 2**30
#: Files that are copied with the weights.
COPIED = (*TOKENIZER_FILES, "generation_config.json", "tokenizer.model")
#: Parts of the keys that bitsandbytes adds to packed weights.
PACKED = (".absmax", ".quant_map", ".quant_state", ".SCB", ".weight_format")

#: A tensor's name and the tensor of its file -> the tensor that is written.
Change = Callable[[str, "Tensor"], "Tensor"]


class Stored(NamedTuple):
    """A tensor of a folder, not read yet."""

    file: Path
    key: str
    #: Its name outside of its file.
    name: str


class Differing(NamedTuple):
    """What a comparison of two sides found."""

    #: Tensors of the left side.
    count: int
    #: Names of those that are not the same.
    wrong: list[str]
    #: Whether one of the left side was brought to another dtype before it was compared.
    rounded: bool


def stored_in(folder: Path, named: Callable[[str], str] = str) -> list[Stored]:
    """Every tensor of a Hugging Face folder; `named` turns its key into its name. UserError: as `weight_files`."""
    return [Stored(file, key, named(key)) for file in weight_files(folder) for key in keys_of(file)]


def keys_of(file: Path) -> list[str]:
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        return list(read_tensors(file, mapped=True))
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def check_unpacked(folder: Path, names: Iterable[str]) -> None:
    """UserError: some are weights that bitsandbytes has packed."""
    if packed := sorted(name for name in names if any(part in name for part in PACKED)):
        raise UserError(f"{folder} holds weights packed by bitsandbytes ({packed[0]}): name the unpacked weights")


def check_shapes(folder: Path, stored: Sequence[Stored], expected: dict[str, tuple[int, ...]]) -> None:
    """UserError: lists names that are missing or too many, and other shapes, all at once."""
    tensors.check_shapes(folder, _shapes(stored), expected)


def _shapes(stored: Sequence[Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; of safetensors no tensor is read."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in dict.fromkeys(one.file for one in stored):
        own = [one for one in stored if one.file == file]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                shapes |= {one.name: tuple(tensors.get_slice(one.key).get_shape()) for one in own}
        else:
            state = read_tensors(file, mapped=True)
            shapes |= {one.name: tuple(state[one.key].shape) for one in own}
    return shapes


@contextmanager
def opened() -> Iterator[Callable[[Stored], Tensor]]:
    """A function from a Stored to its tensor, which holds no more than one file open."""
    from safetensors import safe_open

    held: dict[Path, Any] = {}

    def read(one: Stored) -> Tensor:
        if one.file not in held:
            held.clear()
            whole = one.file.suffix != ".safetensors"
            held[one.file] = read_tensors(one.file, mapped=True) if whole else safe_open(one.file, "pt")
        tensors = held[one.file]
        return tensors[one.key] if isinstance(tensors, dict) else tensors.get_tensor(one.key)

    yield read
    held.clear()


def to_dtype(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    """The tensor in a dtype; None leaves it as it is. UserError: a finite value becomes infinite."""
    import torch

    if dtype is None or tensor.dtype == getattr(torch, dtype):
        return tensor
    made = tensor.to(getattr(torch, dtype))
    if not (kept := made.isfinite()).all() and (lost := tensor[~kept & tensor.isfinite()]).numel():
        worst = lost.abs().max().item()
        then = "choose --dtype bfloat16" if dtype == "float16" else "leave out --dtype"
        raise UserError(f"{name} holds {worst:g}, which is beyond {dtype}'s largest number: {then}")
    return made


def differing(left: Sequence[Stored], right: Sequence[Stored], change: Change, shared: Change) -> Differing:
    """What is not bit for bit the same on both sides.

    Tensors are read one at a time: the left one after `change`, and both after `shared`.
    """
    import torch

    ours, theirs = ({one.name: one for one in side} for side in (left, right))
    wrong, rounded = sorted(ours.keys() ^ theirs.keys()), False
    with opened() as read, opened() as read_right:
        for name in sorted(ours.keys() & theirs.keys()):
            source = read(ours[name])
            a = shared(name, change(name, source))
            b = shared(name, read_right(theirs[name]))
            rounded = rounded or a.dtype != source.dtype
            if a.dtype != b.dtype or not torch.equal(a, b):
                wrong.append(name)
    return Differing(len(ours), wrong, rounded)


def write_shards(
    folder: Path,
    stored: Sequence[Stored],
    change: Change,
    shard_bytes: int = SHARD_BYTES,
    named: Callable[[str], str] = str,
) -> None:
    """The tensors, each after `change`, in files of at most `shard_bytes`, and the index of them.

    `named` turns a tensor's name into its key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, list[str]]] = []
    held: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        path = folder / f"part-{len(written)}.safetensors"
        save_tensors(path, held)
        written.append((path, list(held)))
        held.clear()

    with opened() as read:
        for one in stored:
            tensor = change(one.name, read(one))
            total += tensor.nbytes
            if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard_bytes:
                flush()
            held[named(one.name)] = tensor
        flush()
    weight_map = {}
    for number, (path, keys) in enumerate(written, 1):
        name = f"model-{number:05}-of-{len(written):05}.safetensors"
        path.rename(folder / name)
        weight_map |= dict.fromkeys(keys, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def copy_files(source: Path, folder: Path, names: Iterable[str] = COPIED) -> None:
    """Copies what is there of these files."""
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """A published config that says this dtype, under every name that it says one by."""
    if dtype is None:
        return config
    return {**config, "torch_dtype": dtype, **({"dtype": dtype} if "dtype" in config else {})}
