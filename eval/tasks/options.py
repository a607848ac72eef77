"""From a free reply to an option's letter: a grammar of what is accepted. The ambiguous is refused and counted.

reply     = sentences, of which one or several name one and the same option, and none names another
sentence  = opening option [verdict] [rest]      "The answer is (C), because A is not shown"
          | prose lead option [rest]             "He sits down, so the answer is C"
          | option verdict                       "A is wrong, C is right"
option    = letter [text] | text                 "C", "(C) sat on the bed", "sat on the bed"
verdict   = [is] [not] correct | wrong | ...
rest      = what says nothing of another option, or says it in a reason or of what was not chosen
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from eval.tasks import option_words as known
from eval.tasks.option_symbols import CLOSING, OPENING, Options, Sentence, Symbol
from eval.tasks.replies import plain

#: Marks that may stand before an option that is named, behind one, and between two of a list.
_BEFORE = OPENING | frozenset(":,-–—•·|=>→✓✔✅☑👉➡")
_BEHIND = frozenset(",:-–—|/\\…、✓✔✅☑") | OPENING | CLOSING
_BETWEEN = _BEHIND | frozenset("&~")
_SEPARATORS = frozenset(":-–—=→>】]") | OPENING


def parse_option(reply: str, candidates: Sequence[str]) -> str | None:
    """The letter of the option that `reply` names, or None where it names none or more than one.

    Takes what a careful person would take: `(C)`, `**C**`, `Answer: C`, `C because ...`, `C - text`, an option's text
    alone or in a plain sentence, the same in Chinese. A denied or doubted option, two of them, a letter beside
    another option's text, a refusal and thinking that was cut off are None.
    """
    text = (plain(reply) or "").replace("\\n", "\n").strip()
    if not text or not candidates:
        return None
    options = Options(candidates[: len(string.ascii_uppercase)])
    sentences = options.sentences(text)
    if not sentences or _refuses(sentences):
        return None
    claims = {sentence: _claim(sentence, options) for sentence in set(sentences)}  # a model may repeat itself for long
    found = _together([claims[sentence] for sentence in sentences], options)
    if found is None or _is_the_text_of_another(text, found, candidates):
        return None
    return string.ascii_uppercase[found]


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


class _Group(NamedTuple):
    """Options that a sentence names side by side, and the symbols from `begin` to `end` that do so."""

    begin: int
    end: int
    options: frozenset[int]
    letters: frozenset[int]
    #: Whether an option's text is among them.
    has_text: bool


@dataclass
class _Claim:
    """What one sentence says of the options."""

    #: Named as the answer; those of them that were named by letter.
    chosen: set[int] = field(default_factory=set)
    letters: set[int] = field(default_factory=set)
    #: Told in a sentence of prose: "The person sat on the bed".
    told: set[int] = field(default_factory=set)
    denied: set[int] = field(default_factory=set)
    #: Options whose text stands in it.
    texts: set[int] = field(default_factory=set)
    #: Options that it mentions without saying whether they are the answer.
    mentioned: set[int] = field(default_factory=set)
    #: Whether it says that they are "the answer".
    outright: bool = False
    #: More than one option, a doubt, or a question.
    unclear: bool = False
    #: Nothing follows the letter, so that the next sentence may be its text.
    bare: bool = False
    is_reason: bool = False
    mentions_letters: bool = False

    @property
    def own(self) -> set[int]:
        return self.chosen or self.told


def _together(claims: Sequence[_Claim], options: Options) -> int | None:
    """The one option that all sentences agree on."""
    claims = _without_list(claims, options)
    first = next((i for i, claim in enumerate(claims) if claim.chosen), len(claims) - 1)
    following = claims[first + 1] if first + 1 < len(claims) and claims[first].bare else _Claim()
    own_text = claims[first].chosen <= following.texts and not following.mentions_letters
    if any(claim.unclear for claim in claims if not (claim is following and own_text)):
        return None
    told = {option for claim in claims[: first + 1] for option in claim.told}
    chosen = {option for claim in claims for option in claim.chosen} or told
    if not chosen or not options.same(chosen) or max(chosen) >= len(options):
        return None
    if any(options.same({next(iter(chosen)), option}) for claim in claims for option in claim.denied):
        return None
    for texts in (told, set() if following.is_reason else following.texts):
        if texts and not any(options.same({next(iter(chosen)), option}) for option in texts):
            return None
    return min({option for claim in claims for option in claim.letters} or chosen)


def _without_list(claims: Sequence[_Claim], options: Options) -> Sequence[_Claim]:
    """The claims without a list of all options that precedes "the answer is": such a list chooses none."""
    answers = [claim for claim in claims if claim.outright]
    listed = {option for claim in claims if not claim.outright for option in claim.letters}
    begins = answers and claims.index(answers[0]) >= len(options) > 1
    return claims if not begins or listed != set(range(len(options))) else claims[claims.index(answers[0]) :]


def _claim(sentence: Sentence, options: Options) -> _Claim:
    """What a sentence says of the options, from its first word to its last."""
    symbols, claim = sentence.symbols, _Claim()
    groups = _groups(symbols, options)
    claim.is_reason = symbols[0].text in known.REASONS
    at = _opening(symbols)
    ends = [*(group.begin for group in groups[1:]), len(symbols)]
    for group, end in zip(groups, ends, strict=False):
        before, after = symbols[at : group.begin], symbols[group.end : end]
        verdict, used = _verdict(after)
        if verdict is None and _contradicts(symbols[group.end :], group, options):
            verdict = "contradicted"
        _read(claim, group, before, after, verdict, options)
        if group.has_text and not (claim.denied & group.options):
            claim.texts |= group.options
        at = group.end + used
    claim.mentions_letters = any(group.letters for group in groups)
    claim.bare = bool(claim.letters) and len(groups) == 1 and not groups[0].has_text and groups[0].end == len(symbols)
    asks = len(symbols) > 1 and symbols[0].text in known.IS and symbols[1].text in known.ASKED
    claim.unclear |= (sentence.end == "?" or asks) and bool(claim.own)
    return claim


def _read(
    claim: _Claim,
    group: _Group,
    before: Sequence[Symbol],
    after: Sequence[Symbol],
    verdict: str | None,
    options: Options,
) -> None:
    """Adds to `claim` what the words around a group say of it."""
    said = [symbol.text for symbol in before]
    lead, own = _lead(before), claim.own
    clause = list(takewhile(lambda word: word != ",", reversed(said)))
    reason = bool(own) and bool((known.REASONS if claim.letters else known.CAUSES) & set(said))
    if known.CONDITIONS & set(said):
        claim.mentioned |= group.options
        claim.unclear |= bool(own)
    elif verdict == "wrong" or _is_contrast(said) or lead == "wrong" or (known.NEGATIONS | known.WRONG) & set(clause):
        claim.denied |= group.options
    elif verdict == "perhaps" or known.HEDGES & set(clause):
        claim.unclear = True
    elif verdict == "right" or lead == "right":
        _choose(claim, group, options, outright=lead == "right")
    elif verdict == "contradicted":
        claim.unclear = True
    elif own:
        other = not options.same(own | group.options)
        retold = bool(claim.letters) and not group.letters and own <= claim.texts
        claim.unclear |= other and not reason and not retold
    else:
        _begin(claim, group, before, after, options)


def _begin(claim: _Claim, group: _Group, before: Sequence[Symbol], after: Sequence[Symbol], options: Options) -> None:
    """Adds the first option of a sentence, where nothing but its place says that it is the answer."""
    so = max((i for i, symbol in enumerate(before) if symbol.text in known.CONCLUSIONS), default=-1)
    before = before[so + 1 :]  # "He sits down, so C"
    opening = _all_of(before, known.PRELUDE | known.CORRECTIONS if claim.denied else known.PRELUDE)
    frame = opening or _is_frame(before)
    ends = _may_end(after) if group.letters and not group.has_text else True
    if group.letters and opening and ends:
        _choose(claim, group, options, outright=any(symbol.text in known.CHOICES for symbol in before))
    elif group.letters or not frame or not _may_follow_text(before, after, group, options):
        claim.mentioned |= group.options
        second = ends and _all_of(before, known.AFTERTHOUGHTS | (known.FRAME if group.letters else frozenset()))
        claim.unclear |= second or (len(group.options) > 1 and frame and not options.same(group.options))
    elif opening and not any(symbol.text in known.IS for symbol in before):
        _choose(claim, group, options)
    elif options.same(group.options) and not claim.mentioned:
        claim.told |= group.options
    else:
        claim.unclear = True


def _choose(claim: _Claim, group: _Group, options: Options, outright: bool = False) -> None:
    """Takes a group for the answer; beside others that were mentioned only where it is called that `outright`."""
    if not options.same(group.options) or not options.same(claim.own | group.options):
        claim.unclear = True
    claim.unclear |= bool(claim.mentioned - group.options) and not outright
    claim.outright |= outright
    claim.chosen |= group.options
    claim.letters |= group.letters


def _groups(symbols: Sequence[Symbol], options: Options) -> list[_Group]:
    """The options of a sentence; those that only marks and words such as "or" part are one group."""
    found: list[_Group] = []
    for at, symbol in enumerate(symbols):
        if not symbol.options:
            continue
        letters = symbol.options if symbol.kind == "letter" else frozenset()
        last = found[-1] if found else None
        if last and all(_is_joiner(one) for one in symbols[last.end : at]):
            found[-1] = _Group(
                last.begin,
                at + 1,
                last.options | symbol.options,
                last.letters | letters,
                last.has_text or symbol.kind == "text",
            )
        else:
            found.append(_Group(at, at + 1, symbol.options, letters, symbol.kind == "text"))
    return found


def _is_joiner(symbol: Symbol) -> bool:
    return symbol.text in (_BETWEEN if symbol.kind == "mark" else known.JOINERS)


def _verdict(after: Sequence[Symbol]) -> tuple[str | None, int]:
    """What the words behind an option say of it ("right", "wrong", "perhaps"), and how many symbols that takes."""
    if after and after[0].text == "or":  # something that is no option
        return "perhaps", 1
    marks = len(list(takewhile(lambda symbol: symbol.kind == "mark", after)))
    if after[marks - 1 : marks] and after[marks - 1].text == "," and {s.text for s in after[marks:][:1]} & known.DOUBTS:
        return "perhaps", marks + 1
    start = 0
    while start < len(after) and (
        (after[start].kind == "mark" and start == 0 and after[start].text in _SEPARATORS | CLOSING)
        or after[start].text in ("option", "choice", "answer")
    ):
        start += 1
    said = []
    for symbol in after[start : start + 10]:
        if symbol.kind != "word" or symbol.text in known.REASONS or symbol.text in ("so", "but"):
            break
        said.append(symbol.text)
    if not said or said[0] not in known.IS | known.HEDGES | known.NEGATIONS | known.RIGHT | known.WRONG:
        return None, 0
    judged = _judged(said)
    return judged, start + len(said) if judged else 0


def _judged(said: Sequence[str]) -> str | None:
    found, negated = set(said), bool(known.NEGATIONS & set(said))
    if negated:
        return "wrong" if found & (known.RIGHT | known.IS) and not found & known.WRONG else None
    if found & known.WRONG:
        return "wrong"
    if found & known.HEDGES:
        return "perhaps"
    return "right" if found & known.RIGHT else None


def _lead(before: Sequence[Symbol]) -> str | None:
    """Whether "the answer is" stands there: "right"; "wrong" where it is the wrong one; None where it does not."""
    said = [symbol.text for symbol in before]
    noun = max((i for i, word in enumerate(said) if word in known.NOUNS), default=None)
    if noun is None:
        return None
    between = said[noun + 1 :]
    if between and said[-1] in ("option", "choice") and len(between) > 1:
        between.pop()
    tail = [word for word in between if word not in OPENING]
    named = not between and said[noun] == "answer" or bool(between) and not tail
    if not (named or tail and (tail[-1] in known.IS | {"that"} or tail[-1] in _SEPARATORS or tail[0] in known.IS)):
        return None
    kinds = list(takewhile(lambda word: word in known.PRAISE | known.BLAME, reversed(said[:noun])))
    return "wrong" if known.BLAME & set(kinds) else "right"


def _is_contrast(said: Sequence[str]) -> bool:
    bare = [word for word in said if word not in OPENING]
    return any(tuple(bare[-len(end) :]) == end for end in known.CONTRASTS)


def _opening(symbols: Sequence[Symbol]) -> int:
    """Behind "Based on the video,"; 0 where a sentence does not begin like that."""
    if symbols[0].text in known.OPENERS:
        for at, symbol in enumerate(symbols[:10]):
            if symbol.text == ",":
                return at + 1
            if symbol.options or symbol.text in known.NEGATIONS:
                break
    return 0


def _all_of(before: Sequence[Symbol], vocabulary: Iterable[str]) -> bool:
    return all(symbol.text in (_BEFORE if symbol.kind == "mark" else vocabulary) for symbol in before)


def _is_frame(before: Sequence[Symbol]) -> bool:
    """Whether only the subject and the verb of an option's text stand there: "The person", "The red cube is"."""
    if _all_of(before, known.FRAME):
        return True
    said = [symbol.text for symbol in before]
    while said and said[-1] in ("the", "a", "an", "to"):
        said.pop()
    subject = said[1:-1]
    is_sentence = len(said) > 2 and said[0] in ("the", "this", "that", "a", "an") and said[-1] in known.IS
    other = known.BLAME | known.NEGATIONS | known.HEDGES | known.WRONG | known.CONDITIONS | known.REASONS
    return is_sentence and len(subject) < 5 and all(s.kind == "word" for s in before) and not other & set(subject)


def _may_end(after: Sequence[Symbol]) -> bool:
    """Whether a letter is one there, and not the first word of a sentence."""
    if not after:
        return True
    first = after[0]
    if first.kind == "mark":  # "(A) not the cup" may be said of A, "A, not B" may not
        denied = first.text not in (",", "(") and len(after) > 1 and after[1].text in ("not", "never")
        judged = (
            first.text in CLOSING | {":"} and len(after) > 1 and after[1].text in known.IS
        )  # in a way that is not known
        return first.text in _BEHIND and not denied and not judged
    contrast = any(first.text == end[0] for end in known.CONTRASTS)
    contrast |= first.text == "but" and [s.text for s in after[1:2]] == ["not"]
    return first.kind == "word" and (first.clear or first.text in known.REASONS | known.ASSURANCES or contrast)


def _may_follow_text(before: Sequence[Symbol], after: Sequence[Symbol], group: _Group, options: Options) -> bool:
    """Whether what stands around an option's text leaves it what it is: "moving to the left", "yes, there is"."""
    kinds = {options.keys[option] for option in group.options if option < len(options)}
    is_number = all(len(k) == 1 and k[0].isdigit() for k in kinds)
    if is_number and before and before[-1].text in ("option", "choice", "number", "answer"):
        return False  # the second option, or the option that says 2
    said = [symbol.text for symbol in after]
    if not after or (after[0].kind == "mark" and after[0].text in _BEHIND) or (said[0] != "or" and _is_contrast(said)):
        return True
    if kinds == {("no",)}:  # as an article, it is one only in "there is no such object"
        return (
            said[0] in known.PRONOUNS | known.CAUSES or said[0] == "such" or [s.text for s in before][:1] == ["there"]
        )
    if is_number:
        counted = list(takewhile(lambda symbol: symbol.kind == "word" and symbol.text not in known.PLACES, after))
        return len(counted) < 4 and not known.COMPARISONS & set(said) and (len(counted) == len(after) or bool(counted))
    allowed = known.CAUSES | known.REASONS | known.PLACES | (known.PRONOUNS if kinds == {("yes",)} else set())
    return after[0].kind == "word" and said[0] in allowed


def _contradicts(after: Sequence[Symbol], group: _Group, options: Options) -> bool:
    """Whether "yes" is followed by a short denial, or "no" by a short assent: "Yes, it does not"."""
    kinds = {options.keys[option] for option in group.options if option < len(options)}
    said = [symbol.text for symbol in after if symbol.text != ","]
    if kinds not in ({("yes",)}, {("no",)}) or len(said) < 2 or said[0] not in known.PRONOUNS:
        return False
    return (kinds == {("yes",)}) == (said[2:] == ["not"]) if said[1] in known.AUXILIARIES and len(said) < 4 else False


def _refuses(sentences: Sequence[Sentence]) -> bool:
    said = " | ".join(" ".join(s.text if s.kind == "word" else "|" for s in one.symbols) for one in sentences)
    return any(f" {refusal} " in f" {said} " for refusal in known.REFUSALS)


def _is_the_text_of_another(text: str, found: int, candidates: Sequence[str]) -> bool:
    """Whether the reply is one letter that is another option's text as well."""
    text = text.rstrip(".,:;!?。 ")
    if len(text) > 1 or not text.isascii():
        return False
    return any(i != found and text.casefold() == candidate.strip().casefold() for i, candidate in enumerate(candidates))
