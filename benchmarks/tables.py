"""Tables of the recorded results, and the marked parts of docs/performance.md that hold them. Imports no torch.

Every figure there comes from a file in benchmarks/results, and stands beside the date, the machine and the command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Result = Mapping[str, Any]

#: The reference at the mid size, float32, two threads: seconds, and the rate of float32 products on that machine.
REFERENCE_RATE = 193e9
REFERENCE_SWEEP, REFERENCE_LEVEL_2 = 16.5, 2.6
REFERENCE_STEPS = {2: 14.5, 4: 9.0}
#: Parts of docs/performance.md.
BEGIN, END = "<!-- bench: {} -->", "<!-- bench: end -->"


class Target(NamedTuple):
    """A figure to reach; `measured` is None where nobody measured it."""

    what: str
    goal: float
    measured: float | None
    unit: str
    #: Whether less is better.
    at_most: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        return "yes" if (self.measured <= self.goal if self.at_most else self.measured >= self.goal) else "**no**"


def targets(results: Mapping[str, Result]) -> list[Target]:
    """The figures to reach, each against what was measured."""
    sweep, training, width = (results.get(name) for name in ("sweep", "training", "width"))
    five, four = (1, 2, 4, 8, 16), (2, 4, 8, 16)
    rows = [
        Target("five levels of one question, float32", 3.0, _faster(sweep, "together, 1-16", REFERENCE_SWEEP), "x"),
        Target(
            "the same with bfloat16 encoders",
            5.0,
            _faster(sweep, "together, 1-16, bfloat16 encoders", REFERENCE_SWEEP),
            "x",
        ),
        Target("one question at level 2, float32", 1.7, _faster(sweep, "alone, level 2", REFERENCE_LEVEL_2), "x"),
        Target("levels 1 to 16 together, of what the stages allow", 90, _of_ideal(sweep, "1-16", five), "%"),
        Target("levels 2 to 16 together, of what the stages allow", 90, _of_ideal(sweep, "2-16", four), "%"),
        Target("levels 2 to 16 with a warm store, against level by level", 8.0, _warm(sweep, four), "x"),
        Target("training step at level 4", 1.4, _faster(training, "needed logits, level 4", REFERENCE_STEPS[4]), "x"),
        Target(
            "training step at level 4, store warm",
            5.0,
            _faster(training, "needed logits, store warm, level 4", REFERENCE_STEPS[4]),
            "x",
        ),
        Target("memory saved by needed logits at 151,936 rows", 100, _saved(results.get("vocabulary")), "%"),
    ]
    rows += [
        Target(f"{name} at real width, float32, of the matmul rate", 60, _fraction(width, f"{name}, float32"), "%")
        for name in ("clip", "internvideo2")
    ]
    flat = _growth(results.get("memory"))
    return [*rows, Target("resident memory over 2,000 clips, least to most", 5.0, flat, "%", at_most=True)]


def write(results: Mapping[str, Result], docs: Path) -> None:
    """Rewrites the marked parts of `docs`. ValueError: a part has no marks there."""
    text = docs.read_text()
    for name, part in parts(results).items():
        begin = BEGIN.format(name)
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{docs} has no part {begin} ... {END}")
        text = pattern.sub(lambda _, begin=begin, part=part: f"{begin}\n{part}\n{END}", text)
    docs.write_text(text)


def parts(results: Mapping[str, Result]) -> dict[str, str]:
    """Name of a marked part -> its Markdown."""
    made = {"targets": _targets_table(results)}
    for name, table in TABLES.items():
        result = results.get(name)
        made[name] = f"{_origin(result)}\n\n{table(result)}" if result and "rates" in result else "Not measured."
    return made


def read(folder: Path) -> dict[str, Result]:
    """The recorded results by section."""
    return {name: json.loads(path.read_text()) for name in TABLES if (path := folder / f"{name}.json").exists()}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    rule = "|---|" + "---:|" * (len(columns) - 1)
    lines = ["| " + " | ".join(line) + " |" for line in (columns, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def spread(values: Sequence[float]) -> str:
    """`1.23 (1.20 to 1.30)`: the median, the least and the most, in three digits."""
    places = max(0, 2 - int(f"{median(values):e}".partition("e")[2]))
    return f"{median(values):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"


def _origin(result: Result) -> str:
    """Where the figures come from, in a line."""
    machine, rates = result["machine"], result["rates"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return (
        f"{result['date']}, `{result['command']}`, {machine['processor']}, {machine['threads']} threads{gpu}, torch "
        f"{machine['torch']}; matrix products {_rate(rates['float32'])} in float32, {_rate(rates['bfloat16'])} in "
        f"bfloat16; other work took {result['busy_percent']:.0f} % of the processor before. Median of "
        f"{result['repeats']} (least to most)."
    )


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.0f} TFLOP/s" if flops >= 1e13 else f"{flops / 1e9:,.0f} GFLOP/s"


def _targets_table(results: Mapping[str, Result]) -> str:
    def shown(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.2f} x" if unit == "x" else f"{value:.0f} %"

    rows = [
        (t.what, ("at most " if t.at_most else "") + shown(t.goal, t.unit), shown(t.measured, t.unit), t.verdict)
        for t in targets(results)
    ]
    return markdown(["figure", "target", "measured", "reached"], rows)


def _stage_table(result: Result) -> str:
    """Seconds of each stage and the part of the matmul rate that it reaches."""
    rows = []
    for name, seconds in result["seconds"].items():
        if name.startswith("answer"):  # a prefill and its tokens, which have rows of their own
            continue
        flops, rate = result["flops"].get(name), _rate_of(result, name)
        speed = flops / median(seconds) if flops else None
        counted = (f"{flops / 1e9:,.2f}", _rate(speed), f"{100 * speed / rate:.0f} %") if speed else ("", "", "")
        peak = result.get("peak_bytes", {}).get(name)
        rows.append(
            [name, spread(seconds), *counted, *([_bytes(peak) if peak else ""] if "peak_bytes" in result else [])]
        )
    columns = ["stage", "seconds", "GFLOP", "speed", "of the matmul rate"]
    return markdown([*columns, *(["peak memory"] if "peak_bytes" in result else [])], rows)


def _rate_of(result: Result, stage: str) -> float:
    """The matmul rate of the number format that a stage computes in."""
    return result["rates"]["bfloat16" if "bfloat16" in stage or result["section"] == "gpu" else "float32"]


def _sweep_table(result: Result) -> str:
    seconds = result["seconds"]
    rows = [(name, spread(values), "", "") for name, values in seconds.items() if name.startswith("alone")]
    for label, levels in (("1-16", (1, 2, 4, 8, 16)), ("2-16", (2, 4, 8, 16))):
        apart = _apart(result, levels)
        rows.append((f"level by level, {label}", f"{apart:.2f}", "1.00 x", ""))
        for name, values in seconds.items():
            if name.startswith(f"together, {label}"):
                plain = name == f"together, {label}"
                ideal = f"{_of_ideal(result, label, levels):.0f} %" if plain else ""
                rows.append((name, spread(values), f"{apart / median(values):.2f} x", ideal))
    rows += [(name, spread(values), "", "") for name, values in seconds.items() if name.startswith("stage")]
    return markdown(["one question", "seconds", "against level by level", "of what the stages allow"], rows)


def _choices_table(result: Result) -> str:
    n = result["questions"]
    rows = [
        ("same choice from the text", f"{result['same_choice']} of {n}"),
        ("same most likely option", f"{result['same_likeliest']} of {n}"),
        *((f"right with {dtype} encoders", f"{right} of {n}") for dtype, right in result["right"].items()),
    ]
    return markdown(["encoders in bfloat16 against float32, the trained toy at level 2", "questions"], rows)


def _training_table(result: Result) -> str:
    rows = []
    for name, seconds in result["seconds"].items():
        level = int(name.rpartition(" ")[2])
        faster = f"{_faster(result, name, REFERENCE_STEPS[level]):.2f} x"
        rows.append((name, spread(seconds), faster, _bytes(result["peak_bytes"][name])))
    columns = [f"step of {result['batch']} clips", "seconds", "against the reference, scaled", "peak memory"]
    return markdown(columns, rows)


def _vocabulary_table(result: Result) -> str:
    rows = [(name, " / ".join(map(_bytes, peaks))) for name, peaks in result["peak_bytes"].items()]
    rows.append(("saved", _bytes(_saved_bytes(result))))
    rows.append(("of it the logits that nobody needs, once, in float32", _bytes(result["logits_bytes"])))
    return markdown(
        [f"one clip, {result['positions']:,} positions, {result['supervised']} supervised", "peak memory"], rows
    )


def _memory_table(result: Result) -> str:
    held = result["resident_bytes"]
    rows = [(f"{int(count):,}", _bytes(size)) for count, size in list(held.items())[:: max(1, len(held) // 10)]]
    return markdown(["clips answered", "resident memory, with workers"], rows)


#: Section -> its table.
TABLES: dict[str, Callable[[Result], str]] = {
    "stages": _stage_table,
    "width": _stage_table,
    "sweep": _sweep_table,
    "choices": _choices_table,
    "training": _training_table,
    "vocabulary": _vocabulary_table,
    "memory": _memory_table,
    "gpu": _stage_table,
}


def _faster(result: Result | None, case: str, reference: float) -> float | None:
    """How many times faster than the reference would be on this machine, by its rate of float32 products."""
    if result is None:
        return None
    return reference * REFERENCE_RATE / result["rates"]["float32"] / median(result["seconds"][case])


def _apart(result: Result, levels: Sequence[int]) -> float:
    return sum(median(result["seconds"][f"alone, level {level}"]) for level in levels)


def _of_ideal(result: Result | None, label: str, levels: Sequence[int]) -> float | None:
    """In %: the seconds of the stages that cannot be left out, over those that all levels together took."""
    if result is None:
        return None
    stages = ["prepare", "encode", *(f"answer, level {level}" for level in levels)]
    ideal = sum(median(result["seconds"][f"stage: {stage}"]) for stage in stages)
    return 100 * ideal / median(result["seconds"][f"together, {label}"])


def _warm(result: Result | None, levels: Sequence[int]) -> float | None:
    return result and _apart(result, levels) / median(result["seconds"]["together, 2-16, store warm"])


def _saved(result: Result | None) -> float | None:
    """In % of the bytes of the logits that nobody needs."""
    return result and 100 * _saved_bytes(result) / result["logits_bytes"]


def _saved_bytes(result: Result) -> float:
    peaks = {name: median(values) for name, values in result["peak_bytes"].items()}
    return peaks["all logits"] - peaks["needed logits"]


def _fraction(result: Result | None, stage: str) -> float | None:
    if result is None:
        return None
    return 100 * result["flops"][stage] / median(result["seconds"][stage]) / _rate_of(result, stage)


def _growth(result: Result | None) -> float | None:
    """In %: the most above the least, from the first count on; what is loaded before is not in it."""
    if result is None:
        return None
    held = list(result["resident_bytes"].values())
    return 100 * (max(held) / min(held) - 1)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
