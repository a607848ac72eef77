"""Names of clips, as annotations write them: what of a name is its ending, and what is not."""

from __future__ import annotations

from pathlib import PurePath

#: Endings of videos and pictures. A dot before anything else belongs to the name: `clip.v1.5` has no ending.
ENDINGS = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".m1v", ".m2v", ".ts", ".m2ts", ".mts"]
    + [".flv", ".ogv", ".wmv", ".asf", ".3gp", ".vob", ".y4m"]
    + [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".heic"]
)


def ending_of(name: str) -> str:
    """`.MP4` of `a/clip.v1.5.MP4`; "" where the name ends in nothing that a video or picture ends in."""
    suffix = PurePath(name).suffix
    return suffix if suffix.lower() in ENDINGS else ""


def without_ending(name: str) -> str:
    """`a/clip.v1.5` of `a/clip.v1.5.mp4`, and of itself."""
    return name.removesuffix(ending_of(name))


def with_ending(name: str, ending: str) -> str:
    """`a/clip.v1.5.mp4` of `a/clip.v1.5` and of `a/clip.v1.5.webm`, for the ending `.mp4`."""
    return without_ending(name) + ending
