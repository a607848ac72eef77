"""LLaVA-1.5's sizes: what it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.config.experiments import CLIP_L_336, LLAVA15_7B
from videogpt_plus.flops import PUBLISHED as TOWERS
from videogpt_plus.flops import Llm, Sizes, Tower, config_of, llm_of, readers_of, towers_of, vision_transformer

#: llava-hf/llava-1.5-7b-hf
PUBLISHED: Mapping[str, Mapping[str, Any]] = {LLAVA15_7B.llm: {"text_config": {"vocab_size": 32064}}}
#: What a LLaVA's config leaves out of its language model.
LLAMA_7B: Mapping[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip


def sizes(experiment: Experiment) -> Sizes | None:
    """See `flops.sizes_of`."""
    if (config := config_of(experiment.llm, PUBLISHED)) is None:
        return None
    llm = llm_of({**LLAMA_7B, **config["text_config"]} if "text_config" in config else config, tied=False)
    towers = towers_of(experiment, llm)
    return towers and Sizes(towers, llm, readers_of(experiment, llm.width))


def tower(stream: Branch, llm: Llm) -> Tower | None:
    """CLIP's tower inside a LLaVA; the original's config names the CLIP instead of describing it."""
    config = config_of(stream.weights, PUBLISHED)
    if config is None:
        return None
    vision = config.get("vision_config") or TOWERS[CLIP_L_336.weights]
    return vision_transformer(stream, llm, vision, unused=1)
