"""CogVLM2 as one of the house's models: the tower is its encoder, its projector takes every patch, the adapter pools
each frame, and boi and eoi stand around what is left of it.

The published weights are level 1. Any other level is the same weights with fewer tokens, and needs no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import CausalLMOutputWithPast

from videogpt_plus.adapters import build_adapter
from videogpt_plus.checkpoint import load_exactly, projector_part, read_projectors
from videogpt_plus.configs import Experiment
from videogpt_plus.encoders import load_encoder
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.generation import Reading
from videogpt_plus.merge import VisualTokens, splice
from videogpt_plus.models.cogvlm2 import weights
from videogpt_plus.models.cogvlm2.positions import advances, position_ids, vision_expert
from videogpt_plus.models.cogvlm2.rope import RopePrecision
from videogpt_plus.models.dual_encoder import DualEncoderVLM, Grids, load_tokenizer
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

#: The first is what the original stops at; the second ends a turn of Llama-3, which it was made from.
ENDS = ("<|end_of_text|>", "<|eot_id|>")


class CogMerged(NamedTuple):
    """What the language model gets, padded on the right."""

    inputs_embeds: Float[Tensor, "b s d"]
    attention_mask: Bool[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    #: True at visual tokens, boi and eoi included.
    visual: Bool[Tensor, "b s"]


class CogVLM2(DualEncoderVLM):
    """One stream, and a placeholder a frame: text may stand between frames, as the frames' numbers do."""

    lora_targets = (
        r"model\.layers\.\d+\."
        r"(self_attn\.language_expert_(query_key_value|dense)|mlp\.language_mlp\.(gate|up|down)_proj)"
    )
    lora_task = None  # PEFT would ask it for transformers' generation hooks

    @property
    def stream(self) -> str:
        """The name of the one stream: image or video."""
        (name,) = self.projectors
        return name

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
        """What the decoder is told of a merged batch beside its embeddings: positions, and whose each token is."""
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
        return self.adapters[self.stream].num_tokens(1, h, w) + 2

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


def load(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None = None,
    encoders: Mapping[str, GridEncoder] | None = None,
    rope_precision: RopePrecision | None = None,
) -> CogVLM2:
    """See `models.load_model`. The weights are a published folder as it is, or a run folder that `convert` wrote.

    A published folder is read part by part, each tensor once. `rope_precision` is that of the folder's config.json
    (key "rope_precision"), where none is named, and fp32 where that names none either.
    """
    name, stream = _only_stream(experiment, streams)
    experiment = weights.own_parts(experiment, run_dir)
    stream = dict(experiment.streams)[name]
    meta = torch.device(device).type == "meta"
    llm = weights.load_llm(experiment, dtype, rope_precision, meta)
    model = CogVLM2(
        llm,
        load_tokenizer(experiment.llm, run_dir),
        encoders or {name: load_encoder(stream, device, dtype)},
        {name: weights.build_projector(stream, llm.config)},
        {name: build_adapter(experiment.adapter, experiment.level)},
    )
    if run_dir is not None and weights.has_projectors(run_dir):
        model.load_projectors(run_dir)
    elif not meta:
        load_exactly(model.projectors[name], weights.published_projector(experiment.llm), f"in {experiment.llm}")
    model.projectors.to(dtype)
    if run_dir is not None and weights.has_lora(run_dir):
        model.load_lora(run_dir, merge=True)
    return model.to(device).eval()


def load_beside(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
) -> list[CogVLM2]:
    """See `models.load_models`: runs of one set of weights at several levels share all but the adapter."""
    first = weights.own_parts(*runs[0])
    name, stream = _only_stream(first, None)
    base = load(*runs[0], device, dtype, None, {name: load_encoder(stream, device, encoder_dtype)})
    models = [base]
    for experiment, folder in runs[1:]:
        own = weights.own_parts(experiment, folder)
        if (own.llm, own.streams, own.num_frames) != (first.llm, first.streams, first.num_frames):
            raise UserError(f"{folder} and {runs[0][1]} have other weights or see clips differently: answer them apart")
        if any(weights.has_lora(f) for f in (folder, runs[0][1])):
            raise UserError(f"{folder} and {runs[0][1]} cannot share an LLM with a LoRA in it: answer them apart")
        adapters = {name: build_adapter(experiment.adapter, experiment.level)}
        model = CogVLM2(base.llm, base.tokenizer, base.encoders, base.projectors, adapters)
        if weights.has_projectors(folder):
            model.projectors = torch.nn.ModuleDict({name: weights.build_projector(stream, base.llm.config)})
            state = projector_part(read_projectors(folder), name)
            load_exactly(model.projectors[name], state, f"of the projector in {folder}")
            model.projectors.to(device, dtype)
        models.append(model)
    for model in models:
        model.requires_grad_(False).eval()
    return models


def _only_stream(experiment: Experiment, names: Sequence[str] | None) -> tuple[str, object]:
    if len(experiment.streams) != 1:
        raise UserError(f"experiment '{experiment.name}' has {len(experiment.streams)} streams, CogVLM2 has one")
    ((name, stream),) = experiment.streams
    if names and list(names) != [name]:
        raise UserError(f"unknown stream '{[n for n in names if n != name][0]}'; choose from: {name}")
    return name, stream
