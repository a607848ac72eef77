"""Numbers in a judge's reply, and the scales that they are said to be of: `on a scale of 0 to 5`."""

from __future__ import annotations

from collections.abc import Sequence

from eval.judge import score_words as known
from eval.tasks.replies import Token

LOWEST, HIGHEST = 0, 5


def number_of(token: Token, in_words: bool = True) -> float | None:
    """The number that a token is, in digits or, unless `in_words` is off, in a word; None where it is none."""
    if token.kind == "number" and "," not in token.text and token.text.count(".") < 2:
        return float(token.text)
    word = token.text.casefold()
    if not in_words or not (word in known.NUMBERS or word in known.NUMERALS):
        return None
    return float(known.NUMBERS.index(word) if word in known.NUMBERS else known.NUMERALS.index(word))


def without_scales(said: Sequence[Token]) -> tuple[list[Token], bool]:
    """The tokens without "on a scale of 0 to 5"; whether another scale was named like that."""
    kept: list[Token] = []
    other, at = False, 0
    while at < len(said):
        if said[at].text.casefold() == "scale":
            numbers, behind = _bounds(said, at + 1)
            if not numbers:
                numbers, begin = _bounds_before(kept)
                del kept[begin:]
            if numbers:
                other |= numbers not in ([LOWEST, HIGHEST], [HIGHEST])
                while kept and kept[-1].text.casefold() in ("on", "in", "a", "the", "using", ","):
                    kept.pop()
                at = behind
                continue
        kept.append(said[at])
        at += 1
    return kept, other


def _bounds(said: Sequence[Token], at: int) -> tuple[list[float], int]:
    """([lowest, highest] of "of 0 to 5", the place behind it)."""
    words = [token.text.casefold() for token in said[at : at + 5]]
    i = 1 if words[:1] in (["of"], ["from"], ["between"], [":"], ["("]) else 0
    if len(words) < i + 3 or words[i + 1] not in ("to", "-", "–", "and", "through"):
        single = number_of(said[at + i]) if 0 < i < len(words) and words[0] == "of" else None
        return ([], at) if single is None else ([single], at + i + 1)
    numbers = [number_of(said[at + i]), number_of(said[at + i + 2])]
    return ([n for n in numbers if n is not None], at + i + 3) if None not in numbers else ([], at)


def _bounds_before(said: Sequence[Token]) -> tuple[list[float], int]:
    """The same of "0-5" and "5-point" before the word "scale", and the place where it begins."""
    words = [token.text.casefold() for token in said[-3:]]
    if len(words) == 3 and words[1:] in (["-", "point"], ["-", "star"]) and (number := number_of(said[-3])) is not None:
        return [number], len(said) - 3
    if len(words) == 3 and words[1] in ("to", "-", "–"):
        numbers = [number_of(said[-3]), number_of(said[-1])]
        return ([n for n in numbers if n is not None], len(said) - 3) if None not in numbers else ([], len(said))
    return [], len(said)
