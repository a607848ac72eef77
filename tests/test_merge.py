"""Splicing: what stands where, and what padding holds."""

from __future__ import annotations

import pytest
import torch

from videogpt_plus.text.splice import VisualTokens, splice
from videogpt_plus.types import IGNORE, PLACEHOLDER

P = PLACEHOLDER


def spliced(rows, visuals):
    """Text embeddings hold the id itself, so that the merged row can be read back."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=9)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
    labels = torch.where((ids == P) | ~mask, torch.tensor(IGNORE), ids)
    return splice(ids[..., None].float(), ids, mask, labels, visuals)


def tokens(values, placeholders):
    return VisualTokens(torch.tensor(values, dtype=torch.float32)[:, None], placeholders)


def test_a_run_of_placeholders_becomes_the_visual_s_tokens():
    merged = spliced([[1, P, P, P, 2]], [[tokens([70, 71], 3)]])
    assert merged.inputs_embeds[0, :, 0].tolist() == [1, 70, 71, 2]
    assert merged.labels[0].tolist() == [1, IGNORE, IGNORE, 2]
    assert merged.attention_mask.all()


def test_adjacent_visuals_stay_apart():
    merged = spliced([[P, P, P, 5]], [[tokens([70], 1), tokens([80, 81], 2)]])
    assert merged.inputs_embeds[0, :, 0].tolist() == [70, 80, 81, 5]


def test_visuals_of_several_turns_keep_their_order():
    merged = spliced([[1, P, 2, P, 3]], [[tokens([70], 1), tokens([80], 1)]])
    assert merged.inputs_embeds[0, :, 0].tolist() == [1, 70, 2, 80, 3]


def test_padding_has_zero_embeddings_no_label_and_no_attention():
    merged = spliced([[1, P, 2], [3]], [[tokens([70, 71], 1)], []])
    assert merged.inputs_embeds[..., 0].tolist() == [[1, 70, 71, 2], [3, 0, 0, 0]]
    assert merged.attention_mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert merged.labels[1].tolist() == [3, IGNORE, IGNORE, IGNORE]


def test_gradients_reach_the_visual_tokens():
    visual = VisualTokens(torch.ones(2, 1, requires_grad=True), 1)
    spliced([[1, P]], [[visual]]).inputs_embeds.sum().backward()
    assert visual.tokens.grad.tolist() == [[1], [1]]


@pytest.mark.parametrize("visuals", [[], [tokens([7], 1)], [tokens([7], 3)], [tokens([7], 1), tokens([8], 2)]])
def test_placeholders_and_visuals_that_do_not_match_are_refused(visuals):
    with pytest.raises(AssertionError, match="placeholders"):
        spliced([[1, P, P, 2]], [visuals])


def test_a_run_broken_by_text_is_refused():
    with pytest.raises(AssertionError, match="stand apart"):
        spliced([[P, 1, P]], [[tokens([7], 2)]])
