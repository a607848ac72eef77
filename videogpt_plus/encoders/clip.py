"""The image stream: CLIP's vision tower, each frame on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from videogpt_plus.config.experiment import Branch
from videogpt_plus.io.files import read_object, require
from videogpt_plus.io.model_folders import read_folder, require_folder, values_of
from videogpt_plus.io.scaling import LONG, middle_by_pillow, shorter_side_to
from videogpt_plus.io.tensors import State, load_exactly, without_prefixes
from videogpt_plus.types import Clip, UserError

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

#: Parts and tensors of a whole CLIP that its vision tower has no place for; `position_ids` was stored once.
UNUSED_PARTS = ("text_model.", "text_projection.", "visual_projection.")
UNUSED = ("logit_scale", "embeddings.position_ids")
#: What the tower's keys begin with in a checkpoint of the reference, and up to transformers 4.
PREFIXES = ("model.image_vision_tower.vision_tower.", "vision_model.")


class ClipTower(nn.Module):
    """Patch features of the last layer but one: `hidden_states[-2]` without class token or final norm."""

    def __init__(self, model: CLIPVisionModel):
        super().__init__()
        # The last layer's output is never used, so it is not kept.
        del model.encoder.layers[-1]
        self.model = model
        self.side = model.config.image_size // model.config.patch_size

    @property
    def blocks(self) -> list[nn.Module]:
        """See `GridEncoder.blocks`."""
        return [self.model.embeddings, *self.model.encoder.layers]

    def forward(self, frames: Float[Tensor, "b t 3 p p"]) -> Float[Tensor, "b t h w d"]:
        b, _, _, p, _ = frames.shape
        side = p // self.model.config.patch_size
        tokens = self.model(pixel_values=rearrange(frames, "b t c y x -> (b t) c y x")).last_hidden_state
        return rearrange(tokens[:, 1:], "(b t) (h w) d -> b t h w d", b=b, h=side)


def load(stream: Branch) -> ClipTower:
    """CLIP from a Hugging Face folder: of the whole CLIP, or of its vision tower alone, with or without PREFIXES.

    UserError: files are missing, or config or weights have other sizes than the stream.
    """
    return ClipTower(load_model(stream))


def load_model(stream: Branch) -> CLIPVisionModel:
    """transformers' tower with all its layers, from such a folder. UserError: as in `load`."""
    from transformers import CLIPVisionConfig

    folder = require_folder(stream.weights, "CLIP")
    with values_of(folder / "config.json", "correct it or download it again"):
        config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return _build_model(stream, config, without_prefixes(read_folder(folder), PREFIXES), folder)


def build(stream: Branch, config: CLIPVisionConfig, state: State, folder: Path) -> ClipTower:
    """The tower of these sizes and tensors, which were read from `folder`. UserError: as in `load`."""
    return ClipTower(_build_model(stream, config, state, folder))


def outline(stream: Branch, config: CLIPVisionConfig) -> ClipTower:
    """The tower of these sizes without memory for its weights. UserError: they are not the stream's."""
    return ClipTower(_outline_model(stream, config, Path(stream.weights)))


def _build_model(stream: Branch, config: CLIPVisionConfig, state: State, folder: Path) -> CLIPVisionModel:
    model = _outline_model(stream, config, folder)
    load_exactly(model, state, folder, lambda key: key in UNUSED or key.startswith(UNUSED_PARTS), assign=True)
    return model


def _outline_model(stream: Branch, config: CLIPVisionConfig, folder: Path) -> CLIPVisionModel:
    from accelerate import init_empty_weights
    from transformers import CLIPVisionModel

    with values_of(folder / "config.json", "correct it or download it again"):
        _check_sizes(stream, config)
        with init_empty_weights():  # 300 million random numbers would be drawn only to be replaced
            whole = CLIPVisionModel(config)
            return getattr(whole, "vision_model", whole)  # where it lies inside: up to transformers 4


def _check_sizes(stream: Branch, config: CLIPVisionConfig) -> None:
    found = (config.image_size, config.image_size // config.patch_size, config.hidden_size)
    wanted = (stream.pixels, stream.grid, stream.width)
    if found != wanted:
        raise UserError(
            f"CLIP in {stream.weights} has (pixels, grid, width) {found}, the experiment's stream says {wanted}; "
            "name other weights or correct the stream"
        )


def pillow_processor() -> type[CLIPImageProcessorPil]:
    """CLIP's processor on Pillow, as this transformers calls it: before 5 there was no other, now torchvision's is."""
    import transformers

    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


def preprocessor(stream: Branch) -> Callable[[Clip], Float[Tensor, "t 3 p p"]]:
    """CLIP's processor: shortest side to `pixels` (bicubic), centre crop, CLIP's mean and deviation."""
    file = require(Path(stream.weights) / "preprocessor_config.json", "CLIP's preprocessing config")
    read_object(file, "download it again")
    with values_of(file, "correct it or download it again"):
        processor = pillow_processor().from_pretrained(file.parent, local_files_only=True, trust_remote_code=False)
        found = (processor.crop_size["height"], processor.crop_size["width"])
        if found != (stream.pixels, stream.pixels):
            raise UserError(f"{file} crops to {found}, the experiment's stream says {stream.pixels} pixels")
        # Some values are read only when a picture comes, which then would look like a bad one.
        preprocess(processor, Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), (0.0,), "black"))
    return partial(preprocess, processor)


def preprocess(processor: CLIPImageProcessorPil, clip: Clip) -> Float[Tensor, "t 3 p p"]:
    """A clip's frames by one of CLIP's processors."""
    frames = _middles(processor, clip.frames)
    scales = frames is None
    frames = list((clip.frames if scales else frames).numpy())
    prepared = processor(frames, input_data_format="channels_first", return_tensors="pt", do_resize=scales)
    return prepared["pixel_values"]


def _middles(processor: CLIPImageProcessorPil, frames: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 3 p p"] | None:
    """What the processor cuts out of the scaled frames, where those would be huge; else None."""
    shorter, pixels = dict(processor.size).get("shortest_edge"), processor.crop_size["height"]
    if shorter is None or shorter < pixels:
        return None
    size = shorter_side_to(frames.shape[-2:], shorter)
    if 3 * size[0] * size[1] <= LONG:
        return None
    return torch.stack([middle_by_pillow(frame, size, pixels) for frame in frames])
