"""The token-aware subset of a benchmark: questions that a model answers only while it has visual tokens enough.

The published rule picks them by one run a level. It picks many by chance alone, so it is compared with what it would
pick without any effect of the level, and what its choice is worth on runs that it has not seen. Outcomes are arrays
of right and wrong, Bool "seeds levels questions", the levels from the most visual tokens to the fewest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from eval.statistics.band import band
from eval.statistics.estimates import Estimate
from eval.statistics.oracle import oracle
from videogpt_plus.io.jsonl_log import clip_of
from videogpt_plus.types import UserError

#: The pool levels by which the subset is chosen, from the most visual tokens to the fewest.
LEVELS = (2, 4, 8, 16)
#: Every order of a seed's runs is tried up to so many levels; of more levels so many orders are drawn.
MOST_ORDERED, DRAWN = 8, 20_000
#: Orders of all seeds' runs that the seeds' agreement is compared with, and what makes them the same each time.
SHUFFLES, SEED = 1000, 20


def needs_tokens(correct: Sequence[bool], levels: Sequence[float] = LEVELS) -> bool:
    """Whether a question belongs to the subset, given whether it was answered rightly at each of the levels.

    It does if it is right at the first level, wrong at the last, and never right again behind a level at which it is
    wrong: it turns over once, so that the tokens decide and not chance. UserError: not one result for each level.
    Source: the motivation experiment of LangDC (arXiv 2509.00969), `mvbench_hard`.
    """
    if len(correct) != len(levels):
        raise UserError(f"{len(correct)} results for the levels {', '.join(map(str, levels))}: give one for each")
    falling = all(finer or not coarser for finer, coarser in zip(correct, correct[1:], strict=False))
    return bool(correct[0] and not correct[-1] and falling)


def selected(outcomes: np.ndarray) -> np.ndarray:
    """`needs_tokens` of each question: Bool "... levels questions" -> Bool "... questions"."""
    falling = (outcomes[..., :-1, :] >= outcomes[..., 1:, :]).all(axis=-2)
    return outcomes[..., 0, :] & ~outcomes[..., -1, :] & falling


class Rule(NamedTuple):
    """How many questions the rule picks, summed over the seeds, and how many it would pick without an effect."""

    observed: int
    #: `observed` of all.
    share: float
    expected: float
    #: The 90 % range of the expected count: above it p is below 0.05.
    low: int
    high: int
    #: Of so many or more, and the smallest one that is possible.
    p: float
    least_p: float


class CrossFit(NamedTuple):
    """The subset chosen on the runs of the seed `select` (its place), and its accuracies on those of `score`."""

    select: int
    score: int
    n: int
    #: One for each level, its interval by clips; [] for n = 0.
    accuracy: list[Estimate]


class Agreement(NamedTuple):
    """Fleiss' kappa of the seeds, and what difficulty alone gives."""

    kappa: float
    expected: float
    #: The 90 % range of the orders: above it p is below 0.05.
    low: float
    high: float
    p: float


def null_of_rule(outcomes: np.ndarray) -> Rule:
    """How many questions the rule picks, and how many it would pick if the level had no effect.

    Without an effect the runs of a seed are exchangeable: every order of them is as likely as the one that was seen.
    The rule's count is taken for all l! orders of each seed's runs apart, and the distribution of the sum over seeds
    is their convolution, exact. Runs are exchanged as wholes, so neither a run that is luckier than another nor clips
    with many questions make a small p. No p is below 1 / (l!)^seeds: with one seed and 4 levels 1 / 24.
    """
    seeds, levels, questions = outcomes.shape
    chances, least_p = np.ones(1), 1.0
    for one in outcomes:
        counts = _counts_of_orders(one)
        chances = np.convolve(chances, np.bincount(counts) / len(counts))
        least_p /= len(counts)
    observed, cumulated = int(selected(outcomes).sum()), chances.cumsum()
    return Rule(
        observed=observed,
        share=observed / (seeds * questions),
        expected=float(chances @ np.arange(len(chances))),
        low=int(np.searchsorted(cumulated, 0.05)),
        high=int(np.searchsorted(cumulated, 0.95 - 1e-12)),
        p=min(1.0, float(chances[observed:].sum())),
        least_p=least_p,
    )


def _counts_of_orders(outcomes: np.ndarray) -> np.ndarray:
    """How many questions of "levels questions" the rule picks for each order of the levels, the given one first.

    It picks a question whose right levels are just the first ones of the order.
    """
    levels = len(outcomes)
    if levels <= MOST_ORDERED:
        orders = np.array(list(permutations(range(levels))))
    else:
        rest = np.random.default_rng(SEED).permuted(np.tile(np.arange(levels), (DRAWN - 1, 1)), axis=1)
        orders = np.concatenate([np.arange(levels)[None], rest])
    patterns = np.bincount((1 << np.arange(levels)) @ outcomes, minlength=1 << levels)
    return patterns[(1 << orders).cumsum(axis=1)[:, :-1]].sum(axis=1)


def cross_fit(outcomes: np.ndarray, clips: Sequence[str]) -> list[CrossFit]:
    """For each pair of seeds: the subset chosen on the first one's runs, its accuracies on the second one's.

    On its own runs a subset has 100 % at the first level and 0 % at the last by construction; these have not.
    """
    chosen, names, rows = selected(outcomes), np.asarray(clips), []
    for one, own in enumerate(chosen):
        for other in range(len(outcomes)):
            if other != one:
                runs, n = outcomes[other][:, own], int(own.sum())
                accuracy = [band(run[None, None], names[own])[0] for run in runs] if n else []
                rows.append(CrossFit(one, other, n, accuracy))
    return rows


def minimal_levels(outcomes: np.ndarray) -> np.ndarray:
    """The minimal sufficient level of each question, as its place among the levels: Int "questions"; -1 for none.

    It is the one with the fewest tokens such that there, and at every level with more tokens, the question is right
    on at least half of the seeds. None (-1) where the level with the most tokens is not sufficient itself.
    """
    enough = 2 * outcomes.sum(axis=0) >= len(outcomes)
    return np.logical_and.accumulate(enough, axis=0).sum(axis=0) - 1


def agreement(by_seed: np.ndarray) -> float:
    """Fleiss' kappa of the minimal levels that each seed finds alone, Int "seeds questions".

    1: the seeds agree on every question; 0: no more than if each seed dealt its levels out at random. NaN where all
    levels are the same.
    """
    seeds, questions = by_seed.shape
    counts = np.stack([(by_seed == level).sum(axis=0) for level in np.unique(by_seed)])
    by_chance = float(((counts.sum(axis=1) / by_seed.size) ** 2).sum())
    agreed = float((counts * (counts - 1)).sum()) / (questions * seeds * (seeds - 1))
    return (agreed - by_chance) / (1 - by_chance) if len(counts) > 1 else float("nan")


def agreement_beyond_difficulty(outcomes: np.ndarray, shuffles: int = SHUFFLES) -> Agreement | None:
    """The seeds' agreement on minimal levels, compared with that of difficulty alone; None for one seed or one level.

    A hard question is right at no level and an easy one at each, with any seed: kappa is far above 0 without any
    effect of the level. So the runs of each seed are put into orders of their own, `shuffles` times: what a question's
    difficulty and a run's luck do stays, what the level does is gone.
    """
    if len(outcomes) < 2:
        return None
    kappa = agreement(_by_seed(outcomes))
    if np.isnan(kappa):
        return None
    others = np.array([agreement(_by_seed(shuffled)) for shuffled in reordered(outcomes, shuffles)])
    others = others[~np.isnan(others)]
    low, high = np.quantile(others, (0.05, 0.95))
    p = (int((others >= kappa - 1e-12).sum()) + 1) / (len(others) + 1)
    return Agreement(kappa, float(others.mean()), float(low), float(high), p)


def reordered(outcomes: np.ndarray, times: int) -> Iterator[np.ndarray]:
    """Yields "seeds levels questions" with the runs of each seed in an order of their own."""
    rng, seeds = np.random.default_rng(SEED), np.arange(len(outcomes))[:, None]
    places = np.tile(np.arange(outcomes.shape[1]), (len(outcomes), 1))
    for _ in range(times):
        yield outcomes[seeds, rng.permuted(places, axis=1)]


def _by_seed(outcomes: np.ndarray) -> np.ndarray:
    """The minimal level of each question by each seed alone, Int "seeds questions"; -1 for none."""
    return np.logical_and.accumulate(outcomes, axis=1).sum(axis=1) - 1


def analyse(
    runs: Mapping[tuple[int, float], Mapping[str, bool]], about: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything about the token-aware subset of some runs, as plain values for a JSON file.

    `runs` holds (seed, level) -> key -> right or wrong; `about` what is to be said of each question, with its
    `video`. Questions that all runs have are used. UserError: fewer than two levels, a seed that lacks a level, or no
    common question.
    """
    seeds, levels = sorted({seed for seed, _ in runs}), sorted({level for _, level in runs})
    if len(levels) < 2:
        raise UserError(f"only level {levels[0]:g}: give runs of at least two levels, best of 2, 4, 8 and 16")
    lacking = [f"level {level:g} with seed {seed}" for seed in seeds for level in levels if (seed, level) not in runs]
    if lacking:
        raise UserError(f"there is no run of {', '.join(lacking)}: give every seed at every level, or leave it out")
    keys = sorted(set.intersection(*(set(run) for run in runs.values())))
    if not keys:
        raise UserError("the runs have no question in common; give runs that answered one benchmark")
    published = set(LEVELS) <= set(levels)
    ruled = list(LEVELS) if published else levels
    outcomes = np.array([[[bool(runs[seed, level][key]) for key in keys] for level in levels] for seed in seeds])
    at_ruled = outcomes[:, [levels.index(level) for level in ruled]]
    clips, types = [clip_of(about[key]) for key in keys], [about[key].get("task", "") for key in keys]
    found = oracle(outcomes, clips, types)
    return {
        "seeds": seeds,
        "levels": levels,
        "n": len(keys),
        "n_clips": len(set(clips)),
        "n_all": len(set.union(*(set(run) for run in runs.values()))),
        "accuracy": {_level(level): float(outcomes[:, i].mean()) for i, level in enumerate(levels)},
        "rule": {
            "levels": ruled,
            "published": published,
            "by_seed": {str(seed): null_of_rule(at_ruled[i : i + 1])._asdict() for i, seed in enumerate(seeds)},
            "all_seeds": null_of_rule(at_ruled)._asdict(),
        },
        "cross_fit": [_named(row, seeds, ruled) for row in cross_fit(at_ruled, clips)],
        "oracle": found.plain() | {"best_level": levels[found.best_level]},
        "unknown": _unknown(seeds, published),
        **_by_question(outcomes, selected(at_ruled), keys, seeds, levels, about),
    }


def _by_question(
    outcomes: np.ndarray,
    chosen: np.ndarray,
    keys: Sequence[str],
    seeds: Sequence[int],
    levels: Sequence[float],
    about: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The subset of each seed, every question's minimal level, and how sure the seeds are of it."""
    found = agreement_beyond_difficulty(outcomes)
    own, pooled, names = _by_seed(outcomes), minimal_levels(outcomes), [*levels, None]
    places = {_level(name): i for i, name in enumerate(levels)} | {"none": -1}
    return {
        "minimal_levels": {
            "count": {name: int((pooled == place).sum()) for name, place in places.items()},
            "agreement": found and found._asdict(),
            "same_in_all_seeds": float((own == own[0]).all(axis=0).mean()) if len(seeds) > 1 else None,
        },
        "subset": {str(seed): [keys[i] for i in np.flatnonzero(row)] for seed, row in zip(seeds, chosen, strict=True)},
        "questions": {
            key: {
                **about[key],
                "right": [int(count) for count in outcomes[:, :, i].sum(axis=0)],
                "minimal_level": names[pooled[i]],
                "minimal_level_by_seed": [names[place] for place in own[:, i]],
                "in_subset_of": [seed for seed, one in zip(seeds, chosen[:, i], strict=True) if one],
            }
            for i, key in enumerate(keys)
        },
    }


def _named(row: CrossFit, seeds: Sequence[int], levels: Sequence[float]) -> dict[str, Any]:
    accuracy = {_level(level): list(found) for level, found in zip(levels, row.accuracy, strict=False)}
    return {"select": seeds[row.select], "score": seeds[row.score], "n": row.n, "accuracy": accuracy}


def _level(level: float) -> str:
    return f"{level:g}"


def _unknown(seeds: Sequence[int], published: bool) -> list[str]:
    """What these runs cannot say, in sentences."""
    said = [] if published else ["The published rule is for levels 2, 4, 8 and 16; these runs have others."]
    if len(seeds) > 1:
        return said
    return [
        *said,
        "With one seed it is not known which questions of the subset would be in it again: train a second seed.",
        "With one seed the accuracies of the subset are 100 % and 0 % by construction, not by measurement.",
        "With one seed the minimal level of a question rests on one answer at each level; its noise is not known.",
        "With one seed the oracle's gain cannot be told from that of as many runs of one level.",
    ]
