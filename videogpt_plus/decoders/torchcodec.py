"""torchcodec: exact by its own account, and checked by the stamps of the frames it gives.

Damage within a picture it does not see, as PyAV does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import numpy as np

from videogpt_plus.decoders.timeline import Timeline, opened
from videogpt_plus.types import Clip, unreadable

THEN = "take --decoder pyav"


def read(path: Path, choose: Callable[[Timeline], list[int]]) -> Clip:
    """See `decoders`."""
    from torchcodec.decoders import VideoDecoder

    with opened(path) as (_, stream, timeline):
        stamps = choose(timeline)
        index = stream.index
    if timeline.counted:
        raise unreadable(path, "its frames have no time stamps, by which torchcodec could be checked", THEN)
    try:
        decoder = VideoDecoder(f"file:{path}", stream_index=index, num_ffmpeg_threads=1, device="cpu")
        batch = decoder.get_frames_at([bisect_left(timeline.stamps, stamp) for stamp in stamps])
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise unreadable(path, f"torchcodec stops at it ({reason})", THEN) from error
    own = np.array([float(stamp * timeline.tick) for stamp in stamps])
    if np.abs(batch.pts_seconds.numpy() - own).max() >= float(timeline.tick) / 2:
        raise unreadable(path, "torchcodec gives frames of other times", THEN)
    return Clip(batch.data.contiguous(), tuple(timeline.seconds(stamp) for stamp in stamps), str(path))
