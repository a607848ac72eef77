"""Where visuals stand in ids that Cinego's own data hold: runs of one text token, `@`, as long as a visual's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from videogpt_plus.types import PLACEHOLDER

#: What the id of a place reads as.
MARK = "@"
#: Its id in the published tokenizer.
MARK_ID = 34


def runs(ids: Sequence[int], length: int, mark: int = MARK_ID) -> list[int]:
    """Where each place of `length` ids begins: from the left, each behind the end of the one before."""
    places, count = [], 0
    for i, token in enumerate(ids):
        count = count + 1 if token == mark else 0
        if count == length:
            places.append(i + 1 - length)
            count = 0
    return places


def with_placeholders(ids: Sequence[int], length: int, visuals: int, mark: int = MARK_ID) -> list[int]:
    """The ids with PLACEHOLDER in the first `visuals` places; any further one stays the text that it is."""
    out = list(ids)
    for place in runs(ids, length, mark)[:visuals]:
        out[place : place + length] = [PLACEHOLDER] * length
    return out
