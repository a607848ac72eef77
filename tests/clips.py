"""Renders small real video files for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from jaxtyping import UInt8


def coded_frames(count: int, height: int = 48, width: int = 64) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames whose top half tells their number: eight black-or-white columns, the binary digits of it."""
    frames = np.full((count, height, width, 3), 128, np.uint8)
    for i in range(count):
        for bit in range(8):
            left, right = bit * width // 8, (bit + 1) * width // 8
            frames[i, : height // 2, left:right] = 255 if i >> bit & 1 else 0
    return frames


def read_code(frame: UInt8[np.ndarray, "3 h w"]) -> int:
    """The number that `coded_frames` wrote into a frame."""
    _, height, width = frame.shape
    columns = frame[:, : height // 3].reshape(3, -1, 8, width // 8).mean((0, 1, 3))
    return sum(1 << bit for bit in range(8) if columns[bit] > 128)


def render_mp4(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"] | Sequence[UInt8[np.ndarray, "t h w 3"]],
    fps: float | Fraction = 25,
    *,
    codec: str = "libx264",
    gop: int = 12,
    ticks: Iterable[int] | None = None,
    pix_fmt: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    full_range_bt709: bool = False,
    options: dict[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """Writes frames at `fps`; a list of arrays becomes several streams; `ticks` are time stamps in ms.

    `options` are the codec's own.
    """
    streams = [frames] if isinstance(frames, np.ndarray) else list(frames)
    rate = Fraction(fps).limit_denominator(1001)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        if title is not None:
            container.metadata["title"] = title
        outputs = [_add_stream(container, codec, rate, part, gop, pix_fmt, full_range_bt709) for part in streams]
        for output in outputs:
            output.options = {**output.options, **(options or {})}
        for output, part in zip(outputs, streams, strict=True):
            stamps = list(range(len(part))) if ticks is None else list(ticks)
            time_base = 1 / rate if ticks is None else Fraction(1, 1000)
            for image, stamp in zip(part, stamps, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if full_range_bt709:
                    frame = frame.reformat(
                        format=pix_fmt,
                        dst_colorspace="ITU709",
                        dst_color_range="JPEG",
                        src_color_range="JPEG",
                    )
                    frame.colorspace, frame.color_range = 1, 2
                frame.pts, frame.time_base = stamp, time_base
                container.mux(output.encode(frame))
            container.mux(output.encode())
    return path


def _add_stream(container, codec, rate, frames, gop, pix_fmt, full_range_bt709):
    output = container.add_stream(codec, rate=rate)
    _, output.height, output.width, _ = frames.shape
    output.pix_fmt = pix_fmt
    output.codec_context.gop_size = gop
    output.codec_context.thread_count = 1  # threads of an encoder would hang forked data workers that free it
    if codec == "libx264":
        output.options = {"crf": "12", "preset": "veryfast", "sc_threshold": "0"}
    if full_range_bt709:
        output.codec_context.colorspace, output.codec_context.color_range = 1, 2
    return output


def render_audio(path: Path, cover: UInt8[np.ndarray, "h w 3"] | None = None) -> Path:
    """Writes an mp4 with a second of silence and, if given, a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        if cover is not None:
            picture = _add_stream(container, "mjpeg", Fraction(1), cover[None], 1, "yuvj420p", False)
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def noisy_frames(count: int, height: int = 48, width: int = 64) -> UInt8[np.ndarray, "t h w 3"]:
    """`coded_frames` that move and flicker below: encoders find much to refer to."""
    frames, random = coded_frames(count, height, width), np.random.default_rng(0)
    block = random.integers(0, 255, (height - height // 2, width, 3))
    for i in range(count):
        noise = random.integers(-40, 40, block.shape)
        frames[i, height // 2 :] = np.clip(np.roll(block, 3 * i, axis=1) + noise, 0, 255)
    return frames


def copy_packets(
    source: Path,
    target: Path,
    *,
    from_key: int = 0,
    keys: int | None = None,
    skipped: int = 0,
    without: Sequence[int] = (),
    matrix: Sequence[int] | None = None,
    units: str | None = None,
) -> Path:
    """Writes a video's packets into another file as they are.

    From its key frame of this number on, so many key frames long; without the first `skipped` packets, or without
    some; with a display matrix; changed by a bitstream filter.
    """
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = inside.streams.video[0]
        output = outside.add_stream_from_template(stream)
        if matrix is not None:
            output.set_display_matrix(matrix)
        change = BitStreamFilterContext(units, stream, output) if units else None
        seen = -1
        for number, packet in enumerate(packet for packet in inside.demux(stream) if packet.size):
            seen += packet.is_keyframe
            if seen < from_key or (keys and seen >= from_key + keys) or number < skipped or number in without:
                continue
            for part in change.filter(packet) if change else [packet]:
                part.stream = output
                outside.mux(part)
    return target


def edit_list(path: Path, edits: Sequence[tuple[int, int]]) -> None:
    """Writes edits, each (first frame, how many), into an MP4 of 10 frames a second that `render_mp4` made."""
    content = bytearray(path.read_bytes())
    moov, trak, edts, elst = (content.index(name) - 4 for name in (b"moov", b"trak", b"edts", b"elst"))
    first = struct.unpack(">i", content[elst + 20 : elst + 24])[0]
    entries = b"".join(struct.pack(">iii", 100 * count, first + 1024 * begin, 1 << 16) for begin, count in edits)
    box = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    old = int.from_bytes(content[edts : edts + 4], "big")
    more = 8 + len(box) - old
    content[edts : edts + old] = struct.pack(">I4s", 8 + len(box), b"edts") + box
    for place in (moov, trak):
        content[place : place + 4] = (int.from_bytes(content[place : place + 4], "big") + more).to_bytes(4, "big")
    if moov < content.index(b"mdat"):  # what stands behind it has moved
        table = content.index(b"stco")
        for place in range(table + 12, table + 12 + 4 * int.from_bytes(content[table + 8 : table + 12], "big"), 4):
            content[place : place + 4] = (int.from_bytes(content[place : place + 4], "big") + more).to_bytes(4, "big")
    path.write_bytes(content)


def render_palettes(path: Path, colours: Sequence[tuple[int, int, int]]) -> Path:
    """Writes an AVI of 10 plain frames a second, each by a palette of its own whose every index is that colour."""
    with av.open(str(path), "w") as container:
        output = container.add_stream("msrle", rate=10)
        output.width, output.height, output.pix_fmt = 32, 32, "pal8"
        for number, (red, green, blue) in enumerate(colours):
            palette = np.zeros((256, 4), np.uint8)
            palette[:] = (255, red, green, blue)
            frame = av.VideoFrame.from_ndarray((np.full((32, 32), number % 200, np.uint8), palette), format="pal8")
            frame.pts = number
            container.mux(output.encode(frame))
        container.mux(output.encode())
    return path
