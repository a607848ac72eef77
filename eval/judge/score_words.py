"""The words that sentences with a score are made of; every other word is prose to the parser."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = tuple(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
NUMERALS = "零一二三四五六七八九十"
LABELS = ("评分", "得分", "分数", "打分")
#: Words before "score" that make it the score that was asked for; "maximum score" is another one.
BEFORE_LABEL = _words(
    "my the a an final overall total your this of with is give given giving assign award get gets deserves be "
    "would and correctness detail details context contextual temporal consistency accuracy answer evaluation "
    "quality similarity so understanding orientation information suggested predicted therefore thus hence i"
)
FILLERS = _words(
    "is was of be would should will must a an the as at equals therefore thus hence clearly i give assign "
    "that given assigned awarded"
)
JUDGED = _words(
    "answer response prediction reply caption output description candidate model one pair this it correctness "
    "detail context consistency accuracy"
)
DETERMINERS = _words("the your that my its their given above")
#: What may stand between "I give" and the number, in addition to what is judged.
BETWEEN = _words("a an as of to with only predicted generated solid full total overall")
SEPARATORS = frozenset(":=-–—→|([{*\"'“”")
CLOSING = frozenset(")]}|\"'“”")
#: What a scale is written with: "from 0 to 10", "/10", "0-5".
BEFORE_BOUNDS = _words("/ , out from between")
BOUNDS = _words("/ , out of from between range max - – to and 0 1 2 3 4 5 6 7 8 9 10")
OUR_BOUNDS = _words("0 5 to - – max maximum from scale out of /")
#: "4 out of a maximum of 5"
BEFORE_HIGHEST = _words("a the possible maximum max total of 为 是 :")
UNITS = _words("point points pt pts star stars mark marks 分 星 ★ ⭐")
#: "I give it a 4", "the answer deserves a 4".
GIVERS, GIVING = _words("i we 我"), _words("give rate score assign award say 给 打")
VERBS = GIVING | _words("deserves gets earns merits receives scores")
#: Words that may follow a score: what comes then says why, or what it is of.
ABOUT = _words("for to on in since because as due given based overall here considering reflecting 因 由")
#: Numbers behind these are not about the score.
REASONS = _words("because since due given 因")
CONTRASTS = (("not",), ("rather", "than"), ("instead", "of"), ("不", "是"))
#: Words behind a comma that put the score in doubt.
DOUBTS = _words("or and to maybe perhaps possibly plus minus")
DENIALS = _words(
    "not no never cannot without neither nor if unless whether suppose maybe perhaps possibly might may could "
    "can unable refuse decline impossible doubt 不 无 没"
)
#: Words that begin a new thought, which an earlier "not" does not reach.
RESTARTS = _words("so therefore thus hence consequently but")
SUBJECTS = _words("the my i we final overall score this")
ENDS = frozenset(".!?;。\n")
#: No label, scale or separator is longer than this many tokens.
REACH = 12
