"""How wide texts are, and which columns of a table fit on a page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from zlib import crc32

#: Where a long word may be broken, and how long it may be without such a place.
BREAKS, LONGEST = re.compile(r"(?<=[_/.,:;=\-])(?=[^\s_/.,:;=\-])"), 24


def columns(text: str) -> int:
    """How many letters wide the text is: Chinese, Japanese and Korean ones take the place of two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def pieces(word: str) -> list[str]:
    """What must not be broken of a word; a short one is one piece."""
    if columns(word) <= LONGEST:
        return [word]
    return [part[i : i + LONGEST] for part in BREAKS.split(word) for i in range(0, len(part), LONGEST)]


def column_blocks(widths: Sequence[float], keys: int, room: float) -> list[list[int]]:
    """The columns of a table by their numbers, in as few blocks as fit the page, of about equal width.

    The first `keys` columns are in each.
    """
    blocks = _filled(widths, keys, room)
    tighter = (_filled(widths, keys, room * share / 50) for share in range(25, 50))
    return next((filled for filled in tighter if len(filled) == len(blocks)), blocks)


def _filled(widths: Sequence[float], keys: int, room: float) -> list[list[int]]:
    """Each block takes the columns that fit, and at least one in addition to the keys."""
    first = list(range(keys))
    blocks, used = [first[:]], sum(widths[:keys])
    for i, width in enumerate(widths[keys:], start=keys):
        if len(blocks[-1]) > keys and used + width > room:
            blocks.append(first[:])
            used = sum(widths[:keys])
        blocks[-1].append(i)
        used += width
    return blocks


def slug(text: str) -> str:
    """Small letters, digits and hyphens; of texts that would become alike, such as a/b and a-b, each its own."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain if plain == text else f"{plain}-{crc32(text.encode()):08x}".lstrip("-")


def file_name(name: str) -> str:
    """The name as a part of a file's name; of names that would become alike, such as a/b and a-b, each its own."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).lstrip(".")
    return plain if plain == name else f"{plain}-{crc32(name.encode()):08x}"
