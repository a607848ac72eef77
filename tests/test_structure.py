"""The figures of a tree that is small enough to be counted by eye."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SLOWEST

from benchmarks.structure import GOALS, circles, figures, floors, imports, table

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "structure.py"
TREE = {
    "videogpt_plus/__init__.py": "",
    "videogpt_plus/types.py": "def shape(x):\n    def inner():\n        return x\n    return inner\n",
    "videogpt_plus/models/__init__.py": "",
    "videogpt_plus/models/base.py": "from ..types import shape\nfrom . import lora\n",
    "videogpt_plus/models/lora.py": "def late():\n    from videogpt_plus.models.base import shape\n    return shape\n",
    "videogpt_plus/families/__init__.py": "",
    "videogpt_plus/families/one.py": "import videogpt_plus.models.base\n" + "# a comment\n" * 400,
    "videogpt_plus/app/cli.py": "from eval import score\ntry:\n    score.main()\nexcept OSError:\n    pass\n",
    "eval/__init__.py": "",
    "eval/score.py": "import torch\nfrom videogpt_plus.families import one\nfrom videogpt_plus.types import shape\n",
}


@pytest.fixture
def tree(tmp_path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_figure_is_that_of_the_tree(tree):
    assert figures(tree) == {
        "rooms": 6,  # families/__init__.py holds records, which are a room of their own
        "floors": 5,  # types, models, families, eval, app
        "circles between rooms": [],
        "circles between files": [["videogpt_plus.models.base", "videogpt_plus.models.lora"]],
        "lines of library and eval": 418,
        "lines of the library": 415,
        "lines of eval": 3,
        "lines of the core": 9,
        "files over 400 lines": 1,
        "median lines of a function": 3,
        "90 % of functions have at most": 4,
        "try statements": 1,
    }


def test_relative_imports_and_names_in_modules_are_read(tree):
    found = imports(tree / "videogpt_plus/models/base.py", tree)
    assert found == {"videogpt_plus.types.shape", "videogpt_plus.models.lora"}


@pytest.mark.parametrize(
    ("graph", "height", "found"),
    [
        ({}, 0, []),
        ({"a": set()}, 1, []),
        ({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}, 3, []),
        ({"a": {"b"}, "b": {"a", "c"}, "c": set()}, 2, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d"}}, 1, [["a", "b", "c"], ["d"]]),
    ],
)
def test_floors_and_circles_of_a_graph(graph, height, found):
    assert (floors(graph), circles(graph)) == (height, found)


def test_the_table_says_what_is_over_its_goal_and_names_the_circles(tree):
    said = subprocess.run([sys.executable, "-S", SCRIPT, tree], capture_output=True, text=True, check=True).stdout
    rows = said.splitlines()
    assert "floors                                 5  at most 9       met" in rows
    assert "circles between files                  1  at most 0       1 over" in rows
    assert rows[-1] == "one of the circles between files: videogpt_plus.models.base, videogpt_plus.models.lora"


def test_every_goal_is_that_of_a_figure(tree):
    assert GOALS.keys() <= figures(tree).keys() and table(figures(tree))


def test_the_files_that_begin_because_they_take_longest_exist():
    assert [name for name in SLOWEST if not (Path(__file__).parent / f"{name}.py").exists()] == []
