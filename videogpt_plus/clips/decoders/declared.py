"""What the header of a video file says of it, without counting its frames and without decoding one that is large."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from videogpt_plus.clips.decoders.source import FORMATS, told, video_streams


class Declared(NamedTuple):
    """What a header says; it may be wrong."""

    #: Pixels of the largest picture; 0 where nothing says it.
    pixels: int
    #: Seconds of the longest stream; None where nothing says it.
    seconds: float | None


def declared(path: Path, most_pixels: float) -> Declared:
    """A video file's header. FFmpeg decodes no picture of more than `most_pixels` for it. ClipError: it is no video."""
    import av

    options = {"format_whitelist": FORMATS, "max_pixels": f"{most_pixels:.0f}"}
    with told(path), av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        streams = video_streams(path, container)
        known = [s.codec_context for s in streams if s.codec_context is not None]
        seconds = [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
        if container.duration:
            seconds.append(container.duration / av.time_base)
        return Declared(max((c.width * c.height for c in known), default=0), max(seconds, default=None))
