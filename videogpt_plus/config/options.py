"""How clips come to a model, how a model is loaded, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videogpt_plus.types import UserError


@dataclass(frozen=True)
class LoaderConfig:
    """How clips come to a model, in training as in answering."""

    # Decoder of videos: pyav, decord or torchcodec.
    decoder: str = "pyav"
    # Folder that keeps the encoders' output, to be read instead of encoding again; none when not given.
    # Its features are rounded (--store-dtype): a sweep that was made without it is computed again.
    store: Path | None = None
    # Number format in the store: bfloat16, float32 or int8.
    store_dtype: Literal["bfloat16", "float32", "int8"] = "bfloat16"
    # GiB that the store may take; the least recently used clips go first. No limit when not given.
    store_cap_gib: float | None = None

    def shapes_training(self) -> dict[str, object]:
        """Settings that change the trained weights."""
        return {"store_dtype": self.store_dtype} if self.store else {}


#: How CogVLM2's rotary angles are computed, see `families.cogvlm2.rope`.
RopePrecision = Literal["fp32", "ckpt_fp32load", "reference_bf16"]


@dataclass(frozen=True)
class LoadConfig:
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
        """Settings that change the answers, apart from rounding; {} where none is chosen."""
        chosen = {"bits": self.bits, "rope_precision": self.rope_precision}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class EvalConfig(LoaderConfig, LoadConfig):
    """How a benchmark is asked."""

    # What decides: the generated text, the options' probabilities, or the text, with the probabilities recorded.
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
        """Settings that change the answers."""
        stored = self.store_dtype if self.store else None
        own = {"scoring": self.scoring, "encoder_dtype": self.encoder_dtype, "store_dtype": stored}
        return {**own, **self.shapes_weights()}


@dataclass(frozen=True)
class GenerationConfig:
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


DEFAULT_LOADER = LoaderConfig()


DEFAULT_EVAL = EvalConfig()


DEFAULT_LOAD = LoadConfig()


#: The likeliest token, always.
GREEDY = GenerationConfig()
