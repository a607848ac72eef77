"""The house's walls: who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.structure import files, imports, module_of, room_of

ROOT = Path(__file__).parent.parent
#: Lower rooms import nothing of a higher one; rooms on one level import nothing of each other.
LEVELS = [
    ["types"],
    ["io", "reducers", "records"],
    ["config", "text"],
    ["encoders", "flops", "clips"],
    ["models"],
    ["families"],
    ["training", "inference"],
    ["toy", "convert", "hub", "eval"],
    ["app"],
]
LEVEL = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
FILES = files(ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path, ROOT))
def test_imports_go_downwards(path):
    own = room_of(module_of(path, ROOT), ROOT)
    for name in imports(path, ROOT):
        other = room_of(name, ROOT)
        if own and other:
            assert own == other or LEVEL[other] < LEVEL[own], (
                f"{module_of(path, ROOT)} imports {name}, which does not stand below it"
            )


def test_every_room_has_its_level():
    rooms = {room_of(module_of(path, ROOT), ROOT) for path in FILES} - {None}
    assert rooms == LEVEL.keys()


@pytest.mark.parametrize(
    "module",
    [
        "videogpt_plus.app.cli",
        "videogpt_plus.config.experiments",
        "videogpt_plus.flops",
        "videogpt_plus.app.sweep.cells",
        "videogpt_plus.convert",
        "eval.answers.score",
        "eval.report.report",
        "eval.report.judged",
        "eval.tasks.mvbench",
    ],
)
def test_light_rooms_import_nothing_heavy(module):
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'peft', 'av', 'matplotlib', 'deepspeed', 'httpx2', 'gradio'}\n"
        "heavy &= sys.modules.keys()\n"
        "sys.exit(f'heavy: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_core_needs_none_of_the_extras():
    extras = [
        "bitsandbytes",
        "deepspeed",
        "gradio",
        "decord",
        "flash_attn",
        "liger_kernel",
        "torchcodec",
        "timm",
        "open_clip",
        "torchvision",
    ]
    code = f"import sys\nfor name in {extras}:\n    sys.modules[name] = None\n"
    code += "\n".join(f"import {module_of(p, ROOT)}" for p in FILES if p.name != "__main__.py")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
