"""Intervals and tests agree with their published values, with brute force and with each other."""

from __future__ import annotations

from itertools import product
from math import comb, inf, isfinite

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, permutation_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from benchmarks.coverage import World, runs
from eval.statistics import tango
from eval.statistics.clustered import spread
from eval.statistics.estimates import SCORE, Estimate, mean_score, share, wilson
from eval.statistics.paired import FEWEST_CLIPS, compare, compare_seeds, equivalence, holm
from eval.statistics.power import detectable, margin, resolvable
from eval.statistics.seeds import SeedNoise, half_width, of_differences, of_means, with_seed_noise
from eval.statistics.sign_flips import DRAWS, SignFlips


def pair(both: int, first: int, second: int, neither: int):
    cells = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return {f"{i:04}": a for i, (a, _) in enumerate(cells)}, {f"{i:04}": b for i, (_, b) in enumerate(cells)}


def clips_of(keys, per_clip: int) -> dict[str, str]:
    return {key: str(i // per_clip) for i, key in enumerate(keys)}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I: Wilson's score interval.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_has_the_published_bounds_and_so_has_a_share_of_clips_with_one_question(right, n, low, high):
    values = {f"{i:04}": float(i < right) for i in range(n)}
    for found in (wilson(right, n), share(values), share(values, {key: key for key in values})):
        assert found.value == right / n
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_and_holm_are_those_of_scipy_and_statsmodels():
    low, high = binomtest(37, 90).proportion_ci(0.95, method="wilson")
    assert wilson(37, 90)[1:] == pytest.approx((low, high))
    assert wilson(36.5, 90)[1:] == pytest.approx(proportion_confint(36.5, 90, method="wilson"))
    ps = np.random.default_rng(0).random(30) ** 3
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize(("up", "down", "n"), [(12, 1, 44), (9, 1, 32), (0, 0, 10), (1, 0, 10), (40, 25, 300)])
def test_tangos_interval_ends_where_the_score_of_the_restricted_likelihood_refuses(up, down, n):
    """The likeliest shares under a difference are found by search here, and by Tango's formula there."""
    found = tango.interval(up, down, n, 1.959963984540054)
    for limit in found:

        def loss(share, limit=limit):
            above, rest = share + limit, 1 - 2 * share - limit
            return -sum(k * np.log(p) for k, p in ((up, above), (down, share), (n - up - down, rest)) if k)

        low, high = max(0.0, -limit) + 1e-12, (1 - limit) / 2 - 1e-12
        share = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        score = (up - down - n * limit) / (n * (2 * share + limit - limit**2)) ** 0.5
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)
    assert tango.interval(down, up, n, 1.96) == pytest.approx([-x for x in reversed(tango.interval(up, down, n, 1.96))])


def test_questions_of_a_clip_that_go_together_are_worth_one_question():
    values = {f"{i:04}": float(i // 5 % 3 == 0) for i in range(300)}
    clips = clips_of(values, 5)
    once = {key: value for i, (key, value) in enumerate(values.items()) if i % 5 == 0}
    together, alone = share(values, clips), share(once)
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert spread(values, clips).design_effect() == pytest.approx(5, rel=0.05)


def test_a_mean_over_tasks_weighs_tasks_alike_and_knows_clips_that_they_share():
    right = {f"a{i}": float(i < 90) for i in range(100)} | {f"b{i}": float(i < 10) for i in range(20)}
    tasks = {key: key[0] for key in right}
    mean = share(right, None, tasks)
    assert mean.value == pytest.approx(0.7) and mean.low < 0.7 < mean.high
    assert mean.high - mean.low > share(right).high - share(right).low, "the small task is half of the mean"
    # Two tasks that ask the same about the same clips are one.
    twice = {f"{t}{i}": float(i % 3 == 0) for t in "ab" for i in range(120)}
    shared = share(twice, {key: key[1:] for key in twice}, {key: key[0] for key in twice})
    apart = share(twice, None, {key: key[0] for key in twice})
    assert shared.high - shared.low == pytest.approx((apart.high - apart.low) * 2**0.5, rel=0.03)


@pytest.mark.parametrize(("clips", "per_clip"), [(1, 40), (2, 20), (4, 10)])
def test_few_clips_are_worth_what_they_are_worth(clips, per_clip):
    """All right on two clips says as much of other clips as two questions do."""
    values = {f"{i:04}": 1.0 for i in range(clips * per_clip)}
    found = share(values, clips_of(values, per_clip))
    assert found.value == 1.0 and found.low == pytest.approx(wilson(clips, clips).low)


def test_paired_p_is_the_binomial_tail_of_the_questions_that_differ():
    found = compare(*pair(both=50, first=9, second=2, neither=10))
    tail = sum(comb(11, k) for k in range(3)) / 2**11
    assert (found.n, found.only_first, found.only_second, found.n_differing) == (71, 9, 2, 11)
    assert found.p == pytest.approx(2 * tail) and found.mcnemar_p == pytest.approx(2 * tail)
    assert found.difference == pytest.approx(7 / 71) and found.low < found.difference < found.high


def test_paired_comparison_turns_its_sign_with_the_order():
    first, second = pair(5, 9, 2, 1)
    there, back = compare(first, second), compare(second, first)
    assert there.p == back.p and there.difference == -back.difference
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert equivalence(first, second, 0.3) == equivalence(second, first, 0.3)


@pytest.mark.parametrize("cells", [(10, 0, 0, 5), (0, 20, 0, 0), (0, 0, 20, 0), (1, 0, 0, 0)])
def test_paired_interval_holds_its_difference_at_the_edges(cells):
    found = compare(*pair(*cells))
    assert -1 <= found.low <= found.difference <= found.high <= 1 and found.low < found.high
    assert cells[1] + cells[2] or found.p == 1.0


def test_only_common_questions_are_compared():
    assert compare({"a": True, "b": True}, {"b": False, "c": True}).n == 1


def test_the_order_of_the_questions_changes_nothing():
    first, second, videos = runs(World(200, 4, 0.3, 0.2).changes(np.random.default_rng(3)), np.random.default_rng(3))
    back = dict(reversed(first.items())), dict(reversed(second.items())), dict(reversed(videos.items()))
    assert compare(first, second, videos) == compare(*back)


@pytest.mark.parametrize("per_clip", [1, 3])
def test_interval_and_p_agree_about_zero_wherever_answers_lie(per_clip):
    """All outcomes of few questions, and drawn ones of many: 0 is inside exactly where p is 5 % or more."""
    for up, down in product(range(0, 25), range(0, 9)):
        found = compare(
            *pair(10, per_clip * up, per_clip * down, 20),
            clips_of(pair(10, per_clip * up, per_clip * down, 20)[0], per_clip),
        )
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high), (up, down, found)
    rng = np.random.default_rng(1)
    for _ in range(60):
        world = World(int(rng.integers(20, 400)), per_clip, 0.4, rng.uniform(0.02, 0.4), rng.uniform(0.5, 0.9))
        found = compare(*runs(world.changes(rng), rng))
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        scores = compare(
            {str(i): float(v) for i, v in enumerate(rng.integers(0, 6, 12))},
            {str(i): 2.0 for i in range(12)},
            scale=SCORE,
        )
        assert (scores.p < 0.05) == (not scores.low <= 0 <= scores.high)


def test_two_clips_that_turn_over_say_nothing_of_others():
    """8 clips of 25 questions, 2 of them turn over whole: no equivalence, no difference, an interval that says so."""
    first = {f"{i:03}": i >= 25 for i in range(200)}
    second = {f"{i:03}": i < 25 or i >= 50 for i in range(200)}
    videos = clips_of(first, 25)
    found = compare(first, second, videos)
    assert found.difference == 0 and found.high > 0.15 and found.p == 1.0
    said = equivalence(first, second, 0.10, videos)
    assert said.shown is None and said.too_few
    third = {key: i >= 50 for i, key in enumerate(first)}
    one_way = compare({key: True for key in first}, third, videos)
    assert one_way.p == 0.5 and one_way.low <= 0 < one_way.difference
    assert not isfinite(one_way.detectable), "two clips can never show a difference"


def test_one_clip_is_too_few_for_any_verdict():
    first, second = {f"{i:02}": True for i in range(40)}, {f"{i:02}": i < 20 for i in range(40)}
    found = compare(first, second, dict.fromkeys(first, "v"))
    assert found.too_few and found.p == 1.0 and found.low < 0 < found.high
    assert equivalence(first, second, 0.9, dict.fromkeys(first, "v")).shown is None


def test_equal_answers_are_equivalent_where_there_are_many_clips_and_not_where_there_are_few():
    few, many = {str(i): True for i in range(20)}, {str(i): True for i in range(2000)}
    assert equivalence(few, few, 0.01).shown is False and equivalence(many, many, 0.01).shown is True
    assert equivalence(many, many, 0.01, clips_of(many, 500)).shown is None
    assert equivalence(many, many, 0.05, clips_of(many, 10)).shown is True, "200 clips rule out that 5 points changed"


def test_equivalence_is_the_ninety_percent_interval_inside_of_the_margin():
    first, second = pair(500, 60, 40, 300)
    low, high = tango.interval(60, 40, 900, 1.6448536269514722)
    widest = max(abs(low), abs(high))
    assert equivalence(first, second, widest + 1e-6).shown and not equivalence(first, second, widest - 1e-6).shown


def test_the_test_by_clips_is_the_permutation_test():
    changes = np.array([2, -1, 1, 1, 0, 3, -1, 1, 2, 1])
    theirs = permutation_test(
        (changes,), lambda x: x.sum(), permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert SignFlips(changes).p == pytest.approx(theirs.pvalue)
    assert SignFlips(np.array([1] * 9 + [-1] * 2)).p == pytest.approx(binomtest(2, 11).pvalue)
    assert SignFlips(np.array([0, 0])).p == 1.0


def test_sums_of_fractions_have_the_same_p_counted_tried_and_drawn():
    rng = np.random.default_rng(4)
    whole = rng.integers(-3, 4, 14)
    assert SignFlips(whole * 0.37).p == pytest.approx(SignFlips(whole).p), "all signs are tried"
    many = rng.integers(-3, 5, 60)
    counted, drawn = SignFlips(many), SignFlips(many * 0.37)
    assert drawn.p == pytest.approx(counted.p, abs=4 * (counted.p / DRAWS) ** 0.5)
    assert drawn.critical(0.05) == pytest.approx(0.37 * counted.critical(0.05), rel=0.06)


def test_a_sum_is_significant_exactly_from_the_critical_one_on():
    for n in (5, 6, 9, 30):
        flips = SignFlips(np.ones(n))
        least = next(
            (k for k in range(n + 1) if 2 * sum(comb(n, i) for i in range(k, n + 1)) / 2**n < 0.05 and 2 * k > n), None
        )
        assert flips.critical(0.05) == (inf if least is None else 2 * least - n)


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
    once = {k: v for k, v in first.items() if k.endswith("-0")}
    assert together.p == pytest.approx(compare(once, second).p)


WORLDS = [
    World(40, 1, 0.0, 0.1, 0.8), World(200, 5, 0.3, 0.1, 0.8), World(200, 20, 0.8, 0.4, 0.5, "copied"),
    World(400, 20, 0.3, 0.1, 0.8, "copied"), World(400, 5, 0.8, 0.1, 0.8), World(1000, 5, 0.3, 0.2, 0.7),
]  # fmt: skip


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_interval_holds_the_truth_and_equivalence_is_not_claimed_at_the_margin(world):
    """A small version of `benchmarks.coverage paired`, whose goals are 90 % and 6 %."""
    rng, held, wrong, n = np.random.default_rng(5), 0, 0, 150
    for _ in range(n):
        first, second, videos = runs(world.changes(rng), rng)
        found = compare(first, second, videos)
        held += found.low <= world.difference <= found.high
        wrong += bool(world.difference and equivalence(first, second, world.difference, videos).shown)
    assert held / n >= 0.86 and wrong / n <= 0.11, "within three standard errors of 90 % and 6 %"


@pytest.mark.parametrize(
    "world", [World(40, 20, 0.8, 0, 0.55), World(400, 20, 0.3, 0, 0.9), World(1000, 5, 0.8, 0, 0.3)], ids=str
)
def test_the_interval_of_an_accuracy_holds_the_truth_with_clips_where_wilson_alone_does_not(world):
    rng, held, alone, n = np.random.default_rng(6), 0, 0, 200
    for _ in range(n):
        values = {f"{i:04}": float(v) for i, v in enumerate(world.right(rng).ravel())}
        low, high = share(values, clips_of(values, world.per_clip))[1:]
        held += low <= world.share <= high
        naive = share(values)
        alone += naive.low <= world.share <= naive.high
    assert held / n >= 0.87 and alone / n < 0.80


@pytest.mark.parametrize("world", [World(1000, 1, 0, 0.15), World(1000, 5, 0.3, 0.2)], ids=str)
@pytest.mark.parametrize("level", [0.05, 0.005])
def test_what_is_called_detectable_is_found_four_times_in_five(world, level):
    rng = np.random.default_rng(7)
    finds = np.median([compare(*runs(world.changes(rng), rng)).detectable_at(level) for _ in range(15)])
    lifted = world._replace(share=(1 + finds / world.discordance) / 2)
    found = sum(compare(*runs(lifted.changes(rng), rng)).p < level for _ in range(200))
    assert 0.70 <= found / 200 <= 0.90


def test_no_difference_is_called_detectable_that_the_changing_questions_cannot_make():
    """Of seven questions that differ, six to one side show nothing at 5 %: nothing is found surely."""
    assert not isfinite(compare(*pair(50, 3, 2, 50)).detectable)
    assert isfinite(compare(*pair(500, 80, 75, 500)).detectable)
    assert [resolvable(n, d) for n in (8, 24) for d in (0.08, 0.15, 0.20)] == [None] * 6
    assert [resolvable(60, d) for d in (0.08, 0.20)] == [None, detectable(60, 0.20)]
    assert resolvable(4000, 0.08) == detectable(4000, 0.08)


def test_what_mvbench_resolves():
    assert margin(0.55, 4000) == pytest.approx(0.0154, abs=5e-5)
    assert margin(0.55, 200) == pytest.approx(0.069, abs=5e-4)
    assert [detectable(4000, d) for d in (0.08, 0.15, 0.20)] == pytest.approx([0.0125, 0.017, 0.020], abs=3e-4)
    assert [detectable(200, d) for d in (0.08, 0.15, 0.20)] == pytest.approx([0.056, 0.077, 0.089], abs=5e-4)
    assert detectable(4000, 0.15, 0.005) > detectable(4000, 0.15)
    assert detectable(40, 0.0) == 6 / 40 and detectable(3, 0.5) == 1.0


def test_the_mean_of_scores_is_tested_and_not_their_ranks():
    """60 clips lose a point, 13 win five: the mean is above zero by chance, whatever most clips say."""
    first = {f"{i:02}": 0.0 if i < 60 else 5.0 for i in range(73)}
    second = {f"{i:02}": 1.0 if i < 60 else 0.0 for i in range(73)}
    found = compare(first, second, scale=SCORE)
    assert found.difference == pytest.approx(5 / 73) and found.p > 0.5 and found.low < 0 < found.high


def test_scores_of_few_clips_show_nothing_and_have_no_interval_of_zero_width():
    for clips in (1, 2, 5):
        first, second = ({str(i): value for i in range(clips)} for value in (4.0, 3.0))
        found = compare(first, second, scale=SCORE)
        assert (
            found.p >= 0.05
            and found.too_few
            and (found.low, found.high) == (-inf, inf)
            and not isfinite(found.detectable)
        )
        assert equivalence(first, second, 5, scale=SCORE).shown is None
    six = compare({str(i): 4.0 for i in range(6)}, {str(i): 3.0 for i in range(6)}, scale=SCORE)
    assert six.p == pytest.approx(2 / 2**6) and 0 < six.low < 1 < six.high and FEWEST_CLIPS == 6
    same = {str(i): 3.0 for i in range(100)}
    assert compare(same, same, scale=SCORE).low < 0 < compare(same, same, scale=SCORE).high


def test_a_mean_score_has_an_interval_by_clips_within_the_scale():
    assert mean_score({"a": 4.0, "b": 3.0}, {"a": "v", "b": "v"}) is None, "one clip says nothing of others"
    two = mean_score({"a": 4.0, "b": 4.0}, None)
    assert two is not None and two.low < 4.0 < two.high
    rng = np.random.default_rng(8)
    values = {f"{i:03}": float(v) for i, v in enumerate(rng.integers(0, 6, 300))}
    found = mean_score(values, None)
    error = np.std(list(values.values()), ddof=1) / 300**0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.97 * error, rel=0.02)


def test_scores_that_are_equivalent_are_told_from_those_that_are_not():
    rng = np.random.default_rng(9)
    second = {str(i): float(v) for i, v in enumerate(rng.integers(0, 5, 150))}
    first = {key: value + float(rng.random() < 0.4) for key, value in second.items()}
    assert equivalence(first, second, 1.0, scale=SCORE).shown is True
    assert equivalence(first, second, 0.1, scale=SCORE).shown is False


def test_one_seed_is_the_plain_comparison_and_seeds_that_differ_widen_it():
    rng = np.random.default_rng(11)
    world = World(400, 2, 0.2, 0.2, 0.75)
    first, second, videos = runs(world.changes(rng), rng)
    assert compare_seeds([first], [second], videos) == compare(first, second, videos)
    alike = compare_seeds([first] * 3, [second] * 3, videos)
    unlike = compare_seeds([first, second, first], [second, first, second], videos)
    assert alike.mcnemar_p is None and alike.seeds == 3
    assert unlike.high - unlike.low > 1.5 * (alike.high - alike.low) and unlike.p > 0.3


def test_over_seeds_interval_and_p_are_one_test():
    parts = [(1e-4, 60.0), (2e-4, 4.0)]
    for difference in (0.02, 0.05, 0.09):
        from eval.statistics.seeds import p_of

        p = p_of(difference, parts)
        assert half_width(p, parts) == pytest.approx(difference, rel=1e-6)
    # With no noise of the one kind it is Student's test of the other.
    from scipy.stats import t

    assert half_width(0.05, [(4e-4, 7.0)]) == pytest.approx(t.ppf(0.975, 7) * 0.02)


def test_scores_over_seeds_are_compared_as_right_and_wrong_are():
    rng = np.random.default_rng(13)
    sides = [[runs(World(400, 1, 0, 0.2).changes(rng), rng)[0] for _ in range(3)] for _ in range(2)]
    shares, scores = compare_seeds(*sides), compare_seeds(*sides, scale=SCORE)
    for name in ("n", "difference", "low", "high", "p", "first", "second", "seeds"):
        assert getattr(scores, name) == pytest.approx(getattr(shares, name)), name
    assert compare_seeds(sides[0][:1], sides[1][:1], scale=SCORE) == compare(sides[0][0], sides[1][0], scale=SCORE)
    same = compare_seeds(sides[0], sides[0], scale=SCORE)
    assert same.difference == 0 and same.low < 0 < same.high and same.p == 1


def test_the_luck_of_training_is_pooled_over_levels_and_a_seed_that_is_better_everywhere_cancels():
    base, luck = np.array([0.5, 0.6, 0.7, 0.4]), np.array([[0.01, -0.01], [-0.01, 0.01], [0.01, -0.01], [-0.01, 0.01]])
    found = of_differences(base[:, None] + luck + np.array([0.0, 0.2]))
    # The four interactions of +-0.01: 8 squares of 0.01 over (4 - 1)(2 - 1) degrees of freedom.
    assert found == pytest.approx(SeedNoise(8 * 1e-4 / 3, 3))
    assert of_differences([[0.5, 0.6]]) is None and of_differences([[0.5], [0.6]]) is None
    assert of_means([[0.5, 0.7], [0.4, 0.4], [0.9]]) == pytest.approx(SeedNoise(0.02 / 2, 2))
    assert of_means([[0.5], [0.6]]) is None


def test_two_seeds_call_luck_an_effect_seldom_and_one_seed_often():
    """A small version of `benchmarks.coverage seeds`: no level effect, training luck of 3 points, 2,000 questions."""
    from benchmarks.coverage import _sweep

    rng, pooled, alone, n = np.random.default_rng(12), 0, 0, 100
    for _ in range(n):
        right = _sweep(rng, 1000, 1, 4, 2, 0.03, 0.0)
        sides = [[dict(enumerate(run.tolist())) for run in level] for level in right[:2]]
        sides = [[{f"{k:04}": v for k, v in run.items()} for run in side] for side in sides]
        pooled += compare_seeds(*sides, noise=of_differences(right.mean(axis=2))).p < 0.05
        alone += compare(sides[0][0], sides[1][0]).p < 0.05
    assert pooled / n <= 0.13 < alone / n


def test_the_interval_over_seeds_is_students_where_questions_have_no_noise():
    values = [0.50, 0.54, 0.58]
    exact = Estimate(0.54, 0.54, 0.54)
    found = with_seed_noise(exact, values)
    half = 4.302653 * 0.04 / 3**0.5  # Student's quantile with 2 degrees of freedom
    assert (found.value, found.high - 0.54) == (0.54, pytest.approx(half, rel=1e-5))
    assert with_seed_noise(exact, values[:1]) is exact
    pooled = with_seed_noise(exact, values, SeedNoise(0.04**2, 10))
    assert pooled.high - 0.54 == pytest.approx(2.228139 * 0.04 / 3**0.5, rel=1e-5)


@pytest.mark.parametrize("sizes", [(2,) * 20, (200, 1, 1, 1, 1), (200, 2, 2, 2, 2), (10, 10, 10)])
def test_a_mean_over_tasks_of_few_questions_is_as_uncertain_as_these_make_it(sizes):
    """A task of one question lies at its own mean: taken for certain it left intervals that never held the truth."""
    rng, chances, held = np.random.default_rng(3), np.linspace(0.3, 0.8, len(sizes)), 0
    tasks = {f"{task} {i}": task for task, size in enumerate(sizes) for i in range(size)}
    for _ in range(200):
        right = {key: bool(rng.random() < chances[task]) for key, task in tasks.items()}
        found = share(right, None, tasks)
        held += found.low <= chances.mean() <= found.high
    assert held >= 0.92 * 200


def test_a_task_of_one_clip_is_not_certain_of_its_mean():
    rng, held = np.random.default_rng(4), 0
    tasks = {f"{task} {i}": task for task, size in enumerate((200, 20, 20)) for i in range(size)}
    clips = {key: key if task == 0 else f"clip {task}" for key, task in tasks.items()}
    for _ in range(200):
        whole = {clip: bool(rng.random() < 0.5) for clip in sorted(set(clips.values()))}
        found = share({key: whole[clip] for key, clip in clips.items()}, clips, tasks)
        held += found.low <= 0.5 <= found.high
    assert held >= 0.92 * 200


def test_three_clips_with_most_of_the_questions_are_no_ground_for_equivalence():
    """Of 100 questions 60 are of three clips: what 43 clips say is worth what 8 clips would."""
    clips = {str(i): f"long {i // 20}" if i < 60 else f"single {i}" for i in range(100)}
    first = {key: int(key) < 20 or 60 <= int(key) < 76 for key in clips}
    found = compare(first, dict.fromkeys(clips, False), clips)
    assert found.n_differing == 17 and spread(first, clips).units == pytest.approx(8.06, abs=0.01)
    alike = {str(i): str(i // 20) if i < 60 else str(3 + (i - 60) // 20) for i in range(160)}
    few = compare({key: int(key) // 20 < 2 for key in alike}, dict.fromkeys(alike, False), alike)
    assert found.high - found.low > 0.75 * (few.high - few.low)
