"""What a report says of the tests between models, and of what they could have found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from statistics import median

from eval.report.cells import (
    Cell,
    are_grouped,
    clips_of,
    correct,
    curves,
    groups,
    n_clips,
    pairs,
    rows_of,
    runs_of,
)
from eval.report.compare import NONE_SHOWN, TOO_FEW
from eval.report.parts import DETECTABLE, MEAN, Table, Test
from eval.statistics.estimates import LEVEL
from eval.statistics.paired import Paired
from eval.statistics.power import margin, resolvable

#: Shares of discordant pairs (right with one level, wrong with the other), as they are seen in practice.
DISCORDANCES = (0.08, 0.15, 0.20)
#: What stands where no difference that the discordant pairs could make would be found.
NOTHING_FOUND = "none (too few discordant pairs)"
TEST_COLUMNS = [
    "comparison", "questions", "n", "clips", "seeds", "only first right", "only second right", "difference", "p",
    "p adjusted", DETECTABLE, "shown",
]  # fmt: skip
#: The column that is added where some clips could not be read.
READABLE = "difference where both read the clip"


def paired_tables(tests: Sequence[Test], said: str) -> list[Table]:
    """All pairs by the mean of tasks and by each group; of the pairs by task, those that show a difference."""
    whole, by_task = ([t for t in tests if t.family == family] for family in ("questions", "tasks"))
    shown = [t for t in by_task if t.verdict not in (NONE_SHOWN, TOO_FEW)]
    only = f"{len(shown)} of {len(by_task)} comparisons of two models on one task show a difference"
    found = []
    if whole:
        found.append(_table("Paired tests", _how(whole, said), whole, in_latex=True))
    if by_task:
        note = f"{only}; the others are listed in `pairs.csv`. {_how(by_task, said)}"
        found.append(_table("Paired tests by task", note, shown))
    return found


def unpaired_said(models: Sequence[Cell]) -> str:
    """Which levels were not compared because they have no seed in common; "" where all were."""
    lost = [label for label, one, other in pairs(models) if not _seeds(one) & _seeds(other)]
    return f" Not compared, without a seed in common: {'; '.join(lost)}." if lost else ""


def _seeds(cell: Cell) -> set[int | None]:
    return {run.get("seed") for run in runs_of(cell)}


def _table(title: str, note: str, tests: Sequence[Test], in_latex: bool = False) -> Table:
    failed = any(test.readable for test in tests)
    columns = [*TEST_COLUMNS[:8], *([READABLE] if failed else []), *TEST_COLUMNS[8:]]
    return Table(title, note, columns, [_row(test, failed) for test in tests], in_latex=in_latex, keys=2)


def _how(tests: Sequence[Test], said: str) -> str:
    several = any(test.paired.seeds > 1 for test in tests)
    with_seeds = (
        " Over several seeds interval and p are of a t test that holds the noise of training, with its own degrees of "
        "freedom; it is pooled over the levels of a series that have the seeds named in the row."
        if several
        else ""
    )
    return (
        "The same questions, paired; difference in points with its 95 % interval: Tango's score interval, of as many "
        "independent questions as the clips are worth. p: sign flips of whole clips, exact (100,000 draws where tasks "
        f"of unequal size are averaged); it decides whether the interval holds 0.{with_seeds} The adjusted p (Holm) "
        f"keeps the chance of any false alarm among the {len(tests)} tests of this family at 5 %. The minimum "
        "detectable difference is that of the same test after this adjustment; none is shown where it exceeds what "
        f"the discordant pairs could make. {said}"
    )


def _row(test: Test, failed: bool) -> list[str]:
    found = test.paired
    return [
        test.label, test.questions, f"{found.n:,}", f"{found.n_videos:,}", seeds_of(test), _count(found.only_first),
        _count(found.only_second), difference(found),
        *([difference(test.readable) if test.readable else "the same"] if failed else []),
        p_value(found.p), p_value(test.adjusted), detectable(test.detectable), test.verdict,
    ]  # fmt: skip


def seeds_of(test: Test) -> str:
    """The seeds that a comparison used, and how many each side has where that is more."""
    used = ", ".join("-" if seed is None else str(seed) for seed in test.seeds)
    return used if test.of_seeds == (len(test.seeds),) * 2 else f"{used} (of {test.of_seeds[0]} and {test.of_seeds[1]})"


def difference(found: Paired) -> str:
    """In points with its interval; what rounds to nothing is +0.0, never -0.0."""
    value, low, high = (0.0 + round(100 * part, 1) for part in (found.difference, found.low, found.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def detectable(share: float) -> str:
    return f"{100 * share:.1f}" if isfinite(share) else NOTHING_FOUND


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def detectable_of(curve: Sequence[Cell], tests: Sequence[Test], questions: str) -> str:
    """The minimum detectable difference of neighbouring levels, the median of these; "" without any."""
    found = [test.detectable for test in _between_neighbours([curve], tests, questions)]
    return detectable(median(found)) if found else ""


def _between_neighbours(all_curves: Sequence[Sequence[Cell]], tests: Sequence[Test], questions: str) -> list[Test]:
    near = {(fine["experiment"], coarse["experiment"]) for curve in all_curves for fine, coarse in pairwise(curve)}
    return [test for test in tests if (test.first, test.second) in near and test.questions == questions]


def _count(number: float | None) -> str:
    """A mean over seeds has a digit behind the point."""
    assert number is not None, "scores have no discordant pairs"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def resolution_table(cells: Sequence[Cell], tests: Sequence[Test]) -> Table:
    """What differences the benchmark can show at all, by clips and after Holm's adjustment."""
    first = next(cell for cell in cells if cell["control"] is None)
    smallest = min(rows_of(first, None), key=lambda task: len(rows_of(first, None)[task]["correct"]))
    parts: list[tuple[str, str, str | None, str | None]] = [("mean of all tasks", MEAN, None, None)]
    parts += [(g, g, g, None) for g in groups(cells) if rows_of(first, g)] if are_grouped(cells) else []
    parts.append(("one task (the smallest)", smallest, None, smallest))
    rows = [_resolution(first, cells, tests, *part) for part in parts]
    columns = [
        "questions", "n", "clips", "independent questions", "one accuracy of 55 %",
        *(f"{100 * d:.0f} % discordant pairs" for d in DISCORDANCES),
    ]  # fmt: skip
    note = (
        "Points. How many independent questions the clips are worth (for one accuracy; for a difference of "
        "neighbouring levels, where it was measured); half the 95 % interval of one accuracy; then the smallest "
        "difference between two levels that a paired test finds with 80 % power after Holm's adjustment for its "
        "family, by the share of discordant pairs (right with one level, wrong with the other); too few questions can "
        "show none. "
        f"{_seen_discordance(tests)}Noise of training is not in these numbers."
    )
    return Table("What the benchmark can resolve", note, columns, rows)


def _resolution(
    first: Cell,
    cells: Sequence[Cell],
    tests: Sequence[Test],
    name: str,
    questions: str,
    group: str | None,
    task: str | None,
) -> list[str]:
    from eval.statistics.clustered import spread

    run = runs_of(first)[0]
    right = rows_of(run, None)[task]["correct"] if task else correct(run, group)
    of_task = {key: one for one, row in rows_of(run, None).items() for key in row["correct"]}
    of = spread(right, clips_of(run), None if task else {key: of_task[key] for key in right})
    alone = of.questions / of.design_effect()
    near = _between_neighbours(list(curves(cells).values()), tests, questions)
    spreads = [test.paired.power.spread for test in near if test.paired.power]
    paired = median(s.questions / s.design_effect() for s in spreads) if spreads else alone
    level = LEVEL / max([test.family_size for test in near], default=1)
    worth = f"{alone:,.0f}; {paired:,.0f}" if spreads else f"{alone:,.0f}"
    return [
        name, f"{len(right):,}", f"{n_clips(run, group, task):,}", worth, f"±{100 * margin(0.55, alone):.1f}",
        *("too few" if (found := resolvable(paired, d, level)) is None else f"{100 * found:.1f}" for d in DISCORDANCES),
    ]  # fmt: skip


def _seen_discordance(tests: Sequence[Test]) -> str:
    shares = [100 * test.paired.discordance for test in tests if test.questions == MEAN]
    return f"Seen in this sweep: {min(shares):.0f} to {max(shares):.0f} %. " if shares else ""
