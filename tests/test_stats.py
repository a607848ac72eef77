"""Intervals and tests agree with their published values and with brute force."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test, wilcoxon
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from eval.resample import bootstrap_interval, clip_variance, clips, resampled, sign_flip_p
from eval.stats import (
    FEWEST_DISCORDANT,
    Estimate,
    above,
    compare,
    compare_scores,
    compare_scores_seeds,
    compare_seeds,
    detectable,
    equivalence_p,
    equivalence_p_of_scores,
    holm,
    margin,
    mean_share,
    resolvable,
    wilson,
    with_seed_noise,
)


def runs(both: int, first: int, second: int, neither: int):
    cells = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return {str(i): a for i, (a, _) in enumerate(cells)}, {str(i): b for i, (_, b) in enumerate(cells)}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I: Wilson's score interval.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_has_the_published_bounds(right, n, low, high):
    found = wilson(right, n)
    assert found.value == right / n
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_mean_share_is_the_mean_and_for_one_task_its_wilson_interval():
    assert mean_share([(30, 100)]) == pytest.approx(wilson(30, 100))
    mean = mean_share([(90, 100), (10, 20)])
    assert mean.value == pytest.approx(0.7) and mean.low < 0.7 < mean.high


def test_mean_share_covers_the_truth_as_often_as_it_says():
    rng, truth, sizes = np.random.default_rng(0), np.array([0.95, 0.5, 0.25]), [100, 100, 50]
    hits = 0
    for _ in range(300):
        low, high = mean_share([(int(rng.binomial(n, p)), n) for n, p in zip(sizes, truth, strict=True)])[1:]
        hits += low <= truth.mean() <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_paired_p_is_the_binomial_tail_of_the_questions_that_differ():
    found = compare(*runs(both=50, first=9, second=2, neither=10))
    tail = sum(comb(11, k) for k in range(3)) / 2**11
    assert (found.n, found.only_first, found.only_second) == (71, 9, 2)
    assert found.p == pytest.approx(2 * tail)
    assert found.difference == pytest.approx(7 / 71) and found.low < found.difference < found.high


def test_paired_comparison_turns_its_sign_with_the_order():
    first, second = runs(5, 9, 2, 1)
    there, back = compare(first, second), compare(second, first)
    assert there.p == back.p and there.difference == -back.difference
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize("cells", [(10, 0, 0, 5), (0, 20, 0, 0), (0, 0, 20, 0), (1, 0, 0, 0)])
def test_paired_interval_holds_its_difference_at_the_edges(cells):
    found = compare(*runs(*cells))
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert cells[1] + cells[2] or found.p == 1.0


def test_only_common_questions_are_compared():
    assert compare({"a": True, "b": True}, {"b": False, "c": True}).n == 1


def test_holm_is_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_mvbench_resolves():
    assert margin(0.55, 4000) == pytest.approx(0.0154, abs=5e-5)
    assert margin(0.55, 200) == pytest.approx(0.069, abs=5e-4)
    assert [detectable(4000, d) for d in (0.08, 0.15, 0.20)] == pytest.approx([0.0125, 0.017, 0.020], abs=3e-4)
    assert [detectable(200, d) for d in (0.08, 0.15, 0.20)] == pytest.approx([0.056, 0.077, 0.089], abs=5e-4)


def test_above_is_the_one_sided_tail():
    assert above(2, 2, 0.5) == pytest.approx(0.25)
    assert above(0, 5, 0.5) == 1.0


def pair_of_runs(rng, n=300, lift=0.0, noise=0.15, per_video=1):
    """Two runs on the same questions, the first better by `lift`, and each question's clip."""
    hard = rng.random(n)
    first, second = (rng.random(n) < np.clip(0.75 + shift - hard * 2 * noise, 0, 1) for shift in (lift, 0.0))
    keys = [f"{i:04}" for i in range(n)]
    videos = {key: str(i // per_video) for i, key in enumerate(keys)}
    return dict(zip(keys, first.tolist(), strict=True)), dict(zip(keys, second.tolist(), strict=True)), videos


def rows_of(first, second, videos=None):
    keys = sorted(first)
    return clips(keys, [first[key] - second[key] for key in keys], videos)


def test_wilson_and_holm_are_those_of_scipy_and_statsmodels():
    low, high = binomtest(37, 90).proportion_ci(0.95, method="wilson")
    assert wilson(37, 90)[1:] == pytest.approx((low, high))
    assert wilson(36.5, 90)[1:] == pytest.approx(proportion_confint(36.5, 90, method="wilson"))
    ps = np.random.default_rng(0).random(30) ** 3
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


def test_the_bootstrap_over_clips_is_scipys():
    first, second, videos = pair_of_runs(np.random.default_rng(1), n=240, lift=0.1, per_video=3)
    count, change = rows_of(first, second, videos).T
    theirs = bootstrap(
        (change, count), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, vectorized=True,
        n_resamples=10_000, method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    ours = compare(first, second, videos)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert ours.method == "bootstrap by video" and ours.n_videos == 80


def test_questions_about_one_clip_that_go_together_widen_the_interval_and_raise_p():
    rng = np.random.default_rng(2)
    of_clip = rng.choice([1, 0, -1], size=60, p=[0.3, 0.55, 0.15])
    first = {f"{v}-{i}": bool(change == 1) for v, change in enumerate(of_clip) for i in range(5)}
    second = {f"{v}-{i}": bool(change == -1) for v, change in enumerate(of_clip) for i in range(5)}
    videos = {key: key.split("-")[0] for key in first}
    alone, together = compare(first, second), compare(first, second, videos)
    assert alone.mcnemar_p == together.mcnemar_p == pytest.approx(alone.p) and together.p > 20 * alone.p
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    # Each clip speaks once: five equal questions are one.
    assert together.p == pytest.approx(compare({k: v for k, v in first.items() if k.endswith("-0")}, second).p)


def test_the_test_by_clips_is_the_permutation_test():
    changes = np.array([2, -1, 1, 1, 0, 3, -1, 1, 2, 1])
    theirs = permutation_test(
        (changes,), lambda x: x.sum(), permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(changes) == pytest.approx(theirs.pvalue)
    assert sign_flip_p([1] * 9 + [-1] * 2) == pytest.approx(binomtest(2, 11).pvalue)
    assert sign_flip_p([0, 0]) == 1.0


def test_the_order_of_the_questions_changes_nothing():
    first, second, videos = pair_of_runs(np.random.default_rng(3), per_video=2)
    back = dict(reversed(first.items())), dict(reversed(second.items())), dict(reversed(videos.items()))
    assert compare(first, second, videos) == compare(*back)


def test_exchanging_the_runs_mirrors_the_bootstrap_and_the_equivalence_test():
    first, second, videos = pair_of_runs(np.random.default_rng(4), lift=0.05, per_video=2)
    rows = rows_of(first, second, videos)
    assert resampled(rows) == pytest.approx(-resampled(rows_of(second, first, videos))[::-1])
    assert equivalence_p(first, second, 0.06, videos) == equivalence_p(second, first, 0.06, videos)
    symmetric = clips(list("abcdef"), [1, 1, 0, 0, -1, -1], None)
    low, high = bootstrap_interval(symmetric)
    assert low == -high


def test_without_a_difference_p_is_calibrated_and_the_interval_covers():
    rng, ps, covered = np.random.default_rng(5), [], 0
    for _ in range(200):
        first, second, videos = pair_of_runs(rng, n=200, per_video=2)
        found = compare(first, second, videos)
        ps.append(found.p)
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 200 <= 0.99
    assert np.mean(np.array(ps) < 0.05) <= 0.08, "the exact test never errs more often than it says"


def test_what_is_called_detectable_is_found_four_times_in_five():
    rng, n, discordance = np.random.default_rng(6), 1000, 0.15
    difference = detectable(n, discordance)
    chances = ((discordance + difference) / 2, (discordance - difference) / 2)
    found = 0
    for _ in range(300):
        b, c, _ = rng.multinomial(n, [*chances, 1 - discordance])
        found += binomtest(b, b + c).pvalue < 0.05
    assert 0.72 < found / 300 < 0.88
    assert detectable(40, 0.0) == FEWEST_DISCORDANT / 40 and detectable(3, 0.5) == 1.0


def test_no_difference_is_called_resolvable_that_the_changing_questions_cannot_make():
    """A difference is at most the share that changes sides: 24 questions cannot show 25 points where 8 % do."""
    assert [resolvable(n, d) for n in (8, 24) for d in (0.08, 0.15, 0.20)] == [None] * 6
    assert [resolvable(60, d) for d in (0.08, 0.20)] == [None, detectable(60, 0.20)]
    assert resolvable(4000, 0.08) == detectable(4000, 0.08)


def test_equivalence_is_the_ninety_percent_interval_inside_of_the_margin():
    first, second, videos = pair_of_runs(np.random.default_rng(7), n=900, lift=0.02)
    low, high = np.quantile(resampled(rows_of(first, second, videos)), (0.05, 0.95))
    widest = max(abs(low), abs(high))
    assert equivalence_p(first, second, widest + 0.002, videos) < 0.05
    assert equivalence_p(first, second, widest - 0.002, videos) > 0.05


def test_equal_answers_to_few_questions_are_not_called_equivalent():
    few, many = {str(i): True for i in range(20)}, {str(i): True for i in range(2000)}
    assert equivalence_p(few, few, 0.01) > 0.05 and equivalence_p(many, many, 0.01) < 0.05


def test_equivalence_is_declared_too_often_nowhere():
    rng, wrong = np.random.default_rng(8), 0
    for _ in range(200):  # the true difference is the margin itself
        b, c, rest = rng.multinomial(400, [0.10, 0.05, 0.85])
        wrong += equivalence_p(*runs(int(rest), int(b), int(c), 0), 0.05) < 0.05
    assert wrong / 200 <= 0.09


def test_scores_are_compared_by_wilcoxon_and_the_bootstrap():
    rng = np.random.default_rng(9)
    second = {str(i): int(v) for i, v in enumerate(rng.integers(0, 5, 150))}
    first = {key: value + int(rng.random() < 0.4) for key, value in second.items()} | {"only here": 5}
    found = compare_scores(first, second)
    changes = [first[key] - second[key] for key in second]
    assert found.n == 150 and found.difference == pytest.approx(np.mean(changes))
    assert found.wilcoxon_p == pytest.approx(wilcoxon(changes).pvalue)
    assert found.low < found.difference < found.high
    assert equivalence_p_of_scores(first, second, 1.0) < 0.05 < equivalence_p_of_scores(first, second, 0.1)
    same = compare_scores(second, second)
    assert (same.difference, same.wilcoxon_p) == (0, 1.0)
    assert compare_scores({"a": 1}, {"a": 2}).high == float("inf"), "one clip says nothing of others"


def test_the_variance_over_clips_is_that_of_a_mean_and_holds_what_goes_together():
    values = np.random.default_rng(10).normal(size=50)
    keys = [str(i) for i in range(50)]
    assert clip_variance(clips(keys, values.tolist(), None)) == pytest.approx(values.var(ddof=1) / 50)
    twice = clips([*keys, *(f"again {k}" for k in keys)], [*values, *values], {k: k[-2:].strip() for k in keys} | {
        f"again {k}": k[-2:].strip() for k in keys
    })  # fmt: skip
    assert clip_variance(twice) == pytest.approx(values.var(ddof=1) / 50)


def test_one_seed_is_the_plain_comparison_and_seeds_that_differ_widen_it():
    rng = np.random.default_rng(11)
    first, second, videos = pair_of_runs(rng, n=400, lift=0.1)
    assert compare_seeds([first], [second], videos) == compare(first, second, videos)
    again = pair_of_runs(rng, n=400, lift=0.1)
    alike = compare_seeds([first, again[0], first], [second, again[1], second], videos)
    unlike = compare_seeds([first, second, first], [second, first, second], videos)
    assert alike.mcnemar_p is None and alike.seeds == 3
    assert unlike.high - unlike.low > 1.5 * (alike.high - alike.low) and unlike.p > 0.3


def test_scores_over_seeds_are_compared_as_right_and_wrong_are():
    """Of the same numbers both say the same, and one seed is the plain comparison."""
    rng = np.random.default_rng(13)
    sides = [[pair_of_runs(rng, n=400, lift=lift)[0] for _ in range(3)] for lift in (0.1, 0.0)]
    shares, scores = compare_seeds(*sides), compare_scores_seeds(*sides)
    for name in ("n", "difference", "low", "high", "p", "detectable", "first", "second", "seeds"):
        assert getattr(scores, name) == pytest.approx(getattr(shares, name)), name
    assert scores.wilcoxon_p is None
    assert compare_scores_seeds(sides[0][:1], sides[1][:1]) == compare_scores(sides[0][0], sides[1][0])
    same = compare_scores_seeds(sides[0], sides[0])
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_seed_noise_is_in_the_interval_and_p_is_calibrated_with_it():
    """Without a level effect each run is better or worse by the luck of its training: one seed calls that an effect."""
    rng, with_seeds, alone = np.random.default_rng(12), [], []
    for _ in range(120):
        sides = [
            [dict(enumerate((rng.random(400) < 0.6 + luck).tolist())) for luck in rng.normal(0, 0.05, 3)]
            for _ in range(2)
        ]
        sides = [[{str(k): v for k, v in run.items()} for run in side] for side in sides]
        with_seeds.append(compare_seeds(*sides).p < 0.05)
        alone.append(compare(sides[0][0], sides[1][0]).p < 0.05)
    assert np.mean(with_seeds) <= 0.09 < 0.2 < np.mean(alone)


def test_the_interval_over_seeds_is_students_where_questions_have_no_noise():
    values = [0.50, 0.54, 0.58]
    exact = Estimate(0.54, 0.54, 0.54)
    found = with_seed_noise(exact, values)
    half = 4.302653 * 0.04 / 3**0.5  # Student's quantile with 2 degrees of freedom
    assert (found.value, found.high - 0.54) == (0.54, pytest.approx(half, rel=1e-5))
    assert with_seed_noise(exact, values[:1]) is exact
