"""What this project makes by itself where it is not there: the toy's clips, questions and labels, and tiny twins."""

from __future__ import annotations

from pathlib import Path

from videogpt_plus.app.listener import Listener
from videogpt_plus.app.screen import TERMINAL
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import TOY
from videogpt_plus.config.mixtures import TOY_RWF, get_mixture


def prepare_toy(experiment: Experiment, listener: Listener = TERMINAL) -> None:
    """Render the toy's clips where the experiment reads them and they are not there, and write a twin's weights."""
    if experiment.is_trained and experiment.training.data == TOY_RWF:
        prepare_toy_rwf(listener)
    elif experiment.benchmark_root == TOY.benchmark_root:
        _render(Path(TOY.benchmark_root).parent, listener)
    if experiment.is_random:
        prepare_twin(experiment)
        say_random(experiment.name, listener)


def _render(folder: Path, listener: Listener) -> None:
    from videogpt_plus.toy.render import ensure_toy_data

    with listener.progress("render toy clips") as advance:
        ensure_toy_data(folder, progress=advance)


def prepare_toy_rwf(listener: Listener = TERMINAL) -> None:
    """Render the toy's RWF-2000 where it is not there."""
    from videogpt_plus.toy.rwf2000 import ensure_rwf2000

    with listener.progress("render the toy's RWF-2000") as advance:
        ensure_rwf2000(Path(get_mixture(TOY_RWF)[0][0]).parent, progress=advance)


def prepare_twin(experiment: Experiment) -> None:
    """Write the random weights of a family's tiny twin where the experiment has them and they are not there."""
    if experiment.is_random:
        from videogpt_plus.families.twin import ensure_twin

        ensure_twin(experiment.llm)


def say_random(name: str, listener: Listener = TERMINAL) -> None:
    listener.warn(f"{name}: its weights are random, so what it answers means nothing; it shows that it runs")


def prepare_benchmark(root: Path, listener: Listener = TERMINAL) -> None:
    """Make the toy's benchmark that lies at `root`, where one of them is meant and is not there."""
    from eval.tasks.benchmarks import BENCHMARKS

    if str(root) == BENCHMARKS["toy_open"].root:
        from videogpt_plus.toy.open_questions import ensure_open_questions

        _render(root.parent, listener)
        ensure_open_questions(root.parent)
    elif str(root) == BENCHMARKS["toy_rwf2000"].root:
        prepare_toy_rwf(listener)
    elif str(root) == TOY.benchmark_root and not root.exists():
        prepare_toy(TOY, listener)
