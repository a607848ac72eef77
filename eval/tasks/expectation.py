"""What asking a benchmark will take: disk, memory and hours, from what `check.examine` found."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.tasks.check import check_numbers

if TYPE_CHECKING:
    from eval.tasks.check import Report
    from videogpt_plus.config.experiment import Experiment

#: Bytes of a line of answers.jsonl, rounded up from the toy's, whose questions and options are shorter than MVBench's.
ANSWER_BYTES = 700


@dataclass(frozen=True)
class Expectation:
    """What asking one model every question once will take, and what each figure is made of."""

    #: Bytes of answers.jsonl; of the grid store in bfloat16, if one is used.
    answer_bytes: int
    store_bytes: int | None
    #: Bytes of the weights, and of one question's keys and values, in bfloat16. Activations come on top.
    weight_bytes: int | None
    kv_bytes: int | None
    #: Decoding and preparing all clips in so many processes, at the rate of the clips that were decoded.
    workers: int
    decode_hours: float | None
    #: All arithmetic up to the first token of each reply, at `tflops`: hours at least.
    flops: int | None
    tflops: float | None
    compute_hours: float | None
    visual_tokens: int | None

    @property
    def hours(self) -> float | None:
        """The longer of decoding and computing, which run side by side; None where neither is known."""
        known = [hours for hours in (self.decode_hours, self.compute_hours) if hours is not None]
        return max(known) if known else None


def expect(
    report: Report, experiment: Experiment | None = None, workers: int = 2, tflops: float | None = None
) -> Expectation:
    """What asking all that is there will take: an Expectation, where None stands for what is not known.

    `tflops` is what the device computes in a second, in 10^12 operations; without it the best rate of a large matrix
    product on this machine is measured. Both are more than a model reaches: the hours of computing are the least.
    """
    check_numbers(tflops=tflops)
    questions = sum(task.questions for task in report.tasks)
    decoding = None if report.seconds_per_clip is None else report.seconds_per_clip * report.clips
    common = {
        "answer_bytes": ANSWER_BYTES * questions,
        "workers": workers,
        "decode_hours": None if decoding is None else decoding / max(1, workers) / 3600,
    }
    unknown = dict.fromkeys(
        ("store_bytes", "weight_bytes", "kv_bytes", "flops", "tflops", "compute_hours", "visual_tokens")
    )
    if experiment is None:
        return Expectation(**common, **unknown)
    from videogpt_plus.clips.cache import clip_bytes
    from videogpt_plus.config.tokens import num_visual_tokens
    from videogpt_plus.flops import TEXT_TOKENS, sizes_of

    frames = experiment.num_frames
    visual = num_visual_tokens(experiment, frames)
    known = unknown | {"visual_tokens": visual, "store_bytes": report.clips * clip_bytes(experiment, "bfloat16")}
    if sizes := sizes_of(experiment):
        each_clip = sizes.encode(frames) + sizes.project(frames)
        flops = report.clips * each_clip + questions * sizes.llm.forward(visual + TEXT_TOKENS)
        rate = tflops or matmul_tflops()
        known |= {
            "weight_bytes": 2 * sizes.parameters,
            "kv_bytes": sizes.llm.key_value_bytes(visual + TEXT_TOKENS),
            "flops": flops,
            "tflops": rate,
            "compute_hours": flops / (rate * 1e12) / 3600,
        }
    return Expectation(**common, **known)


def matmul_tflops(seconds: float = 0.3) -> float:
    """10^12 operations a second of a large matrix product here: bfloat16 on a GPU, else float32 on the CPU."""
    import torch

    on_gpu = torch.cuda.is_available()
    side = 8192 if on_gpu else 1024
    a = torch.randn(side, side, device="cuda" if on_gpu else "cpu", dtype=torch.bfloat16 if on_gpu else torch.float32)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best / 1e12
