"""Trained runs as folders: ask one, and report all of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eval.answer import Answered, Target, answer_all, read_meta
from eval.mvbench import load_benchmark
from eval.report import write_report
from eval.score import score
from eval.task import Example
from eval.task import fingerprint as questions_fingerprint
from videogpt_plus import fingerprint
from videogpt_plus.adapters import num_visual_tokens
from videogpt_plus.checkpoint import load_experiment
from videogpt_plus.configs import DEFAULT_ASKING, Asking
from videogpt_plus.flops import costs
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from eval.video_llm import VideoLLM


def examples_of(root: str | Path, limit: int | None = None) -> list[Example]:
    """The questions of a benchmark folder, at most `limit` a task."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible: ask at least 1 question a task, or leave it out for all")
    return [example for task in load_benchmark(root) for example in list(task.examples())[:limit]]


def load_answerer(runs: Mapping[str, Path], asking: Asking = DEFAULT_ASKING) -> VideoLLM:
    """The models of run folders by name, on a GPU in bfloat16 where there is one, else on the CPU in float32.

    They share their encoders and their LLM. UserError: they do not see clips in the same way.
    """
    import torch

    from eval.video_llm import Member, VideoLLM
    from videogpt_plus.models import load_models
    from videogpt_plus.store import GridStore

    experiments = {name: load_experiment(run) for name, run in runs.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    encoder_dtype = dtype if asking.encoder_dtype == "auto" else getattr(torch, asking.encoder_dtype)
    pairs = [(experiments[name], run) for name, run in runs.items()]
    models = load_models(pairs, device, dtype, encoder_dtype)
    store = GridStore(asking.store, asking.store_dtype, asking.store_cap_gib) if asking.store else None
    members = {name: Member(model, experiments[name]) for name, model in zip(runs, models, strict=True)}
    return VideoLLM(members, asking, store)


def answer_runs(
    runs: Mapping[Path, Path],
    control: str | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
    asking: Asking = DEFAULT_ASKING,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Answered]:
    """`answer_all` for the models of run folders, each clip decoded and encoded once for all of them.

    `runs` holds run folder -> its answers.jsonl. The questions are those of the experiments' own benchmark, which
    has to be one, unless `benchmark` names a folder.
    """
    experiments = {run: load_experiment(run) for run in runs}
    roots = {experiment.benchmark_root for experiment in experiments.values()}
    if benchmark is None and len(roots) > 1:
        raise UserError(f"these runs have {len(roots)} benchmarks: {', '.join(sorted(roots))}; name one by --benchmark")
    examples = examples_of(benchmark or roots.pop(), limit)
    questions = questions_fingerprint(examples)
    targets = {}
    for run, path in runs.items():
        weights = [fingerprint.of_path(run / f) for f in ("adapter_model.safetensors", "projectors.safetensors")]
        header = {"experiment": experiments[run].name, "weights": weights, "questions": questions}
        targets[str(run)] = Target(path, {**header, **asking.shapes_answers()})

    def load() -> VideoLLM:
        return load_answerer({str(run): run for run in runs}, asking)

    done = answer_all(load, examples, targets, progress, control, retry_errors)
    return {run: done[str(run)] for run in runs}


def report_sweep(root: Path, title: str | None = None) -> Path:
    """Scores every answered run below `root`, writes `root/report` and returns its page."""
    paths = [p for p in sorted(root.glob("*/answers*/answers.jsonl")) if ".old-" not in p.as_posix()]
    if not paths:
        raise UserError(f"nothing to report: no answers under {root}; run `videogpt-plus sweep` first")
    cells = []
    for path in paths:
        experiment = load_experiment(path.parent.parent)
        limit = path.parent.name.partition("_first")[2]
        control = read_meta(path)["control"]
        frames = 0 if control == "blind" else experiment.num_frames
        cells.append(
            {
                "experiment": experiment.name,
                "adapter": experiment.adapter,
                "level": experiment.level,
                "visual_tokens": num_visual_tokens(experiment, frames),
                **costs(experiment, frames),
                "control": control,
                "scores": score(path, examples_of(experiment.benchmark_root, int(limit) if limit else None)),
            }
        )
    # The day of the newest answers, so that the report of the same answers stays the same.
    day = datetime.fromtimestamp(max(path.stat().st_mtime for path in paths))
    seed = load_experiment(paths[0].parent.parent).finetune.seed
    stamp = f"answers of {day:%Y-%m-%d}, training seed {seed}"
    return write_report(cells, root / "report", title or f"Pool sweep: {root.name}", stamp)
