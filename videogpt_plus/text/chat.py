"""Conversations to token ids and labels.

`<image>` and `<video>` in a human turn mark a visual. As in the reference they move to the front of their turn,
with a newline behind them. Everything else that people write is text, also where it spells a special token such as
`<|im_end|>`: no question can close its own turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from videogpt_plus.families import FAMILIES
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM_PROMPT = "You are a helpful AI assistant."
MARKER = re.compile(r"<image>|<video>")


class Turn(NamedTuple):
    """One message, its markers taken out."""

    human: bool
    text: str
    #: Placeholders of its visuals, added up.
    placeholders: int


class Piece(NamedTuple):
    """Consecutive ids that are all supervised, or all not."""

    ids: list[int]
    supervised: bool


class Template(NamedTuple):
    """How a conversation is written down, and how a question is put."""

    conversation: Callable[[PreTrainedTokenizerBase, list[Turn]], list[Piece]]
    #: Of the question and what was asked and replied before it; all visuals in front.
    prompt: Callable[[PreTrainedTokenizerBase, Turn, Sequence[tuple[str, str]]], list[int]]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[dict[str, str]],
    placeholder_counts: Sequence[int],
    template: str,
) -> tuple[list[int], list[int]]:
    """Ids and labels, equally long, of a LLaVA conversation: turns of `from` ("human", "gpt") and `value`.

    The n-th marker of the human turns becomes `placeholder_counts[n]` PLACEHOLDER ids. Supervised is every
    assistant turn with its end; an assistant turn before the first question is dropped.
    UserError: unknown template or speaker, a missing value, or as many markers as visuals not given.
    """
    pieces = template_of(template).conversation(tokenizer, _parsed(turns, placeholder_counts))
    ids = [token for piece in pieces for token in piece.ids]
    labels = [token if piece.supervised else IGNORE for piece in pieces for token in piece.ids]
    return ids, labels


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    placeholder_counts: Sequence[int],
    template: str,
    past: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """Ids of a question, visuals in front, up to where the answer begins. Markers in `question` are text.

    `past` holds questions and answers of the same conversation, which stand before it and behind the visuals.
    """
    return template_of(template).prompt(tokenizer, Turn(True, question, sum(placeholder_counts)), past)


def with_past(turn: Turn, past: Sequence[tuple[str, str]]) -> list[Turn]:
    """The whole conversation up to a question, whose visuals go to the first one."""
    said = [Turn(human, text, 0) for pair in past for human, text in zip((True, False), pair, strict=True)]
    first, *rest = [*said, turn._replace(placeholders=0)]
    return [first._replace(placeholders=turn.placeholders), *rest]


def _qwen2_conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    pieces = [Piece(_qwen2_system(tokenizer), False)]
    for turn in turns:
        if turn.human:
            pieces.append(Piece(_qwen2_question(tokenizer, turn), False))
        else:
            pieces.append(Piece(_qwen2_header(tokenizer, "assistant"), False))
            pieces.append(Piece([*text_ids(tokenizer, turn.text), end], True))
    return pieces


def _qwen2_prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    pieces = _qwen2_conversation(tokenizer, with_past(turn, past))
    return [*(token for piece in pieces for token in piece.ids), *_qwen2_header(tokenizer, "assistant")]


def _qwen2_system(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [*_qwen2_header(tokenizer, "system", SYSTEM_PROMPT), end]


def _qwen2_question(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> list[int]:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if not turn.placeholders:
        return [*_qwen2_header(tokenizer, "user", turn.text), end]
    text = f"\n{turn.text}" if turn.text else ""
    visuals = [PLACEHOLDER] * turn.placeholders
    return [*_qwen2_header(tokenizer, "user"), *visuals, *text_ids(tokenizer, text), end]


def _qwen2_header(tokenizer: PreTrainedTokenizerBase, role: str, text: str = "") -> list[int]:
    # Header and text are one string to the tokenizer, which may join the newline with what follows.
    return [tokenizer.convert_tokens_to_ids("<|im_start|>"), *text_ids(tokenizer, f"{role}\n{text}")]


def _plain_conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
    """Visuals and caption alone; what the human says is dropped."""
    if [turn.human for turn in turns] != [True, False]:
        raise UserError("template 'plain' takes one human turn and one caption; use 'qwen2' for conversations")
    question, caption = turns
    return [
        Piece(_plain_prompt(tokenizer, question), False),
        Piece(text_ids(tokenizer, f"{caption.text}\n"), True),
    ]


def _plain_prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    if past:
        raise UserError("template 'plain' has captions and no conversations: ask one question")
    return [PLACEHOLDER] * turn.placeholders


#: Templates that no model family has for itself.
TEMPLATES: dict[str, Template] = {
    "qwen2": Template(_qwen2_conversation, _qwen2_prompt),
    "plain": Template(_plain_conversation, _plain_prompt),
}


def known_templates() -> dict[str, Template | str]:
    """All templates by name; those of a model family by where they stand."""
    return TEMPLATES | {name: path for family in FAMILIES.values() for name, path in family.templates.items()}


def check_template(name: str) -> None:
    """UserError: there is no template of that name."""
    if name not in known_templates():
        raise UserError(f"unknown template '{name}'; choose from: {', '.join(known_templates())}")


def template_of(name: str) -> Template:
    """The template of that name. UserError: there is none."""
    check_template(name)
    found = known_templates()[name]
    return resolve_name(found) if isinstance(found, str) else found


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text that people wrote: none of them is a special token."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def _parsed(turns: Sequence[dict[str, str]], placeholder_counts: Sequence[int]) -> list[Turn]:
    """Turns from the first question on, each with the placeholders of its own markers."""
    counts = list(placeholder_counts)
    parsed: list[Turn] = []
    for turn in turns:
        human = _is_human(turn)
        text, markers = turn["value"], 0
        if human and (markers := len(MARKER.findall(text))):
            text = MARKER.sub("", text).strip()
        if parsed or human:
            parsed.append(Turn(human, text, sum(counts[:markers])))
        check(
            markers <= len(counts),
            f"more <image> or <video> markers than its {len(placeholder_counts)} visuals",
        )
        counts = counts[markers:]
    check(
        not counts,
        f"{len(placeholder_counts)} visuals but markers for {len(placeholder_counts) - len(counts)}",
    )
    return parsed


def _is_human(turn: dict[str, str]) -> bool:
    check(isinstance(turn.get("value"), str), "a turn without a 'value' of text")
    check(turn.get("from") in ("human", "gpt"), f"a turn from '{turn.get('from')}', not from 'human' or 'gpt'")
    return turn["from"] == "human"


def check(fine: bool, problem: str) -> None:
    """UserError unless it is fine: what a conversation has that is wrong."""
    if not fine:
        raise UserError(f"a conversation has {problem}; correct it in the data's JSON file")
