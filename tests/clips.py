"""Renders small real video files for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
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
) -> Path:
    """Writes frames at `fps`; a list of arrays becomes several streams; `ticks` are time stamps in ms.

    `options` are the codec's own.
    """
    streams = [frames] if isinstance(frames, np.ndarray) else list(frames)
    rate = Fraction(fps).limit_denominator(1001)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
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
