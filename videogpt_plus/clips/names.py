"""Names of clips, as annotations write them, and their endings."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath

#: What counts as a video by its name, in the order in which they are tried; its content is checked when it is opened.
VIDEO_ORDER = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".gif", ".ts", ".ogv")
VIDEOS = frozenset(VIDEO_ORDER)
#: Endings of videos and pictures. A dot before anything else belongs to the name: `clip.v1.5` has no ending.
ENDINGS = (
    *(*VIDEO_ORDER, ".m1v", ".m2v", ".m2ts", ".mts", ".wmv", ".asf", ".3gp", ".vob", ".y4m"),
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".heic"),
)


def ending_of(name: str, known: Collection[str] = ENDINGS) -> str:
    """`.MP4` of `a/clip.v1.5.MP4`; "" where the name ends in none of the known endings."""
    suffix = PurePath(name).suffix
    return suffix if suffix.lower() in known else ""


def without_ending(name: str, known: Collection[str] = ENDINGS) -> str:
    """`a/clip.v1.5` of `a/clip.v1.5.mp4`, and of itself."""
    return name.removesuffix(ending_of(name, known))


def with_ending(name: str, ending: str) -> str:
    """`a/clip.v1.5.mp4` of `a/clip.v1.5` and of `a/clip.v1.5.webm`, for the ending `.mp4`."""
    return without_ending(name) + ending
