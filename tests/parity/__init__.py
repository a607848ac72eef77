"""Checks this implementation against a folder of values recorded from the reference: `python -m tests.parity DIR`.

What a case is follows from what it holds, never from its name: frames, levels, batches and cases may be others than
those in `tests/golden`. A recorded tensor that no check has compared is a failing row, and so is a case of no known
kind. Where the recording shows a defect of the reference, the row compares with the right behaviour and says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videogpt_plus.models.silence import quiet
from videogpt_plus.types import UserError

from . import cases, families, limits, precision, tables
from .folder import Folder
from .rows import Row, Sheet

Check = Callable[..., None]

#: Kind of a table -> the check of it, and whether a value is one.
TABLES: dict[str, tuple[Check, Callable[[Any], bool]]] = {
    "text": (tables.text, lambda t: _values(t, "conversation")),
    "mvbench_prompts": (tables.prompts, lambda t: _items(t, "Q", "prompts", "slice_len")),
    "check_ans": (tables.verdicts, lambda t: _items(t, "pred", "gt", "verdict")),
    "sampling": (
        tables.sampling,
        lambda t: isinstance(t, dict) and any(k.startswith(("raw_video", "frame_folder")) for k in t),
    ),
    "pool_shapes": (tables.pooled_shapes, lambda t: _items(t, "pool_level", "total")),
    "dataset_config": (
        tables.mixtures,
        lambda t: isinstance(t, dict) and all(_items(v, "annotation_path") for v in t.values()),
    ),
    "mvbench_hard_rule": (tables.token_aware, lambda t: _items(t, "correct", "selected")),
    "limits": (limits.limits, lambda t: _values(t, "ok")),
}


def check_folder(root: str | Path, only: str | None, tell: Callable[[Row], None]) -> list[Row]:
    """All rows of the folder, or of the case `only`; each is given to `tell` as soon as it is there.

    UserError: there is no folder, no case in it, or none of that name.
    """
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        tell(row)

    with tempfile.TemporaryDirectory() as work, quiet():
        if families.families_in(Path(root)):
            families.check_families(Path(root), Path(work), only, keep)
            return rows
        folder = Folder(Path(root), Path(work))
        names = folder.names()
        if not names:
            raise UserError(f"no recordings in {root}: expected folders with a meta.json, or tables such as text.json")
        if only is not None:
            only = only.removesuffix(".json")
            if only not in names:
                raise UserError(f"no case '{only}' in {root}; choose from: {', '.join(names)}")
            names = [only]
        for name in names:
            check(folder, name, keep)
        for name, why in folder.unused() if only is None else ():
            Sheet(name, keep).skip("file or folder", why)
    return rows


def check(folder: Folder, name: str, tell: Callable[[Row], None]) -> None:
    """The rows of one case. What it raises is a failing row: the other cases are checked all the same."""
    told: list[Row] = []
    sheet = Sheet(name, lambda row: (told.append(row), tell(row)))
    try:
        if folder.has_case(name):
            meta, tensors = folder.case(name)
            sheet.meta, sheet.tensors = meta, tensors
            kind_of(meta, tensors)(folder, sheet)
            sheet.unread()
        else:
            check_table(folder, sheet)
    except Exception as error:  # whatever goes wrong in one case is its result
        sheet.fail("the case", f"{type(error).__name__}: {' '.join(str(error).split())}")
    if not told:
        sheet.fail("the case", "nothing in it was compared")


def kind_of(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Check:
    """The check that fits what a case holds. UserError: none does."""
    if any(key.endswith("_regime") for key in meta):
        return precision.precision
    if meta.keys() & {"lora_scale", "non_lora_trainables", "checkpoint"}:
        return cases.lora
    if "encoder_features" in tensors and "labels" in tensors:
        return cases.pretraining
    if "pools" in meta and "conversations" in meta and "labels" in tensors:
        return cases.training
    if "pools" in meta and "frames" in meta and "input_ids" in tensors:
        return cases.inference
    raise UserError(f"a case of no known kind ({meta.get('kind', 'it declares none')}); it holds {', '.join(meta)}")


def check_table(folder: Folder, sheet: Sheet) -> None:
    table = folder.table(sheet.case)
    fitting = [compare for compare, fits in TABLES.values() if table and fits(table)]
    if fitting:
        fitting[0](folder, sheet, table)
    elif sheet.case in TABLES:
        sheet.fail("the table", "it does not hold what a table of this name holds")
    else:
        sheet.skip("the table", "no check knows what it holds")


def _items(value: Any, *keys: str) -> bool:
    """A list of objects with these keys."""
    return isinstance(value, list) and all(isinstance(item, dict) and item.keys() >= set(keys) for item in value)


def _values(value: Any, key: str) -> bool:
    """An object with an object in it that has this key."""
    return isinstance(value, dict) and any(isinstance(item, dict) and key in item for item in value.values())
