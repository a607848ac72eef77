"""Cinego as a `VisionLM`: CLIP's tokens with the class token, a reducer on them, and one linear layer
from what the reducer leaves to the language model.

Unlike in the other families the reducer stands before the projection, as its authors have it: the summary reads
CLIP's features. `concat` and `frame_mean` are the same in either order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import LoadConfig
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.encoder import divided
from videogpt_plus.families.cinego.lm import MiniMind
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import values_of
from videogpt_plus.io.tensors import State, check_shapes, load_exactly, shapes_of
from videogpt_plus.models.base import Grids, VisionLM, only_stream
from videogpt_plus.reducers import build_reducer
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import UserError, Visual


class Cinego(VisionLM):
    """One stream, and any number of visuals in a conversation; each stands where its placeholders do."""

    lora_targets = r"layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w[123])"
    lora_task = None  # PEFT would ask it for transformers' generation hooks

    def __init__(
        self,
        llm: MiniMind,
        tokenizer: PreTrainedTokenizerFast | None = None,
        encoders: Mapping[str, GridEncoder] | None = None,
        projectors: Mapping[str, nn.Module] | None = None,
        reducers: Mapping[str, nn.Module] | None = None,
        num_frames: int = 1,
    ):
        super().__init__(llm, tokenizer, encoders, projectors, reducers)
        #: As many equal frames is a picture to a reducer that learns, for which one is not the same as several.
        self.num_frames = num_frames

    @property
    def stream(self) -> str:
        """The name of the one stream."""
        (name,) = self.projectors
        return name

    @property
    def layers(self) -> Sequence[nn.Module]:
        """MiniMind's."""
        return self.causal.layers

    def build_projectors(self, experiment: Experiment) -> dict[str, nn.Module]:
        """From the encoder's width, for the reducer stands before them."""
        return {name: nn.Linear(s.width, self.causal.size.width) for name, s in experiment.branches}

    def build_reducers(self, experiment: Experiment) -> dict[str, nn.Module]:
        """The reducer, with its published weights where it learns; of a file with a summary another leaves that out."""
        name, _ = only_stream(experiment)
        if not experiment.reducer.learns:
            return {name: build_reducer(experiment.reducer)}
        path = weights.locate(experiment.llm)
        state = weights.read(path)
        reducer = _reducer(experiment, state, path)
        load_exactly(reducer, weights.part_of(state, weights.SUMMARY), f"of the summary in {path}")
        return {name: reducer}

    def _sharing(self, experiment: Experiment) -> Cinego:
        model = super()._sharing(experiment)
        model.num_frames = experiment.num_frames
        return model

    def tokens_of(self, grids: Sequence[Grids]) -> list[Float[Tensor, "n d"]]:
        """Each visual's tokens: its grid reduced, then projected. Equal shapes go together."""
        name = self.stream
        projector = self.projectors[name]
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for i, grid in enumerate(grids):
            alike[grid[name].shape].append(i)
        tokens: dict[int, Tensor] = {}
        for members in alike.values():
            stacked = torch.stack([grids[i][name] for i in members]).to(self.device, projector.weight.dtype)
            tokens |= zip(members, projector(self.reduced(stacked)), strict=True)
        return [tokens[i] for i in range(len(grids))]

    def reduced(self, grid: Float[Tensor, "b t 1 n d"]) -> Float[Tensor, "b m d"]:
        """What the reducer leaves of CLIP's tokens.

        One that pools squares gets the patches, and the class token stands before what it leaves of each frame.
        """
        reduce = self.reducers[self.stream]
        if reduce.reducer.learns and grid.shape[1] == 1:
            grid = grid.expand(-1, self.num_frames, -1, -1, -1)
        if not reduce.reducer.pools:
            return reduce(grid)
        alone, patches = divided(grid)
        whole = build_reducer(replace(reduce.reducer, level=1))
        beside = whole(alone)[:, :, None]  # "b t 1 d", of as many frames as the reducer leaves
        pooled = reduce(patches).unflatten(1, (beside.shape[1], -1))
        return torch.cat([beside, pooled], dim=2).flatten(1, 2)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
        loss_only: bool = False,
    ) -> MoeCausalLMOutputWithPast:
        """Loss (mean cross-entropy over supervised tokens, with the experts' in training) and logits Float "b s v".

        With `loss_only` no logits.
        """
        merged = self.merge(input_ids, attention_mask, labels, visuals)
        return self.causal(
            inputs_embeds=merged.inputs_embeds,
            attention_mask=merged.attention_mask,
            labels=merged.labels,
            loss_only=loss_only,
        )

    # -------------------------------------------------------------------------------------------- weights
    def checkpoint_state(self) -> State:
        """All that its authors keep in a file: everything but the tower, under their names."""
        return weights.whole_state(self.causal, self.projectors[self.stream], self.reducers[self.stream])

    def load_checkpoint(self, path: str | Path, lm_only: bool = False) -> None:
        """Takes the tensors of a file of the same sizes; of an `lm_` file with `lm_only`, the visual parts stay.

        UserError: missing and unexpected keys and wrong shapes, all at once.
        """
        path = weights.locate(path)
        state = weights.read(path)
        if lm_only:
            state = {**self.checkpoint_state(), **weights.lm_part(state)}
        self.take(state, path)

    def take(self, state: State, source: str | Path) -> None:
        """`load_checkpoint` of tensors under our names, which were read from `source`."""
        if not self.reducers[self.stream].reducer.learns:
            state = {key: value for key, value in state.items() if not key.startswith(weights.SUMMARY)}
        check_shapes(source, shapes_of(state), shapes_of(self.checkpoint_state()))
        self.causal.load_state_dict(weights.lm_part(state))
        self.projectors[self.stream].load_state_dict(weights.part_of(state, weights.PROJECTION))
        self.reducers[self.stream].load_state_dict(weights.part_of(state, weights.SUMMARY))

    def train_only(self, stage: Literal["pretrain", "sft"]) -> list[str]:
        """Lets only the parameters of a stage learn; their names as `checkpoint_state` has them, sorted.

        "pretrain": projection, reducer and the last layer of the language model. "sft": all but the tower.
        """
        self.requires_grad_(False)
        for part in (self.projectors, self.reducers):
            part.requires_grad_(True)
        (self.causal.layers[-1] if stage == "pretrain" else self.causal).requires_grad_(True)
        return sorted(name for name, parameter in self._named() if parameter.requires_grad)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter but the tower's under its name in a file, the tied one once."""
        parts = (("", self.causal), (weights.PROJECTION, self.projectors[self.stream]))
        for prefix, part in (*parts, (weights.SUMMARY, self.reducers[self.stream])):
            for name, parameter in part.named_parameters():
                yield f"{prefix}{name}", parameter


# ------------------------------------------------------------------------------------------------ loading
def build(experiment: Experiment, dtype: torch.dtype, meta: bool, load_config: LoadConfig, own: bool) -> Cinego:
    """See `families.Family.build`. `experiment.llm` is a file such as sft_videolm_512.pth or a folder that holds one,
    with tokenizer and config.json beside it.
    """
    path = weights.locate(experiment.llm)
    state = weights.read(path)
    size = weights.size_of(state, weights.described(path.parent), path)
    if not (projection := weights.part_of(state, weights.PROJECTION)):
        raise UserError(f"{path} holds a language model alone, which sees nothing: name a pretrain_ or sft_ file")
    model = Cinego(weights.build_lm(weights.lm_part(state), size, path, dtype), num_frames=experiment.num_frames)
    model.projectors.update(model.build_projectors(experiment))
    load_exactly(model.projectors[model.stream], projection, f"of the projection in {path}")
    return model


def tokenizer(experiment: Experiment, run_dir: str | Path | None) -> PreTrainedTokenizerFast:
    """See `families.Family.tokenizer`."""
    return load_tokenizer(weights.locate(experiment.llm).parent)


def assemble(
    experiment: Experiment,
    llm: MiniMind,
    tokenizer: PreTrainedTokenizerFast,
    encoders: Mapping[str, GridEncoder],
    state: State | None = None,
) -> Cinego:
    """The experiment's model with random projection and reducer around a language model.

    The summary has the branches and layers of `state`, where that is given. UserError: the tokenizer has more entries
    than the language model, or the weights have another number of queries than the experiment says.
    """
    if len(tokenizer) > llm.size.vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} entries, the language model in {experiment.llm} embeddings for "
            f"{llm.size.vocabulary}: name the tokenizer that it was trained with"
        )
    model = Cinego(llm, tokenizer, encoders, num_frames=experiment.num_frames)
    model.projectors.update(model.build_projectors(experiment))
    name, _ = only_stream(experiment)
    model.reducers[name] = _reducer(experiment, state or {}, experiment.llm)
    return model


def _reducer(experiment: Experiment, state: State, source: str | Path) -> nn.Module:
    """With random weights where it learns. UserError: `state` has another number of queries than the experiment."""
    _, branch = only_stream(experiment)
    config = experiment.reducer
    if isinstance(config, Summary):
        config = weights.summary_of(state, config)
        found = weights.part_of(state, weights.SUMMARY).get("query_s")
        if found is not None and found.shape[1] != config.num_queries:
            wanted = f"{experiment.name} asks for {config.num_queries}"
            raise UserError(
                f"{source} was trained with {found.shape[1]} queries, {wanted}: their number is learned; ask it at "
                "level 1 with the number that it was trained with, or train another one"
            )
    return build_reducer(config, branch.width)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, with MiniMind's names of special tokens where it says none.

    UserError: there is none, or it cannot be read.
    """
    file = require(Path(folder) / "tokenizer.json", "Cinego's tokenizer")
    read_object(file, "copy it again")
    with values_of(f"the tokenizer in {file.parent}", "copy its files again"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, local_files_only=True, trust_remote_code=False)
        for kind, text in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<unk>")):
            if getattr(tokenizer, kind) is None:
                setattr(tokenizer, kind, text)
    if None in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        raise UserError(f"the tokenizer in {file.parent} has no <s>, </s> and <unk>: copy MiniMind's")
    return tokenizer
