"""The numbers of a report as CSV: each run and task, and each comparison. No name in it is a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import category, normalize

from eval.report.cells import Cell, over_seeds, runs_of
from eval.report.parts import MEAN, Test

CSV_COLUMNS = [
    "experiment", "adapter", "level", "seed", "visual_tokens", "control", "task", "group", "n", "n_videos",
    "n_failed", "n_unparsed", "accuracy", "ci_low", "ci_high", "chance", "majority", "reference_rule_accuracy",
    "seconds_per_question", "seconds_to_first_token", "flops", "kv_bytes",
]  # fmt: skip

#: A spreadsheet runs a cell that begins so, unless it is a number; some of them leave out what is not seen before it.
RUN = ("=", "+", "-", "@", "\t", "\r", "\n")
#: Signs that are not seen, though Unicode calls them letters or symbols: fillers of Hangul, and an empty Braille cell.
UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


def safe(value: Any) -> Any:
    """The value for a cell: floats with 6 digits; a text that a spreadsheet would run has an apostrophe before it."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str) and not NUMBER.fullmatch(value) and (value[:1] in RUN or _first_seen(value) in RUN):
        return f"'{value}"
    return value


def _first_seen(text: str) -> str:
    """The first sign, in plain form, that is no space, control sign, mark or anything else that is not seen."""
    signs = (sign for sign in text if category(sign)[0] not in "ZCM" and sign not in UNSEEN)
    return normalize("NFKC", next(signs, " "))


def stacked(files: Sequence[tuple[str | None, str]]) -> str:
    """One CSV of several with equal columns; where they have names, these are the first column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, (name, text) in enumerate(files):
        head, *rows = csv.reader(io.StringIO(text))
        if not number:
            writer.writerow(["benchmark", *head] if name else head)
        writer.writerows([safe(name), *row] if name else row for row in rows)
    return out.getvalue()


#: Numbers of a comparison, for both of `pairs.csv` and those of judged scores.
PAIRED_COLUMNS = [
    "n", "n_videos", "n_differing", "only_first", "only_second", "difference", "low", "high", "mcnemar_p", "p",
    "detectable", "method",
]  # fmt: skip


def pairs_csv(tests: Sequence[Test]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "family", "first", "second", "questions", "accuracy_first", "accuracy_second", *PAIRED_COLUMNS,
        "difference_readable", "low_readable", "high_readable", "seeds", "family_size", "p_holm",
        "detectable_after_holm", "verdict",
    ])  # fmt: skip
    for test in tests:
        fair = test.readable or test.paired
        row = [
            test.family, test.first, test.second, test.questions, test.paired.first, test.paired.second,
            *(getattr(test.paired, name) for name in PAIRED_COLUMNS), fair.difference, fair.low, fair.high,
            " ".join(map(str, test.seeds)), test.family_size, test.adjusted, test.detectable, test.verdict,
        ]  # fmt: skip
        writer.writerow(map(safe, row))
    return out.getvalue()


def sweep_csv(runs: Sequence[Cell]) -> str:
    """A row for each run and task, then the means over seeds where there are several."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in [*runs, *(model for model in over_seeds(runs) if "runs" in model)]:
        names = ("experiment", "adapter", "seed", "visual_tokens", "flops", "kv_bytes")
        model = {name: cell.get(name) for name in names}
        model |= {"level": f"{cell['level']:g}", "control": cell["control"] or "none"}
        model |= {"seed": f"mean of {len(runs_of(cell))}"} if "runs" in cell else {}
        for row in _csv_rows(cell):
            writer.writerow({column: safe(value) for column, value in (model | row).items()})
    return out.getvalue()


def _csv_rows(cell: Cell) -> Iterator[Mapping[str, Any]]:
    wanted = CSV_COLUMNS[CSV_COLUMNS.index("group") : CSV_COLUMNS.index("flops")]
    for task, row in cell["scores"]["tasks"].items():
        yield {"task": task} | {name: row[name] for name in wanted}
    total = cell["scores"]["overall"]
    row = total | total["macro"] | {"group": ""}
    yield {"task": MEAN} | {name: row[name] for name in wanted}
