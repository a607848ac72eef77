"""One way from a reply to what it says, whatever it is dressed in."""

from __future__ import annotations

import time

import pytest

from eval.tasks.replies import plain, tokens


@pytest.mark.parametrize(
    "reply",
    [
        "C", " C\n", "Ｃ", "**C**", "*C*", "__C__", "_C_", "`C`", "# C", "### C", "> C", "```\nC\n```",
        "```text\nC\n```",
        "~~~\nC\n~~~", "\\boxed{C}", "\\boxed{\\text{C}}", "$C$", "\\(C\\)", "$\\boxed{\\mathbf{C}}$", "<b>C</b>",
        "<answer>C</answer>", "<answer>\nC\n</answer>", "C<br>", "C\u200b", "\ufeffC", "\u202aC\u202c", "C\x00",
        "C<|im_end|>", "C</s>", "<s>C</s>", "C<eos>", "<bos>C<eos>", "C<|endoftext|>", "C<|eot_id|>", "C<end_of_turn>",
        "C<｜end▁of▁sentence｜>", "<|im_start|>assistant\nC<|im_end|>", "C<|im_end|>\n<|im_start|>user\nNo, A.",
        "<|start_header_id|>assistant<|end_header_id|>\n\nC<|eot_id|>", "<|begin_of_box|>C<|end_of_box|>",
        "<think>A</think>C", "<think>\nA\n</think>\n\nC", "<THINK>A</THINK>C", "<thinking>A</thinking> C", "A</think>C",
        "<think>A<think>B</think>C", "<think>A</think><think>B</think>C", "<think></think>C", "◁think▷A◁/think▷C",
        "[THINK]A[/THINK]C", "<seed:think>A</seed:think>C", "<|begin_of_thought|>A<|end_of_thought|>C",
        "<reasoning>A</reasoning><answer>C</answer>",
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>C<|return|>",
    ],
)  # fmt: skip
def test_what_stands_around_an_answer_is_not_part_of_it(reply):
    assert plain(reply) == "C"


@pytest.mark.parametrize("reply", ["<think>C", "<think>", "C<think>", "C</think>A<think>B", "◁think▷C", "[think] C"])
def test_thinking_without_an_end_is_no_reply(reply):
    assert plain(reply) is None


@pytest.mark.parametrize("reply", [None, "", " \n", "<think>A</think>", "A</think>", "<|im_end|>", "**", "\u200b"])
def test_a_reply_may_say_nothing(reply):
    assert plain(reply) == ""


def test_what_is_said_stays_as_it_is():
    text = "The man's 3.5 red_cubes (5 < 7), {'max_score': 5}: \"yes\" - a/b, 4 > 3; 红色。"
    assert plain(text) == text


def test_tokens_are_words_numbers_characters_and_marks():
    said = tokens("It's 4.5/5, e.g. T1,\n红。 -4")
    assert [token.text for token in said] == [
        "It's",
        "4.5",
        "/",
        "5",
        ",",
        "e.g.",
        "T1",
        ",",
        "\n",
        "红",
        "。",
        "-",
        "4",
    ]
    kinds = [
        "word",
        "number",
        "mark",
        "number",
        "mark",
        "word",
        "word",
        "mark",
        "line",
        "cjk",
        "mark",
        "mark",
        "number",
    ]
    assert [token.kind for token in said] == kinds
    assert [t.text for t in said if t.close][-1] == "4"


@pytest.mark.parametrize(
    "piece",
    ["a\u0316\u0301", "\u0316\u0301", "<think>", "</think>", "\\boxed{", "{\\text{", "<", "< ", "<|", "assistant\n",
     "_",
     "*", "`", "> ", "#", "\\(", "a.", "1.", "'a"],
)  # fmt: skip
def test_a_long_reply_takes_time_by_its_length_alone(piece):
    begun = time.process_time()
    tokens(plain(piece * (100_000 // len(piece))) or "")
    assert time.process_time() - begun < 5
