"""How many visual tokens an experiment gives its LLM. Imports no torch."""

from __future__ import annotations

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.encoders import encoder_of
from videogpt_plus.families import family_of
from videogpt_plus.reducers import known, pooled_side, tokens_of_summary


def left_of_grid(experiment: Experiment, grid: int) -> str:
    """The tokens of a square grid in words: `6 x 6`, or `49 queries` of a reducer that reads the whole grid."""
    if known(experiment.adapter).tokens is None:
        queries = tokens_of_summary(experiment.summary, experiment.level)
        return f"{queries} queries" if queries > 1 else "1 query"
    side = pooled_side(grid, experiment.level)
    return f"{side} x {side}"


def num_visual_tokens(experiment: Experiment, t: int) -> int:
    """Visual tokens of `t` frames over all streams of the experiment, with the family's own around each frame."""
    count = known(experiment.adapter).tokens
    if t == 0:
        return 0
    pooled = 0
    for _, stream in experiment.streams:
        if count is None:
            pooled += tokens_of_summary(experiment.summary, experiment.level)
        else:
            # A class token is no part of its frame's grid, and is not pooled.
            alone = encoder_of(stream.encoder).class_tokens
            pooled += count(experiment.level, t, stream.grid, stream.grid) + alone * count(1, t, 1, 1)
    return pooled + t * family_of(experiment.family).frame_marks
