"""`check`: what of a benchmark is there and can be read, before anything is computed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from videogpt_plus.app.made import prepare_benchmark
from videogpt_plus.app.screen import new_table, progress, show
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from eval.tasks.check import Report
    from eval.tasks.expectation import Expectation

Name = Annotated[str, arg(metavar="EXPERIMENT")]
#: Findings of one task and kind that are printed; --json has all.
SHOWN = 5
HEADINGS = {
    "annotation": "wrong entries",
    "missing": "missing clips",
    "empty": "empty clips",
    "undecodable": "clips that cannot be read",
    "bounds": "bounds that do not fit the clip",
    "duplicate": "questions asked more than once",
}


def check(
    benchmark: Positional[Annotated[str, arg(metavar="BENCHMARK")]],
    root: Path | None = None,
    decode: Literal["sampled", "all", "none"] = "sampled",
    per_task: int = 5,
    experiment: Name | None = None,
    workers: int = 2,
    clip_seconds: float = 60.0,
    decoder: str = "pyav",
    tflops: float | None = None,
    json_output: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what of a benchmark is there, missing or broken, and what asking it will take.

    Changes nothing; the toy's own benchmarks are rendered if they are not there.
    Exit code 1 if a question that is expected could not be asked as it stands.

    Args:
        benchmark: mvbench or another benchmark's name, or a folder or file of rows in MVBench's layout.
        root: The benchmark's folder; its usual one when not given.
        decode: Decode some clips of each task, all of them, or none.
        per_task: How many of a task are decoded when sampled.
        experiment: Estimate disk, memory and hours of this experiment, such as qwen1_5b_pool2.
        workers: Processes that decode, here and in the estimate.
        clip_seconds: Seconds that a clip may take; then it counts as unreadable.
        decoder: Decoder of videos: pyav, decord or torchcodec.
        tflops: What the device computes a second, in 10^12 operations; measured on this machine when not given.
        json_output: Print everything as JSON, and nothing else.
    """
    from contextlib import nullcontext, redirect_stdout

    from eval.tasks.benchmarks import BENCHMARKS
    from eval.tasks.check import check_numbers, examine
    from eval.tasks.expectation import expect
    from eval.tasks.probe import probe_of
    from videogpt_plus.clips.decoders import check_decoder
    from videogpt_plus.config.experiments import get_experiment

    for name, value in (("--workers", workers), ("--clip-seconds", clip_seconds)):
        if not value > 0:
            raise UserError(f"{name} {value:g} is not possible: choose a number above 0")
    check_numbers(decode, per_task, tflops)
    if decode != "none":
        check_decoder(decoder)
    chosen = get_experiment(experiment) if experiment else None
    _check_benchmark(benchmark)
    named = BENCHMARKS[benchmark].root if benchmark in BENCHMARKS else benchmark
    if root or named:
        with redirect_stdout(sys.stderr) if json_output else nullcontext():
            prepare_benchmark(Path(root or named))
    with nullcontext() if json_output else progress(f"check {benchmark}") as advance:
        probe = None if decode == "none" else probe_of(chosen, decoder)
        report = examine(benchmark, root, decode, per_task, probe, workers, clip_seconds, advance)
    expected = expect(report, chosen, workers, tflops)
    if json_output:
        print(json.dumps(report.as_json() | {"expectation": asdict(expected)}, indent=1, ensure_ascii=False))
    else:
        _show(report)
        for line in (*_findings(report), *report.notes, "", *_costs(report, expected, experiment)):
            print(line)
        print(_verdict(report))
    if not report.complete:
        sys.exit(1)


def _check_benchmark(benchmark: str) -> None:
    """UserError: it is the name of an experiment."""
    from eval.tasks.benchmarks import BENCHMARKS
    from videogpt_plus.config.experiments import get_experiment

    if benchmark in BENCHMARKS or Path(benchmark).exists():
        return
    try:
        asked = get_experiment(benchmark).benchmark_root
    except UserError:
        return  # then it is no experiment either, and `examine` names the choices
    raise UserError(f"'{benchmark}' is an experiment, not a benchmark; look at what it asks: check {asked}")


def _show(report: Report) -> None:

    counts = ("missing", "undecodable", "outside", "duplicates")
    made = new_table("task", "present", "missing", "broken", "bounds", "repeats", title=report.root)
    for task in report.tasks:
        made.add_row(task.task, f"{task.present}/{task.expected}", *(str(getattr(task, name)) for name in counts))
    made.add_section()
    total = report.as_json()["total"]
    made.add_row("all", f"{total['present']}/{total['expected']}", *(str(total[name]) for name in counts))
    show(made)


def _findings(report: Report) -> Iterator[str]:
    for task in report.tasks:
        for kind, heading in HEADINGS.items():
            found = [finding for finding in task.findings if finding.kind == kind]
            if found:
                renamed = sum(finding.meant is not None for finding in found)
                yield f"{task.task}, {heading}: {len(found)}" + (f", {renamed} probably renamed" if renamed else "")
                yield from (f"  {finding.what}" for finding in found[:SHOWN])
                if found[SHOWN:]:
                    yield f"  ... and {len(found) - SHOWN} more: --json has all"


def _costs(report: Report, expected: Expectation, experiment: str | None) -> Iterator[str]:
    from videogpt_plus.clips.cache import size_text

    store = f"; a grid store in bfloat16 {size_text(expected.store_bytes)}" if expected.store_bytes else ""
    yield f"disk: clips {size_text(report.clip_bytes)}; answers {size_text(expected.answer_bytes)} a model{store}"
    if expected.weight_bytes:
        yield (
            f"memory: weights {size_text(expected.weight_bytes)} and {size_text(expected.kv_bytes)} of keys and values "
            "a question, in bfloat16; activations come on top"
        )
    if expected.decode_hours is not None:
        yield (
            f"to decode: {_time(expected.decode_hours)} for {report.clips:,} clips with {expected.workers} processes, "
            f"at {report.seconds_per_clip:.3f} s a clip as measured here on {_decoded(report):,} of them"
        )
    if expected.compute_hours is not None:
        yield (
            f"to compute: at least {_time(expected.compute_hours)} for {experiment} with "
            f"{expected.visual_tokens:,} visual tokens: {expected.flops / 1e15:,.3g} PFLOP up to the first token of "
            f"each reply, at {expected.tflops:,.3g} TFLOP/s"
        )
    if experiment and expected.hours is not None:
        yield f"expected: at least {_time(expected.hours)} a model, decoding and computing side by side"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.1f} seconds"


def _decoded(report: Report) -> int:
    return sum(task.decoded for task in report.tasks)


def _verdict(report: Report) -> str:
    expected, askable = (sum(getattr(task, name) for task in report.tasks) for name in ("expected", "askable"))
    looked = f"{_decoded(report):,} of {report.clips:,} clips were decoded"
    if report.complete:
        return f"all {expected:,} questions can be asked, as far as is known: {looked}"
    return f"{askable:,} of {expected:,} questions can be asked: {looked}. `answer` counts the others as failed"
