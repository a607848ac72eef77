"""LLaVA-1.5's chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videogpt_plus.text.chat import Piece, Template, Turn, check, text_ids, with_past
from videogpt_plus.types import PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def written_with(system: str, space_after_visual: bool = True, space_after_end: bool = False) -> Template:
    """A template. Llama's tokenizers write a space where a text begins; they differ in whether one
    begins behind a visual, and behind the end of an answer.
    """

    def written(tokenizer: PreTrainedTokenizerBase, text: str, space: bool) -> list[int]:
        # A newline is a token of its own, so that nothing behind it depends on the space in front of it.
        return text_ids(tokenizer, text) if space else text_ids(tokenizer, f"\n{text}")[2:]

    def conversation(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> list[Piece]:
        check(
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
        return [token for piece in conversation(tokenizer, with_past(turn, past)) for token in piece.ids]

    return Template(conversation, prompt)


V1 = written_with(SYSTEM)  # as it was trained
HUB = written_with("", space_after_end=True)  # as the Hub's page writes it
