"""CogVLM2's tiny twins, see `families.twin`."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.families.cogvlm2 import rope, weights
from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.families.cogvlm2.eva2 import PREFIX, Eva2, size_of
from videogpt_plus.families.cogvlm2.projector import GluProjector
from videogpt_plus.families.cogvlm2.sizes import ARCHITECTURES
from videogpt_plus.families.twin import HEADS, LAYERS, MLP, VISION, WIDTH, write_tokenizer
from videogpt_plus.io.files import write_json
from videogpt_plus.io.tensors import random_state, save_tensors, shapes_of

#: CogVLM2's special tokens, as Llama-3 orders them; the third is its padding.
SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|reserved_special_token_4|>", "<|eot_id|>"),
)


def write(folder: Path, experiment: Experiment) -> None:
    """The twin of that experiment, laid out as published."""
    tokenizer = _bytes_tokenizer()
    family, ((_, stream),) = experiment.family, experiment.branches
    patches = 2 * stream.grid  # a side; the grid is that behind the tower's convolution
    begin, end, pad = (tokenizer.token_to_id(name) for name in SPECIAL[:3])
    config = {
        "architectures": [ARCHITECTURES[family]],
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_multi_query_heads": HEADS // 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192 if family == "cogvlm2_image" else 2048,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
        "template_version": "chat",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            **VISION,
            "image_size": stream.pixels,
            "patch_size": stream.pixels // patches,
            "num_heads": HEADS,
            "num_positions": patches**2 + 1,
            "in_channels": 3,
            "layer_norm_eps": 1e-6,
            "dropout_prob": 0.0,
            "hidden_act": "gelu",
        },
    }
    llama, size = weights.llama_config(config), size_of(config)
    with torch.device("meta"):
        llm = CogVLM2LM(llama, family == "cogvlm2_image")
        parts = (("", llm), (PREFIX, Eva2(size)), (PREFIX, GluProjector(size.hidden_size, WIDTH, MLP)))
    shapes = {}
    for prefix, part in parts:
        shapes |= shapes_of(part.state_dict(), prefix)
    state = random_state(shapes, seed=experiment.source.seed)
    for layer in range(LAYERS):  # the real file keeps them, in this dtype
        state[f"model.layers.{layer}{weights.FREQUENCIES}"] = rope.frequencies(WIDTH // HEADS).bfloat16()
    save_tensors(folder / "model.safetensors", state)
    write_json(folder / "config.json", config)
    write_tokenizer(folder, tokenizer, *SPECIAL[:3])


def _bytes_tokenizer() -> Tokenizer:
    """A token a byte, and CogVLM2's special tokens behind them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer
