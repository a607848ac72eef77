"""Byte-level BPE as MiniMind has it: three special tokens, the 256 bytes, then what is frequent in a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.families.cinego.chat import SYSTEM
from videogpt_plus.families.cinego.placeholders import MARK, MARK_ID
from videogpt_plus.io.files import write_json, writing
from videogpt_plus.text.chat import MARKER
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Ids 0, 1, 2: padding and unknown, begin and end of a turn.
SPECIAL = ("<unk>", "<s>", "</s>")
VOCABULARY = 6400
#: Special tokens and bytes: what there is before the first merge.
LEAST = len(SPECIAL) + 256
CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, token in enumerate(SPECIAL)
    },
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "model_max_length": 32768,
    "pad_token": "<unk>",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
}


def train_tokenizer(texts: Iterable[str], folder: str | Path, vocabulary: int = VOCABULARY) -> int:
    """Trains on `texts` and writes tokenizer.json and tokenizer_config.json into `folder`; returns its entries.

    The text's own `@` is left out of the training, so that no merge holds one. UserError: the vocabulary has no room
    for the bytes, the texts are empty, or the folder cannot be written.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < LEAST:
        raise UserError(f"a vocabulary of {vocabulary} has no room for the {LEAST} bytes and special tokens")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = 0

    def pieces() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            for piece in text.split(MARK):
                seen += len(piece)
                yield piece

    tokenizer.train_from_iterator(pieces(), trainer)
    if not seen:
        raise UserError("there is no text to train a tokenizer on: name files with rows of 'text' or 'conversations'")
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(folder / "tokenizer_config.json", CONFIG)
    return tokenizer.get_vocab_size()


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
    """UserError unless ids are as MiniMind's checkpoints take them: special tokens, and `@` alone as 34."""
    found = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    if found != (0, 1, 2):
        raise UserError(
            f"the tokenizer in {source} has <unk>, <s>, </s> as {found}, not (0, 1, 2): name a tokenizer of MiniMind, "
            "or train one with `videogpt-plus cinego tokenizer`"
        )
    for count in (1, 2, 3, 197):
        ids = tokenizer(MARK * count, add_special_tokens=False).input_ids
        if ids != [MARK_ID] * count:
            raise UserError(
                f"the tokenizer in {source} writes {count} {MARK} as {ids[:4]}..., not as {count} x {MARK_ID}: "
                "its merges hold the stand-in of visual tokens; train it again without it in the text"
            )


def texts_of(path: str | Path) -> Iterator[str]:
    """What a JSONL's rows say, as it will be trained on: texts, or conversations in their template."""
    from videogpt_plus.training.cinego.data import read_rows

    for row in read_rows(path, ""):
        if row.turns[0][0] == "text":
            yield row.turns[0][1]
            continue
        system = () if row.turns[0][0] == "system" else (("system", SYSTEM),)
        for role, content in (*system, *row.turns):
            yield f"{role}\n"
            yield MARKER.sub("", content)
            yield "\n"
