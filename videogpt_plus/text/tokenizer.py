"""Reading a transformers tokenizer from a folder: its data, and never the code in that folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from videogpt_plus.io.errors import translated
from videogpt_plus.io.files import located, read_object, require
from videogpt_plus.io.model_folders import TOKENIZER_FILES, values_of
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(llm: str | Path, run_dir: str | Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer that the run was trained with, where its folder has one; else the LLM's."""
    folder = located(llm)
    if not (folder / "vocab.json").exists():  # of either; without both transformers makes an empty tokenizer
        require(folder / "tokenizer.json", "LLM folder's tokenizer")
    if run_dir is not None and any((Path(run_dir) / name).exists() for name in ("tokenizer.json", "vocab.json")):
        folder = Path(run_dir)
        for name in TOKENIZER_FILES:
            if name.endswith(".json") and (folder / name).exists():
                read_object(folder / name, "copy the LLM's again")
    return read_tokenizer(folder, "download its files again")


def read_tokenizer(folder: Path, then: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. One that names code of its own is read without it, where transformers has its class.

    UserError: a file of it is damaged, and `then` says what to do; or nothing but its own code could read it.
    """
    told = folder / "tokenizer_config.json"
    config = read_object(told, then) if told.exists() else {}
    if "auto_map" in config and not _is_built_in(config.get("tokenizer_class")):
        raise _wants_code(folder, config["auto_map"])

    def told(error: Exception) -> Exception:
        if "custom code" not in str(error):
            return error
        return _wants_code(folder, read_object(folder / "config.json", then).get("auto_map"))

    with values_of(f"the tokenizer in {folder}", then), translated(ValueError, to=told):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _is_built_in(name: object) -> bool:
    return isinstance(name, str) and tokenizer_class_from_name(name) is not None


def _wants_code(folder: Path, mapped: object) -> UserError:
    return UserError(
        f"the tokenizer in {folder} wants to run code of its own ({json.dumps(mapped)[:100]}), which was refused; "
        "nothing of it was run. Only data are read: take a folder with a tokenizer.json whose class transformers has"
    )
