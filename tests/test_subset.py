"""The token-aware rule, on every outcome there is, and what it picks where the level has no effect."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import permutations, product

import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa

from benchmarks import subset_size
from benchmarks.made_up import Case
from eval.statistics.contrast import Clips
from eval.statistics.oracle import by_question, by_type, gain, guessing, oracle
from eval.statistics.subset import (
    LEVELS,
    agreement,
    agreement_beyond_difficulty,
    analyse,
    cross_fit,
    minimal_levels,
    needs_tokens,
    null_of_rule,
    selected,
)
from videogpt_plus.app import cli
from videogpt_plus.app.commands.subset import sentences
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.experiments import TOY, at_level, with_reducer, with_seed
from videogpt_plus.types import UserError


def test_exactly_the_outcomes_that_turn_over_once_are_chosen():
    chosen = {outcome for outcome in product((False, True), repeat=4) if needs_tokens(outcome)}
    assert chosen == {
        (True, False, False, False),
        (True, True, False, False),
        (True, True, True, False),
    }


def test_the_levels_run_from_the_most_tokens_to_the_fewest():
    assert LEVELS == (2, 4, 8, 16)


@pytest.mark.parametrize("results", [[], [True, False], [True] * 5])
def test_a_result_for_each_level_is_needed(results):
    with pytest.raises(UserError, match="2, 4, 8, 16"):
        needs_tokens(results)


def test_the_rule_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, eval.statistics.subset; sys.exit('torch' in sys.modules)"]
    )
    assert done.returncode == 0


def dealt(discordance: float, shape: tuple[int, int, int], seed: int = 0, mean: float = 0.55) -> np.ndarray:
    """Outcomes without any effect of the level: each question has a chance of its own, from a Beta distribution."""
    rng, spread = np.random.default_rng(seed), discordance / 2 / (mean * (1 - mean))
    weight = spread / (1 - spread)
    return rng.random(shape) < rng.beta(mean * weight, (1 - mean) * weight, shape[-1])


def with_effect(shape: tuple[int, int, int], needing: float, seed: int = 0) -> np.ndarray:
    """As `dealt`, and a share of the questions is right at the first two levels and wrong at the others."""
    outcomes = dealt(0.1, shape, seed)
    outcomes[:, :, : int(needing * shape[-1])] = (np.arange(shape[1]) < 2)[None, :, None]
    return outcomes


def test_the_rule_on_arrays_is_the_rule_on_questions():
    outcomes = np.array(list(product((False, True), repeat=4))).T
    assert selected(outcomes).tolist() == [needs_tokens(column) for column in outcomes.T]


@pytest.mark.parametrize(("discordance", "share"), [(0.12, 0.050), (0.16, 0.066), (0.20, 0.082), (0.24, 0.098)])
def test_without_an_effect_the_rule_still_picks_five_to_ten_percent(discordance, share):
    outcomes = dealt(discordance, (1, 4, 100_000))
    assert (outcomes[0, 0] != outcomes[0, 1]).mean() == pytest.approx(discordance, abs=0.005)
    found = null_of_rule(outcomes)
    assert found.share == pytest.approx(share, abs=0.003)
    assert found.expected / 100_000 == pytest.approx(share, abs=0.003)


def test_the_null_is_every_order_of_each_seeds_runs():
    outcomes = dealt(0.2, (2, 4, 60))
    orders = list(permutations(range(4)))
    counts = [
        selected(outcomes[0, list(one)]).sum() + selected(outcomes[1, list(other)]).sum()
        for one, other in product(orders, orders)
    ]
    found = null_of_rule(outcomes)
    assert found.expected == pytest.approx(np.mean(counts))
    assert found.p == pytest.approx(np.mean(np.array(counts) >= found.observed))
    assert (found.low, found.high) == tuple(np.quantile(counts, (0.05, 0.95), method="inverted_cdf"))
    assert found.least_p == pytest.approx(1 / 24**2)


def test_a_null_worked_by_hand():
    found = null_of_rule(np.array([[[1, 1], [0, 1], [0, 0], [0, 0]]], dtype=bool))
    # One of 4 and one of 6 orders: 1/4 + 1/6 expected; the two runs that are wrong throughout may change places.
    assert found.expected == pytest.approx(1 / 4 + 1 / 6) and found.p == pytest.approx(2 / 24)


def test_of_many_levels_orders_are_drawn():
    rng = np.random.default_rng(0)
    found = null_of_rule(rng.random((1, 9, 200)) < np.linspace(0.95, 0.05, 9)[None, :, None])
    assert 0 < found.p < 0.01 and found.expected < found.observed


def test_a_lucky_run_or_clips_of_many_questions_make_no_small_p_and_an_effect_does():
    """Small versions of `python -m benchmarks.subset_size`: 5 %; 8 % is 2 standard errors above."""
    lucky, clustered = Case(200, 1, 0.0, 0.16, 3, 3.0), Case(200, 20, 0.8, 0.16, 2, 1.0)
    assert subset_size.rates(lucky, 200, "rule")[0] <= 0.08
    assert subset_size.rates(clustered, 200, "rule")[0] <= 0.08
    assert subset_size.rates(Case(1000, 1, 0.0, 0.16, 3, 0.0), 50, "rule")[1] >= 0.9


def test_one_seed_cannot_have_a_p_below_that_of_its_orders():
    found = null_of_rule(with_effect((1, 4, 1000), 0.1))
    assert found.p >= found.least_p == pytest.approx(1 / 24)
    found = null_of_rule(with_effect((3, 4, 1000), 0.1))
    assert found.p < 0.005 and found.observed > found.high


def test_the_subset_of_one_seed_is_half_right_on_another_where_there_is_no_effect_and_right_where_there_is():
    for row in cross_fit(dealt(0.16, (2, 4, 20_000)), range(20_000)):
        assert [0.45 < found.value < 0.6 for found in row.accuracy] == [True] * 4
    first, *_, last = cross_fit(with_effect((2, 4, 2000), 0.3), range(2000))[0].accuracy
    assert first.value > 0.9 and last.value < 0.15
    assert cross_fit(dealt(0.16, (1, 4, 100)), range(100)) == []


def test_the_accuracies_of_a_subset_allow_for_clips():
    outcomes = np.repeat(with_effect((2, 4, 100), 0.5), 10, axis=2)
    apart, together = (cross_fit(outcomes, clips)[0].accuracy[1] for clips in (range(1000), np.arange(1000) // 10))
    assert together.value == apart.value and together.high - together.low > 2 * (apart.high - apart.low)


def test_a_minimal_level_is_sufficient_itself_and_so_is_every_finer_one():
    # "levels questions": right on so many of two seeds.
    counts = np.array([[2, 1, 0, 2, 2], [2, 1, 2, 0, 2], [0, 1, 2, 2, 2]])
    outcomes = np.stack([counts > 0, counts > 1])
    assert minimal_levels(outcomes).tolist() == [1, 2, -1, 0, 2]


def test_the_agreement_of_seeds_is_none_by_chance_and_full_where_they_are_equal():
    rng = np.random.default_rng(0)
    dealt_out = rng.integers(-1, 4, (3, 4000))
    assert abs(agreement(dealt_out)) < 0.03
    table = np.stack([(dealt_out == level).sum(axis=0) for level in range(-1, 4)], axis=1)
    assert agreement(dealt_out) == pytest.approx(fleiss_kappa(table))
    assert agreement(np.repeat(rng.integers(-1, 4, (1, 50)), 3, axis=0)) == pytest.approx(1)
    assert np.isnan(agreement(np.zeros((3, 50), int)))


def test_difficulty_alone_makes_the_seeds_agree_and_the_null_says_so():
    found = [agreement_beyond_difficulty(dealt(0.16, (3, 4, 300), seed)) for seed in range(5)]
    assert all(0.4 < one.kappa < 0.8 for one in found)
    assert all(abs(one.kappa - one.expected) < 0.05 for one in found)
    assert sum(one.p < 0.05 for one in found) <= 1
    outcomes = dealt(0.16, (3, 4, 300))
    outcomes[:, :, :90] = np.arange(4)[:, None] <= np.arange(90) % 3
    beyond = agreement_beyond_difficulty(outcomes)
    assert beyond.kappa > beyond.high and beyond.p < 0.01
    assert agreement_beyond_difficulty(dealt(0.16, (1, 4, 300))) is None
    assert agreement_beyond_difficulty(np.ones((3, 4, 50), bool)) is None


def test_guesses_are_right_as_often_as_any_runs_drawn_whatever_their_level():
    outcomes, rng = dealt(0.3, (2, 4, 5)), np.random.default_rng(0)
    runs = outcomes.reshape(8, 5)
    drawn = [runs[rng.permutation(8)[:4]].any(axis=0) for _ in range(4000)]
    assert guessing(outcomes) == pytest.approx(np.mean(drawn, axis=0), abs=0.03)


def suited_by_type(n: int, seeds: int = 2) -> tuple[np.ndarray, list[str]]:
    """Questions of one type want many tokens, those of the other few; half of all, the rest is `dealt`."""
    outcomes = dealt(0.1, (seeds, 4, n))
    outcomes[:, :2, : n // 4], outcomes[:, 2:, : n // 4] = True, False
    outcomes[:, :2, n // 4 : n // 2], outcomes[:, 2:, n // 4 : n // 2] = False, True
    return outcomes, ["fine" if i % (n // 2) < n // 4 else "coarse" for i in range(n)]


def test_the_oracle_gains_nothing_beyond_guesses_without_an_effect_and_something_with_one():
    types = ["a", "b"] * 500
    found = oracle(dealt(0.2, (2, 4, 1000)), range(1000), types)
    assert found.gain > 0.15, "several guesses alone gain so much"
    assert found.excess.low < 0 < found.excess.high and found.excess.p > 0.05
    assert found.by_question.low < 0.005 and found.by_type.low < 0.005
    outcomes, types = suited_by_type(1000)
    found = oracle(outcomes, range(1000), types)
    assert found.excess.low > 0 and found.excess.p < 0.05
    assert found.by_question.low > 0.15 and found.by_type.low > 0.15
    assert found.by_type.value == pytest.approx(0.25, abs=0.05) and found.by_type.p < 0.01


def test_choosing_levels_where_there_is_nothing_to_choose_claims_no_gain():
    """A small version of `python -m benchmarks.subset_size`: 2.5 % on that side."""
    claims = np.array(subset_size.rates(Case(300, 3, 0.4, 0.16, 3, 1.0), 120, "oracle")[:3])
    assert (claims <= 0.08).all()


def test_a_level_for_each_question_is_chosen_on_the_other_seeds_alone():
    # "seeds levels questions": the first question is right at level 1 with seed 0 alone, the second at level 0 alone.
    outcomes = np.array([[[0, 1], [1, 0]], [[0, 1], [0, 0]]], dtype=bool)
    # Seed 1 says: level 0 for all, and nothing of the first question, which takes the last level and is right with
    # seed 0. Seed 0 has both levels right once, so the last for all; the second question takes level 0 and gains.
    chosen, fixed = by_question(outcomes)
    assert chosen.tolist() == [[1, 0], [1, 0]] and fixed.tolist() == [[0, 0], [1, 1]]
    assert gain(outcomes, chosen, fixed, Clips("ab")).value == (1 + 1) / 4


def test_a_level_for_each_type_is_not_chosen_on_the_clip_that_it_is_scored_on():
    """Each clip is right at a level of its own: what suits one clip says nothing of another."""
    rng = np.random.default_rng(0)
    best = rng.integers(0, 4, 50)
    outcomes = np.repeat(np.arange(4)[:, None] == best, 20, axis=1)[None]
    chosen, fixed = by_type(outcomes, Clips(np.arange(1000) // 20), [f"type {i // 20}" for i in range(1000)])
    assert (chosen == fixed).all(), "a type of one clip knows no level, and takes the fixed one"


def runs_of(outcomes: np.ndarray, levels=(2, 4, 8, 16)) -> tuple[dict, dict]:
    keys = [f"q{i}" for i in range(outcomes.shape[-1])]
    runs = {
        (seed, level): dict(zip(keys, map(bool, row), strict=True))
        for seed, block in enumerate(outcomes)
        for level, row in zip(levels, block, strict=True)
    }
    return runs, {key: {"video": key, "task": f"task {i % 2}"} for i, key in enumerate(keys)}


def test_with_one_seed_it_is_said_what_cannot_be_known():
    found = analyse(*runs_of(dealt(0.2, (1, 4, 100))))
    assert len(found["unknown"]) == 4 and found["cross_fit"] == []
    assert found["oracle"]["excess"] is None and found["oracle"]["by_question"] is None
    assert found["minimal_levels"]["agreement"] is None
    assert analyse(*runs_of(dealt(0.2, (2, 4, 100))))["unknown"] == []


def test_only_questions_of_all_runs_count_and_other_levels_are_not_called_published():
    runs, about = runs_of(dealt(0.2, (2, 5, 50)), levels=(1, 2, 4, 8, 16))
    del runs[0, 4]["q7"]
    found = analyse(runs, about)
    assert (found["n"], found["n_all"]) == (49, 50) and "q7" not in found["questions"]
    assert found["rule"]["levels"] == [2, 4, 8, 16] and found["rule"]["published"]
    other = analyse(*runs_of(dealt(0.2, (2, 3, 50)), levels=(1, 4, 16)))
    assert other["rule"]["levels"] == [1, 4, 16] and not other["rule"]["published"] and other["unknown"]


def test_the_order_of_the_runs_changes_nothing():
    runs, about = runs_of(dealt(0.2, (2, 4, 60)))
    turned = {at: dict(reversed(run.items())) for at, run in reversed(runs.items())}
    assert json.dumps(analyse(runs, about)) == json.dumps(analyse(turned, about))


@pytest.mark.parametrize(
    ("dropped", "said"),
    [(lambda at: at[1] == 2, "only level 2"), (lambda at: at != (1, 8), "there is no run of level 8 with seed 1")],
)
def test_runs_that_are_no_grid_are_refused(dropped, said):
    runs, about = runs_of(dealt(0.2, (2, 4, 20)))
    with pytest.raises(UserError, match=said):
        analyse({at: run for at, run in runs.items() if dropped(at)}, about)


def test_the_sentences_claim_what_the_numbers_show():
    outcomes, _ = suited_by_type(1000, seeds=3)
    said = "\n".join(sentences(analyse(*runs_of(outcomes))))
    assert "the level matters for some questions; whether choosing it pays is another matter" in said
    assert "over one level for all" in said and ": a gain." in said
    said = "\n".join(sentences(analyse(*runs_of(dealt(0.16, (3, 4, 400), 1)))))
    assert "is not shown to pick more questions than it would if the level had no effect" in said
    assert "the seeds are not shown to agree beyond it" in said and "are not shown to add anything" in said
    assert said.count("no gain shown") == 2
    said = "\n".join(sentences(analyse(*runs_of(dealt(0.16, (1, 4, 400))))))
    assert "no p is below 0.042 with one seed" in said and "of the same runs, whose luck is in it" in said
    few = "\n".join(sentences(analyse(*runs_of(dealt(0.16, (2, 4, 9))))))
    assert few.count("too few clips differ to tell") == 3


@pytest.fixture
def folders(tmp_path):
    """Run folders of two seeds at four levels with their answers."""
    for seed, block in zip((42, 7), with_effect((2, 4, 60), 0.3), strict=True):
        for level, row in zip((2, 4, 8, 16), block, strict=True):
            e = with_seed(at_level(TOY, level), seed)
            save_experiment(tmp_path / e.name, e)
            (tmp_path / e.name / "answers").mkdir()
            lines = [
                {"key": f"q{i}", "task": "t", "video": f"{i}.mp4", "reference": "(A) a", "correct": bool(right),
                 "error": None}
                for i, right in enumerate(row)
            ]  # fmt: skip
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / e.name / "answers/answers.jsonl").write_text(text)
    return sorted(path for path in tmp_path.iterdir() if path.is_dir())


def test_the_command_exports_the_subset_of_run_folders(folders, tmp_path, capsys):
    cli.main(["subset", *map(str, folders), "--output", str(tmp_path / "subset.json")])
    out, found = capsys.readouterr().out, json.loads((tmp_path / "subset.json").read_text())
    assert found["seeds"] == [7, 42] and found["levels"] == [2, 4, 8, 16] and found["n"] == 60
    assert {"q0", "q17"} <= set(found["subset"]["7"]) & set(found["subset"]["42"])
    assert found["questions"]["q0"] == {
        "task": "t", "video": "0.mp4", "right": [2, 2, 0, 0], "minimal_level": 4,
        "minimal_level_by_seed": [4, 4], "in_subset_of": [7, 42],
    }  # fmt: skip
    assert "without an effect" in out and "60 of 60 questions are in all runs" in out


def test_the_command_refuses_two_experiments_and_a_run_twice(folders, tmp_path, capsys):
    other = with_reducer(at_level(TOY, 4), "max")
    save_experiment(tmp_path / other.name, other)
    again = tmp_path / "again"
    shutil.copytree(folders[0], again)
    for second, said in ((tmp_path / other.name, "are not one experiment"), (again, "is a second run of level 16")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["subset", str(folders[0]), str(second)])
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_the_range_and_the_p_of_the_rule_agree():
    for seed, needing in product(range(20), (0.0, 0.06)):
        found = null_of_rule(with_effect((2, 4, 150), needing, seed))
        assert (found.observed > found.high) == (found.p < 0.05), found
