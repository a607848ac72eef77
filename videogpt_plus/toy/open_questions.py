"""The toy's second benchmark: the same test clips, asked in free words, in VCGBench's three files.

    ROOT/open/{generic,temporal,consistency}_qa.json     about the clips in ROOT/bench/video

What a right answer names is known by construction: every entry states it as `facts`, for the lexical judge.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from videogpt_plus.io.errors import attempted
from videogpt_plus.io.files import read_json, write_json
from videogpt_plus.toy import world
from videogpt_plus.toy.render import Job, Recipe, folder_name, plan
from videogpt_plus.types import UserError

#: What the toy is rendered from.
DEFAULT = Recipe()
#: Temporal tasks have a file of their own.
TEMPORAL = "temporal"
#: A second wording of a task's question, which asks for the same.
AGAIN = {
    "Large Color": "Name the color of the big thing in the picture.",
    "Large Shape": "Which shape does the big thing have?",
}
#: What a scene's question about a direction, a count or a place is answered with besides the word itself.
OTHER_WORDS = {
    "leftward": "leftward|left",
    "rightward": "rightward|right",
    "upward": "upward|up",
    "downward": "downward|down",
    "one": "one|1|once",
    "two": "two|2|twice",
    "three": "three|3",
    "four": "four|4",
}


def ensure_open_questions(root: Path, recipe: Recipe = DEFAULT) -> bool:
    """Writes the open questions about the test clips at `root` unless they are there; True when they were written.

    The clips are those of `ensure_toy_data` with the same recipe.
    """
    files = open_questions(recipe)
    if all(_holds(root / "open" / name, entries) for name, entries in files.items()):
        return False
    for name, entries in files.items():
        write_json(root / "open" / name, entries)
    return True


def open_questions(recipe: Recipe = DEFAULT) -> dict[str, list[dict]]:
    """The three files by name. Questions about a part of a clip are left out: VCGBench has no bounds."""
    files: dict[str, list[dict]] = {"generic_qa.json": [], "temporal_qa.json": [], "consistency_qa.json": []}
    for job in plan(recipe):
        if job.part != "bench" or job.scene.bounds:
            continue
        temporal = world.TASKS[job.group].group == TEMPORAL
        files["temporal_qa.json" if temporal else "generic_qa.json"].append(_entry(job))
        if job.group in AGAIN:
            files["generic_qa.json"].append(_described(job))
            entry = _entry(job)
            files["consistency_qa.json"].append({"Q1": entry.pop("Q"), "Q2": AGAIN[job.group], **entry})
    return files


def _entry(job: Job) -> dict:
    right = job.scene.answer
    facts = [OTHER_WORDS.get(right, right)]
    return {"Q": job.scene.question, "A": f"The answer is {right}.", "video_name": _video(job), "facts": facts}


def _described(job: Job) -> dict:
    """A question with two facts: half of it can be right."""
    (thing,) = job.scene.things
    told = f"A {thing.color} {thing.shape} on a grey ground."
    return {"Q": "Describe the object.", "A": told, "video_name": _video(job), "facts": [thing.color, thing.shape]}


def _video(job: Job) -> str:
    return f"{folder_name(job.group)}/{job.name}"


def _holds(path: Path, entries: list[dict]) -> bool:
    """Whether the file is there, undamaged and from this recipe."""
    return attempted(partial(read_json, path, "it is written again"), UserError) == entries
