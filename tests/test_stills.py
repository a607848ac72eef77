"""Pictures: what is seen of them, which files are opened, and what is said of the others."""

from __future__ import annotations

import os
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videogpt_plus.experiments import TOY
from videogpt_plus.feeding import ASPECT_RATIOS, Preparation
from videogpt_plus.picture_files import FORMATS, STILLS, form_of, header, is_still, not_read
from videogpt_plus.pictures import read_picture
from videogpt_plus.types import ClipError, UserError
from videogpt_plus.video import duration, read_clip, read_still

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30)


def corners(height: int = 32, width: int = 48) -> np.ndarray:
    """A grey picture whose corners are red, green, blue and yellow, from the upper left one clockwise."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[:8, :8], picture[:8, -8:], picture[-8:, -8:], picture[-8:, :8] = RED, GREEN, BLUE, YELLOW
    return picture


def seen(path: Path) -> np.ndarray:
    """The one frame of a file, height first."""
    (frame,) = read_clip(path, 8).frames
    return frame.permute(1, 2, 0).numpy()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *others: bytes) -> bytes:
    """A PNG of rows that begin with their filter, 0; `others` are chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + body


# What is seen


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(tmp_path, form, orientation):
    """It is stored as the camera held it; what is shown is always the same."""
    upright = corners()
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{FORMATS.get(form, '.jpg')}"
    options = {"lossless": True} if form == "WEBP" else {"quality": 98, "subsampling": 0}
    options = {} if form == "PNG" else options
    Image.fromarray(stored).save(path, form, exif=exif, **options)
    assert seen(path).shape == upright.shape
    assert abs(seen(path).astype(int) - upright).max() <= (12 if form in ("JPEG", "MPO") else 0)


def test_a_broken_orientation_does_not_lose_the_picture(tmp_path):
    for number, exif in enumerate((b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09")):
        path = tmp_path / f"{number}.png"
        Image.fromarray(corners()).save(path, exif=exif)
        assert (seen(path) == corners()).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_16_bits_is_scaled(tmp_path, order):
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values.astype(order)).save(tmp_path / "grey.png")
    assert form_of(tmp_path / "grey.png") == "PNG"
    picture = seen(tmp_path / "grey.png")
    assert (picture[..., 0].ravel() == range(256)).all() and (picture == picture[..., :1]).all()
    assert picture.mean() == 127.5


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGBA", {}), ("LA", {}), ("P", {"transparency": 0}), ("P", {"transparency": bytes([0, 255])}), ("1", {})],
)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_is_white(tmp_path, mode, options, form):
    """A black logo on nothing, as logos are published."""
    if form == "WEBP" and mode not in ("RGBA", "LA") or form == "GIF" and (mode != "P" or options["transparency"]):
        pytest.skip(f"{form} has no {mode} of this kind")
    logo = np.zeros((16, 16), bool)
    logo[4:12, 4:12] = True
    if mode == "P":
        image = Image.fromarray(logo.astype(np.uint8), "L")
        image.putpalette([255, 0, 0, 0, 0, 0])
    elif mode == "1":
        image, options = Image.fromarray(~logo), {"transparency": 1}
    else:
        black = np.zeros((16, 16, len(mode)), np.uint8)
        black[..., -1] = 255 * logo
        image = Image.fromarray(black, mode)
    path = tmp_path / f"logo{FORMATS[form]}"
    image.save(path, form, **options, **({"lossless": True} if form == "WEBP" else {}))
    picture = read_picture(path)
    assert (picture[logo] == 0).all() and (picture[~logo] == 255).all()
    assert (seen(path) == picture).all()


def test_half_transparent_is_half_white(tmp_path):
    half = np.full((8, 8, 4), (200, 0, 100, 51), np.uint8)  # a fifth
    Image.fromarray(half).save(tmp_path / "half.png")
    assert abs(seen(tmp_path / "half.png").astype(int) - (244, 204, 224)).max() <= 1


def test_the_transparent_colour_of_16_bits_is_white(tmp_path):
    grey = b"\0" + struct.pack(">2H", 4660, 4661)  # they differ in the lower 8 bits alone
    (tmp_path / "grey.png").write_bytes(png(2, 1, 16, 0, grey, chunk(b"tRNS", struct.pack(">H", 4660))))
    assert seen(tmp_path / "grey.png")[0, :, 0].tolist() == [255, 18]
    colours = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x9A00, 0x5600, 0x1200)
    (tmp_path / "colour.png").write_bytes(png(2, 1, 16, 2, colours, chunk(b"tRNS", colours[1:7])))
    assert seen(tmp_path / "colour.png")[0].tolist() == [[255, 255, 255], [0x9A, 0x56, 0x12]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits_is_scaled(tmp_path, depth):
    (tmp_path / "grey.png").write_bytes(png(8 // depth, 1, depth, 0, b"\0\xff"))
    assert (seen(tmp_path / "grey.png") == 255).all()


def test_a_printers_jpeg_has_its_colours(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255)), ("white", (255, 255, 255))):
        Image.new("RGB", (16, 16), colour).convert("CMYK").save(tmp_path / f"{name}.jpg", quality=98)
        assert abs(seen(tmp_path / f"{name}.jpg").astype(int) - colour).max() < 8


def test_plain_pictures_are_what_pillow_makes_of_them(tmp_path):
    """As the reference reads them: `Image.open(path).convert("RGB")`."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for mode in ("RGB", "L", "P", "1"):
        for suffix in (".png", ".bmp", ".jpg", ".webp"):
            image = Image.fromarray(noise).convert("RGB" if suffix == ".webp" else mode)
            image = image.convert("L") if suffix == ".jpg" and mode in ("P", "1") else image
            path = tmp_path / f"{mode}{suffix}"
            image.save(path)
            with Image.open(path) as opened:
                assert (seen(path) == np.asarray(opened.convert("RGB"))).all(), path.name


# Several pictures in a file


def test_of_a_jpeg_with_several_pictures_the_first_is_read(tmp_path):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])
    assert abs(seen(tmp_path / "phone.jpg").astype(int) - RED).max() < 8
    assert is_still(tmp_path / "phone.jpg") and duration(tmp_path / "phone.jpg") == 0


def animation(path: Path, count: int = 8, alpha: bool = False, **options) -> Path:
    """`count` plain frames of brightness 0, 30, 60 ..., shown for half a second each unless told."""
    frames = [Image.new("RGBA" if alpha else "RGB", (40, 24), (30 * i,) * 3) for i in range(count)]
    options = {"duration": 500, **({"lossless": True} if path.suffix == ".webp" else {}), **options}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def brightness(clip) -> list[int]:
    return clip.frames.float().mean((1, 2, 3)).round().int().tolist()


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng", ".gif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_an_animation_is_a_clip(tmp_path, suffix, alpha):
    if suffix == ".gif" and alpha:
        pytest.skip("GIF has a transparent colour alone")
    path = animation(tmp_path / f"moves{suffix}", alpha=alpha)
    clip = read_clip(path, 16)
    assert brightness(clip) == [0, 30, 60, 90, 120, 150, 180, 210]
    assert clip.seconds == (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)
    assert duration(path) == 4 and not is_still(path)
    part = read_clip(path, 16, start=1, end=2)  # by the rule for videos: both ends are in it
    assert brightness(part) == [60, 90, 120] and part.seconds == (1, 1.5, 2)
    with pytest.raises(ClipError, match="nothing of its 4.00 s lies from 9 s"):
        read_clip(path, 16, start=9)


@pytest.mark.parametrize("sampling", ["spread", "each_second", "even", "average", "middle", "linspace"])
def test_every_rule_of_sampling_takes_of_an_animation_what_it_takes_of_a_video(tmp_path, sampling):
    of_webp, of_gif = (read_clip(animation(tmp_path / f"a{s}"), 4, sampling=sampling) for s in (".webp", ".gif"))
    assert brightness(of_webp) == brightness(of_gif) and of_webp.seconds == of_gif.seconds


def test_frames_that_are_shown_for_different_times(tmp_path):
    path = animation(tmp_path / "a.webp", 4, duration=[1000, 3000, 0, 10])  # the last two for 100 ms, as browsers do
    clip = read_clip(path, 8)
    assert clip.seconds == (0, 1, 4, 4.1) and brightness(clip) == [0, 30, 60, 90]
    assert duration(path) == 4.2


def test_a_picture_before_an_animation_is_no_part_of_it(tmp_path):
    frames = [Image.new("RGB", (40, 24), (30 * i,) * 3) for i in range(4)]
    Image.new("RGB", (40, 24), RED).save(
        tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=1000
    )
    assert brightness(read_clip(tmp_path / "a.png", 8)) == [0, 30, 60, 90]
    assert (read_picture(tmp_path / "a.png") == RED).all()


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_an_animation_of_one_picture_is_a_still(tmp_path, suffix):
    Image.new("RGB", (40, 24), (30, 30, 30)).save(tmp_path / f"a{suffix}", save_all=True)
    assert is_still(tmp_path / f"a{suffix}") and brightness(read_clip(tmp_path / f"a{suffix}", 8)) == [30]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_where_a_still_is_meant_the_first_picture_is_taken(tmp_path, suffix):
    """An `image` of a conversation is one frame, in training as in the reference."""
    path = animation(tmp_path / f"a{suffix}")
    assert brightness(read_still(path)) == [0]
    prepare = Preparation(TOY.streams, 8)
    assert prepare(path, still="pad").placeholders == 1
    assert prepare(path).placeholders == 8


def test_an_animation_that_is_cut_off_is_an_error(tmp_path):
    for suffix in (".webp", ".png"):
        path = animation(tmp_path / f"a{suffix}")
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(ClipError, match="the image cannot be read"):
            read_clip(path, 16)


# Which files are opened

CONTENT = {
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


@pytest.mark.parametrize("form", CONTENT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".heic", ""])
def test_another_format_is_one_line_that_names_it_whatever_the_file_is_called(tmp_path, form, suffix, monkeypatch):
    def start(*_, **__):
        raise AssertionError("another program was started")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, start)
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(CONTENT[form])
    assert form_of(path) == form
    with pytest.raises(ClipError) as caught:
        read_clip(path, 8)
    said = f"it is a picture in the format {form}, and only JPEG, PNG, WebP, BMP and GIF are read; save it as PNG"
    assert str(caught.value) == f"cannot read {path}: {said}"


def test_what_begins_like_nothing_known_is_named_by_its_ending(tmp_path):
    for name, told in (("a.tga", "the format TGA"), ("a.tif", "the format TIFF"), ("a.png", "none of JPEG, PNG")):
        (tmp_path / name).write_bytes(b"\0\0\2\0" + bytes(40))
        with pytest.raises(ClipError, match=told):
            read_clip(tmp_path / name, 8)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "it is a video and no picture"),
        (b"<!DOCTYPE html><html>404", "it is a web page and no picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS and no picture"),
        (b"", "the file is empty"),
        (b"some text", "it is none of JPEG, PNG, WebP, BMP and GIF"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path, content, told):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (header, read_picture):
        with pytest.raises(ClipError, match=told) as caught:
            read(tmp_path / "a.jpg")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.jpg", "a", "a.tif", "a.picture", "a.webp"])
def test_the_content_counts_and_not_the_name(tmp_path, name):
    Image.fromarray(corners()).save(tmp_path / name, "PNG")
    assert (seen(tmp_path / name) == corners()).all() and is_still(tmp_path / name)


@pytest.mark.parametrize("name", ["pipe.png", "pipe.tif", "pipe"])
def test_a_pipe_is_waited_for_by_nobody(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert form_of(tmp_path / name) is None
    for read in (header, read_picture, not_read):
        with pytest.raises(ClipError, match="it is no regular file but a folder, a pipe"):
            read(tmp_path / name)


def test_a_picture_that_is_called_a_video_is_no_clip(tmp_path):
    Image.fromarray(corners()).save(tmp_path / "a.mp4", "JPEG")
    with pytest.raises(ClipError, match=r"it is a picture \(JPEG\) and no video"):
        read_clip(tmp_path / "a.mp4", 8)


def test_names_that_count_as_pictures_are_found_in_a_folder(tmp_path):
    for number, suffix in enumerate(sorted(STILLS - {".apng"})):
        Image.new("RGB", (8, 8), (30 * number,) * 3).save(tmp_path / f"{number}{suffix}", "PNG")
    assert brightness(read_clip(tmp_path, 8, folder_fps=1)) == [0, 30, 60, 90, 120, 150, 180]


# Bombs and damage


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


@pytest.mark.parametrize("form", FORMATS)
def test_a_bomb_is_refused_by_its_header(tmp_path, form, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    path = tmp_path / f"bomb{FORMATS[form]}"
    path.write_bytes(bomb(form))
    with warnings.catch_warnings(action="error"), pytest.raises(ClipError, match="60000 x 60000 pixels|3600000000"):
        header(path)
    with pytest.raises(ClipError):
        read_still(path)
    path.write_bytes(bomb(form, 3000))
    assert header(path)[:3] == (form, 3000, 3000)
    with pytest.raises(ClipError, match="its 3000 x 3000 pixels are more than 8,000,000"):
        header(path, limit=8e6)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_off_anywhere_is_one_line(tmp_path, form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    path = tmp_path / f"a{FORMATS[form]}"
    noise.save(path, form)
    whole = path.read_bytes()
    for end in {*range(1, 60), *range(60, len(whole) - 40, max(1, len(whole) // 40))}:
        path.write_bytes(whole[:end])
        with pytest.raises(ClipError) as caught:
            read_still(path)
        assert str(caught.value).startswith(f"cannot read {path}: ") and "\n" not in str(caught.value)


def test_flipped_bytes_raise_nothing_else(tmp_path):
    """Pillow has many ways to say that a file is damaged."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    for form, suffix in FORMATS.items():
        path = tmp_path / f"a{suffix}"
        noise.save(path, form)
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for at in rng.integers(0, min(len(data), 200), 3):
                data[at] = rng.choice([0, 1, 127, 128, 255])
            path.write_bytes(data)
            try:
                read_clip(path, 2)
                is_still(path)
            except UserError as error:
                assert "\n" not in str(error)


# In training and answering


def test_training_and_answering_see_the_same_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(corners(), 1).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(corners()).save(tmp_path / "upright.png")
    prepare = Preparation(TOY.streams, 8)
    for still in (None, *ASPECT_RATIOS):
        turned, upright = (prepare(tmp_path / f"{name}.png", still=still) for name in ("turned", "upright"))
        assert (turned.pixels["image"] == upright.pixels["image"]).all()
