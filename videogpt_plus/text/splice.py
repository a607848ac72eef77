"""Splicing of visual tokens into text: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videogpt_plus.types import IGNORE, PLACEHOLDER


class VisualTokens(NamedTuple):
    """One visual after its adapter."""

    tokens: Float[Tensor, "n d"]
    #: Length of the run of PLACEHOLDER ids that the tokens take the place of.
    placeholders: int


class Merged(NamedTuple):
    """What the LLM gets. Padding: zero embeddings, mask False, label IGNORE."""

    inputs_embeds: Float[Tensor, "b s d"]
    attention_mask: Bool[Tensor, "b s"]
    labels: Int[Tensor, "b s"]


def splice(
    text: Float[Tensor, "b l d"],
    input_ids: Int[Tensor, "b l"],
    attention_mask: Bool[Tensor, "b l"],
    labels: Int[Tensor, "b l"],
    visuals: Sequence[Sequence[VisualTokens]],
) -> Merged:
    """Each visual's run of PLACEHOLDER ids in `input_ids` becomes its tokens, in order; they carry no label.

    `text` holds the embeddings of `input_ids`; those of placeholders are not read. Samples may have any number of
    visuals, none included, and adjacent visuals need nothing between them. Padding stands on the right, so that
    positions count from 0.
    """
    rows = [
        _splice_one(text[i][mask], input_ids[i][mask], labels[i][mask], visuals[i])
        for i, mask in enumerate(attention_mask.bool())
    ]
    embeds, merged_labels = zip(*rows, strict=True)
    masks = [torch.ones_like(row, dtype=torch.bool) for row in merged_labels]
    return Merged(
        pad_sequence(embeds, batch_first=True),
        pad_sequence(masks, batch_first=True),
        pad_sequence(merged_labels, batch_first=True, padding_value=IGNORE),
    )


def _splice_one(
    text: Float[Tensor, "l d"],
    ids: Int[Tensor, " l"],
    labels: Int[Tensor, " l"],
    visuals: Sequence[VisualTokens],
) -> tuple[Float[Tensor, "s d"], Int[Tensor, " s"]]:
    places = (ids == PLACEHOLDER).nonzero().flatten().tolist()
    needed = sum(visual.placeholders for visual in visuals)
    assert len(places) == needed, f"{len(places)} placeholders in the text for visuals that take {needed}"
    embeds, marks, cursor, taken = [], [], 0, 0
    for tokens, placeholders in visuals:
        start = places[taken]
        taken += placeholders
        assert places[taken - 1] == start + placeholders - 1, "a visual's placeholders stand apart"
        embeds += [text[cursor:start], tokens.to(text.dtype)]
        marks += [labels[cursor:start], labels.new_full((len(tokens),), IGNORE)]
        cursor = start + placeholders
    return torch.cat([*embeds, text[cursor:]]), torch.cat([*marks, labels[cursor:]])
