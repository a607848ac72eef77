"""What the rest of the package knows of an encoder and of a model family, without importing either.

Functions are named "module:function" and imported when they are called, so that token counts and reports need no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

#: CLIP's mean colour, cut to int as the reference does: what pads pictures to squares.
CLIP_MEAN_COLOUR = (122, 116, 104)
#: Fields of `LoadConfig` that a family has to support by itself.
OPTIONS = ("devices", "bits", "rope_precision")


class Encoder(NamedTuple):
    """A frozen encoder's file, and what is known of it without its weights.

    The file has `load(stream)`, a module that maps Float "b t 3 p p" to Float "b t h w d", with the weights of
    `stream.weights`; and `preprocessor(stream)`, a picklable callable from a Clip to Float "t 3 p p", which needs no
    weights. For several cards it also has `outline(stream)`, the module without its weights.
    """

    module: str
    #: Colour by which still pictures are padded to squares, three of 0..255, where it was trained on such.
    padding: tuple[int, int, int] | None = None
    #: Whether preprocessing begins with Pillow's bicubic to `stream.pixels`: a huge square is then never made.
    scales_by_pillow: bool = False
    #: Tokens of each frame that stand in no square: a class token.
    class_tokens: int = 0
    #: (stream, `flops.Llm`) -> `flops.Tower` with its projector, or None; None where nobody wrote a formula.
    tower: str | None = None

    @property
    def file(self) -> ModuleType:
        """The imported file."""
        return resolve_name(self.module)


class Family(NamedTuple):
    """A model family: where its functions stand, and what the others have to know of it."""

    name: str
    #: (experiment, dtype, meta, load_config, own) -> VisionLM with its LLM, and its projectors where they are
    #: published: none where `own` says that run folders hold them. With `meta` names and shapes alone.
    build: str
    #: (experiment, run_dir) -> its tokenizer.
    tokenizer: str
    #: (experiment) -> `flops.Sizes`, or None where files to read them from are missing.
    sizes: str
    #: Encoders that belong to it, by name.
    encoders: Mapping[str, Encoder] = {}
    #: Chat templates that belong to it, by name: "module:attribute" of a `text.chat.Template`.
    templates: Mapping[str, str] = {}
    #: (experiment, run_dir) -> the experiment with the weights that the run folder itself holds.
    own_weights: str | None = None
    #: Whether it takes any number of branches; else exactly one.
    many_branches: bool = False
    #: Learned tokens around each frame, in addition to those that the reducer makes of it.
    frame_marks: int = 0
    #: Fields of `LoadConfig` that it supports, of OPTIONS.
    options: tuple[str, ...] = ()
    #: (model, rank, size) -> None: leaves of the model what one of several processes computes.
    shard: str | None = None
    #: Whether the LoRA of a run that answers alone is merged into the LLM.
    merges_lora: bool = True
    #: Whether runs with a LoRA each can share an LLM.
    shares_lora: bool = False
    #: Module with `convert` and `differing`, between the layouts that its weights are published in and ours.
    convert: str | None = None
    #: (folder, experiment) -> None: writes the tiny twin of its published weights, with random weights.
    twin: str | None = None
    #: What the `config.json` of its published weights says, and no other family's.
    config: Mapping[str, object] = {}

    def published(self, config: Mapping[str, object]) -> bool:
        """Whether a folder with this `config.json` holds published weights of this family."""
        return bool(self.config) and all(config.get(key) == value for key, value in self.config.items())

    def function(self, field: str) -> Callable[..., Any]:
        """What a field of the record names, imported."""
        return resolve_name(getattr(self, field))
