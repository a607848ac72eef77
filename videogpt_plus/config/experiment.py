"""Frozen configs. An experiment is a value; every ablation is a `with_settings(...)` of another (experiments.py).

Nothing here imports torch: `videogpt-plus tokens` and the report read experiments on a bare laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import ClassVar, TypeVar

from videogpt_plus.config.bounds import check_numbers
from videogpt_plus.config.training import Pretraining, Training
from videogpt_plus.reducers import Reducer
from videogpt_plus.reducers.average import Average
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
class Branch:
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
class Sampling:
    """What the encoders see of a clip, in training as in evaluation."""

    # Frames at most.
    num_frames: int = 16
    # Which ones, a name in `video.SAMPLINGS`: all branches see the same.
    rule: str = "spread"
    # How a still image becomes square: "pad", by the encoders that were trained on padded ones, or "crop".
    stills: str = "pad"

    def __post_init__(self) -> None:
        check_numbers(self, {"num_frames": 1})


@dataclass(frozen=True)
class Prompting:
    """How the LLM is asked, in fine-tuning as in evaluation, and how much it may say."""

    # Conversation template, a name in `chat.TEMPLATES`.
    template: str = "qwen2"
    # Tokens of an answer at most.
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, {"max_new_tokens": 1})


@dataclass(frozen=True)
class Published:
    """The weights are asked as they were published."""

    kind: ClassVar[str] = "published"


@dataclass(frozen=True)
class Random:
    """The weights are random: a control, whose answers mean nothing."""

    kind: ClassVar[str] = "random"
    # It draws the weights.
    seed: int = 20

    def __post_init__(self) -> None:
        check_numbers(self, {"seed": 0}, {"seed": 2**32 - 1})


@dataclass(frozen=True)
class Trained:
    """LoRA is trained here, and every projector that was pre-trained here."""

    kind: ClassVar[str] = "trained"
    # Fine-tuning at the level.
    finetune: Training
    # Pre-training of each branch's projector, by name; none where projectors were published with the LLM.
    pretrain: tuple[tuple[str, Pretraining], ...] = ()
    # LoRA of the fine-tuning.
    lora: Lora = Lora()
    # What the weights are that training begins with.
    base: Published | Random = Published()


@dataclass(frozen=True)
class Pretrained:
    """The projector of the one branch is trained here: a start for fine-tuning, which answers nothing."""

    kind: ClassVar[str] = "pretrained"
    training: Pretraining


Source = Trained | Pretrained | Published | Random


@dataclass(frozen=True)
class Experiment:
    """One model of a sweep: what it is made of, where its weights come from, what it sees, how it is asked."""

    # Unique name, also of its output folder.
    name: str
    # Folder of the LLM and its tokenizer, in Hugging Face's layout.
    llm: str
    # Encoders by name in token order: the reference puts image tokens before video tokens.
    branches: tuple[tuple[str, Branch], ...]
    # Where the weights come from: Trained, Pretrained, Published or Random.
    source: Source
    # How grids become visual tokens, with the pool level.
    reducer: Reducer = Average()
    # What the encoders see of a clip.
    sampling: Sampling = Sampling()
    # How the LLM is asked.
    prompting: Prompting = Prompting()
    # Model family, a name in `families.FAMILIES`.
    family: str = "dual_encoder"
    # Benchmark folder in MVBench's layout.
    benchmark_root: str = ".cache/MVBench"

    def __post_init__(self) -> None:
        if not self.branches:
            raise UserError(f"experiment '{self.name}' has no branches: it needs at least one")

    def check_whole(self) -> None:
        """UserError unless its parts fit each other, as those of an experiment that was written to a file must."""
        names = [name for name, _ in self.branches]
        for _, branch in self.branches:
            check_numbers(branch, {"grid": 1, "width": 1})
        if strange := sorted({name for name, _ in self.pretrain} - set(names)):
            what = f"pre-trains {strange[0]!r}, which is none of its branches {names}"
            raise UserError(f"experiment '{self.name}' {what}")

    @property
    def level(self) -> float:
        return self.reducer.level

    @property
    def num_frames(self) -> int:
        return self.sampling.num_frames

    @property
    def max_new_tokens(self) -> int:
        return self.prompting.max_new_tokens

    @property
    def is_trained(self) -> bool:
        """Whether anything of it is trained here; what is not, is asked as its weights are."""
        return isinstance(self.source, Trained | Pretrained)

    @property
    def is_random(self) -> bool:
        """Whether nobody taught the weights below it anything, so that its answers mean nothing."""
        base = self.source.base if isinstance(self.source, Trained) else self.source
        return isinstance(base, Random)

    @property
    def training(self) -> Training:
        """Of the stage that fills its run folder. UserError: none does."""
        if isinstance(self.source, Trained):
            return self.source.finetune
        if isinstance(self.source, Pretrained):
            return self.source.training
        raise UserError(
            f"{self.name} is asked as it was published, and is not trained: `videogpt-plus answer {self.name}`"
        )

    @property
    def pretrain(self) -> tuple[tuple[str, Pretraining], ...]:
        """The pre-training of each projector that is trained before the fine-tuning, by branch."""
        return self.source.pretrain if isinstance(self.source, Trained) else ()

    @property
    def trains_projectors(self) -> bool:
        """Whether its projectors are pre-trained here; others were published with the LLM, and stay as they are."""
        return bool(self.pretrain)

    @property
    def lora(self) -> Lora:
        """LoRA of the fine-tuning. UserError: there is none."""
        self.check_finetuned()
        return self.source.lora

    def check_finetuned(self) -> None:
        """UserError: it is not."""
        if self.training and not isinstance(self.source, Trained):
            raise UserError(f"{self.name} is the pre-training of a projector alone: name the experiment that uses it")

    @property
    def seed(self) -> int | None:
        """The seed of the training; None where there is none."""
        return self.training.seed if self.is_trained else None


def pretraining_experiment(experiment: Experiment, name: str) -> Experiment:
    """What the pre-training of a branch depends on and no more: all levels and reducers share its projector."""
    branches, trainings = dict(experiment.branches), dict(experiment.pretrain)
    if name not in branches or name not in trainings:
        raise UserError(f"unknown stream '{name}'; choose from: {', '.join(trainings)}")
    training = trainings[name]
    return Experiment(
        name=f"pretrain_{name}",
        llm=experiment.llm,
        branches=((name, branches[name]),),
        source=Pretrained(training),
        sampling=replace(experiment.sampling, stills=training.stills),
        prompting=Prompting(training.template),
        family=experiment.family,
    )


T = TypeVar("T")


def with_settings(value: T, settings: Mapping[str, object]) -> T:
    """A copy with other values at dotted names: {"reducer.level": 2, "branches.video.pixels": 224}.

    UserError: there is no such setting.
    """
    for name, new in settings.items():
        value = _put(value, name.split("."), new, name)
    return value


def _put(value: object, path: list[str], new: object, name: str) -> object:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, tuple) and first in (named := dict(value)):
        return tuple((named | {first: _put(named[first], rest, new, name)}).items())
    if not is_dataclass(value) or first not in value.__dataclass_fields__:
        known = [key for key, _ in value] if isinstance(value, tuple) else getattr(value, "__dataclass_fields__", ())
        raise UserError(f"there is no setting '{name}': of '{first}' choose from: {', '.join(known)}")
    return replace(value, **{first: _put(getattr(value, first), rest, new, name)})
