"""Frames: which ones are taken, that they are the right ones, and what bad files say."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import coded_frames, read_code, render_audio, render_mp4
from PIL import Image

from videogpt_plus.clips.decoders import DECODERS, load_decoder
from videogpt_plus.clips.video import folder_indices, read_clip, sample_indices
from videogpt_plus.types import Clip, ClipError, UserError

SHARED = Path(__file__).parents[1].parent / "shared"
GOLDEN = Path(__file__).parent / "golden" / "sampling.json"
#: Recorded from the reference at 16 frames: total, rate, start, end, indices; its zero frames are left out.
RECORDED = [
    (2, 25, None, None, "0 1"),
    (5, 25, None, None, "0 1 2 3 4"),
    (8, 25, None, None, "0 1 2 3 4 5 6 7"),
    (15, 25, None, None, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14"),
    (16, 25, None, None, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
    (17, 25, None, None, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
    (30, 10, None, None, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
    (40, 25, None, None, "0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30"),
    (100, 25, None, None, "0 6 12 18 24 30 36 42 48 54 60 66 72 78 84 90"),
    (250, 25, None, None, "0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240"),
    (376, 25, None, None, "0 25 50 75 100 125 150 175 200 225 250 275 300 325 350 375"),
    (400, 25, None, None, "0 25 50 75 100 125 150 175 200 225 250 275 300 325 350 375"),
    (401, 25, None, None, "0 25 50 75 100 125 150 175 200 225 250 275 300 325 350 400"),
    (425, 25, None, None, "0 25 50 75 100 125 150 175 200 225 250 275 300 325 350 400"),
    (450, 30, None, None, "0 29 58 87 116 145 174 203 232 261 290 319 348 377 406 435"),
    (480, 29.97, None, None, "0 30 60 90 120 150 180 210 240 270 300 330 360 390 420 450"),
    (1000, 23.976, None, None, "0 48 120 192 240 312 384 456 504 576 648 720 768 840 912 984"),
    (3000, 30, None, None, "0 180 390 570 780 990 1170 1380 1560 1770 1980 2160 2370 2550 2760 2970"),
    (10, 1, None, None, "0 1 2 3 4 5 6 7 8 9"),
    (12, 1, None, None, "0 1 2 3 4 5 6 7 8 9 10 11"),
    (20, 1, None, None, "0 1 2 3 5 6 7 8 10 11 12 13 15 16 17 19"),
    (33, 2, None, None, "0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 32"),
    (128, 12, None, None, "0 8 16 24 32 40 48 56 64 72 80 88 96 104 112 120"),
    (900, 60, None, None, "0 59 118 177 236 295 354 413 472 531 590 649 708 767 826 885"),
    (1000, 25, 3.2, 9.7, "75 85 95 105 115 125 135 145 155 165 175 185 195 205 215 225"),
    (1000, 25, 9.7, 3.2, "75 85 95 105 115 125 135 145 155 165 175 185 195 205 215 225"),
    (1000, 25, 5, 5.4, "125 126 127 128 129 130 131 132 133 134 135 136 137 138 139 140"),
    (1000, 29.97, 0, 33.4, "0 60 120 180 240 300 360 420 510 570 630 690 750 810 870 960"),
    (1000, 25, -2, 4, "0 6 12 18 24 30 36 42 48 54 60 66 72 78 84 90"),
    (1000, 25, 35.5, 60, "875 883 891 899 907 915 923 931 939 947 955 963 971 979 987 995"),
    (1000, 30, 2.9, 3.9, "60 62 64 66 68 70 72 74 76 78 80 82 84 86 88 90"),
    (750, 25, 0.0, 30.0, "0 25 75 125 175 225 275 325 375 425 475 525 575 625 675 725"),
]
#: Recorded from the reference for folders at 3 frames a second: files, start, end, indices.
RECORDED_FOLDERS = [
    (50, None, None, "0 3 6 9 12 15 18 21 24 27 30 33 36 39 42 45"),
    (50, 2.3, 9.9, "6 9 12 15 18 21 24 27"),
    (10, None, None, "0 3 6 9"),
    (45, 0, 15, "0 3 6 9 12 15 18 21 24 27 30 33 36 39 42"),
    (100, 5.5, 40.2, "16 19 22 25 28 31 34 37 40 43 46 49 52 55 58 61"),
    (48, 3.4, 3.5, "10"),
    (3, 0, 1, "0"),
]


#: Of x264: frames before a key frame, in the order of display, are decoded behind it.
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:min-keyint=1"}


def codes(clip: Clip) -> list[int]:
    return [read_code(frame) for frame in clip.frames.numpy()]


def one_line_error(path: Path, *args) -> str:
    """The message of the ClipError that reading the file raises."""
    with pytest.raises(ClipError) as caught:
        read_clip(path, *(args or (8,)))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and ";" in message
    return message


# Which frames.


@pytest.mark.parametrize(("total", "fps", "start", "end", "expected"), RECORDED)
def test_sampling_equals_the_reference(total, fps, start, end, expected):
    assert sample_indices(total, fps, 16, start, end) == [int(i) for i in expected.split()]


@pytest.mark.parametrize(("files", "start", "end", "expected"), RECORDED_FOLDERS)
def test_folder_sampling_equals_the_reference(files, start, end, expected):
    assert folder_indices(files, 16, start, end) == [int(i) for i in expected.split()]


def test_table_of_recordings_is_complete():
    recorded = json.loads(GOLDEN.read_text())
    video = [
        (r["n_frames"], r["fps"], r["start"], r["end"], _real(r["eval"]))
        for r in recorded["raw_video"]
        if isinstance(r["eval"], dict)
    ]
    folders = [
        (r["n_files"], r["start"], r["end"], _real(r["result"]))
        for r in recorded["frame_folder_3fps"]
        if isinstance(r["result"], dict)
    ]
    assert (video, folders) == (RECORDED, RECORDED_FOLDERS)


def _real(result: dict) -> str:
    assert result["video"] == result["context"]
    return " ".join(str(i) for i in result["video"] if i != "zero")


@pytest.mark.parametrize("num_frames", [1, 2, 8, 16])
@pytest.mark.parametrize("fps", [0.4, 1, 7, 29.97, 60])
def test_sampled_frames_are_distinct_ascending_and_at_most_as_many_as_asked(num_frames, fps):
    for total in range(1, 200):
        indices = sample_indices(total, fps, num_frames)
        assert indices == sorted(set(indices)) and indices[0] >= 0 and indices[-1] < total
        assert len(indices) == min(total, num_frames)


def test_one_frame_is_a_clip():
    assert sample_indices(1, 25, 16) == [0]


def test_a_start_without_end_goes_to_the_end():
    assert sample_indices(100, 10, 16, start=9) == [*range(90, 100)]


# The right frames.


@pytest.mark.parametrize("fps", [5, 12.5, 25, 30000 / 1001])
@pytest.mark.parametrize("gop", [1, 7, 250])
def test_frames_are_those_that_the_rule_names(tmp_path, fps, gop):
    clip = read_clip(render_mp4(tmp_path / "a.mp4", coded_frames(90), fps, gop=gop), 8)
    indices = sample_indices(90, fps, 8)
    assert codes(clip) == indices
    assert clip.seconds == pytest.approx([i / fps for i in indices], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("a.avi", {}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.ts", {}),
        ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("fragmented.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_containers_give_the_same_frames(tmp_path, name, options):
    path = render_mp4(tmp_path / name, coded_frames(100), 10, gop=10, **options)
    for num_frames in (7, 8, 16):
        assert codes(read_clip(path, num_frames)) == sample_indices(100, 10, num_frames)


def test_rounded_time_stamps_do_not_shift_bounds(tmp_path):
    # Matroska rounds to milliseconds: 100 frames at 29.97 a second are then not quite that.
    for fps in (30, 30000 / 1001, 24):
        path = render_mp4(tmp_path / "a.mkv", coded_frames(200), fps)
        assert codes(read_clip(path, 8, 5, 6)) == sample_indices(200, fps, 8, 5, 6)


def hide_frames(path: Path, count: int) -> None:
    """Has the edit list of an MP4 of 10 frames a second begin later by so many frames."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12
    milliseconds, ticks = struct.unpack(">ii", content[place : place + 8])
    content[place : place + 8] = struct.pack(">ii", milliseconds - 100 * count, ticks + 1024 * count)
    path.write_bytes(content)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(60), 10)
    hide_frames(path, 5)
    clip = read_clip(path, 8)
    assert codes(clip) == [5 + i for i in sample_indices(55, 10, 8)]
    assert clip.seconds[0] == 0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("gop", [3, 6, 12])
def test_frames_behind_an_open_key_frame_are_read(tmp_path, name, gop):
    # They need what stands before it: after a jump to it they look like damage.
    path = render_mp4(tmp_path / name, coded_frames(100), 10, gop=gop, options=OPEN_GOP)
    for num_frames in (8, 16):
        assert codes(read_clip(path, num_frames)) == sample_indices(100, 10, num_frames)


def test_bounds_choose_their_part(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(100), 10)
    assert codes(read_clip(path, 4, 3.2, 7.9)) == sample_indices(100, 10, 4, 3.2, 7.9) == [30, 40, 50, 70]
    assert codes(read_clip(path, 4, 8, 500)) == [80, 86, 92, 98]


def test_variable_rate_is_sampled_in_time(tmp_path):
    # 20 frames in the first second, then one every second: in 20 s, half of the frames are over at once.
    ticks = [50 * i for i in range(20)] + [1000 * i for i in range(1, 20)]
    for name in ("a.mp4", "a.mkv"):
        clip = read_clip(render_mp4(tmp_path / name, coded_frames(len(ticks)), 20, ticks=ticks), 8)
        assert clip.seconds == pytest.approx([ticks[code] / 1000 for code in codes(clip)], abs=1e-3)
        assert np.diff(clip.seconds).max() <= 4 and clip.seconds[-1] > 15


def test_a_slow_show_of_few_pictures_gives_each_once(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(4), 25, ticks=[0, 40, 3000, 9000])
    assert codes(read_clip(path, 8)) == [0, 1, 2, 3]


def test_largest_video_stream_is_taken(tmp_path):
    small, large = np.zeros((10, 32, 32, 3), np.uint8), coded_frames(10, 64, 96)
    for order in ([small, large], [large, small]):
        assert read_clip(render_mp4(tmp_path / "two.mp4", order, 10), 8).frames.shape == (8, 3, 64, 96)


def test_one_frame_video_is_read(tmp_path):
    clip = read_clip(render_mp4(tmp_path / "one.mp4", coded_frames(1), 25), 16)
    assert clip.frames.shape == (1, 3, 48, 64) and clip.seconds == (0.0,)


@pytest.mark.parametrize("full_range_bt709", [False, True])
def test_colours_survive_range_and_matrix(tmp_path, full_range_bt709):
    colours = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 255], [200, 150, 40], [20, 20, 20], [250, 250, 250]])
    frames = np.ones((6, 64, 64, 3), np.uint8) * colours[:, None, None].astype(np.uint8)
    clip = read_clip(render_mp4(tmp_path / "a.mp4", frames, 10, full_range_bt709=full_range_bt709), 8)
    assert np.abs(clip.frames[:, :, 30, 30].numpy() - colours).max() <= 4


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a display matrix into an MP4."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = matrix
    content[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(("matrix", "corner"), [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1))])
def test_rotation_of_the_file_is_applied(tmp_path, matrix, corner):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :20, :20] = 255
    path = render_mp4(tmp_path / "a.mp4", frames, 10)
    turn(path, matrix)
    picture = read_clip(path, 8).frames[0, 0]
    assert picture.shape == ((64, 48) if matrix[0] == 0 else (48, 64))
    assert picture[corner] > 250 and int((picture > 128).sum()) == pytest.approx(400, abs=40)


# Other decoders.

Reader = Callable[..., Clip]


@pytest.fixture(scope="module", params=[name for name in DECODERS if name != "pyav"])
def other(request) -> Iterator[tuple[str, Reader]]:
    """The name of a decoder and `read_clip` by it, in a process of its own: each brings an FFmpeg of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            pool.submit(_load, request.param).result()
        except UserError as error:
            pytest.skip(str(error))
        yield request.param, lambda *args: pool.submit(read_clip, *args, decoder=request.param).result()


def _load(decoder: str) -> None:
    load_decoder(decoder)


def motion(count: int = 60) -> np.ndarray:
    """Coloured blocks that move: all planes of the picture matter."""
    block = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return np.stack([np.roll(block, 3 * i, axis=0) for i in range(count)])


def same(a: Clip, b: Clip) -> bool:
    return a.frames.equal(b.frames) and (a.seconds, a.source) == (b.seconds, b.source)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("short_gop.mp4", {"gop": 2}),
        ("long_gop.mkv", {"gop": 250}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("full_range.mp4", {"full_range_bt709": True}),
        ("colourful.mp4", {"pix_fmt": "yuv444p"}),
        ("fragmented.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("ntsc.mkv", {"fps": 30000 / 1001}),
    ],
)
def test_decoders_give_the_same_pictures_bit_for_bit(tmp_path, other, name, options):
    path = render_mp4(tmp_path / name, motion(), **{"fps": 10, "gop": 10, **options})
    for asked in [(16,), (7,), (8, 1, 2), (1,)]:
        assert same(other[1](path, *asked), read_clip(path, *asked))


def test_decoders_take_the_same_frames_at_a_variable_rate(tmp_path, other):
    ticks = [50 * i for i in range(20)] + [1000 * i for i in range(1, 20)]
    for name in ("a.mp4", "a.mkv"):
        path = render_mp4(tmp_path / name, coded_frames(len(ticks)), 20, ticks=ticks)
        assert same(other[1](path, 8), read_clip(path, 8))


#: What decord gives other frames of, or none: it has to say so.
NOT_BY_DECORD = ["a.ts", "hidden.mp4", "a.gif"]
KINDS = ["open.mp4", "hevc.mp4", "a.avi", "turned.mp4", "upside_down.mp4", "two.mp4", "twins.mp4"]


@pytest.mark.parametrize("name", [*NOT_BY_DECORD, *KINDS])
def test_a_decoder_gives_the_right_frames_or_none(tmp_path, other, name):
    frames, options = coded_frames(60), {"gop": 10}
    if name == "a.gif":
        options |= {"codec": "gif", "pix_fmt": "rgb8"}
    elif name == "open.mp4":
        options |= {"options": OPEN_GOP}
    elif name == "hevc.mp4":
        frames = coded_frames(60, 96, 128)
        options |= {"codec": "libx265", "options": {"x265-params": "bframes=3:b-adapt=0:log-level=none"}}
    elif name == "two.mp4":
        frames = [coded_frames(60, 32, 32), coded_frames(60, 64, 96)]
    elif name == "twins.mp4":
        frames = [coded_frames(60), coded_frames(120)[60:]]
    path = render_mp4(tmp_path / name, frames, 10, **options)
    if name == "hidden.mp4":
        hide_frames(path, 5)
    if name in ("turned.mp4", "upside_down.mp4"):
        turn(path, (0, 1, -1, 0) if name == "turned.mp4" else (-1, 0, 0, -1))
    decoder, read = other
    for asked in [(16,), (7,), (8, 2, 4), (4, 3)]:
        try:
            clip = read(path, *asked)
        except ClipError as error:
            assert "take --decoder pyav" in str(error) and str(path) in str(error) and "\n" not in str(error)
            continue
        assert same(clip, read_clip(path, *asked))
        assert decoder != "decord" or name not in NOT_BY_DECORD


def test_what_is_cut_off_is_refused_by_every_decoder(tmp_path, other):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(60), 10, container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    for percent in (1, 50, 99):
        path.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(ClipError, match="damaged|cut off|ends in the middle"):
            other[1](path, 8)


def test_lost_pictures_are_not_replaced_by_neighbours(tmp_path, other):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(60), 10, gop=30)
    content = bytearray(path.read_bytes())
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (begin + end) // 2
    content[middle : middle + (end - begin) // 4] = bytes((end - begin) // 4)
    path.write_bytes(content)
    for read in (read_clip, other[1]):
        with pytest.raises(ClipError):
            read(path, 60)


@pytest.mark.skipif(not (SHARED / "clips").exists(), reason="the real clips are not on this machine")
@pytest.mark.parametrize("name", ["nasa_13013.mp4", "bt709_full_range.mp4", "h265_video.mp4", "av1_video.mkv"])
def test_decoders_give_the_same_pictures_of_real_files(other, name):
    path = SHARED / "clips" / name
    try:
        clip = other[1](path, 16)
    except ClipError as error:
        # decord's FFmpeg has no AV1
        assert (other[0], name) == ("decord", "av1_video.mkv") and "decord stops at it" in str(error)
        return
    assert same(clip, read_clip(path, 16))


def test_unknown_and_missing_decoders_are_one_line(tmp_path, monkeypatch):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(10), 10)
    with pytest.raises(UserError, match="unknown decoder 'cv2'; choose from: pyav, decord, torchcodec"):
        read_clip(path, 8, decoder="cv2")
    monkeypatch.setattr("sys.path", [])
    for name, extra in (("decord", "decord"), ("torchcodec", "gpu")):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(
            UserError, match=rf"decoder '{name}' is not installed: pip install 'videogpt-plus\[{extra}\]'"
        ):
            read_clip(path, 8, decoder=name)


# Stills and folders.


def test_still_image_is_one_frame(tmp_path):
    picture = coded_frames(6)[5]
    Image.fromarray(picture).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png", 16)
    assert clip.frames.shape == (1, 3, 48, 64)
    assert (clip.frames[0].numpy() == picture.transpose(2, 0, 1)).all()


@pytest.fixture
def folder(tmp_path) -> Path:
    """30 frames named 1.png to 30.png, and a file that is no frame."""
    for i, frame in enumerate(coded_frames(30)):
        Image.fromarray(frame).save(tmp_path / f"{i + 1}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    return tmp_path


def test_folder_is_in_natural_order_and_every_third_is_taken(folder):
    clip = read_clip(folder, 16)
    assert codes(clip) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert clip.seconds == pytest.approx(range(10))


def test_bounds_of_a_folder_are_seconds(folder):
    assert codes(read_clip(folder, 16, 2.3, 5)) == [6, 9, 12, 15]
    assert codes(read_clip(folder, 16, 2, 5, folder_fps=2)) == [4, 6, 8, 10]
    for start, end in [(11, 12), (1e308, None), (None, -1e308)]:
        assert "nothing of its 10.00 s" in one_line_error(folder, 16, start, end)


def test_pictures_of_a_folder_may_differ_in_size(folder):
    Image.new("RGB", (10, 8)).save(folder / "4.png")
    clip = read_clip(folder, 3)
    usual = clip.frames[0].shape
    assert [frame.shape for frame in clip.frames] == [usual, (3, 8, 10), usual]
    parts = clip.of_one_size()
    assert [len(part.frames) for part in parts] == [1, 1, 1] and parts[2].seconds == clip.seconds[2:]
    turned = clip.taken([2, 1, 0])
    assert torch.equal(turned.frames[0], clip.frames[2]) and turned.seconds == clip.seconds[::-1]


def test_bad_folders_say_why(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no frames" in one_line_error(tmp_path / "empty")
    (folder / "4.png").write_bytes((folder / "1.png").read_bytes()[:60])
    with pytest.raises(ClipError, match="4.png: the image cannot be read"):
        read_clip(folder, 8)


# Bad files.


def test_bad_files_say_why(tmp_path):
    assert "no such file" in one_line_error(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "empty" in one_line_error(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is no video " * 100)
    assert "no video" in one_line_error(tmp_path / "text.mp4")
    (tmp_path / "notes.txt").write_text("FFmpeg would draw this text as a video\n" * 100)
    assert "no video" in one_line_error(tmp_path / "notes.txt")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\na.mp4\n")
    assert "no video" in one_line_error(tmp_path / "list.m3u8")
    assert "no video stream" in one_line_error(render_audio(tmp_path / "sound.mp4"))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert "image cannot be read" in one_line_error(tmp_path / "bad.jpg")


def test_unknown_codec_says_so(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(10), 10)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert "codec is unknown" in one_line_error(path)


@pytest.mark.parametrize(
    ("start", "end", "same"), [(2, 1, (1, 2)), (1.7, 1.2, (1, 2)), (1, 1, (1, 2)), (-3, -1, (0, 1)), (None, -1, (0, 1))]
)
def test_bounds_that_are_turned_round_are_taken_in_order_as_in_the_reference(tmp_path, start, end, same):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(30), 10)
    assert read_clip(path, 8, start, end).seconds == read_clip(path, 8, *same).seconds
    # A rule of another family has no order to put them in.
    assert "nothing of its 3.00 s" in str(pytest.raises(ClipError, read_clip, path, 8, 2, 1, sampling="average").value)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (5, 6, "nothing of its 2.00 s"),
        (1e308, None, "nothing of its 2.00 s lies from 1e+308 s to the end"),
        (1e308, 1.7e308, "nothing of its 2.00 s"),
        (float("nan"), 1, "start is nan"),
        (0, float("inf"), "end is inf"),
    ],
)
def test_wrong_bounds_say_why(tmp_path, start, end, said):
    assert said in one_line_error(render_mp4(tmp_path / "a.mp4", coded_frames(20), 10), 8, start, end)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("faststart.mp4", {"container_options": {"movflags": "faststart"}}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {}),
        ("a.ts", {}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("fragmented.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_truncated_file_is_an_error_or_real_frames(tmp_path, name, options):
    whole = render_mp4(tmp_path / name, coded_frames(60), 10, **options).read_bytes()
    for percent in (1, 20, 45, 60, 75, 90, 99):
        path = tmp_path / f"{percent}_{name}"
        path.write_bytes(whole[: len(whole) * percent // 100])
        try:
            clip = read_clip(path, 8)
        except ClipError as error:
            assert str(path) in str(error)
            continue
        assert [round(s * 10) for s in clip.seconds] == codes(clip)
        assert "mp4" not in name or name == "fragmented.mp4" or codes(clip)[-1] >= 56


def test_header_that_promises_too_much_is_an_error(tmp_path):
    path = render_mp4(tmp_path / "a.webm", coded_frames(60), 10, codec="libvpx-vp9")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "of 6.0 s are in it" in one_line_error(path)


def test_torn_last_frame_is_an_error(tmp_path):
    path = render_mp4(tmp_path / "a.mp4", coded_frames(60), 10, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-3])
    assert "a frame ends in the middle" in one_line_error(path)


def test_many_flipped_bits_are_noticed(tmp_path):
    # Many, for H.264 has no checksum: of single flipped bits in such files, up to 13 of 30 gave wrong frames unseen.
    block = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    frames = np.stack([np.roll(block, 3 * i, axis=0) for i in range(60)])
    whole = render_mp4(tmp_path / "whole.mp4", frames, 10, gop=30).read_bytes()
    begin, end = whole.index(b"mdat") + 700, whole.index(b"moov") - 4
    for seed in range(10):
        content, random = bytearray(whole), np.random.default_rng(seed)
        for place, bit in zip(random.integers(begin, end, 50), random.integers(0, 8, 50), strict=True):
            content[place] ^= 1 << int(bit)
        (tmp_path / "flipped.mp4").write_bytes(content)
        assert "damaged" in one_line_error(tmp_path / "flipped.mp4")


def test_cover_picture_is_no_video(tmp_path):
    path = render_audio(tmp_path / "song.mp4", cover=coded_frames(1)[0])
    assert "no video stream" in one_line_error(path)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_reading_leaves_no_thread_behind(tmp_path):
    # Threads of FFmpeg that live on in a parent hang forked data workers.
    good = render_mp4(tmp_path / "good.mp4", coded_frames(20, 480, 640), 10)
    bad = render_mp4(tmp_path / "bad.mp4", coded_frames(20), 10, container_options={"movflags": "faststart"})
    bad.write_bytes(bad.read_bytes()[:-50])
    code = f"""
import gc, os
from videogpt_plus.types import ClipError
from videogpt_plus.clips.video import read_clip
gc.disable()
before = len(os.listdir("/proc/self/task"))
for path in {[str(good), str(bad)]}:
    try:
        read_clip(path, 8)
    except ClipError:
        pass
    assert len(os.listdir("/proc/self/task")) == before, path
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's own threads are another matter
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# Real files.


@pytest.mark.skipif(not (SHARED / "clips").exists(), reason="the real clips are not on this machine")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("nasa_13013.mp4", (16, 3, 270, 480)),
        ("bt709_full_range.mp4", (16, 3, 720, 1280)),
        ("h265_video.mp4", (10, 3, 128, 128)),
        ("av1_video.mkv", (16, 3, 360, 640)),
        ("corrupted.mp4", None),
    ],
)
def test_real_files_give_frames_or_a_clear_error(name, shape):
    if shape is None:
        assert "damaged" in one_line_error(SHARED / "clips" / name, 16)
        return
    try:
        clip = read_clip(SHARED / "clips" / name, 16)
    except ClipError as error:  # FFmpeg builds without an AV1 decoder
        assert name == "av1_video.mkv" and "codec" in str(error)
        return
    assert clip.frames.shape == shape
    assert clip.frames.float().std() > 10
