"""Frozen configs. An experiment is a value; every ablation is a `replace(...)` of another (experiments.py).

Nothing here imports torch: `videogpt-plus tokens` and the report read experiments on a bare laptop.
"""

from __future__ import annotations

from dataclasses import dataclass

from videogpt_plus.config.bounds import MOST, check_numbers
from videogpt_plus.config.training import Training
from videogpt_plus.reducers.summary_options import Summary
from videogpt_plus.types import UserError


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
        check_numbers(self, {"depth": 2, "width": 1, "heads": 1, "patch": 1, "chunk": 1, "mlp_ratio": 0})
        if self.width % self.heads:
            raise UserError(f"InternVideo2Size has width {self.width}, which {self.heads} heads cannot share evenly")


@dataclass(frozen=True)
class Stream:
    """One frozen encoder with its projector. Sizes are checked against the weights when they load."""

    # Name of an encoder, see `encoders.known`.
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
        check_numbers(self, {"pixels": 1, "grid": 0, "width": 0})  # 0 is what code says that only preprocesses


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
        check_numbers(self, {"r": 1, "alpha": 0, "dropout": 0}, {"dropout": 1})


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
    # Model family, a name in `families.FAMILIES`.
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
            check_numbers(stream, {"grid": 1, "width": 1})
        if strange := sorted({name for name, _ in self.pretrain} - set(names)):
            raise UserError(f"experiment '{self.name}' pre-trains {strange[0]!r}, which is none of its streams {names}")

    @property
    def is_trained(self) -> bool:
        """Whether anything of it is trained here; what is not, is asked as it was published."""
        return bool(self.finetune.data)
