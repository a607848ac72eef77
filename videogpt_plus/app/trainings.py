"""One training, checked before anything is made, and told of while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videogpt_plus.app.checks import check_feeding, check_workers
from videogpt_plus.app.listener import Listener
from videogpt_plus.app.screen import TERMINAL
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import LoaderConfig

#: Kinds of cells that --launcher and --deepspeed are for.
TRAINED = ("pretrain", "train")


def check_training(
    experiment: Experiment,
    start: str | Mapping[str, str | Path],
    folder: Path,
    loader_config: LoaderConfig,
    deepspeed: str | None = None,
    workers: int | None = None,
) -> None:
    """UserError: `fill_run` would not begin; see `training.stages.check`."""
    from videogpt_plus.training.stages import check

    check_workers(workers)
    check_feeding(loader_config)
    check(experiment, start, folder, deepspeed)


def fill_run(
    experiment: Experiment,
    start: str | Mapping[str, str | Path],
    folder: Path,
    loader_config: LoaderConfig,
    title: str,
    deepspeed: str | None = None,
    workers: int | None = None,
    listener: Listener = TERMINAL,
) -> None:
    """Pre-trains the projector of the stream `start`, or fine-tunes from these projectors, and fills the folder."""
    with listener.progress(title) as advance:
        from videogpt_plus.clips.cache import open_cache
        from videogpt_plus.training import stages
        from videogpt_plus.training.processes import leave

        def shown(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        run = stages.pretrain if isinstance(start, str) else stages.finetune
        how = {"deepspeed": deepspeed, "workers": workers, "progress": shown, "say": listener.say}
        run(experiment, start, folder, **how, store=open_cache(loader_config), decoder=loader_config.decoder)
        leave()
    say_replaced(folder, f"{title}: ", "unreadable samples", listener)


def say_replaced(folder: Path, title: str, what: str, listener: Listener = TERMINAL) -> None:
    """Tells how many samples of a training others took the place of."""
    from videogpt_plus.training.data import read_substitutions

    if replaced := read_substitutions(folder / "substituted.jsonl"):
        listener.say(f"{title}{len(replaced)} {what} were replaced; see {folder / 'substituted.jsonl'}")
