"""The other families on an earlier transformers: the tests that compute with it, in a process that finds it first.

It is looked for in `.cache/transformers-4.57`, where this puts it:
    pip install --target .cache/transformers-4.57 --no-deps transformers==4.57.1 huggingface_hub==0.36.0 \
        tokenizers==0.22.1 requests urllib3 idna certifi charset_normalizer
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EARLIER = ROOT / ".cache" / "transformers-4.57"
TESTS = (
    "tests/test_cogvlm2.py",
    "tests/test_cogvlm2_files.py",
    "tests/test_llava.py",
    "tests/test_convert_llava.py",
)
#: Words in names of tests in which transformers has no part: of sizes and rules, of files that are refused or
#: converted key by key, of lines that are said, and of sweeps, whose models answer in `predict` as well.
NOT_OF_TRANSFORMERS = (
    "a_sweep_over_levels", "answered_at_several_levels", "asked_by_name_at_any_level", "tokens_are_told",
    "what_is_wrong", "do_not_alternate",
    "full_size", "by_hand", "the_level_is_a_dial_on_the_grid", "frames_in_the_middle", "costs_are",
    "no_more_than_a_shard", "verify_tells", "missing_and_unexpected", "what_is_missing", "look_alikes",
    "borrowed_config", "frequencies_that_differ", "under_two_names", "published_folder_named", "a_finite_value",
    "packed_and_doubled", "does_not_fetch", "parity_notices",
)  # fmt: skip


@pytest.mark.skipif(not EARLIER.is_dir(), reason="no earlier transformers in .cache/transformers-4.57: see the file")
def test_families_on_an_earlier_transformers():
    surroundings = {**os.environ, "PYTHONPATH": str(EARLIER)}
    said = subprocess.run(
        [sys.executable, "-c", "import transformers; print(transformers.__version__)"],
        capture_output=True,
        text=True,
        env=surroundings,
    )
    assert said.stdout.startswith("4.57"), said.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    command += ["-k", " and ".join(f"not {word}" for word in NOT_OF_TRANSFORMERS)]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
