"""Cinego's sizes: what it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.config.experiments import CINEGO_512, CINEGO_768, CLIP_B_16
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import Llm, Sizes, Tower, config_of, llm_of, readers_of, towers_of, vision_transformer

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    # openai/clip-vit-base-patch16, its vision_config
    CLIP_B_16.weights: {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "patch_size": 16},
    CINEGO_512.llm: {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 6400,
    },
    CINEGO_768.llm: {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 6400,
    },
}  # fmt: skip


@dataclass(frozen=True)
class CinegoTower(Tower):
    """CLIP with all its blocks, and a projector behind the reducer: it takes what that leaves, and no more."""

    # Tokens that the reducer leaves of so many frames.
    left: Callable[[int], int] = int

    def project(self, frames: int) -> int:
        """FLOPs of the projector."""
        return 2 * self.left(frames) * self.projector_parameters

    def train_projector(self, frames: int) -> int:
        """FLOPs of its forward and backward, down to what the reducer gives it."""
        return 3 * self.project(frames)


def sizes(experiment: Experiment) -> Sizes | None:
    """See `flops.sizes_of`."""
    config = config_of(experiment.llm, PUBLISHED)
    if config is None or config.keys() == {"rope_layout"}:  # all that the authors' files need, which says no size
        return None
    llm = llm_of(config)
    if (towers := towers_of(experiment, llm)) is None:
        return None
    left = partial(num_visual_tokens, experiment)
    towers = {name: CinegoTower(**vars(tower), left=left) for name, tower in towers.items()}
    width = max(stream.width for _, stream in experiment.branches)
    return Sizes(towers, llm, readers_of(experiment, width, picture=experiment.num_frames))


def tower(stream: Branch, llm: Llm) -> Tower | None:
    """CLIP's tower with all its blocks."""
    config = config_of(stream.weights, PUBLISHED)
    return config and vision_transformer(stream, llm, config)
