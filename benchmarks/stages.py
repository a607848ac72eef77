"""Where the seconds of one question go: each stage on its own, with the FLOPs that it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import mid, timing
from eval.answers.runs import examples_of
from videogpt_plus.clips import video
from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.encoders import loading
from videogpt_plus.flops import Llm, Tower, sizes_of
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.generation import Reading, generate
from videogpt_plus.models.loading import load_model
from videogpt_plus.text.chat import encode_prompt
from videogpt_plus.types import PLACEHOLDER, Clip

DTYPES = ("float32", "bfloat16")
#: Tokens after the first that are timed; a reply such as `(A) red` has as many.
TOKENS = 8
#: Frames that the encoders at real width see.
FRAMES = 4


def mid_size(root: Path, repeats: int) -> dict[str, Any]:
    """One question at the mid size, stage by stage; the LLM in float32 with LoRA beside it, as it is asked."""
    experiment = mid.write(root)
    example = examples_of(experiment.benchmark_root)[0]
    clip = video.read_clip(example.path, experiment.num_frames)
    cases: dict[str, timing.Case] = {"decode": partial(video.read_clip, example.path, experiment.num_frames)}
    flops: dict[str, int] = {}
    sizes = sizes_of(experiment)
    for name, stream in experiment.branches:
        cases[f"preprocess, {name}"] = partial(loading.preprocessor(stream), clip)
        for dtype in DTYPES:
            stage = f"{stream.encoder}, {dtype}"
            cases[stage] = _encoding(stream, clip, dtype)
            flops[stage] = sizes.towers[name].encode(len(clip.frames))
    for level in mid.LEVELS:
        at = at_level(experiment, level)
        model = load_model(at, mid.run_folder(root, level), "cpu", torch.float32)
        grids = _grids(at, clip)
        cases[f"projectors and pooling, level {level}"] = partial(_tokens, model, grids)
        flops[f"projectors and pooling, level {level}"] = sizes.project(len(clip.frames))
        reading = _reading(model, at, example.prompt, grids, len(clip.frames))
        cases[f"answer, level {level}"] = partial(_answer, model, reading, level)
        flops[f"prefill, level {level}"] = prefill(sizes.llm, reading)
        flops[f"token, level {level}"] = sizes.llm.forward(1, context=len(reading.prefix) + len(reading.questions[0]))
    return {"flops": flops, "seconds": timing.interleaved(cases, repeats)}


def real_width(root: Path, repeats: int) -> dict[str, Any]:
    """Both encoders at their real width with two blocks that run, in float32 and bfloat16."""
    streams = {
        "clip": mid.clip_stream(root / "clip", width=1024, heads=16, mlp=4096, layers=3),
        "internvideo2": mid.internvideo2_stream(root / "internvideo2.safetensors", width=1408, heads=16, blocks=3),
    }
    clip = Clip(torch.randint(0, 256, (FRAMES, 3, 336, 336), dtype=torch.uint8), (0.0,) * FRAMES, "noise")
    blocks, widths = 2, (0,)
    towers = {
        "clip": Tower(blocks, 1024, 4096, 14, 24, 1, widths),
        "internvideo2": Tower(blocks, 1408, 6144, 14, 16, 4, widths),
    }
    cases = {f"{n}, {dtype}": _encoding(stream, clip, dtype) for n, stream in streams.items() for dtype in DTYPES}
    flops = {f"{n}, {dtype}": tower.encode(FRAMES) for n, tower in towers.items() for dtype in DTYPES}
    return {"flops": flops, "seconds": timing.interleaved(cases, repeats)}


def prefill(llm: Llm, reading: Reading) -> int:
    """FLOPs up to the first token: the clip's part, then the question behind it, logits at the last of each."""
    shown, asked = len(reading.prefix), len(reading.questions[0])
    return llm.forward(shown) + llm.forward(asked, context=shown)


def _encoding(stream: Branch, clip: Clip, dtype: str) -> Callable[[], None]:
    encoder = loading.load_encoder(stream, "cpu", getattr(torch, dtype))
    pixels = encoder.preprocess(clip)[None].to(getattr(torch, dtype))

    @torch.inference_mode()
    def run() -> None:
        encoder(pixels)

    return run


def _grids(experiment: Experiment, clip: Clip) -> dict[str, torch.Tensor]:
    """Random grids of the right shapes: stages behind the encoders do the same with any values."""
    return {n: torch.randn(len(clip.frames), s.grid, s.grid, s.width) for n, s in experiment.branches}


@torch.inference_mode()
def _tokens(model: VisionLM, grids: Mapping[str, torch.Tensor]) -> None:
    model.visual_tokens(grids)


@torch.inference_mode()
def _reading(model: VisionLM, experiment: Experiment, question: str, grids: Any, frames: int) -> Reading:
    ids = encode_prompt(model.tokenizer, question, [frames], experiment.prompting.template)
    first, embed = ids.index(PLACEHOLDER), model.llm.get_input_embeddings()
    prefix = torch.cat([embed(torch.tensor(ids[:first])), model.visual_tokens(grids)])
    return Reading(prefix, [embed(torch.tensor(ids[first + frames :]))])


def _answer(model: VisionLM, reading: Reading, level: float) -> dict[str, float]:
    """Seconds to the first token, and of each further one."""
    import time

    began = time.perf_counter()
    ((answer,),) = generate(model.causal, [reading], 1 + TOKENS, end=-1, vocabulary=len(model.tokenizer))
    rest = time.perf_counter() - began - answer.seconds_first
    return {f"prefill, level {level}": answer.seconds_first, f"token, level {level}": rest / TOKENS}
