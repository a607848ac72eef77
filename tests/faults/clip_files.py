"""Clips of one folder that are unusual and fine, and those that are not: what a command says of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from clips import coded_frames, render_audio, render_mp4
from PIL import Image

#: Clips that are unusual and yet fine -> how many frames the model is shown.
GOOD = {"good.mp4": 8, "one.mp4": 1, "variable.mp4": 8, "two.mp4": 8, "still.png": 1}
#: Clips that are not -> what the line says of them, and what to do.
BAD = {
    "missing.mp4": ("there is no such file", "check the data path"),
    "empty.mp4": ("the file is empty", "download it again"),
    "cut.mp4": ("the file is damaged, cut off or no video", "download or encode it again"),
    "cut_inside.mp4": ("the file is cut off, a frame ends in the middle", "download it again"),
    "damaged.mp4": ("the file is damaged, cut off or no video", "download or encode it again"),
    "noise.mp4": ("the file is damaged, cut off or no video", "download or encode it again"),
    "text.mp4": ("the file is damaged, cut off or no video", "download or encode it again"),
    "codec.mp4": ("its codec is unknown", "ffmpeg -i codec.mp4 out.mp4"),
    "sound.mp4": ("it has no video stream", "take another file"),
    "folder": ("the folder holds no frames", "put JPEG, PNG"),
    "cut.png": ("the image cannot be read", "download it again"),
    "missing.png": ("there is no such file", "check the data path"),
}


def render_clips(folder: Path) -> None:
    """Every clip of GOOD and BAD that is not missing."""
    whole = render_mp4(folder / "good.mp4", coded_frames(20), 10).read_bytes()
    indexed = render_mp4(
        folder / "cut_inside.mp4", coded_frames(20), 10, container_options={"movflags": "faststart"}
    ).read_bytes()
    render_mp4(folder / "one.mp4", coded_frames(1), 10)
    render_mp4(folder / "variable.mp4", coded_frames(10), 10, ticks=[*range(0, 500, 100), *range(1000, 6000, 1000)])
    render_mp4(folder / "two.mp4", [coded_frames(10), coded_frames(10, 96, 128)], 10)
    Image.fromarray(coded_frames(1)[0]).save(folder / "still.png")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "cut_inside.mp4").write_bytes(indexed[:-60])
    (folder / "damaged.mp4").write_bytes(with_flipped_bits(folder / "busy.mp4"))
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "text.mp4").write_text("this is no video " * 100)
    (folder / "codec.mp4").write_bytes(whole.replace(b"avc1", b"zzzz"))
    render_audio(folder / "sound.mp4")
    (folder / "folder").mkdir()
    (folder / "cut.png").write_bytes((folder / "still.png").read_bytes()[:60])


def with_flipped_bits(path: Path) -> bytes:
    """A clip with much motion, one bit flipped at 50 places of its pictures."""
    random = np.random.default_rng(1)
    block = random.integers(0, 255, (12, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    content = bytearray(
        render_mp4(path, np.stack([np.roll(block, 3 * i, axis=0) for i in range(60)]), 10, gop=30).read_bytes()
    )
    for place in random.integers(content.index(b"mdat") + 700, content.index(b"moov") - 4, 50):
        content[place] ^= 16
    return bytes(content)
