"""The words that the option parser knows; every other word is prose to it. Chinese ones stand for English ones."""

from __future__ import annotations

from collections.abc import Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What names an answer, and what may describe it.
NOUNS = _words("answer ans option choice response selection output")
PRAISE = _words("best correct right final most likely likeliest appropriate accurate suitable plausible true")
PRAISE |= _words("closest probable short only better reasonable fitting")
#: An answer of this kind is none.
BLAME = _words("wrong incorrect false least worst other another next previous first second third fourth opposite")
BLAME |= _words("unlikely impossible inaccurate bad alternative possible")
IS = _words("is are was were be being been am would should must will seems seem looks appears becomes remains stays")
#: What may stand between the beginning of a sentence and the option that it names.
PRELUDE = (
    NOUNS
    | PRAISE
    | IS
    | _words(
        "the my i we it its this that think believe guess say choose select pick go with so therefore thus hence "
        "then ok okay sure well yes certainly definitely clearly obviously probably letter to have one"
    )
)
#: What may stand before an option's text beside that: whoever or whatever the question is about, and its verb.
FRAME = PRELUDE | _words(
    "a an these he she they there person man woman boy girl people child kid someone somebody individual "
    "player object thing item shape color colour material direction action video clip scene image number "
    "count total has had shows shown showing depicts like moves moved moving goes went going turns turned "
    "facing happens happened did does do of which what where finally just mostly actually see both in on here "
    "exactly"
)
#: Behind these an answer may begin, whatever was said before: "He sits down, so C".
CONCLUSIONS = _words("so therefore thus hence")
CHOICES = _words("choose select pick")
#: What may stand before the right option where a wrong one was named before it: "not A but C".
CORRECTIONS = _words("but rather instead and then")
#: A letter behind these alone is a second answer: "C. Or A."
AFTERTHOUGHTS = _words("or and also no wait actually alternatively rather maybe perhaps hmm oops but oh yet")
#: Openings that end with a comma: "Based on the video, ...".
OPENERS = _words("based according in from looking given considering after")
NEGATIONS = _words("not no never nor neither without hardly doubt except excluding anything cannot none")
NEGATIONS |= _words("exclude eliminate reject")
WRONG = _words("wrong incorrect false impossible unlikely inaccurate excluded eliminated rejected ruled invalid")
RIGHT = _words("correct right true best closest accurate appropriate answer likely suitable fits matches works")
HEDGES = _words("maybe perhaps possibly may might could can possible plausible also too either similar")
#: A doubt that may stand behind a comma: "C, maybe".
DOUBTS = _words("maybe perhaps possibly")
#: What may follow a letter without a mark: "C definitely", "C option".
ASSURANCES = _words("definitely certainly obviously clearly surely probably likely only option choice")
CONDITIONS = _words("if whether unless suppose supposing")
#: What begins a reason: options that follow are what it is about.
CAUSES = _words("because since as given due for whereas although though reason explanation")
REASONS = CAUSES | _words("while where who after before when")
#: Options behind these are those that were not chosen.
CONTRASTS = (("rather", "than"), ("instead", "of"), ("opposed", "to"), ("than",), ("over",), ("unlike",))
CONTRASTS += (("not",), ("not", "option"), ("nor",), ("neither",), ("not", "the"))
#: Dots behind these end no sentence.
ABBREVIATIONS = _words("vs v mr mrs ms dr e.g i.e eg ie")
#: What joins the options of a list.
JOINERS = _words("or and nor vs versus to through plus also maybe perhaps possibly option choice both either")
#: What may follow an option's text.
PLACES = _words("side in on at from with to by into onto during near of there")
PRONOUNS = _words("it he she they there this that i")
#: Who a question asks about, behind its verb: "Is it C".
ASKED = _words("it he she they this that the there i")
AUXILIARIES = _words("is are was were does do did has have can will")
#: What comparisons of numbers are made of.
COMPARISONS = _words("more less fewer least most than about around almost nearly half as")
#: What may follow the letter A or a small letter; before anything else they are words, such as an article.
AFTER_LETTER = _words("is are was the not rather instead over unlike seems looks would must should could may")
AFTER_LETTER |= _words("because since as due given and or nor vs versus to through but although though whereas")
#: A letter behind any other word is part of a name: "person C".
BEFORE_LETTER = (
    PRELUDE
    | NEGATIONS
    | WRONG
    | HEDGES
    | CONDITIONS
    | REASONS
    | JOINERS
    | _words(
        "than over unlike of but between in now wait instead rather both all are if however alternatively "
        "otherwise else still yet actually even just only"
    )
)
#: A model that says one of these has not answered.
REFUSALS = (
    "i cannot", "i can not", "i could not", "unable to", "i do not know", "do not know", "not sure", "not certain",
    "unsure", "uncertain", "no idea", "cannot be determined", "can not be determined", "cannot tell",
    "can not tell", "not enough", "insufficient", "hard to say", "hard to tell", "none of the above",
    "none of these", "none of them", "none of the options", "none of the given", "all of the above", "above not",
    "above is not", "both of", "sorry", "as an ai", "language model",
)  # fmt: skip
_CHINESE = {
    "答案": "answer", "答": "answer", "选项": "option", "正确": "correct", "最佳": "best", "最好": "best",
    "最合适": "best", "最可能": "most likely", "错误": "wrong", "错": "wrong", "不对": "not correct",
    "对": "correct", "不是": "is not", "不可能": "impossible", "是": "is", "为": "is", "应该": "should",
    "应": "should", "选择": "choose", "选": "choose", "我": "i", "认为": "think", "觉得": "think",
    "因为": "because", "由于": "because", "或者": "or", "或": "or", "还是": "or", "和": "and", "与": "and",
    "及": "and", "以及": "and", "而不是": "rather than", "而非": "rather than", "可能": "perhaps",
    "也许": "perhaps", "或许": "perhaps", "大概": "perhaps", "也": "also", "所以": "so", "因此": "so", "故": "so",
    "则": "so", "综上": "so", "的": "", "了": "", "吧": "", "呢": "", "这": "this", "那": "that", "该": "this",
    "此": "this", "视频": "video", "中": "in", "里": "in", "物体": "object", "物品": "object", "东西": "thing",
    "人": "person", "男人": "man", "女人": "woman", "它": "it", "他": "he", "她": "she", "颜色": "color",
    "形状": "shape", "方向": "direction", "动作": "action", "有": "has", "没有": "not", "没": "not", "不": "not",
    "非": "not", "无法": "cannot tell", "不能": "cannot tell", "不知道": "cannot tell", "不确定": "cannot tell",
    "不清楚": "cannot tell", "以上": "above", "都": "", "皆": "", "而是": "but", "排除": "exclude", "猜": "think",
    "项": "option", "如果": "if", "显示": "shows", "最": "most",
}  # fmt: skip
_LONGEST = max(map(len, _CHINESE))
_NUMBERS = tuple(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
)
_NUMERALS = "零一二三四五六七八九十"


def english(characters: str) -> Iterator[str]:
    """A run of Chinese as English words; a character that is not known stands for itself."""
    at = 0
    while at < len(characters):
        for length in range(min(_LONGEST, len(characters) - at), 0, -1):
            piece = characters[at : at + length]
            if piece in _CHINESE or length == 1:
                yield from _CHINESE.get(piece, piece).split()
                at += length
                break


def key(word: str) -> str:
    """What tells words of options apart: case does not, and numbers are digits."""
    word = word.casefold()
    if word in _NUMBERS:
        return str(_NUMBERS.index(word))
    return str(_NUMERALS.index(word)) if word in _NUMERALS else "2" if word in ("两", "twice") else word
