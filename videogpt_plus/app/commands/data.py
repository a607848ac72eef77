"""`data`: published data sets as the files that a training and a benchmark read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from videogpt_plus.app.screen import progress

#: So many files are named at most.
SHOWN = 8


def data(
    dataset: Positional[Annotated[Literal["rwf2000"], arg(metavar="DATASET")]],
    data_dir: Path,
    output: Path,
    split: Literal["train", "val", "all"] = "train",
    language: Literal["zh", "en"] = "zh",
    relative_paths: bool = False,
    decode: bool = True,
    workers: int = 2,
    clip_seconds: float = 120.0,
) -> None:
    """Write the clips of RWF-2000 as a JSON of conversations: is there violence, 1 or 0?

    Args:
        dataset: rwf2000.
        data_dir: Folder that holds train/{Fight,NonFight} and val/{Fight,NonFight}.
        output: The JSON file; trainings read .cache/RWF-2000/train.json, the benchmark .cache/RWF-2000/val.json.
        split: train, val, or all for both.
        language: Language of the question: zh as published, or en.
        relative_paths: Write paths from the output's folder on, so that both can be moved together.
        decode: Read every clip; one of train that cannot be read is left out.
        workers: Processes that read clips; 0 reads in this one, without a time limit.
        clip_seconds: Seconds that a clip may take to read.
    """
    from videogpt_plus.training import rwf2000

    with progress(f"read the clips of {data_dir}") as advance:
        done = rwf2000.write(data_dir, output, split, language, relative_paths, decode, workers, clip_seconds, advance)
    for (part, label), count in sorted(done.clips.items()):
        print(f"{part}/{label}: {count:,} clips")
    if done.others:
        print(f"{len(done.others):,} files are no videos: {_some(done.others)}")
    if done.unreadable:
        count = f"{len(done.unreadable):,} cannot be read"
        print(f"{count}; of train they were left out, of val they stay and count as failed:")
        for error in done.unreadable[:SHOWN]:
            print(f"  {error}")
        if len(done.unreadable) > SHOWN:
            print(f"  and {len(done.unreadable) - SHOWN:,} more")
    print(f"{sum(done.clips.values()):,} clips: {output}")


def _some(files: list[Path]) -> str:
    return ", ".join(map(str, files[:SHOWN])) + (", ..." if len(files) > SHOWN else "")
