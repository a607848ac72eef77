"""Kinds of files that players show without a word: their frames are those that FFmpeg shows, and damage is damage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from clips import coded_frames, copy_packets, edit_list, noisy_frames, render_mp4
from faults.videos import (
    ASKEW,
    CELLS,
    CODECS,
    COLOURS,
    EDITS,
    GIFS,
    MATRICES,
    MATRICES_OF_MKV,
    STRUCTURES,
    all_codes,
    askew,
    cells,
    changed_gif,
    codes,
    damaged,
    edited_and_cut,
    full,
    palettes,
    shown,
    turned,
    with_comment,
    with_dropped,
    with_long_header,
    with_long_words,
    with_noise,
    with_title,
    without_lengths,
)

from videogpt_plus.clips.decoders import DECODERS, load_decoder
from videogpt_plus.clips.decoders.upright import degrees_of, turn_by
from videogpt_plus.clips.video import duration, read_clip, sample_indices
from videogpt_plus.types import Clip, ClipError, UserError


def all_as_shown(path: Path, fps: float = 10) -> None:
    """Fails unless the frames are those at the rule's indices, whole and between bounds."""
    frames = shown(path)
    assert len(frames) > 20
    for asked in [(7,), (16,), (len(frames),), (5, 1, 2), (8, 0.5, None)]:
        indices = sample_indices(len(frames), fps, *asked)
        assert codes(read_clip(path, *asked)) == [frames[i] for i in indices]
    assert duration(path) == pytest.approx(len(frames) / fps, abs=0.1)


# Whole files and cuts of them.


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_key_frames_that_need_what_stands_before_them(tmp_path, name, suffix):
    path = render_mp4(tmp_path / f"a{suffix}", noisy_frames(90), 10, options={"x264-params": STRUCTURES[name]})
    all_as_shown(path)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv"])
def test_a_cut_of_them_begins_at_the_first_frame_that_can_be_shown(tmp_path, name, suffix):
    # As a .ts repeats its headers, as recordings do.
    whole = render_mp4(tmp_path / "whole.ts", noisy_frames(90), 10, options={"x264-params": STRUCTURES[name]})
    for key in (1, 2, 3):
        path = copy_packets(whole, tmp_path / f"{key}{suffix}", from_key=key)
        frames = shown(path)
        assert frames[0] > 0 and frames == list(range(frames[0], 90))
        all_as_shown(path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_frames_that_nobody_can_decode_at_the_beginning_are_none(tmp_path, codec, suffix):
    fps = 25 if codec == "mpeg2video" else 10  # which knows no 10
    size = (96, 128) if codec == "libx265" else (48, 64)
    whole = render_mp4(tmp_path / "whole.ts", coded_frames(90, *size), fps, codec=codec, options=CODECS[codec])
    for skipped in (1, 13, 29):
        path = copy_packets(whole, tmp_path / f"{skipped}{suffix}", skipped=skipped)
        frames = shown(path)
        for count in (7, 16, 100):
            assert codes(read_clip(path, count)) == [frames[i] for i in sample_indices(len(frames), fps, count)]


def test_parts_of_a_transport_stream_are_read_alone_and_joined(tmp_path):
    whole = render_mp4(tmp_path / "whole.ts", noisy_frames(90), 10, options={"x264-params": STRUCTURES["adaptive"]})
    parts = [copy_packets(whole, tmp_path / f"{i}.ts", from_key=i, keys=3) for i in (0, 3)]
    for part in parts:
        all_as_shown(part)
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    all_as_shown(tmp_path / "joined.ts")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_text_in_the_stream_that_is_too_long_is_no_damage(tmp_path, suffix):
    path = with_long_words(suffix, tmp_path)
    all_as_shown(path)


def test_what_is_damaged_is_still_found(tmp_path):
    for number in (0, 1, 2, 20, 45, 60):
        with pytest.raises(ClipError, match="damaged"):
            read_clip(damaged(number, tmp_path), 90)


def test_lost_pictures_that_others_refer_to_are_found(tmp_path):
    # Not all: what refers to the wrong picture may decode as well.
    whole = render_mp4(tmp_path / "whole.ts", noisy_frames(60), 10, gop=60, options={"refs": "1", "bf": "2"})
    refused = 0
    for number in range(3, 40, 4):
        try:
            read_clip(copy_packets(whole, tmp_path / f"{number}.mkv", without=(number,)), 60)
        except ClipError:
            refused += 1
    assert refused >= 3


# What the container says.


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".flv"])
def test_titles_in_any_encoding(tmp_path, suffix):
    path = with_title(suffix, tmp_path)
    assert codes(read_clip(path, 30)) == list(range(30))


def test_a_gif_may_end_with_a_comment(tmp_path):
    all_as_shown(with_comment(30, tmp_path))
    one = with_comment(1, tmp_path)
    assert len(read_clip(one, 16).frames) == 1


@pytest.mark.parametrize("name", GIFS)
def test_a_gif_that_is_cut_off_is_told_from_one_without_a_trailer(tmp_path, name):
    change, expected = GIFS[name]
    path = changed_gif(change, tmp_path)
    if isinstance(expected, list):
        assert all_codes(path) == expected
        return
    for look in (all_codes, duration):
        with pytest.raises(ClipError, match=expected.text):
            look(path)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("gop", [5, 50])
def test_what_an_edit_list_shows_is_the_clip(tmp_path, name, gop):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(90), 10, gop=gop)
    edit_list(path, EDITS[name])
    frames = [first + i for first, count in EDITS[name] for i in range(count)]
    assert shown(path) == frames
    assert codes(read_clip(path, 100)) == frames
    for count in (7, 16):  # FFmpeg leaves out a frame's time between two edits, and the rule then goes by time
        places = [frames.index(code) for code in codes(read_clip(path, count))]
        assert np.abs(np.subtract(places, sample_indices(len(frames), 10, count))).max() <= len(EDITS[name]) - 1


def test_a_repeated_edit_shows_its_frames_twice(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(90), 10)
    edit_list(path, [(10, 20), (10, 20)])
    assert codes(read_clip(path, 100)) == shown(path) == [*range(10, 30)] * 2


def test_a_cut_off_file_with_an_edit_list_is_refused(tmp_path):
    path = edited_and_cut(tmp_path)
    with pytest.raises(ClipError, match="cut off"):
        read_clip(path, 8)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".flv", ".mp4"])
@pytest.mark.parametrize("every", [4, 10, 22])
def test_dropped_frames_shorten_nothing(tmp_path, suffix, every):
    path = with_dropped(suffix, every, tmp_path)
    clip = read_clip(path, 16)
    assert codes(clip) == sorted(codes(clip)) and codes(clip)[0] == 0 and codes(clip)[-1] >= 205
    assert clip.seconds == pytest.approx([code / 10 for code in codes(clip)], abs=2e-3)
    assert duration(path) == pytest.approx(22, abs=0.3)


def test_a_header_that_is_too_long_is_believed_only_of_a_file_that_ends_too_early(tmp_path):
    all_as_shown(with_long_header(1, tmp_path))
    with pytest.raises(ClipError, match="of 25.0 s are in it"):
        read_clip(with_long_header(2 / 3, tmp_path), 8)


@pytest.mark.parametrize("seconds", [0, 0.2, 0.7, 1.2, 12])
def test_a_matroska_that_is_damaged_between_its_frames_is_no_shorter_clip(tmp_path, seconds):
    """FFmpeg goes on at the next cluster, or ends where there is none."""
    path = with_noise(seconds, tmp_path)
    assert len(shown(path)) < 300
    with pytest.raises(ClipError, match=r"the file is damaged, no element begins at byte [\d,]+; download it again"):
        read_clip(path, 8)


def test_a_matroska_need_not_say_how_long_its_parts_are(tmp_path):
    all_as_shown(without_lengths(tmp_path))


def test_a_matroska_that_lost_its_last_bytes_is_not_called_damaged(tmp_path):
    path = with_long_header(1, tmp_path)
    for end in range(path.stat().st_size - 1, path.stat().st_size - 400, -7):
        os.truncate(path, end)
        with pytest.raises(ClipError, match="of 25.0 s are in it"):
            read_clip(path, 8)


def test_palettes_that_change_in_an_avi(tmp_path):
    path = palettes(tmp_path)
    for count in (20, 7, 1):
        frames = read_clip(path, count).frames.numpy()
        wanted = [COLOURS[i // 5] for i in sample_indices(20, 10, count)]
        assert (frames[:, :, 5, 5] == wanted).all()


# Upright.

PICTURE = CELLS[..., None].repeat(3, -1)


@pytest.mark.parametrize(("matrix", "expected"), MATRICES.items())
def test_display_matrices_turn_and_mirror(matrix, expected):
    assert turn_by(full(matrix)).of(PICTURE)[..., 0].tolist() == expected


def test_other_angles_and_no_matrix_at_all():
    assert turn_by((0,) * 9).of(PICTURE)[..., 0].tolist() == PICTURE[..., 0].tolist()
    assert turn_by(ASKEW) is None and degrees_of(ASKEW) == 45


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("matrix", "expected"), MATRICES.items())
def test_files_are_turned_as_they_ask(tmp_path, suffix, matrix, expected):
    if suffix == ".mkv" and matrix not in MATRICES_OF_MKV:
        pytest.skip("Matroska has no word for it")
    path = turned(tmp_path, suffix, matrix)
    assert cells(len(expected), path) == expected


def test_a_file_that_stands_askew_is_turned_within_its_bounds(tmp_path):
    picture = read_clip(askew(tmp_path), 2).frames[0, 0]
    assert picture.shape == (48, 64) and picture[24, 32] > 190 and picture[0, 0] < 20


# Other decoders.

Reader = Callable[..., Clip]


@pytest.fixture(scope="module", params=[name for name in DECODERS if name != "pyav"])
def other(request) -> Iterator[Reader]:
    """`read_clip` by another decoder, in a process of its own: each brings an FFmpeg of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            pool.submit(_load, request.param).result()
        except UserError as error:
            pytest.skip(str(error))
        yield lambda *args: pool.submit(read_clip, *args, decoder=request.param).result()


def _load(decoder: str) -> None:
    load_decoder(decoder)


def same_or_refused(path: Path, other: Reader) -> bool:
    """Whether the other decoder gave the clip; fails where it gave another one."""
    try:
        clip = other(path, 8)
    except ClipError as error:
        assert "take --decoder pyav" in str(error)
        return False
    own = read_clip(path, 8)
    assert clip.frames.equal(own.frames) and clip.seconds == own.seconds
    return True


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_decoder_turns_alike(tmp_path, other, suffix, matrix):
    assert same_or_refused(turned(tmp_path, suffix, matrix), other)


@pytest.mark.parametrize("crop", ["crop_left=10", "crop_right=6", "crop_top=4:crop_bottom=6", "crop_left=32"])
def test_every_decoder_crops_alike_or_says_so(tmp_path, other, crop):
    plain = render_mp4(tmp_path / "plain.mp4", noisy_frames(20, 64, 96), 10)
    path = copy_packets(plain, tmp_path / "a.mp4", units=f"h264_metadata={crop}")
    assert same_or_refused(path, other) or "left" in crop


@pytest.mark.parametrize("name", [*STRUCTURES, *EDITS])
def test_every_decoder_shows_the_same_or_none(tmp_path, other, name):
    if name in EDITS:
        path = render_mp4(tmp_path / "a.mp4", coded_frames(90), 10)
        edit_list(path, EDITS[name])
    else:
        path = render_mp4(tmp_path / "a.ts", noisy_frames(90), 10, options={"x264-params": STRUCTURES[name]})
        path = copy_packets(path, tmp_path / "cut.mkv", from_key=2)
    same_or_refused(path, other)


#: Pixels, and height and width, of files whose colours have to be scaled up, or need not be.
COLOURED = {
    "common": ("yuv420p", 48, 64),
    "odd": ("yuv420p", 49, 65),
    "10 bits": ("yuv420p10le", 48, 64),
    "10 bits, half as wide": ("yuv422p10le", 48, 64),
    "half as high": ("yuv440p", 48, 64),
    "a quarter as wide": ("yuv411p", 48, 64),
    "half as wide, odd": ("yuv422p", 49, 65),
    "whole": ("yuv444p", 49, 65),
}


def colourful(path: Path, pixels: str, height: int, width: int, **options: str) -> Path:
    """A file of 12 frames without loss in which neighbours have other colours."""
    frames = np.random.default_rng(0).choice(np.array([20, 230], np.uint8), (12, height, width, 3))
    codec = "libx264" if options else "ffv1"
    return render_mp4(path, frames, 10, codec=codec, pix_fmt=pixels, options=options)


@pytest.mark.skipif(not which("ffmpeg"), reason="there is no ffmpeg command")
@pytest.mark.parametrize("name", COLOURED)
def test_colours_are_those_of_the_ffmpeg_command(tmp_path, name):
    path = colourful(tmp_path / "a.mkv", *COLOURED[name])
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert read_clip(path, 12).frames.permute(0, 2, 3, 1).contiguous().numpy().tobytes() == shown


@pytest.mark.parametrize("name", COLOURED)
def test_every_decoder_gives_the_same_colours_or_none(tmp_path, other, name):
    assert same_or_refused(colourful(tmp_path / "a.mkv", *COLOURED[name]), other) or name not in ("common", "whole")


def test_a_file_in_fields_has_the_colours_of_the_same_file_in_frames(tmp_path):
    read = [
        read_clip(colourful(tmp_path / f"{kind}.mp4", "yuv420p", 48, 64, **{"x264-params": f"qp=0{kind}"}), 12)
        for kind in ("", ":interlaced=1")
    ]
    assert read[0].frames.equal(read[1].frames)


# Files that would be waited for, and memory.


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "1.png")
    for name in ("a.mp4", "a.png", "folder"):
        with pytest.raises(ClipError, match="no regular file but a"):
            read_clip(tmp_path / name, 8)
    with pytest.raises(ClipError, match="no regular file but a"):
        duration(tmp_path / "a.mp4")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told in /proc")
@pytest.mark.parametrize("sampling", ["jumps", "counted"])
def test_reading_takes_little_more_than_the_frames_it_returns(tmp_path, sampling):
    frames = np.zeros((60, 720, 1280, 3), np.uint8)
    suffix, codec = (".avi", "mpeg4") if sampling == "counted" else (".mp4", "libx264")
    path = render_mp4(tmp_path / f"a{suffix}", frames, 10, codec=codec, gop=5)
    code = f"""
import resource
from videogpt_plus.clips.video import read_clip
read_clip({str(path)!r}, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip = read_clip({str(path)!r}, 24)
more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert more < 2 * clip.frames.numel(), more / clip.frames.numel()
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
