"""Cinego's files: `lm_512.pth`, `pretrain_videolm_512.pth`, `sft_videolm_512.pth` and so on, in every spelling of their
names, read and written.

A file is a flat state dict without a config, so most sizes are read off its shapes. What no shape tells, a
`config.json` beside it does: above all "rope_layout", for the same tensors are one model or another by it. It is never
guessed.
"""

from __future__ import annotations

import io
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from videogpt_plus.families.cinego.lm import LAYOUTS, Experts, MiniMind, RopeLayout, Size
from videogpt_plus.io.files import read_object, require, write_bytes, write_json
from videogpt_plus.io.tensors import State, load_exactly, read_tensors
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
#: Stage -> how its file's name begins; of a folder the first one that is there is taken.
STAGES = {
    "sft": "sft_videolm_",
    "sft_video": "sft_videolm_video_",
    "sft_image": "sft_videolm_image_",
    "pretrain": "pretrain_videolm_",
    "lm": "lm_",
}
PROJECTION, SUMMARY = "vision_proj.", "video_summarizer."
#: Parts of names that older files keep though they are computed, and the frozen tower, which is published by OpenAI.
UNUSED = {"mask", "pos_cis"}
TOWER = "vision_encoder."
#: Names of later MiniMinds -> ours.
LATER = (
    (r"^model\.embed_tokens\.", "tok_embeddings."),
    (r"^lm_head\.", "output."),
    (r"^model\.norm\.", "norm."),
    (r"^model\.(layers\.\d+\.)", r"\1"),
    (r"(^layers\.\d+\.)self_attn\.([qkvo])_proj\.", r"\1attention.w\2."),
    (r"(^layers\.\d+\.)input_layernorm\.", r"\1attention_norm."),
    (r"(^layers\.\d+\.)post_attention_layernorm\.", r"\1ffn_norm."),
    (r"(^layers\.\d+\.)mlp\.", r"\1feed_forward."),
    (r"(^layers\.\d+\.feed_forward\.)shared_experts\.0\.", r"\1shared_experts."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)gate_proj\.", r"\1w1."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)down_proj\.", r"\1w2."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)up_proj\.", r"\1w3."),
    (r"^model\.(vision_proj|video_summarizer)\.", r"\1."),
    (r"^vision_proj\.vision_proj\.0\.", PROJECTION),
)
#: Ours -> those of later MiniMinds, for writing.
BACK = (
    (r"^tok_embeddings\.", "model.embed_tokens."),
    (r"^output\.", "lm_head."),
    (r"^norm\.", "model.norm."),
    (r"(^layers\.\d+\.)attention\.w([qkvo])\.", r"\1self_attn.\2_proj."),
    (r"(^layers\.\d+\.)attention_norm\.", r"\1input_layernorm."),
    (r"(^layers\.\d+\.)ffn_norm\.", r"\1post_attention_layernorm."),
    (r"(^layers\.\d+\.feed_forward\.)shared_experts\.", r"\1shared_experts.0."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)w1\.", r"\1gate_proj."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)w2\.", r"\1down_proj."),
    (r"(^layers\.\d+\.feed_forward\.(.+\.)?)w3\.", r"\1up_proj."),
    (r"(^layers\.\d+\.)feed_forward\.", r"\1mlp."),
    (r"^layers\.", "model.layers."),
)


# ------------------------------------------------------------------------------------------------ names
def canonical(key: str) -> str:
    """A key of any spelling as it is called here; one that fits none stays as it is."""
    return _renamed(key.removeprefix("module."), LATER)


def later_name(key: str) -> str:
    """A key of ours as MiniMinds from 2025-04-27 on call it. Their code turns channels by the layout "half"."""
    return _renamed(key, BACK)


def _renamed(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in table:
        key = re.sub(pattern, name, key)
    return key


def file_name(stage: str, size: Size) -> str:
    """`sft_videolm_512.pth`, with `_moe` where there are experts. `stage` is a key of STAGES."""
    return f"{STAGES[stage]}{size.width}{'_moe' if size.experts else ''}.pth"


def locate(path: str | Path) -> Path:
    """The file of weights that is meant: `path` itself, or of a folder the one of the latest stage.

    UserError: there is none, or the folder holds several sizes of that stage.
    """
    path = require(path, "weights of Cinego")
    if path.is_file():
        return path
    for begin in STAGES.values():
        found = sorted(p for p in path.glob(f"{begin}*.pth") if re.fullmatch(r"\d+(_moe)?", p.stem.removeprefix(begin)))
        if len(found) > 1:
            raise UserError(f"{path} holds {', '.join(p.name for p in found)}: name one of these files")
        if found:
            return found[0]
    raise UserError(
        f"no weights in {path}: expected {' or '.join(f'{name}WIDTH.pth' for name in STAGES.values())}; put them "
        "there, or train them with `videogpt-plus cinego`"
    )


# ------------------------------------------------------------------------------------------------ reading
def read(path: str | Path) -> State:
    """The tensors of a file, under our names: without the tower and what is computed, with both names of the tied one.

    UserError: a tensor is there twice, or embeddings and head differ, which are one tensor here.
    """
    path = locate(path)
    return cleaned(read_tensors(path), path)


def cleaned(found: State, source: str | Path) -> State:
    """`read` of tensors that were read from `source`."""
    state: State = {}
    for key, value in found.items():
        name = canonical(key)
        if UNUSED & set(name.split(".")) or name.startswith(TOWER):
            continue
        if name in state:
            raise UserError(f"weights {source} hold '{name}' under two names; remove one")
        state[name] = value
    tied = [state.get(name) for name in ("tok_embeddings.weight", "output.weight")]
    if all(t is not None for t in tied) and not torch.equal(*tied):
        raise UserError(
            f"weights {source} have embeddings and a head that differ, and MiniMind ties them: name other weights"
        )
    for name, other in (("tok_embeddings.weight", tied[1]), ("output.weight", tied[0])):
        if name not in state and other is not None:
            state[name] = other
    return state


def described(folder: Path, layout: RopeLayout | None = None) -> dict[str, Any]:
    """What the config.json of a folder says of the weights beside it, with their "rope_layout", or `layout`'s.

    UserError: neither says the layout, or it is none.
    """
    file = folder / CONFIG
    config = read_object(file, "correct it") if file.is_file() else {}
    found = layout or config.get("rope_layout")
    if found not in LAYOUTS:
        said = f"says {found!r}" if found else "does not say"
        raise UserError(
            f'{file} {said} how the weights turn channels: write {{"rope_layout": "interleaved"}} into it for '
            'MiniMind\'s code up to 2025-04-26, "half" for later code. The wrong one reads text with a far higher '
            "perplexity; no file tells"
        )
    return {**config, "rope_layout": found}


def size_of(state: State, config: dict[str, Any], source: str | Path) -> Size:
    """The architecture of tensors under our names; `config` is what `described` returned. UserError: it is none."""
    try:
        vocabulary, width = state["tok_embeddings.weight"].shape
        layers = 1 + max(int(m[1]) for key in state if (m := re.match(r"layers\.(\d+)\.", key)))
        first = "layers.0.feed_forward."
        mixture = f"{first}gate.weight" in state
        mlp = state[f"{first}{'experts.0.' if mixture else ''}w1.weight"].shape[0]
        heads = int(config.get("num_attention_heads", 8))
        keys = state["layers.0.attention.wk.weight"].shape[0]
        experts = Experts(**config["experts"]) if config.get("experts") else Experts() if mixture else None
        if experts:
            experts = replace(experts, count=state[f"{first}gate.weight"].shape[0])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"weights {source} are no MiniMind's ({error!s:.80}): name a file such as lm_512.pth"
        ) from error
    if width % heads or keys % (width // heads) or (width // heads) % 2:
        raise UserError(
            f"weights {source} of width {width} and {keys} rows of keys cannot have {heads} heads: write "
            f'"num_attention_heads" into {CONFIG} beside them'
        )
    return Size(
        width,
        layers,
        heads,
        keys // (width // heads),
        mlp,
        vocabulary,
        experts if mixture else None,
        config["rope_layout"],
        float(config.get("rope_theta", Size.rope_theta)),
        float(config.get("rms_norm_eps", Size.norm_eps)),
    )


def load_lm(path: str | Path, layout: RopeLayout | None = None, dtype: torch.dtype = torch.float32) -> MiniMind:
    """The language model of a file alone, whatever visual parts stand beside it in it.

    UserError: as in `read` and `described`; keys are missing, unexpected or of other shapes.
    """
    path = locate(path)
    state = read(path)
    return build_lm(lm_part(state), size_of(state, described(path.parent, layout), path), path, dtype)


def build_lm(state: State, size: Size, source: str | Path, dtype: torch.dtype = torch.float32) -> MiniMind:
    """A language model of these tensors, which were read from `source`. UserError: keys or shapes differ."""
    with torch.device("meta"):
        lm = MiniMind(size)
    load_exactly(lm, {key: value.to(dtype) for key, value in state.items()}, source, assign=True)
    lm.tie_weights()
    return lm


def lm_part(state: State) -> State:
    """Of a whole file: the language model's tensors, and any of unknown names, so that loading tells of them."""
    return {key: value for key, value in state.items() if not key.startswith((PROJECTION, SUMMARY))}


def part_of(state: State, prefix: str) -> State:
    """PROJECTION's or SUMMARY's tensors under the names inside it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def summary_of(state: State, settings: Summary) -> Summary:
    """`settings` with the branches and layers that the file has: they are told apart by its keys."""
    names = part_of(state, SUMMARY)
    if not names:
        return settings
    layers = {int(m[1]) for name in names if (m := re.match(r"cross_attn_s\.(\d+)\.", name))}
    branches = "st" if "query_t" in names else "s"
    return replace(settings, branches=branches, layers=len(layers) or settings.layers)


# ------------------------------------------------------------------------------------------------ writing
def whole_state(lm: MiniMind, projection: nn.Module | None = None, summary: nn.Module | None = None) -> State:
    """The tensors of a file under its names: the language model's, and with them the visual parts that are given."""
    state = dict(lm.state_dict())
    for prefix, part in ((PROJECTION, projection), (SUMMARY, summary)):
        state |= {f"{prefix}{key}": value for key, value in (part.state_dict() if part else {}).items()}
    return state


def save(path: str | Path, state: State, later: bool = False) -> None:
    """Writes tensors as the authors do, as a pickle in float32; the file is there whole or not at all.

    `later` writes the names of later MiniMinds instead; the layout of the weights stays what it is: see `regrouped`.
    """
    named = {later_name(key) if later else key: _plain(value) for key, value in state.items()}
    if "tok_embeddings.weight" in state:  # one tensor under two names, as there
        first, second = ("tok_embeddings.weight", "output.weight")
        first, second = (later_name(first), later_name(second)) if later else (first, second)
        named[second] = named[first]
    buffer = io.BytesIO()
    torch.save(named, buffer)
    write_bytes(path, buffer.getvalue())


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", torch.float32).contiguous()


def describe(folder: str | Path, size: Size) -> None:
    """Writes the config.json of weights of that size."""
    config = {
        "model_type": "cinego",
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "intermediate_size": size.mlp,
        "vocab_size": size.vocabulary,
        "rms_norm_eps": size.norm_eps,
        "rope_theta": size.rope_theta,
        "rope_layout": size.rope_layout,
        "tie_word_embeddings": True,
        "experts": asdict(size.experts) if size.experts else None,
    }
    write_json(Path(folder) / CONFIG, config)


def regrouped(state: State, size: Size, to: RopeLayout) -> State:
    """The tensors of a model of `size` as the same model of the layout `to`: rows of each head of q and k change place.

    Interleaved to half: the even rows of a head first, then the odd ones.
    """
    if to == size.rope_layout:
        return dict(state)
    order = torch.arange(size.head_dim).view(-1, 2).T.flatten()
    if to == "interleaved":
        order = order.argsort()
    moved = re.compile(r"layers\.\d+\.attention\.w[qk]\.weight")
    return {
        key: value.unflatten(0, (-1, size.head_dim))[:, order].flatten(0, 1) if moved.fullmatch(key) else value
        for key, value in state.items()
    }
