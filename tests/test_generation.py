"""Answers of a batch are those of each question alone, whatever stands beside it, and scores are the model's own.
One by one they are the same, and what is drawn is drawn as often as the model says.
"""

from __future__ import annotations

import random

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.models.generation import Reading, chooser, generate, processed, stream
from videogpt_plus.types import UserError

VOCABULARY, END, STEPS = 60, 7, 6


@pytest.fixture(scope="module")
def llm() -> Qwen2ForCausalLM:
    """Random weights, large enough that the next token depends on what came long before."""
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCABULARY + 4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config).eval()


def readings(seed: int, groups: int = 5) -> list[Reading]:
    """Prefixes of 0 to 30 tokens with one to three questions of 1 to 9 tokens each."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> torch.Tensor:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randn(length, 32, generator=generator)

    return [Reading(tokens(0, 30), [tokens(1, 9) for _ in range(1 + (seed + number) % 3)]) for number in range(groups)]


def ids(answers) -> list[list[list[int]]]:
    return [[answer.ids for answer in group] for group in answers]


def alone(llm, reading: Reading, question: torch.Tensor) -> list[int]:
    """The continuation by whole forward passes, without cache, mask, padding or sharing."""
    embeds, out = torch.cat([reading.prefix, question])[None], []
    while len(out) < STEPS and END not in out:
        token = llm(inputs_embeds=embeds).logits[0, -1, :VOCABULARY].argmax()
        out.append(token.item())
        embeds = torch.cat([embeds, llm.get_input_embeddings()(token)[None, None]], dim=1)
    return out


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_a_batch_answers_as_each_question_alone(llm, seed):
    asked = readings(seed)
    expected = [[alone(llm, reading, question) for question in reading.questions] for reading in asked]
    assert ids(generate(llm, asked, STEPS, END, VOCABULARY)) == expected
    assert len({tuple(a) for group in expected for a in group}) > 3, "answers that differ show a mix-up"


@pytest.mark.parametrize("seed", range(4))
def test_answers_do_not_depend_on_order_or_on_how_questions_are_grouped(llm, seed):
    asked = readings(seed)
    expected = dict(enumerate(ids(generate(llm, asked, STEPS, END, VOCABULARY))))
    order = random.Random(seed).sample(range(len(asked)), len(asked))
    shuffled = ids(generate(llm, [asked[i] for i in order], STEPS, END, VOCABULARY))
    assert {i: group for i, group in zip(order, shuffled, strict=True)} == expected
    split = [Reading(reading.prefix, [question]) for reading in asked for question in reading.questions]
    assert [group[0] for group in ids(generate(llm, split, STEPS, END, VOCABULARY))] == sum(expected.values(), [])


def test_an_answer_ends_with_its_end_token_and_others_go_on(llm):
    asked = readings(1)
    free = ids(generate(llm, asked, STEPS, -1, VOCABULARY))
    assert all(len(answer) == STEPS for group in free for answer in group)
    end = free[0][0][2]
    for group, whole in zip(ids(generate(llm, asked, STEPS, end, VOCABULARY)), free, strict=True):
        for answer, long in zip(group, whole, strict=True):
            assert answer == (long[: long.index(end) + 1] if end in long else long)


#: As tokenizers do it: some letters stand behind a bracket of their own, some are one token with it.
OPTIONS = [(5, 9, 11), (5, 9, 12), (13,), (5, 14)]


@torch.no_grad()
def test_scores_are_the_log_probabilities_of_the_options_tokens(llm):
    asked = readings(2)
    for group, reading in zip(generate(llm, asked, 0, END, VOCABULARY, OPTIONS), asked, strict=True):
        for answer, question in zip(group, reading.questions, strict=True):
            expected = []
            for option in OPTIONS:
                follows = llm.get_input_embeddings()(torch.tensor(option))
                logits = llm(inputs_embeds=torch.cat([reading.prefix, question, follows])[None]).logits[0]
                logprobs = logits[-1 - len(option) : -1, :VOCABULARY].log_softmax(-1)
                expected.append(logprobs[range(len(option)), list(option)].sum())
            assert answer.ids == []
            torch.testing.assert_close(answer.options, torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [[(1,), (2,)], OPTIONS])
def test_scoring_leaves_the_generated_text_alone(llm, options):
    asked = readings(4)
    scored = generate(llm, asked, STEPS, END, VOCABULARY, options)
    assert ids(scored) == ids(generate(llm, asked, STEPS, END, VOCABULARY))


def test_no_id_beyond_the_vocabulary_is_chosen_or_scored(llm):
    answers = generate(llm, readings(5), STEPS, END, 3, [(0,), (1,), (2,)])
    assert max(max(answer.ids) for group in answers for answer in group) < 3
    assert all(abs(answer.options.exp().sum().item() - 1) < 1e-5 for group in answers for answer in group)


# ------------------------------------------------------------------------------------------------ one by one
def one_question(seed: int) -> Reading:
    reading = readings(seed)[1]
    return reading._replace(questions=reading.questions[:1])


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_a_stream_is_the_answer_of_a_batch(llm, seed):
    reading = one_question(seed)
    assert list(stream(llm, reading, STEPS, END, VOCABULARY)) == alone(llm, reading, reading.questions[0])
    ((answer,),) = generate(llm, [reading], STEPS, END, VOCABULARY)
    assert list(stream(llm, reading, STEPS, END, VOCABULARY)) == answer.ids


def test_a_stream_computes_no_more_than_was_taken_from_it(llm):
    read, usual = [], llm.forward
    llm.forward = lambda **call: (read.append(call["inputs_embeds"].shape[1]), usual(**call))[1]
    try:
        ids = stream(llm, one_question(1), STEPS, -1, VOCABULARY)
        assert read == []
        next(ids), next(ids)
        ids.close()
    finally:
        llm.forward = usual
    assert read[2:] == [1], "prefix, question and one token"


def test_a_seed_draws_again_what_it_drew_and_another_draws_other_tokens(llm):
    def drawn(seed: int | None, **how) -> list[int]:
        return list(stream(llm, one_question(2), 12, -1, VOCABULARY, GenerationConfig(1.5, seed=seed, **how)))

    assert drawn(4) == drawn(4)
    assert len({tuple(drawn(seed)) for seed in range(6)}) == 6
    assert len({tuple(drawn(None)) for _ in range(6)}) > 1
    assert all(len(drawn(seed)) == 12 and max(drawn(seed)) < VOCABULARY for seed in range(6))
    greedy = list(stream(llm, one_question(2), 12, -1, VOCABULARY))
    assert drawn(0, top_p=1e-6) == greedy, "the likeliest alone is left"


def test_tokens_are_drawn_as_often_as_their_probability_says():
    generation_config = GenerationConfig(temperature=0.7, top_p=0.8, seed=0)
    logits = torch.tensor([2.0, 1.5, 0.5, -1.0, -3.0])
    expected = (logits / 0.7).softmax(-1)
    kept = expected.cumsum(0) - expected < 0.8  # sorted already; the one that crosses the line stays
    assert kept.tolist() == [True, True, False, False, False]
    expected = expected * kept / (expected * kept).sum()
    assert torch.allclose(processed(logits, [], generation_config).softmax(-1), expected, atol=1e-6)
    choose, count = chooser(generation_config), 4000
    drawn = torch.bincount(torch.tensor([choose(logits) for _ in range(count)]), minlength=5) / count
    assert (drawn - expected).abs().max() < 3 * (0.25 / count) ** 0.5


def test_a_penalty_lowers_what_was_said_whatever_its_sign():
    logits = torch.tensor([2.0, -2.0, 1.0, -1.0])
    lowered = processed(logits, [0, 1, 1], GenerationConfig(repetition_penalty=2.0))
    assert lowered.tolist() == [1.0, -4.0, 1.0, -1.0]
    choose = chooser(GenerationConfig(repetition_penalty=1e6), said=[0])
    assert [choose(torch.tensor([3.0, 2.0, 1.0])) for _ in range(2)] == [1, 2], "what was asked, and what was answered"


def test_an_infinite_logit_on_the_way_stops_with_advice(llm):
    ids = stream(llm, one_question(3), STEPS, -1, VOCABULARY)
    next(ids)
    usual = llm.lm_head.weight.data.clone()
    try:
        llm.lm_head.weight.data[3] = torch.inf
        with pytest.raises(UserError, match="not finite in torch.float32.*bfloat16"):
            next(ids)
    finally:
        llm.lm_head.weight.data.copy_(usual)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": -1.0}, "--temperature -1"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"top_p": 0.0}, "--top-p 0"),
        ({"top_p": 1.5}, "--top-p 1.5"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0"),
        ({"seed": -1}, "--seed -1"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0"),
    ],
)
def test_impossible_choices_are_one_line(wrong, told):
    with pytest.raises(UserError, match=f"{told} is not possible"):
        GenerationConfig(**wrong)
