"""CLIP as LLaVA-1.5 holds it: the tower inside its weights, and the names and sizes that those come with.

Four spellings of the same keys are in use: the original release's, the Hub's, and the two that transformers 5 writes.
Here they become one, in four parts: `tower.`, `projector.`, `text.` and `head.`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from videogpt_plus.config.experiment import Branch
from videogpt_plus.encoders import clip
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import read_matching, values_of
from videogpt_plus.io.tensors import State
from videogpt_plus.types import Clip, UserError

if TYPE_CHECKING:
    from transformers import LlavaConfig

#: How a key may begin -> how it begins here. The first that fits counts.
SPELLINGS = {
    "model.vision_tower.vision_tower.vision_model.": "tower.",  # the original release
    "model.vision_tower.vision_model.": "tower.",  # transformers 4.52 to 4.57 in memory
    "model.vision_tower.": "tower.",  # transformers 5 in memory
    "vision_tower.vision_model.": "tower.",  # the Hub
    "vision_tower.": "tower.",  # the Hub's, written by transformers 5
    "model.mm_projector.0.": "projector.linear_1.",
    "model.mm_projector.2.": "projector.linear_2.",
    "model.multi_modal_projector.": "projector.",
    "multi_modal_projector.": "projector.",
    "language_model.model.": "text.",
    "language_model.lm_head.": "head.",
    "model.language_model.": "text.",
    "lm_head.": "head.",
    "model.": "text.",
}
_HUB = {
    "tower.": "vision_tower.vision_model.",
    "projector.": "multi_modal_projector.",
    "text.": "language_model.model.",
    "head.": "language_model.lm_head.",
}
#: A layout that is published -> how the keys of each part begin in it.
LAYOUTS: dict[str, dict[str, str]] = {
    "original": {
        "tower.": "model.vision_tower.vision_tower.vision_model.",
        "projector.linear_1.": "model.mm_projector.0.",
        "projector.linear_2.": "model.mm_projector.2.",
        "text.": "model.",
        "head.": "lm_head.",
    },
    "hub": _HUB,
    "hub5": {**_HUB, "tower.": "vision_tower."},  # what transformers 5 saves of a model that it made itself
}
#: Kept in some files, and computed here.
UNUSED = (".rotary_emb.inv_freq", ".embeddings.position_ids")


def canonical(key: str) -> str:
    """A key of any spelling as it is called here; one that fits none stays as it is."""
    begin = next((begin for begin in SPELLINGS if key.startswith(begin)), "")
    return SPELLINGS.get(begin, "") + key.removeprefix(begin)


def spelled(name: str, layout: str) -> str:
    """A name of ours as the layout spells it; one of no part stays as it is."""
    begin = next((begin for begin in LAYOUTS[layout] if name.startswith(begin)), "")
    return LAYOUTS[layout].get(begin, "") + name.removeprefix(begin)


def read_part(folder: str | Path, wanted: Callable[[str], bool]) -> State:
    """The tensors of a LLaVA folder whose name here is wanted, under that name. UserError: one is there twice."""
    found = read_matching(folder, lambda key: not key.endswith(UNUSED) and wanted(canonical(key)))
    state = {canonical(key): value for key, value in found.items()}
    if len(state) < len(found):
        twice = sorted(key for key in found if sum(canonical(key) == canonical(other) for other in found) > 1)
        raise UserError(f"weights {folder} hold a tensor under two names: {', '.join(twice[:2])}; remove one")
    return state


def read_config(folder: str | Path) -> LlavaConfig:
    """The sizes of a LLaVA-1.5 folder, of the Hub's form or of the original release's.

    UserError: it is of another model, and of which, or takes other features than the last layer's but one.
    """
    from transformers import CLIPVisionConfig, LlavaConfig

    file = require(Path(folder) / "config.json", "LLaVA's config")
    found = read_object(file, "download it again")
    _check_kind(file.parent, found)
    with values_of(file, "correct it or download it again"):
        if "text_config" in found:
            config = LlavaConfig.from_pretrained(file.parent, local_files_only=True, trust_remote_code=False)
        else:
            vision = {name: found[name] for name in ("vision_config",) if name in found}  # `convert` wrote it
            named = named_tower(file.parent, found)
            if not vision and named and (named / "config.json").exists():
                tower = CLIPVisionConfig.from_pretrained(named, local_files_only=True, trust_remote_code=False)
                vision = {"vision_config": tower}
            config = LlavaConfig(
                text_config={**found, "model_type": "llama"},
                image_token_index=found["vocab_size"],  # behind the last one: the original has no token for it
                vision_feature_layer=found.get("mm_vision_select_layer", -2),
                **vision,
            )
    text, taken = config.text_config.model_type, (config.vision_feature_layer, config.vision_feature_select_strategy)
    if text != "llama" or taken != (-2, "default"):
        raise UserError(
            f"{file} describes no LLaVA-1.5: its language model is a '{text}' and it takes features {taken}, instead "
            "of 'llama' and (-2, 'default'); name weights of LLaVA-1.5"
        )
    return config


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    kind = next(iter(config.get("architectures") or ()), None) or config.get("model_type")
    if kind not in ("LlavaForConditionalGeneration", "LlavaLlamaForCausalLM", "llava"):
        raise UserError(f"{folder} is a '{kind}', not LLaVA-1.5: name a folder of LlavaForConditionalGeneration")
    if "anyres" in str(config.get("image_aspect_ratio")) or "image_grid_pinpoints" in config:
        raise UserError(
            f"{folder} is LLaVA-1.6 (LLaVA-NeXT), which cuts pictures up, not LLaVA-1.5: name other weights"
        )
    if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu" or config.get("mm_use_im_start_end"):
        raise UserError(
            f"{folder} is the first LLaVA (projector '{config.get('mm_projector_type')}'), not LLaVA-1.5: name other "
            "weights"
        )
    if config.get("quantization_config"):
        raise UserError(f"{folder} holds packed weights (quantization_config in its config.json): name unpacked ones")


def named_tower(folder: Path, config: dict[str, Any]) -> Path | None:
    """Where the CLIP that an original release names is looked for: in the same folder as the release."""
    name = config.get("mm_vision_tower")
    return folder.parent / Path(name).name if isinstance(name, str) else None


def load(stream: Branch) -> clip.ClipTower:
    """The tower inside a LLaVA folder; of an original release without one, the CLIP that it names.

    UserError: files are missing, or config or weights have other sizes than the stream.
    """
    config = read_config(stream.weights)
    folder = require(stream.weights, "LLaVA")
    if state := read_part(folder, lambda name: name.startswith("tower.")):
        state = {name.removeprefix("tower."): value for name, value in state.items()}
        return clip.build(stream, config.vision_config, state, folder)
    named = named_tower(folder, read_object(folder / "config.json", "download it again"))
    if named is None or not named.is_dir():
        wanted = named or folder.parent / "clip-vit-large-patch14-336"
        raise UserError(f"weights {folder} hold no vision tower; download openai/{wanted.name} to {wanted}")
    return clip.load(Branch(**{**stream.__dict__, "weights": str(named)}))


def outline(stream: Branch) -> clip.ClipTower:
    """The tower on "meta". UserError: its config has other sizes than the stream."""
    return clip.outline(stream, read_config(stream.weights).vision_config)


def preprocessor(stream: Branch) -> Callable[[Clip], Float[Tensor, "t 3 p p"]]:
    """CLIP's processor for any LLaVA-1.5: shortest side to `pixels` (bicubic), centre crop, CLIP's mean and deviation.

    A picture that was padded to a square before loses nothing by it.
    """
    processor = clip.pillow_processor()(
        size={"shortest_edge": stream.pixels}, crop_size={"height": stream.pixels, "width": stream.pixels}
    )
    return partial(clip.preprocess, processor)
