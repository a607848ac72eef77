"""What a picture's file says of itself: its format, its size, and how long its pictures are shown. Nothing is decoded.

A file is what its content says and not what its name says, and only FORMATS are opened: other formats have code behind
them that a file from anywhere should not reach (PostScript starts Ghostscript). Animated WebP and PNG are clips.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from videogpt_plus.io.errors import translated
from videogpt_plus.types import ClipError, unreadable

#: What is opened -> the ending that its files go by.
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
#: As they are called in messages.
NAMES = "JPEG, PNG, WebP, BMP and GIF"
#: What counts as a picture by its name; a GIF counts as a video.
STILLS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp"})
#: The most pixels of a picture: those that Pillow takes for no bomb.
PIXELS = 178_956_970
#: Milliseconds: what says less is shown for so long, as browsers and FFmpeg do.
LEAST_SHOWN, USUAL_SHOWN = 11, 100

#: How the content of a file begins -> what it is; the first that fits counts.
CONTENTS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"RIFF....WEBP", "WEBP"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{8}....[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
        (rb"....ftypavi[fs]|....ftypmif1.{4,24}avif", "AVIF"),
        (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
        (rb"%PDF", "PDF"),
        (rb"8BPS", "Photoshop"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
        (rb"P[1-7fF][\s#]", "PPM"),
        (rb"\0\0[\x01\x02]\0[^\0]\0", "icon"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"#\?(RADIANCE|RGBE)", "Radiance"),
        (rb"DDS ", "DDS"),
        (rb"qoif", "QOI"),
        (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
    )
)
#: Names of pictures that are not opened, where the content does not tell.
UNREAD = {
    ".tif": "TIFF", ".tiff": "TIFF", ".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF", ".ppm": "PPM", ".pgm": "PPM",
    ".pbm": "PPM", ".pnm": "PPM", ".pam": "PPM", ".tga": "TGA", ".pcx": "PCX", ".eps": "PostScript",
    ".ps": "PostScript", ".psd": "Photoshop", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jxl": "JPEG XL",
    ".ico": "icon", ".svg": "SVG", ".exr": "OpenEXR", ".hdr": "Radiance", ".dds": "DDS", ".qoi": "QOI",
}  # fmt: skip
#: What people take for a picture by its name and is none.
OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "a video"),
        (rb"\s*<(!doctype html|html|head|body)", "a web page"),
        (rb"version https://git-lfs", "a pointer of Git LFS"),
    )
)
#: Bytes from the beginning that tell what a file is.
HEAD = 512
#: Labels of a GIF's blocks: of a picture, and of what says how the picture behind it is shown.
GIF_PICTURE, GIF_CONTROL = b",", b"\xf9"


class Header(NamedTuple):
    """What a picture's file says of itself; nothing of it is decoded."""

    #: One of FORMATS.
    form: str
    width: int
    height: int
    #: Milliseconds that each picture of an animation is shown; empty for a still.
    shown: tuple[int, ...] = ()
    #: Pictures before the animation that are no part of it.
    before: int = 0


class PngPart(NamedTuple):
    """A picture of an animated PNG, which is laid on what was there before."""

    #: It alone, as a PNG.
    png: bytes
    #: Where its upper left corner comes.
    x: int
    y: int
    #: What comes into its place afterwards: 0 nothing else, 1 what is transparent, 2 what was there before it.
    disposal: int
    #: Whether what was there shines through it, or is replaced.
    is_over: bool


class GifBlock(NamedTuple):
    """A block of a GIF."""

    #: What it is: GIF_PICTURE, GIF_CONTROL, or the label of another extension.
    label: bytes
    #: The first part of what it holds.
    first: bytes
    #: Whether it is there to its end.
    ends: bool


def form_of(path: Path) -> str | None:
    """What kind of picture the content is, opened here or not; None where it is none, or there is no file to read."""
    with suppress(OSError, ValueError, ClipError), _file(path) as file:  # ValueError: no file can have such a name
        return _form(file.read(HEAD))
    return None


def _file(path: Path) -> BinaryIO:
    """ClipError: it is something that would be waited for, as a pipe is. OSError: it cannot be opened."""
    if path.exists() and not path.is_file():
        raise unreadable(path, "it is no regular file but a folder, a pipe, a device or the like", "take another file")
    return open(path, "rb")


def _form(head: bytes) -> str | None:
    return next((name for pattern, name in CONTENTS if pattern.match(head)), None)


def header(path: Path | str, data: bytes | None = None, limit: float = PIXELS) -> Header:
    """A file's header, or that of `data` which goes by the name `path`.

    ClipError: it is no picture of FORMATS, has more than `limit` pixels, or says nothing that can be understood.
    """
    with faults(path), io.BytesIO(data) if data is not None else _file(Path(path)) as file:
        head = file.read(HEAD)
        form = _form(head)
        if form not in FORMATS:
            raise _not_read(path, form, head)
        found = _READERS[form](file)
        if not found.width or not found.height:
            raise ValueError("it has no pixels")
    if found.width * found.height > limit:
        what = f"its {found.width} x {found.height} pixels are more than {limit:,.0f}"
        raise unreadable(path, what, "scale it down")
    return found


def is_still(path: Path) -> bool:
    """Whether it is a single picture by its content. What cannot be read is one if its name says so."""
    form = form_of(path)
    if form is None:
        return path.suffix.lower() in STILLS
    with suppress(ClipError):  # reading it will say what is wrong
        return form in FORMATS and not header(path).shown
    return True


def not_read(path: Path) -> ClipError | None:
    """Why a file is no picture that is opened, where its content or else its name says that it is another one."""
    with faults(path), _file(path) as file:
        head = file.read(HEAD)
    form = _form(head) or UNREAD.get(path.suffix.lower())
    return None if form is None or form in FORMATS else _not_read(path, form, head)


def _not_read(path: Path | str, form: str | None, head: bytes) -> ClipError:
    if not head:
        return unreadable(path, "the file is empty", "download it again")
    form = form or UNREAD.get(Path(path).suffix.lower())
    if form:
        return unreadable(path, f"it is a picture in the format {form}, and only {NAMES} are read", "save it as PNG")
    other = next((name for pattern, name in OTHERS if pattern.match(head)), None)
    if other:
        return unreadable(path, f"it is {other} and no picture", "name it as what it is, or get the picture itself")
    return unreadable(path, f"the image cannot be read: it is none of {NAMES}", "download it again")


@contextmanager
def faults(path: Path | str) -> Iterator[None]:
    """Whatever Pillow says of damage is a ClipError; what it warns of is not said."""
    from PIL import Image

    # A broken chunk is a SyntaxError, an absurd size a bomb; the others come from a wrong length or table.
    kinds = (
        OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
        struct.error, zlib.error, Image.DecompressionBombError,
    )  # fmt: skip

    def told(error: Exception) -> ClipError:
        return unreadable(path, f"the image cannot be read ({_first_line(error)})", "download it again")

    with translated(*kinds, to=told), warnings.catch_warnings(action="ignore"):
        yield


def _plain_header(form: str, file: BinaryIO) -> Header:
    """By Pillow, which reads no further than it must."""
    from PIL import Image

    file.seek(0)
    with Image.open(file, formats=[form]) as image:
        return Header(form, *image.size)


def _png_header(file: BinaryIO) -> Header:
    """Pictures of an animation each have a chunk fcTL; one that begins without is shown where nothing can move."""
    file.seek(16)
    width, height = struct.unpack(">II", file.read(8))
    shown, before, most, at = [], 1, 0, 8
    while len(chunk := _read_at(file, at, 8)) == 8:
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"IEND" or (kind == b"IDAT" and not most):
            break
        if kind == b"acTL":
            (most,) = struct.unpack(">I", file.read(4))
        if kind == b"IDAT" and shown:
            before = 0
        if kind == b"fcTL":
            part, whole = struct.unpack(">20xHH", file.read(24))
            shown.append(_milliseconds(round(1000 * part / (whole or 100))))
        at += 12 + length
    shown = shown[:most]
    return Header("PNG", width, height, tuple(shown), before) if len(shown) > 1 else Header("PNG", width, height)


def png_parts(file: BinaryIO) -> Iterator[PngPart]:
    """The parts of an animated PNG. ValueError: not all are there, or one has no pixels, or lies outside."""
    file.seek(8)
    head, kept, control, data, count, most = b"", [], b"", [], 0, 0
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        body = file.read(length + 4)[:-4]
        if kind in (b"fcTL", b"IEND") and control:
            yield _png_part(head, kept, control, data)
            count, control, data = count + 1, b"", []
        if kind == b"IEND" or len(body) < length:
            break
        if kind == b"IHDR":
            head = body
        elif kind == b"acTL":
            most = int.from_bytes(body[:4], "big")
        elif kind in (b"PLTE", b"tRNS"):
            kept.append(_png_chunk(kind, body))
        elif kind == b"fcTL":
            control = body
        elif kind in (b"IDAT", b"fdAT") and control:
            data.append(body if kind == b"IDAT" else body[4:])
    if control and data:
        yield _png_part(head, kept, control, data)
        count += 1
    if start[4:] != b"IEND" and count < most:
        raise ValueError(f"{count} of {most} pictures are in it")


def _png_part(head: bytes, kept: list[bytes], control: bytes, data: list[bytes]) -> PngPart:
    if not data:
        raise ValueError("a part of it has no pixels")
    width, height, x, y, disposal, over = struct.unpack(">4x4I4xBB", control)
    if x + width > int.from_bytes(head[:4], "big") or y + height > int.from_bytes(head[4:8], "big"):
        raise ValueError("a part of it lies outside")
    chunks = [_png_chunk(b"IHDR", control[4:12] + head[8:]), *kept, *(_png_chunk(b"IDAT", one) for one in data)]
    return PngPart(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _png_chunk(b"IEND", b""), x, y, disposal, over == 1)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _webp_header(file: BinaryIO) -> Header:
    """Its first chunk holds the size; each picture of an animation is a chunk ANMF."""
    size, shown, at = (0, 0), [], 12
    while len(chunk := _read_at(file, at, 8)) == 8:
        kind, length = struct.unpack("<4sI", chunk)
        body = file.read(16)
        if at == 12:
            size = _webp_size(kind, body)
        if kind == b"ANMF":
            shown.append(_milliseconds(int.from_bytes(body[12:15], "little")))
        at += 8 + length + length % 2
    return Header("WEBP", *size, tuple(shown) if len(shown) > 1 else ())


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<6xHH", body[:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("it begins with no picture")


def _gif_header(file: BinaryIO) -> Header:
    """Each of its pictures is a block, and the time for which it is shown stands in a block before."""
    file.seek(6)
    width, height = struct.unpack("<HH", file.read(4))
    shown, delay = [], 0
    for block in gif_blocks(file):
        if block.label == GIF_CONTROL and len(block.first) >= 3:
            delay = 10 * int.from_bytes(block.first[1:3], "little")
        elif block.label == GIF_PICTURE:
            shown.append(_milliseconds(delay))
            delay = 0
    return Header("GIF", width, height, tuple(shown) if len(shown) > 1 else ())


def gif_blocks(file: BinaryIO) -> Iterator[GifBlock]:
    """The blocks of a GIF; the file then stands at what is none: its trailer, its end, or anything else."""
    file.seek(10)
    file.seek(_colours(file.read(1)[0]) + 2, io.SEEK_CUR)
    while (kind := file.read(1)) in (b"!", GIF_PICTURE):
        label = file.read(1) if kind == b"!" else kind
        if kind == GIF_PICTURE:
            place = file.read(9)
            file.seek((_colours(place[8]) if len(place) == 9 else 0) + 1, io.SEEK_CUR)
        yield GifBlock(label, *_skip_blocks(file))
    file.seek(-len(kind), io.SEEK_CUR)


def _colours(flags: int) -> int:
    """Bytes of the colour table that stands behind these flags."""
    return 3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0


def _skip_blocks(file: BinaryIO) -> tuple[bytes, bool]:
    """The first of the blocks that stand here, and whether they end as they must, with an empty one."""
    first = b""
    while (length := file.read(1)) not in (b"", b"\0"):
        block = file.read(length[0])
        first = first or block
    return first, length == b"\0"


def _read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _milliseconds(said: int) -> int:
    return said if said >= LEAST_SHOWN else USUAL_SHOWN


def _first_line(error: Exception) -> str:
    if isinstance(error, struct.error | IndexError):
        return "its header is cut off"
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS = {
    "JPEG": lambda file: _plain_header("JPEG", file),
    "BMP": lambda file: _plain_header("BMP", file),
    "PNG": _png_header,
    "WEBP": _webp_header,
    "GIF": _gif_header,
}
