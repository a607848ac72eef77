"""Tiny twins of the families that are published whole: a folder laid out as the published one, with random weights.

Names and shapes of tensors are those of the real classes at a tiny size, so that whatever reads published weights
reads these: `load_model`, `convert`, every way to place them. Nobody taught them anything, and their answers mean
nothing. The same code writes the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.config.experiments import EXPERIMENTS, TOY_FAMILIES
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import write_json
from videogpt_plus.io.folders import making
from videogpt_plus.io.tensors import save_tensors

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

SEED = 20
#: Files of a twin, in addition to `made.json`.
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
#: Sizes of every twin's language model and tower.
WIDTH, MLP, LAYERS, HEADS = 64, 128, 2, 4
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
#: Pixels of a patch's side. CogVLM2's grid has half as many places a side as there are patches.
PATCH = {"llava15": 8, "cogvlm2_image": 4, "cogvlm2_video": 8}
#: CogVLM2's special tokens, as Llama-3 orders them; the third is its padding.
SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|reserved_special_token_4|>", "<|eot_id|>"),
)


def ensure_family(folder: str | Path) -> bool:
    """Writes the twin whose folder this is unless it stands there, whole and from this code; True when it was written.

    Folders are called TOY_FAMILIES/FAMILY; any other is left alone. Nothing half-made is ever left under the name.
    """
    folder = Path(folder)
    writer = WRITERS.get(folder.name)
    if writer is None or folder.parent != Path(TOY_FAMILIES):
        return False
    with making(folder, _made_from(), FILES) as scratch:
        if scratch is None:
            return False
        writer(scratch, folder.name)
    return True


def _made_from() -> dict[str, object]:
    return {"code": fingerprint.of_path(__file__), "weights": "random"}


def _size(family: str) -> tuple[int, int]:
    """Pixels and patches of a side."""
    ((_, stream),) = EXPERIMENTS[f"toy_{family}"].streams
    return stream.pixels, stream.pixels // PATCH[family]


# ------------------------------------------------------------------------------------------------ weights
def _random(shapes: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, Tensor]:
    """Tensors of these shapes in bfloat16, as the real ones are kept. None is zero, so that none can be lost unseen."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            value = 0.1 * value + (1 if name.endswith("weight") else 0)  # a norm's, or a bias
        elif "embed" not in name:
            value = value / (value[0].numel() ** 0.5)
        state[name] = value.bfloat16()
    return state


def _shapes(module: Any, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}


# ------------------------------------------------------------------------------------------------ CogVLM2
def _write_cogvlm2(folder: Path, family: str) -> None:
    import torch

    from videogpt_plus.families.cogvlm2 import rope, weights
    from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
    from videogpt_plus.families.cogvlm2.eva2 import PREFIX, Eva2, size_of
    from videogpt_plus.families.cogvlm2.projector import GluProjector

    tokenizer = _bytes_tokenizer()
    pixels, patches = _size(family)
    begin, end, pad = (tokenizer.token_to_id(name) for name in SPECIAL[:3])
    config = {
        "architectures": [weights.ARCHITECTURES[family]],
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
            "image_size": pixels,
            "patch_size": PATCH[family],
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
        shapes = _shapes(CogVLM2LM(llama, family == "cogvlm2_image")) | _shapes(Eva2(size), PREFIX)
        shapes |= _shapes(GluProjector(size.hidden_size, WIDTH, MLP), PREFIX)
    state = _random(shapes)
    for layer in range(LAYERS):  # the real file keeps them, in this dtype
        state[f"model.layers.{layer}{weights.FREQUENCIES}"] = rope.frequencies(WIDTH // HEADS).bfloat16()
    save_tensors(folder / "model.safetensors", state)
    write_json(folder / "config.json", config)
    _write_tokenizer(folder, tokenizer, *SPECIAL[:3])


def _bytes_tokenizer() -> Tokenizer:
    """A token a byte, and CogVLM2's special tokens behind them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, begin: str, end: str, pad: str, **more: Any) -> None:
    """In words that every transformers from 4.57 on reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": begin, "eos_token": end, "pad_token": pad, "model_max_length": 2048}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named, **more})


# ------------------------------------------------------------------------------------------------ LLaVA-1.5
def _write_llava(folder: Path, family: str) -> None:
    """In the Hub's layout."""
    from transformers import LlavaConfig

    from videogpt_plus.families.llava15.encoder import canonical, spelled
    from videogpt_plus.families.llava15.model import build

    tokenizer = _llama_tokenizer()
    image, pad = (tokenizer.token_to_id(name) for name in ("<image>", "<pad>"))
    pixels, _ = _size(family)
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
            "image_size": pixels,
            "patch_size": PATCH[family],
            "projection_dim": 32,
        },
    }
    whole = build(LlavaConfig(**config))
    names = {spelled(canonical(name), "hub"): shape for name, shape in _shapes(whole).items()}
    save_tensors(folder / "model.safetensors", _random(names))
    write_json(folder / "config.json", config)
    _write_tokenizer(folder, tokenizer, "<s>", "</s>", "<pad>", unk_token="<unk>")


def _llama_tokenizer() -> Tokenizer:
    """Llama's pipe over bytes and the letters of ASCII, and the Hub's two tokens behind them."""
    from tokenizers import AddedToken

    from videogpt_plus.families.llava15.model import LLAMA_SPECIAL, llama_bpe

    pieces = [*LLAMA_SPECIAL.values(), *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(letter) for letter in range(33, 127)]
    tokenizer = llama_bpe({piece: i for i, piece in enumerate(pieces)}, [])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<image>", "<pad>")])
    return tokenizer


#: Family -> what writes its twin into an empty folder.
WRITERS: dict[str, Callable[[Path, str], None]] = {
    "llava15": _write_llava,
    "cogvlm2_image": _write_cogvlm2,
    "cogvlm2_video": _write_cogvlm2,
}
