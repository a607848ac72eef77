"""Pooling ablations on video LLMs.

    import videogpt_plus as vp

    vp.load("toy_pool2").ask("clip.mp4", "What moves?")        # any runs, by folder or name
    vp.sweep("toy", levels=(2, 8), root="results").scores      # train, ask, score and report

The names of `__all__` are imported when they are first used. Start at `videogpt_plus.types` for the pipe.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videogpt_plus.app.listener import Listener
    from videogpt_plus.app.runs import load
    from videogpt_plus.app.sweep.run import sweep
    from videogpt_plus.config.experiment import Experiment
    from videogpt_plus.config.experiments import get_experiment
    from videogpt_plus.inference import VideoLLM

__version__ = "0.1.0"
__all__ = ["Experiment", "Listener", "VideoLLM", "get_experiment", "load", "sweep"]

#: Public name -> the module that has it.
_HOMES = {
    "Experiment": "config.experiment",
    "Listener": "app.listener",
    "VideoLLM": "inference",
    "get_experiment": "config.experiments",
    "load": "app.runs",
    "sweep": "app.sweep.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'videogpt_plus' has no attribute {name!r}")
    return getattr(import_module(f"videogpt_plus.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
