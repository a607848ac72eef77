"""Going through a part of a video file, and telling what is damaged in it from what nobody could decode.

A strict decoder of H.264 also stops at what is no damage: a picture that refers to one in front of a cut, or of a
seek, which nothing of what is shown needs. So a part in which it stopped is gone through again by a lenient one. That
part is sound if the lenient one patched nothing up and gave just the same frames: a picture that was really lost or
broken is patched up by the lenient one, or given by it alone. Lenient decoders of other codecs do not tell what they
patched up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.clips.decoders.source import EXTRAS, Failed, Mode, damaged, frames, opened, told

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Codecs whose lenient decoder tells of each frame whether it was patched up.
TELLING = frozenset({"h264"})
#: Gets each frame with its time stamp, or its number where frames are counted. A second time, where a part is gone
#: through again: what it got the second time counts.
Take = Callable[[int, "VideoFrame"], None]


@dataclass(frozen=True)
class Part:
    """A part of a file."""

    #: The stamp of the key frame that it begins at; None for the file's beginning.
    begin: int | None = None
    #: It ends at the first frame with this stamp or a later one; None for the file's end.
    end: int | None = None
    #: Whether frames are identified by their number in the file instead of their time stamp.
    counted: bool = False


@dataclass
class _Seen:
    """What came of going through a part once."""

    stamps: list[int | None] = field(default_factory=list)
    failed: Failed = field(default_factory=Failed)
    patched: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing was patched up or refused, but for what is shown in front of the first key frame."""
        return not self.patched and not self.failed.behind_key


def through(path: Path, part: Part, take: Take) -> list[int | None]:
    """The stamps of the part's frames, each of which `take` got. ClipError: the part is damaged."""
    with opened(path) as source:
        return onward(path, *source, part, take)


def onward(path: Path, container: InputContainer, stream: VideoStream, part: Part, take: Take) -> list[int | None]:
    """As `through`, of a file that is open: strictly, and untouched where the part is the file's beginning."""
    with told(path):
        strict = _go(container, stream, Mode.STRICT, part, take)
    codec = stream.codec_context.name
    if not strict.failed.stamps or (strict.sound and codec not in TELLING):
        return strict.stamps
    if codec in TELLING:
        lenient = _again(path, Mode.LENIENT, part, take)
        if lenient.sound and lenient.stamps == strict.stamps:
            return lenient.stamps
    if codec in EXTRAS and part.begin is None:
        bare = _again(path, Mode.BARE, part, take)
        if not bare.failed.stamps:
            return bare.stamps
    raise damaged(path, strict.failed.reason)


def _again(path: Path, mode: Mode, part: Part, take: Take) -> _Seen:
    # Opened again: a seek to the beginning loses the palette of an AVI, and frames in front of the first key frame.
    with opened(path, mode) as (container, stream):
        return _go(container, stream, mode, part, take)


def _go(container: InputContainer, stream: VideoStream, mode: Mode, part: Part, take: Take) -> _Seen:
    if part.begin is not None:
        container.seek(part.begin, stream=stream, backward=True)
    seen, tells = _Seen(), stream.codec_context.name in TELLING
    for frame in frames(container, stream, mode, seen.failed):
        if not tells and seen.failed.stamps and seen.failed.is_before_key(frame.pts):
            continue  # it refers to what was refused
        place = len(seen.stamps) if part.counted else frame.pts
        seen.stamps.append(frame.pts)
        seen.patched = seen.patched or frame.is_corrupt
        if place is None:
            continue
        take(place, frame)
        if part.end is not None and place >= part.end:
            break
    return seen
