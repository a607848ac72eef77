"""From a free reply to an option's letter. Strict: the ambiguous is refused and counted, never guessed."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_LEAD = re.compile(
    r"(?:the\s+)?(?:(?:best|correct|right|final)\s+)?(?:answer|option|choice)\b\s*(?:is\b)?\s*:?\s*(?:option\b\s*)?",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\(\s*([A-Za-z])\s*\)")
# A bare letter is an option only before an end: in "A cup" it is an article.
_BARE = re.compile(r"([A-Za-z])\s*(?:[.):,;/](?!\w)|$)")
_BARE_LATER = re.compile(r"(?<![\w'])([A-Z])(?=\s*(?:$|[.):,;/]|or\b|and\b))")


def parse_option(reply: str, candidates: Sequence[str]) -> str | None:
    """The letter of the option that `reply` names, or None where it names none or more than one.

    Takes `(A)`, `A`, `A.`, `A)`, `(A) text`, `Answer: (a)`, `Best option: (A)`, `The answer is (A)` and an
    option's text alone. The option must come first: a letter deep in a sentence may be denied there as well
    as chosen.
    """
    text = reply.strip()
    bodies = {text, _LEAD.sub("", text, count=1) if _LEAD.match(text) else text}
    named = {letter for body in bodies for letter in _named(body, candidates)}
    # Options that read the same are one option.
    texts = {_plain(candidates[_index(a)]) if _index(a) < len(candidates) else None for a in named}
    return min(named) if len(texts) == 1 and None not in texts else None


def reference_verdict(reply: str, answer: str) -> bool | None:
    """The reference's own verdict on `reply` for `answer` = "(C) text", so that published numbers compare.

    It looks whether the second word of the reply is part of the answer's first word or holds it: `(A) the
    cup.` is wrong and `(B) a cup` is right for (A). None where the reference raises an IndexError: one word,
    or no text.
    """
    words = reply.strip().lower().split(" ")
    option, _, content = answer.lower().partition(" ")
    if len(words) < 2 or not content:
        return None
    return words[1].replace(".", "") in option or option in words[1]


def _named(body: str, candidates: Sequence[str]) -> set[str]:
    """Letters that `body` names, by letter or by an option's text."""
    by_text = {a for a, c in zip(string.ascii_uppercase, candidates, strict=False) if _plain(c) == _plain(body)}
    found = _BRACKETED.match(body) or _BARE.match(body)
    if found:
        letter, rest = found[1].upper(), body[found.end() :]
        return by_text | {letter} | _others(letter, rest, candidates)
    # "A the cup": a letter without punctuation counts only before its own text.
    by_pair = {
        a
        for a, c in zip(string.ascii_uppercase, candidates, strict=False)
        if re.match(rf"{a}\s", body, re.IGNORECASE) and _plain(body[1:]) == _plain(c)
    }
    return by_text | by_pair


def _others(letter: str, rest: str, candidates: Sequence[str]) -> set[str]:
    """Letters of the options that the text behind the first letter names beside it."""
    if _index(letter) < len(candidates) and _plain(rest) == _plain(candidates[_index(letter)]):
        return set()
    letters = {found.upper() for found in _BRACKETED.findall(rest) + _BARE_LATER.findall(rest)}
    said = {
        a: _plain(c)
        for a, c in zip(string.ascii_uppercase, candidates, strict=False)
        if re.search(rf"(?<!\w){re.escape(_plain(c))}(?!\w)", _plain(rest))
    }
    # "left" inside of "left and right" is not an option of its own.
    longest = {a for a, text in said.items() if not any(text != other and text in other for other in said.values())}
    return letters | longest


def _plain(text: str) -> str:
    """Case, spaces, quotes and final punctuation do not tell options apart."""
    bare = " ".join(text.casefold().split())
    return bare.strip("\"'` ").rstrip(".,;:!? ").strip("\"'` ") or bare


def _index(letter: str) -> int:
    return string.ascii_uppercase.index(letter)
