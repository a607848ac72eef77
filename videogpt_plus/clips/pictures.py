"""Pictures as people see them: the only door to Pillow, for every command and every address.

A picture is turned upright as its EXIF data says, its transparent places are white, 16 bits of grey are scaled to 8.
Colour profiles are not applied. Of a JPEG with several pictures (MPO) the first one counts. Which files are opened is
defined in picture_files.py.
"""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.clips.picture_files import Header, faults, header, png_parts

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, UInt8
    from PIL import Image

#: How Pillow calls 16 bits a colour, of which it loads the first byte; and those of the other order, with the second.
DEEP, DEEP_TURNED = "RGB;16B", "RGB;16L"
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
    if found.form == "PNG":
        yield from _laid(path, found, numbers)
        return
    with _opened(path, found) as image:
        for number in numbers:
            image.seek(found.before + number)
            yield _seen(image)


def _laid(path: Path, found: Header, numbers: Sequence[int]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """`read_pictures` of a PNG, whose parts are laid over each other here.

    Pillow does it wrongly where they have 16 bits or a transparent colour, or where what one covered becomes clear.
    """
    import numpy as np
    from PIL import Image

    with _opened(path, found) as image:
        turn = _turn(image)
    canvas, wanted = Image.new("RGBA", (found.width, found.height)), Counter(numbers)
    with faults(path), open(path, "rb") as file:
        for number, part in enumerate(png_parts(file)):
            if number > max(wanted):
                continue  # the file is gone through to its end
            with Image.open(io.BytesIO(part.png), formats=["PNG"]) as image:
                piece = _eight_bits(image).convert("RGBA")
            box = (part.x, part.y, part.x + piece.width, part.y + piece.height)
            before = canvas.crop(box)
            canvas.paste(Image.alpha_composite(before, piece) if part.is_over else piece, box)
            for _ in range(wanted[number]):
                yield np.ascontiguousarray(turn(np.array(_over_white(canvas))))
            if part.disposal:
                canvas.paste(before if part.disposal == 2 else (0, 0, 0, 0), box)


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

    whole = _eight_bits(image)
    turn = _turn(image)
    if whole.has_transparency_data:
        whole = _over_white(whole)
    return np.ascontiguousarray(turn(np.array(whole if whole.mode == "RGB" else whole.convert("RGB"))))


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    white = Image.new("RGB", image.size, "white")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    white.paste(clear, mask=clear)
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """The loaded image; one of 16 bits scaled to 8, whose transparent colour is told by all of its bits.

    Pillow's own way cuts off grey above 255, and compares 16 bits of the transparent colour with 8 of a pixel.
    """
    import numpy as np
    from PIL import Image

    clear = image.info.get("transparency")
    lower = _lower_bits(image) if image.tile and image.tile[0].args == DEEP and clear is not None else None
    image.load()
    if lower is not None:
        upper = np.asarray(image)
        is_clear = (upper == [value >> 8 for value in clear]).all(-1)
        return _with_clear(upper, is_clear & (lower == [value & 255 for value in clear]).all(-1))
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.uint32)
    grey = ((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(grey) if clear is None else _with_clear(grey[..., None].repeat(3, -1), values == clear)


def _lower_bits(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Of each colour of 16 bits, of which Pillow loads the upper 8, the lower 8."""
    import numpy as np
    from PIL import Image

    at = image.fp.tell()
    image.fp.seek(0)
    again = Image.open(image.fp, formats=["PNG"])
    again.tile = [tile._replace(args=DEEP_TURNED) for tile in again.tile]
    lower = np.array(again)
    image.fp.seek(at)
    return lower


def _with_clear(colours: UInt8[np.ndarray, "h w 3"], is_clear: Bool[np.ndarray, "h w"]) -> Image.Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.dstack([colours, np.where(is_clear, np.uint8(0), np.uint8(255))]))


def _turn(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """The function that turns the pixels of a loaded image upright; damaged EXIF data are ignored."""
    with suppress(OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return TURNS[image.getexif()[ORIENTATION]]
    return TURNS[1]
