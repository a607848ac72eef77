"""Sanity checks: the claims that the embedded default has to meet, each against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eval.cells import Cell, curves, estimate, mean_of, rows_of, with_control
from eval.stats import above, holm, wilson

#: Accuracies are ratios of counts: a difference of 5 points must not fail by its last bit.
TINY = 1e-9


class Claim(NamedTuple):
    """`ok` is None where the sweep has no cell that could tell."""

    claim: str
    measured: str
    ok: bool | None


def proof(cells: Sequence[Cell]) -> list[Claim]:
    """The claims on coarse, fine and temporal tasks and on the blind control, for each series of the sweep.

    Groups come from the benchmark's tasks; a benchmark without them has nothing to prove and gets none. Neither has a
    model with random weights, and one that is shown a single frame is asked for no order of events.
    """
    claims, all_curves = [], curves(cells)
    for name, curve in all_curves.items():
        if curve[0].get("random"):
            continue
        known = {row["group"] for row in curve[0]["scores"]["tasks"].values()}
        if curve[0].get("num_frames") == 1:
            known -= {"temporal"}
        found = [
            *(_coarse(curve) if "coarse" in known else []),
            *(_fine(curve) if "fine" in known else []),
            *(_temporal(cells, curve) if "temporal" in known else []),
            *(_blind(cells, curve) if known & {"coarse", "fine", "temporal"} else []),
        ]
        prefix = f"{name}: " if len(all_curves) > 1 else ""
        claims += [claim._replace(claim=prefix + claim.claim) for claim in found]
    return claims


def _coarse(curve: Sequence[Cell]) -> list[Claim]:
    fine, coarse = curve[0], curve[-1]
    low = {task: min(row[task] for row in map(_accuracies("coarse"), curve)) for task in rows_of(fine, "coarse")}
    lowest = min(estimate(cell, "coarse").value for cell in curve)
    return [
        *_change(fine, coarse, "coarse", "stay within 5 points", lambda lost: abs(lost) <= 0.05 + TINY),
        *_both("coarse", "are above 85 % at every level", lowest, low, lambda value: value > 0.85, _percent),
    ]


def _fine(curve: Sequence[Cell]) -> list[Claim]:
    return _change(curve[0], curve[-1], "fine", "lose at least 25 points", lambda lost: lost >= 0.25 - TINY)


def _change(fine: Cell, coarse: Cell, group: str, claim: str, holds: Callable[[float], bool]) -> list[Claim]:
    claim = f"{claim} from level {fine['level']:g} to level {coarse['level']:g}"
    if fine is coarse:
        return [Claim(f"{group} tasks {claim}", "needs two levels", None)]
    before, after = _accuracies(group)(fine), _accuracies(group)(coarse)
    lost = {task: before[task] - after[task] for task in before}
    together = estimate(fine, group).value - estimate(coarse, group).value
    return _both(group, claim, together, lost, holds, lambda value: f"{0 - 100 * value:+.1f} points")


def _temporal(cells: Sequence[Cell], curve: Sequence[Cell]) -> list[Claim]:
    pairs = [(cell, with_control(cells, cell, "one_frame")) for cell in curve]
    asked, one = next(((cell, one) for cell, one in pairs if one), (curve[0], None))
    at = f"at level {asked['level']:g}"
    group = "temporal"
    all_frames = _both(
        group, f"reach 75 % with all frames {at}", estimate(asked, group).value, _accuracies(group)(asked),
        lambda value: value >= 0.75 - TINY, _percent,
    )  # fmt: skip
    claim = f"are within 10 points of chance with one frame repeated {at}"
    if not one:
        return [*all_frames, Claim(f"temporal tasks {claim}", "the one_frame control was not asked", None)]
    off = {task: row["accuracy"] - row["chance"] for task, row in rows_of(one, group).items()}
    together = estimate(one, group).value - mean_of(one, group, "chance")
    return all_frames + _both(
        group, claim, together, off, lambda value: abs(value) <= 0.10 + TINY,
        lambda value: f"chance {100 * value:+.1f} points",
    )  # fmt: skip


def _blind(cells: Sequence[Cell], curve: Sequence[Cell]) -> list[Claim]:
    blinds = [(cell, blind) for cell in curve if (blind := with_control(cells, cell, "blind"))]
    if not blinds:
        return [Claim("blind is at the majority rate", "the blind control was not asked", None)]
    claims = []
    for cell, blind in blinds:
        rows = blind["scores"]["tasks"]
        n = sum(row["n"] for row in rows.values())
        majority = sum(row["majority"] * row["n"] for row in rows.values()) / n
        chance = sum(row["chance"] * row["n"] for row in rows.values()) / n
        found = wilson(sum(row["right"] for row in rows.values()), n)
        at = f"at level {cell['level']:g}"
        measured = (
            f"{_percent(found.value)} (95 %: {_percent(found.low)} to {_percent(found.high)}); "
            f"majority {_percent(majority)}, chance {_percent(chance)}"
        )
        # The majority rate is the best constant guess after the fact; before it, a guess is worth chance.
        ok = found.low <= majority and found.high >= chance
        claims.append(Claim(f"blind is at the majority rate within sampling error {at}", measured, ok))
        ps = holm([above(round(row["right"]), row["n"], row["majority"]) for row in rows.values()])
        p, task = min(zip(ps, rows, strict=True))
        measured = f"closest: {task} {_percent(rows[task]['accuracy'])}, majority {_percent(rows[task]['majority'])}"
        claim = f"blind beats the majority rate in no task {at} (exact test, Holm, 5 %)"
        claims.append(Claim(claim, f"{measured}, p = {p:.2g}", p > 0.05))
    return claims


def _both(
    group: str,
    claim: str,
    together: float,
    by_task: Mapping[str, float],
    holds: Callable[[float], bool],
    show: Callable[[float], str],
) -> list[Claim]:
    """The claim on the mean of the group, and on each of its tasks: a mean can hide one that fails."""
    each = ", ".join(f"{task} {show(value)}" for task, value in by_task.items())
    return [
        Claim(f"{group} tasks together {claim}", show(together), holds(together)),
        Claim(f"{group} tasks each {claim}", each, all(map(holds, by_task.values()))),
    ]


def _accuracies(group: str) -> Callable[[Cell], dict[str, float]]:
    return lambda cell: {task: row["accuracy"] for task, row in rows_of(cell, group).items()}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
