"""The numbers of a report as CSV: each run and task, and each comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from eval.report.cells import over_seeds
from eval.report.comparisons import Test
from eval.report.parts import MEAN, csv_text, safe
from eval.report.results import Cell, Numbers
from eval.statistics.estimates import ACCURACY, Scale

CSV_COLUMNS = [
    "experiment", "adapter", "level", "seed", "visual_tokens", "control", "task", "group", "n", "n_videos",
    "n_failed", "n_unparsed", "accuracy", "ci_low", "ci_high", "chance", "majority", "reference_rule_accuracy",
    "seconds_per_question", "seconds_to_first_token", "flops", "kv_bytes",
]  # fmt: skip
#: Of a comparison; what accuracies alone have, or scores alone, is left out for the other.
PAIRS_COLUMNS = {
    "accuracy": [
        "family", "first", "second", "questions", "accuracy_first", "accuracy_second", "n", "n_videos", "n_differing",
        "only_first", "only_second", "difference", "low", "high", "mcnemar_p", "p", "detectable", "method",
        "difference_readable", "low_readable", "high_readable", "seeds", "family_size", "p_holm",
        "detectable_after_holm", "verdict",
    ],
    "score": [
        "first", "second", "aspect", "n", "n_videos", "n_differing", "score_first", "score_second", "difference",
        "low", "high", "p", "detectable", "method", "seeds", "seeds_compared", "p_holm", "detectable_after_holm",
        "verdict",
    ],
}  # fmt: skip


def stacked(files: Sequence[tuple[str | None, str]]) -> str:
    """One CSV of several with equal columns; where they have names, these are the first column."""
    read = [(name, list(csv.reader(io.StringIO(text)))) for name, text in files]
    first, (columns, *_) = read[0]
    named = [[safe(name), *row] if name else row for name, (_, *rows) in read for row in rows]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["benchmark", *columns] if first else columns, *named])
    return out.getvalue()


def pairs_csv(tests: Sequence[Test], scale: Scale = ACCURACY) -> str:
    columns = PAIRS_COLUMNS[scale.name]
    return csv_text(columns, ([_of_test(test, column) for column in columns] for test in tests))


def _of_test(test: Test, column: str) -> Any:
    name, _, part = column.partition("_")
    if name == test.scale.name:
        return getattr(test.paired, part)
    if column.endswith("_readable"):
        return getattr(test.readable or test.paired, name)
    if column in ("first", "second", "family", "questions", "family_size", "verdict"):
        return getattr(test, column)
    named = {"aspect": test.questions, "p_holm": test.adjusted, "detectable_after_holm": test.detectable}
    if column == "seeds_compared" or (column, test.scale) == ("seeds", ACCURACY):
        return " ".join(map(str, test.seeds))
    return named[column] if column in named else getattr(test.paired, column)


def sweep_csv(runs: Sequence[Cell]) -> str:
    """A row for each run and task, then the means over seeds where there are several."""
    cells = [*runs, *(model for model in over_seeds(runs) if model.runs)]
    return csv_text(CSV_COLUMNS, (row for cell in cells for row in _rows(cell)))


def _rows(cell: Cell) -> Iterator[list[Any]]:
    seed = f"mean of {len(cell.runs)}" if cell.runs else cell.seed
    model = [cell.experiment, cell.adapter, f"{cell.level:g}", seed, cell.visual_tokens, cell.control or "none"]
    for row in cell.rows():
        yield [*model, row.name, row.group, *_numbers(row), cell.flops, cell.kv_bytes]
    yield [*model, MEAN, "", *_numbers(cell.overall), cell.flops, cell.kv_bytes]


def _numbers(found: Numbers) -> list[Any]:
    return [
        found.n, found.n_videos, found.n_failed, found.n_unparsed, *found.estimate, found.chance, found.majority,
        found.reference_rule_accuracy, found.seconds_per_question, found.seconds_to_first_token,
    ]  # fmt: skip
