"""A fine-tuning step: seconds and memory, with all logits and with those that are needed, cold and from a store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import mid, timing
from eval.answers.runs import examples_of
from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.loading import load_model
from videogpt_plus.text import chat
from videogpt_plus.training import data
from videogpt_plus.types import IGNORE, Batch, Visual

LEVELS = (2, 4)
BATCH = 4
#: What is compared -> (loss alone, grids from the store).
WAYS = {"all logits": (False, False), "needed logits": (True, False), "needed logits, store warm": (True, True)}


def mid_size(root: Path, repeats: int) -> dict[str, Any]:
    """Seconds of a step of 4 clips with LoRA r 16: encoders, forward, backward, AdamW; reading of the store too.

    Decoding and preprocessing are not in them: data workers do both ahead of the step.
    """
    experiment = mid.write(root, clips=BATCH)
    cases = {
        f"{way}, level {level}": step(at_level(experiment, level), root / f"store {level}", *settings)
        for level in LEVELS
        for way, settings in WAYS.items()
    }
    seconds = timing.interleaved(cases, repeats)
    peaks = {
        f"{way}, level {level}": timing.in_fresh_process(_peak, root, level, BATCH, *settings)
        for level in LEVELS
        for way, settings in WAYS.items()
    }
    return {"seconds": seconds, "peak_bytes": peaks, "batch": BATCH}


def real_vocabulary(root: Path, repeats: int) -> dict[str, Any]:
    """Peak memory of a step of one clip at level 2 under a head of 151,936 rows, with all and with needed logits."""
    experiment = at_level(mid.write(root, replace(mid.MID, vocabulary=mid.REAL_VOCABULARY)), 2)
    example = samples(experiment, Preparation(experiment.branches, experiment.sampling), 1)[0]
    text = len(example["input_ids"]) - example["visuals"][0].placeholders
    positions = num_visual_tokens(experiment, experiment.num_frames) + text
    supervised = sum(label != IGNORE for label in example["labels"])
    ways = {name: settings for name, settings in WAYS.items() if not settings[1]}
    return {
        "positions": positions,
        "supervised": supervised,
        "logits_bytes": (positions - supervised) * mid.REAL_VOCABULARY * 4,
        "peak_bytes": {
            name: [timing.in_fresh_process(_peak, root, 2, 1, *settings) for _ in range(min(repeats, 3))]
            for name, settings in ways.items()
        },
    }


def step(experiment: Experiment, store: Path, loss_only: bool, stored: bool, batch: int = BATCH) -> Callable[[], None]:
    """A training step on `batch` clips of the experiment's benchmark, ready to be called again and again."""
    torch.manual_seed(0)
    model = load_model(experiment, None, "cpu", torch.float32)
    model.add_lora(experiment.lora)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    prepare = Preparation(experiment.branches, experiment.sampling, store=GridCache(store) if stored else None)
    if stored:
        fill(model, prepare, experiment)
    ready = None if stored else samples(experiment, prepare, batch, model)

    def run() -> None:
        chosen = ready or samples(experiment, prepare, batch, model)
        inputs: Batch = data.collate(chosen, model.tokenizer.pad_token_id)
        model(**inputs, loss_only=loss_only).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def fill(model: VisionLM, prepare: Preparation, experiment: Experiment) -> None:
    """Puts the grids of the benchmark's clips into the store."""
    model.store = prepare.store
    model.encode([prepare(example.path) for example in examples_of(experiment.benchmark_root)])


def samples(
    experiment: Experiment, prepare: Preparation, count: int, model: VisionLM | None = None
) -> Sequence[data.Encoded]:
    """The benchmark's questions with their answers, as the fine-tuning reads them."""
    tokenizer = model.tokenizer if model else load_model(experiment, None, "meta", torch.float32).tokenizer
    found = []
    for example in examples_of(experiment.benchmark_root)[:count]:
        visual: Visual = prepare(example.path)
        turns = [
            {"from": "human", "value": f"<video>\n{example.prompt}"},
            {"from": "gpt", "value": f"({example.letter}) {example.answer}"},
        ]
        template = experiment.prompting.template
        ids, labels = chat.encode_conversation(tokenizer, turns, [visual.placeholders], template)
        found.append({"input_ids": ids, "labels": labels, "visuals": [visual]})
    return found


def _peak(root: Path, level: float, batch: int, loss_only: bool, stored: bool) -> int:
    """Peak memory of a process that makes two steps."""
    from videogpt_plus.config.experiment_file import load_experiment

    experiment = load_experiment(mid.run_folder(root, level))
    with tempfile.TemporaryDirectory() as folder:
        run = step(experiment, root / f"store {level}" if stored else Path(folder), loss_only, stored, batch)
        run()
        run()
    return timing.peak_bytes()
