"""The option parser takes what names one option and refuses everything else."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from eval.tasks.options import parse_option, reference_verdict

RECORDED = Path(__file__).parent / "golden" / "check_ans.json"
CUPS = ("the cup.", "the red cube", "a small ball")


@pytest.mark.parametrize(
    "reply",
    [
        "(B)",
        "B",
        "b",
        "B.",
        "B)",
        "B:",
        " (B) \n",
        "(b)",
        "(B) the red cube",
        "(B) the red cube.",
        "(B) The Red Cube",
        "B the red cube",
        "B. the red cube",
        "Answer: (b)",
        "Answer: B",
        "answer:(B) the red cube",
        "Best option: (B)",
        "Best option:(B) the red cube",
        "Option B",
        "The answer is (B)",
        "The answer is B.",
        "The correct answer is option (B).",
        "The best option is (B) the red cube",
        "the red cube",
        "The red cube.",
        "Answer: the red cube",
        "(B) the red",
    ],
)
def test_every_usual_way_to_say_b_is_b(reply):
    assert parse_option(reply, CUPS) == "B"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " ",
        ") ",
        "(",
        "()",
        ".",
        "x ( y",
        "Answer: )",
        "Answer: .",
        "(D)",
        "D",
        "(AB)",
        "Answer: (AB)",
        "(A) (B)",
        "(B) (A)",
        "Option: (A)/(B)",
        "A/B",
        "A or B",
        "A, B",
        "(A) or B",
        "(A) the red cube",
        "(A) not the red cube",
        "the red cube, a small ball",
        "it is not (B)",
        "A cup stands there",
        "cube",
    ],
)
def test_nothing_and_two_options_are_refused(reply):
    assert parse_option(reply, CUPS) is None


def test_an_option_inside_a_longer_one_is_not_a_second_option():
    options = ("left", "right", "left and right")
    assert parse_option("(C) left and right", options) == "C"
    assert parse_option("left and right", options) == "C"
    assert parse_option("(A) left and right", options) is None


def test_a_letter_that_is_also_another_options_text_is_refused():
    assert parse_option("a", ("b", "a")) is None
    assert parse_option("(A) b", ("b", "a")) == "A"
    assert parse_option("A cup", ("cup", "a cup")) is None


def test_an_article_in_the_options_own_text_is_not_option_a():
    assert parse_option("(B) A man opens", ("a dog", "A man opens the door")) == "B"


def test_options_that_read_the_same_are_one_option():
    assert parse_option("the cup", ("the cup.", "the red cube", "the cup. ")) == "A"


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 26])
def test_every_letter_and_text_comes_back_for_every_number_of_options(count):
    options = [f"thing number {i} of them" for i in range(count)]
    for letter, text in zip(string.ascii_uppercase, options, strict=False):
        for reply in (
            f"({letter})",
            letter,
            f"{letter}.",
            f"({letter}) {text}",
            text,
            f"Answer: ({letter.lower()})",
        ):
            assert parse_option(reply, options) == letter


# Recorded from the reference: reply, right answer, its verdict (None: it raised).
REFERENCE_VERDICTS = [
    ("Answer: (A) the cup.", "(A) the cup.", True),
    ("(A) the cup.", "(A) the cup.", False),
    ("(B) a cup", "(A) the cup.", True),
    ("(A)", "(A) the cup.", None),
    ("", "(A) the cup.", None),
    ("Answer: .", "(A) the cup.", True),
    ("Answer: )", "(A) the cup.", True),
    ("Option: (A)/(B)", "(A) the cup.", True),
    ("Answer: (AB)", "(A) the cup.", False),
    ("x ( y", "(A) the cup.", True),
    ("Answer:\n(A) the cup.", "(A) the cup.", False),
    ("Answer: \n(A)", "(A) the cup.", True),
    ("Answer:  (A) the cup", "(B) the red cube", True),
    ("The answer is (A)", "(A) the cup.", False),
    ("Answer: (A) the cup.", "(A) ", None),
    ("Answer: A", "(A)", None),
]


@pytest.mark.parametrize(("reply", "answer", "verdict"), REFERENCE_VERDICTS)
def test_reference_verdict_is_the_recorded_one(reply, answer, verdict):
    assert reference_verdict(reply, answer) is verdict


def test_reference_verdict_on_every_recorded_line():
    for line in json.loads(RECORDED.read_text()):
        assert reference_verdict(line["pred"], line["gt"]) is line["verdict"], line


def test_recorded_replies_are_parsed_to_the_option_they_name_or_refused():
    named = {
        line["raw"]: parse_option(line["raw"], ("the cup.", "the red cube"))
        for line in json.loads(RECORDED.read_text())
    }
    refused = {"(B) (A)", "", " ", "Answer: .", "Answer: )", "Option: (A)/(B)", "Answer: (AB)", "x ( y"}
    assert {reply for reply, choice in named.items() if choice is None} == refused
    assert {reply for reply, choice in named.items() if choice == "B"} == {
        "Option: (B) the red cube",
        "(B) a cup",
    }
