"""Annotations: conversations to train on, and questions of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from eval.tasks.mvbench import load_benchmark
from videogpt_plus.training.data import read_annotations

from . import Kind, Line


def talk(question: str, answer: str = "a cup") -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


VIDEO = {"id": 0, "video": "a.mp4", "conversations": talk("<video>\nWhat is it?")}
STILL = {"id": 1, "image": "a.png", "conversations": talk("<image>\nWhat is it?")}
TEXT = {"id": 2, "conversations": talk("What is a cup?", "a thing to drink from")}
#: Entries to train on that are none -> what is said of them.
BAD_ENTRIES = [
    ("text", "is a str"),
    ({}, "'conversations' must be a list"),
    ({"conversations": []}, "'conversations' must be a list"),
    ({"conversations": ["hello"]}, "a turn must be"),
    ({"conversations": [{"from": "user", "value": "a"}]}, "a turn must be"),
    ({"conversations": [{"from": "human", "value": 3}]}, "must be text, not 3"),
    ({"conversations": [{"from": "human", "value": "a"}]}, "nothing to learn"),
    ({"conversations": talk("a")[::-1]}, "nothing to learn"),
    ({**VIDEO, "video": None}, "1 <video> in the text but 0 in 'video'"),
    ({**VIDEO, "video": ["a.mp4", "a.mp4"]}, "1 <video> in the text but 2 in 'video'"),
    ({**TEXT, "image": "a.png"}, "0 <image> in the text but 1 in 'image'"),
    ({**VIDEO, "video": 3}, "'video' must be a path"),
    ({**VIDEO, "video": ""}, "'video' must be a path"),
    ({**VIDEO, "start": "1"}, "'start' must be a number"),
    ({**VIDEO, "end": True}, "'end' must be a number"),
]
#: Files of conversations that are none -> what is said of them.
BAD_FILES = [("", "not valid JSON"), ("[{", "not valid JSON"), ("[]", "no list"), ("{}", "no list")]
#: Files of two conversations, of which "%s" are the entries.
LAYOUTS = ["[%s, %s]", "\ufeff[%s, %s]", "%s\n%s\n", "\ufeff%s\n\n%s"]

GOOD = {"video": "a.mp4", "question": "Which?", "candidates": ["x", "y", "z"], "answer": "z"}
#: Questions of a benchmark that are none -> what is said of them.
BAD_QUESTIONS = [
    ("", "colour.json is empty"),
    ("[{", "colour.json is not JSON"),
    ("[]", "colour.json: expected a list of questions; found []"),
    ({"a": 1}, "colour.json: expected a list"),
    ([GOOD, 3], "colour.json, entry 1: expected an object"),
    ([{**GOOD, "video": None}], "entry 0: 'video' must be a text"),
    ([{k: v for k, v in GOOD.items() if k != "question"}], "entry 0: 'question' must be"),
    ([GOOD | {"candidates": ["z"]}], "entry 0: 'candidates' must be a list of 2 to 26"),
    ([GOOD | {"candidates": ["z", " "]}], "entry 0: 'candidates' must be a text that is not empty"),
    ([GOOD | {"answer": "w"}], 'entry 0: the answer "w" is not among the candidates'),
]
#: Names of clips, where the task's files end with .mp4 -> the file that is meant.
NAMES = [
    ("clip.v1.5", "clip.v1.5.mp4"),
    ("clip.v1.5.webm", "clip.v1.5.mp4"),
    ("clip.v1.WEBM", "clip.v1.mp4"),
    ("sub.2/clip", "sub.2/clip.mp4"),
    ("clip", "clip.mp4"),
    ("clip.", "clip..mp4"),
]
#: Tables of tasks that are none -> what is said of them.
BAD_TABLES = [
    ({"colour": {"folder": "v", "knd": 1}}, "unknown field 'knd'; choose from: folder, kind"),
    ({"colour": {"folder": "v", "kind": "pdf"}}, 'unknown kind "pdf"; choose from: video, gif, frames'),
    ({"colour": {}}, "task 'colour': expected an object with a 'folder'"),
]


def conversations(text: str, folder: Path) -> Path:
    (folder / "a.json").write_text(text)
    return folder / "a.json"


def bench(root: Path, entries, tasks=None) -> Path:
    """A benchmark of one task, `colour`."""
    (root / "json").mkdir(parents=True)
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (root / "json" / "colour.json").write_text(text)
    (root / "tasks.json").write_text(json.dumps(tasks or {"colour": {"folder": "video/colour"}}))
    return root


def clips_of(path: Path) -> list[int]:
    """How many files each conversation has."""
    return [len(entry.media) for entry in read_annotations(path, path.parent)]


def clips_asked(root: Path) -> list[str]:
    return [example.path.relative_to(root).as_posix() for task in load_benchmark(root) for example in task.examples()]


def kinds() -> Iterator[Kind]:
    for number, (entry, said) in enumerate(BAD_ENTRIES):
        make = partial(conversations, json.dumps([TEXT, TEXT, entry]))
        yield Kind("annotation", f"conversation {number}: {said}", make, clips_of, Line(said))
    for text, said in BAD_FILES:
        yield Kind("annotation", f"conversations {text!r}", partial(conversations, text), clips_of, Line(said))
    for layout in LAYOUTS:
        make = partial(conversations, layout % (json.dumps(VIDEO), json.dumps(TEXT)))
        yield Kind("annotation", f"conversations as {layout!r}", make, clips_of, [1, 0])
    yield from _questions()


def _questions() -> Iterator[Kind]:
    def kind(name: str, make: Callable[[Path], Path], expected: object) -> Kind:
        return Kind("annotation", name, make, clips_asked, expected)

    for number, (entries, said) in enumerate(BAD_QUESTIONS):
        yield kind(f"questions {number}: {said}", partial(bench, entries=entries), Line(said))
    for start in (None, "1", True):
        make = partial(
            bench, entries=[GOOD | {"start": start, "end": 2}], tasks={"colour": {"folder": "v", "bounds": True}}
        )
        yield kind(f"a question from {start!r}", make, Line("entry 0: 'start' must be a time in seconds"))
    for table, said in BAD_TABLES:
        yield kind(f"tasks: {said}", partial(bench, entries=[GOOD], tasks=table), Line(said))
    for video, file in NAMES:
        make = partial(bench, entries=[GOOD | {"video": video}], tasks={"colour": {"folder": "v", "suffix": ".mp4"}})
        yield kind(f"a clip called {video}", make, [f"v/{file}"])
