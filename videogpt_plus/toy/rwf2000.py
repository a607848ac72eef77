"""The toy's RWF-2000: two figures that fight or pass each other, rendered into the folders of the real one.

ROOT/{train,val}/{Fight,NonFight}/0007.avi  ROOT/{train,val}.json  ROOT/made.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from videogpt_plus.io import fingerprint
from videogpt_plus.io.folders import making
from videogpt_plus.toy.render import write_mp4
from videogpt_plus.training import rwf2000

#: Height and width of a clip, its frames, and how many of them a second; 4 seconds.
HEIGHT, WIDTH, FRAMES, RATE = 72, 96, 16, 4


@dataclass(frozen=True)
class Recipe:
    """How many clips of each kind, and from which seed."""

    train: int = 24
    val: int = 12
    seed: int = 20
    # Of the question.
    language: str = "en"


def ensure_rwf2000(root: Path, recipe: Recipe = Recipe(), progress: Callable[[int, int], None] | None = None) -> bool:
    """Renders the clips and writes the two files unless they stand there, whole and from this recipe and code; True
    when they were made. Of several processes one renders while the others wait.
    """
    names = [*rwf2000.SPLITS, *(f"{split}.json" for split in rwf2000.SPLITS)]
    with making(root, _made_from(recipe), names) as scratch:
        if scratch is None:
            return False
        clips = list(_clips(recipe))
        for done, (name, fight, seed) in enumerate(clips, 1):
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mp4(path, film(fight, np.random.default_rng(seed)), HEIGHT, WIDTH, RATE)
            if progress:
                progress(done, len(clips))
        for split in rwf2000.SPLITS:
            rwf2000.write(scratch, scratch / f"{split}.json", split, recipe.language, True, decode=False)
    return True


def film(fight: bool, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    """Two figures on a noisy floor. In a fight they stand close and leap about, else they walk past each other."""
    floor = rng.integers(60, 110) + rng.normal(0, 6, (HEIGHT, WIDTH, 1))
    frames = np.repeat(floor[None], FRAMES, axis=0).repeat(3, axis=-1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    middle = rng.uniform((0.4, 0.35), (0.6, 0.65)) * (HEIGHT, WIDTH)
    for side, colour in ((-1, (230, 70, 60)), (1, (240, 200, 80))):
        for t in range(FRAMES):
            if fight:
                place = middle + (0, 6 * side) + rng.normal(0, 6, 2)
            else:
                place = middle + (14 * side, side * (t / (FRAMES - 1) - 0.5) * 0.8 * WIDTH)
            near = ((rows - place[0]) / 14) ** 2 + ((columns - place[1]) / 7) ** 2 < 1
            frames[t][near] = colour
    return frames.clip(0, 255).astype(np.uint8)


def _clips(recipe: Recipe) -> Iterator[tuple[str, bool, tuple[int, ...]]]:
    """Name below the root, whether it is a fight, and seed of every clip."""
    for part, (split, count) in enumerate((("train", recipe.train), ("val", recipe.val))):
        for kind, label in enumerate(rwf2000.LABELS):
            for i in range(count):
                yield f"{split}/{label}/{i:04d}.avi", label == "Fight", (recipe.seed, part, kind, i)


def _made_from(recipe: Recipe) -> dict[str, object]:
    return {**asdict(recipe), "code": [fingerprint.of_path(path) for path in (__file__, rwf2000.__file__)]}
