"""The other families on an earlier transformers: the same tests, in a process that finds that version first.

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


@pytest.mark.skipif(not EARLIER.is_dir(), reason="no earlier transformers in .cache/transformers-4.57: see the file")
@pytest.mark.parametrize("tests", TESTS)
def test_families_on_an_earlier_transformers(tests):
    surroundings = {**os.environ, "PYTHONPATH": str(EARLIER)}
    said = subprocess.run(
        [sys.executable, "-c", "import transformers; print(transformers.__version__)"],
        capture_output=True,
        text=True,
        env=surroundings,
    )
    assert said.stdout.startswith("4.57"), said.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
