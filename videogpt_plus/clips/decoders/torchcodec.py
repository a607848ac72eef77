"""torchcodec: exact by its own account, and checked by the stamps of the frames it gives.

Damage within a picture it does not see, as PyAV does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from videogpt_plus.clips.decoders.source import first_frame
from videogpt_plus.clips.decoders.timeline import Timeline, opened
from videogpt_plus.clips.decoders.upright import corrected, degrees_of, matrix_of, turn_by
from videogpt_plus.io.errors import reason, translated
from videogpt_plus.types import Clip, unreadable

THEN = "take --decoder pyav"


def read(path: Path, choose: Callable[[Timeline], list[int]]) -> Clip:
    """See `decoders`."""
    from torchcodec.decoders import VideoDecoder

    with opened(path) as (_, stream, timeline):
        stamps = choose(timeline)
        index = stream.index
    matrix = matrix_of(first_frame(path))
    if (turn := turn_by(matrix)) is None:
        raise unreadable(path, f"it is to be turned by {degrees_of(matrix)} degrees, and torchcodec does not", THEN)
    if timeline.counted:
        raise unreadable(path, "its frames have no time stamps, by which torchcodec could be checked", THEN)
    kinds = (RuntimeError, IndexError, ValueError)
    with translated(*kinds, to=lambda error: unreadable(path, f"torchcodec stops at it ({reason(error)})", THEN)):
        decoder = VideoDecoder(f"file:{path}", stream_index=index, num_ffmpeg_threads=1, device="cpu")
        # By the middle of its tick, for its own numbers also count frames that are hidden or cannot be decoded.
        batch = decoder.get_frames_played_at([float((stamp + 0.5) * timeline.tick) for stamp in stamps])
    own = np.array([float(stamp * timeline.tick) for stamp in stamps])
    if np.abs(batch.pts_seconds.numpy() - own).max() >= float(timeline.tick) / 2:
        raise unreadable(path, "torchcodec gives frames of other times", THEN)
    # It turns as the matrix says, and never mirrors.
    frames = corrected(rearrange(batch.data, "t c h w -> t h w c").numpy(), turn, degrees_of(matrix))
    pictures = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> t c h w").contiguous()
    return Clip(pictures, tuple(timeline.seconds(stamp) for stamp in stamps), str(path))
