"""What a model's reply says, apart from how it is dressed: one way to plain text for options, labels and judges."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Longer runs of marks that combine with a letter make NFKC quadratic, and no language writes them.
_COMBINING = re.compile(r"([\u0300-\u036f]{4})[\u0300-\u036f]+")
_THINKING = "think|thinking|thoughts?|reasoning|reason|rationale|explanation|reflection|scratchpad|analysis|seed:think"
#: Tags around thinking: HTML-like, Kimi's, Magistral's, SkyThought's and Command's, and the channels of gpt-oss.
_OPEN = (
    rf"<\s?(?:{_THINKING})\s?>|◁think▷|\[think\]|<\|(?:begin_of_thought|start_thinking)\|>"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>"
)
_CLOSE = (
    rf"<\s?/\s?(?:{_THINKING})\s?>|◁/think▷|\[/think\]|<\|(?:end_of_thought|end_thinking)\|>"
    r"|<\|channel\|>final<\|message\|>"
)
_THOUGHT = re.compile(rf"(?P<open>{_OPEN})|(?:{_CLOSE})", re.I)
#: What ends a turn: what comes behind it is another one. `▁` and `｜` (plain by then) are DeepSeek's.
_END = re.compile(
    r"<\|(?:im_end|im_start|im_sep|endoftext|end_of_text|eot_id|eom_id|end|return|start|user|system|observation"
    r"|end[_▁]of[_▁](?:turn|sentence)(?:_token)?|eos|eos_token|start_header_id)\|>"
    r"|</s>|<(?:eos|end_of_turn|pad|end_of_utterance)>|\[(?:eos|/?inst)\]",
    re.I,
)
#: What may come before the first word of a turn.
_BEGIN = re.compile(
    rf"(?:\s+|{_END.pattern}|<\|[^<>|\n]{{1,40}}\|>|<(?:s|bos|start_of_turn)>|\[bos\]"
    r"|(?:assistant|model)\s{0,3}(?=[\n<])|assistant:)*",
    re.I,
)
_OTHER_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:bos|unk|start_of_turn)>", re.I)
_ANSWER = re.compile(r"</?(?:answer|final[_ ]answer|choice|option|response)>|<br\s?/?>|</(?:score|pred)>", re.I)
_FIELD = re.compile(r"<(score|pred)>", re.I)
_HTML = re.compile(r"</?(?:b|i|u|p|em|strong|span|code|pre|div|li|ul|ol|mark|h[1-6])>")
_LATEX = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?\{([^{}]*)\}")
_FENCE = re.compile(r"(?:```|~~~)(?:(?:json5?|jsonc|python|py|plaintext|text|txt|markdown|md|latex|tex|yaml)\b)?", re.I)
_LINE_START = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]+(?!\d))", re.M)
_EMPHASIS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)|`")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(
    rf"(?P<line>\n)|(?P<number>[0-9]+(?:[.,][0-9]+)*(?:[eE][+-]?[0-9]+)?(?![^\W{_CJK}]))"
    rf"|(?P<cjk>[{_CJK}])|(?P<word>(?:[A-Za-z]\.){{2,}}(?!\w)|[^\W{_CJK}]+(?:'[^\W{_CJK}]+)*)|(?P<mark>[^\s])"
)

_SHORT = {"'s": "is", "'m": "am", "'d": "would", "'ll": "will", "'re": "are", "'ve": "have", "n't": "not"}


class Token(NamedTuple):
    """A word, a number, one Chinese, Japanese or Korean character, a mark, or the end of a line."""

    #: "word", "number", "cjk", "mark" or "line".
    kind: str
    text: str
    #: Whether it touches what stands before it.
    close: bool


def plain(reply: str | None) -> str | None:
    """What `reply` says: NFKC, without thinking, markdown, LaTeX's boxes and the tokens that end a turn.

    None where its thinking was begun and never ended: then nothing was answered yet. Where only the end of thinking
    is there, its beginning stood in the prompt, and what follows it counts.
    """
    text = _spoken(_characters(reply or ""))
    return None if text is None else _undressed(_turn(text)).strip()


def tokens(text: str) -> list[Token]:
    """The tokens of plain text, in order."""
    found, end = [], 0
    for match in _TOKEN.finditer(text):
        found.append(Token(str(match.lastgroup), match[0], match.start() == end and end > 0))
        end = match.end()
    return found


def spelt_out(word: str) -> Sequence[str]:
    """A word in lower case, and a contraction as the words that it is made of."""
    word = word.casefold()
    if word == "cannot":
        return ("can", "not")
    for ending, full in _SHORT.items():
        if word.endswith(ending) and len(word) > len(ending):
            stem = word.removesuffix(ending)
            return ({"ca": "can", "wo": "will"}.get(stem, stem), full)
    return (word,)


def _characters(text: str) -> str:
    """Compatible characters as plain ones; none that nobody sees, and no frame around a digit (keycaps)."""
    text = unicodedata.normalize("NFKC", _COMBINING.sub(r"\1", text))
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2019", "'")
    unseen = ("Cf", "Cc", "Me")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in unseen and c != "\ufe0f")


def _spoken(text: str) -> str | None:
    """`text` without its thinking, or None where that does not end."""
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THOUGHT.finditer(text):
        if not thinking:
            kept.append(text[at : tag.start()])
        if tag["open"] is None and not thinking:
            kept.clear()
        thinking, at = tag["open"] is not None, tag.end()
    return None if thinking else "".join([*kept, text[at:]])


def _turn(text: str) -> str:
    """The first turn in `text`, without the tokens around it."""
    begin = _BEGIN.match(text)
    text = text[begin.end() :] if begin else text
    end = _END.search(text)
    return _OTHER_TOKEN.sub("", text[: end.start()] if end else text)


def _undressed(text: str) -> str:
    """`text` without markdown, HTML and LaTeX. What a tag names a score or a verdict keeps that label."""
    text = _FIELD.sub(r"\n\1: ", _ANSWER.sub("\n", text))
    text = _HTML.sub("", text) if "</" in text else text
    for _ in range(3):  # one in another: \boxed{\text{C}}
        text = _LATEX.sub(r"\1", text)
    text = re.sub(r"\\[()\[\],;! ]|\$", "", text) if "$" in text or "\\(" in text or "\\[" in text else text
    return _EMPHASIS.sub("", _LINE_START.sub("", _FENCE.sub("\n", text)))
