"""The weight files of a run folder: projectors, reducers that learn, LoRA; ours and the reference's."""

from __future__ import annotations

import re
from pathlib import Path

from videogpt_plus.io.files import require
from videogpt_plus.io.tensors import State, read_tensors, without_prefixes
from videogpt_plus.types import UserError

#: Files that may hold projectors, the first one found wins: ours, LoRA fine-tuning's, pre-training's.
PROJECTOR_FILES = ("projectors.safetensors", "non_lora_trainables.bin", "mm_projector.bin")


#: Files that may hold a LoRA adapter, the first one found wins: PEFT's, and that of its earlier versions.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def projector_key(stream: str) -> str:
    """The reference's name of a stream's projector: "video" -> "mm_projector", "image" -> "image_mm_projector"."""
    return "mm_projector" if stream == "video" else f"{stream}_mm_projector"


def reducer_key(stream: str) -> str:
    """What the tensors of a stream's reducer begin with, where it learns: "video" -> "mm_adapter"."""
    return projector_key(stream).replace("projector", "adapter")


def read_projectors(source: str | Path) -> State:
    """Projector tensors of a run folder or a pre-training folder, ours or the reference's, or of one such file.

    Keys come back as `mm_projector.*` and `image_mm_projector.*`, whatever wrappers the file's names carry.
    UserError: the folder holds none of PROJECTOR_FILES.
    """
    path = source = require(source, "run folder")
    if source.is_dir():
        path = next((source / name for name in PROJECTOR_FILES if (source / name).exists()), None)
    if path is None:
        raise UserError(
            f"no projectors in {source}: expected one of {', '.join(PROJECTOR_FILES)}; train them first or name "
            "the folder that training wrote"
        )
    return without_prefixes(read_tensors(path), ("base_model.model.", "model."))


def projector_part(state: State, stream: str) -> State:
    """Of what `read_projectors` returned: one stream's tensors under the names inside its projector.

    By whole names, for "mm_projector" is a part of "image_mm_projector", too. Keys that belong to no projector come
    along, so that loading tells of them.
    """
    prefix = f"{projector_key(stream)}."
    foreign = re.compile(r"(?!(\w+_)?mm_(projector|adapter)\.)")
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) or foreign.match(k)}


def reducer_part(state: State, stream: str) -> State:
    """Of what `read_projectors` returned: the tensors of one stream's reducer, which only one that learns has."""
    prefix = f"{reducer_key(stream)}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def read_adapter(folder: str | Path) -> tuple[Path, State]:
    """The file of a folder's LoRA adapter, and its tensors under PEFT's names. UserError: there is none."""
    folder = Path(folder)
    files = [folder / name for name in ADAPTER_FILES if (folder / name).exists()]
    path = files[0] if files else require(folder / ADAPTER_FILES[0], "LoRA adapter")
    return path, read_tensors(path)
