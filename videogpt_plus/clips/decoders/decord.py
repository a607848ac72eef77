"""decord 0.6: the decoder of the reference. The time stamps that it reports are not always those of its frames.

It seeks wrongly in MPEG-TS, in files without stamps, behind hidden frames and to key frames that others overtake, and
says nothing. So it is asked only where it was found to be right (MP4 and Matroska, without jumps where frames overtake
key frames), and only after it counts the same frames at the same times. Colours of fewer rows than the picture has it
scales up in another way, but for the most common kind. It stops where it would repeat a frame in
place of one that is damaged; it does not stop at damage within a picture, as PyAV does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange

from videogpt_plus.clips.decoders.source import first_frame
from videogpt_plus.clips.decoders.timeline import Timeline, opened
from videogpt_plus.clips.decoders.upright import corrected, degrees_of, matrix_of, turn_by
from videogpt_plus.io.errors import reason, translated
from videogpt_plus.types import Clip, unreadable

if TYPE_CHECKING:
    import decord
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from jaxtyping import UInt8

CONTAINERS = ("mp4", "matroska")
#: Frames in memory at once, in addition to those that are asked for, where all are read.
RUN = 4
THEN = "take --decoder pyav"


def read(path: Path, choose: Callable[[Timeline], list[int]]) -> Clip:
    """See `decoders`."""
    import decord

    with opened(path) as (container, stream, timeline):
        stamps = choose(timeline)
        _check_file(path, container, stream, timeline)
        in_mp4, tag = "mp4" in container.format.name, stream.metadata.get("rotate") or stream.metadata.get("ROTATE")
    first = first_frame(path)
    matrix = matrix_of(first)
    if (turn := turn_by(matrix)) is None:
        raise unreadable(path, f"it is to be turned by {degrees_of(matrix)} degrees, and decord does not", THEN)
    if not _has_common_colours(first):
        what = f"its {first.width} x {first.height} pixels are {first.format.name}, which decord gives other colours"
        raise unreadable(path, what, THEN)
    # It turns by the matrix of an MP4 and by the tag of a Matroska file, and never mirrors.
    own_degrees = degrees_of(matrix) if in_mp4 else int(tag) if tag in ("90", "180", "270") else 0
    places = [bisect_left(timeline.stamps, stamp) for stamp in stamps]
    kinds = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError)
    with translated(*kinds, to=lambda error: unreadable(path, f"decord stops at it ({reason(error)})", THEN)):
        # The size is that of the pictures: decord would scale them to the size in the header.
        size = {"width": first.width, "height": first.height}
        reader = decord.VideoReader(f"file:{path}", num_threads=1, fault_tol=1e-9, **(size if not own_degrees else {}))
        told = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        _check_times(path, told, timeline)
        frames = (_walk if timeline.overtakes else _jump)(reader, places)
    wanted = (first.width, first.height) if own_degrees in (90, 270) else (first.height, first.width)
    if frames.shape[1:3] != wanted:
        raise unreadable(path, f"decord gives pictures of {frames.shape[1:3]} instead of {wanted}", THEN)
    frames = np.ascontiguousarray(corrected(frames, turn, own_degrees))
    pictures = rearrange(torch.from_numpy(frames), "t h w c -> t c h w").contiguous()
    return Clip(pictures, tuple(timeline.seconds(stamp) for stamp in stamps), str(path))


def _jump(reader: decord.VideoReader, places: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
    return reader.get_batch(places).asnumpy()


def _walk(reader: decord.VideoReader, places: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Gets all frames up to the last one in turn: it seeks nothing that stands next."""
    found = []
    for begin in range(0, places[-1] + 1, RUN):
        run = range(begin, min(begin + RUN, places[-1] + 1))
        pictures = reader.get_batch(run).asnumpy()
        found += [pictures[place - begin].copy() for place in places if place in run]
    return np.stack(found)


def _check_file(path: Path, container: InputContainer, stream: VideoStream, timeline: Timeline) -> None:
    """ClipError unless it is of a kind in which decord gives the right frames."""
    name = container.format.name
    if not any(known in name for known in CONTAINERS) or timeline.counted:
        raise unreadable(path, f"decord does not find its frames exactly in this container ({name})", THEN)
    if timeline.hides:
        raise unreadable(path, "it hides frames, and decord shows them", THEN)
    alike = [s for s in container.streams.video if s.codec_context is not None and _size(s) == _size(stream)]
    if len(alike) > 1:
        raise unreadable(path, "it has several video streams of one size, and decord cannot be told which", THEN)


def _has_common_colours(frame: VideoFrame) -> bool:
    """Whether decord gives a frame the colours that FFmpeg gives it today."""
    pixels, height, width = frame.format, frame.height, frame.width
    shares = height / pixels.chroma_height(height), width / pixels.chroma_width(width)
    if pixels.components[0].bits > 8 and (pixels.is_rgb or shares == (2, 2)):
        return False
    return shares in ((1, 1), (1, 2), (2, 2))


def _size(stream: VideoStream) -> int:
    return stream.codec_context.height * stream.codec_context.width


def _check_times(path: Path, told: np.ndarray, timeline: Timeline) -> None:
    own = np.array([timeline.seconds(stamp) for stamp in timeline.stamps])
    gap = np.diff(own).min() if len(own) > 1 else 1.0
    if len(told) != len(own) or np.abs(told - told[0] - own).max() >= gap / 2:
        raise unreadable(path, f"decord finds {len(told)} frames at other times than the {len(own)} in it", THEN)
