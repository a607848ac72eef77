"""Path -> Clip: the only door to the decoders (`decoders/` for video, `pictures` for stills).

Which frames are taken is the reference's evaluation rule, in training too; `sample_indices` and
`folder_indices` hold it as plain arithmetic. What comes back is always real frames, checked by their time
stamps: a file that cannot give a sampled frame is a ClipError, never a neighbouring frame or a blank one. What
counts as a whole file is told in decoders/timeline.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange

from videogpt_plus.clips.decoders import load_decoder
from videogpt_plus.clips.decoders.source import check_regular
from videogpt_plus.clips.decoders.timeline import Timeline
from videogpt_plus.clips.names import VIDEOS
from videogpt_plus.clips.picture_files import STILLS, Header, form_of, header, not_read
from videogpt_plus.clips.pictures import read_picture, read_pictures
from videogpt_plus.types import Clip, ClipError, unreadable

if TYPE_CHECKING:
    from jaxtyping import UInt8


#: (timeline, at most so many frames, start, end in seconds) -> stamps; empty for none.
Sampling = Callable[[Timeline, int, float | None, float | None], list[int]]


def read_clip(
    path: str | Path,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    folder_fps: float = 3,
    decoder: str = "pyav",
    sampling: str = "spread",
) -> Clip:
    """At most `num_frames` frames of a video, GIF, picture or folder of frames, at the source's size.

    `start` and `end` are seconds; an end behind the clip's is the clip's, and the "spread" of a video takes bounds that
    are turned round in order, as the reference does. A still picture is one frame, an animated one a clip. Files of a
    folder are taken in natural order and as `folder_fps` a second. `decoder` is a name in `DECODERS`: all give the same
    frames. `sampling` is a name in `SAMPLINGS`. Raises ClipError; UserError if the
    decoder is unknown or not installed.
    """
    path = Path(path)
    _check_bounds(path, start, end)
    if path.is_dir():
        return _read_folder(path, num_frames, start, end, folder_fps, sampling)
    if not path.exists():
        raise unreadable(path, "there is no such file", "check the data path, or download the file")
    check_regular(path)
    if path.stat().st_size == 0:
        raise unreadable(path, "the file is empty", "download it again")
    if is_picture(path):
        return _read_pictures(path, header(path), num_frames, start, end, sampling)

    def choose(timeline: Timeline) -> list[int]:
        if stamps := SAMPLINGS[sampling](timeline, num_frames, start, end):
            return stamps
        raise _outside(path, start, end, len(timeline.stamps) / timeline.fps)

    return load_decoder(decoder)(path, choose)


def duration(path: str | Path, folder_fps: float = 3) -> float:
    """Seconds of a video, GIF or animation, or of a folder of frames; 0 for a still picture. Raises ClipError."""
    path = Path(path)
    if path.is_dir():
        return len(_frames(path)) / folder_fps
    if is_picture(path):
        return sum(header(path).shown) / 1000
    from videogpt_plus.clips.decoders.timeline import opened

    with opened(path) as (_, _, timeline):
        return len(timeline.stamps) / timeline.fps


def sample_indices(
    total: int, fps: float, num_frames: int, start: float | None = None, end: float | None = None
) -> list[int]:
    """Indices of the frames to take out of `total` at `fps`: the reference's evaluation rule.

    One frame a second; where those are too many, `num_frames` of them spread evenly; where they are too few,
    `num_frames` frames spread over the clip or, if it is shorter than that, all. Bounds are cut to whole
    seconds and ordered. Empty when the bounds hold no frame.
    """
    first, last = 0, total - 1
    if start is not None or end is not None:
        bounds = (start or 0, total / fps + 1 if end is None else end)
        begin, stop = sorted(max(0, int(bound)) for bound in bounds)
        stop = max(stop, begin + 1)
        first, last = int(min(begin * fps, total)), int(min(stop * fps, total - 1))  # a product may be infinite
    each_second = range(first, last + 1, max(1, round(fps)))
    if len(each_second) > num_frames:
        return [each_second[i] for i in np.linspace(0, len(each_second) - 1, num_frames).astype(int)]
    if len(each_second) == num_frames or last <= first:
        return list(each_second)
    stride = (last - first) // min(last - first, num_frames - 1)
    return list(range(first, last + 1, stride))[:num_frames]


def each_second_indices(seconds: Sequence[float], num_frames: int) -> list[int]:
    """CogVLM2-Video's "chat" rule: the frame nearest to each whole second, the first `num_frames` of them.

    Frames follow one another about a second apart, so that a frame's number tells its time. Of two frames equally
    near the earlier one is taken. A clip that stands still for long gives a frame more than once.
    """
    times = np.asarray(seconds, dtype=np.float32)
    wanted = range(min(num_frames, round(float(times.max())) + 1))
    return [int(np.abs(times - np.float32(second)).argmin()) for second in wanted]


def even_indices(total: int, fps: float, num_frames: int) -> list[int]:
    """CogVLM2-Video's "base" rule: always `num_frames` of them, spread over the first minute."""
    return np.linspace(0, min(total, int(60 * fps)) - 1, num_frames, dtype=int).tolist()


def linspace_indices(total: int, num_frames: int) -> list[int]:
    """Always `num_frames` of `total`, spread from the first to the last; a short clip repeats some.

    The rule of Cinego, and of CogVLM2-Video's published fine-tuning. In numpy's arithmetic: integers differ from it by
    one in 102 of 3,000 totals at 64 frames.
    """
    return np.linspace(0, total - 1, num_frames, dtype=int).tolist()


def middle_indices(total: int, num_frames: int) -> list[int]:
    """The middle one of each of `num_frames` equal parts of `total`; all of them where they are fewer."""
    count = min(total, num_frames)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _spread(timeline: Timeline, num_frames: int, start: float | None, end: float | None) -> list[int]:
    return timeline.at(sample_indices(len(timeline.stamps), timeline.fps, num_frames, start, end))


def _each_second(timeline: Timeline, num_frames: int, start: float | None, end: float | None) -> list[int]:
    stamps = _between(timeline, start, end)
    seconds = [timeline.seconds(stamp) - (start or 0) for stamp in stamps]
    return [stamps[i] for i in each_second_indices(seconds, num_frames)] if stamps else []


def _even(timeline: Timeline, num_frames: int, start: float | None, end: float | None) -> list[int]:
    stamps = _between(timeline, start, end)
    return [stamps[i] for i in even_indices(len(stamps), timeline.fps, num_frames)] if stamps else []


def _numbered(rule: Callable[[int, int], list[int]]) -> Sampling:
    """The sampling that takes the frames within the bounds by a rule of (total, num_frames)."""

    def sample(timeline: Timeline, num_frames: int, start: float | None, end: float | None) -> list[int]:
        stamps = _between(timeline, start, end)
        return [stamps[i] for i in rule(len(stamps), num_frames)] if stamps else []

    return sample


def _between(timeline: Timeline, start: float | None, end: float | None) -> list[int]:
    """The stamps from `start` on and before `end`, in seconds."""
    seconds = [timeline.seconds(stamp) for stamp in timeline.stamps]
    last = math.inf if end is None else end
    return [stamp for stamp, at in zip(timeline.stamps, seconds, strict=True) if (start or 0) <= at < last]


#: Which frames of a video are taken.
SAMPLINGS: dict[str, Sampling] = {
    "spread": _spread,
    "each_second": _each_second,
    "even": _even,
    "average": _numbered(linspace_indices),
    "middle": _numbered(middle_indices),
    "linspace": _numbered(linspace_indices),
}


def folder_indices(
    total: int, num_frames: int, start: float | None = None, end: float | None = None, fps: float = 3
) -> list[int]:
    """Indices of the files to take out of a folder of `total`: one a second, the first `num_frames` of them.

    The reference spreads nothing here: what lies behind `num_frames` seconds of a folder is never seen.
    """
    return list(_files_between(total, start, end, fps)[:: max(1, round(fps))])[:num_frames]


def _files_between(total: int, start: float | None, end: float | None, fps: float) -> range:
    first = 0 if start is None else int(min(max(start * fps, 0), total))
    last = total - 1 if end is None else int(min(max(end * fps, -1), total - 1))
    return range(first, last + 1)


def _read_folder(
    path: Path, num_frames: int, start: float | None, end: float | None, fps: float, sampling: str
) -> Clip:
    files = _frames(path)
    if sampling == "middle":
        each_second = folder_indices(len(files), len(files), start, end, fps)
        indices = [each_second[i] for i in middle_indices(len(each_second), num_frames)]
    elif sampling == "linspace":
        between = _files_between(len(files), start, end, fps)
        indices = [between[i] for i in linspace_indices(len(between), num_frames)] if between else []
    else:
        indices = folder_indices(len(files), num_frames, start, end, fps)
    if not indices:
        raise _outside(path, start, end, len(files) / fps)
    frames = tuple(_read_still(files[i]) for i in indices)
    alike = len({frame.shape for frame in frames}) == 1
    return Clip(torch.stack(frames) if alike else frames, tuple(i / fps for i in indices), str(path))


def _frames(path: Path) -> list[Path]:
    """The pictures of a folder in natural order. ClipError: there is none."""
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in STILLS and f.name[0] != "."), key=_natural)
    if not files:
        raise unreadable(path, "the folder holds no frames", "put JPEG, PNG, WebP or BMP files into it")
    return files


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts frame10 behind frame9."""
    return [(s.isdigit(), int(s) if s.isdigit() else 0, s) for s in re.split(r"(\d+)", path.name) if s]


def is_picture(path: Path) -> bool:
    """Whether a file is read as a picture, which may be animated; a GIF is a video. ClipError: it is neither.

    The content counts, and the name where the content says nothing.
    """
    form, suffix = form_of(path), path.suffix.lower()
    if suffix in VIDEOS:
        if form is None or form == "GIF":
            return False
        raise unreadable(path, f"it is a picture ({form}) and no video", "name it as what it is, or take another file")
    if form is None and suffix not in STILLS and (error := not_read(path)):
        raise error
    return form != "GIF" and (form is not None or suffix in STILLS)


def read_still(path: str | Path) -> Clip:
    """A picture as a clip of one frame; of several pictures in the file the first one. Raises ClipError."""
    return Clip(_read_still(Path(path))[None], (0.0,), str(path))


def _read_pictures(
    path: Path, found: Header, num_frames: int, start: float | None, end: float | None, sampling: str
) -> Clip:
    if not found.shown:
        return read_still(path)
    ends = np.cumsum(found.shown).tolist()
    stamps = [0, *ends[:-1]]
    timeline = Timeline(stamps, [0], Fraction(1, 1000), 1000 * len(stamps) / ends[-1])
    chosen = SAMPLINGS[sampling](timeline, num_frames, start, end)
    if not chosen:
        raise _outside(path, start, end, ends[-1] / 1000)
    pictures = read_pictures(path, [stamps.index(stamp) for stamp in chosen])
    frames = torch.stack([_frame(picture) for picture in pictures])
    return Clip(frames, tuple(timeline.seconds(stamp) for stamp in chosen), str(path))


def _read_still(path: Path) -> UInt8[torch.Tensor, "3 h w"]:
    return _frame(read_picture(path))


def _frame(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[torch.Tensor, "3 h w"]:
    return rearrange(torch.from_numpy(picture), "h w c -> c h w").contiguous()


def _check_bounds(path: Path, start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not math.isfinite(value):
            raise unreadable(path, f"{name} is {value}", "give it in seconds")


def _outside(path: Path, start: float | None, end: float | None, seconds: float) -> ClipError:
    bounds = f"from {start or 0:g} s to {'the end' if end is None else f'{end:g} s'}"
    return unreadable(path, f"nothing of its {seconds:.2f} s lies {bounds}", "correct the bounds")
