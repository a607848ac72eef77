"""A video file opened by FFmpeg, and its frames as they come out of the decoder."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.io.errors import attempted, reason, translated
from videogpt_plus.types import ClipError, unreadable

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Without a list FFmpeg also takes playlists, which open other files, and draws plain text as a video.
FORMATS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg,wav,mp3"
#: Codec -> the NAL unit types of its supplemental information (SEI), which no picture needs.
EXTRAS = {"h264": "6", "hevc": "39-40"}


class Mode(Enum):
    """How a decoder treats errors in the data."""

    #: They are raised.
    STRICT = "strict"
    #: They are concealed, as players do, and the frame says so.
    LENIENT = "lenient"
    #: Strict, and without the units of EXTRAS, whose errors do not concern the pictures.
    BARE = "bare"


@dataclass
class Failed:
    """What a decoder refused, and where the first key frame stands."""

    #: Time stamps of the packets.
    stamps: list[int | None] = field(default_factory=list)
    #: What FFmpeg said of the first of them; empty if there is none.
    reason: str = ""
    #: Whether one of them is the first key frame, or is shown behind it.
    behind_key: bool = False
    #: That key frame's stamp; None before it came.
    key: int | None = None

    def is_before_key(self, stamp: int | None) -> bool:
        """Whether what has this stamp is shown in front of the first key frame."""
        return self.key is None or (stamp is not None and stamp < self.key)


@contextmanager
def opened(path: Path, mode: Mode = Mode.STRICT, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open file with its largest video stream; `options` are the demuxer's.

    ClipError: it is no regular file, or what FFmpeg says of it, while it is open.
    """
    import av

    check_regular(path)
    # "file:" keeps FFmpeg from reading a protocol out of a name with a colon. A title that is not UTF-8 is no error:
    # the pictures do not depend on it.
    name, options = f"file:{path}", {"format_whitelist": FORMATS, **options}
    with told(path), av.open(name, options=options, metadata_errors="replace") as container:
        stream = _video_stream(path, container)
        # Without it damaged pictures are patched up and handed out as if they were good.
        stream.codec_context.options = {} if mode is Mode.LENIENT else {"err_detect": "explode"}
        stream.codec_context.thread_count = 1  # see upright
        yield container, stream


def told(path: Path) -> AbstractContextManager[None]:
    """A context in which FFmpeg's errors become ClipErrors of the file."""
    import av

    return translated(av.FFmpegError, UnicodeError, to=lambda error: damaged(path, reason(error)))


def check_regular(path: Path) -> None:
    """ClipError: there is no such file, or it is one that would be waited for, as a pipe is."""

    def closed(error: Exception) -> ClipError:
        return unreadable(path, f"the file cannot be opened ({reason(error)})", "check the data path")

    with translated(OSError, ValueError, to=closed):
        kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        raise unreadable(path, "it is no regular file but a pipe, a device or the like", "take another file")


def damaged(path: Path, reason: str) -> ClipError:
    """The ClipError of a file that FFmpeg stops at, with what it said."""
    return unreadable(path, f"the file is damaged, cut off or no video ({reason})", "download or encode it again")


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The video stream with the most pixels."""
    known = [s for s in video_streams(path, container) if s.codec_context is not None]
    if not known:
        raise unreadable(path, "its codec is unknown to FFmpeg here", f"encode it again: ffmpeg -i {path.name} out.mp4")
    return max(known, key=lambda s: s.codec_context.width * s.codec_context.height)


def video_streams(path: Path, container: InputContainer) -> list[VideoStream]:
    """The video streams; a cover picture is none. ClipError: there is none."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise unreadable(path, "it has no video stream", "take another file")
    return streams


def first_frame(path: Path) -> VideoFrame:
    """The first frame that can be decoded. ClipError: there is none."""
    with opened(path) as (container, stream):
        for frame in frames(container, stream, Mode.STRICT, failed := Failed()):
            return frame
        raise damaged(path, failed.reason or "no frame is in it")


def frames(container: InputContainer, stream: VideoStream, mode: Mode, failed: Failed) -> Iterator[VideoFrame]:
    """The frames from where the file stands, in the order of their display; `failed` gets the packets refused."""
    from av import FFmpegError

    for packet in _packets(container, stream, mode):
        stamp, size = packet.pts, packet.size
        if failed.key is None and size and packet.is_keyframe:
            failed.key = stamp
        found = attempted(partial(stream.codec_context.decode, packet if size else None), FFmpegError)
        if not isinstance(found, FFmpegError):
            yield from found
            continue
        failed.stamps.append(stamp)
        failed.reason = failed.reason or found.strerror
        failed.behind_key = failed.behind_key or not failed.is_before_key(stamp)


def _packets(container: InputContainer, stream: VideoStream, mode: Mode) -> Iterator[Packet]:
    """The stream's packets; an empty one at the end has the decoder give what it holds back."""
    units = EXTRAS.get(stream.codec_context.name)
    if mode is not Mode.BARE or units is None:
        yield from container.demux(stream)
        return
    from av.bitstream import BitStreamFilterContext

    bare = BitStreamFilterContext(f"filter_units=remove_types={units}", stream)
    for packet in container.demux(stream):
        if packet.size == 0:
            yield packet
        else:
            yield from bare.filter(packet)
