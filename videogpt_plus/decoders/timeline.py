"""What frames a video file holds, told without decoding it. Every decoder takes its frames by these time stamps.

A file that is cut off is refused when its container says so (a header that promises more frames or a later
end, a torn packet). Where nothing in the file tells it from a shorter one (MPEG-TS, GIF, a fragmented MP4 cut
between two fragments), the frames that are there are taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videogpt_plus.types import ClipError, unreadable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Without a list FFmpeg also takes playlists, which open other files, and draws plain text as a video.
FORMATS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg,wav,mp3"
#: A header's duration may pass the last frame by this much, in seconds, before the file counts as cut off.
SLACK = 0.5


@dataclass(frozen=True)
class Timeline:
    """The frames of a video stream in the order of their display."""

    #: Time stamp of each frame in `tick`s; its number where the container keeps no usable time stamps.
    stamps: Sequence[int]
    #: Stamps at which decoding can begin, in order.
    keys: Sequence[int]
    #: Seconds a tick.
    tick: Fraction
    #: Average frames a second.
    fps: float
    #: Stamps are frame numbers: frames are counted, and seeking is impossible.
    counted: bool = False
    #: The file holds frames that are not shown.
    hides: bool = False
    #: Some frames are shown before the key frame that they are decoded behind.
    overtakes: bool = False

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


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, Timeline]]:
    """The open file with its largest video stream. ClipError: what FFmpeg says of it, while it is open."""
    import av

    try:
        # "file:" keeps FFmpeg from reading a protocol out of a name with a colon.
        with av.open(f"file:{path}", options={"format_whitelist": FORMATS}) as container:
            stream = _video_stream(path, container)
            yield container, stream, _timeline(path, container, stream)
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        what = f"the file is damaged, cut off or no video ({reason})"
        raise unreadable(path, what, "download or encode it again") from error


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The video stream with the most pixels; a cover picture is none."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise unreadable(path, "it has no video stream", "take another file")
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise unreadable(path, "its codec is unknown to FFmpeg here", f"encode it again: ffmpeg -i {path.name} out.mp4")
    stream = max(known, key=lambda s: s.codec_context.width * s.codec_context.height)
    # Without it damaged pictures are patched up and handed out as if they were good.
    stream.codec_context.options = {"err_detect": "explode"}
    stream.codec_context.thread_count = 1  # see pyav._rgb
    return stream


def _timeline(path: Path, container: InputContainer, stream: VideoStream) -> Timeline:
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
    keys, open_keys = _keys([(pts, key) for pts, key, _ in shown])
    shown.sort()
    stamps = [pts for pts, *_ in shown]
    ticks = stamps[-1] - stamps[0] + (shown[-1][2] or (stamps[-1] - stamps[0]) // max(1, len(stamps) - 1))
    fps = _rate(stream, len(stamps), float(ticks * stream.time_base))
    # An HEVC decoder leaves out by itself what it cannot show behind an open key frame; others call it damage.
    begins = keys if stream.codec_context.name == "hevc" else keys - open_keys
    hides = len(shown) < len(packets)
    return Timeline(stamps, sorted({stamps[0], *begins}), stream.time_base, fps, hides=hides, overtakes=bool(open_keys))


def _keys(shown: list[tuple[int, bool]]) -> tuple[set[int], set[int]]:
    """Stamps of all key frames, and of the open ones: frames decoded behind one of these are shown before it.

    Such frames need what stands before the key frame, so that decoding cannot begin there.
    """
    keys, open_keys, last = set(), set(), None
    for stamp, is_key in shown:
        if is_key:
            last = stamp
            keys.add(stamp)
        elif last is not None and stamp < last:
            open_keys.add(last)
    return keys, open_keys


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


def _counted(path: Path, container: InputContainer, stream: VideoStream) -> Timeline:
    """The timeline of a file without time stamps, by decoding it once: not every packet gives a frame."""
    container.seek(0)
    total = sum(1 for _ in container.decode(stream))
    if total == 0:
        raise _cut_off(path, "no frame is in it")
    fps = float(stream.average_rate or 1)
    return Timeline(range(total), [0], 1 / Fraction(fps), fps, counted=True)


def _rate(stream: VideoStream, total: int, seconds: float) -> float:
    """Frames a second: the header's where it fits what was counted, for it is free of rounded time stamps."""
    header = float(stream.average_rate or 0)
    if seconds <= 0:
        return header or 1.0
    counted = total / seconds
    return header if 0.95 < header / counted < 1.05 else counted


def _cut_off(path: Path, what: str) -> ClipError:
    return unreadable(path, f"the file is cut off, {what}", "download it again")
