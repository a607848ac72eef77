"""LLaVA-1.5 on transformers' own `LlavaForConditionalGeneration`: its tower is the encoder, its projector takes every
patch, and what is left of it is the language model.

The published weights are level 1: 576 tokens a picture. Any other level is the same weights with fewer tokens, and
needs no training. Frames of a video are pictures one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import LoadConfig
from videogpt_plus.families.llava15.encoder import read_config, read_part
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import WEIGHT_FILES, values_of
from videogpt_plus.io.tensors import load_exactly
from videogpt_plus.models.base import VisionLM, only_stream
from videogpt_plus.models.tensor_parallel import check_shares, columns, rows, summed
from videogpt_plus.text.tokenizer import read_tokenizer
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import tokenizers

#: Llama's special tokens by their roles; the original has no others.
LLAMA_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


class Llava(VisionLM):
    """One stream of pictures. `llm` is transformers' model, whose tower and projector stand in `encoders` and
    `projectors` instead.
    """

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Llama's."""
        return self.causal.model.language_model.layers

    def build_projectors(self, experiment: Experiment) -> dict[str, nn.Module]:
        """See `VisionLM`."""
        return {name: LlavaMultiModalProjector(self.causal.config) for name, _ in experiment.branches}

    @property
    def vocabulary(self) -> int:
        """Ids from here on stand for pictures and padding, or for nothing."""
        return min(len(self.tokenizer), self.causal.config.image_token_index)


def build(experiment: Experiment, dtype: torch.dtype, meta: bool, load_config: LoadConfig, own: bool) -> Llava:
    """See `families.Family.build`. The weights are a published folder as it is, with keys of any spelling."""
    name, stream = only_stream(experiment)
    llm, projector = _load_parts(experiment.llm, dtype, meta)
    if projector.linear_1.in_features != stream.width:
        raise UserError(
            f"LLaVA in {experiment.llm} projects features of width {projector.linear_1.in_features}, the experiment's "
            f"stream says {stream.width}; name other weights or correct the stream"
        )
    return Llava(llm, projectors={name: projector})


def shard(model: Llava, rank: int, size: int) -> None:
    """Leaves of every layer of the language model the rank's share; all else stays whole in each process.

    UserError: heads or channels cannot be shared out evenly.
    """
    config = model.causal.config.text_config
    check_shares(
        size,
        {
            "heads": config.num_attention_heads,
            "key-value heads": config.num_key_value_heads,
            "channels of the MLP": config.intermediate_size,
        },
    )
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for first in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            rows(first, rank, size)
        for last in (attention.o_proj, mlp.down_proj):
            columns(last, rank, size)
        summed(attention)
        summed(mlp)


def own_weights(experiment: Experiment, run_dir: str | Path) -> Experiment:
    """The experiment with the weights that its run folder holds, as one that `convert` wrote does."""
    if not any((Path(run_dir) / name).exists() for name in WEIGHT_FILES):
        return experiment
    branches = tuple((name, replace(stream, weights=str(run_dir))) for name, stream in experiment.branches)
    return replace(experiment, llm=str(run_dir), branches=branches)


def build_whole(config: LlavaConfig) -> LlavaForConditionalGeneration:
    """The whole model without memory for its weights, which are to be assigned; UserError is the caller's."""
    from accelerate import init_empty_weights

    with init_empty_weights():  # what is computed and not stored, such as rotary frequencies, is real
        return LlavaForConditionalGeneration(config)


def _load_parts(folder: str, dtype: torch.dtype, meta: bool) -> tuple[LlavaForConditionalGeneration, nn.Module]:
    """transformers' model without tower and projector, and the projector."""
    config = read_config(folder)
    with values_of(Path(folder) / "config.json", "correct it or download it again"):
        whole = build_whole(config)
    projector = whole.model.multi_modal_projector
    parts = nn.ModuleDict({"text": whole.model.language_model, "head": whole.lm_head, "projector": projector})
    # The tower is read by its encoder, and every weight is in one place.
    whole.model.vision_tower = whole.model.multi_modal_projector = None
    if meta:
        return whole.to(dtype), projector.to(dtype)
    state = read_part(folder, lambda name: not name.startswith("tower."))
    load_exactly(parts, {key: value.to(dtype) for key, value in state.items()}, folder, assign=True)
    return whole, projector


def tokenizer(experiment: Experiment, run_dir: str | Path | None) -> Tokenizer:
    """See `families.Family.tokenizer`."""
    return load_tokenizer(experiment.llm)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a published folder: `tokenizer.json`, or the original's `tokenizer.model`.

    UserError: neither is there, or what is cannot be read.
    """
    folder = require(folder, "LLaVA")
    if (folder / "tokenizer.json").exists():
        read_object(folder / "tokenizer.json", "download it again")
        return read_tokenizer(folder, "download its files again")
    file = require(folder / "tokenizer.model", "LLaVA's tokenizer")
    with values_of(file, "download it again"):
        return _from_sentencepiece(file)


def _from_sentencepiece(file: Path) -> Tokenizer:
    """Llama's tokenizer out of its SentencePiece file: transformers' own way asks for two more libraries."""
    from sentencepiece import SentencePieceProcessor
    from transformers.convert_slow_tokenizer import generate_merges

    pieces = SentencePieceProcessor(model_file=str(file))
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    vocab = {piece: i for i, piece in enumerate(scores)}
    return PreTrainedTokenizerFast(tokenizer_object=llama_bpe(vocab, generate_merges(vocab, scores)), **LLAMA_SPECIAL)


def llama_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Llama's pipe around a vocabulary: a space before the text and for each of its spaces, bytes for what is left."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    written = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(written)
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in LLAMA_SPECIAL.values()])
    return made
