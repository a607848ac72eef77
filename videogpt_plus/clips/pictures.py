"""Pictures as people see them: the only door to Pillow, for every command and every address.

A picture is turned upright as its EXIF data says, its transparent places are white, 16 bits of grey are scaled to 8.
Colour profiles are not applied. Of a JPEG with several pictures (MPO) the first one counts. Which files are opened is
told in picture_files.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.clips.picture_files import Header, faults, header

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8
    from PIL import Image

#: The EXIF tag that says how a picture is turned, and what turns the pixels of each kind back.
ORIENTATION = 0x0112
TURNS: dict[object, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of a file, of several the first one. Raises ClipError."""
    with _opened(path, header(path)) as image:
        return _seen(image)


def read_pictures(path: Path, numbers: Sequence[int]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of an animation with these ascending numbers, one after the other. Raises ClipError."""
    found = header(path)
    with _opened(path, found) as image:
        for number in numbers:
            image.seek(found.before + number)
            yield _seen(image)


@contextmanager
def _opened(path: Path, found: Header) -> Iterator[Image.Image]:
    from PIL import Image

    with faults(path), Image.open(path, formats=[found.form]) as image:
        yield image


def _seen(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The picture that the image stands at: upright, without transparency, 8 bits a colour.

    It takes at most five times the bytes of what comes back.
    """
    import numpy as np

    clear = _clear_colour(image)
    image.load()
    turn = _turn(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image, clear)
    elif clear is not None:
        image.info["transparency"] = clear
    if image.has_transparency_data:
        image = _over_white(image)
    return np.ascontiguousarray(turn(np.array(image if image.mode == "RGB" else image.convert("RGB"))))


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    white = Image.new("RGB", image.size, "white")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    white.paste(clear, mask=clear)
    return white


def _clear_colour(image: Image.Image) -> object:
    """The colour that a PNG calls transparent, as one of its pixels once they are loaded; None where there is none."""
    clear = image.info.get("transparency")
    deep = image.tile and image.tile[0].args == "RGB;16B"  # of each colour the upper 8 bits are loaded
    return tuple(value >> 8 for value in clear) if deep and isinstance(clear, tuple) else clear


def _eight_bits(image: Image.Image, clear: object) -> Image.Image:
    """16 bits of grey scaled to 8; Pillow's own way cuts off what is above 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.uint32)
    grey = ((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    grey[values == clear] = 255
    return Image.fromarray(grey)


def _turn(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """What turns the pixels of a loaded image upright; nothing where nothing says how, or what says it is broken."""
    try:
        said = image.getexif().get(ORIENTATION)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        said = None
    return TURNS.get(said, TURNS[1])
