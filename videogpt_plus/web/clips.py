"""Clips of the page: what may be uploaded, what can be picked, and a clip as a model sees it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.configs import Experiment
from videogpt_plus.pictures import STILLS
from videogpt_plus.store import size_text
from videogpt_plus.types import ClipError, UserError, Visual, unreadable
from videogpt_plus.video import VIDEOS
from videogpt_plus.web.settings import Limits

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from videogpt_plus.feeding import Preparation
    from videogpt_plus.types import Clip

#: Sides of the pictures that are drawn, in pixels.
DRAWN = 336
#: Where files arrive below the page's folder, and for how many seconds they may lie there before they are shown.
INCOMING, WAITING = "incoming", 3600.0
#: So many clips of a folder are offered.
MOST_CLIPS = 500


@dataclass(frozen=True)
class Source:
    """A clip that can be talked about."""

    # As the page shows it.
    name: str
    # A file or a folder of frames.
    path: Path
    # A question to begin with; empty where there is none.
    question: str = ""

    @property
    def still(self) -> bool:
        return self.path.suffix.lower() in STILLS


class Look(NamedTuple):
    """A clip as one model sees it."""

    #: What the model takes: pixels, later the grids that its encoders made of them.
    visual: Visual
    #: Stream name -> UInt8 "t p p 3": what the encoder is shown, at most DRAWN pixels wide.
    pictures: dict[str, UInt8[np.ndarray, "t p p 3"]]
    #: Seconds of each frame from the beginning of the file.
    seconds: tuple[float, ...]


def check_file(path: Path, name: str, limits: Limits) -> Source:
    """An uploaded file as a Source called `name`, once its type, size, length and pixels are known to be fit.

    Nothing is decoded. ClipError: what is wrong with it, in a line that names it by `name` alone.
    """
    suffix = path.suffix.lower()
    if suffix not in VIDEOS | STILLS:
        raise unreadable(name, "this is no type of clip or picture", f"choose one of {', '.join(_types())}")
    size = path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise unreadable(name, f"its {size_text(size)} are over the limit of {limits.megabytes} MB", "cut it shorter")
    if size == 0:
        raise unreadable(name, "the file is empty", "choose another")
    try:
        pixels, most = _picture(path, limits) if suffix in STILLS else _video(path, name, limits)
    except ClipError as error:
        raise told_as(error, path, name) from error
    if pixels > most * 1e6:
        raise unreadable(
            name, f"its frames of {pixels / 1e6:.0f} megapixels are over the limit of {most:g}", "scale it"
        )
    return Source(name, path)


def sweep(folder: Path, seconds: float = WAITING) -> None:
    """Removes what has lain in a folder for so long: uploads that nobody came back for, and what is left of others."""
    for entry in folder.glob("*"):
        with suppress(OSError):  # somebody else was faster
            if entry.stat().st_mtime < time.time() - seconds:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def told_as(error: UserError, path: Path, name: str) -> ClipError:
    """The error with the clip's name where its path on the server stood."""
    return ClipError(str(error).replace(str(path), name))


def _picture(path: Path, limits: Limits) -> tuple[int, float]:
    """Pixels of a picture's header, and how many millions are fit."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.width * image.height, limits.picture_megapixels
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, "the image cannot be read", "choose another") from error


def _video(path: Path, name: str, limits: Limits) -> tuple[int, float]:
    """Pixels of a video's frame, and how many millions are fit. ClipError: it is too long, or no video."""
    from videogpt_plus.decoders.timeline import opened

    with opened(path) as (_, stream, timeline):
        minutes = len(timeline.stamps) / timeline.fps / 60
        if minutes > limits.minutes:
            what = f"its {minutes:.0f} minutes are over the limit of {limits.minutes:g}"
            raise unreadable(path, what, "cut it shorter")
        return stream.codec_context.width * stream.codec_context.height, limits.frame_megapixels


def folder_clips(folder: Path) -> list[Source]:
    """The videos and pictures below a folder, by their paths in it. UserError: it is none, or holds none."""
    if not folder.is_dir():
        raise UserError(f"no folder of clips: {folder} does not exist; name one with --clips")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS | STILLS and p.is_file())
    shown = sorted(p for p in found if not any(part[0] == "." for part in p.relative_to(folder).parts))
    if not shown:
        raise UserError(f"{folder} holds no clip: put {', '.join(_types())} files into it")
    return [Source(str(path.relative_to(folder)), path) for path in shown[:MOST_CLIPS]]


def toy_clips(folder: Path) -> list[Source]:
    """One clip of each task of the toy's benchmark with its question, rendered below `folder`."""
    from videogpt_plus.toy import render

    sources = {}
    for job in render.plan(replace(render.Recipe(), train_per_task=0, test_per_task=1, images=0, videos=0)):
        if job.scene.bounds is None and job.group not in sources:  # a question about a part of a clip names no times
            render.write_clip(folder, job)
            name = f"toy: {job.group.lower()}"
            sources[job.group] = Source(name, render.path_of(folder, job), render.prompt(job.scene))
    return list(sources.values())


def preparation(experiment: Experiment) -> Preparation:
    """How an experiment's clips are read. Loads no weights."""
    from videogpt_plus.feeding import Preparation

    return Preparation(experiment.streams, experiment.num_frames)


def look(source: Source, experiment: Experiment) -> Look:
    """Decodes a clip as the experiment samples it. ClipError."""
    prepare = preparation(experiment)
    still = experiment.finetune.image_aspect_ratio if source.still else None
    try:
        clip = prepare.read(source.path, still=still)
    except ClipError as error:
        raise told_as(error, source.path, source.name) from error
    visual = prepare.visual(clip, still)
    pictures = {name: _seen(pixels, prepare.preprocessors[name]) for name, pixels in visual.pixels.items()}
    return Look(visual, pictures, clip.seconds)


def _seen(pixels: Float[Tensor, "t 3 p p"], preprocess) -> UInt8[np.ndarray, "t p p 3"]:
    """Normalised pixels back as a picture: each encoder's black and white tell its scale."""
    import torch
    from einops import rearrange
    from torch.nn.functional import interpolate

    side = pixels.shape[-1]
    black, white = (preprocess(_plain(value, side)).mean((0, 2, 3)).view(3, 1, 1) for value in (0, 255))
    shown = ((pixels - black) / (white - black)).float()
    if side > DRAWN:
        shown = interpolate(shown, (DRAWN, DRAWN), mode="bilinear", antialias=True)
    return rearrange((shown.clamp(0, 1) * 255).round().to(torch.uint8), "t c h w -> t h w c").numpy()


def _plain(value: int, side: int) -> Clip:
    import torch

    from videogpt_plus.types import Clip

    return Clip(torch.full((1, 3, side, side), value, dtype=torch.uint8), (0.0,), "a plain frame")


def _types() -> Sequence[str]:
    return sorted(VIDEOS | STILLS)
