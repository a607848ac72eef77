"""LoRA around an LLM: made, read from a run folder, several of them on one LLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from videogpt_plus.config.experiment import Lora
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import values_of
from videogpt_plus.io.run_weights import ADAPTER_FILES, read_adapter
from videogpt_plus.io.tensors import State, check_shapes, shapes_of
from videogpt_plus.models.silence import quiet
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from peft import PeftModel

#: The layers that a LoRA wraps in a Llama or a Qwen2.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: What a training with LoRA leaves in a run folder, the reference's or ours.
FILES = ("adapter_config.json", *ADAPTER_FILES, "non_lora_trainables.bin")


def has_lora(folder: str | Path) -> bool:
    """Any file of one: a folder that lost the others must not pass for one without LoRA."""
    return any((Path(folder) / name).exists() for name in FILES)


def wrap(llm: nn.Module, lora: Lora, targets: Sequence[str] | str, task: str | None) -> PeftModel:
    """The LLM in a fresh, trainable LoRA; see `VisionLM.lora_targets`."""
    from peft import LoraConfig, get_peft_model  # takes seconds to import

    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type=task
    )
    with quiet():
        return get_peft_model(llm, config)


def load(llm: nn.Module, folder: str | Path, name: str, entries: int, shared: bool) -> PeftModel:
    """The LLM with the LoRA of a run folder (PEFT's files) called `name`, in addition to those that it has; trainable.

    `entries` are the tokenizer's; `shared` is whether other runs use this LLM, too.
    UserError: files are missing, or keys differ from those that the LoRA's config makes.
    """
    from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict

    file, state = read_adapter(folder)
    described = require(Path(folder) / "adapter_config.json", "LoRA config")
    if read_object(described, "copy the file again").get("peft_type") != "LORA":
        raise UserError(f"{described} describes no LoRA adapter: its 'peft_type' must be LORA; name another folder")
    _take_embeddings(llm, file, state, entries, shared)
    with values_of(described, "copy the file again"), quiet():
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        config.base_model_name_or_path = None  # the LLM's path when it was trained, of which peft would warn
        if isinstance(llm, PeftModel):
            llm.add_adapter(name, config)
        else:
            llm = get_peft_model(llm, config, adapter_name=name)
    check_shapes(file, shapes_of(state), shapes_of(_state_of(llm, name)))
    set_peft_model_state_dict(llm, state, adapter_name=name)
    return llm


def _take_embeddings(llm: nn.Module, file: Path, state: State, entries: int, shared: bool) -> None:
    """Moves the embedding tables that PEFT writes with a LoRA of a resized vocabulary from `state` to the LLM.

    The reference cuts the table to its tokenizer's length before it trains, ours keeps the LLM's: the rows behind
    stand for no token, and are never read or chosen.
    """
    tables = {
        "base_model.model.model.embed_tokens.weight": llm.get_input_embeddings().weight,
        "base_model.model.lm_head.weight": llm.get_output_embeddings().weight,
    }
    for key in [key for key in tables if key in state]:
        if shared:
            raise UserError(f"{file} brings embeddings of its own, and the LLM is shared: answer this run alone")
        rows, table = state.pop(key), tables[key]
        if not entries <= len(rows) <= len(table) or rows.shape[1:] != table.shape[1:]:
            raise UserError(
                f"{file}: {key} {tuple(rows.shape)} does not fit a tokenizer of {entries} entries and the LLM's "
                f"table {tuple(table.shape)}; name the LLM that the adapter was trained on"
            )
        table.data[: len(rows)] = rows


def _state_of(llm: nn.Module, name: str) -> State:
    from peft import get_peft_model_state_dict

    # Told not to, for PEFT would ask the Hub whether the vocabulary was resized.
    return get_peft_model_state_dict(llm, adapter_name=name, save_embedding_layers=False)
