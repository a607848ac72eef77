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

from eval.answers.answer import Target, answer_all, meta_path, read_answers
from eval.answers.score import score
from eval.report.compare import read_run
from eval.tasks.task import Example
from videogpt_plus.types import ClipError, Reply, UserError

HEADER = {"experiment": "toy_pool4", "weights": "w1", "benchmark": "b1"}
FIELDS = [
    "key", "experiment", "control", "task", "video", "clip", "question", "reference", "reply", "choice",
    "correct", "reference_verdict", "error", "visual_tokens", "logprob_choice", "logprob_margin", "option_logprobs",
    "seconds", "seconds_encode", "seconds_first",
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

    def answers(self, questions, control):
        for question in questions:
            outcome = self.answer(question.example, control)
            yield question, outcome if isinstance(outcome, ClipError) else dict.fromkeys(question.models, outcome)

    def answer(self, example, control):
        if example.video == self.stop:
            raise KeyboardInterrupt
        self.asked.append((example.video, control))
        if example.video in self.bad:
            return ClipError(f"{example.video}: no frame can be decoded")
        return Reply("(A) red", 0 if control == "blind" else 104)


def ask(answerer, examples, path, header=HEADER, **how):
    """One model's answers."""
    return answer_all(lambda: answerer, examples, {"it": Target(Path(path), header)}, **how)["it"]


def test_a_line_has_every_field_and_the_parsed_choice(tmp_path):
    path = tmp_path / "run" / "answers.jsonl"
    done = ask(Fake(), examples(), path, HEADER)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert done == (6, 0, 0, 0)
    assert all(list(line) == FIELDS for line in lines)
    assert [line["correct"] for line in lines] == [True, False, False] * 2
    first = {k: lines[0][k] for k in FIELDS if k not in ("key", "seconds")}
    assert lines[0]["key"] == examples()[0].key and lines[0]["seconds"] >= 0
    assert first == {
        "experiment": "toy_pool4", "control": None, "task": "colour", "video": "0.mp4", "clip": "0.mp4",
        "question": "Colour?", "reference": "(A) red", "reply": "(A) red", "choice": "A",
        "correct": True, "reference_verdict": False,
        "error": None, "visual_tokens": 104, "logprob_choice": None, "logprob_margin": None, "option_logprobs": None,
        "seconds_encode": None, "seconds_first": None,
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "answers.meta.json").read_text()) == HEADER | {"control": None}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(Fake(stop="3.mp4"), examples(), path, HEADER)
    second, seen = Fake(), []
    done = ask(second, examples(), path, HEADER, progress=lambda *at: seen.append(at))
    assert done == (3, 3, 0, 0)
    assert [video for video, _ in second.asked] == ["3.mp4", "4.mp4", "5.mp4"]
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert ask(Fake(stop="0.mp4"), examples(), path, HEADER) == (0, 6, 0, 0)


def test_a_bad_clip_is_a_line_with_its_error_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert ask(Fake(bad={"1.mp4"}), examples(), path, HEADER) == (6, 0, 1, 0)
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
    ask(Fake(bad={"0.mp4"}), examples(), path, HEADER)
    before = path.read_bytes()
    assert ask(Fake(), examples(), path, HEADER) == (0, 6, 1, 0)
    assert ask(Fake(), examples(), path, HEADER, retry_errors=True) == (1, 5, 0, 0)
    assert path.read_bytes().startswith(before)
    assert read_answers(path)[examples()[0].key]["correct"] is True


def test_a_mistake_of_ours_is_not_swallowed_as_a_bad_clip(tmp_path):
    class Broken(Fake):
        def answer(self, example, control):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        ask(Broken(), examples(), tmp_path / "answers.jsonl", HEADER)


class Both(Fake):
    """The model `a` says (A) of everything, `b` says (B); clips are looked at in the reverse order."""

    def answers(self, questions, control):
        for question in reversed(questions):
            self.asked.append((question.example.video, question.models))
            both = {"a": Reply("(A)", 104, seconds=0.5), "b": Reply("(B)", 26, (-2.0, -0.5, -3.0), 0.25, 0.125, 0.2)}
            yield question, {name: both[name] for name in question.models}


def test_models_asked_together_are_asked_once_a_clip_and_each_keeps_its_file(tmp_path):
    together, alone = Both(), Fake()
    targets = {name: Target(tmp_path / name / "answers.jsonl", HEADER | {"weights": name}) for name in "ab"}
    ask(alone, examples()[:2], targets["a"].path, targets["a"].header)
    done = answer_all(lambda: together, examples(), targets)
    assert (done["a"][:2], done["b"][:2]) == ((4, 2), (6, 0))
    assert dict(together.asked) == {f"{i}.mp4": ("b",) if i < 2 else ("a", "b") for i in range(6)}
    lines = {name: read_answers(target.path) for name, target in targets.items()}
    assert all(set(lines[name]) == {e.key for e in examples()} for name in "ab")
    last = examples()[5].key
    assert (lines["a"][last]["reply"], lines["a"][last]["seconds"]) == ("(A)", 0.5)
    names = ("choice", "logprob_choice", "logprob_margin", "seconds", "seconds_encode", "seconds_first")
    assert [lines["b"][last][name] for name in names] == ["B", "B", 1.5, 0.25, 0.125, 0.2]
    assert lines["b"][last]["option_logprobs"] == [-2.0, -0.5, -3.0] and lines["a"][last]["option_logprobs"] is None


def test_the_options_probabilities_are_kept_in_their_order_to_a_millionth_and_older_lines_stay_readable(tmp_path):
    class Sure(Fake):
        def answer(self, example, control):
            return Reply("(C) blue", 1, (-1.23456789, -0.6, -0.5))

    path = tmp_path / "answers.jsonl"
    ask(Sure(), examples(3), path)
    whole = read_answers(path)
    assert [line["option_logprobs"] for line in whole.values()] == [[-1.234568, -0.6, -0.5]] * 3
    ask(Fake(bad={"4.mp4"}), examples(5)[4:], path)
    assert read_answers(path)[examples(5)[4].key]["option_logprobs"] is None
    older = [{name: value for name, value in line.items() if name != "option_logprobs"} for line in whole.values()]
    path.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert ask(Fake(), examples(4), path) == (1, 3, 0, 0), "older lines count as answers"
    assert score(path, examples(4))["overall"]["n"] == 4 and len(read_run(path).values) == 4


def test_no_model_is_loaded_where_every_answer_stands(tmp_path):
    path = tmp_path / "answers.jsonl"
    ask(Fake(), examples(), path)

    def load():
        raise AssertionError("minutes of loading for nothing")

    assert answer_all(load, examples(), {"it": Target(path, HEADER)})["it"] == (0, 6, 0, 0)


@pytest.mark.parametrize("cut", [1, 20, 10**9])
def test_a_torn_last_line_is_cut_off_and_answered_again(tmp_path, cut):
    path = tmp_path / "answers.jsonl"
    ask(Fake(), examples(), path, HEADER)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    path.write_bytes(whole[: -min(cut, last - 1)])
    assert len(read_answers(path)) == 5
    done = ask(Fake(), examples(), path, HEADER)
    assert (done.new, done.kept, done.torn_bytes) == (1, 5, last - min(cut, last - 1))
    assert list(read_answers(path)) == [example.key for example in examples()]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    ask(Fake(), examples(2), path, HEADER)
    path.write_bytes(b"{oops\n" + path.read_bytes())
    with pytest.raises(UserError, match="answers.jsonl, line 1: not an answer"):
        ask(Fake(), examples(), path, HEADER)


@pytest.mark.parametrize(
    ("header", "control"),
    [(HEADER | {"weights": "w2"}, None), (HEADER, "blind"), (HEADER | {"extra": 1}, None)],
)
def test_answers_of_another_model_never_mix_in(tmp_path, header, control):
    path = tmp_path / "answers.jsonl"
    ask(Fake(), examples(2), path, HEADER)
    before = path.read_bytes()
    with pytest.raises(UserError, match="holds answers with (weights|control|extra) = .* this run has"):
        ask(Fake(), examples(), path, header, control=control)
    assert path.read_bytes() == before


def test_answers_without_their_meta_file_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    ask(Fake(), examples(2), path, HEADER)
    meta_path(path).unlink()
    with pytest.raises(UserError, match="answers.meta.json is missing"):
        ask(Fake(), examples(), path, HEADER)


def test_a_control_reaches_the_model_and_its_lines(tmp_path):
    path, fake = tmp_path / "answers.blind.jsonl", Fake()
    ask(fake, examples(2), path, HEADER, control="blind")
    assert fake.asked == [("0.mp4", "blind"), ("1.mp4", "blind")]
    assert {line["control"] for line in read_answers(path).values()} == {"blind"}
    assert (tmp_path / "answers.blind.meta.json").exists()
    with pytest.raises(UserError, match="unknown control 'deaf'"):
        ask(fake, examples(2), path, HEADER, control="deaf")


def test_two_processes_do_not_answer_into_one_file(tmp_path):
    path = tmp_path / "answers.jsonl"

    class Nested(Fake):
        def answer(self, example, control):
            with pytest.raises(UserError, match="is being written by another process"):
                ask(Fake(), examples(), path, HEADER)
            return super().answer(example, control)

    assert ask(Nested(), examples(2), path, HEADER).new == 2


def test_an_odd_reply_is_kept_on_one_line(tmp_path):
    class Odd(Fake):
        def answer(self, example, control):
            return Reply("two\nlines \udcff \u2028 中", 1)

    path = tmp_path / "answers.jsonl"
    ask(Odd(), examples(3), path, HEADER)
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
ask(Slow(), examples(100), {path!r}, HEADER)
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
    done = ask(Fake(), examples(100), path, HEADER)
    assert 5 <= kept == done.kept < 100 and done.new == 100 - kept
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == [example.key for example in examples(100)]


def test_a_full_disk_is_one_clear_line_and_the_answers_so_far_stay(tmp_path):
    path = tmp_path / "answers.jsonl"
    run = child(path, f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (3000, 3000))")
    _, stderr = run.communicate()
    assert "UserError" in stderr and "answers.jsonl cannot be written: File too large; free space" in stderr
    kept = path.read_bytes().count(b"\n")
    done = ask(Fake(), examples(100), path, HEADER)
    assert kept == done.kept > 3 and done.new == 100 - kept and done.torn_bytes > 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="answers.jsonl cannot be written: (Not a directory|File exists)"):
        ask(Fake(), examples(1), tmp_path / "file" / "answers.jsonl", HEADER)
