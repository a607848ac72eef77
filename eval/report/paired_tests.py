"""What a report says of the tests between models, and of what they could have found."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import median

from eval.report.cells import are_grouped, groups
from eval.report.comparisons import Test, between_neighbours, pairs
from eval.report.parts import DETECTABLE, MEAN, Table, difference, p_value
from eval.report.results import Cell
from eval.statistics.estimates import ACCURACY, LEVEL, Scale
from eval.statistics.paired import NONE_SHOWN, TOO_FEW
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
    lost = [label for label, one, other in pairs(models) if not one.by_seed.keys() & other.by_seed.keys()]
    return f" Not compared, without a seed in common: {'; '.join(lost)}." if lost else ""


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


def detectable(found: float | None, scale: Scale = ACCURACY) -> str:
    """ "" where nothing was tested."""
    if found is None:
        return ""
    none = NOTHING_FOUND if scale is ACCURACY else "none"
    return scale.show(found) if isfinite(found) else none


def _count(number: float | None) -> str:
    """A mean over seeds has a digit behind the point."""
    assert number is not None, "scores have no discordant pairs"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def resolution_table(cells: Sequence[Cell], tests: Sequence[Test]) -> Table:
    """What differences the benchmark can show at all, by clips and after Holm's adjustment."""
    first = next(cell for cell in cells if cell.control is None)
    smallest = min(first.rows(), key=lambda row: len(row.values)).name
    parts: list[tuple[str, str, str | None, str | None]] = [("mean of all tasks", MEAN, None, None)]
    parts += [(g, g, g, None) for g in groups(cells) if first.rows(g)] if are_grouped(cells) else []
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

    run = next(iter(first.by_seed.values()))
    right = run.values(group, task)
    alone = spread(right, run.clips, None if task else run.task_of(group)).worth
    near = between_neighbours(cells, tests, questions)
    paired = median(test.paired.power.spread.worth for test in near) if near else alone
    level = LEVEL / max([test.family_size for test in near], default=1)
    worth = f"{alone:,.0f}; {paired:,.0f}" if near else f"{alone:,.0f}"
    return [
        name, f"{len(right):,}", f"{run.n_clips(group, task):,}", worth, f"±{100 * margin(0.55, alone):.1f}",
        *("too few" if (found := resolvable(paired, d, level)) is None else f"{100 * found:.1f}" for d in DISCORDANCES),
    ]  # fmt: skip


def _seen_discordance(tests: Sequence[Test]) -> str:
    shares = [100 * test.paired.discordance for test in tests if test.questions == MEAN]
    return f"Seen in this sweep: {min(shares):.0f} to {max(shares):.0f} %. " if shares else ""
