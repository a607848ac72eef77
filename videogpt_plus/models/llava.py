"""LLaVA-1.5 on transformers' own `LlavaForConditionalGeneration`: its tower is the encoder, its projector takes every
patch, and what is left of it is the language model.

The published weights are level 1: 576 tokens a picture. Any other level is the same weights with fewer tokens, and
needs no training. Frames of a video are pictures one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration
from transformers import PreTrainedTokenizerBase as Tokenizer

from videogpt_plus.adapters import build_adapter
from videogpt_plus.checkpoint import ADAPTER_FILES, load_exactly, read_object, require, values_of
from videogpt_plus.configs import Experiment, Stream
from videogpt_plus.encoders import load_encoder
from videogpt_plus.encoders.clip_llava import read_config, read_part
from videogpt_plus.models.dual_encoder import DualEncoderVLM
from videogpt_plus.types import UserError


class Llava(DualEncoderVLM):
    """One stream of pictures. `llm` is transformers' model, whose tower and projector stand in `encoders` and
    `projectors` instead.
    """

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        return [self.tokenizer.eos_token_id]

    @property
    def vocabulary(self) -> int:
        """Ids from here on stand for pictures and padding, or for nothing."""
        return min(len(self.tokenizer), self.causal.config.image_token_index)


def load(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None = None,
    encoder_dtype: torch.dtype | None = None,
) -> Llava:
    """See `models.load_model`. The weights are a published folder as it is, with keys of any spelling.

    The encoder computes in `encoder_dtype`, which is `dtype` where none is named.
    """
    name, stream = _only_stream(experiment, streams)
    meta = torch.device(device).type == "meta"
    llm, projector = _load_parts(experiment.llm, dtype, meta)
    if projector.linear_1.in_features != stream.width:
        raise UserError(
            f"LLaVA in {experiment.llm} projects features of width {projector.linear_1.in_features}, the experiment's "
            f"stream says {stream.width}; name other weights or correct the stream"
        )
    model = Llava(
        llm,
        load_tokenizer(experiment.llm),
        {name: load_encoder(stream, device, encoder_dtype or dtype)},
        {name: projector},
        {name: build_adapter(experiment.adapter, experiment.level)},
    )
    if run_dir is not None and _has_lora(run_dir):
        model.load_lora(run_dir, merge=True)
    return model.to(device).eval()


def load_beside(
    runs: Sequence[tuple[Experiment, Path]],
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
) -> list[Llava]:
    """See `models.load_models`: runs of one set of weights at several levels share all but the adapter."""
    first, folder = runs[0]
    models = [load(first, folder, device, dtype, encoder_dtype=encoder_dtype)]
    base, ((name, _),) = models[0], first.streams
    for experiment, other in runs[1:]:
        if (experiment.llm, experiment.streams, experiment.num_frames) != (first.llm, first.streams, first.num_frames):
            raise UserError(f"{other} and {folder} have other weights or see clips differently: answer them apart")
        if _has_lora(other) or _has_lora(folder):
            raise UserError(f"{other} and {folder} cannot share an LLM with a LoRA in it: answer them apart")
        adapters = {name: build_adapter(experiment.adapter, experiment.level)}
        models.append(Llava(base.llm, base.tokenizer, base.encoders, base.projectors, adapters))
    for model in models:
        model.requires_grad_(False).eval()
    return models


def build(config: LlavaConfig) -> LlavaForConditionalGeneration:
    """The whole model without memory for its weights, which are to be assigned; UserError is the caller's."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # what is computed and not stored, such as rotary frequencies, is real
        return LlavaForConditionalGeneration(config)


def _load_parts(folder: str, dtype: torch.dtype, meta: bool) -> tuple[LlavaForConditionalGeneration, nn.Module]:
    """transformers' model without tower and projector, and the projector."""
    config = read_config(folder)
    with values_of(Path(folder) / "config.json", "correct it or download it again"):
        whole = build(config)
    projector = whole.model.multi_modal_projector
    parts = nn.ModuleDict({"text": whole.model.language_model, "head": whole.lm_head, "projector": projector})
    # The tower is read by its encoder, and every weight is in one place.
    whole.model.vision_tower = whole.model.multi_modal_projector = None
    if meta:
        return whole.to(dtype), projector.to(dtype)
    state = read_part(folder, lambda name: not name.startswith("tower."))
    load_exactly(parts, {key: value.to(dtype) for key, value in state.items()}, folder, assign=True)
    return whole, projector


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a published folder: `tokenizer.json`, or the original's `tokenizer.model`.

    UserError: neither is there, or what is cannot be read.
    """
    folder = require(folder, "LLaVA")
    if (folder / "tokenizer.json").exists():
        read_object(folder / "tokenizer.json", "download it again")
        with values_of(f"the tokenizer in {folder}", "download its files again"):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    file = require(folder / "tokenizer.model", "LLaVA's tokenizer")
    with values_of(file, "download it again"):
        return _from_sentencepiece(file)


def _from_sentencepiece(file: Path) -> LlamaTokenizer:
    """Llama's tokenizer out of its SentencePiece file: transformers' own way asks for two more libraries."""
    from sentencepiece import SentencePieceProcessor
    from transformers.convert_slow_tokenizer import generate_merges

    pieces = SentencePieceProcessor(model_file=str(file))
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    vocab = {piece: i for i, piece in enumerate(scores)}
    return LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab, scores))


def _only_stream(experiment: Experiment, names: Sequence[str] | None) -> tuple[str, Stream]:
    if len(experiment.streams) != 1:
        raise UserError(f"experiment '{experiment.name}' has {len(experiment.streams)} streams, LLaVA has one")
    ((name, stream),) = experiment.streams
    if unknown := [other for other in names or () if other != name]:
        raise UserError(f"unknown stream '{unknown[0]}'; choose from: {name}")
    return name, stream


def _has_lora(folder: str | Path) -> bool:
    """Any file of one: a folder that lost the others must not pass for one without LoRA."""
    return any((Path(folder) / name).exists() for name in ("adapter_config.json", *ADAPTER_FILES))
