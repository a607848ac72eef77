"""Pictures: turned, deep, transparent, moving, foreign, cut off, and bombs."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from videogpt_plus.clips.picture_files import FORMATS, header
from videogpt_plus.clips.video import duration, read_clip, read_still

from . import Kind, Line

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30)
#: What a file begins with -> the format that it is called by.
FOREIGN = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "TIFF": b"II*\0\x08\0\0\0\0\0",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n",
    "PDF": b"%PDF-1.7\n",
    "Photoshop": b"8BPS\0\x01",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG XL": b"\xff\x0a\x7f\x01",
    "PPM": b"P6\n4 4\n255\n" + bytes(48),
    "SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "icon": b"\0\0\1\0\1\0\x10\x10\0\0",
    "QOI": b"qoif\0\0\0\4",
}
#: What is no picture at all -> what it is called.
NO_PICTURE = [
    (b"\0\0\0\x20ftypisom\0\0\2\0", "it is a video and no picture"),
    (b"<!DOCTYPE html><html>404", "it is a web page and no picture"),
    (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS and no picture"),
    (b"", "the file is empty"),
    (b"some text", "it is none of JPEG, PNG, WebP, BMP and GIF"),
]
#: EXIF that says nothing.
BROKEN_EXIF = (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09")
#: Modes with something transparent in them, and how they are saved.
TRANSPARENT = [
    ("RGBA", {}), ("LA", {}), ("P", {"transparency": 0}), ("P", {"transparency": bytes([0, 255])}), ("1", {}),
]  # fmt: skip


# What is seen


def seen(path: Path) -> np.ndarray:
    """The one frame of a file, height first."""
    (frame,) = read_clip(path, 8).frames
    return frame.permute(1, 2, 0).numpy()


def brightness(clip) -> list[int]:
    return clip.frames.float().mean((1, 2, 3)).round().int().tolist()


def shown_rows(path: Path) -> list[list[list[int]]]:
    """The pixels of the one row of each frame."""
    return read_clip(path, 16).frames[:, :, 0].transpose(1, 2).tolist()


def corner_names(path: Path) -> list[str]:
    """The colours of the corners from the upper left one clockwise, and which side is longer."""
    picture = seen(path).astype(int)
    names = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW}
    found = [picture[2, 2], picture[2, -3], picture[-3, -3], picture[-3, 2]]
    nearest = [min(names, key=lambda name: abs(corner - names[name]).sum()) for corner in found]
    return [*nearest, "wide" if picture.shape[1] > picture.shape[0] else "high"]


def moving(path: Path) -> tuple[list[int], float]:
    """The brightness of the frames, and the seconds."""
    return brightness(read_clip(path, 16)), duration(path)


# How each is made


def corners(height: int = 32, width: int = 48) -> np.ndarray:
    """A grey picture whose corners are red, green, blue and yellow, from the upper left one clockwise."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[:8, :8], picture[:8, -8:], picture[-8:, -8:], picture[-8:, :8] = RED, GREEN, BLUE, YELLOW
    return picture


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as the camera held it that writes this EXIF orientation."""
    return {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip


def turned(form: str, orientation: int, folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "WEBP": {"lossless": True}}.get(form, {"quality": 98, "subsampling": 0})
    path = folder / f"picture{FORMATS.get(form, '.jpg')}"
    Image.fromarray(np.ascontiguousarray(stored(corners(), orientation))).save(path, form, exif=exif, **options)
    return path


def with_exif(exif: bytes, folder: Path) -> Path:
    Image.fromarray(corners()).save(folder / "a.png", exif=exif)
    return folder / "a.png"


def deep_grey(order: str, folder: Path) -> Path:
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values.astype(order)).save(folder / "grey.png")
    return folder / "grey.png"


def logo(form: str, mode: str, options: dict, folder: Path) -> Path:
    """A black square on nothing, as logos are published."""
    black = logo_of()
    if mode == "P":
        image = Image.fromarray(black.astype(np.uint8), "L")
        image.putpalette([255, 0, 0, 0, 0, 0])
    elif mode == "1":
        image, options = Image.fromarray(~black), {"transparency": 1}
    else:
        values = np.zeros((16, 16, len(mode)), np.uint8)
        values[..., -1] = 255 * black
        image = Image.fromarray(values, mode)
    path = folder / f"logo{FORMATS[form]}"
    image.save(path, form, **options, **({"lossless": True} if form == "WEBP" else {}))
    return path


def logo_of() -> np.ndarray:
    """Where the square of a `logo` is."""
    black = np.zeros((16, 16), bool)
    black[4:12, 4:12] = True
    return black


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *others: bytes) -> bytes:
    """A PNG of rows that begin with their filter, 0; `others` are chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + body


def deep_transparent(colour: bool, folder: Path) -> Path:
    """16 bits with a transparent colour, which the second pixel differs from in the lower 8 bits alone."""
    grey, colours = deep(4660, 4661), deep(*CLEAR, *NEAR, 0x9A00, 0x5600, 0x1200)
    row, clear = (colours, colours[:6]) if colour else (grey, grey[:2])
    return written(png(3 if colour else 2, 1, 16, 2 * colour, b"\0" + row, chunk(b"tRNS", clear)), "a.png", folder)


class Laid(NamedTuple):
    """A part of an animated PNG of one row: its values, where it begins, and what its fcTL says."""

    row: bytes
    x: int = 0
    disposal: int = 0
    over: int = 0


def laid(depth: int, colour: int, clear: tuple[int, ...], parts: list[Laid], folder: Path, end: bytes = b"") -> Path:
    """An animated PNG of two pixels: of one value each, or of three where `colour` is 2. `end` comes for its IEND."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"acTL", struct.pack(">II", len(parts), 0))
    content += chunk(b"tRNS", deep(*clear)) if clear else b""
    for i, part in enumerate(parts):
        width = len(part.row) * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
        place = (2 * i, width, 1, part.x, 0, 1, 1, part.disposal, part.over)
        pixels = zlib.compress(b"\0" + part.row)
        content += chunk(b"fcTL", struct.pack(">5I2H2B", *place))
        content += chunk(b"fdAT", struct.pack(">I", 2 * i + 1) + pixels) if i else chunk(b"IDAT", pixels)
    return written(content + (end or chunk(b"IEND", b"")), "a.png", folder)


def deep(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


#: A colour of 16 bits that is transparent, one that differs from it in the lower 8 bits alone, and another one.
CLEAR, NEAR, OTHER = (0x1234, 0x5678, 0x9ABC), (0x1235, 0x5678, 0x9ABC), (0x4000, 0x8000, 0xC000)
WHITE, AS_NEAR, AS_OTHER = [255] * 3, [0x12, 0x56, 0x9A], [0x40, 0x80, 0xC0]
#: Parts of animated PNGs -> depth, colour, what is transparent, the parts, and the two pixels of each picture.
LAID: dict[str, tuple[int, int, tuple[int, ...], list[Laid], list]] = {
    "of 16 bits, each part whole": (
        16, 2, CLEAR, [Laid(deep(*CLEAR, *NEAR)), Laid(deep(*OTHER, *CLEAR))],
        [[WHITE, AS_NEAR], [AS_OTHER, WHITE]],
    ),
    "of 16 bits, each over the one before": (
        16, 2, CLEAR, [Laid(deep(*CLEAR, *NEAR)), Laid(deep(*OTHER, *CLEAR), over=1), Laid(deep(*CLEAR * 2), over=1)],
        [[WHITE, AS_NEAR], [AS_OTHER, AS_NEAR], [AS_OTHER, AS_NEAR]],
    ),
    "of 16 bits, what a part covered becomes clear": (
        16, 2, CLEAR, [Laid(deep(*NEAR, *NEAR), disposal=1), Laid(deep(*OTHER), 1, over=1)],
        [[AS_NEAR, AS_NEAR], [WHITE, AS_OTHER]],
    ),
    "of 16 bits, what a part covered comes back": (
        16, 2, CLEAR,
        [Laid(deep(*NEAR, *OTHER)), Laid(deep(*OTHER), 0, 2), Laid(deep(*CLEAR), 1, over=0)],
        [[AS_NEAR, AS_OTHER], [AS_OTHER, AS_OTHER], [AS_NEAR, WHITE]],
    ),
    "of 16 bits without a transparent colour": (
        16, 2, (), [Laid(deep(*CLEAR, *NEAR)), Laid(deep(*OTHER), 1, over=1)],
        [[AS_NEAR, AS_NEAR], [AS_NEAR, AS_OTHER]],
    ),
    "of 16 bits of grey, each over the one before": (
        16, 0, (), [Laid(deep(257, 65535)), Laid(deep(0), 1, over=1)], [[[1] * 3, WHITE], [[1] * 3, [0] * 3]],
    ),
    "of 16 bits of grey, one of them clear": (
        16, 0, (4660,), [Laid(deep(4660, 4661)), Laid(deep(257, 4660), over=1)],
        [[WHITE, [18] * 3], [[1] * 3, [18] * 3]],
    ),
    "of 16 bits of grey with alpha": (
        16, 4, (), [Laid(deep(0, 65535, 65535, 65535)), Laid(deep(65535, 13107), over=1)],
        [[[0] * 3, WHITE], [[51] * 3, WHITE]],
    ),
    "of 8 bits of grey, one of them clear": (
        8, 0, (9,), [Laid(bytes([9, 8])), Laid(bytes([1]), over=1), Laid(bytes([9, 7]), over=1)],
        [[WHITE, [8] * 3], [[1] * 3, [8] * 3], [[1] * 3, [7] * 3]],
    ),
    "of 8 bits, what a part covered becomes clear": (
        8, 2, (7, 7, 7), [Laid(bytes([9, 9, 9, 8, 8, 8]), 0, 1), Laid(bytes([1, 2, 3]))],
        [[[9] * 3, [8] * 3], [[1, 2, 3], WHITE]],
    ),
}  # fmt: skip


def written(content: bytes, name: str, folder: Path) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def printed(colour: tuple[int, int, int], folder: Path) -> Path:
    Image.new("RGB", (16, 16), colour).convert("CMYK").save(folder / "a.jpg", quality=98)
    return folder / "a.jpg"


def phone(folder: Path) -> Path:
    """A JPEG of two pictures, a red and a blue one."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE))
    first.save(folder / "phone.jpg", "MPO", save_all=True, append_images=[second])
    return folder / "phone.jpg"


def animation(path: Path, count: int = 8, alpha: bool = False, **options) -> Path:
    """`count` plain frames of brightness 0, 30, 60 ..., shown for half a second each unless told."""
    frames = [Image.new("RGBA" if alpha else "RGB", (40, 24), (30 * i,) * 3) for i in range(count)]
    options = {"duration": 500, **({"lossless": True} if path.suffix == ".webp" else {}), **options}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def animated(suffix: str, options: dict, folder: Path) -> Path:
    return animation(folder / f"a{suffix}", **options)


def cut_animation(suffix: str, folder: Path) -> Path:
    path = animation(folder / f"a{suffix}")
    return written(path.read_bytes()[:-60], path.name, folder)


def cut_between(more: int, folder: Path) -> Path:
    """An animated PNG of four that ends so many bytes behind its second picture."""
    content = animation(folder / "a.png", 4).read_bytes()
    places = [found.start() for found in re.finditer(b"fcTL", content)]
    return written(content[: places[2] - 4 + more], "a.png", folder)


def behind_a_cover(folder: Path) -> Path:
    """An animated PNG before which a red picture stands that is no part of it."""
    frames = [Image.new("RGB", (40, 24), (30 * i,) * 3) for i in range(4)]
    options = {"save_all": True, "append_images": frames, "default_image": True, "duration": 1000}
    Image.new("RGB", (40, 24), RED).save(folder / "a.png", **options)
    return folder / "a.png"


def named(name: str, form: str, folder: Path) -> Path:
    Image.fromarray(corners()).save(folder / name, form)
    return folder / name


def pipe(name: str, folder: Path) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def bomb(form: str, side: int = 60_000) -> bytes:
    """A few bytes that declare a picture of `side` x `side` pixels."""
    if form == "PNG":
        return png(side, side, 8, 2, b"\0")
    if form == "WEBP":
        size = (side - 1).to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + size + size + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    if form == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b";"
    if form == "BMP":
        head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    frame = struct.pack(">BHHBBBBBBBBBB", 8, side, side, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0)
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\x02"


def cut(form: str, folder: Path) -> Path:
    """Noise of which half the bytes are there."""
    path = folder / f"a{FORMATS[form]}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(path, form)
    return written(path.read_bytes()[: path.stat().st_size // 2], path.name, folder)


# The table


def kinds() -> Iterator[Kind]:
    yield from _upright()
    yield from _pixels()
    yield from _moving()
    yield from _refused()


def _kind(name: str, make: Callable[[Path], Path], expected: object, read: Callable[[Path], object]) -> Kind:
    return Kind("picture", name, make, read, expected)


def _upright() -> Iterator[Kind]:
    wanted = ["red", "green", "blue", "yellow", "wide"]
    for orientation in range(1, 9):
        for form in ("JPEG", "PNG", "WEBP", "MPO"):
            yield _kind(
                f"{form} of orientation {orientation}", partial(turned, form, orientation), wanted, corner_names
            )
    for number, exif in enumerate(BROKEN_EXIF):
        yield _kind(f"EXIF that says nothing ({number})", partial(with_exif, exif), wanted, corner_names)
    for name in ("a.jfif", "a.jpe", "a", "a.tif", "a.picture", "a.webp"):
        yield _kind(f"a PNG called {name}", partial(named, name, "PNG"), wanted, corner_names)


def _pixels() -> Iterator[Kind]:
    for order in ("<u2", ">u2"):
        ramp = list(range(256))
        yield _kind(
            f"grey of 16 bits {order}", partial(deep_grey, order), ramp, lambda p: seen(p)[..., 0].ravel().tolist()
        )
    white = (255 * ~logo_of()).tolist()
    for form, chosen in (("PNG", TRANSPARENT), ("WEBP", TRANSPARENT[:2]), ("GIF", TRANSPARENT[2:3])):
        for number, (mode, options) in enumerate(chosen):
            name = f"transparent {mode} in {form} ({number})"
            yield _kind(name, partial(logo, form, mode, options), white, lambda p: seen(p)[..., 0].tolist())
    clear = {False: [[255] * 3, [18] * 3], True: [WHITE, AS_NEAR, [0x9A, 0x56, 0x12]]}
    for colour, wanted in clear.items():
        name = f"a transparent {'colour' if colour else 'grey'} of 16 bits"
        yield _kind(name, partial(deep_transparent, colour), wanted, lambda p: seen(p)[0].tolist())
    for depth in (1, 2, 4, 8):
        make = partial(written, png(8 // depth, 1, depth, 0, b"\0\xff"), "a.png")
        yield _kind(f"grey of {depth} bits", make, [255] * (8 // depth), lambda p: seen(p)[0, :, 0].tolist())
    for colour in ((255, 0, 0), (0, 0, 255), (255, 255, 255)):
        make, wanted = partial(printed, colour), [value > 128 for value in colour]
        yield _kind(f"a printer's JPEG of {colour}", make, wanted, lambda p: (seen(p)[8, 8] > 128).tolist())


def _moving() -> Iterator[Kind]:
    eight = [30 * i for i in range(8)]
    for suffix in (".webp", ".png", ".apng", ".gif"):
        for alpha in (False, True)[: 1 + (suffix != ".gif")]:
            name = f"an animation in {suffix}{' with alpha' if alpha else ''}"
            yield _kind(name, partial(animated, suffix, {"alpha": alpha}), (eight, 4), moving)
    for suffix in (".webp", ".png", ".gif"):
        one = partial(animated, suffix, {"count": 1})
        yield _kind(f"an animation of one in {suffix}", one, [0], lambda p: brightness(read_clip(p, 8)))
        many = partial(animated, suffix, {})
        yield _kind(f"a still of an animation in {suffix}", many, [0], lambda p: brightness(read_still(p)))
    for name, (depth, colour, clear, parts, wanted) in LAID.items():
        make = partial(laid, depth, colour, clear, parts)
        yield _kind(f"an animated PNG {name}", make, wanted, shown_rows)
    *_, parts, wanted = LAID["of 16 bits, each part whole"]
    make = partial(laid, 16, 2, CLEAR, parts, end=b"\0")
    yield _kind("an animated PNG without its last chunk", make, wanted, shown_rows)
    for more in (0, 43):
        make, said = partial(cut_between, more), Line("2 of 4 pictures are in it")
        yield _kind(f"an animated PNG cut behind its second picture and {more} bytes", make, said, shown_rows)
    for suffix in (".webp", ".png"):
        yield _kind(f"a cut animation in {suffix}", partial(cut_animation, suffix), Line("cannot be read"), moving)
    times = {"count": 4, "duration": [1000, 3000, 0, 10]}
    yield _kind("frames of different times", partial(animated, ".webp", times), ([0, 30, 60, 90], 4.2), moving)
    yield _kind("a picture before an animation", behind_a_cover, ([0, 30, 60, 90], 4), moving)
    yield _kind("a JPEG of two pictures", phone, [True, False, False], lambda p: (seen(p)[8, 8] > 128).tolist())


def _refused() -> Iterator[Kind]:
    for form, content in FOREIGN.items():
        for name in ("a.png", "a"):
            said = f"it is a picture in the format {form}, and only JPEG, PNG, WebP, BMP and GIF are read"
            yield _kind(f"{form} called {name}", partial(written, content, name), Line(said), seen)
    for content, said in NO_PICTURE:
        yield _kind(f"no picture: {said}", partial(written, content, "a.jpg"), Line(said), seen)
    for name in ("pipe.png", "pipe.tif", "pipe"):
        yield _kind(f"a pipe called {name}", partial(pipe, name), Line("it is no regular file but a"), seen)
    make = partial(named, "a.mp4", "JPEG")
    yield _kind("a picture called a.mp4", make, Line("it is a picture (JPEG) and no video"), seen)
    for form, suffix in FORMATS.items():
        make = partial(written, bomb(form), f"bomb{suffix}")
        yield _kind(f"a bomb in {form}", make, Line("pixels"), header)
        yield _kind(f"a cut {form}", partial(cut, form), Line("cannot read"), lambda p: read_still(p).seconds)
