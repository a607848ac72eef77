"""Every question stays in the denominator; an unfinished run has no score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.answers.answer import Target, answer_all
from eval.answers.score import score, scores_path
from eval.statistics.estimates import wilson
from eval.tasks.task import Example
from videogpt_plus.app.commands.ask import _detectable
from videogpt_plus.types import ClipError, Reply, UserError

HEADER = {"experiment": "toy_pool4"}
OPTIONS = ("red", "green", "blue", "white")


def examples(task: str = "colour", count: int = 8, options=OPTIONS, group: str = "coarse") -> list[Example]:
    return [
        Example(task, Path(f"/v/{i}.mp4"), f"{i}.mp4", "Colour?", options, options[i % len(options)], group=group)
        for i in range(count)
    ]


class Table:
    """Replies by clip name; None is an unreadable clip."""

    def __init__(self, replies):
        self.replies = replies

    def answers(self, questions, control):
        for question in questions:
            example = question.example
            reply = self.replies.get(example.video, example.reference)
            bad = ClipError(f"{example.video}: empty file")
            yield question, bad if reply is None else dict.fromkeys(question.models, Reply(reply, 104))


def answer(answerer, examples, path, control=None):
    answer_all(lambda: answerer, examples, {"it": Target(path, HEADER)}, control=control)


def scored(path: Path, asked: list[Example], **replies):
    replies = {f"{name[1:]}.mp4": reply for name, reply in replies.items()}
    answer(Table(replies), asked, path)
    return score(path, asked)


def test_failures_and_unparsed_replies_count_as_wrong(tmp_path):
    path = tmp_path / "answers.jsonl"
    scores = scored(path, examples(), _0=None, _1="(A) (B)", _2="(A) red", _3="Answer: (D) white")
    row = scores["tasks"]["colour"]
    assert (row["n"], row["n_answered"], row["n_failed"], row["n_unparsed"], row["right"]) == (8, 7, 1, 1, 5)
    assert (scores["overall"]["n"], scores["overall"]["n_answered"]) == (8, 7)
    assert (row["accuracy"], row["ci_low"], row["ci_high"]) == wilson(5, 8)
    assert row["failures"] == [{"key": examples()[0].key, "video": "0.mp4", "error": "0.mp4: empty file"}]
    assert sum(row["correct"].values()) == 5 and len(row["correct"]) == 8
    assert row["visual_tokens"] == 104


def test_the_references_rule_stands_in_its_own_column(tmp_path):
    scores = scored(tmp_path / "answers.jsonl", examples(count=4), _0="(A) red", _1="Answer: (B)", _2="(A) a", _3="x")
    row = scores["tasks"]["colour"]
    # It misses the plain "(A) red" and takes "Answer: (B)"; of one word it has no verdict, which is wrong here.
    assert row["accuracy"] == 0.5 and row["reference_rule_accuracy"] == 0.25


def test_scores_are_written_beside_the_answers_whole_and_equal(tmp_path):
    path = tmp_path / "answers.blind.jsonl"
    scores = scored(path, examples())
    assert scores_path(path) == tmp_path / "scores.blind.json"
    assert json.loads(scores_path(path).read_text()) == scores
    assert scores["experiment"] == "toy_pool4" and scores["control"] is None
    assert not list(tmp_path.glob("*.part"))


def test_chance_is_one_over_the_options_and_majority_the_best_constant_guess(tmp_path):
    asked = [
        Example("t", Path("/v"), str(i), "?", ("yes", "no") if i % 2 else ("no", "yes"), "yes" if i < 9 else "no")
        for i in range(12)
    ]
    row = scored(tmp_path / "answers.jsonl", asked)["tasks"]["t"]
    assert row["chance"] == 0.5
    assert row["majority"] == 9 / 12  # always "yes"; always (A) or (B) gets fewer
    row = scored(tmp_path / "other.jsonl", examples(count=6))["tasks"]["colour"]
    assert row["chance"] == 0.25 and row["majority"] == 2 / 6


def test_overall_is_the_mean_over_tasks_and_over_questions(tmp_path):
    asked = examples("a", 4) + examples("b", 12)
    scores = scored(tmp_path / "answers.jsonl", asked, _0="x", _1="x")
    assert scores["overall"]["n"] == 16
    assert scores["overall"]["macro"]["accuracy"] == pytest.approx((2 / 4 + 10 / 12) / 2)
    assert scores["overall"]["micro"]["accuracy"] == 12 / 16
    assert list(scores["tasks"]) == ["a", "b"]


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(tmp_path):
    path = tmp_path / "run" / "answers.jsonl"
    answer(Table({}), examples()[:5], path)
    with pytest.raises(UserError, match=f"3 of 8 answers are missing.*videogpt-plus answer {path.parent}$"):
        score(path, examples())
    assert not scores_path(path).exists()
    with pytest.raises(UserError, match="8 of 8 answers are missing"):
        score(tmp_path / "none" / "answers.jsonl", examples())
    blind = tmp_path / "run" / "answers.blind.jsonl"
    answer(Table({}), examples()[:7], blind, control="blind")
    with pytest.raises(UserError, match="1 of 8 .* --control blind$"):
        score(blind, examples())


def test_answers_to_an_older_benchmark_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    answer(Table({}), examples(), path)
    with pytest.raises(UserError, match="the benchmark now says '\\(A\\) teal'"):
        score(path, examples(options=("teal", "green", "blue", "white")))


def test_scoring_statistics_and_report_import_neither_torch_nor_matplotlib():
    names = (
        "answers.score",
        "statistics.paired",
        "statistics.power",
        "report.report",
        "answers.answer",
        "tasks.mvbench",
    )
    code = f"import sys, {', '.join(f'eval.{name}' for name in names)}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "scipy", "numpy", "transformers"} & set(modules)


@pytest.mark.parametrize(
    ("n", "of_a_task", "said"),
    [
        (4000, 200, "80 % power): 1.3 to 2.0 points over all questions (with 8 to 20 % discordant pairs), 5.6 to 8.9 "
         "points on one task (with 8 to 20 % discordant pairs)"),
        (240, 40, "80 % power): 5.1 to 8.1 points over all questions (with 8 to 20 % discordant pairs), 19.8 points on "
         "one task (with 20 % discordant pairs)"),
        (240, 12, "(with 8 to 20 % discordant pairs), nothing on one task: 12 questions are too few"),
        (100, 100, "80 % power): 7.9 to 12.5 points over all questions (with 8 to 20 % discordant pairs)"),
        (24, 2, "24 questions are too few for a paired test with another run to show any difference"),
    ],
)  # fmt: skip
def test_what_a_comparison_can_show_is_never_more_than_the_questions_that_change_sides(n, of_a_task, said):
    assert _detectable(n, of_a_task).endswith(said)
