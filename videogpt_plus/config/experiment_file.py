"""`experiment.json`: an experiment written to a run folder and read back, every value checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from videogpt_plus.config.experiment import Experiment, InternVideo2Size, Lora, Stream
from videogpt_plus.config.training import Training
from videogpt_plus.io.errors import translated
from videogpt_plus.io.files import read_object, require, write_json
from videogpt_plus.reducers.summary_options import Summary
from videogpt_plus.types import UserError


def save_experiment(folder: str | Path, experiment: Experiment) -> None:
    """Writes the resolved `experiment.json` of a run folder."""
    write_json(Path(folder) / "experiment.json", experiment_json(experiment))


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as it is read back from experiment.json.

    What a summary is made of stands there only where there is one, and a beta2 of AdamW where it is not the usual
    one, so that runs from before there was any are equal.
    """
    value = json.loads(json.dumps(asdict(experiment)))
    if experiment.adapter != "summary":
        del value["summary"]
    for stage in (value["finetune"], *(stage for _, stage in value["pretrain"])):
        if stage["adam_beta2"] == Training.adam_beta2:
            del stage["adam_beta2"]
    return value


def load_experiment(folder: str | Path) -> Experiment:
    """The experiment that a run folder was trained as, equal to what was saved.

    UserError: there is none, it is no JSON, or it has unknown or missing keys or values of another type.
    """
    path = require(Path(folder) / "experiment.json", "the run's experiment")
    value = read_object(path, "train again or restore the file")

    def made(kind: type, value: Any) -> Any:
        return _made(kind, value, path)

    def stream(value: Any) -> Stream:
        size = isinstance(value, dict) and value.get("size")
        return made(Stream, {**value, "size": made(InternVideo2Size, size)} if size else value)

    def stage(value: Any) -> Training:
        return made(Training, {"adam_beta2": Training.adam_beta2, **value} if isinstance(value, dict) else value)

    inner = {
        "streams": lambda value: _pairs(value, stream),
        "pretrain": lambda value: _pairs(value, stage),
        "finetune": stage,
        "lora": lambda value: made(Lora, value),
        "summary": lambda value: made(Summary, value),
    }
    value.setdefault("summary", asdict(Summary()))
    experiment = made(Experiment, {key: inner[key](v) if key in inner else v for key, v in value.items()})
    with _naming(path):
        experiment.check_whole()
    return experiment


def _pairs(value: Any, made: Callable[[Any], Any]) -> Any:
    """[[name, object], ...] as a tuple of pairs; anything else as it is, for `_made` to refuse."""
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs or not all(isinstance(name, str) for name, _ in value):
        return value
    return tuple((name, made(inner)) for name, inner in value)


def _made(kind: type, value: Any, path: Path) -> Any:
    """The dataclass `kind` of a JSON object that has exactly its keys, each of its type."""
    hints = get_type_hints(kind)
    found = value.keys() if isinstance(value, dict) else set()
    if found != hints.keys():
        raise UserError(
            f"{path} does not describe {kind.__name__}: missing {sorted(hints.keys() - found)}, unknown "
            f"{sorted(found - hints.keys())}; correct it, or train again if another version wrote it"
        )
    for name, hint in hints.items():
        if not _fits(value[name], hint):
            wanted = getattr(hint, "__name__", None) or str(hint)
            raise UserError(f"{path}: '{name}' must be of type {wanted}, not {value[name]!r:.60}; correct it")
    with _naming(path):
        return kind(**value)


def _naming(path: Path) -> AbstractContextManager[None]:
    """A context whose UserErrors begin with the file's name."""
    return translated(UserError, to=lambda error: UserError(f"{path}: {error}"))


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) is not tuple else (tuple,)
    kinds = kinds or (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
