"""Trained runs as folders: ask one, and report all of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eval.answer import Answered, answer_all, read_meta
from eval.mvbench import load_benchmark
from eval.report import write_report
from eval.score import score
from eval.task import Example
from eval.task import fingerprint as questions_fingerprint
from videogpt_plus import fingerprint
from videogpt_plus.adapters import num_visual_tokens
from videogpt_plus.checkpoint import load_experiment
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from eval.video_llm import VideoLLM


def examples_of(root: str | Path, limit: int | None = None) -> list[Example]:
    """The questions of a benchmark folder, at most `limit` a task."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible: ask at least 1 question a task, or leave it out for all")
    return [example for task in load_benchmark(root) for example in list(task.examples())[:limit]]


def load_answerer(run: Path) -> VideoLLM:
    """The run's model on a GPU in bfloat16 where there is one, else on the CPU in float32."""
    import torch

    from eval.video_llm import VideoLLM
    from videogpt_plus.models import load_model

    experiment = load_experiment(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return VideoLLM(load_model(experiment, run, device, dtype), experiment)


def answer_run(
    run: Path,
    path: Path,
    control: str | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Answered:
    """`answer_all` for the model of a run folder, on its experiment's own benchmark unless told."""
    experiment = load_experiment(run)
    examples = examples_of(benchmark or experiment.benchmark_root, limit)
    weights = [fingerprint.of_path(run / f) for f in ("adapter_model.safetensors", "projectors.safetensors")]
    header = {"experiment": experiment.name, "weights": weights, "questions": questions_fingerprint(examples)}
    return answer_all(load_answerer(run), examples, path, header, progress, control, retry_errors)


def report_sweep(root: Path, title: str | None = None) -> Path:
    """Scores every answered run below `root`, writes `root/report` and returns its page."""
    paths = [p for p in sorted(root.glob("*/answers*/answers.jsonl")) if ".old-" not in p.as_posix()]
    if not paths:
        raise UserError(f"nothing to report: no answers under {root}; run `videogpt-plus sweep` first")
    cells = []
    for path in paths:
        experiment = load_experiment(path.parent.parent)
        limit = path.parent.name.partition("_first")[2]
        cells.append(
            {
                "experiment": experiment.name,
                "adapter": experiment.adapter,
                "level": experiment.level,
                "visual_tokens": num_visual_tokens(experiment, experiment.num_frames),
                "control": read_meta(path)["control"],
                "scores": score(path, examples_of(experiment.benchmark_root, int(limit) if limit else None)),
            }
        )
    # The day of the newest answers, so that the report of the same answers stays the same.
    day = datetime.fromtimestamp(max(path.stat().st_mtime for path in paths))
    seed = load_experiment(paths[0].parent.parent).finetune.seed
    stamp = f"answers of {day:%Y-%m-%d}, training seed {seed}"
    return write_report(cells, root / "report", title or f"Pool sweep: {root.name}", stamp)
