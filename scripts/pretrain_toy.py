"""Pre-train the tiny encoders and the tiny LLM of the toy, each on what the generator knows.

python scripts/pretrain_toy.py llm     writes videogpt_plus/toy/weights/llm
python scripts/pretrain_toy.py clip    ... and so on; the log of each part goes beside its weights
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

import tyro

from videogpt_plus.config.experiments import TOY_WEIGHTS
from videogpt_plus.io.files import located


def main(
    part: tyro.conf.Positional[Literal["llm", "clip", "internvideo2"]],
    steps: int = 6000,
    minutes: float = 1e9,
    seed: int = 0,
    first: int = 0,
    output: Path | None = None,
) -> None:
    """Train one part and write its weights and `PART.log`.

    Args:
        part: What to train.
        steps: Steps at most.
        minutes: Minutes at most; the learning rate falls with whichever runs out first.
        seed: Of the scenes and the weights.
        first: Go on from the weights that were saved at this step.
        output: Folder of the weights; the package's own when not given.
    """
    output = output or located(TOY_WEIGHTS)
    output.mkdir(parents=True, exist_ok=True)
    with open(output / f"{part}.log", "a" if first else "w") as file:

        def log(line: str) -> None:
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()

        log(f"{part}: steps {steps}, minutes {minutes}, seed {seed}, first step {first}, {date.today()}")
        if part == "llm":
            from toy.pretrain_llm import pretrain_llm

            pretrain_llm(output / "llm", steps, log, seed, minutes=minutes, first=first)
        else:
            from toy.pretrain_encoders import pretrain_encoder

            pretrain_encoder(part, output, steps, log, seed, minutes, first)


if __name__ == "__main__":
    tyro.cli(main)
