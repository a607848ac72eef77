"""Recordings of other model families: a folder of one, or a folder of such folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from videogpt_plus.types import UserError

from . import cinego, cogvlm2, llava
from .rows import Row, Sheet, names

#: Each with `is_family(root)`, `Recordings(root, work)`, `check(recordings, name, sheet)` and TOLERANCE.
KINDS: tuple[ModuleType, ...] = (cogvlm2, llava, cinego)
#: Parts that other folders read, and no recordings.
SHARED = "tokenizer"


def families_in(root: Path) -> dict[Path, ModuleType]:
    """Folder of recordings -> what knows their family; empty where there are none."""
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []
    return {folder: kind for folder in folders for kind in KINDS if kind.is_family(folder)}


def check_families(root: Path, work: Path, only: str | None, tell: Callable[[Row], None]) -> None:
    """The rows of every family's folder; `only` is a case such as cogvlm2_image/single_a. UserError: there is none."""
    found = families_in(root)
    cases = {f"{folder.name}/{name}" for folder, kind in found.items() for name in names(folder)}
    if only is not None and only not in cases:
        raise UserError(f"no case '{only}' in {root}; choose from: {', '.join(sorted(cases))}")
    for folder, kind in found.items():
        _check_family(kind, folder, work, only, tell)
    if only is None and root not in found:
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and p not in found and SHARED not in p.name):
            Sheet(folder.name, tell).skip("the folder", "no check knows this family")


def _check_family(kind: ModuleType, root: Path, work: Path, only: str | None, tell: Callable[[Row], None]) -> None:
    """The rows of a folder of recordings; cases are called `FOLDER/CASE`."""
    recordings = kind.Recordings(root, work)
    for name in names(root):
        if only is not None and only != f"{root.name}/{name}":
            continue
        told: list[Row] = []
        sheet = Sheet(f"{root.name}/{name}", lambda row, told=told: (told.append(row), tell(row)))
        sheet.tolerance = kind.TOLERANCE
        try:
            kind.check(recordings, name, sheet)
            sheet.unread()
        except Exception as error:  # whatever goes wrong in one case is its result
            sheet.fail("the case", f"{type(error).__name__}: {' '.join(str(error).split())}")
        if not told:
            sheet.fail("the case", "nothing in it was compared")
