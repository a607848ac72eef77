"""Whether a file is whole, as far as its container tells it.

A file that is cut off is refused when its container says so (a header that promises more frames or a later
end, a torn packet, a block of a GIF that is not there to its end). Where nothing in the file tells it from a shorter
one (MPEG-TS, a GIF cut between two pictures, a fragmented MP4 cut between two fragments), the frames that are there are
taken.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from videogpt_plus.clips.decoders.source import opened
from videogpt_plus.clips.picture_files import GIF_CONTROL, GIF_PICTURE, gif_blocks
from videogpt_plus.types import ClipError, unreadable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: A header's duration may pass the last frame by this much, in seconds, before the file counts as cut off.
SLACK = 0.5
#: Names of Matroska's elements in which frames are: segment, cluster, block group.
HOLDERS = frozenset({b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\xa0"})
#: How a picture of a GIF usually begins: what says how it is shown, then itself.
GIF_BEGINS = re.compile(rb"!\xf9\x04.{4}\0,", re.DOTALL)


def check_whole(path: Path, container: InputContainer, stream: VideoStream, packets: int, until: float) -> None:
    """ClipError: the file holds less than its header says; its last packet ends `until` seconds."""
    if packets == 0:
        raise cut_off(path, "no frame is in it")
    if "mp4" in container.format.name and packets < stream.frames:
        # An edit list leaves out packets that are there.
        found = _packets_without_edits(path, stream.index)
        if found < stream.frames:
            raise cut_off(path, f"{found} of {stream.frames} frames are in it")
    if "matroska" in container.format.name:
        _check_matroska(path, container, until)
    if container.format.name == "gif":
        _check_gif(path)


def cut_off(path: Path, what: str) -> ClipError:
    """The ClipError of a file that ends too early."""
    return unreadable(path, f"the file is cut off, {what}", "download it again")


def _packets_without_edits(path: Path, index: int) -> int:
    with opened(path, ignore_editlist="1") as (container, _):
        return sum(1 for packet in container.demux(container.streams[index]) if packet.size)


def _check_matroska(path: Path, container: InputContainer, until: float) -> None:
    """FFmpeg leaves out what is damaged between two clusters without a word, so that the clip would only be shorter.

    Only Matroska's duration is written by the muxer, and that one may be wrong where the file is there to its end.
    Elsewhere FFmpeg guesses the duration from what is there.
    """
    import av

    promised = (container.duration or 0) / av.time_base
    if not _chains(path) and until < promised - SLACK:
        raise cut_off(path, f"{until:.1f} of {promised:.1f} s are in it")


def _check_gif(path: Path) -> None:
    """FFmpeg takes a picture that is torn for a whole one, and what is no block for the end.

    A trailer may lack, and comments and anything else may stand behind the last picture.
    """
    with open(path, "rb") as file:
        announced = False
        for block in gif_blocks(file):
            if not block.ends:
                raise cut_off(path, "a block ends in the middle")
            announced = block.label == GIF_CONTROL or (announced and block.label != GIF_PICTURE)
        at = file.tell()
        rest = file.read()
    if announced and not rest:
        raise cut_off(path, "its last picture is missing")
    if not rest.startswith(b";") and GIF_BEGINS.search(rest):
        raise unreadable(path, f"the file is damaged, no block begins at byte {at:,}", "download it again")


def _chains(path: Path) -> bool:
    """Whether a Matroska file says how long it is, and its elements follow one another to that end.

    ClipError: an element is none, or goes beyond the one that holds it. Contents are skipped, so that it takes a few
    microseconds a frame.
    """
    size, at, ends = path.stat().st_size, 0, [math.inf]
    with open(path, "rb") as file:
        while at < size:
            name, length, begin = _element(file, at)
            end = ends[-1] if length is None else begin + length
            if not name or end > ends[-1] or (length is None and name not in HOLDERS):
                raise unreadable(path, f"the file is damaged, no element begins at byte {at:,}", "download it again")
            if name in HOLDERS:
                ends.append(end)
            at = begin if name in HOLDERS else end
            while at == ends[-1]:
                ends.pop()
                if len(ends) == 1:
                    return at <= size
    return False


def _element(file: BinaryIO, at: int) -> tuple[bytes, int | None, int]:
    """An element's name (empty where none begins here), its length (None: the writer did not know), and its begin.

    The leading zeros of a first byte tell how long a name or a length is.
    """
    file.seek(at)
    head = file.read(12).ljust(12, b"\x80")  # where the file ends in it, so it goes beyond that
    name = head[: 9 - head[0].bit_length()]
    rest = head[len(name) :]
    if len(name) > 4 or not rest[0]:
        return b"", 0, at
    width = 9 - rest[0].bit_length()
    length = int.from_bytes(rest[:width], "big") - (1 << 7 * width)
    return name, None if length == (1 << 7 * width) - 1 else length, at + len(name) + width
