"""The values that flow through the pipe, and the letters that name their axes.

b  samples         t  frames          h w  patch grid        p  pixel side
d  width           n  visual tokens   l    text tokens       s  merged length

path -> Clip -> Visual (pixels a stream, or its grid out of a store) -> grid "t h w d" -> tokens "n d" ->
inputs_embeds "b s d"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt8
    from torch import Tensor

#: What may be withheld from the model, so that seeing can be told from guessing, and order from what is seen.
CONTROLS: dict[str, str] = {
    "blind": "no video: the prompt without any visual token",
    "one_frame": "one frame, repeated to the full number of frames",
    "shuffled": "all frames, in a random order that is fixed for each question",
}
Control = Literal["blind", "one_frame", "shuffled"]

#: Stands in `input_ids` where one frame of a visual goes; `merge.splice` replaces whole runs of it.
PLACEHOLDER = -200
#: Label of a position that is not supervised.
IGNORE = -100


class UserError(Exception):
    """Something the user gave is wrong. The message is one line: what, which file or value, what to do next.

    The command line prints it without a traceback and exits with code 2. It is no ValueError: the parser of the
    command line would catch that where a config refuses an option, and say it in its own way.
    """


class ClipError(UserError):
    """One entry cannot be used: its clip cannot be read, or its words are none that the LLM can read.

    In a benchmark it is one error line, in a training another sample takes its place; never a crash.
    """


#: Characters of a path in a message, half of them from either end.
SHOWN = 300


def unreadable(path: str | Path, what: str, then: str) -> ClipError:
    """The ClipError of a path: what is wrong with it, and what to do. A path that no file can have is cut."""
    told = str(path)
    told = told if len(told) <= SHOWN else f"{told[: SHOWN // 2]}...{told[-SHOWN // 2 :]}"
    return ClipError(f"cannot read {told}: {what}; {then}")


@dataclass(frozen=True)
class Clip:
    """Sampled frames of one video, image or frame folder; every frame is a real one."""

    #: Of a folder whose pictures differ in size: each by itself, "3 h w".
    frames: UInt8[Tensor, "t 3 h w"] | tuple[UInt8[Tensor, "3 h w"], ...]
    #: Time of each frame in seconds from the beginning of the file; 0 for an image.
    seconds: tuple[float, ...]
    #: The path it was read from, for messages.
    source: str

    def taken(self, order: Sequence[int]) -> Clip:
        """The frames of these numbers, in this order."""
        chosen = tuple(self.frames[i] for i in order) if isinstance(self.frames, tuple) else self.frames[order]
        return Clip(chosen, tuple(self.seconds[i] for i in order), self.source)

    def of_one_size(self) -> list[Clip]:
        """The clip itself, or each of its frames as a clip where their sizes differ."""
        if not isinstance(self.frames, tuple):
            return [self]
        return [Clip(frame[None], (at,), self.source) for frame, at in zip(self.frames, self.seconds, strict=True)]


class Nothing(dict):
    """An empty dict that stays empty: a default that cannot be filled for everybody by mistake."""

    def _refuse(self, *_: object) -> None:
        raise TypeError("this is the empty default: make a dict of your own")

    __setitem__ = setdefault = update = __ior__ = _refuse


class Visual(NamedTuple):
    """What one `<image>` or `<video>` of a conversation becomes before the LLM: pixels, or grids made before.

    Each stream of the model is in `pixels` or in `grids`.
    """

    #: Stream name ("image", "video") -> Float "t 3 p p", normalised.
    pixels: dict[str, Tensor]
    #: How many PLACEHOLDER ids stand for it in `input_ids`: one for each frame.
    placeholders: int
    #: Stream name -> Float "t h w d": what the frozen encoder makes of the pixels, before projector and pooling.
    grids: dict[str, Tensor] = Nothing()
    #: Its name in the grid store; None where it is not to be kept.
    key: str | None = None


class Batch(TypedDict):
    """One padded batch. Samples may hold any number of visuals, none included."""

    input_ids: Int[Tensor, "b l"]  # right-padded; PLACEHOLDER where frames stand
    attention_mask: Bool[Tensor, "b l"]  # False on padding
    labels: Int[Tensor, "b l"]  # IGNORE where not supervised
    visuals: Sequence[Sequence[Visual]]  # for each sample, in the order of its placeholders


class Askable(Protocol):
    """What a question about a clip has to say so that a model can be asked it. It is hashable."""

    #: Where the clip lies: a file or a folder of frames.
    path: Path
    #: The clip's name in messages.
    video: str
    #: Bounds in seconds; None where the whole clip is meant.
    start: float | None
    end: float | None
    #: What the model reads, without placeholders.
    prompt: str
    #: Hexadecimal digits that name the question by its content; the controls draw by them.
    key: str
    #: The options in order; none of an open question.
    candidates: Sequence[str]
    #: What a model says for each option; None for its letter in brackets.
    spoken: tuple[str, ...] | None


class Question(NamedTuple):
    """A question, and the names of the models that it is for."""

    example: Askable
    models: tuple[str, ...]


class Reply(NamedTuple):
    """What a model said, how many visual tokens it was shown, and what that took."""

    #: What it said, greedily; the most likely option `(C)` where only the options' probabilities were asked for.
    text: str
    visual_tokens: int
    #: log P of each option's letter; None where they were not asked for.
    option_logprobs: tuple[float, ...] | None = None
    #: Seconds for this answer. Of a batch, or of a clip that serves several answers: this one's even share.
    seconds: float | None = None
    #: Of these, decoding and encoding: what models that are asked together do once. It counts fully for each.
    seconds_encode: float | None = None
    #: Until the first token: encoding and prefill.
    seconds_first: float | None = None


#: What became of a question: by model a reply, or why that model cannot be asked it; or a clip that cannot be read.
Outcome: TypeAlias = "Mapping[str, Reply | ClipError] | ClipError"


def check_control(control: str | None) -> None:
    """Raises UserError unless `control` is None or one of CONTROLS."""
    if control is not None and control not in CONTROLS:
        raise UserError(f"unknown control '{control}'; choose from: {', '.join(CONTROLS)}")
