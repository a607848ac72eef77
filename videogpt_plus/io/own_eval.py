"""Where this project's `eval` is found, whatever else is called so in the folder that a command is run in.

Imported for its effect, by what runs commands: it puts sys.path in order.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_own_eval() -> None:
    """Moves what holds another `eval` behind the folder that holds this project's, in sys.path.

    `python -m`, and so torchrun, puts the working folder first, and `eval` is a common name for a folder of one's own.
    Processes that are spawned take over the order. ImportError: another `eval` is imported already.
    """
    if "eval" in sys.modules and not _is_own(sys.modules["eval"].__spec__):
        raise ImportError(
            f"another package is called `eval` and was imported first ({sys.modules['eval']}): run `videogpt-plus` in "
            "a process of its own"
        )
    others = [entry for entry in sys.path if (spec := PathFinder.find_spec("eval", [entry])) and not _is_own(spec)]
    if others:
        kept = [entry for entry in sys.path if entry not in others]
        own = [] if any(Path(entry).resolve() == ROOT for entry in kept) else [str(ROOT)]
        sys.path[:] = [*kept, *own, *others]


def _is_own(spec: object) -> bool:
    return getattr(spec, "origin", None) is not None and Path(spec.origin).resolve() == ROOT / "eval" / "__init__.py"


find_own_eval()
