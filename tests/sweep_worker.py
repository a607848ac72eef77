"""A sweep of a tiny experiment in the working folder; run as a script it is a process that a test can kill."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from videogpt_plus.app import cli
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import EXPERIMENTS
from videogpt_plus.toy.render import Recipe, ensure_toy_data

RECIPE = Recipe(test_per_task=2, train_per_task=2, images=8, videos=8)
ARGS = ["sweep", "tiny", "--levels", "2", "16", "--control-levels", "2", "16"]


def prepare(folder: Path, experiment, save_steps: int = 500) -> None:
    """Render a few toy clips under `folder` and register the experiment that reads them as `tiny`."""
    ensure_toy_data(folder / ".cache/toy", RECIPE)
    pretrain = tuple(
        (name, replace(t, data=data, max_steps=3, per_device_train_batch_size=2, save_steps=save_steps))
        for (name, t), data in zip(experiment.pretrain, ("TOY_IMAGES", "TOY_VIDEOS"), strict=True)
    )
    finetune = replace(experiment.training, max_steps=3, per_device_train_batch_size=2, save_steps=save_steps)
    EXPERIMENTS["tiny"] = with_settings(
        experiment,
        {
            "source.pretrain": pretrain,
            "source.finetune": finetune,
            "benchmark_root": str(folder / ".cache/toy/bench"),
            "prompting.max_new_tokens": 3,
        },
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import make_tiny_experiment

    prepare(Path.cwd(), make_tiny_experiment(Path("parts").resolve()), save_steps=1)
    cli.main([*ARGS, *sys.argv[1:]])
