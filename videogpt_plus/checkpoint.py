"""Reading and writing of weights: our safetensors, the reference's pickles, and the one table that renames keys.

Knows names of keys and files, no model: encoders and models read through it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints
from zipfile import is_zipfile

from videogpt_plus.configs import Experiment, InternVideo2Size, Lora, Stream, Summary, Training
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]

#: Prefix in the reference's full state dict -> the part it belongs to. What has none of them is the LLM's.
REFERENCE_PARTS = {
    "model.vision_tower.": "internvideo2",
    "model.image_vision_tower.vision_tower.": "clip",
    "model.mm_projector.": "projectors",
    "model.image_mm_projector.": "projectors",
}

#: Files that may hold projectors, the first one found wins: ours, LoRA fine-tuning's, pre-training's.
PROJECTOR_FILES = ("projectors.safetensors", "non_lora_trainables.bin", "mm_projector.bin")
#: Files that may hold a LoRA adapter, the first one found wins: PEFT's, and that of its earlier versions.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
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


def projector_key(stream: str) -> str:
    """The reference's name of a stream's projector: "video" -> "mm_projector", "image" -> "image_mm_projector"."""
    return "mm_projector" if stream == "video" else f"{stream}_mm_projector"


def adapter_key(stream: str) -> str:
    """What the tensors of a stream's adapter begin with, where it learns: "video" -> "mm_adapter"."""
    return projector_key(stream).replace("projector", "adapter")


#: What `write_bytes` calls a file until it is whole, with the id of its process.
PART = re.compile(r"\..+\.(\d+)\.part")

#: Before a path inside this package: the toy's weights lie there wherever it is installed.
PACKAGE = "package:"


def located(path: str | Path) -> Path:
    """The path itself, or the place in this package that `package:...` names."""
    inside = str(path).removeprefix(PACKAGE)
    return Path(path) if inside == str(path) else Path(__file__).parent / inside


def require(path: str | Path, what: str) -> Path:
    """`located(path)` if it exists. UserError: it does not."""
    path = located(path)
    if not path.exists():
        raise UserError(f"{what} not found: {path} does not exist; download it there or name another path")
    return path


def read_object(path: str | Path, then: str) -> dict[str, Any]:
    """The JSON object in a file that is there. UserError: it holds none; `then` says what to do about it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {then}") from error
    except (ValueError, RecursionError) as error:
        what = f"is not JSON ({error})" if Path(path).stat().st_size else "is empty"
        raise UserError(f"{path} {what}; {then}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; {then}")
    return value


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

    try:
        yield
    except UserError:
        raise
    except (
        StrictDataclassError,  # a value of another type
        AssertionError,
        AttributeError,
        ArithmeticError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} has an impossible value ({type(error).__name__}: {told:.200}); {then}") from error


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
    try:
        if _begins(path, b"GGUF"):
            raise UserError(
                f"cannot read weights {path}: it is a GGUF file, which nothing here reads; take safetensors"
            )
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except (
        SafetensorError,
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # what else torch.load raises depends on which bytes are damaged
        if wants := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"cannot read weights {path}: it is a pickle that wants to run {wants[1]}, which was refused; nothing "
                "of it was run. Only tensors are read: download it again from its publisher, or as safetensors"
            ) from error
        raise _unreadable(path, error) from error
    if isinstance(state, dict):
        state = next((state[k] for k in ("model", "module") if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"cannot read weights {path}: it holds no state dict of tensors; name a weight file")
    return state


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _unreadable(path: Path, error: Exception) -> UserError:
    # torch advises to read the pickle without protection; its last words say what is wrong with it.
    told = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
    reason = told.strip().split("\n")[0]
    return UserError(f"cannot read weights {path}: {reason}; copy or download the file again")


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
        try:
            safe_open(file, "pt")  # reads its header alone
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from error
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


def save_experiment(folder: str | Path, experiment: Experiment) -> None:
    """Writes the resolved `experiment.json` of a run folder."""
    write_json(Path(folder) / "experiment.json", experiment_json(experiment))


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as it is read back from experiment.json.

    What a summary is made of stands there only where there is one, and a beta2 of AdamW where it is not the usual
    one, so that runs from before there was any are equal.
    """
    value = json.loads(json.dumps(asdict(experiment)))
    if experiment.adapter != "summary":
        del value["summary"]
    for stage in (value["finetune"], *(stage for _, stage in value["pretrain"])):
        if stage["adam_beta2"] == Training.adam_beta2:
            del stage["adam_beta2"]
    return value


def load_experiment(folder: str | Path) -> Experiment:
    """The experiment that a run folder was trained as, equal to what was saved.

    UserError: there is none, it is no JSON, or it has unknown or missing keys or values of another type.
    """
    path = require(Path(folder) / "experiment.json", "the run's experiment")
    value = read_object(path, "train again or restore the file")

    def made(kind: type, value: Any) -> Any:
        return _made(kind, value, path)

    def stream(value: Any) -> Stream:
        size = isinstance(value, dict) and value.get("size")
        return made(Stream, {**value, "size": made(InternVideo2Size, size)} if size else value)

    def stage(value: Any) -> Training:
        return made(Training, {"adam_beta2": Training.adam_beta2, **value} if isinstance(value, dict) else value)

    inner = {
        "streams": lambda value: _pairs(value, stream),
        "pretrain": lambda value: _pairs(value, stage),
        "finetune": stage,
        "lora": lambda value: made(Lora, value),
        "summary": lambda value: made(Summary, value),
    }
    value.setdefault("summary", asdict(Summary()))
    experiment = made(Experiment, {key: inner[key](v) if key in inner else v for key, v in value.items()})
    try:
        experiment.check_whole()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return experiment


def _pairs(value: Any, made: Callable[[Any], Any]) -> Any:
    """[[name, object], ...] as a tuple of pairs; anything else as it is, for `_made` to refuse."""
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs or not all(isinstance(name, str) for name, _ in value):
        return value
    return tuple((name, made(inner)) for name, inner in value)


def _made(kind: type, value: Any, path: Path) -> Any:
    """The dataclass `kind` of a JSON object that has exactly its keys, each of its type."""
    hints = get_type_hints(kind)
    found = value.keys() if isinstance(value, dict) else set()
    if found != hints.keys():
        raise UserError(
            f"{path} does not describe {kind.__name__}: missing {sorted(hints.keys() - found)}, unknown "
            f"{sorted(found - hints.keys())}; correct it, or train again if another version wrote it"
        )
    for name, hint in hints.items():
        if not _fits(value[name], hint):
            wanted = getattr(hint, "__name__", None) or str(hint)
            raise UserError(f"{path}: '{name}' must be of type {wanted}, not {value[name]!r:.60}; correct it")
    try:
        return kind(**value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) is not tuple else (tuple,)
    kinds = kinds or (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def split_reference(state: State) -> dict[str, State]:
    """A full state dict of the reference, cut into the parts that our loaders read.

    Returns "llm" (Hugging Face's Qwen2 names), "clip" (`vision_model.*`), "internvideo2" (`vision_encoder.*` and
    `vision_proj.*`, as in the published file) and "projectors" (`mm_projector.*`, `image_mm_projector.*`).
    """
    parts: dict[str, State] = {"llm": {}, "clip": {}, "internvideo2": {}, "projectors": {}}
    for key, value in state.items():
        prefix = next((p for p in REFERENCE_PARTS if key.startswith(p)), "")
        part = REFERENCE_PARTS.get(prefix, "llm")
        parts[part][key.removeprefix("model." if part == "projectors" else prefix)] = value
    return parts


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


def adapter_part(state: State, stream: str) -> State:
    """Of what `read_projectors` returned: the tensors of one stream's adapter, which only one that learns has."""
    prefix = f"{adapter_key(stream)}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def read_adapter(folder: str | Path) -> tuple[Path, State]:
    """The file of a folder's LoRA adapter, and its tensors under PEFT's names. UserError: there is none."""
    folder = Path(folder)
    files = [folder / name for name in ADAPTER_FILES if (folder / name).exists()]
    path = files[0] if files else require(folder / ADAPTER_FILES[0], "LoRA adapter")
    return path, read_tensors(path)


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
    own = module.state_dict()
    check_fit(
        source,
        missing=own.keys() - state.keys(),
        unexpected=state.keys() - own.keys(),
        shapes=[
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if state[key].shape != own[key].shape
        ],
    )
    module.load_state_dict(state, assign=assign)


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


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON as safely as `save_tensors` does; half a pair of surrogates as JSON itself spells it."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Replaces `path` by `data` in one step. UserError: the folder is full, read-only or no folder.

    Not `durable`: a power cut may leave a torn file, for those who check what they read.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the same trouble may forbid this, too
            part.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder, then run the same command "
            "again: it goes on"
        ) from error


def sweep_parts(folder: Path) -> None:
    """Removes what killed processes left half-written in `folder` by `write_bytes`; that of a living one stays."""
    for path in folder.glob(".*.part"):
        found = PART.fullmatch(path.name)
        if found and path.is_file() and not is_alive(int(found[1])):
            with suppress(OSError):  # another process was faster, or a folder that may only be read
                path.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    except OverflowError:  # no id of any process
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
