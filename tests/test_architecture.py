"""The house's walls: who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Lower rooms import nothing of a higher one; rooms on one level import nothing of each other.
LEVELS = [
    ["types"],
    ["io", "reducers"],
    ["config", "text"],
    ["encoders", "flops"],
    ["clips"],
    ["models"],
    ["families"],
    ["training", "inference"],
    ["toy", "convert", "hub", "eval"],
    ["app"],
    ["__main__"],
]
LEVEL = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}


def room_of(module: str) -> str | None:
    """`videogpt_plus.encoders.clip` -> `encoders`; everything in eval is one room."""
    head, *rest = module.split(".")
    if head == "eval":
        return "eval"
    return rest[0] if head == "videogpt_plus" and rest else None


def imports(path: Path) -> set[str]:
    """Every module of the project that a file names, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("videogpt_plus", "eval")}


def files() -> list[Path]:
    return sorted(p for folder in ("videogpt_plus", "eval") for p in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_imports_go_downwards(path):
    own = room_of(module_of(path))
    for name in imports(path):
        other = room_of(name)
        if own and other:
            assert own == other or LEVEL[other] < LEVEL[own], (
                f"{module_of(path)} imports {name}, which does not stand below it"
            )


def test_every_room_has_its_level():
    rooms = {room_of(module_of(path)) for path in files()} - {None}
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
        "eval.report.judged_tables",
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
    code += "\n".join(f"import {module_of(p)}" for p in files() if p.name != "__main__.py")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
