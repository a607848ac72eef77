"""Weights and features: files with impossible headers, pickles, GGUF and .npy files. None of them runs anything."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from videogpt_plus.io.tensors import read_tensors
from videogpt_plus.training.cinego.features import frames_of, read_features

from . import Kind, Line


def header(text: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    """A safetensors file; `size` is what it says of its header's length."""
    return struct.pack("<Q", len(text) if size is None else size) + text + data


GGUF = b"GGUF\x03\x00\x00\x00" + bytes(64)
#: Weight files that are none: name, bytes.
IMPOSSIBLE = [
    ("a.gguf", GGUF),
    ("model.safetensors", GGUF),
    ("model.bin", GGUF),
    ("model.safetensors", header(b"{}", 2**62)),
    ("model.safetensors", header(b'{"a":' + b"[" * 100_000 + b"}")),
    ("model.safetensors", header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,8]}}')),
    ("model.safetensors", header(b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}', data=bytes(8))),
    ("model.safetensors", header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', data=bytes(12))),
    ("model.safetensors", header(b"[]")),
    ("model.safetensors", header(b"\xff\xfe")),
    ("model.safetensors", b""),
]
#: Orders and widths of numbers in .npy files.
DTYPES = [">f4", "<f4", ">f2", ">f8", np.longdouble]
FEATURES = np.arange(-30, 30).reshape(3, 5, 4) / 8


class Runs:
    """What a pickle would run when it is read."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def written(name: str, content: bytes, folder: Path) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def features(dtype: object, folder: Path) -> Path:
    np.save(folder / "a.npy", FEATURES.astype(dtype))
    return folder / "a.npy"


def npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def no_array(name: str, folder: Path) -> Path:
    """One of NO_ARRAYS."""
    path = folder / f"{name}.npy"
    if name == "pickle":
        np.save(path, np.array([Runs()], object), allow_pickle=True)
    elif name == "whole":
        path.write_bytes(pickle.dumps(Runs()))
    elif name == "archive":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif name == "huge":
        path.write_bytes(npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000, 5, 32), }"))
    else:
        path.write_bytes(npy_header(b"[" * 64))
    return path


#: A pickle in an array, a pickle alone, an archive, more values than any memory, a header that is none.
NO_ARRAYS = ("pickle", "whole", "archive", "huge", "odd")


def pickled(value: object, folder: Path) -> Path:
    torch.save(value, folder / "model.pt")
    return folder / "model.pt"


def names_in(path: Path) -> list[str]:
    return sorted(read_tensors(path))


def kinds() -> Iterator[Kind]:
    for number, (name, content) in enumerate(IMPOSSIBLE):
        said = "it is a GGUF file" if content == GGUF else f"{name}: "
        yield Kind(
            "weights", f"{name}, impossible header {number}", partial(written, name, content), names_in, Line(said)
        )
    refused = Line("wants to run")
    yield Kind("weights", "a pickle that runs something", partial(pickled, {"weight": Runs()}), names_in, refused)
    yield Kind("weights", "a pickle of no tensors", partial(pickled, [1, 2]), names_in, Line("no state dict"))
    tensors = {"model": {"a": torch.zeros(2)}}
    yield Kind("weights", "a pickle of tensors in a folder", partial(pickled, tensors), names_in, ["a"])
    for dtype in DTYPES:
        read = lambda path: (read_features(path)[:, 0].tolist(), frames_of(path))  # noqa: E731
        wanted = (FEATURES.tolist(), 3)
        yield Kind("features", f".npy of {np.dtype(dtype).str}", partial(features, dtype), read, wanted)
    for name in NO_ARRAYS:
        yield Kind(
            "features", f".npy that is no array: {name}", partial(no_array, name), read_features, Line("cannot read")
        )
