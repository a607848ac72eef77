"""Long pictures: the pixels of the whole, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fork_server
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from videogpt_plus.clips.prefetch import pad_to_square
from videogpt_plus.encoders.clip import pillow_processor, preprocess
from videogpt_plus.families.record import CLIP_MEAN_COLOUR
from videogpt_plus.io import scaling
from videogpt_plus.io.memory import SETTINGS
from videogpt_plus.io.scaling import bilinear_part, middle_by_pillow, shorter_side_to, small_square
from videogpt_plus.types import Clip

SIZES = [(700, 90, 56), (61, 640, 48), (333, 333, 56), (20, 900, 336), (7, 5, 24)]


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def scaled(frame: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """By Pillow, whole."""
    return np.array(Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width", "pixels"), SIZES)
def test_a_small_square_is_that_of_the_whole_one(monkeypatch, height, width, pixels):
    monkeypatch.setattr(scaling, "LONG", 2 * 3 * max(height, width) * 7)  # seven rows at a time
    frame = picture(height, width)
    whole = pad_to_square(Clip(frame[None], (0.0,), ""), CLIP_MEAN_COLOUR).frames[0]
    square = small_square(frame, CLIP_MEAN_COLOUR, pixels)
    assert (square.permute(1, 2, 0).numpy() == scaled(whole, (pixels, pixels))).all()


@pytest.mark.parametrize(("height", "width", "pixels"), SIZES)
def test_the_middle_is_that_of_the_whole(height, width, pixels):
    frame, size = picture(height, width), shorter_side_to((height, width), pixels)
    top, left = ((side - pixels) // 2 for side in size)
    middle = middle_by_pillow(frame, size, pixels).permute(1, 2, 0).numpy()
    difference = np.abs(middle.astype(int) - scaled(frame, size)[top : top + pixels, left : left + pixels])
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # Pillow's weights have 22 bits

    whole = F.interpolate(frame[None].float(), size, mode="bilinear", align_corners=False)
    part = bilinear_part(frame[None].float(), size, top, left, pixels)
    torch.testing.assert_close(part, whole[..., top : top + pixels, left : left + pixels], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(9, 500), (500, 9)])
def test_clips_processor_gives_the_same_of_a_long_picture(monkeypatch, height, width):
    processor = pillow_processor()(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    clip = Clip(picture(height, width)[None], (0.0,), "")
    whole = preprocess(processor, clip)
    monkeypatch.setattr("videogpt_plus.encoders.clip.LONG", 1000)
    torch.testing.assert_close(preprocess(processor, clip), whole, rtol=0, atol=0.02)  # a level is 0.015


#: MiB beside the multiple of a picture's bytes that reading and preparing it for both branches takes at most.
CONSTANT = 96


SHAPES = [(1000, 20000, ".png"), (20000, 1000, ".png"), (8000, 6000, ".jpg"), (3000, 2, ".png"), (2, 3000, ".png"),
          (1, 60000, ".bmp"), (30000, 40, ".jpg"), (1600, 1600, ".png")]  # fmt: skip
#: Prints for each picture and way how many MiB more are taken than before; each in a process of its own.
MEASURE = """
import os, resource, sys
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiments import TOY
prepare = Preparation(TOY.branches, TOY.sampling)
for still in ("pad", "crop"):
    prepare("small.png", still=still)
    for name in sys.argv[1:]:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            continue
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        prepare(name, still=still)
        print(still, name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, flush=True)
        os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told in /proc")
@pytest.mark.parametrize(
    ("kept", "multiple"), [(False, 6), (True, 9)], ids=["plain", "a command, which keeps freed memory"]
)
def test_a_picture_takes_a_stated_multiple_of_its_bytes(tmp_path, kept, multiple):
    """Reading it and making it ready for both branches of the toy, as `docs/reliability.md` says."""
    Image.new("RGB", (60, 40)).save(tmp_path / "small.png")
    pictures = {
        f"{width}x{height}{suffix}": (width, height) for width, height, suffix in (SHAPES[1:3] if kept else SHAPES)
    }
    for name, size in pictures.items():
        Image.new("RGB", size, (1, 2, 3)).save(tmp_path / name)
    # A test before this one may have run a command in this process, whose settings of memory are inherited.
    environment = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, "THP_MEM_ALLOC_ENABLE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    code = ("from videogpt_plus.io.memory import keep_freed\nkeep_freed()\n" if kept else "") + MEASURE
    command = [sys.executable, "-c", code, *pictures]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    taken = [line.split() for line in done.stdout.splitlines()]
    assert len(taken) == 2 * len(pictures)
    for still, name, more in taken:
        width, height = pictures[name]
        assert float(more) < multiple * 3 * width * height / 2**20 + CONSTANT, (still, name, more)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told in /proc")
@pytest.mark.parametrize(("height", "width", "still"), [(16000, 800, "pad"), (800, 16000, "pad"), (3000, 2, "crop")])
def test_memory_of_long_pictures_is_bounded(tmp_path, height, width, still):
    code = f"""
import resource, torch
from functools import partial
from videogpt_plus.encoders.clip import pillow_processor, preprocess
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.types import Clip
prepare = Preparation.__new__(Preparation)
prepare.scales = {{"image": 336}}
prepare.colours = {{"image": (122, 116, 104)}}
processor = pillow_processor()(size={{"shortest_edge": 336}}, crop_size={{"height": 336, "width": 336}})
prepare.preprocessors = {{"image": partial(preprocess, processor)}}
prepare.visual(Clip(torch.zeros(1, 3, 50, 50, dtype=torch.uint8), (0.0,), ""), "pad")
clip = Clip(torch.zeros(1, 3, {height}, {width}, dtype=torch.uint8), (0.0,), "")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare.visual(clip, {still!r})
more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert more < 200, more
"""
    assert fork_server.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
