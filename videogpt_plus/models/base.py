"""What all model families are: a causal LLM that reads text with visual tokens where its placeholders stand.

A model has an LLM and feeds it `inputs_embeds`; LoRA wraps that LLM and nothing else. Each branch (an entry of
`branches`) is a frozen encoder, a projector and a reducer.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from videogpt_plus.config.experiment import Branch, Experiment, Lora
from videogpt_plus.config.options import GREEDY, GenerationConfig
from videogpt_plus.io.run_weights import projector_key, projector_part, read_projectors, reducer_key, reducer_part
from videogpt_plus.io.runs import FINISHED
from videogpt_plus.io.tensors import load_exactly
from videogpt_plus.models import lora as loras
from videogpt_plus.models.generation import Generated, Reading, generate, stream
from videogpt_plus.reducers import build_reducer
from videogpt_plus.text.splice import Merged, VisualTokens, splice
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

if TYPE_CHECKING:
    from videogpt_plus.clips.cache import GridCache
    from videogpt_plus.encoders.grid import GridEncoder

#: A token that is one byte; several of them are a character, or none.
BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: Branch name -> Float "t h w d" of one visual.
Grids = Mapping[str, Tensor]


class VisionLM(nn.Module):
    """Visuals and text in, loss or text out. Branches stand in token order: the reference's image comes first."""

    #: Layers of the LLM that a LoRA wraps: names, or a pattern of whole names; and what PEFT takes the LLM for.
    lora_targets: list[str] | str = loras.TARGETS
    lora_task: str | None = "CAUSAL_LM"

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        encoders: Mapping[str, GridEncoder] | None = None,
        projectors: Mapping[str, nn.Module] | None = None,
        reducers: Mapping[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.llm = llm.requires_grad_(False)
        #: Where `encode` keeps grids.
        self.store: GridCache | None = None
        #: Name of this model's LoRA in an LLM that it shares with others; None where it has the LLM to itself.
        self.shared_lora: str | None = None
        self.tokenizer = tokenizer
        self.encoders = nn.ModuleDict(encoders or {})
        self.projectors = nn.ModuleDict(projectors or {})
        self.reducers = nn.ModuleDict(reducers or {})

    @property
    def device(self) -> torch.device:
        return self.llm.device

    @property
    def reads(self) -> int | None:
        """Tokens that the LLM was made to read at most, visual ones and answer included; None where nothing says so."""
        config = self.causal.config
        return getattr(getattr(config, "text_config", config), "max_position_embeddings", None)

    @torch.no_grad()
    def encode(self, visuals: Sequence[Visual]) -> list[dict[str, Float[Tensor, "t h w d"]]]:
        """Each visual's grid of every stream, before projection. Equal shapes share one forward pass.

        What has no grids yet and has a key is kept in the store, if there is one, and comes back as the store has it.
        """
        grids: list[dict[str, Tensor]] = [{} for _ in visuals]
        kept = [i for i, visual in enumerate(visuals) if self.store and visual.key and not visual.grids]
        for name, encoder in self.encoders.items():
            alike: dict[tuple[torch.Size, int | None], list[int]] = defaultdict(list)
            for i, visual in enumerate(visuals):
                if name not in visual.grids:
                    # What is kept must not depend on its neighbours in a batch, so it passes alone.
                    alike[visual.pixels[name].shape, i if i in kept else None].append(i)
            weight = next(encoder.parameters())
            for members in alike.values():
                pixels = torch.stack([visuals[i].pixels[name] for i in members])
                for i, grid in zip(members, encoder(pixels.to(weight.device, weight.dtype)), strict=True):
                    grids[i][name] = grid
        stored = {i: visual.grids for i, visual in enumerate(visuals)}
        stored |= {i: self.store.write(visuals[i].key, grids[i]) for i in kept}
        for i, own in stored.items():
            for name in own.keys() & self.encoders.keys():
                weight = next(self.encoders[name].parameters())
                grids[i][name] = own[name].to(weight.device, weight.dtype)
        return grids

    def visual_tokens(self, grids: Grids) -> Float[Tensor, "n d"]:
        """One visual's tokens: each stream's grid projected, then reduced; stream after stream."""
        return self.tokens_of([grids])[0]

    def tokens_of(self, grids: Sequence[Grids]) -> list[Float[Tensor, "n d"]]:
        """Each visual's tokens. A projector is called once for all patches: ZeRO-3 wants equal calls everywhere."""
        tokens: list[list[Tensor]] = [[] for _ in grids]
        for name, projector in self.projectors.items():
            own = [grid[name] for grid in grids]
            patches = torch.cat([grid.flatten(0, 2) for grid in own])
            projected = projector(patches.to(self.device, _dtype(projector, patches.dtype)))
            for i, part in enumerate(projected.split([grid.shape[:3].numel() for grid in own])):
                tokens[i].append(self.reducers[name](part.unflatten(0, own[i].shape[:3])[None])[0])
        return [torch.cat(own) for own in tokens]

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
        loss_only: bool = False,
    ) -> CausalLMOutputWithPast:
        """Loss (mean cross-entropy over supervised tokens) and logits Float "b s v" of a right-padded batch.

        `loss_only` computes logits where there is a label alone and returns none: over 3,328 visual tokens a head of
        151,936 rows costs 2 GB in float32 for nothing.
        """
        merged = self.merge(input_ids, attention_mask, labels, visuals)
        # No mask: padding stands behind every real position, which causal attention never looks at. A dense mask
        # would only keep the fast attention kernels away.
        if not loss_only:
            return self.llm(inputs_embeds=merged.inputs_embeds, labels=merged.labels)
        hidden = self.causal.model(inputs_embeds=merged.inputs_embeds).last_hidden_state
        following = merged.labels[:, 1:]
        supervised = following != IGNORE
        logits = self.causal.lm_head(hidden[:, :-1][supervised])
        return CausalLMOutputWithPast(loss=cross_entropy(logits.float(), following[supervised]))

    @property
    def causal(self) -> PreTrainedModel:
        """The LLM itself, with LoRA's layers in it where there are any."""
        return self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm

    def merge(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
    ) -> Merged:
        """What the LLM gets for a batch: text embeddings with visual tokens where the placeholders stood."""
        flat = [visual for sample in visuals for visual in sample]
        # In training a batch of text alone goes the same way with a blank image, of which nothing is kept: ZeRO
        # joins the gradients of all processes in the order of their arrival, which must be the same on each.
        blank = self.training and not flat
        if blank:
            flat = [Visual({n: torch.zeros(1, 3, e.pixels, e.pixels) for n, e in self.encoders.items()}, 1)]
        tokens = self.tokens_of(self.encode(flat)) if flat else []
        input_ids, attention_mask, labels = (x.to(self.device) for x in (input_ids, attention_mask, labels))
        # Placeholders are negative: any row of the table stands in for them, and is not read.
        text = self.llm.get_input_embeddings()(input_ids.clamp(min=0))
        if blank:
            text = text + 0 * tokens[0].sum()
        rest = iter(tokens)
        spliced = [[VisualTokens(next(rest), visual.placeholders) for visual in sample] for sample in visuals]
        return splice(text, input_ids, attention_mask, labels, spliced)

    def generate(
        self, prompts: Sequence[Sequence[int]], visuals: Sequence[Sequence[Visual]], max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to prompts of ids, up to one of `ends` or `max_new_tokens`; as many as prompts."""
        return [self.text_of(ids) for ids in self.generate_ids(prompts, visuals, max_new_tokens)]

    @torch.inference_mode()
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], visuals: Sequence[Sequence[Visual]], max_new_tokens: int
    ) -> list[list[int]]:
        """The ids of those answers, with the one of `ends` if it came."""
        rest = iter(self.encode([visual for sample in visuals for visual in sample]))
        grids = [[(next(rest), visual.placeholders) for visual in sample] for sample in visuals]
        asked = [([prompt], shown) for prompt, shown in zip(prompts, grids, strict=True)]
        return [answer.ids for (answer,) in self.answer(asked, max_new_tokens)]

    @torch.inference_mode()
    def answer(
        self,
        asked: Sequence[tuple[Sequence[Sequence[int]], Sequence[tuple[Grids, int]]]],
        max_new_tokens: int,
        options: Sequence[tuple[int, ...]] | None = None,
    ) -> list[list[Generated]]:
        """What `generation.generate` gives for prompts of ids about grids that are there already.

        `asked` holds for each group of visuals, mostly one clip, the prompts that begin with it, and the grids with
        the number of placeholders that stand for each. Ids beyond the vocabulary are never chosen.
        """
        self.activate()
        shown = [grids for _, visuals in asked for grids, _ in visuals]
        tokens = iter(self.tokens_of(shown) if shown else [])
        readings = [
            self._reading(prompts, [VisualTokens(next(tokens), placeholders) for _, placeholders in visuals])
            for prompts, visuals in asked
        ]
        # Rows beyond the vocabulary mean nothing; the reference cuts them off before it answers.
        return generate(self.causal, readings, max_new_tokens, self.ends, self.vocabulary, options)

    @torch.inference_mode()
    def stream_ids(
        self,
        prompt: Sequence[int],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        generation_config: GenerationConfig = GREEDY,
    ) -> Iterator[int]:
        """The ids of the answer to a prompt of ids, one by one; see `generation.stream`."""
        self.activate()
        tokens = self.tokens_of(self.encode(visuals)) if visuals else []
        shown = [VisualTokens(own, visual.placeholders) for own, visual in zip(tokens, visuals, strict=True)]
        reading = self._reading([prompt], shown)
        yield from stream(self.causal, reading, max_new_tokens, self.ends, self.vocabulary, generation_config, prompt)

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come, in pieces of whole characters; together they are the ids' `text_of`."""
        said: list[int] = []
        told = 0
        for token in ids:
            said.append(token)
            if BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(token)) or not self.text_of([token]):
                continue  # the next one may make another character of those before it, or none
            # Half a character reads as U+FFFD until the rest of it comes, and space at the end does not belong to it.
            text = self.text_of(said).rstrip("\ufffd").rstrip()
            if len(text) > told:
                yield text[told:]
                told = len(text)
        if rest := self.text_of(said)[told:]:
            yield rest

    @property
    def vocabulary(self) -> int:
        """The first id that no answer can hold."""
        return len(self.tokenizer)

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        return [self.tokenizer.eos_token_id]

    def _reading(self, prompts: Sequence[Sequence[int]], visuals: Sequence[VisualTokens]) -> Reading:
        """Embeddings of what the prompts share, up to their last placeholder, and of what each goes on with."""
        ids = torch.tensor(prompts[0], dtype=torch.long)
        placed = (ids == PLACEHOLDER).nonzero().flatten().tolist()
        shared = placed[-1] + 1 if placed else 0
        assert all(list(p[:shared]) == list(prompts[0][:shared]) for p in prompts), "prompts begin differently"
        head = ids[None, :shared].to(self.device)
        embed = self.llm.get_input_embeddings()
        everything = torch.ones_like(head, dtype=torch.bool)
        prefix = splice(embed(head.clamp(min=0)), head, everything, head, [visuals]).inputs_embeds[0]
        return Reading(prefix, [embed(torch.tensor(p[shared:], device=self.device)) for p in prompts])

    def text_of(self, ids: Sequence[int]) -> str:
        """An answer as text, without special tokens."""
        # Cleaning up would take spaces that an answer has, and transformers 5 ignores a tokenizer that asks for it.
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def option_tokens(self, texts: Sequence[str] | None = None) -> list[tuple[int, ...]]:
        """The first ids of the texts, `(A)` to `(Z)` unless told, as many as tell each from all others."""
        texts = texts or [f"({letter})" for letter in string.ascii_uppercase]
        options = [tuple(self.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        begun = Counter(option[: i + 1] for option in options for i in range(len(option)))
        return [next(o[: i + 1] for i in range(len(o)) if begun[o[: i + 1]] == 1) for o in options]

    def activate(self) -> None:
        """Switches a shared LLM to this model's LoRA."""
        if self.shared_lora is not None and self.llm.active_adapter != self.shared_lora:
            self.llm.set_adapter(self.shared_lora, inference_mode=True)

    def projector_state(self) -> dict[str, Tensor]:
        """The projectors' tensors under the reference's names, `mm_projector.0.weight` and so on; and those of
        reducers that learn, `mm_adapter.query_s` and so on.
        """
        return {
            f"{named(name)}.{key}": value
            for named, parts in ((projector_key, self.projectors), (reducer_key, self.reducers))
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }

    # ---------------------------------------------------------------------------------------- its own parts
    def build_projectors(self, experiment: Experiment) -> dict[str, nn.Module]:
        """Projectors of the experiment's branches by name, with random weights."""
        raise NotImplementedError

    def build_reducers(self, experiment: Experiment) -> dict[str, nn.Module]:
        """Reducers of the experiment's branches by name. UserError: one learns, and the family has no place for it."""
        return {name: build_reducer(experiment.reducer) for name, _ in experiment.branches}

    def has_own_projectors(self, run_dir: str | Path) -> bool:
        """Whether a run folder holds projectors to load."""
        return has_projectors(run_dir)

    def sibling(self, experiment: Experiment, run_dir: str | Path) -> Self:
        """The model of another run on the same LLM: it shares all but the reducers and what `load_run` loads."""
        model = self._sharing(experiment)
        if self.has_own_projectors(run_dir):
            fresh = self.build_projectors(experiment)
            dtypes = {name: _dtype(old, torch.float32) for name, old in self.projectors.items()}
            model.projectors = nn.ModuleDict({n: own.to(self.device, dtypes[n]) for n, own in fresh.items()})
        model.reducers.to(self.device)
        return model

    def _sharing(self, experiment: Experiment) -> Self:
        reducers = self.build_reducers(experiment)
        return type(self)(self.llm, self.tokenizer, self.encoders, self.projectors, reducers)

    def load_run(self, run_dir: str | Path) -> None:
        """Loads what was trained into a run folder, LoRA apart. UserError: keys and shapes differ."""
        if self.has_own_projectors(run_dir):
            self.load_projectors(run_dir)
            self.load_reducers(run_dir)

    def load_projectors(self, folder: str | Path, streams: Sequence[str] | None = None) -> None:
        """Loads the projectors of `streams` (all unless told) from a run or pre-training folder.

        UserError: the folder has no projectors, or keys and shapes differ.
        """
        state = read_projectors(folder)
        for name in streams or self.projectors:
            own = projector_part(state, name)
            load_exactly(self.projectors[name], own, source=f"of the {name} projector in {folder}")

    def load_reducers(self, folder: str | Path) -> None:
        """Loads the reducers of a run folder, where they learn.

        UserError: keys and shapes differ, or the folder has tensors of a reducer that has none here.
        """
        state = read_projectors(folder)
        for name, reducer in self.reducers.items():
            load_exactly(reducer, reducer_part(state, name), source=f"of the {name} reducer in {folder}")

    # ---------------------------------------------------------------------------------------- LoRA
    def add_lora(self, lora: Lora) -> None:
        """Wraps the LLM in a fresh, trainable LoRA."""
        self.llm = loras.wrap(self.llm, lora, self.lora_targets, self.lora_task)

    def load_lora(self, folder: str | Path, merge: bool, name: str = "default") -> None:
        """The LoRA of a run folder (PEFT's files): merged into the LLM, or kept apart and trainable.

        An LLM takes several, each under a `name` of its own. UserError: files are missing, or keys differ from those
        that the LoRA's config makes.
        """
        llm = loras.load(self.llm, folder, name, len(self.tokenizer), shared=self.shared_lora is not None)
        self.llm = llm.merge_and_unload().requires_grad_(False) if merge else llm

    # ---------------------------------------------------------------------------------------- where it computes
    @property
    def layers(self) -> Sequence[nn.Module]:
        """The LLM's layers: they keep keys and values, and their weights may have fewer bits."""
        raise NotImplementedError

    def undivided(self) -> list[nn.Module]:
        """Modules that compute on one device as a whole: blocks of the encoders, projectors, layers of the LLM."""
        blocks = [block for encoder in self.encoders.values() for block in encoder.blocks]
        return [*blocks, *self.projectors.values(), *self.layers]


def _dtype(projector: nn.Module, usual: torch.dtype) -> torch.dtype:
    """What the projector computes in; `identity` has no weights and takes what comes."""
    return next((p.dtype for p in projector.parameters()), usual)


def has_projectors(run_dir: str | Path) -> bool:
    """Whether a run folder holds trained projectors; one that trained a LoRA alone has a file with none in it."""
    return (Path(run_dir) / FINISHED).exists() and bool(read_projectors(run_dir))


def only_stream(experiment: Experiment) -> tuple[str, Branch]:
    """The name of the experiment's stream, and the stream. UserError: it has several."""
    if len(experiment.branches) > 1:
        raise UserError(
            f"experiment '{experiment.name}' has {len(experiment.branches)} streams, the family {experiment.family} "
            "has one: leave the others out"
        )
    return experiment.branches[0]
