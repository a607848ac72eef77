"""Cinego's chat template, which is MiniMind's with visuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.text.chat import Piece, Template, Turn, text_ids, with_past
from videogpt_plus.types import PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What MiniMind's template says where a conversation brings no system turn: "You are MiniMind, a useful assistant."
SYSTEM = "你是 MiniMind，是一个有用的人工智能助手。"


class Said(NamedTuple):
    """A turn of any role, its visuals where they were put; an assistant's has none."""

    #: "system", "user" or "assistant".
    role: str
    #: Text and, for each visual, the number of its placeholders, in order.
    parts: Sequence[str | int]


def pieces_of(tokenizer: PreTrainedTokenizerBase, said: Sequence[Said]) -> list[Piece]:
    """A conversation as MiniMind writes it; supervised is every assistant turn, with its end and the newline there.

    Turns keep their roles in any order. A system turn is written only where there is none at the beginning.
    """
    turns = said if said and said[0].role == "system" else [Said("system", [SYSTEM]), *said]
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id, *text_ids(tokenizer, "\n")]
    pieces = []
    for role, parts in turns:
        if role == "assistant":
            pieces.append(Piece(header(tokenizer), False))
            pieces.append(Piece([*text_ids(tokenizer, "".join(parts)), *end], True))
        else:
            pieces.append(Piece([*begin, *_mixed_ids(tokenizer, [f"{role}\n", *parts]), *end], False))
    return pieces


def _mixed_ids(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str | int]) -> list[int]:
    """Ids of text with placeholders in it; text that nothing divides is one string to the tokenizer."""
    ids: list[int] = []
    text = ""
    for part in [*parts, 0]:
        if isinstance(part, str):
            text += part
        else:
            ids += [*(text_ids(tokenizer, text) if text else []), *[PLACEHOLDER] * part]
            text = ""
    return ids


def header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before an answer."""
    return [tokenizer.bos_token_id, *text_ids(tokenizer, "assistant\n")]


def _conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
    said = [Said("user" if turn.human else "assistant", _parts(turn)) for turn in turns]
    return pieces_of(tokenizer, said)


def _parts(turn: Turn) -> list[str | int]:
    return [turn.placeholders, f"\n{turn.text}"] if turn.placeholders else [turn.text]


def _prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    pieces = _conversation(tokenizer, with_past(turn, past))
    return [*(token for piece in pieces for token in piece.ids), *header(tokenizer)]


TEMPLATE = Template(_conversation, _prompt)
