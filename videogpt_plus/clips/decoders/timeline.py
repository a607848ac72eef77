"""What frames a video file shows. Every decoder takes its frames by these time stamps.

It is told by the packets of the file, most of which are not decoded. Where packets do not tell it, the file is
decoded once: `recounted`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from videogpt_plus.clips.decoders import source
from videogpt_plus.clips.decoders.source import FORMATS as FORMATS
from videogpt_plus.clips.decoders.walk import Part, through
from videogpt_plus.clips.decoders.whole import check_whole, cut_off

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: A torn packet so close in front of a key frame may be whole, in a file that was joined there: decoding it will tell,
#: where the codec has a decoder that finds what is torn.
JOINED, FINDS_TORN = 2, frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})


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
        if _steady(self.stamps, self.tick, self.fps) or len(indices) == len(self.stamps):
            return [self.stamps[i] for i in indices]
        times = [self.stamps[0] + i / self.fps / float(self.tick) for i in indices]
        return [self.stamps[bisect_right(self.stamps, time + 1e-3) - 1] for time in times]

    def seconds(self, stamp: int) -> float:
        return float((stamp - self.stamps[0]) * self.tick)


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool
    duration: int


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, Timeline]]:
    """The open file with its largest video stream. ClipError: it is damaged, cut off or no video."""
    with source.opened(path) as (container, stream):
        yield container, stream, _timeline(path, container, stream)


def recounted(path: Path) -> Timeline:
    """The timeline of a file by decoding it once, where not every packet gives a frame. ClipError: it is damaged."""
    with source.opened(path) as (container, stream):
        tick, rate = stream.time_base, float(stream.average_rate or 0)
        is_avi = container.format.name == "avi"
    stamps = through(path, Part(), lambda *_: None)
    if not stamps:
        raise cut_off(path, "no frame is in it")
    # AVI keeps no time stamps; FFmpeg's guesses are wrong where frames are reordered.
    if is_avi or None in stamps or stamps != sorted(set(stamps)):
        return _numbered(len(stamps), rate or 1.0)
    ticks = (stamps[-1] - stamps[0]) * len(stamps) // max(1, len(stamps) - 1)
    return Timeline(stamps, stamps[:1], tick, _rate(rate, stamps, tick, ticks))


def _numbered(total: int, fps: float) -> Timeline:
    return Timeline(range(total), [0], 1 / Fraction(fps), fps, counted=True)


def _timeline(path: Path, container: InputContainer, stream: VideoStream) -> Timeline:
    """Reads all packets without decoding: what a header says about its frames is checked, not believed."""
    packets = _read_packets(path, container, stream)
    shown = [packet for packet in packets if not packet.is_hidden]
    if container.format.name == "avi" or not _are_in_order(shown):
        return recounted(path)
    keys, open_keys = _keys([(packet.pts, packet.is_key) for packet in shown])
    in_order = sorted(shown, key=lambda packet: packet.pts)
    stamps = [packet.pts for packet in in_order]
    last = in_order[-1].duration or (stamps[-1] - stamps[0]) // max(1, len(stamps) - 1)
    fps = _rate(float(stream.average_rate or 0), stamps, stream.time_base, stamps[-1] - stamps[0] + last)
    # An HEVC decoder leaves out by itself what it cannot show behind an open key frame; others call it damage.
    begins = keys if stream.codec_context.name == "hevc" else keys - open_keys
    timeline = Timeline(
        stamps,
        sorted({stamps[0], *begins}),
        stream.time_base,
        fps,
        hides=len(shown) < len(packets),
        overtakes=bool(open_keys),
    )
    first_key = next((packet.pts for packet in packets if packet.is_key), None)
    is_cut = not packets[0].is_key or (first_key is not None and stamps[0] < first_key)
    return _begun(path, timeline) if is_cut else timeline


def _read_packets(path: Path, container: InputContainer, stream: VideoStream) -> list[_Packet]:
    """The stream's packets in the order of the file. ClipError: some are missing or torn."""
    packets, seen_until, torn = [], 0.0, None
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.pts is not None:
            seen_until = max(seen_until, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream or (packets and _is_comment(packet)):
            continue
        if torn is not None and packet.is_keyframe and stream.codec_context.name in FINDS_TORN:
            torn = None
        elif torn is not None and len(packets) - torn >= JOINED:
            break
        if packet.is_corrupt and torn is None:
            torn = len(packets)
        is_key = packet.is_keyframe and (bool(packets) or _begins_anew(packet))
        packets.append(_Packet(packet.pts, packet.dts, is_key, packet.is_discard, packet.duration or 0))
    if torn is not None:
        raise cut_off(path, "a frame ends in the middle")
    check_whole(path, container, stream, len(packets), seen_until)
    return packets


def _is_comment(packet: Packet) -> bool:
    """Whether a packet of a GIF, behind its first, holds no picture."""
    if packet.stream.codec_context.name != "gif":
        return False
    content, place = bytes(packet), 0
    while content[place : place + 1] == b"!":  # an extension: its kind, then blocks that tell their size, an empty last
        place += 2
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    return content[place : place + 1] != b","


def _begins_anew(packet: Packet) -> bool:
    """Whether nothing in front of a key frame is missed: in H.264, only a picture of type 5 (IDR) says so."""
    context = packet.stream.codec_context
    return context.name != "h264" or 5 in _unit_types(bytes(packet), context.extradata or b"")


def _unit_types(content: bytes, header: bytes) -> set[int]:
    """The types of the NAL units in a packet of H.264."""
    if header[:1] != b"\x01":  # between start codes
        return {unit[0] & 31 for unit in content.split(b"\x00\x00\x01")[1:] if unit}
    types, width, place = set(), (header[4] & 3) + 1, 0  # behind their sizes
    while place + width < len(content):
        types.add(content[place + width] & 31)
        place += width + int.from_bytes(content[place : place + width], "big")
    return types


def _are_in_order(shown: Sequence[_Packet]) -> bool:
    """Whether the packets tell when each frame is shown: all have a time of their own, and none begins anew."""
    times = [packet.dts for packet in shown if packet.dts is not None]
    return bool(shown) and len({p.pts for p in shown} - {None}) == len(shown) and times == sorted(times)


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


def _begun(path: Path, timeline: Timeline) -> Timeline:
    """The timeline without what nobody can decode at its beginning: what it refers to was cut off."""
    seen = through(path, Part(end=timeline.stamps[0]), lambda *_: None)
    if not seen:
        raise cut_off(path, "no frame of it can be decoded")
    if seen[-1] not in timeline.stamps:
        return recounted(path)
    stamps = timeline.stamps[bisect_left(timeline.stamps, seen[-1]) :]
    return replace(timeline, stamps=stamps, keys=sorted({stamps[0], *(k for k in timeline.keys if k > stamps[0])}))


def _rate(header: float, stamps: Sequence[int], tick: Fraction, ticks: int) -> float:
    """Frames a second: the header's where it fits what was counted, for it is free of rounded time stamps.

    The frames take `ticks` together. At a rate that varies, as where frames were dropped, it is what was counted.
    """
    if ticks <= 0:
        return header or 1.0
    counted = len(stamps) / float(ticks * tick)
    fits = 0.95 < header / counted < 1.05 and _steady(stamps, tick, header)
    return header if fits else counted


def _steady(stamps: Sequence[int], tick: Fraction, fps: float) -> bool:
    gaps = np.diff(stamps) * float(tick) * fps
    return len(gaps) == 0 or bool(gaps.min() > 0.5 and gaps.max() < 1.5)
