"""VideoGPT+: two frozen encoders, a projector and a reducer each, and a Qwen2 that reads their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import LoadConfig
from videogpt_plus.io.files import read_object
from videogpt_plus.io.model_folders import read_folder, require_folder, values_of, weight_files
from videogpt_plus.io.tensors import check_fit
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.projectors import build_projector
from videogpt_plus.reducers import build_reducer
from videogpt_plus.text.tokenizer import load_tokenizer
from videogpt_plus.types import UserError

END_OF_TURN = "<|im_end|>"


class DualEncoder(VisionLM):
    """Any number of branches; their projectors, and reducers that learn, are trained here."""

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        return [self.tokenizer.convert_tokens_to_ids(END_OF_TURN)]

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Qwen2's."""
        return self.causal.model.layers

    def build_projectors(self, experiment: Experiment) -> dict[str, nn.Module]:
        """Into the LLM's width, with random weights."""
        width = self.llm.config.hidden_size
        return {name: build_projector(s.projector, s.width, width) for name, s in experiment.branches}

    def build_reducers(self, experiment: Experiment) -> dict[str, nn.Module]:
        """Each branch's reducer, with random weights where it learns."""
        width = self.llm.config.hidden_size
        return {name: build_reducer(experiment.reducer, width) for name, _ in experiment.branches}

    def has_own_projectors(self, run_dir: str | Path) -> bool:
        """Every run has: there are none but those that were trained."""
        return True


def build(experiment: Experiment, dtype: torch.dtype, meta: bool, load_config: LoadConfig, own: bool) -> DualEncoder:
    """See `families.Family.build`."""
    return DualEncoder(_load_llm(experiment.llm, meta, dtype))


def tokenizer(experiment: Experiment, run_dir: str | Path | None) -> PreTrainedTokenizerBase:
    """See `families.Family.tokenizer`."""
    return load_tokenizer(experiment.llm, run_dir)


def _load_llm(folder: str | Path, meta: bool, dtype: torch.dtype) -> Qwen2ForCausalLM:
    """Qwen2 on the CPU, or on "meta", from a Hugging Face folder."""
    folder = require_folder(folder, "LLM folder")
    kind = read_object(folder / "config.json", "download it again").get("model_type")
    if kind != "qwen2":
        raise UserError(f"LLM in {folder} is a '{kind}', not a 'qwen2'; name a folder of Qwen2 or Qwen2.5")
    with values_of(folder / "config.json", "correct it or download it again"):
        config = Qwen2Config.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):  # an impossible value shows here, and not as a fault of the weights
            Qwen2ForCausalLM(config)
    # transformers reads safetensors piece by piece; a pickle is read here, where each fault of it is one line.
    state = None if weight_files(folder)[0].suffix == ".safetensors" else read_folder(folder)
    try:
        llm, info = Qwen2ForCausalLM.from_pretrained(
            None if state else folder,
            config=config,
            state_dict=state,
            dtype=dtype,
            device_map="meta" if meta else None,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with the other lists
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the LLM in {folder}: {reason}; download it again") from error
    shapes = [f"{key} {tuple(there)} instead of {tuple(own)}" for key, there, own in info["mismatched_keys"]]
    check_fit(folder, info["missing_keys"], info["unexpected_keys"], shapes)
    return llm
