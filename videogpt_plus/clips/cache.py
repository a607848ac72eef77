"""Encoder grids on disk: a clip is decoded and encoded once, whatever is trained on it or asked about it later.

What is kept is the unpooled grid of every stream. Projector and pooling do not commute, so nothing behind the
encoders can be shared between pool levels, and everything before them can.

DIR/ab/KEY.safetensors is one clip. KEY names the clip's content, bounds and padding, then all else that the grids
depend on: weights, sampling, dtype. So an entry is never out of date, it is only no longer asked for. Whoever
reads one checks it: a torn or damaged entry is removed, and made again. Any number of processes may share a folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.config.experiment import Branch, Experiment, Sampling
from videogpt_plus.config.options import LoaderConfig
from videogpt_plus.encoders import encoder_of
from videogpt_plus.io import fingerprint
from videogpt_plus.io.errors import attempted, reason, translated
from videogpt_plus.io.files import remove, write_bytes
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

#: Counts up when the same clip and weights give other grids: sampling, preprocessing or an encoder has changed.
VERSION = 3
#: What grids are kept in -> bytes a value.
DTYPES = {"bfloat16": 2, "float32": 4, "int8": 1}
#: Behind the stream's name: the scale of each of its channels, in an int8 entry.
SCALE = ".scale"
#: Only files with such names are counted or removed.
ENTRY = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.safetensors")
PART = re.compile(rf"\.{ENTRY.pattern}\.\d+\.part")
#: A part file this old, in seconds, was left by a killed process.
LEFT_BEHIND = 3600


class _Entry(NamedTuple):
    used: int  # nanoseconds; the least recently used entry goes first
    path: Path
    size: int


class GridCache:
    """Grids under `folder`, kept as `dtype`, in at most `cap_gib` GiB where that is given.

    At the cap those go first that were not read or written for the longest time.
    """

    def __init__(self, folder: str | Path, dtype: str = "bfloat16", cap_gib: float | None = None):
        if dtype not in DTYPES:
            raise UserError(f"unknown dtype of the grid store '{dtype}'; choose from: {', '.join(DTYPES)}")
        if cap_gib is not None and not cap_gib > 0:
            raise UserError(f"a grid store of {cap_gib:g} GiB holds nothing: give a cap above 0, or none")
        self.folder, self.dtype = Path(folder), dtype
        self.cap = None if cap_gib is None else int(cap_gib * 2**30)
        self._unseen: int | None = None  # bytes written since the folder was looked through; None: never
        self._squares: Counter[tuple[str, str]] = Counter()

    def settings(self, branches: Sequence[tuple[str, Branch]], sampling: Sampling, arithmetic: str) -> str:
        """The part of a key that all clips share. `arithmetic` is the dtype that the encoders compute in."""
        parts = [
            (name, asdict(replace(branch, weights=fingerprint.of_path(branch.weights), projector="")))
            for name, branch in branches
        ]
        return fingerprint.of_value([VERSION, parts, sampling.num_frames, sampling.rule, arithmetic, self.dtype])

    def key(self, path: str | Path, start: float | None, end: float | None, still: str | None, settings: str) -> str:
        """The name of a clip's entry: its bytes, or names and bytes of a frame folder, and what is taken of them.

        `still` is how a still image becomes square, None for a video. Raises OSError.
        """
        return f"{fingerprint.of_value([fingerprint.of_path(path), start, end, still])}-{settings}"

    def read(self, key: str) -> dict[str, Float[Tensor, "t h w d"]] | None:
        """The grids of an entry on the CPU, by stream; None if there is none, or it was damaged and is removed now.

        Grids kept as int8 come back as float32. UserError: the folder cannot be read.
        """
        path = self._path(key)
        content = attempted(path.read_bytes, OSError)
        if isinstance(content, FileNotFoundError):
            return None
        if isinstance(content, OSError):
            if content.errno != errno.EIO:  # a bad sector is damage like any other
                raise self._refused("read", content) from content
            content = b""
        packed = _checked(content, key)
        if packed is None:
            remove(path)
            return None
        with suppress(OSError):
            os.utime(path)
        return _unpacked(packed)

    def write(self, key: str, grids: Mapping[str, Float[Tensor, "t h w d"]]) -> dict[str, Float[Tensor, "t h w d"]]:
        """Keeps the grids and returns them as `read` will, on their own device. UserError: the folder is full or so."""
        from safetensors.torch import save

        packed = {name: part for stream, grid in grids.items() for name, part in self._packed(stream, grid)}
        kept = _unpacked(packed)
        for stream, grid in grids.items():
            self._measure(stream, grid, kept[stream])
        on_disk = {name: part.cpu().contiguous() for name, part in packed.items()}
        content = save(on_disk, metadata={"key": key, "crc32": str(_crc32(on_disk))})
        # Not flushed, which would cost more than encoding: the checksum finds what a power cut tears.
        write_bytes(self._path(key), content, durable=False)
        self._make_room(len(content))
        return kept

    def errors(self) -> dict[str, float]:
        """|kept - grid| / |grid| of what was written through this object, by stream; {} where nothing was lost."""
        streams = sorted({stream for stream, _ in self._squares})
        return {s: (self._squares[s, "error"] / (self._squares[s, "grid"] or 1)) ** 0.5 for s in streams}

    def measured(self) -> str | None:
        """`errors` in one line; None where nothing was lost."""
        lost = ", ".join(f"{stream} {100 * error:.2g} %" for stream, error in self.errors().items())
        return f"grid store: what was kept as {self.dtype} differs from the encoders' grids by {lost}" if lost else None

    def announce(self, clips: int, experiment: Experiment, arithmetic: str = "float32", stills: int = 0) -> str:
        """What so many clips and still images of the experiment will take at most, in one line, before it begins.

        UserError: the disk has no room for what is missing (up to the cap), or the folder cannot be written.
        """
        settings = self.settings(experiment.branches, experiment.sampling, arithmetic)
        entries = list(self._entries())
        there = [entry.size for entry in entries if entry.path.stem.endswith(settings)]
        one = clip_bytes(experiment, self.dtype)
        counts = {"clips": (clips, one), "still images": (stills, one // experiment.num_frames)}
        whole = sum(count * size for count, size in counts.values())
        missing = max(0, whole - sum(there))
        parts = [f"{count:,} {what} x {size_text(size)}" for what, (count, size) in counts.items() if count]
        said = (
            f"grid store: {' + '.join(parts) or 'no clips'} = {size_text(whole)} in {self.dtype} "
            f"under {self.folder}; {len(there):,} of this kind are there already"
        )
        if self.cap is not None:
            missing = min(missing, max(0, self.cap - sum(entry.size for entry in entries)))
            said += f"; {size_text(self.cap)} are kept at most"
        free = self._free()
        if missing > free:
            raise UserError(
                f"{said}, and {size_text(missing)} more do not fit into the {size_text(free)} that are free there; "
                f"free space, name another folder, keep {'less' if self.cap else 'a part by a cap'}, or go without"
            )
        return said

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _free(self) -> int:
        with translated(OSError, to=partial(self._refused, "write into")):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return shutil.disk_usage(self.folder).free

    def _refused(self, what: str, error: Exception) -> UserError:
        return UserError(
            f"cannot {what} the grid store {self.folder}: {reason(error)}; permit it or name another folder"
        )

    def _packed(self, stream: str, grid: Tensor) -> Iterator[tuple[str, Tensor]]:
        import torch

        if self.dtype != "int8":
            yield stream, grid.to(getattr(torch, self.dtype))
            return
        grid = grid.float()
        scale = grid.abs().amax((0, 1, 2)) / 127
        yield stream, (grid / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
        yield stream + SCALE, scale

    def _measure(self, stream: str, grid: Tensor, kept: Tensor) -> None:
        from torch.linalg import vector_norm

        if grid.dtype == kept.dtype and self.dtype != "int8":
            return  # nothing is lost
        self._squares[stream, "error"] += vector_norm(kept.float() - grid.float()).item() ** 2
        self._squares[stream, "grid"] += vector_norm(grid.float()).item() ** 2

    def _make_room(self, written: int) -> None:
        """Removes entries above the cap. The folder is looked through once in a while: others write into it, too."""
        first, self._unseen = self._unseen is None, (self._unseen or 0) + written
        if not first and (self.cap is None or self._unseen < self.cap // 64):
            return
        entries, self._unseen = sorted(self._entries()), 0
        if self.cap is None:
            return
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= self.cap - self.cap // 32:  # room for what two processes write until they look again
                return
            remove(entry.path)
            total -= entry.size

    def _entries(self) -> Iterator[_Entry]:
        """All entries of the folder, whoever wrote them. Removes what a killed process left half-written."""
        for path in self.folder.glob("??/*"):
            with suppress(OSError):  # removed by another process meanwhile
                state = path.stat()
                if ENTRY.fullmatch(path.name):
                    yield _Entry(state.st_mtime_ns, path, state.st_size)
                elif PART.fullmatch(path.name) and state.st_mtime < time.time() - LEFT_BEHIND:
                    path.unlink()


def open_cache(loader_config: LoaderConfig) -> GridCache | None:
    """The store that is asked for, if one is."""
    return (
        GridCache(loader_config.store, loader_config.store_dtype, loader_config.store_cap_gib)
        if loader_config.store
        else None
    )


def clip_bytes(experiment: Experiment, dtype: str) -> int:
    """Bytes of one clip's grids with all its frames: the unpooled grid of every stream."""
    values = sum((s.grid**2 + encoder_of(s.encoder).class_tokens) * s.width for _, s in experiment.branches)
    return experiment.num_frames * values * DTYPES[dtype]


def size_text(size: float) -> str:
    """30_408_704 -> "30.4 MB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def _unpacked(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scales = {name.removesuffix(SCALE): part for name, part in packed.items() if name.endswith(SCALE)}
    return {
        name: part.float() * scales[name] if name in scales else part
        for name, part in packed.items()
        if not name.endswith(SCALE)
    }


def _checked(content: bytes, key: str) -> dict[str, Tensor] | None:
    """The tensors of an entry; None if it is damaged or another entry under this name."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    with suppress(SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        packed, metadata = load(content), header["__metadata__"]
        if metadata["key"] == key and metadata["crc32"] == str(_crc32(packed)):
            return packed
    return None


def _crc32(packed: Mapping[str, Tensor]) -> int:
    """Of names, dtypes, shapes and bytes."""
    import torch

    total = 0
    for name, part in sorted(packed.items()):
        total = zlib.crc32(f"{name} {part.dtype} {tuple(part.shape)}".encode(), total)
        total = zlib.crc32(part.flatten().view(torch.uint8).numpy(), total)
    return total
