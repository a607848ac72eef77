"""Cinego as one of the house's models: CLIP's tokens with the class token, a reducer on them, and one linear layer
from what the reducer leaves to the language model.

Unlike the house's other families the reducer stands before the projection, as its authors have it: the summary reads
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
from videogpt_plus.encoders import load_encoder
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.encoder import divided
from videogpt_plus.families.cinego.lm import MiniMind, RopeLayout
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import values_of
from videogpt_plus.io.tensors import State, check_fit, load_exactly
from videogpt_plus.models.dual_encoder import DualEncoderVLM, Grids
from videogpt_plus.models.shared_llm import check_one_set, check_without_lora, frozen, has_lora, only_stream
from videogpt_plus.reducers import build_reducer
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import UserError, Visual


class Cinego(DualEncoderVLM):
    """One stream, and any number of visuals in a conversation; each stands where its placeholders do."""

    lora_targets = r"layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w[123])"
    lora_task = None  # PEFT would ask it for transformers' generation hooks

    def __init__(
        self,
        llm: MiniMind,
        tokenizer: PreTrainedTokenizerFast,
        encoders: Mapping[str, GridEncoder],
        projectors: Mapping[str, nn.Module],
        reducers: Mapping[str, nn.Module],
        num_frames: int,
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
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        return [self.tokenizer.eos_token_id]

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
        own = self.checkpoint_state()
        if not self.reducers[self.stream].reducer.learns:
            state = {key: value for key, value in state.items() if not key.startswith(weights.SUMMARY)}
        shapes = [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if state[key].shape != own[key].shape
        ]
        check_fit(source, own.keys() - state.keys(), state.keys() - own.keys(), shapes)
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
def load(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None = None,
    encoders: Mapping[str, GridEncoder] | None = None,
    rope_layout: RopeLayout | None = None,
) -> Cinego:
    """See `models.load_model`. `experiment.llm` is a file such as sft_videolm_512.pth or a folder that holds one, with
    tokenizer and config.json beside it; `rope_layout` stands for that config's.
    """
    name, stream = only_stream(experiment, streams)
    path = weights.locate(experiment.llm)
    state = weights.read(path)
    size = weights.size_of(state, weights.described(path.parent, rope_layout), path)
    if not weights.part_of(state, weights.PROJECTION):
        raise UserError(f"{path} holds a language model alone, which sees nothing: name a pretrain_ or sft_ file")
    llm = weights.build_lm(weights.lm_part(state), size, path, dtype)
    encoders = encoders or {name: load_encoder(stream, device, dtype)}
    model = assemble(experiment, llm, load_tokenizer(path.parent), encoders, state)
    load_exactly(model.projectors[name], weights.part_of(state, weights.PROJECTION), f"of the projection in {path}")
    _load_reducer(model.reducers[name], state, path)
    if run_dir is not None and has_lora(run_dir):
        model.load_lora(run_dir, merge=True)
    return model.to(device).eval()


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
    name, stream = only_stream(experiment)
    if len(tokenizer) > llm.size.vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} entries, the language model in {experiment.llm} embeddings for "
            f"{llm.size.vocabulary}: name the tokenizer that it was trained with"
        )
    return Cinego(
        llm,
        tokenizer,
        encoders,
        {name: nn.Linear(stream.width, llm.size.width)},
        {name: _reducer(experiment, state or {}, experiment.llm)},
        experiment.num_frames,
    )


def load_beside(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
) -> list[Cinego]:
    """See `models.load_models`: runs of one set of weights share all but the reducer."""
    check_one_set(runs)
    check_without_lora(runs)
    (first, folder), *others = runs
    name, stream = only_stream(first)
    encoders = {name: load_encoder(stream, device, encoder_dtype)}
    base = load(first, folder, device, dtype, None, encoders)
    models = [base]
    for experiment, _ in others:
        path = weights.locate(experiment.llm)
        state = weights.read(path)
        reducer = _reducer(experiment, state, path)
        _load_reducer(reducer, state, path)
        reducers = {name: reducer.to(device)}
        models.append(Cinego(base.llm, base.tokenizer, encoders, base.projectors, reducers, experiment.num_frames))
    return frozen(models)


def _reducer(experiment: Experiment, state: State, source: str | Path) -> nn.Module:
    ((_, branch),) = experiment.branches
    config = experiment.reducer
    if isinstance(config, Summary):
        config = weights.summary_of(state, config)
        found = weights.part_of(state, weights.SUMMARY).get("query_s")
        if found is not None and found.shape[1] != config.num_queries:
            raise UserError(
                f"{source} was trained with {found.shape[1]} queries, {experiment.name} asks for {config.num_queries}: "
                "their number is learned; ask it at level 1 with the number that it was trained with, or train another "
                "one"
            )
    return build_reducer(config, branch.width)


def _load_reducer(reducer: nn.Module, state: State, path: Path) -> None:
    """Of a file with a summary, whose experiment has a reducer that learns nothing, the summary is left out."""
    if reducer.reducer.learns:
        load_exactly(reducer, weights.part_of(state, weights.SUMMARY), f"of the summary in {path}")


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
