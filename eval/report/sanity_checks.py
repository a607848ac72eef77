"""Sanity checks: what a model that sees has to show on a benchmark whose answers are known by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eval.report.cells import curves, estimate, with_control
from eval.report.comparisons import paired
from eval.report.results import Cell
from eval.statistics.estimates import Estimate, share
from eval.statistics.quantiles import Z95

#: Accuracies are ratios of counts: a difference of 5 points must not fail by its last bit.
TINY = 1e-9
#: The groups that checks are about.
GROUPS = {"coarse", "fine", "temporal"}


class Claim(NamedTuple):
    """`ok` is True where the value meets the claim, False where its interval lies outside, None in between."""

    claim: str
    measured: str
    ok: bool | None
    #: Where `ok` is None: whether it was measured at all.
    measured_at_all: bool = True

    @property
    def holds(self) -> str:
        """The verdict in words."""
        if self.ok is None:
            return "undecided" if self.measured_at_all else "not measured"
        return "yes" if self.ok else "NO"


class Within(NamedTuple):
    """From where to where a value has to lie."""

    low: float = -1.0
    high: float = 1.0

    def met(self, found: Estimate) -> bool | None:
        """Whether the value lies inside; None where it does not and its interval does."""
        if self.low - TINY <= found.value <= self.high + TINY:
            return True
        return None if found.high >= self.low and found.low <= self.high else False


def proof(cells: Sequence[Cell]) -> list[Claim]:
    """The claims on coarse, fine and temporal tasks and on the blind control, for each series of the sweep.

    Of a benchmark that declares these groups and the level that its tasks need; of others nothing is known by
    construction. A model with random weights has nothing to show, and one that is shown a single frame is asked for no
    order of events.
    """
    claims, all_curves = [], curves(cells)
    for name, curve in all_curves.items():
        rows = curve[0].rows()
        if curve[0].random or all(row.needs_level is None for row in rows):
            continue
        known = {row.group for row in rows}
        if curve[0].num_frames == 1:
            known -= {"temporal"}
        found = [
            *(_coarse(curve) if "coarse" in known else []),
            *(_fine(curve) if "fine" in known else []),
            *(_temporal(cells, curve) if "temporal" in known else []),
            *(_blind(cells, curve) if known & GROUPS else []),
        ]
        prefix = f"{name}: " if len(all_curves) > 1 else ""
        claims += [claim._replace(claim=prefix + claim.claim) for claim in found]
    return claims


def _coarse(curve: Sequence[Cell]) -> list[Claim]:
    fine, coarse = curve[0], curve[-1]
    lowest = min((estimate(cell, "coarse") for cell in curve), key=lambda found: found.value)
    low = {
        row.name: min((cell.tasks[row.name].estimate for cell in curve), key=lambda found: found.value)
        for row in fine.rows("coarse")
    }
    return [
        *_change(fine, coarse, "coarse", "stay within 5 points", Within(-0.05, 0.05)),
        *_both("coarse", "are above 85 % at every level", lowest, low, Within(0.85)),
    ]


def _fine(curve: Sequence[Cell]) -> list[Claim]:
    return _change(curve[0], curve[-1], "fine", "lose at least 25 points", Within(0.25))


def _change(fine: Cell, coarse: Cell, group: str, claim: str, lost: Within) -> list[Claim]:
    claim = f"{claim} from level {fine.level:g} to level {coarse.level:g}"
    if fine is coarse:
        return [Claim(f"{group} tasks {claim}", "needs two levels", None, False)]
    together = _lost(fine, coarse, group, None)
    by_task = {row.name: _lost(fine, coarse, None, row.name) for row in fine.rows(group)}
    return _both(group, claim, together, by_task, lost, points=True)


def _lost(fine: Cell, coarse: Cell, group: str | None, task: str | None) -> Estimate:
    found = paired(fine, coarse, group, task)
    if found is None:
        return Estimate(0.0, -1.0, 1.0)
    return Estimate(found.paired.difference, found.paired.low, found.paired.high)


def _temporal(cells: Sequence[Cell], curve: Sequence[Cell]) -> list[Claim]:
    pairs = [(cell, with_control(cells, cell, "one_frame")) for cell in curve]
    asked, one = next(((cell, one) for cell, one in pairs if one), (curve[0], None))
    at, group = f"at level {asked.level:g}", "temporal"
    by_task = {row.name: row.estimate for row in asked.rows(group)}
    all_frames = _both(
        group, f"reach 75 % with all frames {at}", estimate(asked, group), by_task, Within(0.75)
    )  # fmt: skip
    claim = f"are within 10 points of chance with one frame repeated {at}"
    if not one:
        return [*all_frames, Claim(f"temporal tasks {claim}", "the one_frame control was not asked", None, False)]
    off = {row.name: _above(row.estimate, row.chance) for row in one.rows(group)}
    together = _above(estimate(one, group), one.mean_of(group, "chance"))
    return all_frames + _both(group, claim, together, off, Within(-0.10, 0.10), points=True, of="chance ")


def _blind(cells: Sequence[Cell], curve: Sequence[Cell]) -> list[Claim]:
    blinds = [(cell, blind) for cell in curve if (blind := with_control(cells, cell, "blind"))]
    if not blinds:
        return [Claim("blind answers are worth a guess", "the blind control was not asked", None, False)]
    claims = []
    for cell, blind in blinds:
        rows, at = blind.tasks, f"at level {cell.level:g}"
        weights = [(row, len(row.values)) for row in rows.values()]
        chance, majority = (
            sum(getattr(row, name) * n for row, n in weights) / sum(n for _, n in weights)
            for name in ("chance", "majority")
        )
        run = next(iter(blind.by_seed.values()))  # asked of one seed, or of several alike
        found = share(run.values(), run.clips)
        measured = f"{_percent(found)}; chance {100 * chance:.1f} %, best constant answer {100 * majority:.1f} %"
        # The best constant answer is known after the fact; before it, a guess is worth chance.
        ok = found.low <= majority and found.high >= chance
        claim = f"blind answers are neither below chance nor above the best constant answer {at} (95 % interval)"
        claims.append(Claim(claim, measured, ok))
        each = {task: _widened(row.estimate, len(rows)) for task, row in rows.items()}
        task, worst = max(each.items(), key=lambda item: item[1].low - rows[item[0]].majority)
        measured = f"closest: {task} {_percent(worst)}, best constant answer {100 * rows[task].majority:.1f} %"
        claim = f"blind answers are above the best constant answer in no task {at} (intervals for all tasks together)"
        claims.append(Claim(claim, measured, worst.low <= rows[task].majority))
    return claims


def _both(
    group: str,
    claim: str,
    together: Estimate,
    by_task: Mapping[str, Estimate],
    within: Within,
    points: bool = False,
    of: str = "",
) -> list[Claim]:
    """The claim on the mean of the group, and on each of its tasks: a mean can hide one that fails."""
    show = _lost_points if points and not of else _points if points else _percent
    wide = {task: _widened(found, len(by_task)) for task, found in by_task.items()}
    verdicts = [within.met(found) for found in wide.values()]
    ok = False if False in verdicts else None if None in verdicts else True
    each = ", ".join(f"{task} {of}{show(found)}" for task, found in wide.items())
    return [
        Claim(f"{group} tasks together {claim}", of + show(together), within.met(together)),
        Claim(f"{group} tasks each {claim}", each, ok),
    ]


def _widened(found: Estimate, tasks: int) -> Estimate:
    """The interval that holds for so many tasks together (Bonferroni), its half-widths drawn out to that level."""
    from scipy.special import ndtri

    by = float(ndtri(1 - 0.025 / tasks)) / Z95
    return Estimate(
        found.value, found.value - by * (found.value - found.low), found.value + by * (found.high - found.value)
    )


def _above(found: Estimate, chance: float) -> Estimate:
    return Estimate(*(part - chance for part in found))


def _percent(found: Estimate) -> str:
    low, high = max(0.0, found.low), min(1.0, found.high)
    return f"{100 * found.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _points(found: Estimate) -> str:
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _lost_points(found: Estimate) -> str:
    """What is lost is shown as a change for the worse."""
    return _points(Estimate(0 - found.value, 0 - found.high, 0 - found.low))
