"""Sentences of a judge that state a score, token by token: `Score (0-5): 4`, `I'd rate this 4 out of 5`, `4`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from eval.judge import score_words as known
from eval.judge.scales import HIGHEST, LOWEST, number_of, without_scales
from eval.tasks.replies import Token, spelt_out, tokens

#: What may be wrong with a score; each begins the reason that is recorded.
SCALE = f"another scale than {LOWEST} to {HIGHEST}"
UNCLEAR = "no single score"
NO_NUMBER = "a score that is no number"


class Stated(NamedTuple):
    """One score that is stated: a number, or what is wrong with it."""

    number: float | None
    problem: str | None = None


def stated(text: str) -> Iterator[Stated]:
    """Every score that the sentences of a plain text state."""
    said, other = without_scales(tokens(text))
    if other:
        yield Stated(None, SCALE)
    sentences = list(_sentences(said))
    labelled = [found for sentence in sentences for found in _in_sentence(said, *sentence)]
    given = [found for sentence in sentences if (found := _given(said, *sentence))]
    yield from labelled
    yield from (found for found in given if not (labelled and found.problem))
    yield from _lines(said, bool(labelled or given))


def value_of(text: str) -> Stated:
    """The score that a field's value is: all of it is read."""
    said = tokens(text)
    at = 0
    while at < len(said) and said[at].text in known.CLOSING | set("(["):
        at += 1
    while said and said[-1].text in ".;":
        said.pop()
    found = _value(said, at, len(said))
    return found if found else Stated(None, NO_NUMBER)


def limit_of(name: str) -> Stated | None:
    """Whether a field's name is that of a score: None where it is not, a problem where it is of another scale."""
    said = tokens(name)
    if not said or said[0].text.casefold() != "score":
        return None
    numbers = [number for token in said[1:] if (number := number_of(token)) is not None]
    if not numbers:
        return None if len(said) > 1 else Stated(HIGHEST)
    return Stated(HIGHEST) if set(numbers) <= {LOWEST, HIGHEST} and HIGHEST in numbers else Stated(None, SCALE)


def verdicts_of(text: str) -> set[str]:
    """Every `pred: yes` and `pred: no` of a plain text; "?" for one that is neither."""
    said = tokens(text)
    found = set()
    for at, token in enumerate(said):
        if token.text.casefold() in ("pred", "prediction"):
            behind = at + 1
            while behind < min(at + known.REACH, len(said)) and said[behind].text in known.SEPARATORS:
                behind += 1
            if behind > at + 1 and behind < len(said):
                found.add(_yes_or_no(said, behind))
    return found


def _yes_or_no(said: Sequence[Token], at: int) -> str:
    following = next((t.text.casefold() for t in said[at + 1 : at + 4] if t.text not in known.CLOSING), "")
    word = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}.get(said[at].text.casefold(), "?")
    return word if following in ("", ",", ".", ";", "\n", "}", "|", "!") else "?"


def _is_negative(said: Sequence[Token], at: int) -> bool:
    """Whether a minus belongs to the number at `at`, as in "Score: -4", and is no dash, as in "Score - 4"."""
    sign = said[at - 1] if at else None
    if sign is None or sign.text not in ("-", "−", "+") or not said[at].close:
        return False
    return not (sign.close and at > 1 and said[at - 2].kind != "mark")


def _ends_sentence(said: Sequence[Token], at: int) -> bool:
    """Whether a mark or a line ends a sentence; those of "3..4" and "3; 4" do not."""
    if at == len(said) or said[at].kind == "line" or said[at].text not in ".;":
        return at == len(said) or said[at].text in known.ENDS
    if said[at].text == ";":
        return at + 1 == len(said) or said[at + 1].kind != "number"
    while at < len(said) and said[at].text == ".":
        at += 1
    return at == len(said) or not said[at].close or said[at].kind != "number"


def _sentences(said: Sequence[Token]) -> Iterator[tuple[int, int]]:
    begin = 0
    for at in range(len(said) + 1):
        if _ends_sentence(said, at):
            if at > begin:
                yield begin, at
            begin = at + 1


def _in_sentence(said: Sequence[Token], begin: int, end: int) -> Iterator[Stated]:
    """The scores that a sentence states by a label."""
    labels = [at for at in range(begin, end) if _label(said, at)]
    asked = end < len(said) and said[end].text == "?"
    denied, at = False, begin
    for number, label in enumerate(labels):
        denied = _denied(said, at, label, denied)
        at = label
        if denied or not _may_precede(said, begin, label):
            continue
        limit = labels[number + 1] if number + 1 < len(labels) else end
        found = _labelled(said, label + _label(said, label), limit, len(said) if limit == end else limit)
        if found:
            yield Stated(None, UNCLEAR) if asked else found


def _label(said: Sequence[Token], at: int) -> int:
    """How many tokens the word "score" takes here; 0 where it is another word."""
    if said[at].text.casefold() == "score":
        return 1
    pair = said[at].text + (said[at + 1].text if at + 1 < len(said) else "")
    return 2 if pair in known.LABELS else 0


def _may_precede(said: Sequence[Token], begin: int, label: int) -> bool:
    before = said[label - 1] if label > begin else None
    return before is None or before.kind in ("mark", "cjk") or before.text.casefold() in known.BEFORE_LABEL


def _denied(said: Sequence[Token], begin: int, end: int, denied: bool) -> bool:
    """Whether what is said from `begin` to `end` denies, or doubts, what follows."""
    after_comma = False
    for token in said[begin:end]:
        found = spelt_out(token.text)
        if found[0] in known.RESTARTS or (after_comma and found[0] in known.SUBJECTS):
            denied = False
        denied |= bool(known.DENIALS & set(found))
        after_comma = token.text == ","
    return denied and not after_comma


def _labelled(said: Sequence[Token], at: int, end: int, behind: int) -> Stated | None:
    """The score behind a label that ends at `at`; its value may stand on a later line, before `behind`."""
    note_end, other = _note(said, at, end)
    start = _separated(said, note_end, end, behind)
    in_brackets = said[note_end - 1].text in (")", "]", "}")
    if note_end > at and (
        (start == note_end and not in_brackets) or start >= len(said) or number_of(said[start]) is None
    ):
        note_end, other, start = at, False, _separated(said, at, end, behind)
    if start >= len(said) or number_of(said[start]) is None:
        return None
    found = _value(said, start, end if start < end else _line_end(said, start))
    return Stated(None, SCALE) if found and other else found


def _note(said: Sequence[Token], at: int, end: int) -> tuple[int, bool]:
    """(the place behind the scale that a label states, or `at`; whether it is another one than ours)."""
    stop, numbers = at, []
    if at < end and said[at].text in ("(", "[", "{"):
        stop = next((i + 1 for i in range(at, min(at + known.REACH, end)) if said[i].text in (")", "]", "}")), at)
    elif at < end and (said[at].text.casefold() in known.BEFORE_BOUNDS or number_of(said[at]) is not None):
        stop = _skip(said, at, min(at + known.REACH, end), known.BOUNDS)
    numbers = [number for token in said[at:stop] if (number := number_of(token)) is not None]
    if stop > at and said[stop - 1].text in ("-", "–", ","):
        stop -= 1
    ours = not numbers or (set(numbers) <= {LOWEST, HIGHEST} and HIGHEST in numbers)
    return stop, not ours


def _separated(said: Sequence[Token], at: int, end: int, behind: int) -> int:
    """The place behind the marks, words and lines between a label and its value."""
    start, about = at, at
    while at < min(start + known.REACH, behind):
        token, word = said[at], said[at].text.casefold()
        if word in ("for", "of") and at == about and _about(said, at, end) > at:
            at = _about(said, at, end)
            continue
        arrow = token.text == ">" and said[at - 1].text in ("-", "=", "–")  # any other ">" is no label's end
        if not (
            arrow
            or token.text in known.SEPARATORS
            or (word in known.FILLERS and token.text != "A")
            or token.kind == "line"
            or word in ("是", "为")
        ):
            break
        at += 1
    return at


def _about(said: Sequence[Token], at: int, end: int) -> int:
    """The place behind "for this answer"; `at` where a label is followed by something else."""
    behind = at + 1
    while behind < min(at + 4, end) and said[behind].text.casefold() in known.JUDGED | known.DETERMINERS:
        behind += 1
    return behind if said[behind - 1].text.casefold() in known.JUDGED else at


def _line_end(said: Sequence[Token], at: int) -> int:
    while at < len(said) and said[at].kind != "line":
        at += 1
    return at


def _given(said: Sequence[Token], begin: int, end: int) -> Stated | None:
    """The score of "I give it a 4", "the answer deserves a 4", "it is a 4" and 我给4分, where no label stands."""
    words = [spelt_out(said[i].text) for i in range(begin, min(begin + known.REACH, end))]
    verb = next((i for i, word in enumerate(words) if word[0] in known.VERBS), None)
    subjects = {part for word in words[:verb] for part in word} if verb is not None else set()
    if words and words[0][0] in ("it", "this", "that") and "is" in [*words[0], *(w[0] for w in words[1:2])]:
        verb = 1 if words[0][-1] != "is" else 0
        if words[verb + 1 : verb + 2] not in ([("a",)], [("an",)]):
            return None
    elif verb is None or not subjects & (known.GIVERS if words[verb][0] in known.GIVING else known.JUDGED):
        return None
    if _denied(said, begin, begin + verb, False):
        return None
    for at in range(begin + verb + 1, min(begin + verb + 8, end)):
        if number_of(said[at], in_words=False) is not None:
            asked = end < len(said) and said[end].text == "?"
            return Stated(None, UNCLEAR) if asked else _value(said, at, end)
        if _label(said, at) or said[at].text.casefold() not in known.JUDGED | known.DETERMINERS | known.BETWEEN:
            return None
    return None


def _lines(said: Sequence[Token], labelled: bool) -> Iterator[Stated]:
    """The scores that are lines of their own; of the first line, too, if more than a number stands on it."""
    first = True
    begin = 0
    for at, token in enumerate([*said, Token("line", "\n", False)]):
        if token.kind != "line":
            continue
        start = begin
        while start < at and said[start].text in "([{|\"'“":
            start += 1
        if start < at and number_of(said[start]) is not None:
            number, behind = _scaled(said, start, at)
            while behind < at and (said[behind].text in known.CLOSING or said[behind].text in ".!。"):
                behind += 1
            if behind == at:
                yield number
            elif first and not labelled:
                listed = at + 1 < len(said) and number_of(said[at + 1]) is not None  # "1. Good\n2. Bad"
                yield Stated(None, UNCLEAR) if listed else _value(said, start, at, True) or Stated(None, UNCLEAR)
        elif first and not labelled and _is_bounded(said[start : min(start + 3, at)]):
            yield Stated(None, UNCLEAR)
        first, begin = first and at == begin, at + 1


def _is_bounded(begin: Sequence[Token]) -> bool:
    """Whether a line begins with a sign and a number: "-4", "> 4"."""
    return bool(begin) and begin[0].text in "-−<>~≈≥≤" and any(number_of(token) is not None for token in begin)


def _value(said: Sequence[Token], at: int, end: int, whole_line: bool = False) -> Stated | None:
    """The number at `at` with its scale, where nothing up to `end` makes it another one; None where there is none."""
    if at >= end or number_of(said[at]) is None:
        return None
    found, behind = _scaled(said, at, end)
    if found.problem or _ends_well(said, behind, end, whole_line):
        return found
    return Stated(None, UNCLEAR)


def _scaled(said: Sequence[Token], at: int, end: int) -> tuple[Stated, int]:
    """(the number at `at`, or another scale; the place behind it, its units and its scale)."""
    number = number_of(said[at])
    negative = _is_negative(said, at)
    at = _skip(said, at + 1, end, known.UNITS)
    if at < end and (said[at].text == "%" or said[at].text.casefold() in ("percent", "per")):
        return Stated(None, SCALE), at + 1
    scale, at = _scale(said, at, end)
    at = _skip(said, _skip_bounds(said, at, end), end, known.UNITS)
    if number is None or negative or not LOWEST <= number <= HIGHEST or scale not in (None, HIGHEST):
        return Stated(None, SCALE), at
    return Stated(number), at


def _scale(said: Sequence[Token], at: int, end: int) -> tuple[float | None, int]:
    """(the highest score, where it is stated behind a number; the place behind that)."""
    start, words = at, [token.text.casefold() for token in said[at : min(at + 8, end)]]
    i = 1 if words[:1] == ["("] else 0
    if words[i : i + 1] in (["/"], ["⁄"]):
        i += 1
    elif words[i : i + 2] == ["out", "of"] or words[i : i + 2] == ["满", "分"]:
        i += 2
        while words[i : i + 1] and words[i] in known.BEFORE_HIGHEST:
            i += 1
    elif words[i : i + 1] == ["of"]:
        i += 1
    else:
        return None, start
    if i >= len(words) or (number := number_of(said[start + i])) is None:
        return None, start
    at = _skip(said, start + i + 1, end, known.UNITS)
    return number, at + 1 if words[0] == "(" and at < end and said[at].text == ")" else at


def _skip_bounds(said: Sequence[Token], at: int, end: int) -> int:
    """The place behind our own scale in brackets, such as "(0-5)" and "(max 5)"; `at` where nothing like it stands."""
    behind, other = _note(said, at, end) if at < end and said[at].text in ("(", "[") else (at, False)
    words = [token.text.casefold() for token in said[at + 1 : behind - 1]]
    is_scale = all(word in known.OUR_BOUNDS for word in words)
    return behind if is_scale and not other and str(HIGHEST) in words else at


def _skip(said: Sequence[Token], at: int, end: int, what: frozenset[str]) -> int:
    while at < end and said[at].text.casefold() in what:
        at += 1
    return at


def _ends_well(said: Sequence[Token], at: int, end: int, whole_line: bool) -> bool:
    """Whether what follows a score up to `end` names no second number and does not take it back."""
    at = _skip(said, at, end, known.CLOSING)
    if at >= end:
        return True
    following = said[at + 1].text.casefold() if at + 1 < end else ""
    if said[at].kind == "mark":
        fits = said[at].text in ",:-–—([|" or (whole_line and said[at].text in ".!;。")
        is_grade = said[at].text == "-" and said[at].close and not following  # "4-"
        fits = fits and not is_grade and following not in known.DOUBTS and following not in known.NUMBERS
    else:
        word = spelt_out(said[at].text)[0]
        fits = word in known.ABOUT and following not in known.NUMBERS  # "4 to five"
        fits = fits or following == ":" or any(word == one[0] for one in known.CONTRASTS)  # "Score: 4 Reason: ..."
    because = next((i for i in range(at, min(at + 3, end)) if said[i].text.casefold() in known.REASONS), end)
    numbers = [i for i in range(at, because) if said[i].kind == "number"]
    asked = whole_line and any(token.text == "?" for token in said[at:end])
    return fits and not asked and all(_is_another(said, i) for i in numbers)


def _is_another(said: Sequence[Token], at: int) -> bool:
    """Whether a number behind a score is none: "not 5", "confidence: 3"."""
    begin = at - 1 if at and said[at - 1].text.casefold() in ("a", "an", "the") else at
    words = tuple(token.text.casefold() for token in said[max(0, begin - 2) : begin])
    if any(words[-len(contrast) :] == contrast for contrast in known.CONTRASTS):
        return True
    return begin == at and len(words) == 2 and words[1] in (":", "=") and said[at - 2].kind == "word"
