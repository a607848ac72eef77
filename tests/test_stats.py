"""Intervals and tests agree with their published values and with brute force."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from eval.stats import above, compare, detectable, holm, margin, mean_share, wilson


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
