"""Decoders of video files. A new one is one new file in this folder and one line below.

A decoder's file offers one function:
    read(path, choose) -> Clip of the frames whose stamps, in order, `choose(timeline)` names.
All take the frames by the stamps of one timeline (timeline.py), and give the same pixels. What a decoder cannot give
exactly is a ClipError, never a neighbouring frame.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.io.errors import reason, translated
from videogpt_plus.types import Clip, UserError

if TYPE_CHECKING:
    from videogpt_plus.clips.decoders.timeline import Timeline

#: Name -> file.
DECODERS: dict[str, str] = {
    "pyav": "videogpt_plus.clips.decoders.pyav",
    "decord": "videogpt_plus.clips.decoders.decord",
    "torchcodec": "videogpt_plus.clips.decoders.torchcodec",
}
#: Name -> the extra of this package that installs the library of that name.
EXTRAS: dict[str, str] = {"decord": "decord", "torchcodec": "gpu"}


def check_decoder(name: str) -> None:
    """UserError unless there is such a decoder and it is installed. Loads nothing."""
    if name not in DECODERS:
        raise UserError(f"unknown decoder '{name}'; choose from: {', '.join(DECODERS)}")
    if name in EXTRAS and find_spec(name) is None:
        raise UserError(
            f"decoder '{name}' is not installed: pip install 'videogpt-plus[{EXTRAS[name]}]', or take --decoder pyav"
        )


def load_decoder(name: str) -> Callable[[Path, Callable[[Timeline], list[int]]], Clip]:
    """The decoder's `read`. UserError: unknown, not installed, or its library cannot be loaded."""
    check_decoder(name)
    import av  # noqa: F401  before decord, whose older libvpx would otherwise serve PyAV, too

    def told(error: Exception) -> UserError:
        return UserError(
            f"decoder '{name}' cannot be loaded ({reason(error)}): install what it needs (torchcodec wants FFmpeg 4 "
            "to 8), or take --decoder pyav"
        )

    if name in EXTRAS:
        with translated(ImportError, OSError, RuntimeError, to=told):
            import_module(name)
    return import_module(DECODERS[name]).read
