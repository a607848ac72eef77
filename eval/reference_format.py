"""Answers as the reference writes them: one JSON a question, under its names, for tools that read its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.answer import read_answers
from eval.runs import examples_of
from eval.score import check_complete
from eval.task import Example
from videogpt_plus.checkpoint import write_json

#: The reference asks this task first; the others stand in MVBench's order.
ASKED_FIRST = "Episodic Reasoning"


def write_reference_files(answers_path: str | Path, root: str | Path, limit: int | None, output: str | Path) -> int:
    """Writes `video_name, prompt, pred, answer_id, Q, task_type, A` of each question to `output`, returns how many.

    `root` is the benchmark and `limit` how many questions a task were asked. A file is called by its clip and by the
    question's number among all of the benchmark, as in the reference, so that results of several runs are joined by
    their names. A question that failed has no file there; here its `pred` is "no answer: ...", which the reference's
    rule counts as wrong. UserError: an answer is missing.
    """
    asked, answers = examples_of(root, limit), read_answers(answers_path)
    check_complete(Path(answers_path), answers, asked)
    names = reference_names(examples_of(root), root)
    for example in asked:
        line, (video_name, file_name) = answers[example.key], names[example.key]
        content = {
            "video_name": video_name,
            "prompt": example.prompt,
            "pred": f"no answer: {line['error']}" if line["reply"] is None else line["reply"],
            "answer_id": example.key,
            "Q": example.prompt,
            "task_type": example.task,
            "A": example.reference,
        }
        write_json(Path(output) / file_name, content)
    return len(asked)


def reference_names(examples: Sequence[Example], root: str | Path) -> dict[str, tuple[str, str]]:
    """(`video_name`, name of the file) of every question of the benchmark at `root`, by key.

    `video/star/Charades_v1_480/AB.mp4` is called `star/Charades_v1_480/_AB.mp4`; long names lose 50 characters.
    """
    names = {}
    for number, example in enumerate(sorted(examples, key=lambda example: example.task != ASKED_FIRST)):
        inside = example.path.relative_to(Path(root).absolute()).as_posix()
        folder = inside.removesuffix(example.video).removeprefix("video/")
        video_name = f"{folder}_{example.video}"
        flat = video_name.replace("/", "_")
        names[example.key] = (video_name, f"{flat[50:] if len(flat) > 100 else flat}_{number}.json")
    return names
