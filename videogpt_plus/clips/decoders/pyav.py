"""FFmpeg by PyAV: the decoder that is always there, and the one that stops at damage it can see.

A few flipped bits in a codec without checksums, such as H.264, it may not see, and the pictures are then wrong.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange

from videogpt_plus.clips.decoders import source
from videogpt_plus.clips.decoders.timeline import Timeline, opened, recounted
from videogpt_plus.clips.decoders.upright import upright
from videogpt_plus.clips.decoders.walk import Part, onward, through
from videogpt_plus.types import Clip, ClipError, unreadable

if TYPE_CHECKING:
    from av import VideoFrame
    from jaxtyping import UInt8


def read(path: Path, choose: Callable[[Timeline], list[int]]) -> Clip:
    """See `decoders`."""
    with opened(path) as (*_, timeline):
        stamps = choose(timeline)
    rows = _Rows(path, timeline, stamps)
    _decode(path, timeline, rows)
    if rows.missing():  # though nothing is damaged: some packets give no frame
        timeline = recounted(path)
        rows = _Rows(path, timeline, choose(timeline))
        _decode(path, timeline, rows)
    if missing := rows.missing():
        what = f"the frame at {timeline.seconds(missing[0]):.2f} s cannot be decoded"
        raise unreadable(path, what, "download or encode it again")
    return Clip(rows.frames, tuple(timeline.seconds(s) for s in rows.stamps), str(path))


def _decode(path: Path, timeline: Timeline, rows: _Rows) -> None:
    """Fills the rows. ClipError: the file is damaged, also where it is gone through from its beginning."""
    if not _jump(path, timeline, rows):
        through(path, Part(end=rows.stamps[-1], counted=timeline.counted), rows.take)


def _jump(path: Path, timeline: Timeline, rows: _Rows) -> bool:
    """Fills the rows from one key frame to the next, and says whether that succeeded.

    Some containers seek too far, and some key frames need what stands in front of them: what fails behind a jump is
    not damaged yet. ClipError: the file is, in front of the first jump.
    """
    first, *others = _parts(timeline, rows.stamps)
    with source.opened(path) as opened_file:
        onward(path, *opened_file, first, rows.take)
        with suppress(ClipError):
            for part in others:
                onward(path, *opened_file, part, rows.take)
            return not (others and rows.missing())
    return False


def _parts(timeline: Timeline, stamps: Sequence[int]) -> list[Part]:
    """The parts to go through: a new one begins where a key frame lies between two of the ascending stamps."""
    parts, begin, last = [], None, stamps[0]
    for stamp in stamps[1:]:
        key = timeline.keys[max(0, bisect_right(timeline.keys, stamp) - 1)]
        if last < key and not timeline.counted:
            parts.append(Part(begin, last))
            begin = key
        last = stamp
    return [*parts, Part(begin, last, timeline.counted)]


class _Rows:
    """The pictures of a clip with these ascending stamps; never more than them and one are in memory."""

    def __init__(self, path: Path, timeline: Timeline, stamps: list[int]):
        self.path, self.timeline, self.stamps = path, timeline, stamps
        self.places: dict[int, list[int]] = {}
        for place, stamp in enumerate(stamps):
            self.places.setdefault(stamp, []).append(place)
        self.frames: UInt8[torch.Tensor, "t 3 h w"] | None = None
        self.taken: set[int] = set()

    def take(self, stamp: int, frame: VideoFrame) -> None:
        """Keeps the frame if it is one of them. ClipError: its size differs from the others'."""
        if stamp not in self.places:
            return
        picture = rearrange(torch.from_numpy(upright(frame)), "h w c -> c h w")
        if self.frames is None:
            self.frames = torch.empty(len(self.stamps), *picture.shape, dtype=torch.uint8)
        if picture.shape != self.frames.shape[1:]:
            when = self.timeline.seconds(stamp)
            raise unreadable(self.path, f"its picture size changes at {when:.2f} s", "encode it again")
        self.frames[self.places[stamp]] = picture
        self.taken.add(stamp)

    def missing(self) -> list[int]:
        """The stamps whose frame did not come."""
        return [stamp for stamp in self.stamps if stamp not in self.taken]
