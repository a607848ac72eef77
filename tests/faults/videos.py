"""Video files: whole ones of odd structure, cuts of them, odd containers and headers, and damaged ones."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
from clips import coded_frames, copy_packets, edit_list, noisy_frames, read_code, render_mp4, render_palettes

from videogpt_plus.clips.video import duration, read_clip
from videogpt_plus.types import Clip

from . import Kind, Line
from .clip_files import BAD, GOOD, render_clips

#: x264's parameters -> files whose key frames need more than what stands behind them.
STRUCTURES = {
    "adaptive": "open-gop=1:keyint=12:min-keyint=1:bframes=5:ref=5:b-pyramid=normal:b-adapt=2",
    "strict": "open-gop=1:keyint=9:bframes=4:b-pyramid=strict:ref=4:b-adapt=2",
    "refresh": "intra-refresh=1:keyint=15:bframes=2:ref=3",
    "bluray": "bluray-compat=1:open-gop=1:keyint=10:b-pyramid=strict:bframes=3:ref=4:slices=4:level=41",
}
#: Codec -> options that make its first packets need those before them.
CODECS = {
    "libx264": {"x264-params": "keyint=12:bframes=3"},
    "libx265": {"x265-params": "keyint=12:bframes=3:open-gop=1:repeat-headers=1:log-level=none"},
    "mpeg2video": {"bf": "2", "b": "4000000"},
}
#: Edits as (first frame, how many).
EDITS = {
    "head": [(30, 60)],
    "tail": [(0, 55)],
    "both": [(25, 40)],
    "two": [(10, 20), (60, 25)],
    "backwards": [(60, 20), (10, 20)],
    "three": [(5, 10), (33, 10), (70, 10)],
}
#: Container -> codec and pixels that it commonly holds.
CONTAINERS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mov": ("mpeg4", "yuv420p"),
    ".mkv": ("libx265", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".flv": ("flv", "yuv420p"),
    ".ts": ("mpeg2video", "yuv420p"),
    ".mpg": ("mpeg1video", "yuv420p"),
    ".8.webm": ("libvpx", "yuv420p"),
    ".wmv": ("wmv2", "yuv420p"),
    ".gif": ("gif", "rgb8"),
    ".m4v": ("libx264", "yuv444p"),
    ".3gp": ("mpeg4", "yuv420p"),
    ".mjpeg.avi": ("mjpeg", "yuvj420p"),
    ".ffv1.mkv": ("ffv1", "yuv422p"),
    ".high10.mp4": ("libx264", "yuv420p10le"),
    ".grey.mkv": ("ffv1", "gray"),
}

BLOCK_CUT = Line("the file is cut off, a block ends in the middle")
#: What is done to a GIF of 30: of its bytes, and of where each picture begins -> what comes of it.
GIFS: dict[str, tuple[Callable[[bytes, list[int]], bytes], object]] = {
    "without a trailer": (lambda gif, at: gif[:-1], list(range(30))),
    "with bytes behind its trailer": (lambda gif, at: gif + b"!\xf9\x04, and so on", list(range(30))),
    "with bytes in place of its trailer": (lambda gif, at: gif[:-1] + bytes(40) + b"more", list(range(30))),
    "with a comment in place of its trailer": (lambda gif, at: gif[:-1] + b"\x21\xfe\x02bc\0", list(range(30))),
    "cut between two pictures": (lambda gif, at: gif[: at[20]], list(range(20))),  # nothing tells
    "cut in a picture": (lambda gif, at: gif[: (at[20] + at[21]) // 2], BLOCK_CUT),
    "cut at a picture's place": (lambda gif, at: gif[: at[20] + 12], BLOCK_CUT),
    "cut in front of a picture's last byte": (lambda gif, at: gif[: at[21] - 1], BLOCK_CUT),
    "cut in the first picture": (lambda gif, at: gif[: at[1] - 9], BLOCK_CUT),
    "cut in how a picture is shown": (lambda gif, at: gif[: at[20] + 4], BLOCK_CUT),
    "cut behind how a picture is shown": (lambda gif, at: gif[: at[20] + 8], Line("its last picture is missing")),
    "cut by two bytes": (lambda gif, at: gif[:-2], BLOCK_CUT),
    "cut in a comment": (lambda gif, at: gif[: at[20]] + b"\x21\xfe\x04b", BLOCK_CUT),
    "with zeros between two pictures": (
        lambda gif, at: gif[: at[20]] + bytes(3) + gif[at[20] :],
        Line("the file is damaged, no block begins at byte"),
    ),
}

CELLS = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
#: Display matrix -> how it shows CELLS.
MATRICES = {
    (1, 0, 0, 1): [[1, 2, 3], [4, 5, 6]],
    (-1, 0, 0, 1): [[3, 2, 1], [6, 5, 4]],
    (1, 0, 0, -1): [[4, 5, 6], [1, 2, 3]],
    (-1, 0, 0, -1): [[6, 5, 4], [3, 2, 1]],
    (0, 1, -1, 0): [[4, 1], [5, 2], [6, 3]],
    (0, -1, 1, 0): [[3, 6], [2, 5], [1, 4]],
    (0, 1, 1, 0): [[1, 4], [2, 5], [3, 6]],
    (0, -1, -1, 0): [[6, 3], [5, 2], [4, 1]],
}
#: Matroska has words for these alone.
MATRICES_OF_MKV = [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0)]
ASKEW = (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
COLOURS = [(200, 20, 20), (20, 200, 20), (20, 20, 200), (200, 200, 20)]


# What is seen


def codes(clip: Clip) -> list[int]:
    return [read_code(frame) for frame in clip.frames.numpy()]


def all_codes(path: Path) -> list[int]:
    """The numbers of all frames as they are read."""
    return codes(read_clip(path, 100))


def shown(path: Path) -> list[int]:
    """The numbers of all frames as FFmpeg shows them, patching up what it does not understand."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        found = []
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            found += [read_code(f.to_ndarray(format="rgb24", threads=1).transpose(2, 0, 1)) for f in frames]
        return found


def cells(rows: int, path: Path) -> list[list[int]]:
    """The cells of a file that `turned` made, of which so many stand below each other."""
    picture = read_clip(path, 3).frames[1, 0].numpy()
    columns = 6 // rows
    return (picture.reshape(rows, 32, columns, 32).mean((1, 3)) / 40).round().astype(int).tolist()


def span(path: Path) -> tuple[bool, int, bool, int]:
    """Whether 16 frames are in order, their first number, whether they reach the end of 220, and the seconds."""
    found = codes(read_clip(path, 16))
    return found == sorted(found), found[0], found[-1] >= 205, round(duration(path))


def middle_and_corner(path: Path) -> tuple[int, int, bool, bool]:
    """Height and width of a file that `askew` made, whether its middle is bright, and whether its corner is black."""
    picture = read_clip(path, 2).frames[0, 0].numpy()
    height, width = picture.shape
    return height, width, bool(picture[height // 2, width // 2] > 190), bool(picture[0, 0] < 20)


# How each is made


def structured(name: str, suffix: str, folder: Path) -> Path:
    return render_mp4(folder / f"a{suffix}", noisy_frames(90), 10, options={"x264-params": STRUCTURES[name]})


def cut(name: str, suffix: str, folder: Path, key: int = 2) -> Path:
    return copy_packets(structured(name, ".ts", folder), folder / f"cut{suffix}", from_key=key)


def begun_midway(codec: str, suffix: str, folder: Path, skipped: int = 13) -> Path:
    fps = 25 if codec == "mpeg2video" else 10  # which knows no 10
    frames = coded_frames(90, *((96, 128) if codec == "libx265" else (48, 64)))
    whole = render_mp4(folder / "whole.ts", frames, fps, codec=codec, options=CODECS[codec])
    return copy_packets(whole, folder / f"a{suffix}", skipped=skipped)


def segments(joined: bool, folder: Path) -> Path:
    whole = structured("adaptive", ".ts", folder)
    parts = [copy_packets(whole, folder / f"{i}.ts", from_key=i, keys=3) for i in (0, 3)]
    if joined:
        parts[1].write_bytes(b"".join(part.read_bytes() for part in parts))
    return parts[1]


def with_long_words(suffix: str, folder: Path) -> Path:
    """x264's words about itself say that they are longer than the packet."""
    path = render_mp4(folder / f"a{suffix}", noisy_frames(40), 10, gop=10)
    content = path.read_bytes()
    place = content.index(b"\x06\x05\xff\xff") + 4
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    return path


def with_title(suffix: str, folder: Path) -> Path:
    path = render_mp4(folder / f"a{suffix}", coded_frames(30), 10, title="XXXX")
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"\xe9t\xe9\xff"))
    return path


def with_comment(count: int, folder: Path) -> Path:
    """A GIF with two comments behind its last picture."""
    path = render_mp4(folder / "a.gif", coded_frames(count), 10, codec="gif", pix_fmt="rgb8")
    path.write_bytes(path.read_bytes()[:-1] + 2 * b"\x21\xfe\x04\xe9bcd\x00" + b";")
    return path


def changed_gif(change: Callable[[bytes, list[int]], bytes], folder: Path) -> Path:
    """A GIF of 30 after that change."""
    path = render_mp4(folder / "a.gif", coded_frames(30), 10, codec="gif", pix_fmt="rgb8")
    gif = path.read_bytes()
    path.write_bytes(change(gif, [found.start() for found in re.finditer(rb"!\xf9\x04.{4}\0,", gif, re.DOTALL)]))
    return path


def edited(edits: list[tuple[int, int]], folder: Path) -> Path:
    path = render_mp4(folder / "a.mp4", coded_frames(90), 10)
    edit_list(path, edits)
    return path


def edited_and_cut(folder: Path) -> Path:
    path = render_mp4(folder / "a.mp4", coded_frames(90), 10, gop=5, container_options={"movflags": "faststart"})
    edit_list(path, EDITS["head"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    return path


def with_dropped(suffix: str, every: int, folder: Path) -> Path:
    """220 frames without each `every`th."""
    kept = [i for i in range(220) if i % every != every - 1]
    codec = "libvpx" if suffix == ".webm" else "libx264"
    ticks = [100 * i for i in kept]
    return render_mp4(folder / f"a{suffix}", coded_frames(220)[kept], 10, ticks=ticks, codec=codec)


def with_long_header(share: float, folder: Path) -> Path:
    """A Matroska of six seconds that says it has 25, and this share of its bytes."""
    path = render_mp4(folder / "a.mkv", coded_frames(60), 10)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3
    content[place : place + 8] = struct.pack(">d", 25_000)
    path.write_bytes(content[: int(len(content) * share)])
    return path


def with_noise(seconds: float, folder: Path) -> Path:
    """A Matroska of 30 seconds in 18 clusters, with 200 random bytes so long before its last frame."""
    path = render_mp4(folder / "a.mkv", coded_frames(300), 10, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    begin = places[-1 - round(10 * seconds)] - 12  # where the block begins that holds the picture
    content[begin : begin + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(content)
    return path


def without_lengths(folder: Path) -> Path:
    """A Matroska as it is sent while it is made: its segment and clusters do not say how long they are."""
    return render_mp4(folder / "a.mkv", coded_frames(60), 10, container_options={"live": "1"})


def palettes(folder: Path) -> Path:
    return render_palettes(folder / "a.avi", [COLOURS[i // 5] for i in range(20)])


def full(matrix: tuple[int, int, int, int]) -> tuple[int, ...]:
    a, b, c, d = (part << 16 for part in matrix)
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def turned(folder: Path, suffix: str, matrix: tuple[int, int, int, int]) -> Path:
    frames = np.kron(CELLS * 40, np.ones((32, 32), np.uint8))[None, ..., None].repeat(3, -1).repeat(12, 0)
    plain = render_mp4(folder / "plain.mp4", np.ascontiguousarray(frames), 10)
    return copy_packets(plain, folder / f"turned{suffix}", matrix=full(matrix))


def askew(folder: Path) -> Path:
    plain = render_mp4(folder / "plain.mp4", np.full((5, 48, 64, 3), 200, np.uint8), 10)
    return copy_packets(plain, folder / "a.mp4", matrix=ASKEW)


def contained(suffix: str, folder: Path) -> Path:
    codec, pixels = CONTAINERS[suffix]
    size = (96, 128) if codec == "libx265" else (48, 64)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    fps = 25 if codec in ("mpeg2video", "mpeg1video") else 10
    path = folder / f"a{suffix}"
    return render_mp4(path, coded_frames(30, *size), fps, codec=codec, pix_fmt=pixels, options=options)


def damaged(number: int, folder: Path) -> Path:
    """Half of one picture's bytes are zero."""
    path = structured("adaptive", ".mp4", folder)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    begin, size = places[number]
    content[begin + size // 2 : begin + size] = bytes(size - size // 2)
    path.write_bytes(content)
    return path


def pipe(name: str, folder: Path) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    return path if path.parent == folder else path.parent


def one_of_many(name: str, folder: Path) -> Path:
    render_clips(folder)
    return folder / name


def frames_of_picture(path: Path) -> int:
    return len(read_clip(path, 8).frames)


# The table


def kinds() -> Iterator[Kind]:
    yield from _structures()
    yield from _containers()
    yield from _odd_times()
    yield from _turned()
    for number in (0, 1, 2, 20, 45, 60):
        yield _kind(f"picture {number} damaged", partial(damaged, number), Line("damaged"))
    for name in ("a.mp4", "folder/1.png"):
        yield _kind(f"a pipe as {name}", partial(pipe, name), Line("no regular file but a"))
    for name, (said, _) in BAD.items():
        yield _kind(f"refused: {name}", partial(one_of_many, name), Line(said), frames_of_picture)
    for name, count in GOOD.items():
        yield _kind(f"read: {name}", partial(one_of_many, name), count, frames_of_picture)


def _kind(
    name: str, make: Callable[[Path], Path], expected: object, read: Callable[[Path], object] = all_codes
) -> Kind:
    return Kind("video", name, make, read, expected)


def _structures() -> Iterator[Kind]:
    for name in STRUCTURES:
        for suffix in (".mp4", ".mkv", ".ts"):
            yield _kind(f"{name} key frames in {suffix}", partial(structured, name, suffix), list(range(90)))
        for suffix in (".mp4", ".mkv", ".ts", ".flv"):
            yield _kind(f"a cut of {name} key frames in {suffix}", partial(cut, name, suffix), shown)
    for codec in CODECS:
        for suffix in (".mkv", ".ts"):
            yield _kind(f"{codec} begun midway in {suffix}", partial(begun_midway, codec, suffix), shown)
    yield _kind("a segment of a transport stream", partial(segments, False), shown)
    yield _kind("joined segments", partial(segments, True), shown)


def _containers() -> Iterator[Kind]:
    for suffix in CONTAINERS:
        yield _kind(f"{' '.join(CONTAINERS[suffix])} in {suffix}", partial(contained, suffix), list(range(30)))
    for suffix in (".mp4", ".mkv"):
        yield _kind(f"words that are too long in {suffix}", partial(with_long_words, suffix), list(range(40)))
    for suffix in (".mp4", ".avi", ".mkv", ".flv"):
        yield _kind(f"a title that is not UTF-8 in {suffix}", partial(with_title, suffix), list(range(30)))
    for name, (change, expected) in GIFS.items():
        yield _kind(f"a GIF {name}", partial(changed_gif, change), expected)
    for count in (1, 30):
        yield _kind(f"a GIF of {count} with comments", partial(with_comment, count), list(range(count)))


def _odd_times() -> Iterator[Kind]:
    for name, edits in {**EDITS, "repeated": [(10, 20), (10, 20)]}.items():
        frames = [first + i for first, count in edits for i in range(count)]
        yield _kind(f"an edit list: {name}", partial(edited, edits), frames)
    yield _kind("an edit list, cut off", edited_and_cut, Line("cut off"))
    for suffix in (".mkv", ".webm", ".flv", ".mp4"):
        for every in (4, 22):
            make = partial(with_dropped, suffix, every)
            yield _kind(f"each {every}th frame dropped in {suffix}", make, (True, 0, True, 22), span)
    yield _kind("a header that is too long", partial(with_long_header, 1), list(range(60)))
    yield _kind("a header of a cut file", partial(with_long_header, 2 / 3), Line("of 25.0 s are in it"))
    for seconds in (0, 0.7, 1.2, 12):
        yield _kind(
            f"noise {seconds} s before the end", partial(with_noise, seconds), Line("no element begins at byte")
        )
    yield _kind("a Matroska without lengths", without_lengths, list(range(60)))
    wanted = [list(COLOURS[i // 5]) for i in range(20)]
    yield _kind("palettes that change", palettes, wanted, lambda p: read_clip(p, 20).frames[:, :, 5, 5].tolist())


def _turned() -> Iterator[Kind]:
    for matrix, wanted in MATRICES.items():
        for suffix in (".mp4", ".mkv"):
            if suffix == ".mp4" or matrix in MATRICES_OF_MKV:
                make, read = partial(turned, suffix=suffix, matrix=matrix), partial(cells, len(wanted))
                yield _kind(f"turned by {matrix} in {suffix}", make, wanted, read)
    yield _kind("askew", askew, (48, 64, True, True), middle_and_corner)
