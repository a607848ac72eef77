"""The 1.5B size with random weights on a GPU, in bfloat16: encoding, prefill, tokens and training steps by level."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import mid, timing
from benchmarks.stages import TOKENS, prefill
from scripts.random_full_size import SIZES, Meter, build, load, moved
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import TEXT_TOKENS, sizes_of
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.generation import Reading, generate
from videogpt_plus.reducers import build_reducer
from videogpt_plus.types import IGNORE, PLACEHOLDER, Visual

#: Clips a training step, as in the reference's recipe.
BATCH = 4
#: Supervised tokens of a sample: an answer such as `(A) red` and its end.
SUPERVISED = 8


def real_size(root: Path, repeats: int) -> dict[str, Any]:
    """See `measure`; {} on a machine without a GPU."""
    if not torch.cuda.is_available():
        return {}
    torch.manual_seed(0)
    size = SIZES["1.5b"]
    build(size, root, torch.bfloat16, Meter())
    model, _ = load(size, root, 1, torch.bfloat16)
    return measure(model, moved(size.experiment, root), "cuda", mid.LEVELS, repeats)


def measure(
    model: VisionLM, experiment: Experiment, device: str, levels: Sequence[float], repeats: int
) -> dict[str, Any]:
    """Seconds, FLOPs and peak bytes of the stages of a question and of a training step of 4 clips, by level.

    Clips are noise on the device: decoding is not in them. Training: LoRA, recomputed layers, needed logits, AdamW.
    """
    sizes, frames = sizes_of(experiment), experiment.num_frames
    model.to(device).eval()
    visual = _noise(model, frames, device)
    cases: dict[str, timing.Case] = {}
    flops, peaks = {}, {}
    for clips in (1, BATCH):
        cases[f"encode, clips: {clips}"] = partial(model.encode, [visual] * clips)
        flops[f"encode, clips: {clips}"] = clips * sizes.encode(frames)
    (grids,) = model.encode([visual])
    for level in levels:
        reading = _reading(model, experiment, level, grids)
        cases[f"answer, level {level}"] = partial(_answer, model, reading, level)
        flops[f"prefill, level {level}"] = prefill(sizes.llm, reading)
        context = len(reading.prefix) + len(reading.questions[0])
        flops[f"token, level {level}"] = sizes.llm.forward(1, context=context)
        _forget_peak(device)
        _answer(model, reading, level)
        peaks[f"prefill, level {level}"] = _peak(device)
    seconds = timing.interleaved(cases, repeats)
    model.add_lora(experiment.lora)
    model.llm.activation_checkpointing_enable()
    model.to(device).train()
    for level in levels:  # one after the other: peaks would mix
        name = f"training step, level {level}"
        _set_level(model, experiment, level)
        new = num_visual_tokens(at_level(experiment, level), frames) + TEXT_TOKENS
        flops[name] = BATCH * sizes.train(frames, new, SUPERVISED, experiment.lora.r, checkpointing=True)
        _forget_peak(device)
        seconds |= timing.interleaved({name: _step(model, visual, device)}, repeats)
        peaks[name] = _peak(device)
    return {"seconds": seconds, "flops": flops, "peak_bytes": peaks}


def _noise(model: VisionLM, frames: int, device: str) -> Visual:
    sides = {name: encoder.pixels for name, encoder in model.encoders.items()}
    return Visual({name: torch.randn(frames, 3, side, side, device=device) for name, side in sides.items()}, frames)


def _set_level(model: VisionLM, experiment: Experiment, level: float) -> None:
    for name in model.reducers:
        model.reducers[name] = build_reducer(replace(experiment.reducer, level=level))


@torch.inference_mode()
def _reading(model: VisionLM, experiment: Experiment, level: float, grids: dict[str, torch.Tensor]) -> Reading:
    """The clip's part and a question of TEXT_TOKENS tokens; any will do."""
    _set_level(model, experiment, level)
    text = model.llm.get_input_embeddings()(torch.zeros(TEXT_TOKENS, dtype=torch.long, device=model.device))
    return Reading(model.visual_tokens(grids).to(text.dtype), [text])


def _answer(model: VisionLM, reading: Reading, level: float) -> dict[str, float]:
    """Seconds to the first token, and of each further one."""
    began = time.perf_counter()
    ((answer,),) = generate(model.causal, [reading], 1 + TOKENS, end=-1, vocabulary=len(model.tokenizer))
    rest = time.perf_counter() - began - answer.seconds_first
    return {f"prefill, level {level}": answer.seconds_first, f"token, level {level}": rest / TOKENS}


def _step(model: VisionLM, visual: Visual, device: str) -> timing.Case:
    ids = torch.tensor([[PLACEHOLDER] * visual.placeholders + [0] * TEXT_TOKENS] * BATCH)
    labels = torch.full_like(ids, IGNORE)
    labels[:, -SUPERVISED:] = 0
    mask = torch.ones_like(ids, dtype=torch.bool)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def run() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = model(ids, mask, labels, [[visual]] * BATCH, loss_only=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else timing.peak_bytes()
