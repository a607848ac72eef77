"""CogVLM2's sizes: what it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.config.experiments import COGVLM2_IMAGE, COGVLM2_VIDEO
from videogpt_plus.families.cogvlm2 import IMAGE, VIDEO
from videogpt_plus.flops import Llm, Sizes, Tower, config_of, llm_of, readers_of, towers_of

#: `architectures` of the published configs, by family.
ARCHITECTURES = {family.name: family.config["architectures"][0] for family in (IMAGE, VIDEO)}
_BOTH: Mapping[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_multi_query_heads": 8, "vocab_size": 128256,
    "vision_config": {"hidden_size": 1792, "intermediate_size": 15360, "num_hidden_layers": 63, "patch_size": 14},
}  # fmt: skip
#: THUDM/cogvlm2-video-llama3-chat and THUDM/cogvlm2-llama3-chat-19B differ in what is read of pictures alone.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {COGVLM2_VIDEO.llm: _BOTH, COGVLM2_IMAGE.llm: _BOTH}


@dataclass(frozen=True)
class Eva2Tower(Tower):
    """CogVLM2's: its grid is that behind a convolution of 2 x 2 patches; `projector` is (in, LLM's, hidden) width."""

    @property
    def side(self) -> int:
        """Patches a side in the blocks."""
        return 2 * self.grid

    @property
    def parameters(self) -> int:
        """Weights of the blocks, the patch embedding, the convolution and the projector, without biases and norms."""
        return super().parameters + 4 * self.width**2

    def encode(self, frames: int) -> int:
        """FLOPs of the frames of one visual, each a sequence of its own."""
        return super().encode(frames) + 2 * frames * self.grid**2 * 4 * self.width**2

    @property
    def projector_parameters(self) -> int:
        """Weights of the gated MLP."""
        width, llm, hidden = self.projector
        return width * llm + 3 * llm * hidden


def sizes(experiment: Experiment) -> Sizes | None:
    """See `flops.sizes_of`."""
    if (config := config_of(experiment.llm, PUBLISHED)) is None:
        return None
    llm = llm_of(config, experts=2 if experiment.family == "cogvlm2_image" else 1, tied=False)
    towers = towers_of(experiment, llm)
    return towers and Sizes(towers, llm, readers_of(experiment, llm.width))


def tower(stream: Branch, llm: Llm) -> Eva2Tower | None:
    """The tower and its projector."""
    if stream.projector != "glu" or (config := config_of(stream.weights, PUBLISHED)) is None:
        return None
    vision, widths = config["vision_config"], (stream.width, llm.width, llm.mlp)
    blocks, mlp, patch = (vision[name] for name in ("num_hidden_layers", "intermediate_size", "patch_size"))
    return Eva2Tower(blocks, stream.width, mlp, patch, stream.grid, 1, widths)
