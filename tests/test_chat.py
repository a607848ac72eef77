"""Conversations to ids: markers, supervision, and text that looks like a special token."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from videogpt_plus.text.chat import encode_conversation, encode_prompt
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tiny_experiment):
    return AutoTokenizer.from_pretrained(tiny_experiment.llm)


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def written(tokenizer, ids):
    """The text of ids, each placeholder as `#`."""
    parts, run = [], []
    for token in [*ids, None]:
        if token is None or token == PLACEHOLDER:
            parts.append(tokenizer.decode(run))
            parts.append("#" if token is not None else "")
            run = []
        else:
            run.append(token)
    return "".join(parts)


def supervised(tokenizer, labels):
    return tokenizer.decode([label for label in labels if label != IGNORE])


def test_prompt_is_the_reference_s_without_newlines_between_turns(tokenizer):
    ids, labels = encode_conversation(tokenizer, turns("<video>\nWhat?", "A cup."), [3], "qwen2")
    assert written(tokenizer, ids) == (
        f"{SYSTEM}<|im_start|>user\n###\nWhat?<|im_end|><|im_start|>assistant\nA cup.<|im_end|>"
    )
    assert supervised(tokenizer, labels) == "A cup.<|im_end|>"


def test_every_assistant_turn_is_supervised_with_its_end(tokenizer):
    talk = turns("<image>\nWho?", "A man.", "Where?", "At home.")
    ids, labels = encode_conversation(tokenizer, talk, [1], "qwen2")
    assert supervised(tokenizer, labels) == "A man.<|im_end|>At home.<|im_end|>"
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))


def test_an_empty_answer_teaches_its_end(tokenizer):
    _, labels = encode_conversation(tokenizer, turns("Anything?", ""), [], "qwen2")
    assert supervised(tokenizer, labels) == "<|im_end|>"


def test_markers_move_to_the_front_of_their_turn(tokenizer):
    ids, _ = encode_conversation(tokenizer, turns("What is it?\n<video>", "A cup."), [2], "qwen2")
    assert "user\n##\nWhat is it?<|im_end|>" in written(tokenizer, ids)


def test_each_marker_takes_its_own_count(tokenizer):
    talk = turns("<image><image>\nSame?", "No.", "<video>\nAnd now?", "Yes.")
    ids, _ = encode_conversation(tokenizer, talk, [1, 1, 4], "qwen2")
    text = written(tokenizer, ids)
    assert "user\n##\nSame?" in text and "user\n####\nAnd now?" in text


def test_an_assistant_turn_before_the_first_question_is_dropped(tokenizer):
    talk = [{"from": "gpt", "value": "Hello."}, *turns("Hi?", "Yes.")]
    assert encode_conversation(tokenizer, talk, [], "qwen2") == encode_conversation(tokenizer, talk[1:], [], "qwen2")


@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_special_tokens_in_what_people_write_stay_text(tokenizer, special):
    number = tokenizer.convert_tokens_to_ids(special)
    plain, _ = encode_conversation(tokenizer, turns("Repeat please", "ok"), [], "qwen2")
    ids, labels = encode_conversation(tokenizer, turns(f"Repeat {special} please", f"{special} ok"), [], "qwen2")
    assert ids.count(number) == plain.count(number)
    assert f"Repeat {special} please" in tokenizer.decode(ids)
    assert supervised(tokenizer, labels) == f"{special} ok<|im_end|>"
    # Elsewhere the tokenizer still knows them.
    assert tokenizer(special).input_ids == [number]


def test_a_question_ends_where_the_answer_begins(tokenizer):
    ids, labels = encode_conversation(tokenizer, turns("<video>\nWhat?", "\n A cup."), [3], "qwen2")
    prompt = encode_prompt(tokenizer, "What?", [3], "qwen2")
    assert ids[: len(prompt)] == prompt and labels[: len(prompt)] == [IGNORE] * len(prompt)
    assert labels[len(prompt)] != IGNORE


def test_a_prompt_without_visuals_has_no_placeholder(tokenizer):
    ids = encode_prompt(tokenizer, "What is <image>?", [], "qwen2")
    assert PLACEHOLDER not in ids and "user\nWhat is <image>?<|im_end|>" in tokenizer.decode(ids)


def test_plain_is_visuals_and_caption(tokenizer):
    ids, labels = encode_conversation(tokenizer, turns("Describe.\n<image>", "a red cup"), [1], "plain")
    assert written(tokenizer, ids) == "#a red cup\n"
    assert supervised(tokenizer, labels) == "a red cup\n"
    assert encode_prompt(tokenizer, "Describe.", [2], "plain") == [PLACEHOLDER] * 2


@pytest.mark.parametrize(
    ("talk", "counts", "template", "told"),
    [
        (turns("a", "b"), [], "vicuna", "unknown template 'vicuna'; choose from: qwen2, plain"),
        (turns("<video>a", "b"), [], "qwen2", "more <image> or <video> markers than its 0 visuals"),
        (turns("a", "b"), [4], "qwen2", "1 visuals but markers for 0"),
        (turns("a", "b", "c", "d"), [], "plain", "one human turn and one caption"),
        ([{"from": "bot", "value": "x"}], [], "qwen2", "a turn from 'bot'"),
        ([{"from": "human"}], [], "qwen2", "without a 'value'"),
    ],
)
def test_bad_conversations_are_refused(tokenizer, talk, counts, template, told):
    with pytest.raises(UserError, match=told):
        encode_conversation(tokenizer, talk, counts, template)
