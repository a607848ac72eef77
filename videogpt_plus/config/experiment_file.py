"""`experiment.json`: an experiment written whole and read back, every value checked.

It is what commands, cells of a sweep, launched processes and run folders hand to one another.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import get_experiment
from videogpt_plus.io.files import read_object, require, write_json
from videogpt_plus.reducers import REDUCERS, Reducer, get_reducer
from videogpt_plus.types import UserError

NAME = "experiment.json"


def save_experiment(folder: str | Path, experiment: Experiment) -> None:
    """Writes the `experiment.json` of a run folder."""
    write_json(Path(folder) / NAME, experiment_json(experiment))


def load_experiment(folder: str | Path) -> Experiment:
    """The experiment that a run folder was trained as, equal to what was saved.

    UserError: there is none, it is no JSON, or it has unknown or missing keys or values of another type.
    """
    return read_experiment(require(Path(folder) / NAME, "the run's experiment"))


def read_experiment(path: Path) -> Experiment:
    """The experiment of a file. UserError: as `load_experiment`."""
    value = read_object(path, "train again or restore the file")
    if "streams" in value and "finetune" in value:
        raise UserError(
            f"{path} was written by an earlier version, which kept experiments in another form: train the run again, "
            "or write the file anew, with the keys that the package's run toy_pool2 has there"
        )
    try:
        experiment = _made(Experiment, value, "")
        experiment.check_whole()
    except UserError as error:
        raise UserError(f"{path}: {error}; correct it") from error
    return experiment


def named_or_filed(text: str) -> Experiment:
    """The experiment of that name, or of that path: an experiment.json, or a folder that holds one."""
    path = Path(text)
    if path.suffix == ".json":
        return read_experiment(require(path, "experiment"))
    return load_experiment(path) if (path / NAME).is_file() else get_experiment(text)


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as it stands in experiment.json: objects in objects, of which some say their kind."""
    return _plain(experiment)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        own = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return _told(value) | own
    return {name: _plain(inner) for name, inner in value} if isinstance(value, tuple) else value


def _told(value: Any) -> dict[str, str]:
    """What tells a value from others that may stand in its place."""
    if isinstance(value, Reducer):
        return {"name": value.name}
    return {"kind": value.kind} if hasattr(value, "kind") else {}


def _made(hint: Any, value: Any, key: str) -> Any:
    """The value of a type, from JSON. UserError: it has another type, or missing or unknown keys; it names the key."""
    if get_origin(hint) is tuple:  # pairs of a name and a value
        _, inner = get_args(get_args(hint)[0])
        return tuple((name, _made(inner, one, f"{key}.{name}")) for name, one in _object(value, key).items())
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        return _one_of(get_args(hint), value, key)
    if hint is Reducer:
        own = _object(value, key)
        name = own.get("name")
        if not isinstance(name, str):
            raise UserError(f"'{key}.name' must be one of {', '.join(REDUCERS)}, not {name!r:.60}")
        return _config(get_reducer(name), own, key, "name")
    if is_dataclass(hint):
        return _config(hint, _object(value, key), key, *(["kind"] if hasattr(hint, "kind") else []))
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, (int, float) if hint is float else hint):
        raise UserError(f"'{key}' must be of type {hint.__name__}, not {value!r:.60}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any, key: str) -> Any:
    if type(None) in hints:
        return None if value is None else _made(next(h for h in hints if h is not type(None)), value, key)
    kinds = {hint.kind: hint for hint in hints}
    kind = _object(value, key).get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"'{key}.kind' must be one of {', '.join(kinds)}, not {kind!r:.60}")
    return _made(kinds[kind], value, key)


def _config(kind: type, value: Mapping[str, Any], key: str, *told: str) -> Any:
    known = get_type_hints(kind)
    hints = {f.name: known[f.name] for f in fields(kind)}
    missing, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys() - set(told))
    if missing or unknown:
        where = f"'{key}' " if key else ""
        raise UserError(f"{where}does not describe {kind.__name__}: missing {missing}, unknown {unknown}")
    prefix = f"{key}." if key else ""
    return kind(**{name: _made(hint, value[name], prefix + name) for name, hint in hints.items()})


def _object(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"'{key}' must be an object of named values, not {value!r:.60}")
    return value
