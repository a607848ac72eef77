"""Pictures: what is seen of them, which files are opened, and what is said of the others."""

from __future__ import annotations

import os
import subprocess
import warnings

import numpy as np
import pytest
from faults.pictures import (
    BROKEN_EXIF,
    FOREIGN,
    LAID,
    NO_PICTURE,
    RED,
    TRANSPARENT,
    animation,
    behind_a_cover,
    bomb,
    brightness,
    corners,
    cut_animation,
    cut_between,
    deep_grey,
    deep_transparent,
    laid,
    logo,
    logo_of,
    phone,
    png,
    printed,
    seen,
    shown_rows,
    turned,
    with_exif,
)
from PIL import Image

from videogpt_plus.clips.picture_files import FORMATS, STILLS, form_of, header, is_still, not_read
from videogpt_plus.clips.pictures import read_picture
from videogpt_plus.clips.prefetch import SQUARES, Preparation
from videogpt_plus.clips.video import duration, read_clip, read_still
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.config.experiments import TOY
from videogpt_plus.types import ClipError, UserError

# What is seen


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(tmp_path, form, orientation):
    """It is stored as the camera held it; what is shown is always the same."""
    upright, path = corners(), turned(form, orientation, tmp_path)
    assert seen(path).shape == upright.shape
    assert abs(seen(path).astype(int) - upright).max() <= (12 if form in ("JPEG", "MPO") else 0)


def test_a_broken_orientation_does_not_lose_the_picture(tmp_path):
    for exif in BROKEN_EXIF:
        assert (seen(with_exif(exif, tmp_path)) == corners()).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_16_bits_is_scaled(tmp_path, order):
    deep_grey(order, tmp_path)
    assert form_of(tmp_path / "grey.png") == "PNG"
    picture = seen(tmp_path / "grey.png")
    assert (picture[..., 0].ravel() == range(256)).all() and (picture == picture[..., :1]).all()
    assert picture.mean() == 127.5


@pytest.mark.parametrize(("mode", "options"), TRANSPARENT)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_is_white(tmp_path, mode, options, form):
    """A black logo on nothing, as logos are published."""
    if form == "WEBP" and mode not in ("RGBA", "LA") or form == "GIF" and (mode != "P" or options["transparency"]):
        pytest.skip(f"{form} has no {mode} of this kind")
    path, black = logo(form, mode, options, tmp_path), logo_of()
    picture = read_picture(path)
    assert (picture[black] == 0).all() and (picture[~black] == 255).all()
    assert (seen(path) == picture).all()


def test_half_transparent_is_half_white(tmp_path):
    half = np.full((8, 8, 4), (200, 0, 100, 51), np.uint8)  # a fifth
    Image.fromarray(half).save(tmp_path / "half.png")
    assert abs(seen(tmp_path / "half.png").astype(int) - (244, 204, 224)).max() <= 1


def test_the_transparent_colour_of_16_bits_is_white(tmp_path):
    grey, colour = (seen(deep_transparent(colour, tmp_path))[0].tolist() for colour in (False, True))
    assert grey == [[255] * 3, [18] * 3]  # the two differ in the lower 8 bits alone
    assert colour == [[255, 255, 255], [0x12, 0x56, 0x9A], [0x9A, 0x56, 0x12]]  # and so do the first two here


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits_is_scaled(tmp_path, depth):
    (tmp_path / "grey.png").write_bytes(png(8 // depth, 1, depth, 0, b"\0\xff"))
    assert (seen(tmp_path / "grey.png") == 255).all()


def test_a_printers_jpeg_has_its_colours(tmp_path):
    for colour in ((255, 0, 0), (0, 0, 255), (255, 255, 255)):
        assert abs(seen(printed(colour, tmp_path)).astype(int) - colour).max() < 8


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
    phone(tmp_path)
    assert abs(seen(tmp_path / "phone.jpg").astype(int) - RED).max() < 8
    assert is_still(tmp_path / "phone.jpg") and duration(tmp_path / "phone.jpg") == 0


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
    behind_a_cover(tmp_path)
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
    prepare = Preparation(TOY.branches, Sampling(8))
    assert prepare(path, still="pad").placeholders == 1
    assert prepare(path).placeholders == 8


@pytest.mark.parametrize("name", LAID)
def test_parts_of_an_animated_png_are_laid_over_each_other(tmp_path, name):
    *parts, wanted = LAID[name]
    path = laid(*parts, tmp_path)
    assert shown_rows(path) == wanted
    last = read_clip(path, 1, sampling="middle").frames[0, :, 0].T.tolist()
    assert last == wanted[len(wanted) // 2], "also where the others are not asked for"
    assert (read_picture(path)[0] == wanted[0]).all()


def test_an_animated_png_that_ends_between_two_pictures_is_cut_off(tmp_path):
    for more in (0, 43):
        with pytest.raises(ClipError, match="2 of 4 pictures are in it"):
            read_clip(cut_between(more, tmp_path), 16)
    *parts, wanted = LAID["of 16 bits, each part whole"]
    assert shown_rows(laid(*parts, tmp_path, end=b"\0")) == wanted  # whole, but for the chunk that says so


def test_an_animation_that_is_cut_off_is_an_error(tmp_path):
    for suffix in (".webp", ".png"):
        with pytest.raises(ClipError, match="the image cannot be read"):
            read_clip(cut_animation(suffix, tmp_path), 16)


# Which files are opened


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".heic", ""])
def test_another_format_is_one_line_that_names_it_whatever_the_file_is_called(tmp_path, form, suffix, monkeypatch):
    def start(*_, **__):
        raise AssertionError("another program was started")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, start)
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(FOREIGN[form])
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


@pytest.mark.parametrize(("content", "told"), NO_PICTURE)
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
    prepare = Preparation(TOY.branches, Sampling(8))
    for still in (None, *SQUARES):
        turned, upright = (prepare(tmp_path / f"{name}.png", still=still) for name in ("turned", "upright"))
        assert (turned.pixels["image"] == upright.pixels["image"]).all()
