"""Hugging Face model folders: their JSON files, weights and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from videogpt_plus.io.errors import in_one_line, translated
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.tensors import State, read_tensors, unreadable
from videogpt_plus.types import UserError

#: Weights of a Hugging Face folder, the first one found wins: one file, or an index of several.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


#: What a tokenizer may consist of; those of a run folder are its LLM's, byte for byte.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


#: What transformers reads of a model folder, apart from its weights.
FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def require_folder(folder: str | Path, what: str) -> Path:
    """`located(folder)` if it is a Hugging Face model folder whose json files can be read.

    UserError names the file that cannot: transformers tells of a damaged one in a dozen ways, without its name.
    """
    folder = require(Path(folder) / "config.json", f"{what}'s config").parent
    for file in (folder / name for name in FOLDER_FILES):
        if file.exists():
            read_object(file, "download it again")
    return folder


@contextmanager
def values_of(path: str | Path, then: str) -> Iterator[None]:
    """Turns what transformers and peft raise over an impossible value in `path` into a UserError that names it."""
    from huggingface_hub.errors import StrictDataclassError

    with translated(
        StrictDataclassError,  # a value of another type
        AssertionError,
        AttributeError,
        ArithmeticError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        to=lambda e: UserError(f"{path} has an impossible value ({type(e).__name__}: {in_one_line(e)}); {then}"),
    ):
        yield


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold the weights of a Hugging Face model folder, one or several shards.

    UserError: there are none, an index is no index, or a shard that it names is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = require(folder, "model folder")
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES)}; download them")
    files = [path] if path.suffix != ".json" else _shards(path)
    for file in (f for f in files if f.suffix == ".safetensors"):
        with translated(SafetensorError, OSError, to=partial(unreadable, file)):
            safe_open(file, "pt")  # reads its header alone
    return files


def _shards(index: Path) -> list[Path]:
    shards = read_object(index, "download it again").get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} names no shards in a 'weight_map'; download it again")
    return [require(index.parent / name, f"shard of {index.name}") for name in sorted(set(shards.values()))]


def read_folder(folder: str | Path) -> State:
    """All tensors of a Hugging Face model folder: safetensors or pickles, one file or shards with their index."""
    return {key: value for file in weight_files(folder) for key, value in read_tensors(file).items()}


def read_matching(folder: str | Path, wanted: Callable[[str], bool]) -> State:
    """Of a Hugging Face model folder's tensors those whose key is wanted; of safetensors no other is read."""
    from safetensors import safe_open

    found: State = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                found |= {key: tensors.get_tensor(key) for key in filter(wanted, tensors.keys())}
        else:
            found |= {key: value for key, value in read_tensors(file).items() if wanted(key)}
    return found
