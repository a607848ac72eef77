"""Conversations to token ids and labels.

`<image>` and `<video>` in a human turn mark a visual. As in the reference they move to the front of their turn,
with a newline behind them. Everything else that people write is text, also where it spells a special token such as
`<|im_end|>`: no question can close its own turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
    pieces = _template(template).conversation(tokenizer, _parsed(turns, placeholder_counts))
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
    return _template(template).prompt(tokenizer, Turn(True, question, sum(placeholder_counts)), past)


def _with_past(turn: Turn, past: Sequence[tuple[str, str]]) -> list[Turn]:
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
            pieces.append(Piece([*_text_ids(tokenizer, turn.text), end], True))
    return pieces


def _qwen2_prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    pieces = _qwen2_conversation(tokenizer, _with_past(turn, past))
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
    return [*_qwen2_header(tokenizer, "user"), *visuals, *_text_ids(tokenizer, text), end]


def _qwen2_header(tokenizer: PreTrainedTokenizerBase, role: str, text: str = "") -> list[int]:
    # Header and text are one string to the tokenizer, which may join the newline with what follows.
    return [tokenizer.convert_tokens_to_ids("<|im_start|>"), *_text_ids(tokenizer, f"{role}\n{text}")]


def _plain_conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
    """Visuals and caption alone; what the human says is dropped."""
    if [turn.human for turn in turns] != [True, False]:
        raise UserError("template 'plain' takes one human turn and one caption; use 'qwen2' for conversations")
    question, caption = turns
    return [
        Piece(_plain_prompt(tokenizer, question), False),
        Piece(_text_ids(tokenizer, f"{caption.text}\n"), True),
    ]


def _plain_prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    if past:
        raise UserError("template 'plain' has captions and no conversations: ask one question")
    return [PLACEHOLDER] * turn.placeholders


def _cogvlm2(answer_word: str | None, indexed: bool = False) -> Template:
    """CogVLM2's templates: its frames in front, then past questions and answers and the question, as one text.

    `answer_word` stands behind each question; None is the bare question, without what was asked before. `indexed`
    writes each frame's number behind it. Supervised is the last answer alone, with the end of the text.
    """

    def prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
        ids = [tokenizer.convert_tokens_to_ids("<|begin_of_text|>")]
        for number in range(turn.placeholders):
            ids += [PLACEHOLDER, *(_text_ids(tokenizer, str(number)) if indexed else [])]
        if answer_word is None:
            return ids + _text_ids(tokenizer, turn.text)
        asked = "".join(f"Question: {question} {answer_word} {answer}\n" for question, answer in past)
        return ids + _text_ids(tokenizer, f"{asked}Question: {turn.text} {answer_word}")

    def conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
        _check(
            [turn.human for turn in turns] == [True, False] * (len(turns) // 2),
            "turns that do not alternate from a question to an answer, as CogVLM2's templates want them",
        )
        *before, (question, answer) = zip(turns[::2], turns[1::2], strict=True)
        whole = question._replace(placeholders=sum(turn.placeholders for turn in turns))
        end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
        return [
            Piece(prompt(tokenizer, whole, [(q.text, a.text) for q, a in before]), False),
            Piece([*_text_ids(tokenizer, answer.text), end], True),
        ]

    return Template(conversation, prompt)


LLAVA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def _llava(system: str, space_after_visual: bool = True, space_after_end: bool = False) -> Template:
    """LLaVA-1.5's conversation. Llama's tokenizers write a space where a text begins; they differ in whether one
    begins behind a visual, and behind the end of an answer.
    """

    def written(tokenizer: PreTrainedTokenizerBase, text: str, space: bool) -> list[int]:
        # A newline is a token of its own, so that nothing behind it depends on the space in front of it.
        return _text_ids(tokenizer, text) if space else _text_ids(tokenizer, f"\n{text}")[2:]

    def conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
        _check(
            [turn.human for turn in turns] == [i % 2 == 0 for i in range(len(turns))],
            "turns that do not alternate from a question to an answer, as LLaVA's templates want them",
        )
        pieces, space, text = [Piece([tokenizer.bos_token_id], False)], True, system
        for turn in turns:
            if turn.human:
                text += "USER: "
                if turn.placeholders:
                    ids = [*written(tokenizer, text, space), *[PLACEHOLDER] * turn.placeholders]
                    pieces.append(Piece(ids, False))
                    space, text = space_after_visual, "\n"
                ids, space = written(tokenizer, f"{text}{turn.text} ASSISTANT:", space), False
                pieces.append(Piece(ids, False))
            else:
                ids = written(tokenizer, f" {turn.text}", space)
                pieces.append(Piece([*ids, tokenizer.eos_token_id], True))
                space = space_after_end
            text = ""
        return pieces

    def prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
        return [token for piece in conversation(tokenizer, _with_past(turn, past)) for token in piece.ids]

    return Template(conversation, prompt)


#: What MiniMind's template says where a conversation brings no system turn: "You are MiniMind, a useful assistant."
CINEGO_SYSTEM = "你是 MiniMind，是一个有用的人工智能助手。"


class Said(NamedTuple):
    """A turn of any role, its visuals where they were put; an assistant's has none."""

    #: "system", "user" or "assistant".
    role: str
    #: Text and, for each visual, the number of its placeholders, in order.
    parts: Sequence[str | int]


def cinego_pieces(tokenizer: PreTrainedTokenizerBase, said: Sequence[Said]) -> list[Piece]:
    """A conversation as MiniMind writes it; supervised is every assistant turn, with its end and the newline there.

    Turns keep their roles in any order. A system turn is written only where there is none at the beginning.
    """
    turns = said if said and said[0].role == "system" else [Said("system", [CINEGO_SYSTEM]), *said]
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id, *_text_ids(tokenizer, "\n")]
    pieces = []
    for role, parts in turns:
        if role == "assistant":
            pieces.append(Piece(cinego_header(tokenizer), False))
            pieces.append(Piece([*_text_ids(tokenizer, "".join(parts)), *end], True))
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
            ids += [*(_text_ids(tokenizer, text) if text else []), *[PLACEHOLDER] * part]
            text = ""
    return ids


def cinego_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before an answer."""
    return [tokenizer.bos_token_id, *_text_ids(tokenizer, "assistant\n")]


def _cinego_conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
    said = [Said("user" if turn.human else "assistant", _cinego_parts(turn)) for turn in turns]
    return cinego_pieces(tokenizer, said)


def _cinego_parts(turn: Turn) -> list[str | int]:
    return [turn.placeholders, f"\n{turn.text}"] if turn.placeholders else [turn.text]


def _cinego_prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
    pieces = _cinego_conversation(tokenizer, _with_past(turn, past))
    return [*(token for piece in pieces for token in piece.ids), *cinego_header(tokenizer)]


TEMPLATES: dict[str, Template] = {
    "qwen2": Template(_qwen2_conversation, _qwen2_prompt),
    "plain": Template(_plain_conversation, _plain_prompt),
    "llava_v1": _llava(LLAVA_SYSTEM),  # as it was trained
    "llava_hub": _llava("", space_after_end=True),  # as the Hub's page writes it
    "cogvlm2_chat": _cogvlm2("Answer:"),
    "cogvlm2_chat_indexed": _cogvlm2("Answer:", indexed=True),
    "cogvlm2_vqa": _cogvlm2("Short answer:"),
    "cogvlm2_base": _cogvlm2(None),
    "cinego": Template(_cinego_conversation, _cinego_prompt),
}


def check_template(name: str) -> None:
    """UserError: there is no template of that name."""
    if name not in TEMPLATES:
        raise UserError(f"unknown template '{name}'; choose from: {', '.join(TEMPLATES)}")


def _template(name: str) -> Template:
    check_template(name)
    return TEMPLATES[name]


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
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
        _check(
            markers <= len(counts),
            f"more <image> or <video> markers than its {len(placeholder_counts)} visuals",
        )
        counts = counts[markers:]
    _check(
        not counts,
        f"{len(placeholder_counts)} visuals but markers for {len(placeholder_counts) - len(counts)}",
    )
    return parsed


def _is_human(turn: dict[str, str]) -> bool:
    _check(isinstance(turn.get("value"), str), "a turn without a 'value' of text")
    _check(turn.get("from") in ("human", "gpt"), f"a turn from '{turn.get('from')}', not from 'human' or 'gpt'")
    return turn["from"] == "human"


def _check(fine: bool, problem: str) -> None:
    if not fine:
        raise UserError(f"a conversation has {problem}; correct it in the data's JSON file")
