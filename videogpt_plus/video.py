"""Path -> Clip. The only file that knows a decoder (PyAV for video, Pillow for stills).

Which frames are taken is the reference's evaluation rule, in training too; `sample_indices` and
`folder_indices` hold it as plain arithmetic. What comes back is always real frames, checked by their time
stamps: a file that cannot give a sampled frame is a ClipError, never a neighbouring frame or a blank one.

A file that is cut off is refused when its container says so (a header that promises more frames or a later
end, a torn packet). Where nothing in the file tells it from a shorter one (MPEG-TS, GIF, a fragmented MP4 cut
between two fragments), the frames that are there are taken. The decoder stops at damage that it can see; a
few flipped bits in a codec without checksums, such as H.264, it may not see, and the pictures are then wrong.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange

from videogpt_plus.types import Clip, ClipError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from jaxtyping import UInt8

STILLS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
#: Without a list FFmpeg also takes playlists, which open other files, and draws plain text as a video.
FORMATS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg,wav,mp3"
#: A header's duration may pass the last frame by this much, in seconds, before the file counts as cut off.
SLACK = 0.5


def read_clip(
    path: str | Path,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    folder_fps: float = 3,
) -> Clip:
    """At most `num_frames` frames of a video, GIF, still image or folder of frames, at the source's size.

    `start` and `end` are seconds; an end behind the clip's is the clip's. A still image is one frame. Files
    of a folder are taken in natural order and as `folder_fps` a second. Raises ClipError.
    """
    path = Path(path)
    _check_bounds(path, start, end)
    if path.is_dir():
        return _read_folder(path, num_frames, start, end, folder_fps)
    if not path.exists():
        raise _error(path, "there is no such file", "check the data path, or download the file")
    if path.stat().st_size == 0:
        raise _error(path, "the file is empty", "download it again")
    if path.suffix.lower() in STILLS:
        return Clip(_read_still(path)[None], (0.0,), str(path))
    return _read_video(path, num_frames, start, end)


def sample_indices(
    total: int, fps: float, num_frames: int, start: float | None = None, end: float | None = None
) -> list[int]:
    """Indices of the frames to take out of `total` at `fps`: the reference's evaluation rule.

    One frame a second; where those are too many, `num_frames` of them spread evenly; where they are too few,
    `num_frames` frames spread over the clip or, if it is shorter than that, all. Bounds are cut to whole
    seconds and ordered. Empty when the bounds hold no frame.
    """
    first, last = 0, total - 1
    if start is not None or end is not None:
        bounds = (start or 0, total / fps + 1 if end is None else end)
        begin, stop = sorted(max(0, int(bound)) for bound in bounds)
        first, last = int(begin * fps), int(min((stop if stop > begin else begin + 1) * fps, total - 1))
    each_second = range(first, last + 1, max(1, round(fps)))
    if len(each_second) > num_frames:
        return [each_second[i] for i in np.linspace(0, len(each_second) - 1, num_frames).astype(int)]
    if len(each_second) == num_frames or last <= first:
        return list(each_second)
    stride = (last - first) // min(last - first, num_frames - 1)
    return list(range(first, last + 1, stride))[:num_frames]


def folder_indices(
    total: int, num_frames: int, start: float | None = None, end: float | None = None, fps: float = 3
) -> list[int]:
    """Indices of the files to take out of a folder of `total`: one a second, the first `num_frames` of them.

    The reference spreads nothing here: what lies behind `num_frames` seconds of a folder is never seen.
    """
    first = 0 if start is None else max(0, int(start * fps))
    last = total - 1 if end is None else min(int(end * fps), total - 1)
    return list(range(first, last + 1, max(1, round(fps))))[:num_frames]


def _read_folder(path: Path, num_frames: int, start: float | None, end: float | None, fps: float) -> Clip:
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in STILLS and f.name[0] != "."), key=_natural)
    if not files:
        raise _error(path, "the folder holds no frames", f"put {', '.join(sorted(STILLS))} files into it")
    indices = folder_indices(len(files), num_frames, start, end, fps)
    if not indices:
        raise _outside(path, start, end, len(files) / fps)
    frames = [_read_still(files[i]) for i in indices]
    for index, frame in zip(indices, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise _error(files[index], "its size differs from that of the first frame", "bring all to one size")
    return Clip(torch.stack(frames), tuple(i / fps for i in indices), str(path))


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts frame10 behind frame9."""
    return [(s.isdigit(), int(s) if s.isdigit() else 0, s) for s in re.split(r"(\d+)", path.name) if s]


def _read_still(path: Path) -> UInt8[torch.Tensor, "3 h w"]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    # Pillow reports damage by all of these: a broken PNG chunk is a SyntaxError, an absurd size a bomb.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _error(path, f"the image cannot be read ({_first_line(error)})", "download it again") from error
    return rearrange(torch.from_numpy(pixels), "h w c -> c h w").contiguous()


@dataclass(frozen=True)
class _Timeline:
    """The frames of a video stream in the order of their display."""

    #: Time stamp of each frame in `tick`s; its number where the container keeps no usable time stamps.
    stamps: Sequence[int]
    #: Stamps of the key frames, in order; decoding can begin at one.
    keys: Sequence[int]
    #: Seconds a tick.
    tick: Fraction
    #: Average frames a second.
    fps: float
    #: Stamps are frame numbers: frames are counted, and seeking is impossible.
    counted: bool = False

    def at(self, indices: Sequence[int]) -> list[int]:
        """The stamps of these frames. At a variable rate index i is the frame on show at i / fps."""
        gaps = np.diff(self.stamps) * float(self.tick) * self.fps
        steady = len(gaps) == 0 or (gaps.min() > 0.5 and gaps.max() < 1.5)
        if steady or len(indices) == len(self.stamps):
            return [self.stamps[i] for i in indices]
        times = [self.stamps[0] + i / self.fps / float(self.tick) for i in indices]
        return [self.stamps[bisect_right(self.stamps, time + 1e-3) - 1] for time in times]

    def seconds(self, stamp: int) -> float:
        return float((stamp - self.stamps[0]) * self.tick)


def _read_video(path: Path, num_frames: int, start: float | None, end: float | None) -> Clip:
    import av

    try:
        # "file:" keeps FFmpeg from reading a protocol out of a name with a colon.
        with av.open(f"file:{path}", options={"format_whitelist": FORMATS}) as container:
            stream = _video_stream(path, container)
            timeline = _timeline(path, container, stream)
            total = len(timeline.stamps)
            indices = sample_indices(total, timeline.fps, num_frames, start, end)
            if not indices:
                raise _outside(path, start, end, total / timeline.fps)
            stamps = timeline.at(indices)
            frames = _decode(path, container, stream, timeline, stamps)
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _error(
            path, f"the file is damaged, cut off or no video ({reason})", "download or encode it again"
        ) from error
    return Clip(frames, tuple(timeline.seconds(s) for s in stamps), str(path))


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The video stream with the most pixels; a cover picture is none."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise _error(path, "it has no video stream", "take another file")
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise _error(path, "its codec is unknown to FFmpeg here", f"encode it again: ffmpeg -i {path.name} out.mp4")
    stream = max(known, key=lambda s: s.codec_context.width * s.codec_context.height)
    # Without it damaged pictures are patched up and handed out as if they were good.
    stream.codec_context.options = {"err_detect": "explode"}
    stream.codec_context.thread_count = 1  # see _rgb
    return stream


def _timeline(path: Path, container: InputContainer, stream: VideoStream) -> _Timeline:
    """Reads all packets without decoding: what a header says about its frames is checked, not believed."""
    packets, seen_until = [], 0.0
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.is_corrupt and packet.stream is stream:
            raise _cut_off(path, "a frame ends in the middle")
        if packet.pts is not None:
            seen_until = max(seen_until, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is stream:
            packets.append((packet.pts, packet.is_keyframe, packet.is_discard, packet.duration or 0))
    _check_promises(path, container, stream, len(packets), seen_until)
    shown = [(pts, key, duration) for pts, key, discard, duration in packets if not discard]
    # AVI keeps no time stamps; FFmpeg's guesses are wrong where frames are reordered.
    if container.format.name == "avi" or len({pts for pts, *_ in shown} - {None}) < len(shown):
        return _counted(path, container, stream)
    shown.sort()
    stamps = [pts for pts, *_ in shown]
    ticks = stamps[-1] - stamps[0] + (shown[-1][2] or (stamps[-1] - stamps[0]) // max(1, len(stamps) - 1))
    fps = _rate(stream, len(stamps), float(ticks * stream.time_base))
    return _Timeline(stamps, [pts for pts, key, _ in shown if key] or stamps[:1], stream.time_base, fps)


def _check_promises(path: Path, container: InputContainer, stream: VideoStream, packets: int, until: float) -> None:
    """Refuses a file that holds less than its header says; its last packet ends `until` seconds."""
    import av

    if packets == 0:
        raise _cut_off(path, "no frame is in it")
    if "mp4" in container.format.name and packets < stream.frames:
        raise _cut_off(path, f"{packets} of {stream.frames} frames are in it")
    # Only Matroska's duration is written by the muxer; elsewhere FFmpeg guesses it from what is there.
    if "matroska" in container.format.name and container.duration is not None:
        promised = container.duration / av.time_base
        if until < promised - SLACK:
            raise _cut_off(path, f"{until:.1f} of {promised:.1f} s are in it")


def _counted(path: Path, container: InputContainer, stream: VideoStream) -> _Timeline:
    """The timeline of a file without time stamps, by decoding it once: not every packet gives a frame."""
    container.seek(0)
    total = sum(1 for _ in container.decode(stream))
    if total == 0:
        raise _cut_off(path, "no frame is in it")
    fps = float(stream.average_rate or 1)
    return _Timeline(range(total), [0], 1 / Fraction(fps), fps, counted=True)


def _rate(stream: VideoStream, total: int, seconds: float) -> float:
    """Frames a second: the header's where it fits what was counted, for it is free of rounded time stamps."""
    header = float(stream.average_rate or 0)
    if seconds <= 0:
        return header or 1.0
    counted = total / seconds
    return header if 0.95 < header / counted < 1.05 else counted


def _decode(
    path: Path, container: InputContainer, stream: VideoStream, timeline: _Timeline, stamps: list[int]
) -> UInt8[torch.Tensor, "t 3 h w"]:
    """The frames with these ascending stamps; never more than them and one is in memory."""
    frames, clip = _Frames(container, stream, timeline), None
    for place, stamp in enumerate(stamps):
        frame = frames.at(stamp)
        if frame is None:
            raise _error(
                path,
                f"the frame at {timeline.seconds(stamp):.2f} s cannot be decoded",
                "download or encode it again",
            )
        picture = _rgb(frame)
        if clip is not None and picture.shape != clip.shape[1:]:
            raise _error(path, f"its picture size changes at {timeline.seconds(stamp):.2f} s", "encode it again")
        if clip is None:
            clip = torch.empty(len(stamps), *picture.shape, dtype=torch.uint8)
        clip[place] = picture
    return clip


class _Frames:
    """Goes forward through a stream; seeks only where a key frame lies before the frame asked for."""

    def __init__(self, container: InputContainer, stream: VideoStream, timeline: _Timeline):
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


def _check_bounds(path: Path, start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not math.isfinite(value):
            raise _error(path, f"{name} is {value}", "give it in seconds")
    if end is not None and end <= max(0, start or 0):
        raise _error(path, f"its end at {end:g} s is not behind its start at {start or 0:g} s", "correct the bounds")


def _error(path: Path, what: str, then: str) -> ClipError:
    return ClipError(f"cannot read {path}: {what}; {then}")


def _cut_off(path: Path, what: str) -> ClipError:
    return _error(path, f"the file is cut off, {what}", "download it again")


def _outside(path: Path, start: float | None, end: float | None, seconds: float) -> ClipError:
    bounds = f"from {start or 0:g} s to {'the end' if end is None else f'{end:g} s'}"
    return _error(path, f"nothing of its {seconds:.2f} s lies {bounds}", "correct the bounds")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
