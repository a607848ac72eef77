"""LLaVA-1.5's weights from one published layout into another, shard by shard.

Layouts are those of `encoders.clip_llava.LAYOUTS`: the original release's, the Hub's, and the Hub's as transformers 5
saves it. The Hub's have more rows of tokens than the original: two tokens, and rows up to a multiple of 64 that stand
for nothing. We add them as zeros; other files may hold anything there. A converted folder is a run folder at the same
time: it holds an `experiment.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.experiments import LLAVA15_7B
from videogpt_plus.encoders import clip
from videogpt_plus.families.llava15.encoder import LAYOUTS, UNUSED, canonical, named_tower, read_config, spelled
from videogpt_plus.io.files import read_object, require, write_json
from videogpt_plus.io.folders import new_folder
from videogpt_plus.io.run_weights import ADAPTER_FILES
from videogpt_plus.io.shards import (
    COPIED,
    SHARD_BYTES,
    Change,
    Differing,
    Stored,
    check_shapes,
    check_unpacked,
    copy_files,
    opened,
    stored_in,
    to_dtype,
    with_dtype,
    write_shards,
)
from videogpt_plus.io.shards import differing as differing_tensors
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaConfig

#: The matrices with a row a token.
ROWS = ("text.embed_tokens.weight", "head.weight")
#: The Hub's tokens behind the original's; rows are a multiple of this.
ADDED, MULTIPLE = ("<image>", "<pad>"), 64
#: Sizes that both layouts' configs hold under these names.
TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id"),
)
VISION = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"),
    *("projection_dim", "hidden_act", "layer_norm_eps"),
)
#: The CLIP that the original was trained with.
TOWER = "openai/clip-vit-large-patch14-336"


def convert(
    family: str,
    source: str | Path,
    target: str | Path,
    to: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Writes the weights of `source` into the new folder `target`, and returns its layout.

    `to` is that layout: of the original where `source` is the Hub's, the Hub's of anything else unless it is named.
    Rows behind the vocabulary are added as zeros, or left out; `tell` is given a line where these were not zero. A
    tower that `source` lacks is taken from the CLIP in the folder next to it. `target` is there whole or not at all.
    UserError: `source` is no LLaVA-1.5; or missing and unexpected keys and wrong shapes, all at once; or a value is
    finite, and would not be in `dtype`.
    """
    source, target = require(source, "weights to convert"), Path(target)
    if any((source / name).exists() for name in ADAPTER_FILES):
        raise UserError(f"{source} has a LoRA adapter, which published layouts have no place for: merge it first")
    config, found = read_config(source), read_object(source / "config.json", "download it again")
    layout = to or ("original" if "text_config" in found else "hub")
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}' of LLaVA-1.5; choose from: {', '.join(LAYOUTS)}")
    stored = _stored(source, found)
    _check(source, config, stored)
    rows = _rows(config, layout)
    with new_folder(target) as folder:
        write_shards(folder, stored, _fitted(rows, dtype), shard_bytes, lambda name: spelled(name, layout))
        written = _config(layout, config, found, rows)
        write_json(folder / "config.json", with_dtype(written, dtype or _dtype(found)))
        copy_files(source, folder, (*COPIED, "preprocessor_config.json", "processor_config.json"))
        if layout != "original" and not (folder / "tokenizer.json").exists():
            _write_tokenizer(source, folder)
        save_experiment(folder, _experiment(target, config))
    if tell and (count := _left_out(stored, rows)):
        tell(f"{count} rows behind the vocabulary left out, not zero")
    return layout


def differing(family: str, source: str | Path, target: str | Path, dtype: str | None = None) -> Differing:
    """The tensors of `source` that are not bit for bit those of `target`.

    Read back from both, a tensor at a time, the source's brought to `dtype`; rows behind the vocabulary are left out.
    """
    sides = [_stored(folder, read_object(folder / "config.json", "")) for folder in map(Path, (source, target))]
    rows = min(read_config(folder).image_token_index for folder in (source, target))

    def of_tokens(name: str, tensor: Tensor) -> Tensor:
        return tensor[:rows] if name in ROWS else tensor

    return differing_tensors(*sides, _fitted(rows, dtype), of_tokens)


# ------------------------------------------------------------------------------------------------ what is there
def _stored(folder: Path, found: dict[str, Any]) -> list[Stored]:
    """Every tensor under our name, with those of the CLIP that it names where it holds no tower."""
    stored = [one for one in stored_in(folder, canonical) if not one.key.endswith(UNUSED)]
    if len({one.name for one in stored}) < len(stored):
        names = [one.name for one in stored]
        twice = sorted(one.key for one in stored if names.count(one.name) > 1)
        raise UserError(f"weights {folder} hold a tensor under two names: {', '.join(twice[:2])}; remove one")
    if not any(one.name.startswith("tower.") for one in stored):
        named = named_tower(folder, found)
        if named is None or not named.is_dir():
            raise UserError(f"weights {folder} hold no vision tower; download {TOWER} to {folder.parent}")
        stored += [one for one in stored_in(named, _of_tower) if one.name.startswith("tower.")]
    return stored


def _of_tower(key: str) -> str:
    """Our name of a tensor of a whole CLIP, or of its vision tower alone; what is not the tower's keeps its key."""
    for prefix in clip.PREFIXES:
        key = key.removeprefix(prefix)
    unused = key in clip.UNUSED or key.startswith(clip.UNUSED_PARTS)
    return key if unused else f"tower.{key}"


def _check(folder: Path, config: LlavaConfig, stored: list[Stored]) -> None:
    """UserError: the tensors are packed, or not those of the config."""
    from videogpt_plus.families.llava15.model import build_whole

    check_unpacked(folder, (one.name for one in stored))
    expected = {canonical(key): tuple(value.shape) for key, value in build_whole(config).state_dict().items()}
    check_shapes(folder, stored, expected)


# ------------------------------------------------------------------------------------------------ what is written
def _rows(config: LlavaConfig, layout: str) -> int:
    """Rows of tokens in a layout. One of the Hub's keeps its own."""
    base, own = config.image_token_index, config.text_config.vocab_size
    if layout == "original":
        return base
    return own if own > base else -(-(base + len(ADDED)) // MULTIPLE) * MULTIPLE


def _fitted(rows: int, dtype: str | None) -> Change:
    """Brings tensors to a dtype, and those of ROWS to so many rows."""
    import torch

    def fitted(name: str, tensor: Tensor) -> Tensor:
        if name in ROWS:
            more = max(0, rows - len(tensor))
            tensor = torch.cat([tensor[:rows], tensor.new_zeros(more, tensor.shape[1])]) if more else tensor[:rows]
        return to_dtype(name, tensor, dtype)

    return fitted


def _left_out(stored: Sequence[Stored], rows: int) -> int:
    """How many rows of tokens from `rows` on are not zero, in one of the matrices at least."""
    with opened() as read:
        ids = [read(one)[rows:].any(dim=1).nonzero() for one in stored if one.name in ROWS]
    return len({number for own in ids for number in own.flatten().tolist()})


def _dtype(found: dict[str, Any]) -> str | None:
    return found.get("torch_dtype") or found.get("dtype")


def _config(layout: str, config: LlavaConfig, found: dict[str, Any], rows: int) -> dict[str, Any]:
    """The layout's `config.json`; one of the same kind stays as it is."""
    theirs = "text_config" in found
    if theirs == (layout != "original"):
        return {name: value for name, value in found.items() if name not in ("torch_dtype", "dtype")}
    text = {name: getattr(config.text_config, name) for name in TEXT} | _rope(found.get("text_config") or found)
    vision = {"model_type": "clip_vision_model", **{name: getattr(config.vision_config, name) for name in VISION}}
    if layout == "original":
        return {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            **text,
            "vocab_size": rows,
            "image_aspect_ratio": "pad",
            "mm_hidden_size": config.vision_config.hidden_size,
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": config.vision_feature_layer,
            "mm_vision_tower": TOWER,
            "use_mm_proj": True,
            "vision_config": vision,  # which the original leaves to the CLIP that it names
        }
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": config.image_token_index,
        "pad_token_id": config.image_token_index + 1,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", **text, "vocab_size": rows},
        "vision_config": vision,
    }


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    """The base of the rotary angles, where a config of either transformers says one."""
    base = text.get("rope_theta") or (text.get("rope_parameters") or {}).get("rope_theta")
    return {"rope_theta": base} if base else {}


def _write_tokenizer(source: Path, folder: Path) -> None:
    """The Hub's form of a SentencePiece tokenizer: two tokens more, and the beginning of text before any."""
    from tokenizers import AddedToken, processors

    from videogpt_plus.families.llava15.model import LLAMA_SPECIAL, load_tokenizer

    if not (source / "tokenizer.model").exists():
        return
    made = load_tokenizer(source).backend_tokenizer
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ADDED])
    begin = LLAMA_SPECIAL["bos_token"]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, made.token_to_id(begin))]
    )
    made.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **LLAMA_SPECIAL, "pad_token": ADDED[1]}
    write_json(folder / "tokenizer_config.json", {**named, "image_token": ADDED[0], "model_max_length": 4096})


def _experiment(target: Path, config: LlavaConfig) -> Experiment:
    """The experiment that the folder `target` will be, of the sizes of its config."""
    vision, ((name, stream),) = config.vision_config, LLAVA15_7B.branches
    side = vision.image_size // vision.patch_size
    stream = replace(stream, weights=str(target), pixels=vision.image_size, grid=side, width=vision.hidden_size)
    return replace(LLAVA15_7B, llm=str(target), branches=((name, stream),))
