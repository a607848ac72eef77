"""A reply about options as sentences of symbols: options named by letter, options named by text, words and marks."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from eval.tasks import option_words as known
from eval.tasks.replies import Token, plain, spelt_out, tokens

QUOTES = frozenset("\"'“”„‟«»‹›「」『』´`‘’")
OPENING, CLOSING = frozenset("([{<【〔〈《"), frozenset(")]}>】〕〉》")
ENDS = frozenset(".!?;。\n")
_ARTICLES = frozenset(("the", "an", "to"))
#: "Right" beside one of these is not where something is.
NOT_A_SIDE = frozenset(("answer", "option", "choice", "that's", "you're", "all", "quite"))
#: The key of what ends a sentence.
_STOP = "."


class Symbol(NamedTuple):
    """A piece of a sentence."""

    #: "letter", "text", "word", "number" or "mark".
    kind: str
    #: In lower case.
    text: str
    #: Indices of the options that it names.
    options: frozenset[int] = frozenset()
    #: Of a letter: whether a mark or an end follows it. Of a word: whether it begins with a capital.
    clear: bool = False


class Sentence(NamedTuple):
    symbols: tuple[Symbol, ...]
    #: The mark that ends it; "" for the end of a line or of the reply.
    end: str


class Text(NamedTuple):
    """An option's text in a reply."""

    #: The first token behind it.
    behind: int
    options: frozenset[int]


class Options:
    """The options of one question, ready to be found in replies."""

    def __init__(self, candidates: Sequence[str]) -> None:
        read = [_without_quotes(plain(candidate) or candidate) for candidate in candidates]
        loose, exact = ([_stripped(k for _, k in content(one, drop)) for one in read] for drop in (True, False))
        # "cup" and "a cup" differ by their article alone, and then it counts.
        self.drop_articles = len(set(loose)) == len(set(exact))
        self.keys = loose if self.drop_articles else exact
        self.written = ["".join(token.text for token in one) for one in read]
        self.definite = {
            k for k, one in zip(self.keys, read, strict=True) if len(k) == 1 and one[0].text.lower() == "the"
        }
        self._plain = [" ".join(k) or written for k, written in zip(self.keys, self.written, strict=True)]
        self.by_first: dict[str, list[tuple[str, ...]]] = {}
        for k in sorted(set(self.keys) - {()}, key=lambda k: (-len(k), k)):
            self.by_first.setdefault(k[0], []).append(k)

    def __len__(self) -> int:
        return len(self.keys)

    def same(self, options: Iterable[int]) -> bool:
        """Whether these are one option, or options that read the same."""
        options = frozenset(options)
        return len(options) == 1 or len({self._plain[i] if i < len(self) else i for i in options}) == 1

    def sentences(self, text: str) -> list[Sentence]:
        """What a reply's plain text says, sentence by sentence."""
        found: list[Sentence] = []
        sentence: list[Symbol] = []
        symbols = list(_Reply(_without_quotes(text), self).symbols())
        for symbol, following in zip_longest(symbols, symbols[1:]):
            if symbol.kind != "mark" or symbol.text not in ENDS:
                sentence.append(symbol)
            elif sentence and _goes_on(sentence[-1], symbol, following):
                sentence.append(symbol._replace(text=":"))
            elif sentence:
                found.append(Sentence(tuple(sentence), symbol.text.strip()))
                sentence = []
            elif found and symbol.text == "?":
                found[-1] = found[-1]._replace(end="?")
        return found + [Sentence(tuple(sentence), "")] if sentence else found


class _Reply:
    """One reply's tokens beside the options that they may name."""

    def __init__(self, said: Sequence[Token], options: Options) -> None:
        self.said, self.options = said, options
        self.texts = dict(self._texts())
        self._longest = 3 * max(map(len, options.keys)) + 4
        self.behind_texts = {text.behind for text in self.texts.values()}

    def symbols(self) -> Iterator[Symbol]:
        at, characters = 0, ""
        while at < len(self.said):
            token, text = self.said[at], self.texts.get(at)
            if token.kind == "cjk" and not text:
                characters += token.text
                at += 1
                continue
            yield from (Symbol("word", word) for word in known.english(characters))
            characters = ""
            if text:
                yield Symbol("text", "", text.options)
                at = text.behind
                continue
            found = list(self._symbols(at))
            yield from found
            if found[-1].kind == "text":
                return
            at += 1
        yield from (Symbol("word", word) for word in known.english(characters))

    def _symbols(self, at: int) -> Iterator[Symbol]:
        """What one token is; a letter before a text that was cut off, which ends the reply, with that text."""
        token, letter = self.said[at], self._letter(at)
        if letter:
            yield letter
            if cut_off := self._cut_off(at + 1, letter):
                yield Symbol("text", "", cut_off)
        elif token.kind == "word":
            yield from (Symbol("word", word, clear=token.text[0].isupper()) for word in spelt_out(token.text))
        else:
            yield Symbol("number" if token.kind == "number" else "mark", token.text)

    def _texts(self) -> Iterator[tuple[int, Text]]:
        """First token -> text of each option's text; the longest where several begin."""
        drop = self.options.drop_articles
        words = content(self.said, drop)
        at = 0
        while at < len(words):
            first, word = words[at]
            for k in self.options.by_first.get(word, ()):
                if tuple(x for _, x in words[at : at + len(k)]) == k and self._stands(
                    first, words[at + len(k) - 1][0], k
                ):
                    behind = words[at + len(k) - 1][0] + 1
                    begin = first - 1 if drop and first and is_article(self.said, first - 1) else first
                    yield begin, Text(behind, self._named(begin, behind, k))
                    at += len(k) - 1
                    break
            at += 1

    def _stands(self, first: int, last: int, k: tuple[str, ...]) -> bool:
        """Whether the words there are the option's text, and no part of something else."""
        before, after = _token(self.said, first - 1), _token(self.said, last + 1)
        around = {(before.text if before else "").casefold(), (after.text if after else "").casefold()}
        if (k == ("right",) and around & NOT_A_SIDE) or (k == ("no",) and "doubt" in around):
            return False
        if k in self.options.definite and before and before.text in ("a", "an") and self._has_letter_before(first - 1):
            return False  # "(B) a cup" may be another one than "the cup" of (A)
        if len(k) == 1 and len(k[0]) == 1 and not k[0].isdigit():  # one letter, or one Chinese character
            return self.said[first].text in self.options.written and not (_is_word(before) or _is_word(after))
        return True

    def _named(self, begin: int, behind: int, k: tuple[str, ...]) -> frozenset[int]:
        """Options whose text is `k`; that of a letter, too, where the first word may be one: "A cup"."""
        options = {i for i, one in enumerate(self.options.keys) if one == k}
        token = self.said[begin]
        letter = string.ascii_uppercase.find(token.text.upper()) if len(token.text) == 1 else -1
        if 0 <= letter < len(self.options):
            rest = _stripped(x for _, x in content(self.said[begin + 1 : behind], self.options.drop_articles))
            alone = behind == begin + 1 and not self._has_letter_before(begin)
            if alone or (token.text.isupper() and rest and rest == self.options.keys[letter]):
                options.add(letter)
        return frozenset(options)

    def _has_letter_before(self, at: int) -> bool:
        """Whether a letter and its marks stand before a text, as in "(B) a"."""
        before = [token for token in self.said[max(0, at - 3) : at] if _is_word(token)]
        return len(before) == 1 and len(before[0].text) == 1 and before[0].text.isalpha()

    def _letter(self, at: int) -> Symbol | None:
        """The option that a single letter names; None where it is a word or part of a name."""
        token, before, after = self.said[at], _token(self.said, at - 1), _token(self.said, at + 1)
        index = string.ascii_uppercase.find(token.text.upper()) if len(token.text) == 1 else -1
        if index < 0:
            return None
        written = () if token.text.isupper() else (i for i, x in enumerate(self.options.written) if x == token.text)
        symbol = Symbol("letter", token.text.lower(), frozenset((index, *written)), not _is_word(after))
        if before and before.text in OPENING and after and after.text in CLOSING:
            return symbol
        if not self._may_follow(at) or self._is_hyphenated(at):
            return None
        if not _is_word(after) or (token.text.isupper() and token.text not in "AI"):
            return symbol
        named = after.text.casefold() in known.AFTER_LETTER if after.kind == "word" else token.text.isupper()
        return symbol if named and token.text not in "Ii" else None

    def _may_follow(self, at: int) -> bool:
        """Whether a letter there is no part of a name such as "person C" or 人物C."""
        before = _token(self.said, at - 1)
        if before is None or not _is_word(before) or at in self.behind_texts:
            return True
        if before.kind == "word":
            return len(before.text) == 1 or spelt_out(before.text)[-1] in known.BEFORE_LETTER
        run = at - 1
        while run and self.said[run - 1].kind == "cjk" and at - run < 8:
            run -= 1
        return before.kind == "cjk" and list(known.english("".join(t.text for t in self.said[run:at])))[-1:] != [
            before.text
        ]

    def _is_hyphenated(self, at: int) -> bool:
        """Whether a letter is the first of a word such as "T-shirt" in the midst of a sentence."""
        mark, after = _token(self.said, at + 1), _token(self.said, at + 2)
        joined = bool(mark and after and mark.text == "-" and mark.close and after.close and len(after.text) > 1)
        return joined and _is_word(_token(self.said, at - 1))

    def _cut_off(self, at: int, letter: Symbol) -> frozenset[int]:
        """Options whose text the reply begins from here on, and ends in its midst: the letter's own before others."""
        if len(self.said) - at > self._longest or any(first >= at for first in self.texts):
            return frozenset()
        rest = _stripped(k for _, k in content(self.said[at:], self.options.drop_articles))
        rest = rest[1:] if rest[:1] == (_STOP,) else rest
        begun = {i for i, k in enumerate(self.options.keys) if 0 < len(rest) < len(k) and rest == k[: len(rest)]}
        return frozenset(begun & letter.options or begun)


def _goes_on(last: Symbol, dot: Symbol, following: Symbol | None) -> bool:
    """Whether a dot ends no sentence: "vs.", "A. is wrong", "C. sat on the bed", "a. / c."."""
    if dot.text not in (".", "。") or following is None:
        return False
    if last.kind != "letter":
        return last.text in known.ABBREVIATIONS
    if following.kind == "mark":
        return following.text not in ENDS
    return following.kind == "text" or (following.kind == "word" and not following.clear)


def content(said: Sequence[Token], drop_articles: bool) -> list[tuple[int, str]]:
    """(token, key) of the words that tell options apart, and of the ends between them."""
    found = []
    for at, token in enumerate(said):
        if _is_word(token) and not (drop_articles and is_article(said, at)):
            found.append((at, _signed(said, at)))
        elif token.text in ENDS:
            found.append((at, _STOP))
    return found


def is_article(said: Sequence[Token], at: int) -> bool:
    """Whether a token is an article, or the "to" of "to the left", before a word."""
    word, after = said[at].text.casefold(), _token(said, at + 1)
    if word == "a":
        return after is not None and after.kind == "word" and after.text.casefold() not in known.AFTER_LETTER
    return word in _ARTICLES and _is_word(after)


def _without_quotes(text: str) -> list[Token]:
    return [token for token in tokens(text) if token.text not in QUOTES]


def _stripped(k: Iterable[str]) -> tuple[str, ...]:
    """Keys without the ends behind them."""
    found = list(k)
    while found and found[-1] == _STOP:
        found.pop()
    return tuple(found)


def _signed(said: Sequence[Token], at: int) -> str:
    """A word's key; that of a number holds its sign."""
    sign, before = _token(said, at - 1), _token(said, at - 2)
    signed = said[at].kind == "number" and said[at].close and sign and sign.text in ("-", "−", "+")
    if signed and not (sign.close and _is_word(before)):
        return f"{sign.text}{said[at].text}"
    return known.key(said[at].text)


def _is_word(token: Token | None) -> bool:
    return token is not None and token.kind in ("word", "number", "cjk")


def _token(said: Sequence[Token], at: int) -> Token | None:
    return said[at] if 0 <= at < len(said) else None
