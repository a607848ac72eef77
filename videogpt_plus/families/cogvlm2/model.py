"""CogVLM2 as a `VisionLM`: the tower is its encoder, its projector takes every patch, the reducer pools
each frame, and boi and eoi stand around what is left of it.

The published weights are level 1. Any other level is the same weights with fewer tokens, and needs no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from videogpt_plus.config.experiment import Experiment, Lora
from videogpt_plus.config.options import LoadConfig
from videogpt_plus.families.cogvlm2 import weights
from videogpt_plus.families.cogvlm2.lora import TARGETS, fuse, split
from videogpt_plus.families.cogvlm2.positions import advances, position_ids, vision_expert
from videogpt_plus.io.tensors import load_exactly
from videogpt_plus.models.base import Grids, VisionLM
from videogpt_plus.models.generation import Reading
from videogpt_plus.text.splice import VisualTokens, splice
from videogpt_plus.text.tokenizer import load_tokenizer
from videogpt_plus.types import IGNORE, PLACEHOLDER, Visual

#: The first is what the original stops at; the second ends a turn of Llama-3, which it was made from.
ENDS = ("<|end_of_text|>", "<|eot_id|>")


class CogMerged(NamedTuple):
    """What the language model gets, padded on the right."""

    inputs_embeds: Float[Tensor, "b s d"]
    attention_mask: Bool[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    #: True at visual tokens, boi and eoi included.
    visual: Bool[Tensor, "b s"]


class CogVLM2(VisionLM):
    """One stream, and a placeholder a frame: text may stand between frames, as the frames' numbers do."""

    lora_targets = TARGETS
    lora_task = None  # PEFT would ask it for transformers' generation hooks

    @property
    def stream(self) -> str:
        """The name of the one stream: image or video."""
        (name,) = self.projectors
        return name

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder's."""
        return self.causal.model.layers

    def build_projectors(self, experiment: Experiment) -> dict[str, nn.Module]:
        """See `VisionLM`."""
        return {name: weights.build_projector(s, self.causal.config) for name, s in experiment.branches}

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        known = self.tokenizer.get_vocab()
        return [known[end] for end in ENDS if end in known]

    def tokens_of(self, grids: Sequence[Grids]) -> list[Float[Tensor, "n d"]]:
        """Each visual's tokens: frame after frame, each between boi and eoi."""
        tokens = super().tokens_of(grids)
        framed = self.projectors[self.stream].framed
        frames = [len(grid[self.stream]) for grid in grids]
        return [framed(_by_frame(own, t)).flatten(0, 1) for own, t in zip(tokens, frames, strict=True)]

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
        loss_only: bool = False,
    ) -> CausalLMOutputWithPast:
        """Loss (mean cross-entropy over supervised tokens) and logits Float "b s v"; with `loss_only` no logits."""
        merged = self.merge(input_ids, attention_mask, labels, visuals)
        hidden = self.causal.model(merged.inputs_embeds, **self.places(merged)).last_hidden_state
        following = merged.labels[:, 1:]
        supervised = following != IGNORE
        if loss_only:
            scored, logits = self.causal.lm_head(hidden[:, :-1][supervised]).float(), None
        else:
            logits = self.causal.lm_head(hidden).float()
            scored = logits[:, :-1][supervised]
        return CausalLMOutputWithPast(loss=cross_entropy(scored, following[supervised]), logits=logits)

    def places(self, merged: CogMerged) -> dict[str, Tensor | None]:
        """What the decoder needs of a merged batch beyond its embeddings: positions, and who reads each token."""
        vision = vision_expert(merged.visual) if self.causal.experts else None
        return {"position_ids": position_ids(merged.visual, merged.attention_mask), "vision": vision}

    def merge(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
    ) -> CogMerged:
        """What the language model gets for a batch; each frame takes the place of one placeholder."""
        grids = iter(self.encode([visual for sample in visuals for visual in sample]))
        frames = [[frame for _ in sample for frame in _frames(next(grids))] for sample in visuals]
        merged = super().merge(input_ids, attention_mask, labels, frames)
        mark = torch.ones(1, 1, device=self.device)
        # The same splice of one channel, 0 for text and 1 for visual tokens.
        marks = [[VisualTokens(mark.expand(self.frame_tokens(f), 1), 1) for f in sample] for sample in frames]
        ids, mask, labels = (x.to(self.device) for x in (input_ids, attention_mask, labels))
        visual = splice(mark.new_zeros(*ids.shape, 1), ids, mask, labels, marks).inputs_embeds[..., 0].bool()
        return CogMerged(*merged, visual)

    def frame_tokens(self, frame: Visual) -> int:
        """Tokens of a frame that is given as a grid, with boi and eoi."""
        _, h, w, _ = frame.grids[self.stream].shape
        return self.reducers[self.stream].reducer.num_tokens(1, h, w) + 2

    def add_lora(self, lora: Lora) -> None:
        """Wraps the LLM in a fresh, trainable LoRA, with q, k and v apart."""
        split(self.causal)
        super().add_lora(lora)

    def load_lora(self, folder: str | Path, merge: bool, name: str = "default") -> None:
        """See VisionLM."""
        split(self.causal)
        super().load_lora(folder, merge, name)
        if merge:
            fuse(self.causal)

    def _reading(self, prompts: Sequence[Sequence[int]], visuals: Sequence[VisualTokens]) -> Reading:
        frames = [VisualTokens(tokens, 1) for own, count in visuals for tokens in _by_frame(own, count)]
        reading = super()._reading(prompts, frames)
        rest = iter(frames)
        head = list(prompts[0])[: _behind_visuals(prompts[0])]
        visual = [mark for i in head for mark in ([True] * len(next(rest).tokens) if i == PLACEHOLDER else [False])]
        visual = torch.tensor([visual], dtype=torch.bool, device=self.device)
        steps = advances(visual) if visual.numel() else visual
        seen = (vision_expert(visual) if visual.numel() else visual)[0] if self.causal.experts else None
        return reading._replace(advances=steps[0], vision=seen)


def _by_frame(tokens: Float[Tensor, "n d"], frames: int) -> Float[Tensor, "t m d"]:
    return tokens.unflatten(0, (frames, -1))


def _frames(grids: Grids) -> Iterator[Visual]:
    """Each frame of a visual as one of its own."""
    ((name, grid),) = grids.items()
    for i in range(len(grid)):
        yield Visual({}, 1, {name: grid[i : i + 1]})


def _behind_visuals(ids: Sequence[int]) -> int:
    """Where the text begins that no visual follows."""
    return max((i + 1 for i, token in enumerate(ids) if token == PLACEHOLDER), default=0)


def build(experiment: Experiment, dtype: torch.dtype, meta: bool, load_config: LoadConfig, own: bool) -> CogVLM2:
    """See `families.Family.build`. The weights are a published folder as it is, or a run folder that `convert` wrote.

    A published folder is read part by part, each tensor once. The rotary angles' precision is that of the folder's
    config.json (key "rope_precision"), where none is named, and fp32 where that names none either.
    """
    model = CogVLM2(weights.load_llm(experiment, dtype, load_config.rope_precision, meta))
    with torch.device("meta" if meta else "cpu"):
        model.projectors.update(model.build_projectors(experiment))
    if not (meta or own):
        projector = model.projectors[model.stream]
        load_exactly(projector, weights.published_projector(experiment.llm), f"in {experiment.llm}")
    model.projectors.to(dtype)
    return model


def tokenizer(experiment: Experiment, run_dir: str | Path | None) -> PreTrainedTokenizerBase:
    """See `families.Family.tokenizer`."""
    return load_tokenizer(experiment.llm, run_dir)
