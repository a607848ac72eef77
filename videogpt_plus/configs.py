"""Frozen configs. An experiment is a value; every ablation is a `replace(...)` of another (experiments.py).

Nothing here imports torch: `videogpt-plus tokens` and the report read experiments on a bare laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videogpt_plus.types import UserError


def _check(config: object, least: Mapping[str, float], most: Mapping[str, float] | None = None) -> None:
    """UserError unless these values of a config are finite numbers within their bounds."""
    most = most or {}
    for name, low in least.items():
        value, high = getattr(config, name), most.get(name, MOST)
        if not low <= value <= high:  # NaN is neither
            told = f"{low:g} to {high:g}" if name in most else f"at least {low:g}"
            raise UserError(f"{type(config).__name__} has {name} {value!r:.60}: choose {told}")


#: No number of a config is larger.
MOST = 2.0**63


@dataclass(frozen=True)
class InternVideo2Size:
    """The architecture of an InternVideo2 tower; its weight file carries none."""

    # Depth of the file. The reference returns the output of block depth-2: the last one never runs.
    depth: int = 40
    # Width of a token.
    width: int = 1408
    # Attention heads.
    heads: int = 16
    # Pixels a patch side.
    patch: int = 14
    # Frames a chunk: `pos_embed` is learned for this many.
    chunk: int = 4
    # MLP width over token width: hidden = int(width * mlp_ratio).
    mlp_ratio: float = 48 / 11

    def __post_init__(self) -> None:
        _check(self, {"depth": 2, "width": 1, "heads": 1, "patch": 1, "chunk": 1, "mlp_ratio": 0})
        if self.width % self.heads:
            raise UserError(f"InternVideo2Size has width {self.width}, which {self.heads} heads cannot share evenly")


@dataclass(frozen=True)
class Stream:
    """One frozen encoder with its projector. Sizes are checked against the weights when they load."""

    # Name in `encoders.ENCODERS`.
    encoder: str
    # Folder or file of the encoder's weights.
    weights: str
    # Side of the square input in pixels.
    pixels: int
    # Side of the patch grid.
    grid: int
    # Width of a patch feature.
    width: int
    # Name in `projectors`: "linear", "mlp{n}x_gelu" or "identity".
    projector: str = "mlp2x_gelu"
    # Only for encoders whose weight file carries no config.
    size: InternVideo2Size | None = None

    def __post_init__(self) -> None:
        _check(self, {"pixels": 1, "grid": 0, "width": 0})  # 0 is what code says that only preprocesses


@dataclass(frozen=True)
class Lora:
    """LoRA on q, k, v, o, gate, up and down of the LLM."""

    # Rank.
    r: int = 128
    # Scale times rank.
    alpha: int = 256
    # Dropout before the low-rank pair.
    dropout: float = 0.05

    def __post_init__(self) -> None:
        _check(self, {"r": 1, "alpha": 0, "dropout": 0}, {"dropout": 1})


@dataclass(frozen=True)
class Training:
    """One training stage, in the names of transformers' TrainingArguments."""

    # Dataset mixture, a name in `mixtures.MIXTURES`.
    data: str
    # Conversation template, a name in `chat.TEMPLATES`.
    template: str = "qwen2"
    # Peak learning rate: of the projectors in pre-training, of LoRA in fine-tuning.
    learning_rate: float = 1e-3
    # Peak learning rate of the projectors in fine-tuning; None uses `learning_rate`.
    projector_learning_rate: float | None = None
    # Samples a device and forward pass; fewer where a step has not that many for every device.
    per_device_train_batch_size: int = 16
    # Forward passes a step, of all devices together: a step has as many samples on eight devices as on one.
    gradient_accumulation_steps: int = 1
    # Passes over the data.
    num_train_epochs: float = 1.0
    # Stops earlier than the epochs say; -1 is no limit.
    max_steps: int = -1
    # Schedule after the warm-up.
    lr_scheduler_type: str = "cosine"
    # Part of the steps that warm up.
    warmup_ratio: float = 0.03
    # AdamW's weight decay.
    weight_decay: float = 0.0
    # AdamW's memory of squared gradients.
    adam_beta2: float = 0.999
    # Gradient norm is clipped to this.
    max_grad_norm: float = 1.0
    # Computes in bfloat16 under autocast; weights of the frozen parts are held in bfloat16.
    bf16: bool = True
    # TF32 matrix products on a GPU.
    tf32: bool = True
    # Recomputes the LLM's layers in the backward pass.
    gradient_checkpointing: bool = True
    # Text tokens of a sample at most; longer ones are cut at the end.
    model_max_length: int = 4096
    # Batches hold samples of one modality and similar length.
    group_by_modality_length: bool = False
    # How a still image becomes square: "pad" with the mean colour, or "crop".
    image_aspect_ratio: str = "pad"
    # A checkpoint every so many steps.
    save_steps: int = 500
    # Order of the data, initial projectors, LoRA and dropout.
    seed: int = 42

    def __post_init__(self) -> None:
        _check(self, dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "save_steps"), 1))
        _check(self, {"model_max_length": 1, "max_steps": -1, "seed": 0}, {"seed": 2**32 - 1})
        _check(self, dict.fromkeys(("learning_rate", "num_train_epochs", "weight_decay", "max_grad_norm"), 0))
        _check(self, {"warmup_ratio": 0, "adam_beta2": 0}, {"warmup_ratio": 1, "adam_beta2": 1})
        if self.projector_learning_rate is not None:
            _check(self, {"projector_learning_rate": 0})


@dataclass(frozen=True)
class Summary:
    """The adapter "summary": learned queries that read the tokens of all frames at once."""

    # Queries, and so tokens, of each stream at level 1; at level L as many as a square grid pooled by L would leave.
    queries: int = 197
    # Attention heads.
    heads: int = 8
    # Times that the queries read the frames.
    layers: int = 1
    # Branches: "s", or "st" for a second set of queries whose reading is added to the first one's.
    branches: str = "s"
    # Adds a sinusoid of its frame's number to each token; without it frames in any order give the same summary.
    frame_times: bool = False
    # Dropout of the attention and behind it.
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("queries", "heads", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"the adapter 'summary' has {name} {getattr(self, name)}: choose at least 1")
        if self.branches not in ("s", "st"):
            raise UserError(f"the adapter 'summary' has branches {self.branches!r}: choose 's' or 'st'")


#: Encoder -> tokens of each frame that stand in no grid: a class token.
CLASS_TOKENS = {"clip_cinego": 1}

#: Model family -> learned tokens around each frame, beside those that the adapter makes of it.
FRAME_MARKS = {"cogvlm2_image": 2, "cogvlm2_video": 2}


@dataclass(frozen=True)
class Experiment:
    """One model of a sweep: what it is made of, how it is trained, what it is asked."""

    # Unique name, also of its output folder.
    name: str
    # Folder of the LLM and its tokenizer, in Hugging Face's layout.
    llm: str
    # Streams by name in token order: the reference puts image tokens before video tokens.
    streams: tuple[tuple[str, Stream], ...]
    # Pre-training of each projector, by stream name.
    pretrain: tuple[tuple[str, Training], ...]
    # Fine-tuning at the level.
    finetune: Training
    # LoRA of the fine-tuning.
    lora: Lora = Lora()
    # Name in `adapters.ADAPTERS`.
    adapter: str = "average"
    # Pool level: the grid's side is divided by it.
    level: float = 1
    # What the adapter is made of where it is "summary".
    summary: Summary = Summary()
    # Frames sampled from a clip, in training as in evaluation.
    num_frames: int = 16
    # Model family, a name in `models.FAMILIES`.
    family: str = "dual_encoder"
    # Benchmark folder in MVBench's layout.
    benchmark_root: str = ".cache/MVBench"
    # Tokens of an answer at most.
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_new_tokens"):
            if not 1 <= getattr(self, name) <= MOST:
                raise UserError(f"experiment '{self.name}' has {name} {getattr(self, name)!r:.60}: choose at least 1")
        if not 0 < self.level <= MOST:
            raise UserError(f"pool level {self.level!r:.60} is not possible: choose a number above 0")
        names = [name for name, _ in self.streams]
        if not names or len(set(names)) < len(names):
            raise UserError(f"experiment '{self.name}' has streams {names}: it needs one or more, each of its own name")

    def check_whole(self) -> None:
        """UserError unless its parts fit each other, as those of an experiment that was written to a file must."""
        names = [name for name, _ in self.streams]
        for _, stream in self.streams:
            _check(stream, {"grid": 1, "width": 1})
        if strange := sorted({name for name, _ in self.pretrain} - set(names)):
            raise UserError(f"experiment '{self.name}' pre-trains {strange[0]!r}, which is none of its streams {names}")

    @property
    def is_trained(self) -> bool:
        """Whether anything of it is trained here; what is not, is asked as it was published."""
        return bool(self.finetune.data)


@dataclass(frozen=True)
class Feeding:
    """How clips come to a model, in training as in answering."""

    # Decoder of videos: pyav, decord or torchcodec.
    decoder: str = "pyav"
    # Folder that keeps the encoders' output, to be read instead of encoding again; none when not given.
    # What it keeps is rounded (--store-dtype): a sweep that was made without it is made anew.
    store: Path | None = None
    # Number format in the store: bfloat16, float32 or int8.
    store_dtype: Literal["bfloat16", "float32", "int8"] = "bfloat16"
    # GiB that the store may take; the least recently used clips go first. No limit when not given.
    store_cap_gib: float | None = None

    def shapes_training(self) -> dict[str, object]:
        """What of it trained weights depend on: grids from a store are those of its number format."""
        return {"store_dtype": self.store_dtype} if self.store else {}


#: How CogVLM2's rotary angles are computed, see `models.cogvlm2.rope`.
RopePrecision = Literal["fp32", "ckpt_fp32load", "reference_bf16"]


@dataclass(frozen=True)
class Loading:
    """How a model is loaded for answering; what a family cannot do is refused by name."""

    # GPUs that share its layers; 1 takes the first.
    devices: int = 1
    # Bits of a weight in the LLM's layers, by bitsandbytes; all of them as published when not given.
    bits: Literal[8, 4] | None = None
    # CogVLM2's rotary angles: fp32 is exact, ckpt_fp32load and reference_bf16 are what the original computes when it is
    # loaded in float32 and in bfloat16. When not given what the weights' config.json says, or fp32.
    rope_precision: RopePrecision | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UserError(f"--devices {self.devices} is not possible: choose at least 1")

    def shapes_weights(self) -> dict[str, object]:
        """What of it answers depend on, beside rounding; nothing where it is not chosen."""
        chosen = {"bits": self.bits, "rope_precision": self.rope_precision}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class Asking(Feeding, Loading):
    """How a benchmark is asked."""

    # What decides: the generated text, the options' probabilities, or the text with these written beside it.
    scoring: Literal["generate", "logprob", "both"] = "generate"
    # Questions that go through the LLM together.
    batch_size: int = 1
    # What the encoders compute in; auto is bfloat16 on a GPU and float32 on a CPU.
    encoder_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # Processes that decode clips; 0 decodes in the answering process, where a clip that hangs cannot be ended.
    workers: int = 2
    # Seconds that a clip may take to decode; then it is an error line.
    clip_seconds: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise UserError(f"--batch-size {self.batch_size} is not possible: ask at least 1 question at a time")
        if self.workers < 0:
            raise UserError(f"--workers {self.workers} is not possible: 0 decodes in the answering process itself")
        if not self.clip_seconds > 0:
            raise UserError(f"--clip-seconds {self.clip_seconds:g} is not possible: choose a number above 0")

    def shapes_answers(self) -> dict[str, object]:
        """What of it answers depend on."""
        stored = self.store_dtype if self.store else None
        own = {"scoring": self.scoring, "encoder_dtype": self.encoder_dtype, "store_dtype": stored}
        return {**own, **self.shapes_weights()}


@dataclass(frozen=True)
class Choosing:
    """How the next token of an answer is chosen."""

    # 0 takes the likeliest token; above, tokens are drawn, more evenly the higher it is.
    temperature: float = 0.0
    # Draws among the fewest likeliest tokens that hold this probability together.
    top_p: float = 1.0
    # Above 1, tokens of the question and of the answer so far become less likely.
    repetition_penalty: float = 1.0
    # Draws the same tokens again; others each time when not given.
    seed: int | None = None
    # Tokens of an answer at most; the experiment's own number when not given.
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature:g} is not possible: choose 0 or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g} is not possible: choose above 0, and 1 at most")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"--repetition-penalty {self.repetition_penalty:g} is not possible: choose above 0")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} is not possible: choose from 0 on, below 2**63")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens {self.max_new_tokens} is not possible: choose at least 1")


DEFAULT_FEEDING = Feeding()
DEFAULT_ASKING = Asking()
DEFAULT_LOADING = Loading()
#: The likeliest token, always.
GREEDY = Choosing()
