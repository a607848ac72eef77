"""How many visual tokens an experiment gives its LLM. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from videogpt_plus.config.experiment import CLASS_TOKENS, FRAME_MARKS, Branch, Experiment
from videogpt_plus.reducers import Reducer


def num_visual_tokens(experiment: Experiment, t: int) -> int:
    """Visual tokens of `t` frames over all branches of the experiment, with the family's own around each frame."""
    reduced = sum(_tokens(experiment.reducer, branch, t) for _, branch in experiment.branches)
    return (reduced + t * FRAME_MARKS.get(experiment.family, 0)) if t else 0


def _tokens(reducer: Reducer, branch: Branch, t: int) -> int:
    alone = CLASS_TOKENS.get(branch.encoder, 0)
    if reducer.pools:  # a class token is in no square of patches
        return reducer.num_tokens(t, branch.grid, branch.grid) + alone * replace(reducer, level=1).num_tokens(t, 1, 1)
    return (
        reducer.num_tokens(t, 1, branch.grid**2 + alone) if alone else reducer.num_tokens(t, branch.grid, branch.grid)
    )
