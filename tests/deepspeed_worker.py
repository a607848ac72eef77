"""The command line with tiny experiments in it: `python deepspeed_worker.py ROOT [--dies] COMMAND ...`, also under torchrun.

ROOT holds `experiments.pickle` (by name) and the samples of train_worker.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from train_worker import die, second_call, tiny_mixtures

from videogpt_plus import cli, experiments, mixtures
from videogpt_plus.training import trainer


def main(root: Path, command: list[str]) -> None:
    experiments.EXPERIMENTS.update(pickle.loads((root / "experiments.pickle").read_bytes()))
    mixtures.MIXTURES.update(tiny_mixtures(root))
    if command[0] == "--dies":  # when all of the second checkpoint but COMPLETE is written
        trainer.mark_complete = second_call(trainer.mark_complete, die)
        command = command[1:]
    cli.main(command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
