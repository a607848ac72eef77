"""CogVLM2's files: which folder is which, and the parts of it that are read on their own.

A published folder holds everything under one index. A run folder that `convert` wrote holds the same in parts:
`llm/`, `eva2/` and `projectors.safetensors`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.families.cogvlm2.eva2 import PREFIX, is_tower
from videogpt_plus.families.cogvlm2.projector import GluProjector
from videogpt_plus.families.cogvlm2.rope import PRECISIONS, RopePrecision
from videogpt_plus.families.cogvlm2.sizes import ARCHITECTURES
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import read_matching, values_of
from videogpt_plus.io.tensors import State, load_exactly
from videogpt_plus.types import UserError

FREQUENCIES = ".self_attn.rotary_emb.inv_freq"
#: Names of the parts in a run folder.
LLM, TOWER = "llm", "eva2"


def own_parts(experiment: Experiment, run_dir: str | Path) -> Experiment:
    """The experiment with the weights that its run folder holds, wherever that stands by now."""
    if (folder := Path(run_dir) / LLM).is_dir():
        experiment = replace(experiment, llm=str(folder))
    if (folder := Path(run_dir) / TOWER).is_dir():
        branches = tuple((name, replace(stream, weights=str(folder))) for name, stream in experiment.branches)
        experiment = replace(experiment, branches=branches)
    return experiment


def load_llm(experiment: Experiment, dtype: torch.dtype, rope_precision: RopePrecision | None, meta: bool) -> CogVLM2LM:
    """The language model with its weights, on the CPU, or on "meta" with names and shapes alone."""
    folder, config = read_config(experiment.llm)
    check_family(folder, config, experiment.family)
    precision = rope_precision or config.get("rope_precision", "fp32")
    if precision not in PRECISIONS:
        raise UserError(f"unknown rope_precision '{precision}' in {folder}; choose from: {', '.join(PRECISIONS)}")
    with values_of(folder / "config.json", "correct it or download it again"), torch.device("meta"):
        llm = CogVLM2LM(llama_config(config), experiment.family == "cogvlm2_image", precision)
    if meta:
        return llm.to(dtype)
    state = read_matching(folder, is_llm)
    kept = [state.pop(key) for key in sorted(state) if key.endswith(FREQUENCIES)]
    load_exactly(llm, {key: value.to(dtype) for key, value in state.items()}, folder, assign=True)
    llm.model.stored_frequencies = same_frequencies(kept, folder) if kept else None
    return llm


def read_config(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder and its `config.json`."""
    file = require(Path(folder) / "config.json", "CogVLM2's config")
    return file.parent, read_object(file, "download it again")


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """The language model's sizes in transformers' words, from a published config. KeyError: it lacks one."""
    return LlamaConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_multi_query_heads"],
        rms_norm_eps=config["rms_norm_eps"],
        max_position_embeddings=config["max_position_embeddings"],
        bos_token_id=config["bos_token_id"],
        eos_token_id=config["eos_token_id"],
        pad_token_id=config["pad_token_id"],
        tie_word_embeddings=False,
    )


def check_family(folder: str | Path, config: dict[str, Any], family: str) -> None:
    """UserError names what the folder is instead: CogVLM-1, packed int4 weights, the other modality, something else."""
    architecture = next(iter(config.get("architectures") or ()), None)
    if architecture not in ARCHITECTURES.values():
        raise UserError(
            f"{folder} is a '{architecture or config.get('model_type')}', not CogVLM2: name a folder of "
            f"{ARCHITECTURES[family]}"
        )
    if "num_multi_query_heads" not in config:
        raise UserError(
            f"{folder} is CogVLM, the first version ({config.get('vocab_size')} tokens, no strided convolution), not "
            f"CogVLM2: name the weights of {family}"
        )
    if config.get("quantization_config"):
        raise UserError(
            f"{folder} holds weights packed by bitsandbytes (quantization_config in its config.json), which cannot be "
            "read as they are: name the unpacked weights"
        )
    if architecture != ARCHITECTURES[family]:
        other = next(name for name, known in ARCHITECTURES.items() if known == architecture)
        raise UserError(f"{folder} is {other}, not {family}: name other weights or another experiment")


def is_llm(key: str) -> bool:
    """Whether a published key is the language model's."""
    return not key.startswith(PREFIX)


def same_frequencies(kept: list[torch.Tensor], folder: str | Path) -> torch.Tensor:
    """The rotary frequencies that every layer of a file keeps. UserError: layers differ."""
    if any(not torch.equal(own, kept[0]) for own in kept):
        raise UserError(f"weights {folder} keep other rotary frequencies in one layer than in another: download again")
    return kept[0]


def build_projector(stream: Branch, config: LlamaConfig) -> GluProjector:
    """The stream's projector, with random weights."""
    if stream.projector != "glu":
        raise UserError(f"unknown projector '{stream.projector}' of CogVLM2; choose from: glu")
    return GluProjector(stream.width, config.hidden_size, config.intermediate_size)


def published_projector(folder: str | Path) -> State:
    """The projector's tensors of a published folder under the names inside it."""
    state = read_matching(folder, lambda key: key.startswith(PREFIX) and not is_tower(key))
    return {key.removeprefix(PREFIX): value for key, value in state.items()}
