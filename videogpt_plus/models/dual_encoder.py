"""VideoGPT+: two frozen encoders, a projector and a reducer each, and a Qwen2 that reads their tokens.

The model has a `Qwen2ForCausalLM` and feeds it `inputs_embeds`; LoRA wraps that LLM and nothing else.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from videogpt_plus.config.experiment import Branch, Experiment, Lora
from videogpt_plus.config.options import GREEDY, GenerationConfig
from videogpt_plus.encoders import load_encoder
from videogpt_plus.io.files import located, read_object, require
from videogpt_plus.io.model_folders import TOKENIZER_FILES, read_folder, require_folder, values_of, weight_files
from videogpt_plus.io.run_weights import (
    projector_key,
    projector_part,
    read_adapter,
    read_projectors,
    reducer_key,
    reducer_part,
)
from videogpt_plus.io.tensors import check_fit, load_exactly
from videogpt_plus.models.generation import Generated, Reading, generate, stream
from videogpt_plus.models.projectors import build_projector
from videogpt_plus.models.shared_llm import has_lora
from videogpt_plus.models.silence import quiet
from videogpt_plus.reducers import build_reducer
from videogpt_plus.text.splice import Merged, VisualTokens, splice
from videogpt_plus.text.tokenizer import read_tokenizer
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

if TYPE_CHECKING:
    from videogpt_plus.clips.cache import GridCache
    from videogpt_plus.encoders.grid import GridEncoder

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
END_OF_TURN = "<|im_end|>"
#: A token that is one byte; several of them are a character, or none.
BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: Branch name -> Float "t h w d" of one visual.
Grids = Mapping[str, Tensor]


class Reducers(nn.ModuleDict):
    """Each branch's reducer, by name."""

    def forward(self, name: str, grids: Sequence[Float[Tensor, "t h w d"]]) -> list[Float[Tensor, "n d"]]:
        """The tokens of each grid. One call for all visuals of a batch: ZeRO-3 wants equal calls everywhere."""
        return [self[name](grid[None])[0] for grid in grids]


class DualEncoderVLM(nn.Module):
    """Visuals and text in, loss or text out. Streams stand in token order: the reference's image comes first."""

    #: Layers of the LLM that a LoRA wraps: names, or a pattern of whole names; and what PEFT takes the LLM for.
    lora_targets: list[str] | str = LORA_TARGETS
    lora_task: str | None = "CAUSAL_LM"

    def __init__(
        self,
        llm: Qwen2ForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        encoders: Mapping[str, GridEncoder],
        projectors: Mapping[str, nn.Module],
        reducers: Mapping[str, nn.Module],
    ):
        super().__init__()
        self.llm = llm.requires_grad_(False)
        #: Where `encode` keeps grids.
        self.store: GridCache | None = None
        #: Name of this model's LoRA in an LLM that it shares with others; None where it has the LLM to itself.
        self.shared_lora: str | None = None
        self.tokenizer = tokenizer
        self.encoders = nn.ModuleDict(encoders)
        self.projectors = nn.ModuleDict(projectors)
        self.reducers = Reducers(reducers)

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
            projected = projector(patches.to(self.device, _dtype(projector, patches)))
            parts = projected.split([grid.shape[:3].numel() for grid in own])
            parts = [part.unflatten(0, grid.shape[:3]) for part, grid in zip(parts, own, strict=True)]
            for i, reduced in enumerate(self.reducers(name, parts)):
                tokens[i].append(reduced)
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
    def causal(self) -> Qwen2ForCausalLM:
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
        """Greedy answers to prompts of ids, up to `<|im_end|>` or `max_new_tokens`; as many as prompts."""
        return [self.text_of(ids) for ids in self.generate_ids(prompts, visuals, max_new_tokens)]

    @torch.inference_mode()
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], visuals: Sequence[Sequence[Visual]], max_new_tokens: int
    ) -> list[list[int]]:
        """The ids of those answers, with their `<|im_end|>` if it came."""
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
        return [self.tokenizer.convert_tokens_to_ids(END_OF_TURN)]

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

    def add_lora(self, lora: Lora) -> None:
        """Wraps the LLM in a fresh, trainable LoRA."""
        from peft import LoraConfig, get_peft_model  # takes seconds to import

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=self.lora_targets,
            task_type=self.lora_task,
        )
        with quiet():
            self.llm = get_peft_model(self.llm, config)

    def load_lora(self, folder: str | Path, merge: bool, name: str = "default") -> None:
        """The adapter of a run folder (PEFT's files): merged into the LLM, or beside it and trainable.

        An LLM takes several beside it, each under a `name` of its own. UserError: files are missing, or keys differ
        from those that the adapter's config makes.
        """
        from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict

        file, state = read_adapter(folder)
        described = require(Path(folder) / "adapter_config.json", "LoRA config")
        if read_object(described, "copy the file again").get("peft_type") != "LORA":
            raise UserError(f"{described} describes no LoRA adapter: its 'peft_type' must be LORA; name another folder")
        self._take_embeddings(file, state)
        with values_of(described, "copy the file again"), quiet():
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = False
            config.base_model_name_or_path = None  # the LLM's path when it was trained, of which peft would warn
            llm = self.llm
            if isinstance(llm, PeftModel):
                llm.add_adapter(name, config)
            else:
                llm = get_peft_model(llm, config, adapter_name=name)
        own = _adapter_state(llm, name)
        check_fit(
            file,
            missing=own.keys() - state.keys(),
            unexpected=state.keys() - own.keys(),
            shapes=[
                f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
                for k in own.keys() & state.keys()
                if own[k].shape != state[k].shape
            ],
        )
        set_peft_model_state_dict(llm, state, adapter_name=name)
        self.llm = llm.merge_and_unload().requires_grad_(False) if merge else llm

    def _take_embeddings(self, file: Path, state: dict[str, Tensor]) -> None:
        """Moves the embedding tables that PEFT writes beside a LoRA of a resized vocabulary from `state` to the LLM.

        The reference cuts the table to its tokenizer's length before it trains, ours keeps the LLM's: the rows
        behind stand for no token, and are never read or chosen.
        """
        tables = {
            "base_model.model.model.embed_tokens.weight": self.llm.get_input_embeddings().weight,
            "base_model.model.lm_head.weight": self.llm.get_output_embeddings().weight,
        }
        for key, table in tables.items():
            if key not in state:
                continue
            if self.shared_lora is not None:
                raise UserError(f"{file} brings embeddings of its own, and the LLM is shared: answer this run alone")
            rows, entries = state.pop(key), len(self.tokenizer)
            if not entries <= len(rows) <= len(table) or rows.shape[1:] != table.shape[1:]:
                raise UserError(
                    f"{file}: {key} {tuple(rows.shape)} does not fit a tokenizer of {entries} entries and the LLM's "
                    f"table {tuple(table.shape)}; name the LLM that the adapter was trained on"
                )
            table.data[: len(rows)] = rows


def _adapter_state(llm: nn.Module, name: str) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # Told not to, for PEFT would ask the Hub whether the vocabulary was resized.
    return get_peft_model_state_dict(llm, adapter_name=name, save_embedding_layers=False)


def _dtype(projector: nn.Module, grid: Tensor) -> torch.dtype:
    """What the projector computes in; `identity` has no weights and takes the grid as it is."""
    return next((p.dtype for p in projector.parameters()), grid.dtype)


def load(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None,
    encoders: Mapping[str, GridEncoder] | None = None,
) -> DualEncoderVLM:
    """See `models.load_model`; with `encoders` that are loaded already."""
    chosen = _chosen_streams(experiment, streams)
    llm = _load_llm(experiment.llm, device, dtype)
    tokenizer = load_tokenizer(experiment.llm, run_dir)
    if len(tokenizer) > (rows := llm.get_input_embeddings().weight.shape[0]):
        raise UserError(
            f"LLM in {experiment.llm} has embeddings for {rows} tokens, its tokenizer {len(tokenizer)} entries: "
            "name the folder that holds both as published"
        )
    width = llm.config.hidden_size
    model = DualEncoderVLM(
        llm,
        tokenizer,
        encoders=encoders or {name: load_encoder(stream, device, dtype) for name, stream in chosen.items()},
        **_own_parts(experiment, chosen, width),
    )
    if run_dir is not None:
        model.load_projectors(run_dir)
        model.load_reducers(run_dir)
        if has_lora(run_dir):
            model.load_lora(run_dir, merge=True)
    return model.to(device).eval()


def load_beside(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
) -> list[DualEncoderVLM]:
    """See `models.load_models`."""
    first, shared = runs[0][0], len(runs) > 1
    for experiment, folder in runs:
        if (experiment.branches, experiment.sampling) != (first.branches, first.sampling):
            raise UserError(f"{folder} and {runs[0][1]} see clips differently: answer them one after the other")
        if shared and not has_lora(folder):
            raise UserError(f"{folder} has no LoRA adapter to share an LLM with others by: answer it alone")
    encoders = {name: load_encoder(stream, device, encoder_dtype) for name, stream in first.branches}
    bases: dict[str, DualEncoderVLM] = {}
    models = []
    for number, (experiment, folder) in enumerate(runs):
        if experiment.llm not in bases:
            bases[experiment.llm] = load(experiment, None, device, dtype, None, encoders)
        base = bases[experiment.llm]
        tokenizer = load_tokenizer(experiment.llm, folder)
        parts = _own_parts(experiment, dict(experiment.branches), base.llm.config.hidden_size)
        model = DualEncoderVLM(base.llm, tokenizer, encoders, **parts)
        model.load_projectors(folder)
        model.load_reducers(folder)
        if has_lora(folder):
            model.shared_lora = f"run{number}" if shared else None
            model.load_lora(folder, merge=False, name=f"run{number}")
            base.llm = model.llm
        models.append(model)
    # In the LLM's dtype, where PEFT holds an adapter in float32 to train it.
    for model in models:
        model.llm.to(dtype)
        model.requires_grad_(False).to(device).eval()
    return models


def _own_parts(experiment: Experiment, branches: Mapping[str, Branch], width: int) -> dict[str, dict[str, nn.Module]]:
    """What is an experiment's own beside LoRA: projectors into an LLM of `width`, and reducers."""
    return {
        "projectors": {name: build_projector(b.projector, b.width, width) for name, b in branches.items()},
        "reducers": {name: build_reducer(experiment.reducer, width) for name in branches},
    }


def _chosen_streams(experiment: Experiment, names: Sequence[str] | None) -> dict[str, Branch]:
    streams = dict(experiment.branches)
    unknown = set(names or ()) - streams.keys()
    if unknown:
        raise UserError(f"unknown stream {sorted(unknown)[0]!r}; choose from: {', '.join(streams)}")
    return {name: stream for name, stream in streams.items() if names is None or name in names}


def _load_llm(folder: str | Path, device: str | torch.device, dtype: torch.dtype) -> Qwen2ForCausalLM:
    """Qwen2 on the CPU, or on "meta" if that is `device`, from a Hugging Face folder."""
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
            device_map="meta" if torch.device(device).type == "meta" else None,
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


def load_tokenizer(llm: str | Path, run_dir: str | Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer that the run was trained with, where its folder has one; else the LLM's."""
    folder = located(llm)
    if not (folder / "vocab.json").exists():  # of either; without both transformers makes an empty tokenizer
        require(folder / "tokenizer.json", "LLM folder's tokenizer")
    if run_dir is not None and any((Path(run_dir) / name).exists() for name in ("tokenizer.json", "vocab.json")):
        folder = Path(run_dir)
        for name in TOKENIZER_FILES:
            if name.endswith(".json") and (folder / name).exists():
                read_object(folder / name, "copy the LLM's again")
    return read_tokenizer(folder, "download its files again")
