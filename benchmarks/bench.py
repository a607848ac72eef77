"""`make bench`: measures on this machine, writes benchmarks/results/*.json and the tables of docs/performance.md.

python -m benchmarks.bench --only sweep training --repeats 3
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import gpu, memory, stages, sweeps, tables, timing, training
from videogpt_plus.io.files import write_json

#: Section -> what measures it, in a folder for its files with so many repeats.
SECTIONS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "stages": stages.mid_size,
    "width": stages.real_width,
    "sweep": sweeps.mid_size,
    "choices": sweeps.choices,
    "training": training.mid_size,
    "vocabulary": training.real_vocabulary,
    "memory": memory.toy,
    "gpu": gpu.real_size,
}


def main(
    only: tuple[Literal[tuple(SECTIONS)], ...] = tuple(SECTIONS),
    repeats: int = 5,
    output: Path = Path("benchmarks/results"),
    docs: Path | None = Path("docs/performance.md"),
) -> None:
    """Measure and write down.

    Args:
        only: Sections to measure; all unless told.
        repeats: Rounds of what is timed, after one that is thrown away.
        output: Folder of the results, a JSON file a section.
        docs: File whose tables are written from all results in `output`; "None" leaves it alone.
    """
    for name in only:
        print(f"{name} ...", flush=True)
        result = measure(name, repeats)
        write_json(output / f"{name}.json", result)
        print(tables.parts({name: result})[name] + "\n", flush=True)
    results = tables.read(output)
    print(tables.parts(results)["targets"])
    if docs is not None:
        tables.write(results, docs)


def measure(section: str, repeats: int) -> dict[str, Any]:
    """One section's figures with all that is needed to read them."""
    busy = timing.busy_percent()
    with tempfile.TemporaryDirectory(prefix=f"bench_{section}_") as folder:
        rates = timing.matmul_rates("cuda" if section == "gpu" and timing.has_gpu() else "cpu")
        found = SECTIONS[section](Path(folder), repeats)
    if not found:
        return {"section": section, "date": str(date.today())}
    return {
        "section": section,
        "date": str(date.today()),
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]) if sys.argv[1:] else "make bench",
        "machine": timing.machine(),
        "busy_percent": busy,
        "rates": rates,
        "repeats": repeats,
        **found,
    }


if __name__ == "__main__":
    tyro.cli(main)
