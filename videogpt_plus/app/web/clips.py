"""Clips of the page: what may be uploaded, what can be picked, and a clip as a model sees it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.app.web.settings import Limits
from videogpt_plus.clips.cache import size_text
from videogpt_plus.clips.names import VIDEOS
from videogpt_plus.clips.picture_files import STILLS, UNREAD, form_of, header, is_still, not_read
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.io.entries import named
from videogpt_plus.types import UserError, Visual, unreadable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from videogpt_plus.clips.prefetch import Preparation
    from videogpt_plus.types import Clip

#: Sides of the pictures that are drawn, in pixels.
DRAWN = 336
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


class Look(NamedTuple):
    """A clip as one model sees it."""

    #: What the model takes: pixels, later the grids that its encoders made of them.
    visual: Visual
    #: Branch name -> UInt8 "t p p 3": what the encoder is shown, at most DRAWN pixels wide.
    pictures: dict[str, UInt8[np.ndarray, "t p p 3"]]
    #: Seconds of each frame from the beginning of the file.
    seconds: tuple[float, ...]


def check_file(path: Path, name: str, limits: Limits) -> Source:
    """An uploaded file as a Source called `name`, once its type, size, length and pixels are known to be fit.

    All of it is read from the file's header: nothing is decoded and nothing counted. ClipError: what is wrong with it,
    in a line that names it by `name` alone.
    """
    if path.suffix.lower() not in VIDEOS | STILLS | UNREAD.keys():
        raise unreadable(name, "this is no type of clip or picture", f"choose one of {', '.join(types())}")
    size = path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise unreadable(name, f"its {size_text(size)} are over the limit of {limits.megabytes} MB", "cut it shorter")
    if size == 0:
        raise unreadable(name, "the file is empty", "choose another")
    with named(name, path):
        (_check_picture if _is_picture(path) else _check_video)(path, limits)
    return Source(name, path)


def _is_picture(path: Path) -> bool:
    """By its content, and by its name where that says nothing. ClipError: a picture that is not read here."""
    if error := not_read(path):
        raise error
    return form_of(path) is not None or path.suffix.lower() in STILLS


def _check_picture(path: Path, limits: Limits) -> None:
    found = header(path)
    most = limits.frame_megapixels if found.shown else limits.picture_megapixels
    _check_pixels(path, found.width * found.height, most)
    _check_minutes(path, sum(found.shown) / 1000, limits)


def _check_video(path: Path, limits: Limits) -> None:
    from videogpt_plus.clips.decoders.declared import declared

    found = declared(path, limits.frame_megapixels * 1e6)
    if not found.pixels:
        raise unreadable(path, "its header does not say how large its pictures are", "encode it again")
    _check_pixels(path, found.pixels, limits.frame_megapixels)
    _check_minutes(path, found.seconds or 0, limits)


def _check_pixels(path: Path, pixels: int, most: float) -> None:
    if pixels > most * 1e6:
        what = f"its frames of {pixels / 1e6:.0f} megapixels are over the limit of {most:g}"
        raise unreadable(path, what, "scale it")


def _check_minutes(path: Path, seconds: float, limits: Limits) -> None:
    if seconds > 60 * limits.minutes:
        what = f"its {seconds / 60:.0f} minutes are over the limit of {limits.minutes:g}"
        raise unreadable(path, what, "cut it shorter")


def folder_clips(folder: Path) -> list[Source]:
    """The videos and pictures below a folder, by their paths in it. UserError: no such folder, or no clip in it."""
    if not folder.is_dir():
        raise UserError(f"no folder of clips: {folder} does not exist; name one with --clips")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS | STILLS and p.is_file())
    shown = sorted(p for p in found if not any(part[0] == "." for part in p.relative_to(folder).parts))
    if not shown:
        raise UserError(f"{folder} holds no clip: put {', '.join(types())} files into it")
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
    from videogpt_plus.clips.prefetch import Preparation

    return Preparation(experiment.branches, experiment.sampling)


def modules_to_look(experiments: Iterable[Experiment]) -> set[str]:
    """The modules that `look` needs for these experiments; none of one whose files are not as they should be."""
    from videogpt_plus.clips.prefetch import modules_of

    found = set()
    for experiment in experiments:
        with suppress(UserError):  # said when somebody asks it
            found |= modules_of(pickle.dumps(preparation(experiment)))
    return found


def look(source: Source, experiment: Experiment) -> Look:
    """Decodes a clip as the experiment samples it. ClipError."""
    prepare = preparation(experiment)
    with named(source.name, source.path):
        still = experiment.sampling.stills if is_still(source.path) else None
        clip = prepare.read(source.path, still=still)
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


def types() -> Sequence[str]:
    """Endings of what can be shown."""
    return sorted(VIDEOS | STILLS)
