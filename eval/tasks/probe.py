"""Decoding clips of a benchmark as answering does, to see which can be read and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.config.experiment import Sampling
from videogpt_plus.io.files import located
from videogpt_plus.types import ClipError, Visual

if TYPE_CHECKING:
    from videogpt_plus.config.experiment import Branch, Experiment


class View(NamedTuple):
    """What a question looks at."""

    path: Path
    start: float | None
    end: float | None


class Probe:
    """Decodes and prepares a clip as answering does; what a worker of a `Prefetcher` runs.

    Instead of pixels it gives one tensor: seconds that this took (NaN where the bounds begin behind the clip's end),
    and the clip's seconds.
    """

    def __init__(self, sampling: Sampling, branches: Sequence[tuple[str, Branch]] = (), decoder: str = "pyav"):
        from videogpt_plus.clips.decoders import check_decoder
        from videogpt_plus.clips.prefetch import Preparation
        from videogpt_plus.clips.video import read_clip

        check_decoder(decoder)
        read = partial(read_clip, num_frames=sampling.num_frames, decoder=decoder)
        self.prepare = Preparation(branches, sampling, decoder) if branches else read
        self.warm = False

    def __call__(self, path: Path, start: float | None, end: float | None, *_: object) -> Visual:
        """Raises ClipError."""
        import torch

        from videogpt_plus.clips.video import duration

        seconds = duration(path)
        took = float("nan")
        if start is None or not min(start, start if end is None else end) >= seconds:
            if not self.warm:  # the first clip of a process loads libraries, too
                self.prepare(path, start=start, end=end)
                self.warm = True
            began = time.perf_counter()
            self.prepare(path, start=start, end=end)
            took = time.perf_counter() - began
        return Visual({"found": torch.tensor([took, seconds], dtype=torch.float64)}, 0)


def probe_of(experiment: Experiment | None, decoder: str = "pyav") -> Probe:
    """What decodes as answering with this experiment does, and prepares, too, where its weights are here."""
    if experiment is None:
        return Probe(Sampling(), (), decoder)
    here = all(located(stream.weights).exists() for _, stream in experiment.branches)
    return Probe(experiment.sampling, experiment.branches if here else (), decoder)


def probe_all(
    views: Sequence[View], probe: Probe, workers: int, seconds: float, progress: Callable[[int, int], None] | None
) -> dict[View, ClipError | tuple[float, float]]:
    """What became of each view: a ClipError, or seconds that it took and seconds of the clip."""
    from videogpt_plus.clips.prefetch import Job, Prefetcher

    outcomes: dict[View, ClipError | tuple[float, float]] = {}
    with Prefetcher(probe, workers, 2 * max(1, workers), seconds) as feeder:
        for view, (outcome, _) in zip(views, feeder(Job(*view) for view in views), strict=True):
            unreadable = isinstance(outcome, ClipError)
            outcomes[view] = outcome if unreadable else tuple(outcome.pixels["found"].tolist())
            if progress:
                progress(len(outcomes), len(views))
    return outcomes
