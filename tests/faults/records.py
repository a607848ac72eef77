"""What a command reads of its own: lines of answers, what stands beside them, experiments, records of cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from eval.answers.answer import SCORED, read_answers, read_meta
from videogpt_plus.app.sweep import cells
from videogpt_plus.config.experiment_file import load_experiment

from . import Kind, Line

PACKAGED = Path(__file__).parents[2] / "videogpt_plus/toy/weights/runs/toy_pool2"
ANSWER = {
    "key": "0", "task": "clip", "video": "a.mp4", "reference": "(A) a", "reply": "(A)", "correct": True, "error": None,
    "seconds": 0.1, "visual_tokens": 3,
}  # fmt: skip
#: Lines of answers that are none, as text or as what they change of ANSWER -> what is said of them.
BAD_ANSWERS = [
    ("[" * 100_000, "maximum recursion depth"),
    ('{"key": ' + "[" * 100_000, "maximum recursion depth"),
    ("{}", "'key'"),
    ("[]", "it is no object"),
    ("3", "it is no object"),
    ('{"key": []}', "'key' is []"),
    ("\udcff", "utf-8"),
    ({"key": 3}, "'key' is 3"),
    ({"task": ["clip"]}, "'task' is [\"clip\"]"),
    ({"video": None}, "'video' is null"),
    ({"clip": 3}, "'clip' is 3"),
    ({"reference": {}}, "'reference' is {}"),
    ({"error": 1}, "'error' is 1"),
    ({"reply": ["(A)"]}, "'reply' is [\"(A)\"]"),
    ({"reply": None}, "no 'error', and 'reply' is null"),
    ({"visual_tokens": None}, "no 'error', and 'visual_tokens' is null"),
    ({"visual_tokens": 1.5}, "'visual_tokens' is 1.5"),
    ({"seconds": "1"}, "'seconds' is \"1\""),
    ({"seconds": float("nan")}, "'seconds' is NaN"),
    ({"seconds_first": 10**400}, "'seconds_first' is 1000"),
]
#: Fields without which an answer is not scored.
NEEDED = ["reference", "reply", "error", "seconds", "visual_tokens"]
#: What may not stand beside answers.
BAD_META = ["{}", '{"control": 3}', '{"control": null, "benchmark": []}', "[" * 100_000]
#: How a projector may be pre-trained.
PRETRAINING = json.loads((PACKAGED / "experiment.json").read_text())["source"]["pretrain"]["image"]
#: Changes of an experiment: path of a field, its new value -> what is said of it.
BAD_FIELDS = [
    ("branches", {}, "it needs at least one"),
    ("branches", [], "'branches' must be an object of named values"),
    ("branches", [["image"]], "'branches' must be an object of named values"),
    ("source", "trained", "'source' must be an object of named values"),
    ("source.kind", "taught", "'source.kind' must be one of trained, pretrained, published, random"),
    ("branches.image", None, "must be an object of named values"),
    ("branches.image.grid", 0, "Branch has grid 0: choose at least 1"),
    ("branches.image.pixels", -1, "Branch has pixels -1: choose at least 1"),
    ("branches.video.size.heads", 0, "InternVideo2Size has heads 0: choose at least 1"),
    ("branches.video.size.heads", 3, "which 3 heads cannot share evenly"),
    ("branches.video.size.depth", 10**400, "InternVideo2Size has depth 1000"),
    ("source.pretrain", {"audio": PRETRAINING}, "pre-trains 'audio', which is none of its branches"),
    ("reducer.level", float("nan"), "pool level nan is not possible: choose a number above 0"),
    ("reducer.level", 0, "pool level 0 is not possible: choose a number above 0"),
    ("sampling.num_frames", 0, "has num_frames 0: choose at least 1"),
    ("sampling.num_frames", 10**400, "has num_frames 1000"),
    ("sampling.num_frames", 1.5, "'sampling.num_frames' must be of type int"),
    ("name", None, "'name' must be of type str"),
    ("source.lora.r", 0, "Lora has r 0: choose at least 1"),
    ("source.lora.dropout", 2, "Lora has dropout 2: choose 0 to 1"),
    ("source.finetune.learning_rate", float("inf"), "Training has learning_rate inf"),
    ("source.finetune.per_device_train_batch_size", 0, "per_device_train_batch_size 0: choose at least 1"),
    ("source.finetune.seed", -1, "Training has seed -1"),
    ("reducer.name", [], "'reducer.name' must be one of average"),
]
#: Experiment files that are no object -> what is said of them.
BAD_EXPERIMENTS = [
    ("", "is empty"),
    ("{", "is not JSON"),
    ("[]", "holds no JSON object"),
    ("[" * 100_000, "is not JSON"),
]
#: Records of cells that are none.
BAD_CELLS = ["[]", "{}", '{"inputs": 3, "finished": true}', "[" * 100_000]


def changed(value: dict, path: str, new: object) -> dict:
    """The value with another one at a path like "branches.image.grid"."""
    *inner, last = path.split(".")
    place = value
    for name in inner:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[int(last) if isinstance(place, list) else last] = new
    return value


def answers(lines: list[str], folder: Path) -> Path:
    (folder / "answers.jsonl").write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    return folder / "answers.jsonl"


def line_of(line: object) -> str:
    return line if isinstance(line, str) else json.dumps(ANSWER | line)


def meta(text: str, folder: Path) -> Path:
    (folder / "answers.meta.json").write_text(text)
    return folder / "answers.jsonl"


def experiment(text: str, folder: Path) -> Path:
    (folder / "experiment.json").write_text(text)
    return folder


def experiment_with(path: str, new: object, folder: Path) -> Path:
    return experiment(json.dumps(changed(json.loads((PACKAGED / "experiment.json").read_text()), path, new)), folder)


def cell(text: str, folder: Path) -> Path:
    (folder / "cell.json").write_text(text)
    return folder


def kinds() -> Iterator[Kind]:
    for number, (line, said) in enumerate(BAD_ANSWERS):
        make = partial(answers, [json.dumps(ANSWER), line_of(line)])
        yield Kind("answers", f"line {number}: {said}", make, read_answers, Line(said))
    for field in NEEDED:
        make = partial(answers, [json.dumps({name: value for name, value in ANSWER.items() if name != field})])
        yield Kind("answers", f"without {field}", make, lambda p: read_answers(p, SCORED), Line(f"no '{field}'"))
    torn = partial(answers, [json.dumps(ANSWER), '{"key": "1"'])
    yield Kind(
        "answers", "a torn last line", lambda folder: _without_end(torn(folder)), lambda p: [*read_answers(p)], ["0"]
    )
    for text in BAD_META:
        yield Kind("answers", f"beside them {text:.40}", partial(meta, text), read_meta, Line("answers.jsonl away"))
    for number, (path, new, said) in enumerate(BAD_FIELDS):
        make = partial(experiment_with, path, new)
        yield Kind("experiment", f"field {number}, {path}: {said:.60}", make, load_experiment, Line(said))
    for text, said in BAD_EXPERIMENTS:
        yield Kind("experiment", f"{text:.20} {said}", partial(experiment, text), load_experiment, Line(said))
    for text in BAD_CELLS:
        yield Kind("cell", f"a record {text:.40}", partial(cell, text), cells._read_record, Line("cell.json"))


def _without_end(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path
