"""VideoGPT+: two frozen encoders, a projector and an adapter each, and a Qwen2 that reads their tokens.

The model has a `Qwen2ForCausalLM` and feeds it `inputs_embeds`; LoRA wraps that LLM and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from videogpt_plus.adapters import build_adapter
from videogpt_plus.checkpoint import (
    check_fit,
    load_exactly,
    projector_key,
    read_object,
    read_projectors,
    read_tensors,
    require,
    require_folder,
)
from videogpt_plus.configs import Experiment, Lora, Stream
from videogpt_plus.encoders import load_encoder
from videogpt_plus.merge import Merged, VisualTokens, splice
from videogpt_plus.models.quiet import quiet
from videogpt_plus.projectors import build_projector
from videogpt_plus.types import IGNORE, UserError, Visual

if TYPE_CHECKING:
    from videogpt_plus.encoders.grid import GridEncoder

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
END_OF_TURN = "<|im_end|>"

#: Stream name -> Float "t h w d" of one visual.
Grids = Mapping[str, Tensor]


class DualEncoderVLM(nn.Module):
    """Visuals and text in, loss or text out. Streams stand in token order: the reference's image comes first."""

    def __init__(
        self,
        llm: Qwen2ForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        encoders: Mapping[str, GridEncoder],
        projectors: Mapping[str, nn.Module],
        adapters: Mapping[str, nn.Module],
    ):
        super().__init__()
        self.llm = llm.requires_grad_(False)
        # The folder's own settings sample and penalise repetition, and would fill what `_greedy` leaves unset.
        self.llm.generation_config = GenerationConfig()
        self.tokenizer = tokenizer
        self.encoders = nn.ModuleDict(encoders)
        self.projectors = nn.ModuleDict(projectors)
        self.adapters = nn.ModuleDict(adapters)

    @property
    def device(self) -> torch.device:
        return self.llm.device

    @torch.no_grad()
    def encode(self, visuals: Sequence[Visual]) -> list[dict[str, Float[Tensor, "t h w d"]]]:
        """Each visual's grid of every stream, before projection. Equal shapes share one forward pass."""
        grids: list[dict[str, Tensor]] = [{} for _ in visuals]
        for name, encoder in self.encoders.items():
            alike: dict[torch.Size, list[int]] = defaultdict(list)
            for i, visual in enumerate(visuals):
                alike[visual.pixels[name].shape].append(i)
            weight = next(encoder.parameters())
            for members in alike.values():
                pixels = torch.stack([visuals[i].pixels[name] for i in members])
                for i, grid in zip(members, encoder(pixels.to(weight.device, weight.dtype)), strict=True):
                    grids[i][name] = grid
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
            for i, part in enumerate(projected.split([grid.shape[:3].numel() for grid in own])):
                tokens[i].append(self.adapters[name](part.unflatten(0, own[i].shape[:3])[None])[0])
        return [torch.cat(streams) for streams in tokens]

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
    ) -> CausalLMOutputWithPast:
        """Loss (mean cross-entropy over supervised tokens) and logits Float "b s v" of a right-padded batch."""
        merged = self.merge(input_ids, attention_mask, labels, visuals)
        # No mask: padding stands behind every real position, which causal attention never looks at. A dense mask
        # would only keep the fast attention kernels away.
        return self.llm(inputs_embeds=merged.inputs_embeds, labels=merged.labels)

    def merge(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Bool[Tensor, "b l"],
        labels: Int[Tensor, "b l"],
        visuals: Sequence[Sequence[Visual]],
        padding_side: str = "right",
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
        return splice(text, input_ids, attention_mask, labels, spliced, padding_side)

    def generate(
        self, prompts: Sequence[Sequence[int]], visuals: Sequence[Sequence[Visual]], max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to prompts of ids, up to `<|im_end|>` or `max_new_tokens`; as many as prompts."""
        answers = self.generate_ids(prompts, visuals, max_new_tokens)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.inference_mode()
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], visuals: Sequence[Sequence[Visual]], max_new_tokens: int
    ) -> Int[Tensor, "b l"]:
        """The ids of those answers with their `<|im_end|>`, the pad token behind them."""
        ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        merged = self.merge(ids, mask, torch.full_like(ids, IGNORE), visuals, padding_side="left")
        return self.llm.generate(
            inputs_embeds=merged.inputs_embeds,
            attention_mask=merged.attention_mask,
            generation_config=self._greedy(max_new_tokens),
        )

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        """The most likely token at each step, without penalties; ids beyond the vocabulary are never chosen."""
        rows = self.llm.get_output_embeddings().weight.shape[0]
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.convert_tokens_to_ids(END_OF_TURN),
            pad_token_id=self.tokenizer.pad_token_id,
            # Rows beyond the vocabulary mean nothing; the reference cuts them off before it answers.
            suppress_tokens=list(range(len(self.tokenizer), rows)) or None,
        )

    def projector_state(self) -> dict[str, Tensor]:
        """The projectors' tensors under the reference's names, `mm_projector.0.weight` and so on."""
        return {
            f"{projector_key(name)}.{key}": value
            for name, projector in self.projectors.items()
            for key, value in projector.state_dict().items()
        }

    def load_projectors(self, folder: str | Path, streams: Sequence[str] | None = None) -> None:
        """Loads the projectors of `streams` (all unless told) from a run or pre-training folder.

        UserError: the folder has no projectors, or keys and shapes differ.
        """
        state = read_projectors(folder)
        for name in streams or self.projectors:
            prefix = f"{projector_key(name)}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            load_exactly(self.projectors[name], own, source=f"of the {name} projector in {folder}")

    def add_lora(self, lora: Lora) -> None:
        """Wraps the LLM in a fresh, trainable LoRA."""
        from peft import LoraConfig, get_peft_model  # takes seconds to import

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        )
        with quiet():
            self.llm = get_peft_model(self.llm, config)

    def load_lora(self, folder: str | Path, merge: bool) -> None:
        """The adapter of a run folder (PEFT's files): merged into the LLM, or beside it and trainable.

        UserError: files are missing, or keys differ from those that the adapter's config makes.
        """
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

        file = require(Path(folder) / "adapter_model.safetensors", "LoRA adapter")
        read_object(require(Path(folder) / "adapter_config.json", "LoRA config"), "copy the file again")
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        with quiet():
            llm = get_peft_model(self.llm, config)
        state = read_tensors(file)
        own = _adapter_state(llm)
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
        set_peft_model_state_dict(llm, state)
        self.llm = llm.merge_and_unload().requires_grad_(False) if merge else llm


def _adapter_state(llm: nn.Module) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(llm)


def _dtype(projector: nn.Module, grid: Tensor) -> torch.dtype:
    """What the projector computes in; `identity` has no weights and takes the grid as it is."""
    return next((p.dtype for p in projector.parameters()), grid.dtype)


def load(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None,
) -> DualEncoderVLM:
    """See `models.load_model`."""
    chosen = _chosen_streams(experiment, streams)
    llm, tokenizer = _load_llm(experiment.llm, dtype)
    width = llm.config.hidden_size
    model = DualEncoderVLM(
        llm,
        tokenizer,
        encoders={name: load_encoder(stream, device, dtype) for name, stream in chosen.items()},
        projectors={name: build_projector(s.projector, s.width, width) for name, s in chosen.items()},
        adapters={name: build_adapter(experiment.adapter, experiment.level) for name in chosen},
    )
    if run_dir is not None:
        model.load_projectors(run_dir)
        # Either: one of the two alone is a run folder that lost a file, not a model without LoRA.
        if any((Path(run_dir) / name).exists() for name in ("adapter_config.json", "adapter_model.safetensors")):
            model.load_lora(run_dir, merge=True)
    return model.to(device).eval()


def _chosen_streams(experiment: Experiment, names: Sequence[str] | None) -> dict[str, Stream]:
    streams = dict(experiment.streams)
    unknown = set(names or ()) - streams.keys()
    if unknown:
        raise UserError(f"unknown stream {sorted(unknown)[0]!r}; choose from: {', '.join(streams)}")
    return {name: stream for name, stream in streams.items() if names is None or name in names}


def _load_llm(folder: str | Path, dtype: torch.dtype) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerBase]:
    """Qwen2 and its tokenizer from a Hugging Face folder."""
    folder = require_folder(folder, "LLM folder")
    kind = read_object(folder / "config.json", "download it again").get("model_type")
    if kind != "qwen2":
        raise UserError(f"LLM in {folder} is a '{kind}', not a 'qwen2'; name a folder of Qwen2 or Qwen2.5")
    if not (folder / "vocab.json").exists():  # of either; without both transformers makes an empty tokenizer
        require(folder / "tokenizer.json", "LLM folder's tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        llm, info = Qwen2ForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with the other lists
        )
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the LLM in {folder}: {reason}; download it again") from error
    shapes = [f"{key} {tuple(there)} instead of {tuple(own)}" for key, there, own in info["mismatched_keys"]]
    check_fit(folder, info["missing_keys"], info["unexpected_keys"], shapes)
    return llm, tokenizer
