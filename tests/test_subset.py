"""The token-aware rule, on every outcome there is."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from eval.subset import LEVELS, needs_tokens
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
