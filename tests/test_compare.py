"""Two runs side by side: only what both have, nothing that failed as right, and one line where they are unlike."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from eval.answers.answer import read_answers
from eval.judge.scoring import _hash
from eval.report.compare import compare_runs, read_run
from eval.statistics.estimates import SCORE
from eval.statistics.paired import NONE_SHOWN, compare, equivalence, holm
from videogpt_plus.app import cli
from videogpt_plus.types import UserError


def line(key: str, correct: bool, task: str = "colour", **more) -> dict:
    reply = {"key": key, "task": task, "video": f"{key}.mp4", "reference": "(A) red", "correct": correct, "error": None}
    return reply | more


def write(path: Path, lines: list[dict], torn: str = "", meta: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + torn)
    if meta is not None:
        path.with_suffix(".meta.json").write_text(json.dumps(meta))
    return path


def pair(folder: Path, first: list[dict], second: list[dict]) -> tuple[Path, Path]:
    return write(folder / "a/answers.jsonl", first), write(folder / "b/answers.jsonl", second)


def many(share_a: float, share_b: float, n: int = 300, per_video: int = 1) -> tuple[list[dict], list[dict]]:
    rng = random.Random(0)
    sides = []
    for share in (share_a, share_b):
        sides.append([
            line(f"q{i}", rng.random() < share, f"task {i % 3}", video=f"{i // per_video}.mp4") for i in range(n)
        ])  # fmt: skip
    return sides[0], sides[1]


def test_what_both_have_is_compared_and_the_rest_is_counted(tmp_path):
    first = [line("1", True), line("2", True), line("3", False), line("only a", True)]
    second = [line("1", True), line("2", False), line("3", False), line("b1", True), line("b2", True)]
    found = compare_runs(*map(read_run, pair(tmp_path, first, second)))
    assert (found["n"], found["only_a"], found["only_b"]) == (3, 1, 2)
    assert (found["accuracy_a"], found["accuracy_b"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["difference"] == pytest.approx(1 / 3) and found["mcnemar_p"] == 1.0
    assert found["ci_low"] < found["difference"] < found["ci_high"]


def test_a_question_that_failed_is_wrong_and_counted_whatever_its_line_says(tmp_path):
    first = [line("1", True, error="file is empty"), line("2", True)]
    found = compare_runs(*map(read_run, pair(tmp_path, first, [line("1", True), line("2", True)])))
    assert (found["accuracy_a"], found["accuracy_b"]) == (0.5, 1.0)
    assert (found["failed_a"], found["failed_b"]) == (1, 0)


def test_what_nobody_could_read_is_not_equivalent(tmp_path):
    lines = [line(str(i), False, error="file is empty") for i in range(400)]
    found = compare_runs(*map(read_run, pair(tmp_path, lines, lines)), margin=0.05)
    assert found["equivalent"] is None and found["equivalence"] == "unreadable clips decide it"


@pytest.mark.parametrize("margin", ["0", "-1", "nan", "inf", "100"])
def test_a_margin_that_says_nothing_is_refused(margin, tmp_path, capsys):
    a, b = pair(tmp_path, [line("1", True)], [line("1", True)])
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(a), str(b), "--margin", margin, "--json"])
    assert stop.value.code == 2 and "above 0 and below 100" in capsys.readouterr().err


def test_a_torn_last_line_is_ignored_and_of_two_lines_the_later_one_counts(tmp_path):
    a, b = pair(tmp_path, [line("1", False), line("1", True)], [line("1", True)])
    write(b, [line("1", True)], torn='{"key": "2", "cor')
    found = compare_runs(read_run(a), read_run(b))
    assert (found["n"], found["accuracy_a"], found["only_b"]) == (1, 1.0, 0)


def test_the_numbers_are_those_of_the_statistics(tmp_path):
    a, b = map(read_run, pair(tmp_path, *many(0.8, 0.6, per_video=2)))
    found = compare_runs(a, b, margin=0.1)
    paired = compare(a.values, b.values, a.videos)
    assert (found["ci_low"], found["ci_high"], found["p"]) == (paired.low, paired.high, paired.p)
    assert found["detectable_difference"] == paired.detectable
    said = equivalence(a.values, b.values, 0.1, a.videos)
    assert (found["equivalence_p"], found["equivalent"]) == (said.p, said.shown) and said.shown is False
    tasks = {key: task for task, part in a.parts.items() for key in part}
    of_tasks = compare(a.values, b.values, a.videos, tasks)
    assert found["mean_of_tasks"]["difference"] == of_tasks.difference and found["mean_of_tasks"]["p"] == of_tasks.p
    assert found["mean_of_tasks"]["equivalent"] is False
    rows = found["tasks"].values()
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows]) and len(rows) == 3
    assert sum(row["n"] for row in rows) == found["n"] == 300 and found["n_videos"] == 150


def test_exchanging_the_files_turns_the_sign_and_nothing_else(tmp_path):
    a, b = map(read_run, pair(tmp_path, *many(0.8, 0.7)))
    there, back = compare_runs(a, b, 0.05), compare_runs(b, a, 0.05)
    for name in ("mcnemar_p", "p", "detectable_difference", "equivalence_p", "n"):
        assert there[name] == back[name], name
    assert (there["ci_low"], there["ci_high"]) == pytest.approx((-back["ci_high"], -back["ci_low"]))
    assert (there["verdict"], back["verdict"]) == ("A is better", "B is better")


def test_a_run_is_no_better_than_itself_and_equivalent_to_itself(tmp_path):
    first, _ = many(0.7, 0.7)
    found = compare_runs(*map(read_run, pair(tmp_path, first, first)), margin=0.05)
    assert found["verdict"] == NONE_SHOWN and found["mcnemar_p"] == 1.0 and found["equivalent"] is True
    assert found["ci_low"] < 0 < found["ci_high"], "300 equal answers do not prove that the next one is equal"


def test_the_command_prints_one_json_object_with_the_promised_names(tmp_path, capsys):
    a, b = pair(tmp_path, *many(0.8, 0.6))
    cli.main(["compare", str(a), str(b), "--json"])
    found = json.loads(capsys.readouterr().out)
    names = "n accuracy_a accuracy_b difference ci_low ci_high mcnemar_p detectable_difference only_a only_b"
    assert set(names.split()) <= found.keys() and "equivalent" not in found
    cli.main(["compare", str(a.parent), str(b.parent), "--margin", "40"])
    out = capsys.readouterr().out
    assert "equivalent within 40 points" in out and "A is better" in out and "task 2" in out


def test_the_mean_of_tasks_is_tested_beside_all_questions(tmp_path, capsys):
    """A small task that one run loses decides the mean of tasks, and is lost among all questions."""
    rng = random.Random(3)
    sides = []
    for small in (True, False):
        large = [line(f"l{i}", rng.random() < 0.6, "large") for i in range(400)]
        sides.append([*large, *(line(f"s{i}", small, "small") for i in range(12))])
    a, b = pair(tmp_path, *sides)
    found = compare_runs(read_run(a), read_run(b))
    assert found["verdict"] == NONE_SHOWN and found["mean_of_tasks"]["verdict"] == "A is better"
    assert found["mean_of_tasks"]["ci_low"] > 0
    cli.main(["compare", str(a), str(b)])
    out = capsys.readouterr().out
    assert "no difference shown over all questions" in out and "A is better by the mean of tasks" in out


def test_equivalence_that_unreadable_clips_decide_is_refused(tmp_path, capsys):
    """60 clips that one run alone could read make the difference; where both could, they are equal."""
    first, _ = many(0.7, 0.7, n=900)
    second = [one | ({"error": "file is empty"} if i < 60 else {}) for i, one in enumerate(first)]
    a, b = pair(tmp_path, first, second)
    found = compare_runs(read_run(a), read_run(b), margin=0.03)
    assert found["difference"] > 0.03 and found["readable"]["difference"] == 0 and found["readable"]["n"] == 840
    assert found["equivalent"] is None and found["equivalence"] == "unreadable clips decide it"
    cli.main(["compare", str(a), str(b), "--margin", "3"])
    out = " ".join(capsys.readouterr().out.split())
    assert "unreadable clips decide whether they are equivalent within 3 points" in out
    assert "Where both could read the clip (840 questions)" in out


@pytest.mark.parametrize("value", ["NaN", "Infinity", "7", "true", '"4"'])
def test_a_score_that_is_no_score_is_refused_by_name(tmp_path, value):
    folder = judged(tmp_path / "a", {"detail": {"q1": 3, "q2": 4}})
    text = (folder / "scores.json").read_text().replace('"q2/detail": 4', f'"q2/detail": {value}')
    (folder / "scores.json").write_text(text)
    with pytest.raises(UserError, match="scores.json: the score of q2/detail .* is no number from 0 to 5"):
        read_run(folder / "answers.jsonl")


def test_few_clips_are_told_to_be_few(tmp_path, capsys):
    """8 clips of 25 questions, two of which turn over whole, one each way."""
    sides = [[line(f"q{i:03}", i // 25 != wrong, video=f"v{i // 25}") for i in range(200)] for wrong in (0, 1)]
    a, b = pair(tmp_path, *sides)
    found = compare_runs(read_run(a), read_run(b), margin=0.1)
    assert found["equivalent"] is None and found["equivalence"] == "too few clips to tell"
    assert found["n_videos"] == 8 and found["n_differing"] == 2 and found["ci_low"] < -0.1
    cli.main(["compare", str(a), str(b), "--margin", "10"])
    assert "too few clips to tell whether they are equivalent within 10 points" in capsys.readouterr().out


def test_no_difference_is_said_in_words(tmp_path, capsys):
    a, b = pair(tmp_path, *many(0.7, 0.7))
    cli.main(["compare", str(a), str(b), "--margin", "1"])
    out = capsys.readouterr().out
    assert NONE_SHOWN in out and "not shown to be equivalent within 1 points" in out


def test_unlike_controls_are_said(tmp_path, capsys):
    a, b = pair(tmp_path, *many(0.8, 0.6))
    write(b, many(0.8, 0.6)[1], meta={"control": "blind"})
    cli.main(["compare", str(a), str(b)])
    assert "A was asked with all frames, B with blind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([line("other", True, "shape")], "have no question in common: their tasks are colour and shape"),
        ([line("1", True, reference="(B) green")], "two question sets: the right answer to 1 is '(A) red' in one"),
        ([{"key": "1", "task": "t"}], "the answer 1 has no video"),
        ([line("1", "yes")], "correct = 'yes', which is neither true nor false"),
        ([{"no": "key"}], "line 1: not an answer"),
        ([], "holds no answer yet"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(tmp_path, capsys, second, said):
    a, b = pair(tmp_path, [line("1", True)], second)
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(a), str(b)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize(("more", "said"), [(["--margin", "0"], "above 0"), (["--margin", "nan"], "above 0")])
def test_a_margin_is_above_nothing(tmp_path, capsys, more, said):
    a, b = pair(tmp_path, [line("1", True)], [line("1", True)])
    with pytest.raises(SystemExit):
        cli.main(["compare", str(a), str(b), *more])
    assert said in capsys.readouterr().err


def judged(folder: Path, scores: dict[str, dict[str, int | None]], model: str = "m", verdicts: bool = False) -> Path:
    """A folder of open answers with one judge's scores, by aspect and question."""
    keys = {key for part in scores.values() for key in part}
    lines = [line(key, False, "generic", reference="a dog runs") for key in sorted(keys)]
    write(folder / "answers.jsonl", lines, meta={"benchmark": "vcgbench", "control": None})
    aspects = {
        aspect: {"scores": {f"{key}/{aspect}": value for key, value in part.items()}}
        | ({"correct": {f"{key}/{aspect}": value > 2 for key, value in part.items()}} if verdicts else {})
        for aspect, part in scores.items()
    }
    judge = {"judge_model": model, "served_models": [model], "prompt_hash": "p"}
    content = {"benchmark": "vcgbench", "control": None, "judge": judge, "aspects": aspects}
    content["answers"] = _hash(read_answers(folder / "answers.jsonl"))
    (folder / "scores.json").write_text(json.dumps(content))
    return folder


def test_scores_of_a_judge_are_compared_by_aspect_and_unscored_answers_are_counted(tmp_path, capsys):
    rng = random.Random(0)
    base = {f"q{i}": rng.randint(1, 4) for i in range(60)}
    better = {key: value + (i % 2) for i, (key, value) in enumerate(base.items())}
    first = judged(tmp_path / "a", {"detail": better, "context": base}, verdicts=True)
    second = judged(tmp_path / "b", {"detail": base, "context": base | {"q0": 0}}, verdicts=True)
    scores = json.loads((second / "scores.json").read_text())
    scores["aspects"]["context"]["scores"]["q0/context"] = None
    (second / "scores.json").write_text(json.dumps(scores))
    found = compare_runs(read_run(first / "answers.jsonl"), read_run(second / "scores.json"), margin=1.0)
    detail = found["tasks"]["detail"]
    expected = compare(better, base, scale=SCORE)
    assert (detail["difference"], detail["p"]) == pytest.approx((0.5, expected.p))
    assert found["tasks"]["context"]["n"] == 59 and (found["only_a"], found["failed_b"]) == (1, 1)
    assert found["tasks"]["context"]["verdict"] == NONE_SHOWN and detail["verdict"] == "A is better"
    assert found["equivalent"] is True and found["verdicts"]["n"] == 120
    cli.main(["compare", str(first), str(second), "--margin", "1"])
    out = capsys.readouterr().out
    assert "Left without a score: 0 in A, 1 in B" in out and "The judge calls right" in out


def test_scores_of_two_judges_and_scores_beside_answers_are_refused(tmp_path):
    scores = {"detail": {"q1": 3, "q2": 4}}
    first, second = judged(tmp_path / "a", scores), judged(tmp_path / "b", scores, model="other")
    with pytest.raises(UserError, match="rejudge"):
        compare_runs(read_run(first / "answers.jsonl"), read_run(second / "answers.jsonl"))
    changed = write(second / "answers.jsonl", [line("q1", False), line("q2", True), line("q3", True)])
    with pytest.raises(UserError, match="changed since"):
        read_run(changed.with_name("scores.json"))
    answers = write(tmp_path / "c/answers.jsonl", [line("q1", True)])
    with pytest.raises(UserError, match="compare like with like"):
        compare_runs(read_run(first / "answers.jsonl"), read_run(answers))
    (first / "scores.json").unlink()
    with pytest.raises(UserError, match="nobody judged yet"):
        read_run(first / "answers.jsonl")
