"""Whether memory stays flat over thousands of clips, as a long benchmark asks them: decoded ahead, in workers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import timing
from eval.answers.runs import examples_of
from videogpt_plus import inference
from videogpt_plus.config.experiments import TOY_WEIGHTS
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.io.files import located
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import Question

CLIPS, EVERY = 2000, 100


def toy(root: Path, repeats: int, clips: int = CLIPS, every: int = EVERY) -> dict[str, Any]:
    """Resident memory of the answering process and its workers after every so many clips, asked by the toy at level 2.

    The clips are files of their own with the content of a few.
    """
    ensure_toy_data(root / "toy", Recipe(test_per_task=4, train_per_task=1, images=1, videos=1))
    rendered = [e for e in examples_of(root / "toy" / "bench") if e.path.suffix == ".mp4" and e.start is None]
    (root / "clips").mkdir()
    examples = []
    for number in range(clips):
        example = rendered[number % len(rendered)]
        path = root / "clips" / f"{number:05d}.mp4"
        os.link(example.path, path)
        examples.append(replace(example, path=path, video=path.name))
    answerer = inference.load({"toy": located(f"{TOY_WEIGHTS}/runs/toy_pool2")}, EvalConfig())
    held = {}
    questions = [Question(example, ("toy",)) for example in examples]
    for number, _ in enumerate(answerer.answers(questions, None), start=1):
        if number % every == 0:
            held[number] = timing.resident_bytes()
    return {"resident_bytes": held}
