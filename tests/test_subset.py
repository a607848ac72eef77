"""The token-aware rule, on every outcome there is, and what it picks where the level has no effect."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest

from eval.subset import (
    LEVELS,
    agreement,
    analyse,
    cross_fit,
    minimal_levels,
    needs_tokens,
    null_of_rule,
    oracle,
    selected,
)
from videogpt_plus import cli
from videogpt_plus.checkpoint import save_experiment
from videogpt_plus.experiments import TOY, at_level, with_adapter, with_seed
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
    done = subprocess.run([sys.executable, "-c", "import sys, eval.subset; sys.exit('torch' in sys.modules)"])
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
    assert found["share"] == pytest.approx(share, abs=0.003)
    assert found["expected"] / 100_000 == pytest.approx(share, abs=0.003)


def test_without_an_effect_the_p_of_the_rule_is_uniform():
    ps = [null_of_rule(dealt(0.16, (1, 4, 2000), seed))["p"] for seed in range(200)]
    assert kstest(ps, "uniform").pvalue > 0.01
    assert np.mean(np.array(ps) < 0.05) < 0.09


def test_the_null_is_what_shuffling_each_question_gives():
    outcomes, rng = dealt(0.2, (2, 4, 300)), np.random.default_rng(1)
    counts = [selected(rng.permuted(outcomes, axis=1)).sum() for _ in range(3000)]
    found = null_of_rule(outcomes)
    assert found["expected"] == pytest.approx(np.mean(counts), abs=0.5)
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(counts, (0.025, 0.975)), abs=1.5)
    by_hand = null_of_rule(np.array([[[1, 1], [0, 1], [0, 0], [0, 0]]], dtype=bool))
    # One of 4 and one of 6 orders: 1/4 + 1/6 expected, both at once 1/24.
    assert by_hand["expected"] == pytest.approx(1 / 4 + 1 / 6) and by_hand["p"] == pytest.approx(1 / 24)
    # The two runs that are wrong throughout may change places.
    assert by_hand["p_orders"] == pytest.approx(2 / 24)


def test_an_effect_of_the_level_is_found():
    found = null_of_rule(with_effect((1, 4, 1000), 0.1))
    assert found["p"] < 1e-6 and found["observed"] > found["high"]


def test_the_subset_of_one_seed_is_half_right_on_another_where_there_is_no_effect_and_right_where_there_is():
    for row in cross_fit(dealt(0.16, (2, 4, 20_000))):
        assert [0.45 < found.value < 0.6 for found in row["accuracy"]] == [True] * 4
    first, *_, last = cross_fit(with_effect((2, 4, 2000), 0.3))[0]["accuracy"]
    assert first.value > 0.9 and last.value < 0.15
    assert cross_fit(dealt(0.16, (1, 4, 100))) == []


def test_a_minimal_level_is_sufficient_itself_and_so_is_every_finer_one():
    # "levels questions": right on so many of two seeds.
    counts = np.array([[2, 1, 0, 2, 2], [2, 1, 2, 0, 2], [0, 1, 2, 2, 2]])
    outcomes = np.stack([counts > 0, counts > 1])
    assert minimal_levels(outcomes).tolist() == [1, 2, -1, 0, 2]


def test_the_agreement_of_seeds_is_none_by_chance_and_full_where_they_are_equal():
    rng = np.random.default_rng(0)
    assert abs(agreement(rng.integers(-1, 4, (3, 4000)), 4)) < 0.03
    assert agreement(np.repeat(rng.integers(-1, 4, (1, 50)), 3, axis=0), 4) == pytest.approx(1)
    assert np.isnan(agreement(np.zeros((3, 50), int), 4))


def test_the_oracle_gains_nothing_beyond_chance_without_an_effect_and_something_with_one():
    videos = [str(i) for i in range(1000)]
    found = oracle(dealt(0.2, (2, 4, 1000)), videos)
    assert found["gain"] > 0.15, "several guesses alone gain so much"
    assert abs(found["excess"]) < 0.02 and found["cross_fitted"]["p"] > 0.01
    assert found["cross_fitted"]["low"] < 0.005 and abs(found["cross_fitted"]["gain"]) < 0.03
    # Half of the questions want few tokens, half many.
    outcomes = dealt(0.02, (2, 4, 1000))
    outcomes[:, :2, :250], outcomes[:, 2:, :250] = True, False
    outcomes[:, :2, 250:500], outcomes[:, 2:, 250:500] = False, True
    found = oracle(outcomes, videos)
    assert found["cross_fitted"]["low"] > 0.15 and found["cross_fitted"]["p"] < 0.005 and found["excess"] > 0


def runs_of(outcomes: np.ndarray, levels=(2, 4, 8, 16)) -> tuple[dict, dict]:
    keys = [f"q{i}" for i in range(outcomes.shape[-1])]
    runs = {
        (seed, level): dict(zip(keys, map(bool, row), strict=True))
        for seed, block in enumerate(outcomes)
        for level, row in zip(levels, block, strict=True)
    }
    return runs, {key: {"video": key} for key in keys}


def test_with_one_seed_it_is_said_what_cannot_be_known():
    found = analyse(*runs_of(dealt(0.2, (1, 4, 100))))
    assert len(found["unknown"]) == 4 and found["cross_fit"] == []
    assert found["oracle"]["excess"] is None and found["oracle"]["cross_fitted"] is None
    assert found["minimal_levels"]["kappa"] is None
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
    assert "by chance" in out and "60 of 60 questions are in all runs" in out


def test_the_command_refuses_two_experiments_and_a_run_twice(folders, tmp_path, capsys):
    other = with_adapter(at_level(TOY, 4), "max")
    save_experiment(tmp_path / other.name, other)
    again = tmp_path / "again"
    shutil.copytree(folders[0], again)
    for second, said in ((tmp_path / other.name, "are not one experiment"), (again, "is a second run of level 16")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["subset", str(folders[0]), str(second)])
        assert stop.value.code == 2 and said in capsys.readouterr().err
