"""FFmpeg by PyAV: the decoder that is always there, and the one that stops at damage it can see.

A few flipped bits in a codec without checksums, such as H.264, it may not see, and the pictures are then wrong.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange

from videogpt_plus.decoders.timeline import Timeline, opened
from videogpt_plus.types import Clip, unreadable

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from jaxtyping import UInt8


def read(path: Path, choose: Callable[[Timeline], list[int]]) -> Clip:
    """See `decoders`."""
    with opened(path) as (container, stream, timeline):
        stamps = choose(timeline)
        frames = _decode(path, container, stream, timeline, stamps)
    return Clip(frames, tuple(timeline.seconds(s) for s in stamps), str(path))


def _decode(
    path: Path, container: InputContainer, stream: VideoStream, timeline: Timeline, stamps: list[int]
) -> UInt8[torch.Tensor, "t 3 h w"]:
    """The frames with these ascending stamps; never more than them and one is in memory."""
    frames, clip = _Frames(container, stream, timeline), None
    for place, stamp in enumerate(stamps):
        frame = frames.at(stamp)
        if frame is None:
            raise unreadable(
                path,
                f"the frame at {timeline.seconds(stamp):.2f} s cannot be decoded",
                "download or encode it again",
            )
        picture = _rgb(frame)
        if clip is not None and picture.shape != clip.shape[1:]:
            raise unreadable(path, f"its picture size changes at {timeline.seconds(stamp):.2f} s", "encode it again")
        if clip is None:
            clip = torch.empty(len(stamps), *picture.shape, dtype=torch.uint8)
        clip[place] = picture
    return clip


class _Frames:
    """Goes forward through a stream; seeks only where a key frame lies before the frame asked for."""

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: Timeline):
        self.container, self.stream, self.timeline = container, stream, timeline
        self.current: tuple[int, VideoFrame] | None = None
        self._rewind()

    def at(self, stamp: int) -> VideoFrame | None:
        """The frame with exactly this stamp, not before the last one asked for; None if there is none."""
        key = self.timeline.keys[max(0, bisect_right(self.timeline.keys, stamp) - 1)]
        jump = self.current is not None and self.current[0] < key and not self.timeline.counted
        if jump:
            self._seek(key)
        if self._advance(stamp) == stamp:
            return self.current[1]
        if jump:  # some containers seek too far: go there from the beginning
            self._rewind()
            if self._advance(stamp) == stamp:
                return self.current[1]
        return None

    def _rewind(self) -> None:
        # To 0 even if the first frame is later: MPEG-TS seeks behind a frame that it is asked for by name.
        self._seek(min(0, self.timeline.stamps[0]))

    def _seek(self, stamp: int) -> None:
        self.container.seek(stamp, stream=self.stream, backward=True)
        self.decoded, self.current = self._stamped(), None

    def _stamped(self) -> Iterator[tuple[int, VideoFrame]]:
        for number, frame in enumerate(self.container.decode(self.stream)):
            yield (number if self.timeline.counted else frame.pts), frame

    def _advance(self, stamp: int) -> int | None:
        """Decodes up to the first frame at or behind `stamp` and returns its stamp."""
        while self.current is None or self.current[0] < stamp:
            self.current = next(self.decoded, None)
            if self.current is None:
                return None
        return self.current[0]


def _rgb(frame: VideoFrame) -> UInt8[torch.Tensor, "3 h w"]:
    """In the colour range and matrix that the frame declares, turned upright."""
    # One thread, here and in the decoder: FFmpeg's threads live until the frame is freed, and a forked data
    # worker that frees a frame of its parent waits forever for threads that it does not have.
    pixels = frame.to_ndarray(format="rgb24", threads=1)
    pixels = np.rot90(pixels, k=round(frame.rotation / 90))
    return rearrange(torch.from_numpy(pixels.copy()), "h w c -> c h w")
