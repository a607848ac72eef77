"""A picture's file -> its pixels: the only door to Pillow's readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videogpt_plus.types import unreadable

if TYPE_CHECKING:
    from jaxtyping import UInt8

STILLS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of a file. Raises ClipError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    # Pillow reports damage by all of these: a broken PNG chunk is a SyntaxError, an absurd size a bomb.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, f"the image cannot be read ({_first_line(error)})", "download it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
