"""LLaVA-1.5's tiny twin, see `families.twin`."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import LlavaConfig

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.families.llava15.encoder import canonical, spelled
from videogpt_plus.families.llava15.model import LLAMA_SPECIAL, build_whole, llama_bpe
from videogpt_plus.families.twin import HEADS, LAYERS, MLP, VISION, WIDTH, write_tokenizer
from videogpt_plus.io.files import write_json
from videogpt_plus.io.tensors import random_state, save_tensors, shapes_of


def write(folder: Path, experiment: Experiment) -> None:
    """The twin of that experiment, in the Hub's layout."""
    tokenizer = _llama_tokenizer()
    image, pad = (tokenizer.token_to_id(name) for name in ("<image>", "<pad>"))
    ((_, stream),) = experiment.branches
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image,
        "pad_token_id": pad,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "llama",
            "vocab_size": -(-(pad + 1) // 64) * 64,
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        "vision_config": {
            **VISION,
            "model_type": "clip_vision_model",
            "num_attention_heads": HEADS,
            "image_size": stream.pixels,
            "patch_size": stream.pixels // stream.grid,
            "projection_dim": 32,
        },
    }
    shapes = shapes_of(build_whole(LlavaConfig(**config)).state_dict())
    names = {spelled(canonical(name), "hub"): shape for name, shape in shapes.items()}
    save_tensors(folder / "model.safetensors", random_state(names, seed=experiment.source.seed))
    write_json(folder / "config.json", config)
    write_tokenizer(folder, tokenizer, "<s>", "</s>", "<pad>", unk_token="<unk>")


def _llama_tokenizer() -> Tokenizer:
    """Llama's pipe over bytes and the letters of ASCII, and the Hub's two tokens behind them."""
    pieces = [*LLAMA_SPECIAL.values(), *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(letter) for letter in range(33, 127)]
    tokenizer = llama_bpe({piece: i for i, piece in enumerate(pieces)}, [])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<image>", "<pad>")])
    return tokenizer
