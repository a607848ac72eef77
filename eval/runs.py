"""Trained runs as folders: ask one, and report all of a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import benchmarks
from eval.answer import Answered, Target, answer_all, read_answers
from eval.benchmarks import copy_of, is_own, kind_of, place_of, root_of
from eval.found import Answers, find, is_copy, scores_of
from eval.judge.levels import Run
from eval.judge.tables import judged_section
from eval.places import WEIGHTS, OtherAnswers, name_of, task_of
from eval.report import Section, Table, write_report
from eval.task import Example
from eval.task import fingerprint as questions_fingerprint
from videogpt_plus import fingerprint
from videogpt_plus.adapters import num_visual_tokens
from videogpt_plus.checkpoint import load_experiment
from videogpt_plus.configs import DEFAULT_ASKING, Asking, Experiment
from videogpt_plus.experiments import base_of, is_random
from videogpt_plus.flops import costs
from videogpt_plus.store import GridStore, open_store
from videogpt_plus.sweep import OWN
from videogpt_plus.training.folder import taught
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch

    from eval.video_llm import VideoLLM


def examples_of(root: str | Path, limit: int | None = None, task: str = "mvbench") -> list[Example]:
    """The questions of a benchmark folder, at most `limit` a task; `task` is the benchmark's name."""
    return benchmarks.examples(task, root, limit)


def load_answerer(
    runs: Mapping[str, Path],
    asking: Asking = DEFAULT_ASKING,
    store: GridStore | None = None,
    tell: Callable[[str], None] | None = None,
    longest: int | None = None,
) -> VideoLLM:
    """The models of run folders by name, on a GPU in bfloat16 where there is one, else on the CPU in float32.

    They share their encoders and their LLM. `store` is the one that `asking` names, where it is open already; `tell`
    is told what weights that were published whole take, before they are loaded, with answers of `longest` tokens, or
    of the experiments' own number.
    UserError: they do not see clips in the same way, or the cards cannot hold them.
    """
    from eval.video_llm import Member, VideoLLM
    from videogpt_plus.models import load_models
    from videogpt_plus.placement import free

    experiments = {name: load_experiment(run) for name, run in runs.items()}
    if longest:
        experiments = {name: replace(e, max_new_tokens=longest) for name, e in experiments.items()}
    device, dtype, encoder_dtype = _arithmetic(asking)
    pairs = [(experiments[name], run) for name, run in runs.items()]
    models = load_models(pairs, device, dtype, encoder_dtype, asking, asking.batch_size, free(), tell)
    members = {name: Member(model, experiments[name]) for name, model in zip(runs, models, strict=True)}
    return VideoLLM(members, asking, store or open_store(asking))


def _arithmetic(asking: Asking) -> tuple[str, torch.dtype, torch.dtype]:
    """Device, dtype of the LLM, dtype of the encoders."""
    import torch

    cuda = torch.cuda.is_available()
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    return device, dtype, dtype if asking.encoder_dtype == "auto" else getattr(torch, asking.encoder_dtype)


def answer_runs(
    runs: Mapping[Path, Path],
    control: str | None = None,
    limit: int | None = None,
    benchmark: Path | None = None,
    retry_errors: bool = False,
    asking: Asking = DEFAULT_ASKING,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    task: str = "mvbench",
) -> dict[Path, Answered]:
    """`answer_all` for the models of run folders, each clip decoded and encoded once for all of them.

    `runs` holds run folder -> its answers.jsonl. The questions are those of the benchmark called `task`, in its usual
    folder (MVBench: the experiments' own, which has to be one) unless `benchmark` names one. `say` is told what the
    grid store will take and what it lost.
    """
    experiments = {run: load_experiment(run) for run in runs}
    roots = {str(root_of(task, e.benchmark_root, benchmark)) for e in experiments.values()}
    if len(roots) > 1:
        raise UserError(f"these runs have {len(roots)} benchmarks: {', '.join(sorted(roots))}; name one by --benchmark")
    is_open = kind_of(task).scored == "judged"
    if is_open and asking.scoring != "generate":
        raise UserError(f"--scoring {asking.scoring} needs options, and the questions of {task} are open; leave it out")
    examples = examples_of(roots.pop(), limit, task)
    for told in (_other_words(run, examples) for run in runs):
        if told and say:
            say(told)
    headers = {run: header_of(run, e, examples, task, benchmark, asking) for run, e in experiments.items()}
    targets = {str(run): Target(path, headers[run]) for run, path in runs.items()}
    store = open_store(asking)

    def load() -> VideoLLM:
        if store and say and control is None:  # a control's clips are not kept
            clips = {(example.path, example.start, example.end) for example in examples}
            dtype = str(_arithmetic(asking)[-1]).removeprefix("torch.")
            say(store.announce(len(clips), next(iter(experiments.values())), dtype))
        return load_answerer({str(run): run for run in runs}, asking, store, say)

    done = answer_all(load, examples, targets, progress, control, retry_errors)
    if store and say and (lost := store.measured()):
        say(lost)
    return {run: done[str(run)] for run in runs}


def header_of(
    run: Path,
    experiment: Experiment,
    examples: Sequence[Example],
    task: str = OWN,
    benchmark: Path | None = None,
    asking: Asking = DEFAULT_ASKING,
) -> dict[str, Any]:
    """What the run's answers to these questions depend on, as their meta file keeps it."""
    weights = [fingerprint.of_path(run / file) for file in WEIGHTS]
    if not experiment.pretrain:  # asked as they were published
        weights.append(fingerprint.of_path(experiment.llm))
    header = {"experiment": experiment.name, "weights": weights, "questions": questions_fingerprint(examples)}
    header |= _benchmark(task, experiment.benchmark_root, benchmark)
    header |= {"store": os.path.realpath(asking.store)} if asking.store else {}
    return {**header, **asking.shapes_answers()}


def _benchmark(task: str, own: str, chosen: Path | None) -> dict[str, str]:
    """What answers keep of the benchmark: its name, and where it lies if that is not the usual place."""
    named = {"benchmark": task} if task != OWN else {}
    copy = copy_of(task, own, chosen)
    if not copy and not is_own(task):
        return named
    return named | ({"copy": copy} if copy else {}) | {"root": str(place_of(root_of(task, own, chosen)))}


def _other_words(run: Path, examples: Sequence[Example]) -> str | None:
    """What is to be said of a run that was taught one question alone and is asked others."""
    learned = taught(run)
    other = next((example.prompt for example in examples if example.prompt != learned), None)
    if learned is None or other is None:
        return None
    return f"{run} was taught to answer {learned!r} and is asked otherwise, such as {other!r}"


def _seen(path: Path, experiment: Experiment) -> tuple[int, int]:
    """Visual tokens and frames of a question in these answers, on average: short clips have fewer than the most.

    Where nothing was answered: the most that the experiment allows.
    """
    lines = read_answers(path, ("visual_tokens",)).values()
    counts = [line["visual_tokens"] for line in lines if line["visual_tokens"] is not None]
    if not counts:
        return num_visual_tokens(experiment, experiment.num_frames), experiment.num_frames
    mean = sum(counts) / len(counts)
    # An adapter may make as many tokens of any number of frames: then it is the most.
    return round(mean), min(
        range(experiment.num_frames, -1, -1), key=lambda frames: abs(num_visual_tokens(experiment, frames) - mean)
    )


def report_sweep(
    root: Path,
    title: str | None = None,
    chosen: Mapping[str, Path] | None = None,
    say: Callable[[str], None] = lambda _: None,
    margin: float | None = None,
) -> Path:
    """Scores every answered run below `root`, writes `root/report` and returns its page.

    `chosen` holds the folders of benchmarks of options that do not lie where they usually do, by name. Answers that
    are not what their folder says, or to a copy of a benchmark that is gone, are left out: a table of the page says
    so, and so is `say` told. `margin` is what fewer visual tokens may cost, in points of accuracy. UserError: answers
    are missing, or there is nothing to report.
    """
    found, chosen = find(root), chosen or {}
    usual = _of_usual(found.answers, chosen)
    cells, judged, notes = [], {}, list(found.notes)
    for one in found.answers:
        tokens, frames = _seen(one.path, one.experiment)
        if one.is_judged:
            judged[one.path] = Run(one.shown, one.experiment.level, one.experiment.finetune.seed, tokens)
            continue
        try:
            scores, told = scores_of(one, chosen if "root" in one.meta else usual)
        except OtherAnswers as error:
            notes.append((str(one.path.parent), f"not reported: {error}"))
            continue
        notes += [(str(one.path.parent), line) for line in told]
        cells.append(_cell(one, tokens, frames, scores))
    for what, why in notes:
        say(f"{what}: {why}")
    if not cells and not judged:
        raise UserError(_nothing(root, notes))
    more = judged_section(judged, chosen)
    return write_report(
        cells,
        root / "report",
        title or f"Pool sweep: {root.name}",
        _stamp(found.answers),
        _with_notes(more, notes),
        name=_called(root),
        margin=None if margin is None else margin / 100,
    )


def _called(root: Path) -> str:
    """What tells the sweep from others: its folder as seen from here, or the whole path of one that lies elsewhere."""
    here, there = Path().resolve(), root.resolve()
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else there.as_posix()


def _of_usual(answers: Sequence[Answers], chosen: Mapping[str, Path]) -> dict[str, Path]:
    """The places that are no copy's which was asked by itself: what answers to the usual benchmark are scored by."""
    copies = [one.meta for one in answers if "copy" in one.meta]
    return {
        name: place
        for name, place in chosen.items()
        if not any(task_of(meta) == name and place.exists() and is_copy(meta, place) for meta in copies)
    }


def _cell(one: Answers, tokens: int, frames: int, scores: Mapping[str, Any]) -> dict[str, Any]:
    experiment = one.experiment
    return {
        "benchmark": name_of(one.meta),
        "experiment": one.shown,
        "adapter": experiment.adapter,
        "level": experiment.level,
        "seed": experiment.finetune.seed,
        "visual_tokens": tokens,
        "num_frames": experiment.num_frames,
        "random": is_random(experiment),
        **costs(experiment, frames),
        "control": one.meta["control"],
        "scores": scores,
    }


def _stamp(answers: Sequence[Answers]) -> str:
    """The day of the newest answers, so that the report of the same answers stays the same, and what trained them."""
    day = datetime.fromtimestamp(max(one.path.stat().st_mtime for one in answers))
    seeds = sorted({one.experiment.finetune.seed for one in answers})
    random = sorted({base_of(one.experiment.name) for one in answers if is_random(one.experiment)})
    stamp = f"answers of {day:%Y-%m-%d}, training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return stamp + (f"; the weights are random and the answers mean nothing: {', '.join(random)}" if random else "")


def _nothing(root: Path, notes: Sequence[tuple[str, str]]) -> str:
    if not notes:
        return f"nothing to report: no answers under {root}; run `videogpt-plus sweep toy` first, or name another"
    what, why = notes[0]
    return f"nothing to report under {root}: {what} is {why}" + (f" ({len(notes) - 1} more)" if notes[1:] else "")


def _with_notes(more: Section, notes: Sequence[tuple[str, str]]) -> Section:
    if not notes:
        return more
    note = "What is not in the tables of this report, or stands there under another name or in part, and why."
    return replace(more, tables=[Table("Told apart", note, ["found", "what of it"], notes), *more.tables])
