"""How many visual tokens an experiment gives its LLM. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.encoders import encoder_of
from videogpt_plus.families import family_of
from videogpt_plus.reducers import Reducer


def num_visual_tokens(experiment: Experiment, t: int) -> int:
    """Visual tokens of `t` frames over all branches of the experiment, with the family's own around each frame."""
    reduced = sum(_tokens(experiment.reducer, branch, t) for _, branch in experiment.branches)
    return (reduced + t * family_of(experiment.family).frame_marks) if t else 0


def _tokens(reducer: Reducer, branch: Branch, t: int) -> int:
    alone = encoder_of(branch.encoder).class_tokens
    if reducer.pools:  # a class token is no part of its frame's grid
        return reducer.num_tokens(t, branch.grid, branch.grid) + alone * replace(reducer, level=1).num_tokens(t, 1, 1)
    return reducer.num_tokens(t, *((1, branch.grid**2 + alone) if alone else (branch.grid, branch.grid)))
