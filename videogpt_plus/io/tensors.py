"""Reading and writing of weights: our safetensors, the reference's pickles, and the one table that renames keys.

Knows names of keys and files, no model: encoders and models read through it.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

from videogpt_plus.io.errors import translated
from videogpt_plus.io.files import require, write_bytes
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

State = dict[str, "Tensor"]


def read_tensors(path: str | Path, mapped: bool = False) -> State:
    """The tensors of a `.safetensors` file or of a pickle of tensors (`.pt`, `.bin`), on the CPU.

    A pickle may hold the state dict itself or {"model" or "module": state dict}, as published; nothing in it is run.
    With `mapped` its tensors stay in the file until they are used, where it is of a kind that can (PyTorch 1.6's).
    UserError: the file is missing, damaged or holds something else than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = require(path, "weight file")
    with translated(
        SafetensorError,
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,  # what torch.load raises depends on which bytes are damaged
        to=partial(unreadable, path),
    ):
        if _begins(path, b"GGUF"):
            raise UserError(
                f"cannot read weights {path}: it is a GGUF file, which nothing here reads; take safetensors"
            )
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    if isinstance(state, dict):
        state = next((state[k] for k in ("model", "module") if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"cannot read weights {path}: it holds no state dict of tensors; name a weight file")
    return state


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def unreadable(path: Path, error: Exception) -> UserError:
    """The UserError of a weight file that cannot be read, with what its reader said."""
    if wants := re.search(r"GLOBAL (\S+)", str(error)):
        return UserError(
            f"cannot read weights {path}: it is a pickle that wants to run {wants[1]}, which was refused; nothing "
            "of it was run. Only tensors are read: download it again from its publisher, or as safetensors"
        )
    # torch advises to read the pickle without protection; its last words say what is wrong with it.
    told = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
    return UserError(f"cannot read weights {path}: {told.strip().splitlines()[0]}; copy or download the file again")


def without_prefixes(state: State, prefixes: Iterable[str]) -> State:
    """`state` with each of `prefixes`, one after the other, taken from the keys that begin with it.

    UserError: two keys become one, so that the tensors of one would be lost.
    """
    stripped: State = {}
    for key, value in state.items():
        for prefix in prefixes:
            key = key.removeprefix(prefix)
        if key in stripped:
            raise UserError(f"weights name '{key}' twice, with and without {' or '.join(prefixes)}; remove one")
        stripped[key] = value
    return stripped


def load_exactly(
    module: nn.Module,
    state: State,
    source: str | Path,
    unused: Callable[[str], bool] = lambda key: False,
    assign: bool = False,
) -> None:
    """Loads `state`, read from `source`, into `module`; keys for which `unused` is true are left out.

    With `assign` the module takes the tensors themselves, with their dtypes: for modules built on "meta".
    UserError: lists missing and unexpected keys and wrong shapes, all at once.
    """
    state = {key: value for key, value in state.items() if not unused(key)}
    check_shapes(source, shapes_of(state), shapes_of(module.state_dict()))
    module.load_state_dict(state, assign=assign)


def shapes_of(state: State, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by its name behind `prefix`."""
    return {prefix + key: tuple(value.shape) for key, value in state.items()}


def check_shapes(
    source: str | Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """UserError: lists missing and unexpected keys of `source` and wrong shapes, all at once."""
    both = found.keys() & expected.keys()
    wrong = [f"{key} {found[key]} instead of {expected[key]}" for key in both if found[key] != expected[key]]
    check_fit(source, expected.keys() - found.keys(), found.keys() - expected.keys(), wrong)


def check_fit(
    source: str | Path, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str] = ()
) -> None:
    """UserError with all lists if any of them holds a key."""
    lists = {"missing": sorted(missing), "unexpected": sorted(unexpected), "wrong shape": sorted(shapes)}
    if any(lists.values()):
        told = "; ".join(f"{name}: {_shortened(keys)}" for name, keys in lists.items())
        raise UserError(f"weights {source} do not fit the model: {told}; check the file and the experiment's sizes")


def _shortened(keys: list[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return (", ".join(keys[:limit]) or "none") + more


def save_tensors(path: str | Path, tensors: State) -> None:
    """Writes safetensors; the file is there whole or not at all, even after a power cut. UserError: cannot write."""
    from safetensors.torch import save

    # Clones, for safetensors refuses tensors that share memory, such as tied weights.
    whole = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    write_bytes(path, save(whole, metadata={"format": "pt"}))


def random_state(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None = None, seed: int = 20) -> State:
    """Random tensors of these shapes, of bfloat16 unless told; the same seed gives the same.

    Matrices keep the size of what passes them, norms are near 1, and none is zero, so that none can be lost unseen.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        value = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            value = 0.1 * value + (1 if name.endswith("weight") else 0)  # a norm's, or a bias
        elif "embed" not in name:
            value = value / (value[0].numel() ** 0.5)
        state[name] = value.to(dtype or torch.bfloat16)
    return state
