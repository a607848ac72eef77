"""The token-aware subset of a benchmark: questions that a model answers only while it has visual tokens enough.

The published rule picks them by one run a level. It picks many by chance alone, so it is shown beside what it would
pick without any effect of the level, and what its choice is worth on runs that it has not seen. Outcomes are arrays
of right and wrong, Bool "seeds levels questions", the levels from the most visual tokens to the fewest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import comb, isnan
from typing import Any

import numpy as np

from eval.journal import clip_of
from eval.resample import SEED, bootstrap_interval, clips
from eval.stats import wilson
from videogpt_plus.types import UserError

#: The pool levels by which the subset is chosen, from the most visual tokens to the fewest.
LEVELS = (2, 4, 8, 16)
#: Orders of runs are tried up to so many levels, and outcomes shuffled so often.
MOST_ORDERED, SHUFFLES = 6, 1000


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


def null_of_rule(outcomes: np.ndarray) -> dict[str, Any]:
    """How many questions the rule picks, and how many it would pick if the level had no effect.

    Without an effect each question has one chance of being right, whatever the level: its outcomes are exchangeable
    over the levels, and every order of them is as likely as the one that was seen. Of the orders of `k` right ones
    among `l` the rule takes exactly one, so a question is picked with probability 1 / C(l, k): the count's
    distribution is known exactly. Outcomes "seeds levels questions"; counts are summed over the seeds.

    Returns observed, share (observed of all), expected, low and high (its 95 % range), and p (of so many or more).
    `p_orders` is the share of the orders of the levels that pick so many or more with these very runs: it allows for
    one run being better than another by the luck of its training, and is never below 1 / l!. None above MOST_ORDERED
    levels.
    """
    seeds, levels, questions = outcomes.shape
    right = outcomes.sum(axis=1)
    chances = np.ones(1)
    for k in range(1, levels):
        chances = np.convolve(chances, _binomial(int((right == k).sum()), 1 / comb(levels, k)))
    observed, cumulated = int(selected(outcomes).sum()), chances.cumsum()
    orders = None
    if levels <= MOST_ORDERED:
        counts = [selected(outcomes[:, list(order)]).sum() for order in permutations(range(levels))]
        orders = float(np.mean([count >= observed for count in counts]))
    return {
        "observed": observed,
        "share": observed / (seeds * questions),
        "expected": float(chances @ np.arange(len(chances))),
        "low": int(np.searchsorted(cumulated, 0.025)),
        "high": int(np.searchsorted(cumulated, 0.975)),
        "p": min(1.0, float(chances[observed:].sum())),
        "p_orders": orders,
    }


def cross_fit(outcomes: np.ndarray) -> list[dict[str, Any]]:
    """For each pair of seeds: the subset chosen on the first one's runs, its accuracies on the second one's.

    On its own runs a subset has 100 % at the first level and 0 % at the last by construction; these have not.
    Rows of select and score (numbers of the seeds), n, and accuracy (one `Estimate` for each level; [] for n = 0).
    """
    chosen, rows = selected(outcomes), []
    for one, own in enumerate(chosen):
        for other in range(len(outcomes)):
            if other != one:
                right, n = outcomes[other][:, own].sum(axis=1), int(own.sum())
                accuracy = [wilson(int(count), n) for count in right] if n else []
                rows.append({"select": one, "score": other, "n": n, "accuracy": accuracy})
    return rows


def minimal_levels(outcomes: np.ndarray) -> np.ndarray:
    """The minimal sufficient level of each question, as its place among the levels: Int "questions"; -1 for none.

    It is the one with the fewest tokens such that there, and at every level with more tokens, the question is right
    on at least half of the seeds. None (-1) where the level with the most tokens is not sufficient itself.
    """
    enough = 2 * outcomes.sum(axis=0) >= len(outcomes)
    return np.logical_and.accumulate(enough, axis=0).sum(axis=0) - 1


def agreement(by_seed: np.ndarray, levels: int) -> float:
    """Fleiss' kappa of the minimal levels that each seed finds alone, Int "seeds questions".

    1: the seeds agree on every question; 0: no more than if each seed dealt its levels out at random. NaN where all
    levels are the same.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa

    table = np.stack([(by_seed == level).sum(axis=0) for level in range(-1, levels)], axis=1)
    return float(fleiss_kappa(table)) if (table.sum(axis=0) > 0).sum() > 1 else float("nan")


def oracle(outcomes: np.ndarray, videos: Sequence[str]) -> dict[str, Any]:
    """What choosing the best level for each question would gain over the best fixed level, and what of it is luck.

    The oracle is right where any level is: it has as many guesses as there are levels, and gains without any effect of
    the level. `expected` is that gain: outcomes are shuffled within each question over levels and seeds, which
    are exchangeable if the level has no effect on the question's accuracy; the best fixed level is chosen anew each
    time. `excess` is the gain above it. `cross_fitted` is what a choice of the level is worth: each question's level
    and the fixed level are chosen on all other seeds and scored on the one left out; with an interval over clips and
    the p of the same shuffles. It can be below 0. With one seed excess and cross_fitted are None: a shuffle changes no
    oracle then, and what suits a question cannot be told from noise.
    Everything is a mean over seeds, as a share of the questions.
    """
    seeds, levels, questions = outcomes.shape
    several = seeds > 1
    gain, crossed = _gain(outcomes), _cross_fitted(outcomes) if several else None
    rng, cells = np.random.default_rng(SEED), outcomes.reshape(seeds * levels, questions)
    gains, as_high = [], 0
    for _ in range(SHUFFLES):
        shuffled = rng.permuted(cells, axis=0).reshape(outcomes.shape)
        gains.append(_gain(shuffled))
        as_high += several and _cross_fitted(shuffled).mean() >= crossed.mean() - 1e-12
    low, high = np.quantile(gains, (0.025, 0.975))
    return {
        "oracle": float(outcomes.any(axis=1).mean()),
        "best_level": int(outcomes.mean(axis=(0, 2)).argmax()),
        "best_fixed": float(outcomes.mean(axis=(0, 2)).max()),
        "gain": gain,
        "expected": float(np.mean(gains)),
        "expected_low": float(low),
        "expected_high": float(high),
        "excess": gain - float(np.mean(gains)) if several else None,
        "cross_fitted": _interval(crossed, videos) | {"p": float((as_high + 1) / (SHUFFLES + 1))} if several else None,
    }


def _gain(outcomes: np.ndarray) -> float:
    return float(outcomes.any(axis=1).mean() - outcomes.mean(axis=(0, 2)).max())


def _cross_fitted(outcomes: np.ndarray) -> np.ndarray:
    """The mean gain of each question, Float "questions". Of equal levels that with fewer tokens is chosen."""
    gains, order = np.zeros(outcomes.shape[2]), np.arange(outcomes.shape[2])
    for left_out, scored in enumerate(outcomes):
        others = np.delete(outcomes, left_out, axis=0).mean(axis=0)
        chosen = len(others) - 1 - others[::-1].argmax(axis=0)
        gains += scored[chosen, order].astype(float) - scored[others.mean(axis=1).argmax()]
    return gains / len(outcomes)


def _interval(gains: np.ndarray, videos: Sequence[str]) -> dict[str, float]:
    keys = [str(i) for i in range(len(gains))]
    low, high = bootstrap_interval(clips(keys, gains.tolist(), dict(zip(keys, videos, strict=True))))
    return {"gain": float(gains.mean()), "low": low, "high": high}


def _binomial(n: int, p: float) -> np.ndarray:
    from scipy.stats import binom

    return binom.pmf(np.arange(n + 1), n, p)


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
    found = oracle(outcomes, [clip_of(about[key]) for key in keys])
    return {
        "seeds": seeds,
        "levels": levels,
        "n": len(keys),
        "n_all": len(set.union(*(set(run) for run in runs.values()))),
        "accuracy": {_level(level): float(outcomes[:, i].mean()) for i, level in enumerate(levels)},
        "rule": {
            "levels": ruled,
            "published": published,
            "by_seed": {str(seed): null_of_rule(at_ruled[i : i + 1]) for i, seed in enumerate(seeds)},
            "all_seeds": null_of_rule(at_ruled),
        },
        "cross_fit": [_named(row, seeds, ruled) for row in cross_fit(at_ruled)],
        "oracle": found | {"best_level": levels[found["best_level"]]},
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
    own = np.stack([minimal_levels(one[None]) for one in outcomes])
    pooled, names, several = minimal_levels(outcomes), [*levels, None], len(seeds) > 1
    kappa = agreement(own, len(levels)) if several else float("nan")
    places = {_level(name): i for i, name in enumerate(levels)} | {"none": -1}
    return {
        "minimal_levels": {
            "count": {name: int((pooled == place).sum()) for name, place in places.items()},
            "kappa": None if isnan(kappa) else kappa,
            "same_in_all_seeds": float((own == own[0]).all(axis=0).mean()) if several else None,
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


def _named(row: Mapping[str, Any], seeds: Sequence[int], levels: Sequence[float]) -> dict[str, Any]:
    accuracy = {_level(level): list(found) for level, found in zip(levels, row["accuracy"], strict=False)}
    return {"select": seeds[row["select"]], "score": seeds[row["score"]], "n": row["n"], "accuracy": accuracy}


def _level(level: float) -> str:
    return f"{level:g}"


def _unknown(seeds: Sequence[int], published: bool) -> list[str]:
    """What these runs cannot say, in sentences."""
    said = [] if published else ["The published rule is for levels 2, 4, 8 and 16; these runs have others."]
    if len(seeds) > 1:
        return said
    return [
        *said,
        "With one seed nobody knows which questions of the subset would be in it again: train a second seed.",
        "With one seed the accuracies of the subset are 100 % and 0 % by construction, not by measurement.",
        "With one seed the minimal level of a question is one throw of a coin for each level; its noise is not known.",
        "With one seed the oracle's gain cannot be told from that of several guesses at the same level.",
    ]
