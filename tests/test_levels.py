"""Statistics over ordered levels: worked by hand, and as often right as they say where the truth is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import beta, ttest_1samp

from benchmarks import levels_coverage
from benchmarks.made_up import Case, outcomes
from eval.statistics import budget, tango
from eval.statistics import fewest_tokens as fewest
from eval.statistics import trend as trends
from eval.statistics.band import band
from eval.statistics.contrast import Clips, contrast, luck
from eval.statistics.estimates import wilson
from eval.statistics.fewest_tokens import fewest_tokens
from eval.statistics.trend import trend

TOKENS = (800, 400, 200, 100, 50)


def dealt(case: Case, truth, seed: int = 0) -> np.ndarray:
    return outcomes(case, truth, np.random.default_rng(seed))


def test_a_contrast_of_clips_of_one_question_is_students_paired_t():
    runs = dealt(Case(200, seeds=1), [0.6, 0.5])
    found = contrast(runs, Clips(range(200)), [1, -1])
    known = ttest_1samp(runs[0, 0].astype(float) - runs[0, 1], 0)
    low, high = known.confidence_interval()
    assert found.value == pytest.approx(runs[0, 0].mean() - runs[0, 1].mean())
    assert found.interval()[1:] == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
    assert found.p == pytest.approx(known.pvalue, rel=0.02)


def test_questions_copied_within_their_clip_change_no_error():
    runs = dealt(Case(100, seeds=2), [0.6, 0.55, 0.5])
    once = contrast(runs, Clips(range(100)), [1, 0, -1])
    copied = contrast(np.repeat(runs, 7, axis=2), Clips(np.arange(700) // 7), [1, 0, -1])
    assert copied == pytest.approx(once)


def test_the_order_of_the_questions_and_the_names_of_clips_change_nothing():
    case = Case(120, 4, 0.5, 0.2, 2, 1.0)
    runs, clips = dealt(case, [0.6, 0.5]), np.array(case.clips)
    turned = np.random.default_rng(3).permutation(120)
    there = contrast(runs, Clips(clips), [1, -1])
    back = contrast(runs[..., turned], Clips([f"other {clip}" for clip in clips[turned]]), [1, -1])
    assert back == pytest.approx(there)


def test_the_p_and_the_interval_of_a_contrast_agree():
    for seed in range(60):
        found = contrast(dealt(Case(150, seeds=1 + seed % 3, luck=2.0), [0.6, 0.5], seed), Clips(range(150)), [1, -1])
        _, low, high = found.interval()
        assert (found.p < 0.05) == (low > 0 or high < 0)


def test_the_luck_of_training_is_measured_without_the_questions_that_turn_over():
    found = [luck(dealt(Case(1000, seeds=3, luck=3.0), [0.6] * 4, seed), Clips(range(1000))) for seed in range(60)]
    assert np.mean([one.mean_square - one.of_questions for one in found]) ** 0.5 == pytest.approx(0.03, abs=0.004)
    none = [luck(dealt(Case(1000, seeds=3), [0.6] * 4, seed), Clips(range(1000))) for seed in range(60)]
    assert abs(np.mean([one.mean_square - one.of_questions for one in none])) < 0.005**2
    assert luck(dealt(Case(50, seeds=1), [0.6] * 4), Clips(range(50))) is None


def test_two_seeds_of_two_levels_do_not_find_what_luck_makes():
    """Satterthwaite's common t rejects in 10 to 13 % here."""
    clips, rng = Clips(range(300)), np.random.default_rng(1)
    rejected = [
        contrast(outcomes(Case(300, seeds=2, luck=2.0), [0.6, 0.6], rng), clips, [1, -1]).p < 0.05 for _ in range(300)
    ]
    assert np.mean(rejected) <= 0.07


def with_losses(n: int, lost: int, won: int) -> np.ndarray:
    """One seed, two levels: so many questions only the first has right, so many only the second."""
    runs = np.ones((1, 2, n), bool)
    runs[0, 1, :lost], runs[0, 0, lost : lost + won] = False, False
    return runs


def test_the_bound_of_a_loss_is_tangos_score_bound():
    # Tango, Statistics in Medicine 17, 1998: 12 and 2 of 44 differ; 95 % two-sided from -0.096 to 0.284 is of 9 and 5.
    found = fewest_tokens(with_losses(44, 9, 5), range(44), 0.1).losses[0]
    assert found.value == pytest.approx(4 / 44) and found.method == "score"
    variance = tango.variance(9, 5, 44, found.at_most) / 44**2
    # The bound solves the score equation with Student's quantile of the 14 clips that differ.
    assert (found.at_most - found.value) / variance**0.5 == pytest.approx(1.771 * (44 / 43) ** 0.5, rel=0.002)


def test_where_few_clips_differ_the_bound_is_exact_or_says_nothing():
    one = fewest_tokens(with_losses(1000, 3, 1), range(1000), 0.01).losses[0]
    assert one.method == "exact" and one.at_most == pytest.approx(beta.ppf(0.95, 4, 997))
    # 8 clips of 25 questions, two of which turn over whole.
    runs = np.ones((1, 2, 200), bool)
    runs[0, 1, :25], runs[0, 0, 25:50] = False, False
    found = fewest_tokens(runs, np.arange(200) // 25, 0.1)
    assert found.place == 0 and found.losses[0].at_most > 0.3
    assert "8: too few clips to tell (2 clips differ from 2)." in fewest.sentence(found, ["2", "8"], 0.1)


def test_the_sequence_ends_at_the_first_level_that_fails():
    runs = np.ones((1, 4, 400), bool)
    runs[0, 1, :12], runs[0, 2, :80], runs[0, 3, 20:32] = False, False, False
    found = fewest_tokens(runs, range(400), 0.06)
    assert [one.at_most < 0.06 for one in found.losses] == [True, False, True] and found.place == 1
    assert found.failed() == found.losses[1]
    said = fewest.sentence(found, ["2", "4", "8", "16"], 0.06)
    assert said.startswith("4 is the fewest tokens shown to cost less than 6 points against 2: it costs 3.0, at most")
    assert "8 costs 20.0 points" in said and "one training seed, so of these runs alone" in said


def test_scores_are_bounded_by_their_mean_and_refused_where_few_differ():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (1, 2, 300)).astype(float)
    found = fewest_tokens(scores, range(300), 1.0)
    assert found.losses[0].method == "t" and found.place == 1
    scores[0, 1] = scores[0, 0]
    assert fewest_tokens(scores, range(300), 1.0).losses[0].at_most == np.inf


def test_a_level_that_costs_the_margin_is_rarely_claimed():
    """As in `python -m benchmarks.levels_coverage --tests fewest`: 5 % each; 10 % is 2.8 standard errors above."""
    for case in (Case(300, 10, 0.6, 0.2, 1), Case(300, 1, 0.0, 0.16, 2, 2.0), Case(500, 1, 0.0, 0.06, 1)):
        assert levels_coverage.fewest(case, 150)[0] <= 0.1
    assert levels_coverage.fewest(Case(1000, 1, 0.0, 0.16, 3), 40)[1] >= 0.95


def test_a_trend_is_the_change_of_a_halving():
    runs = np.zeros((1, 5, 100), bool)
    for level in range(5):
        runs[0, level, : 90 - 10 * level] = True
    found = trend(runs, range(100), TOKENS)
    assert found.per_halving == pytest.approx(-0.1) and found.low < -0.1 < found.high and found.p < 0.001
    assert "Accuracy falls with fewer visual tokens: -10.00 points" in trends.sentence(found)
    assert trend(runs[:, ::-1], range(100), TOKENS).per_halving == pytest.approx(0.1)


def test_the_trend_of_a_few_clips_turns_each_round():
    runs = dealt(Case(45, 5, 0.9, 0.3, 1), [0.7, 0.6, 0.5, 0.4, 0.3])
    clips = np.arange(45) // 5
    found = trend(runs, clips, TOKENS)
    sums = [sum(((2 - level) * runs[0, level, clips == clip]).sum() for level in range(5)) for clip in range(9)]
    turned = [abs(np.dot(signs, sums)) >= abs(sum(sums)) - 1e-9 for signs in product((1, -1), repeat=9)]
    assert found.method == "sign flips" and found.p == pytest.approx(np.mean(turned))
    assert found.low == -np.inf and "exact by sign flips" in trends.sentence(found)


def test_one_test_of_the_trend_finds_what_pairs_do_not():
    none, by_trend, by_pairs = levels_coverage.trends(Case(500, 1, 0.0, 0.16, 1), 80)
    assert none <= 0.1 and by_trend >= by_pairs + 0.15


def test_the_band_of_one_level_is_wilsons_interval_with_students_quantile():
    runs = np.zeros((1, 1, 5000), bool)
    runs[0, 0, :3000] = True
    found, known = band(runs, range(5000))[0], wilson(3000, 5000)
    assert found.value == 0.6 and found[1:] == (pytest.approx(known.low, abs=1e-4), pytest.approx(known.high, abs=1e-4))


def test_a_band_stays_within_0_and_1_and_grows_with_what_is_copied_in_a_clip():
    runs = np.zeros((2, 3, 60), bool)
    runs[:, 0], runs[:, 1, ::2] = True, True
    for found in band(runs, range(60)):
        assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.02
    alike = band(np.repeat(runs, 20, axis=2), np.arange(1200) // 20)
    assert alike[1] == pytest.approx(band(runs, range(60))[1], abs=0.02)
    assert all(one.high - one.low > 0.2 for one in band(np.ones((1, 2, 200), bool), np.arange(200) // 20))


def test_the_band_holds_the_whole_curve_as_often_as_it_says():
    """Small versions of `python -m benchmarks.levels_coverage --tests band`: 95 %; single intervals hold it less."""
    together = []
    for case in (Case(400, 1, 0.0, 0.16, 1), Case(400, 10, 0.5, 0.2, 1), Case(300, 1, 0.0, 0.16, 2, 3.0)):
        flat, steep, single = levels_coverage.bands(case, 50)
        assert flat >= 0.86 and steep >= 0.86
        together.append(steep - single)
    assert np.mean(together) > 0.02


def test_nothing_of_a_budget_follows_from_one_seed():
    assert budget.components(dealt(Case(100, seeds=1), [0.6, 0.5]), range(100)) is None
    assert budget.sentences(None, [], 100, 1000) == [budget.NOT_ESTIMABLE]


def known(of_luck: float) -> budget.Components:
    return budget.Components(0.1, 0.1, of_luck, luck_freedom=8, clips_per_question=1.0, levels=5)


def test_luck_asks_for_seeds_and_none_of_it_for_questions():
    few, many = (budget.best(budget.splits(known(luck), 500, 20_000, 4000)) for luck in (0.0, 0.03**2))
    assert few.seeds == 4 and few.questions == 4000, "the fewest that ask all questions the budget allows"
    assert many.seeds > few.seeds
    rows = budget.splits(known(0.001), 500, 20_000)
    assert [row.questions for row in rows[:2]] == [9500, 6166] and all(row.questions >= 40 for row in rows)
    assert budget.splits(known(0.001), 500, 900) == []
    assert "is too small for two seeds" in budget.sentences(known(0.001), [], 500, 900)[1]
    assert (
        f"best split into {many.seeds} seeds"
        in budget.sentences(known(0.03**2), budget.splits(known(0.03**2), 500, 20_000, 4000), 500, 20_000)[1]
    )


def test_the_test_finds_the_detectable_difference_four_times_in_five():
    for case in (Case(500, 1, 0.0, 0.16, 3, 1.0), Case(500, 5, 0.4, 0.16, 2, 2.0)):
        power, _, lucky = levels_coverage.budgets(case, 120)
        assert 0.7 <= power <= 0.9 and lucky == pytest.approx(case.luck / 100, abs=0.006)
