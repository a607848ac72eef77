"""The toy's offline judge: which of the facts that are known by construction stand in the answer.

It needs no network and no key, and its scores are comparable with nothing but themselves: it knows no synonym, and an
answer that lists every colour there is finds them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval.judge.endpoint import Judgement
from eval.judge.parser import HIGHEST

#: Its name as a judge's model.
LEXICAL = "lexical"
#: Stands for the prompt's hash: another rule is another judge.
RULE = "facts-1"


def found(fact: str, answer: str) -> bool:
    """Whether the answer holds one of the fact's alternatives (`a|b`) as whole words."""
    words = f" {' '.join(_words(answer))} "
    return any(f" {' '.join(_words(one))} " in words for one in fact.split("|"))


def lexical(facts: Sequence[str], answers: Sequence[str]) -> Judgement:
    """5 if every answer names every fact, 0 if none does, and in between by their share."""
    share = sum(all(found(fact, answer) for answer in answers) for fact in facts) / len(facts)
    return Judgement(round(HIGHEST * share), "yes" if share == 1 else "no", model=LEXICAL)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
