"""Answers as the reference writes them: one JSON a question, under its names, for tools that read its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.answer import read_answers
from eval.answers.places import check_complete, check_place
from eval.answers.runs import examples_of
from eval.tasks.benchmarks import kind_of
from eval.tasks.mvbench import open_benchmark
from eval.tasks.open_questions import OpenExample
from eval.tasks.task import Example
from videogpt_plus.io.files import write_json

#: The reference asks this task first; the others stand in MVBench's order.
ASKED_FIRST = "Episodic Reasoning"
#: Bytes of a file's name, with room for what is put around it while it is written.
LONGEST = 230


def write_reference_files(
    answers_path: str | Path,
    root: str | Path,
    limit: int | None,
    output: str | Path,
    asked_by: Sequence[str] | None = None,
) -> int:
    """Writes `video_name, prompt, pred, answer_id, Q, task_type, A` of each question to `output`, returns how many.

    `root` is the benchmark and `limit` how many questions a task were asked. A file is called by its clip and by the
    question's number among all of the benchmark, as in the reference, so that results of several runs are joined by
    their names. A question that failed has no file there; here its `pred` is "no answer: ...", which the reference's
    rule counts as wrong. UserError: an answer is missing.
    """
    asked, answers = examples_of(root, limit), read_answers(answers_path, ("reference", "reply", "error"))
    check_place(answers_path)
    check_complete(answers_path, answers, asked, asked_by)
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


#: The reference's file of a task's answers.
ANSWER_FILES = {
    "vcgbench": "answer-video-{task}.json",
    "diverse": "answer-vcgbench-diverse.json",
    "qa": "pred.json",
}


def write_open_files(
    answers_path: str | Path,
    task: str,
    root: str | Path,
    limit: int | None,
    output: str | Path,
    asked_by: Sequence[str] | None = None,
) -> int:
    """Writes the answers to an open benchmark as lists that the reference's own scripts read; returns how many.

    VCGBench: `video_name, prompt, text, answer`, consistency `prompt_1, text_1, prompt_2, text_2`, a file a kind of
    question. VCGBench-Diverse: one file, with `ann_id`. Zero-shot QA: `id, video_name, Q, A, pred` and, for scripts
    that call them so, `question, answer`. A question that failed has the text "no answer: ...". Where the answers are
    judged, every aspect's `{key: [{"score": n}, {q, a, pred}]}` is written, too, one folder a judge. UserError: an
    answer is missing.
    """
    from eval.judge.ledger import finished_answers
    from eval.judge.scoring import all_scores

    benchmark, output = kind_of(task), Path(output)
    examples = examples_of(root, limit, task)
    answers = finished_answers(answers_path, examples, asked_by)
    entries: dict[tuple[str, int], list[OpenExample]] = {}
    for example in examples:
        entries.setdefault((example.task, example.entry), []).append(example)
    files: dict[str, list[dict[str, Any]]] = {}
    for (kind, _), asked in sorted(entries.items(), key=lambda one: _order(benchmark.files, one[0])):
        name = ANSWER_FILES[benchmark.files].format(task=kind)
        files.setdefault(name, []).append(_open_entry(benchmark.files, asked, answers))
    for name, content in files.items():
        write_json(output / name, content)
    for name, scores in all_scores(answers_path).items():
        for aspect, content in _results(benchmark.files, scores, entries.values(), answers).items():
            folder = Path(name).stem.replace("scores", "results", 1)
            write_json(output / folder / f"{aspect}.json", content)
    return len(examples)


def _order(files: str, entry: tuple[str, int]) -> Any:
    """VCGBench-Diverse has one file, in its own order."""
    return entry[1] if files == "diverse" else 0


def _said(example: OpenExample, answers: Mapping[str, Mapping[str, Any]]) -> str:
    line = answers[example.key]
    return f"no answer: {line['error']}" if line["reply"] is None else line["reply"]


def _open_entry(files: str, asked: Sequence[OpenExample], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = asked[0]
    if files == "qa":
        told = {"id": first.id, "video_name": first.video, "Q": first.question, "A": first.answer}
        return {**told, "question": first.question, "answer": first.answer, "pred": _said(first, answers)}
    entry: dict[str, Any] = {"ann_id": first.id} if files == "diverse" else {}
    entry["video_name"] = first.video
    for example in asked:
        part = f"_{example.part}" if example.part else ""
        entry |= {f"prompt{part}": example.question, f"text{part}": _said(example, answers)}
    return entry | {"answer": first.answer}


def _results(
    files: str,
    scores: Mapping[str, Any],
    entries: Iterable[Sequence[OpenExample]],
    answers: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Aspect -> the reference's judge results. Its keys: `ann_id`, else `1_N` or `VIDEO_N` with a running number."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    by_aspect = {aspect: row["scores"] for aspect, row in scores["aspects"].items()}
    for asked in entries:
        first = asked[0]
        for aspect, values in by_aspect.items():
            name = f"{first.key}/{aspect}"
            if name not in values:
                continue
            stem = first.video if files == "qa" else "1"
            key = str(first.id) if files == "diverse" else f"{stem}_{numbers[aspect, stem]}"
            numbers[aspect, stem] += 1
            if values[name] is None:
                continue
            verdict = scores["aspects"][aspect].get("correct", {}).get(name)
            given: dict[str, Any] = {} if verdict is None else {"pred": "yes" if verdict else "no"}
            given["score"] = values[name]
            found.setdefault(aspect, {})[key] = [given, _judged(asked, answers)]
    return found


def _judged(asked: Sequence[OpenExample], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    if len(asked) == 1:
        return {"q": asked[0].question, "a": asked[0].answer, "pred": _said(asked[0], answers)}
    questions = {f"q{e.part}": e.question for e in asked}
    return {**questions, "a": asked[0].answer, **{f"pred{e.part}": _said(e, answers) for e in asked}}


def reference_names(examples: Sequence[Example], root: str | Path) -> dict[str, tuple[str, str]]:
    """(`video_name`, name of the file) of every question of the benchmark at `root`, by key.

    `video/star/Charades_v1_480/AB.mp4` is called `star/Charades_v1_480/_AB.mp4`; long names lose 50 characters.
    """
    names, table = {}, open_benchmark(root).tasks
    for number, example in enumerate(sorted(examples, key=lambda example: example.task != ASKED_FIRST)):
        folder = table[example.task].folder.removeprefix("video/").strip("/") + "/"
        video_name = f"{folder}_{example.video}"
        flat = video_name.replace("/", "_")
        names[example.key] = (video_name, _possible(f"{flat[50:] if len(flat) > 100 else flat}_{number}.json"))
    return names


def _possible(name: str) -> str:
    """The name, or of one that no file can have the end of what comes nearest to it."""
    return name.replace("\0", "_").encode("utf-8", "backslashreplace")[-LONGEST:].decode("utf-8", "ignore")
