"""Answers survive whatever stops a run: one line each, no line lost, none twice, none of another model."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.answer import answer_all, meta_path, read_answers
from eval.task import Example, Reply
from videogpt_plus.types import ClipError, UserError

HEADER = {"experiment": "toy_pool4", "weights": "w1", "benchmark": "b1"}
FIELDS = [
    "key", "experiment", "control", "task", "video", "question", "reference", "reply", "choice", "correct",
    "reference_verdict", "error", "visual_tokens", "seconds",
]  # fmt: skip


def examples(count: int = 6) -> list[Example]:
    options = ("red", "green", "blue")
    return [
        Example("colour", Path(f"/v/{i}.mp4"), f"{i}.mp4", "Colour?", options, options[i % 3]) for i in range(count)
    ]


class Fake:
    """Says (A) of everything; the clips named in `bad` cannot be read, and at `stop` it dies."""

    def __init__(self, bad=(), stop=None):
        self.bad, self.stop, self.asked = bad, stop, []

    def answers(self, examples, control):
        for example in examples:
            yield self.answer(example, control)

    def answer(self, example, control):
        if example.video == self.stop:
            raise KeyboardInterrupt
        self.asked.append((example.video, control))
        if example.video in self.bad:
            return ClipError(f"{example.video}: no frame can be decoded")
        return Reply("(A) red", 0 if control == "blind" else 104)


def test_a_line_has_every_field_and_the_parsed_choice(tmp_path):
    path = tmp_path / "run" / "answers.jsonl"
    done = answer_all(Fake(), examples(), path, HEADER)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert done == (6, 0, 0, 0)
    assert all(list(line) == FIELDS for line in lines)
    assert [line["correct"] for line in lines] == [True, False, False] * 2
    first = {k: lines[0][k] for k in FIELDS if k not in ("key", "seconds")}
    assert lines[0]["key"] == examples()[0].key and lines[0]["seconds"] >= 0
    assert first == {
        "experiment": "toy_pool4", "control": None, "task": "colour", "video": "0.mp4", "question": "Colour?",
        "reference": "(A) red", "reply": "(A) red", "choice": "A", "correct": True, "reference_verdict": False,
        "error": None, "visual_tokens": 104,
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "answers.meta.json").read_text()) == HEADER | {"control": None}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_all(Fake(stop="3.mp4"), examples(), path, HEADER)
    second, seen = Fake(), []
    done = answer_all(second, examples(), path, HEADER, progress=lambda *at: seen.append(at))
    assert done == (3, 3, 0, 0)
    assert [video for video, _ in second.asked] == ["3.mp4", "4.mp4", "5.mp4"]
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert answer_all(Fake(stop="0.mp4"), examples(), path, HEADER) == (0, 6, 0, 0)


def test_a_bad_clip_is_a_line_with_its_error_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert answer_all(Fake(bad={"1.mp4"}), examples(), path, HEADER) == (6, 0, 1, 0)
    line = read_answers(path)[examples()[1].key]
    assert line["error"] == "1.mp4: no frame can be decoded"
    assert (line["reply"], line["choice"], line["correct"], line["visual_tokens"]) == (
        None,
        None,
        False,
        None,
    )


def test_errors_are_asked_again_only_on_request(tmp_path):
    path = tmp_path / "answers.jsonl"
    answer_all(Fake(bad={"0.mp4"}), examples(), path, HEADER)
    before = path.read_bytes()
    assert answer_all(Fake(), examples(), path, HEADER) == (0, 6, 1, 0)
    assert answer_all(Fake(), examples(), path, HEADER, retry_errors=True) == (1, 5, 0, 0)
    assert path.read_bytes().startswith(before)
    assert read_answers(path)[examples()[0].key]["correct"] is True


def test_a_mistake_of_ours_is_not_swallowed_as_a_bad_clip(tmp_path):
    class Broken(Fake):
        def answer(self, example, control):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        answer_all(Broken(), examples(), tmp_path / "answers.jsonl", HEADER)


@pytest.mark.parametrize("cut", [1, 20, 10**9])
def test_a_torn_last_line_is_cut_off_and_answered_again(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    answer_all(Fake(), examples(), path, HEADER)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    path.write_bytes(whole[: -min(cut, last - 1)])
    assert len(read_answers(path)) == 5
    done = answer_all(Fake(), examples(), path, HEADER)
    assert (done.new, done.kept, done.torn_bytes) == (1, 5, last - min(cut, last - 1))
    assert list(read_answers(path)) == [example.key for example in examples()]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    answer_all(Fake(), examples(2), path, HEADER)
    path.write_bytes(b"{oops\n" + path.read_bytes())
    with pytest.raises(UserError, match="answers.jsonl, line 1: not an answer"):
        answer_all(Fake(), examples(), path, HEADER)


@pytest.mark.parametrize(
    ("header", "control"),
    [(HEADER | {"weights": "w2"}, None), (HEADER, "blind"), (HEADER | {"extra": 1}, None)],
)
def test_answers_of_another_model_never_mix_in(tmp_path, header, control):
    path = tmp_path / "answers.jsonl"
    answer_all(Fake(), examples(2), path, HEADER)
    before = path.read_bytes()
    with pytest.raises(UserError, match="holds answers with (weights|control|extra) = .* this run has"):
        answer_all(Fake(), examples(), path, header, control=control)
    assert path.read_bytes() == before


def test_answers_without_their_meta_file_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    answer_all(Fake(), examples(2), path, HEADER)
    meta_path(path).unlink()
    with pytest.raises(UserError, match="answers.meta.json is missing"):
        answer_all(Fake(), examples(), path, HEADER)


def test_a_control_reaches_the_model_and_its_lines(tmp_path):
    path, fake = tmp_path / "answers.blind.jsonl", Fake()
    answer_all(fake, examples(2), path, HEADER, control="blind")
    assert fake.asked == [("0.mp4", "blind"), ("1.mp4", "blind")]
    assert {line["control"] for line in read_answers(path).values()} == {"blind"}
    assert (tmp_path / "answers.blind.meta.json").exists()
    with pytest.raises(UserError, match="unknown control 'deaf'"):
        answer_all(fake, examples(2), path, HEADER, control="deaf")


def test_two_processes_do_not_answer_into_one_file(tmp_path):
    path = tmp_path / "answers.jsonl"

    class Nested(Fake):
        def answer(self, example, control):
            with pytest.raises(UserError, match="is being written by another process"):
                answer_all(Fake(), examples(), path, HEADER)
            return super().answer(example, control)

    assert answer_all(Nested(), examples(2), path, HEADER).new == 2


def test_an_odd_reply_is_kept_on_one_line(tmp_path):
    class Odd(Fake):
        def answer(self, example, control):
            return Reply("two\nlines \udcff \u2028 中", 1)

    path = tmp_path / "answers.jsonl"
    answer_all(Odd(), examples(3), path, HEADER)
    assert len(read_answers(path)) == 3


CHILD = """
import sys, time
sys.path[:0] = [{repo!r}, {tests!r}]
from test_answer import *
class Slow(Fake):
    def answer(self, example, control):
        time.sleep(0.01)
        return super().answer(example, control)
{setup}
answer_all(Slow(), examples(100), {path!r}, HEADER)
"""


def child(path: Path, setup: str = "") -> subprocess.Popen:
    here = Path(__file__).parent
    code = CHILD.format(repo=str(here.parent), tests=str(here), path=str(path), setup=setup)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_kill_9_loses_no_answer_and_doubles_none(tmp_path):
    path = tmp_path / "answers.jsonl"
    run = child(path)
    while not (path.exists() and path.read_bytes().count(b"\n") >= 5):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    kept = path.read_bytes().count(b"\n")
    done = answer_all(Fake(), examples(100), path, HEADER)
    assert 5 <= kept == done.kept < 100 and done.new == 100 - kept
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == [example.key for example in examples(100)]


def test_a_full_disk_is_one_clear_line_and_the_answers_so_far_stay(tmp_path):
    path = tmp_path / "answers.jsonl"
    run = child(path, f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (3000, 3000))")
    _, stderr = run.communicate()
    assert "UserError" in stderr and "answers.jsonl cannot be written: File too large; free space" in stderr
    kept = path.read_bytes().count(b"\n")
    done = answer_all(Fake(), examples(100), path, HEADER)
    assert kept == done.kept > 3 and done.new == 100 - kept and done.torn_bytes > 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="answers.jsonl cannot be written: (Not a directory|File exists)"):
        answer_all(Fake(), examples(1), tmp_path / "file" / "answers.jsonl", HEADER)
