"""CogVLM2's chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videogpt_plus.text.chat import Piece, Template, Turn, check, text_ids
from videogpt_plus.types import PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def written(answer_word: str | None, indexed: bool = False) -> Template:
    """A template: frames in front, then past questions and answers and the question, as one text.

    `answer_word` stands behind each question; None is the bare question, without what was asked before. `indexed`
    writes each frame's number behind it. Supervised is the last answer alone, with the end of the text.
    """

    def prompt(tokenizer: PreTrainedTokenizerBase, turn: Turn, past: Sequence[tuple[str, str]] = ()) -> list[int]:
        ids = [tokenizer.convert_tokens_to_ids("<|begin_of_text|>")]
        for number in range(turn.placeholders):
            ids += [PLACEHOLDER, *(text_ids(tokenizer, str(number)) if indexed else [])]
        if answer_word is None:
            return ids + text_ids(tokenizer, turn.text)
        asked = "".join(f"Question: {question} {answer_word} {answer}\n" for question, answer in past)
        return ids + text_ids(tokenizer, f"{asked}Question: {turn.text} {answer_word}")

    def conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
        check(
            [turn.human for turn in turns] == [True, False] * (len(turns) // 2),
            "turns that do not alternate from a question to an answer, as CogVLM2's templates want them",
        )
        *before, (question, answer) = zip(turns[::2], turns[1::2], strict=True)
        whole = question._replace(placeholders=sum(turn.placeholders for turn in turns))
        end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
        return [
            Piece(prompt(tokenizer, whole, [(q.text, a.text) for q, a in before]), False),
            Piece([*text_ids(tokenizer, answer.text), end], True),
        ]

    return Template(conversation, prompt)


CHAT = written("Answer:")
CHAT_INDEXED = written("Answer:", indexed=True)
VQA = written("Short answer:")
BASE = written(None)
