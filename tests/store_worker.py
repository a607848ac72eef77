"""Grids for tests of the store; run as a script it is a process that reads and writes them again and again.

`python store_worker.py FOLDER STEP CAP_GIB TURNS` prints the number of each turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from videogpt_plus.clips.cache import GridCache

SETTINGS = "f" * 16
#: How many entries a process goes through, and how many frames each has.
ENTRIES, FRAMES = 12, 64


def name(number: int) -> str:
    return f"{number:016x}-{SETTINGS}"


def grids(seed: int = 0, t: int = 4) -> dict[str, torch.Tensor]:
    """Two streams; the channels of "image" differ in size by orders of magnitude, as an encoder's do."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(t, 6, 6, 16, generator=random) * 10.0 ** torch.arange(-3, 5).repeat_interleave(2)
    return {"image": image, "video": torch.randn(t, 4, 4, 8, generator=random)}


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor]) -> bool:
    return a is not None and a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].equal(b[n]) for n in a)


def main(folder: str, step: str, cap_gib: str, turns: str) -> None:
    store = GridCache(folder, "float32", float(cap_gib))
    for turn in range(int(turns)):
        number = turn * int(step) % ENTRIES
        kept = store.read(name(number))
        assert kept is None or same(kept, grids(number, FRAMES)), number
        store.write(name(number), grids(number, FRAMES))
        print(turn, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
