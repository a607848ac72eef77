"""Whether a file is whole, as far as its container tells it.

A file that is cut off is refused when its container says so (a header that promises more frames or a later
end, a torn packet, a block of a GIF that is not there to its end). Where nothing in the file tells it from a shorter
one (MPEG-TS, a GIF cut between two pictures, a fragmented MP4 cut between two fragments), the frames that are there are
taken.
"""

from __future__ import annotations

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
#: How the elements of a Matroska file begin that hold all others.
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
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
    if "matroska" in container.format.name and container.duration is not None:
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
    """Only Matroska's duration is written by the muxer, and that one may be wrong where the file is there to its end.

    Elsewhere FFmpeg guesses the duration from what is there.
    """
    import av

    promised = container.duration / av.time_base
    if until < promised - SLACK and not _segment_ends(path):
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


def _segment_ends(path: Path) -> bool:
    """Whether a Matroska file says how long it is, and is."""
    with open(path, "rb") as file:
        if file.read(4) != EBML:
            return False
        size = _element_size(file)
        if size is None:
            return False
        file.seek(size, 1)
        if file.read(4) != SEGMENT:
            return False
        size = _element_size(file)
        return size is not None and file.tell() + size <= path.stat().st_size


def _element_size(file: BinaryIO) -> int | None:
    """The size that stands next: its first byte's leading zeros tell its length. None: the writer did not know it."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    size = int.from_bytes(bytes([first[0] - (1 << (8 - length))]) + rest, "big")
    return None if size == (1 << 7 * length) - 1 else size
