"""Answers under the reference's names: what its own tools read of a run is what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.answers.runs import examples_of
from eval.report.reference_format import reference_names, write_reference_files
from eval.tasks.options import reference_verdict
from videogpt_plus.types import UserError

KEYS = {"video_name", "prompt", "pred", "answer_id", "Q", "task_type", "A"}


@pytest.fixture
def root(tmp_path) -> Path:
    """Two of MVBench's tasks in its layout, two questions each."""
    root = tmp_path / "bench"
    tasks = {"Action Sequence": "star/Charades_v1_480", "Episodic Reasoning": "tvqa/frames_fps3_hq"}
    (root / "json").mkdir(parents=True)
    rows = {name: {"folder": f"video/{f}", "bounds": False, "questions": 2} for name, f in tasks.items()}
    (root / "tasks.json").write_text(json.dumps(rows))
    for name in tasks:
        entries = [
            {"video": f"clips/{i}.mp4", "question": f"{name}?", "candidates": ["left", "right"], "answer": "right"}
            for i in range(2)
        ]
        path = root / "json" / f"{name.lower().replace(' ', '_')}.json"
        path.write_text(json.dumps(entries))
    return root


def write_answers(path: Path, root: Path, replies: dict[int, str | None]) -> Path:
    """Answers to the questions of those numbers; None is a clip that could not be read."""
    examples = examples_of(root)
    lines = [
        {
            "key": examples[i].key,
            "reference": examples[i].reference,
            "reply": reply,
            "error": "cannot read 1.mp4: it is empty; download it again" if reply is None else None,
        }
        for i, reply in replies.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def contents(folder: Path) -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def test_every_question_is_a_file_in_the_references_words(root, tmp_path):
    answers = write_answers(tmp_path / "answers.jsonl", root, {i: f"(B) right {i}" for i in range(4)})
    assert write_reference_files(answers, root, None, tmp_path / "out") == 4
    files = contents(tmp_path / "out")
    # The reference asks Episodic Reasoning first, and a file is called by its clip and the question's number.
    assert files.keys() == {
        "tvqa_frames_fps3_hq__clips_0.mp4_0.json",
        "tvqa_frames_fps3_hq__clips_1.mp4_1.json",
        "star_Charades_v1_480__clips_0.mp4_2.json",
        "star_Charades_v1_480__clips_1.mp4_3.json",
    }
    prompt = "Question: Action Sequence?\nOptions:\n(A) left\n(B) right\nOnly give the best option."
    assert files["star_Charades_v1_480__clips_1.mp4_3.json"] == {
        "video_name": "star/Charades_v1_480/_clips/1.mp4",
        "prompt": prompt,
        "pred": "(B) right 1",
        "answer_id": examples_of(root)[1].key,
        "Q": prompt,
        "task_type": "Action Sequence",
        "A": "(B) right",
    }
    assert all(content.keys() == KEYS for content in files.values())


def test_long_names_lose_fifty_characters_as_in_the_reference(root):
    examples = examples_of(root)
    long = examples[0].path.parent / f"{'x' * 90}.mp4"
    object.__setattr__(examples[0], "path", long)
    object.__setattr__(examples[0], "video", long.name)
    video_name, file_name = reference_names(examples[:1], root)[examples[0].key]
    flat = video_name.replace("/", "_")
    assert len(flat) > 100 and file_name == f"{flat[50:]}_0.json"


def test_a_question_that_failed_stays_in_the_references_denominator(root, tmp_path):
    answers = write_answers(tmp_path / "answers.jsonl", root, {0: "(B) right", 1: None, 2: "(A) left", 3: "right"})
    write_reference_files(answers, root, None, tmp_path / "out")
    failed = contents(tmp_path / "out")["star_Charades_v1_480__clips_1.mp4_3.json"]
    assert failed["pred"] == "no answer: cannot read 1.mp4: it is empty; download it again"
    assert reference_verdict(failed["pred"], failed["A"]) is False  # a word alone, or none, would stop its scoring


def test_numbers_are_those_of_the_whole_benchmark_whatever_was_asked(root, tmp_path):
    answers = write_answers(tmp_path / "answers.jsonl", root, {0: "(B) right", 2: "(B) right"})
    assert write_reference_files(answers, root, 1, tmp_path / "out") == 2
    assert contents(tmp_path / "out").keys() == {
        "tvqa_frames_fps3_hq__clips_0.mp4_0.json",
        "star_Charades_v1_480__clips_0.mp4_2.json",
    }


def test_an_unfinished_run_writes_nothing(root, tmp_path):
    answers = write_answers(tmp_path / "answers.jsonl", root, {0: "(B) right"})
    (tmp_path / "answers.meta.json").write_text('{"control": null}')
    with pytest.raises(UserError, match="3 of 4 answers are missing; finish them with"):
        write_reference_files(answers, root, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
