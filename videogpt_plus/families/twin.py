"""Tiny twins of the families that are published whole: a folder laid out as the published one, with random weights.

Names and shapes of tensors are those of the real classes at a tiny size, so that whatever reads published weights
reads these: `load_model`, `convert`, every way to place them. Nobody taught them anything, and their answers mean
nothing. The same code writes the same files. What each family writes stands in its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.config.experiments import EXPERIMENTS, TOY_FAMILIES
from videogpt_plus.families import FAMILIES
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import write_json
from videogpt_plus.io.folders import making

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Files of a twin, in addition to `made.json`.
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
#: Sizes of every twin's language model and tower.
WIDTH, MLP, LAYERS, HEADS = 64, 128, 2, 4
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}


def ensure_twin(folder: str | Path) -> bool:
    """Writes the twin whose folder this is unless it stands there, whole and from this code; True when it was written.

    Folders are called TOY_FAMILIES/FAMILY; any other is left alone. Nothing half-made is ever left under the name.
    """
    folder = Path(folder)
    family = FAMILIES.get(folder.name)
    if family is None or family.twin is None or folder.parent != Path(TOY_FAMILIES):
        return False
    write = family.function("twin")
    code = [fingerprint.of_path(path) for path in (__file__, write.__code__.co_filename)]
    with making(folder, {"code": code, "weights": "random"}, FILES) as scratch:
        if scratch is None:
            return False
        write(scratch, EXPERIMENTS[f"toy_{family.name}"])
    return True


def write_tokenizer(folder: Path, tokenizer: Tokenizer, begin: str, end: str, pad: str, **more: Any) -> None:
    """In words that every transformers from 4.57 on reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": begin, "eos_token": end, "pad_token": pad, "model_max_length": 2048}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named, **more})
