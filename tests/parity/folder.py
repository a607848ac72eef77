"""A folder of recordings: which weights, tokenizer, checkpoints and cases lie in it, found by what they hold."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from videogpt_plus.models.base import VisionLM
from videogpt_plus.types import UserError

from .models import build, write_parts


class Folder:
    """Reads a folder of recordings; models are built when they are first asked for, and kept."""

    def __init__(self, root: Path, work: Path):
        """`work` is an empty folder for the weights in our layout. UserError: `root` is no folder."""
        if not root.is_dir():
            raise UserError(f"no recordings at {root}: name a folder of them, such as tests/golden")
        self.root, self.work = root, work
        self.models: dict[tuple[str, Path | None], VisionLM] = {}

    def names(self) -> list[str]:
        """Every case: the folders with a meta.json or tensors, and the tables."""
        found = [p.name for p in self.root.iterdir() if _is_case(p)]
        found += [p.stem for p in self.root.glob("*.json") if not p.name.startswith(("weights_", "."))]
        return sorted(found)

    def unused(self) -> list[tuple[str, str]]:
        """What no case was made from, and why; to be asked when all cases have been checked."""
        asked = {weights for weights, _ in self.models} | {path.name for _, path in self.models if path}
        left = [(name, "no case names these weights") for name in self.weights() if name not in asked]
        for path in sorted(self.root.iterdir()):
            if (path / "adapter_config.json").exists() and path.name not in asked:
                left.append((path.name, "no case is of this checkpoint"))
            elif not _is_known(path):
                left.append((path.name, "neither a case nor a part of one"))
        return left

    def has_case(self, name: str) -> bool:
        """Whether the case is a folder, and no table."""
        return _is_case(self.root / name)

    def table(self, name: str) -> Any:
        """What a JSON file beside the cases holds. UserError: it is no JSON."""
        return _json(self.root / f"{name}.json")

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A case's meta and tensors; no tensors where there is no file of them."""
        tensors = self.root / name / "tensors.safetensors"
        return _json(self.root / name / "meta.json"), load_file(tensors) if tensors.exists() else {}

    def cases(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Every case that is a folder."""
        for name in self.names():
            if self.has_case(name):
                yield name, *self.case(name)

    @property
    def tokenizer_folder(self) -> Path:
        found = [p for p in sorted(self.root.iterdir()) if _is_tokenizer(p)]
        if not found:
            raise UserError(f"no tokenizer in {self.root}: expected a folder with tokenizer.json or vocab.json")
        return next((p for p in found if p.name == "tokenizer"), found[0])

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.tokenizer_folder)

    def weights(self) -> list[str]:
        """Names of the weights that have both their files."""
        return sorted(p.stem for p in self.root.glob("weights_*.safetensors") if p.with_suffix(".json").exists())

    def weights_of(self, meta: Mapping[str, Any]) -> str:
        """The weights that a case says it was recorded with. UserError: it names none that are here."""
        there = self.weights()
        said = meta.get("weights") or re.match(r"\w*", meta.get("base") or "")[0] or None
        if said is None and len(there) == 1:
            return there[0]
        if said not in there:
            raise UserError(f"the case names the weights {said!r}; in {self.root} are: {', '.join(there) or 'none'}")
        return said

    def checkpoint_of(self, case: str, meta: Mapping[str, Any]) -> Path:
        """The LoRA checkpoint of a case: the one it names, the one called like it, or the only one."""
        there = {p.name: p for p in sorted(self.root.iterdir()) if (p / "adapter_config.json").exists()}
        for name in (meta.get("checkpoint"), f"{case}_ckpt", *(there if len(there) == 1 else ())):
            if name in there:
                return there[name]
        raise UserError(f"no LoRA checkpoint of {case} in {self.root}: expected the folder {case}_ckpt")

    def model(self, weights: str, checkpoint: Path | None = None) -> VisionLM:
        """The model of these weights in float32, with a checkpoint's LoRA and projectors if one is named."""
        key = (weights, checkpoint)
        if key not in self.models:
            self.models[key] = self.fresh(weights, checkpoint)
        return self.models[key]

    def fresh(self, weights: str, checkpoint: Path | None = None) -> VisionLM:
        """A model of its own, to be changed."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        experiment = write_parts(self.root / weights, self.tokenizer_folder, folder, all_rows=checkpoint is None)
        return build(experiment, checkpoint or folder / "run")

    def config(self, weights: str) -> dict[str, Any]:
        """What is recorded of the sizes of these weights."""
        return _json(self.root / f"{weights}.json")


def _is_case(path: Path) -> bool:
    return (path / "meta.json").exists() or (path / "tensors.safetensors").exists()


def _is_tokenizer(path: Path) -> bool:
    return any((path / name).exists() for name in ("tokenizer.json", "vocab.json")) and not _is_case(path)


def _is_known(path: Path) -> bool:
    if path.is_dir():
        return _is_case(path) or _is_tokenizer(path) or (path / "adapter_config.json").exists()
    return path.suffix in (".json", ".md") or path.match("weights_*.safetensors") or path.name.startswith(".")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; copy the recordings again") from error
