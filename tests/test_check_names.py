"""What `make lint` says of names that lead nowhere, on a made-up tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.check_names import lost

ROOT = Path(__file__).parents[1]
FINE = """
import monkeypatch, torch, videogpt_plus.types
from videogpt_plus import types
from videogpt_plus.types import Clip, late, WIDTH, os
from videogpt_plus.made import anything
from helper import *
from helper import one
def inner():
    monkeypatch.setattr("videogpt_plus.types.Clip", None)
    monkeypatch.setattr(types, "Clip", None)
    return "Take a clip; import it from videogpt_plus as you like."
"""
WRONG = """
import monkeypatch, videogpt_plus.nowhere
from videogpt_plus import nothing
from helper import two
def inner(given: "b t d"):
    from ..videogpt_plus.types import Gone
    monkeypatch.setattr("videogpt_plus.types.Old.name", None)
    return "import sys; from videogpt_plus.types import Text"
try:
    print([given for given in __file__], unknown.name)
except OSError as error:
    print(error, inner)
"""


def test_each_name_that_leads_nowhere_is_told_and_no_other(tmp_path):
    for name, text in {
        "videogpt_plus/__init__.py": "",
        "videogpt_plus/types.py": "import os\nif True:\n    WIDTH, late = 1, 2\nclass Clip:\n    Old = 1\n",
        "videogpt_plus/made.py": "def __getattr__(name):\n    return 1\n",
        "tests/helper.py": "one = 1",
        "tests/test_fine.py": FINE,
        "tests/test_wrong.py": WRONG,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(lost(tmp_path)) == [
        "tests/test_wrong.py:2: videogpt_plus.nowhere leads nowhere",
        "tests/test_wrong.py:3: videogpt_plus.nothing leads nowhere",
        "tests/test_wrong.py:4: helper.two leads nowhere",
        "tests/test_wrong.py:6: videogpt_plus.types.Gone leads nowhere",
        "tests/test_wrong.py:7: videogpt_plus.types.Old.name leads nowhere",
        "tests/test_wrong.py:8: videogpt_plus.types.Text leads nowhere",
        "tests/test_wrong.py:10: unknown leads nowhere",
    ]


def test_no_name_of_the_project_leads_nowhere():
    done = subprocess.run([sys.executable, "-S", ROOT / "scripts" / "check_names.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
