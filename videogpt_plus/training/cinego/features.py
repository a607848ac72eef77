"""What the frozen encoder makes of clips, kept before training: in the grid store, or in the original's .npy files.

The store's keys name content and settings of each clip; features.json in its folder says in words what they are.
Who is to read a folder that was filled for another encoder, number of frames or number format is told so, instead of
decoding everything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from videogpt_plus.clips.names import with_ending
from videogpt_plus.clips.picture_files import STILLS, is_still
from videogpt_plus.clips.prefetch import Job, Prefetcher, Preparation
from videogpt_plus.clips.video import VIDEOS
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.encoders.loading import load_encoder
from videogpt_plus.io.entries import reading
from videogpt_plus.io.files import read_object, write_json
from videogpt_plus.io.fingerprint import of_path
from videogpt_plus.types import ClipError, UserError, unreadable

if TYPE_CHECKING:
    import numpy as np

    from videogpt_plus.clips.cache import GridCache

#: Of the original's files, one for each image or video.
SUFFIX = ".npy"
SIDECAR = "features.json"


class Preprocessed(NamedTuple):
    """What became of the files."""

    new: int
    #: Were there already.
    kept: int
    #: Path -> why it could not be read.
    failed: dict[str, str]


def description(experiment: Experiment, store: GridCache) -> dict[str, object]:
    """What a store's entries for this experiment are, in words."""
    ((_, stream),) = experiment.branches
    return {
        "encoder": stream.encoder,
        "weights": of_path(stream.weights),
        "pixels": stream.pixels,
        "width": stream.width,
        "sampling": experiment.sampling.rule,
        "frames": experiment.num_frames,
        "dtype": store.dtype,
    }


def check_sidecar(experiment: Experiment, store: GridCache) -> None:
    """UserError: the store was filled by `preprocess`, and not for what this experiment reads."""
    path = store.folder / SIDECAR
    if not path.exists():
        return
    there = read_object(path, "run `videogpt-plus cinego preprocess` again").get("features")
    wanted = description(experiment, store)
    if not isinstance(there, list) or not all(isinstance(one, dict) for one in there):
        raise UserError(f"{path} lists no features; run `videogpt-plus cinego preprocess` again")
    if wanted not in there:
        nearest = max(there, key=lambda one: sum(one.get(k) == v for k, v in wanted.items()), default={})
        told = "; ".join(f"{k}: {nearest.get(k)!r} there, {v!r} now" for k, v in wanted.items() if nearest.get(k) != v)
        raise UserError(
            f"{store.folder} holds features for something else ({told}): run `videogpt-plus cinego preprocess` with "
            "this experiment, or name another store"
        )


def preprocess(
    experiment: Experiment,
    paths: Iterable[str | Path],
    store: GridCache,
    decoder: str = "pyav",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Preprocessed:
    """Keeps the encoder's grid of every file; what is there already is not decoded. Goes on where it was ended.

    `progress` is called with (done, total). UserError: not one can be read, or the store cannot be written.
    """
    files = [Path(path) for path in dict.fromkeys(map(str, paths))]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ((name, stream),) = experiment.branches
    encoder = load_encoder(stream, device, torch.float32)
    prepare = Preparation(experiment.branches, experiment.sampling, decoder, store)
    _describe(experiment, store)
    new, kept, failed = 0, 0, {}
    jobs = (Job(path, still="crop" if is_still(path) else None) for path in files)
    with Prefetcher(prepare, workers) as feeder:
        for done, (path, fed) in enumerate(zip(files, feeder(jobs), strict=True), 1):
            if isinstance(fed.outcome, ClipError):
                failed[str(path)] = str(fed.outcome)
            elif fed.outcome.grids:
                kept += 1
            else:
                with torch.inference_mode():
                    store.write(fed.outcome.key, {name: encoder(fed.outcome.pixels[name][None].to(device))[0]})
                new += 1
            if progress:
                progress(done, len(files))
    if files and len(failed) == len(files):
        raise UserError(f"none of {len(files)} files can be read; the first: {next(iter(failed.values()))}")
    return Preprocessed(new, kept, failed)


def _describe(experiment: Experiment, store: GridCache) -> None:
    """Adds this experiment's features to those that the sidecar lists."""
    path = store.folder / SIDECAR
    there = read_object(path, "remove it").get("features", []) if path.exists() else []
    wanted = description(experiment, store)
    if wanted not in there:
        write_json(path, {"features": [*there, wanted]})


def media_files(folder: str | Path) -> list[Path]:
    """Every image and video below a folder, in order. UserError: there is none."""
    folder = Path(folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in STILLS | VIDEOS and path.is_file())
    if not found:
        what = "holds no images or videos" if folder.is_dir() else "is no folder"
        raise UserError(f"{folder} {what}; name a folder with {', '.join(sorted(STILLS | VIDEOS))} files")
    return found


def read_features(path: str | Path) -> Float[Tensor, "t h w d"]:
    """A .npy file of the original, Float "t l d" with the class token first, as the encoder's grid.

    ClipError: it cannot be read, or holds something else.
    """
    import numpy as np

    advice = "extract it again"
    with reading(path):
        array = _array(path)
        if array.ndim != 3 or array.dtype.kind != "f":
            raise unreadable(path, f"{array.dtype} of shape {array.shape} is no features 'frames tokens width'", advice)
        array = np.asarray(array, np.float32)  # torch knows no other order of bytes than the machine's
    if not array.size or not np.isfinite(array).all():
        raise unreadable(path, "its features are empty or not finite", advice)
    if not array.any():
        raise unreadable(path, "all its features are zero, as where a video could not be decoded", advice)
    return as_grid(torch.from_numpy(array))


def as_grid(features: Float[Tensor, "t l d"]) -> Float[Tensor, "t h w d"]:
    """Features in the layout of the encoder `clip_cinego`."""
    return features[:, None]


def frames_of(path: str | Path) -> int:
    """Frames of a .npy file, by its header alone. ClipError: it has none."""
    with reading(path):
        return int(_array(path, "r").shape[0])


def _array(path: str | Path, mapped: str | None = None) -> np.ndarray:
    """The array of a .npy file, in which nothing is run. ClipError: it is an archive of several."""
    import numpy as np

    array = np.load(path, mapped, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise unreadable(path, "it is an archive of arrays (.npz)", "extract it again")
    return array


def find_features(media: Iterable[str], folder: str | Path) -> dict[str, str]:
    """Each image or video -> its .npy file, under `folder` by its name. UserError: two would have one."""
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for path in media:
        own = found[path] = str(Path(folder) / with_ending(Path(path).name, SUFFIX))
        if owner.setdefault(own, path) != path:
            raise UserError(f"{owner[own]} and {path} would both have the features {own}: rename one of them")
    return found
