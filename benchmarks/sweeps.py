"""A question at every pool level: level by level, all levels together, and with the encoders' grids stored."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import mid, timing
from eval.answers.runs import examples_of
from eval.tasks.options import parse_option
from eval.tasks.task import Example
from videogpt_plus import inference
from videogpt_plus.config.experiments import TOY_WEIGHTS
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.inference import VideoLLM
from videogpt_plus.io.files import located
from videogpt_plus.text import chat
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import ClipError, Question, Reply

#: The levels that are asked together, by their name in the results.
SETS = {"1-16": (1, 2, 4, 8, 16), "2-16": (2, 4, 8, 16)}
#: Questions of each toy task, on which choices are compared.
QUESTIONS = 10
#: Decoding in the process itself: each stage stands in the time of the one question that is asked.
FLOAT32, BFLOAT16 = EvalConfig(workers=0), EvalConfig(workers=0, encoder_dtype="bfloat16")


def mid_size(root: Path, repeats: int) -> dict[str, Any]:
    """Seconds of one question at the mid size: alone at each level, and at several levels together.

    Loading is not in them, decoding is. The stages of which a sweep consists are timed in the same rounds.
    """
    experiment = mid.write(root)
    (example,) = examples_of(experiment.benchmark_root)
    cases: dict[str, timing.Case] = {}
    for level in mid.LEVELS:
        cases[f"alone, level {level}"] = partial(ask, _answerer(root, (level,)), [example])
    for name, levels in SETS.items():
        cases[f"together, {name}"] = partial(ask, _answerer(root, levels), [example])
        cases[f"together, {name}, bfloat16 encoders"] = partial(ask, _answerer(root, levels, BFLOAT16), [example])
        warm, cold = root / f"warm {name}", root / f"cold {name}"
        stored = _answerer(root, levels, EvalConfig(workers=0, store=warm))
        ask(stored, [example])
        cases[f"together, {name}, store warm"] = partial(ask, stored, [example])
        emptied = _answerer(root, levels, EvalConfig(workers=0, store=cold))
        cases[f"together, {name}, store cold"] = partial(_ask_anew, emptied, cold, [example])
    cases |= _stages(_answerer(root, mid.LEVELS), example)
    return {"seconds": timing.interleaved(cases, repeats)}


def choices(root: Path, repeats: int) -> dict[str, Any]:
    """What the trained toy chooses with encoders in float32 and in bfloat16, on the toy's benchmark."""
    ensure_toy_data(root / "toy", Recipe(test_per_task=QUESTIONS, train_per_task=1, images=1, videos=1))
    examples = examples_of(root / "toy" / "bench")
    runs = {"toy": located(f"{TOY_WEIGHTS}/runs/toy_pool2")}
    replies = {}
    for dtype in ("float32", "bfloat16"):
        answerer = inference.load(runs, EvalConfig(scoring="both", workers=0, encoder_dtype=dtype))
        replies[dtype] = {example.key: reply for example, reply in ask(answerer, examples)}
    pairs = [(e, replies["float32"][e.key], replies["bfloat16"][e.key]) for e in examples]
    return {
        "questions": len(pairs),
        "same_choice": sum(_choice(e, one) == _choice(e, other) for e, one, other in pairs),
        "same_likeliest": sum(_likeliest(one) == _likeliest(other) for _, one, other in pairs),
        "right": {d: sum(e.is_right(_choice(e, replies[d][e.key])) for e in examples) for d in replies},
    }


def ask(answerer: VideoLLM, examples: Sequence[Example]) -> list[tuple[Example, Reply]]:
    """Every question to every model of the answerer; the first model's replies."""
    names, found = tuple(answerer.members), []
    for question, outcome in answerer.answers([Question(example, names) for example in examples], None):
        if isinstance(outcome, ClipError):
            raise outcome
        found.append((question.example, outcome[names[0]]))
    return found


def _ask_anew(answerer: VideoLLM, store: Path, examples: Sequence[Example]) -> None:
    shutil.rmtree(store, ignore_errors=True)
    ask(answerer, examples)


def _answerer(root: Path, levels: Sequence[float], eval_config: EvalConfig = FLOAT32) -> VideoLLM:
    return inference.load({f"{level:g}": mid.run_folder(root, level) for level in levels}, eval_config)


def _stages(answerer: VideoLLM, example: Example) -> dict[str, timing.Case]:
    """What a sweep cannot do without: the clip once, then each level's part behind the encoders."""
    visual = answerer.prepare(example.path)
    cases: dict[str, timing.Case] = {
        "stage: prepare": partial(answerer.prepare, example.path),
        "stage: encode": partial(answerer.encode, [visual]),
    }
    (grids,) = answerer.encode([visual])
    for level, (model, experiment) in answerer.members.items():
        counts = [visual.placeholders]
        ids = chat.encode_prompt(model.tokenizer, example.prompt, counts, experiment.prompting.template)
        asked = [([ids], [(grids, visual.placeholders)])]
        cases[f"stage: answer, level {level}"] = partial(model.answer, asked, experiment.max_new_tokens)
    return cases


def _choice(example: Example, reply: Reply) -> str | None:
    return parse_option(reply.text, example.candidates)


def _likeliest(reply: Reply) -> int:
    return int(torch.tensor(reply.option_logprobs).argmax())
