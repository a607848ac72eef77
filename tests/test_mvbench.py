"""Annotations in MVBench's layout become checked examples; what is wrong in them is named with file and entry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from faults.entries import BAD_QUESTIONS, BAD_TABLES, GOOD, NAMES, bench

from eval.tasks.mvbench import MVBENCH, annotation_of, load_benchmark, open_benchmark, read_task
from eval.tasks.task import Example, fingerprint
from videogpt_plus.inference import seed_of
from videogpt_plus.types import UserError, check_control

PROMPTS = Path(__file__).parent / "golden" / "mvbench_prompts.json"


def example(question="Which?", candidates=("x", "y"), answer="y", **more) -> Example:
    return Example("t", Path("/v/a.mp4"), "a.mp4", question, tuple(candidates), answer, **more)


def test_the_table_has_the_20_published_tasks_with_their_bounds():
    assert len(MVBENCH) == 20
    assert {name for name, task in MVBENCH.items() if task.bounds} == {
        "Action Sequence",
        "Action Prediction",
        "Object Interaction",
        "Action Localization",
        "Episodic Reasoning",
    }
    assert [name for name, task in MVBENCH.items() if task.kind == "frames"] == ["Episodic Reasoning"]
    assert all(task.questions == 200 for task in MVBENCH.values())


def test_a_published_folder_is_read_without_a_tasks_file(tmp_path):
    (tmp_path / "json").mkdir()
    for name, task in MVBENCH.items():
        bounds = {"start": 1.5, "end": 7} if task.bounds else {}
        entries = [GOOD | {"question": f"{i}?"} | bounds for i in range(200)]
        file = name.lower().replace(" ", "_").replace("-", "_")
        (tmp_path / "json" / f"{file}.json").write_text(json.dumps(entries))
    tasks = load_benchmark(tmp_path)
    assert [task.name for task in tasks] == list(MVBENCH)
    assert sum(len(task.examples()) for task in tasks) == 4000
    tv = next(task for task in tasks if task.name == "Episodic Reasoning").examples()[0]
    assert (tv.path, tv.start, tv.end) == (tmp_path / "video/tvqa/frames_fps3_hq/a.mp4", 1.5, 7.0)
    (tmp_path / "json" / "fine_grained_pose.json").write_text(json.dumps([GOOD]))
    with pytest.raises(UserError, match="fine_grained_pose.json: 1 questions, 200 expected"):
        load_benchmark(tmp_path)
    (tmp_path / "json" / "fine_grained_pose.json").unlink()
    with pytest.raises(UserError, match="fine_grained_pose.json: No such file or directory"):
        load_benchmark(tmp_path)


def test_a_tasks_file_states_folder_kind_bounds_group_and_level(tmp_path):
    table = {"colour": {"folder": "video/c", "kind": "frames", "bounds": True, "needs_level": 2, "group": "fine"}}
    task = load_benchmark(bench(tmp_path, [GOOD | {"start": 1, "end": 2.5}], table))[0]
    (only,) = task.examples()
    assert (task.name, task.group, len(task.examples())) == ("colour", "fine", 1)
    assert only.path == tmp_path / "video/c/a.mp4" and only.path.is_absolute() and only.video == "a.mp4"
    assert (only.kind, only.start, only.end, only.needs_level) == ("frames", 1.0, 2.5, 2)


def test_bounds_count_only_where_the_table_says_so(tmp_path):
    (only,) = load_benchmark(bench(tmp_path, [GOOD | {"start": 1, "end": 2}]))[0].examples()
    assert only.start is None and only.end is None


@pytest.mark.parametrize(("entries", "message"), BAD_QUESTIONS)
def test_a_wrong_annotation_is_named_with_file_and_entry(tmp_path, entries, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_benchmark(bench(tmp_path, entries))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [None, "1", True])
def test_a_bound_that_is_no_time_is_refused(tmp_path, start):
    table = {"colour": {"folder": "video", "bounds": True}}
    with pytest.raises(UserError, match="entry 0: 'start' must be a time in seconds"):
        load_benchmark(bench(tmp_path, [GOOD | {"start": start, "end": 2}], table))


@pytest.mark.parametrize(("table", "message"), BAD_TABLES)
def test_a_wrong_tasks_file_is_named(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        load_benchmark(bench(tmp_path, [GOOD], table))


def write_published(root: Path, *names: str) -> Path:
    """Annotations of MVBench's tasks, 200 questions each."""
    (root / "json").mkdir(parents=True)
    for name in names:
        bounds = {"start": 1.5, "end": 7} if MVBENCH[name].bounds else {}
        entries = [GOOD | {"video": "a.webm", "question": f"{i}?"} | bounds for i in range(200)]
        annotation_of(root, name).write_text(json.dumps(entries))
    return root


def test_a_row_changes_what_it_states_and_keeps_the_rest_of_mvbenchs_row(tmp_path):
    root = write_published(tmp_path, "Action Sequence", "Action Antonym", "Episodic Reasoning")
    published = {task.name: task.examples()[0] for task in load_benchmark(root, tuple(read_names(root)))}
    (root / "tasks.json").write_text(
        json.dumps({"Action Sequence": {"folder": "video/cut"}, "Action Antonym": {"suffix": ".mp4"}})
    )
    own = {task.name: task.examples()[0] for task in load_benchmark(root)}
    assert own.keys() == published.keys()
    assert own["Action Sequence"].path == root / "video/cut/a.webm"
    assert (own["Action Sequence"].start, own["Action Sequence"].end) == (1.5, 7.0)
    assert own["Action Antonym"].path == root / "video/ssv2_video/a.mp4" and own["Action Antonym"].video == "a.webm"
    assert own["Episodic Reasoning"] == published["Episodic Reasoning"]
    assert [e.key for e in own.values()] == [published[name].key for name in own]
    (root / "tasks.json").write_text(json.dumps({"Action Sequence": {"folder": "x", "questions": 3}}))
    with pytest.raises(UserError, match="200 questions, 3 expected"):
        load_benchmark(root)


def test_a_task_is_left_out_by_null_and_by_nothing_else(tmp_path):
    root = write_published(tmp_path, "Action Antonym", "Fine-grained Pose", "Action Count")
    (root / "tasks.json").write_text(json.dumps({"Fine-grained Pose": None}))
    assert [task.name for task in load_benchmark(root)] == ["Action Antonym", "Action Count"]
    (root / "tasks.json").write_text(json.dumps(dict.fromkeys(MVBENCH)))
    with pytest.raises(UserError, match="no task to ask"):
        load_benchmark(root)


@pytest.mark.parametrize(("video", "path"), NAMES)
def test_a_dot_in_a_clips_name_is_not_its_ending(tmp_path, video, path):
    rows = {"colour": {"folder": "video", "suffix": ".mp4"}}
    (only,) = load_benchmark(bench(tmp_path, [GOOD | {"video": video}], rows))[0].examples()
    assert only.path == tmp_path / "video" / path and only.video == video


def read_names(root: Path) -> list[str]:
    return [name for name in MVBENCH if annotation_of(root, name).exists()]


def test_a_file_of_rows_anywhere_names_the_benchmarks_folder(tmp_path):
    root = write_published(tmp_path / "read_only", "Action Sequence", "Action Antonym")
    own = tmp_path / "mine" / "rows.json"
    own.parent.mkdir()
    elsewhere = tmp_path / "other_disk"
    for named in (str(root), "../read_only"):
        own.write_text(json.dumps({"root": named, "Action Antonym": {"folder": str(elsewhere)}}))
        antonym, sequence = (task.examples()[0].path for task in load_benchmark(own))
        assert antonym == elsewhere / "a.webm" and sequence.resolve() == root / "video/star/Charades_v1_480/a.webm"
    assert not (root / "tasks.json").exists()
    (own.parent / "tasks.json").write_text(json.dumps({"root": str(root)}))
    assert open_benchmark(own.parent).tasks is MVBENCH and open_benchmark(own.parent).root == root


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no benchmark at .*: rows.json should hold an object of task -> folder, kind, bounds; found"),
        ({"root": 3}, "'root' must be the benchmark's folder; found 3"),
        ({"root": "nowhere"}, "there is no folder .*nowhere/json of annotations"),
        ({"Action Antonym": {"suffix": "mp4"}}, r"'suffix' must be like video/clips and .mp4; found \"mp4\""),
        ({"Action Antonym": {"folder": ""}}, "'folder' must be like video/clips"),
        ({"Action Antonym": {"folder": 3}}, "'folder' must be a text; found 3"),
        (
            {"Action Antonymy": {"folder": "v"}},
            "No such file or directory; .*correct the name 'Action Antonymy' in .*rows.json",
        ),
    ],
)
def test_a_wrong_file_of_rows_is_one_line(tmp_path, rows, message):
    write_published(tmp_path, "Action Antonym")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=message) as caught:
        load_benchmark(tmp_path / "rows.json")
    assert "\n" not in str(caught.value)


def test_repeated_questions_are_told_apart_and_the_first_keeps_its_key(tmp_path):
    other = GOOD | {"question": "2?"}
    once = load_benchmark(bench(tmp_path / "once", [GOOD, other]))[0].examples()
    shuffled_options = GOOD | {"candidates": ["z", "y", "x"]}
    entries = [GOOD, other, GOOD, shuffled_options]
    found = load_benchmark(bench(tmp_path / "often", entries))[0].examples()
    assert [e.occurrence for e in found] == [0, 0, 1, 2]
    assert [e.key for e in found[:2]] == [e.key for e in once]
    assert len({e.key for e in found}) == 4 and len(set(found)) == 4
    assert fingerprint(found) != fingerprint(found[:3])


def test_every_wrong_entry_of_a_task_is_read_past(tmp_path):
    root = bench(tmp_path, [3, GOOD, GOOD | {"answer": "w"}])
    questions, problems = read_task(open_benchmark(root), "colour")
    assert len(questions) == 1 and [line.rpartition("/")[2].split(":")[0] for line in problems] == [
        "colour.json, entry 0",
        "colour.json, entry 2",
    ]
    with pytest.raises(UserError, match=f"entry 0: .*found 3 \\(1 more; all: videogpt-plus check {root}\\)"):
        load_benchmark(root)


def test_unknown_tasks_and_a_missing_benchmark_name_the_way_out(tmp_path):
    with pytest.raises(UserError, match="unknown task 'color'.*choose from: colour"):
        load_benchmark(bench(tmp_path / "b", [GOOD]), ["color"])
    with pytest.raises(UserError, match="no benchmark at"):
        load_benchmark(tmp_path / "nowhere")


# The reference's prompts: the last option loses its trailing spaces, and of two equal options the last is right.
@pytest.mark.parametrize(
    ("data", "prompt", "answer"),
    [
        (("Which?", ("a cup", "b"), "a cup"), "Which?\nOptions:\n(A) a cup\n(B) b", "(A) a cup"),
        (("T? ", ("yes ", "no\n"), "no\n"), "T? \nOptions:\n(A) yes \n(B) no", "(B) no\n"),
        (("dup", ("x", "x"), "x"), "dup\nOptions:\n(A) x\n(B) x", "(B) x"),
    ],
)
def test_prompt_and_reference_have_mvbenchs_wording(data, prompt, answer):
    made = example(*data)
    assert made.prompt == f"Question: {prompt}\nOnly give the best option."
    assert made.reference == answer


def test_prompt_and_reference_equal_every_recorded_one():
    for case in json.loads(PROMPTS.read_text()):
        data = case["data"]
        if data["answer"] in data["candidates"]:
            made = example(data["question"], data["candidates"], data["answer"])
            assert (made.prompt, made.reference) == (case["Q"], case["A"])


def test_the_key_is_the_content_and_nothing_else():
    base = example(start=1.0, end=2.0)
    assert base.key == example(start=1.0, end=2.0, candidates=("y", "q"), kind="gif", group="g").key
    others = [
        example(),
        example(start=1.0, end=3.0),
        example("Who?", start=1.0, end=2.0),
        Example("u", base.path, base.video, base.question, base.candidates, base.answer, 1.0, 2.0),
        Example("t", base.path, "b.mp4", base.question, base.candidates, base.answer, 1.0, 2.0),
    ]
    assert len({base.key, *(other.key for other in others)}) == 6
    assert len(base.key) == 16 and example().key == "e5f804527796d057"


def test_the_fingerprint_changes_with_options_and_not_with_order():
    one, two = example("1?"), example("2?")
    assert fingerprint([one, two]) == fingerprint([two, one])
    assert fingerprint([one]) != fingerprint([example("1?", candidates=("q", "y"))])


def test_equal_options_are_equally_right():
    assert example(candidates=("x", "x ", "w"), answer="x").is_right("B")
    assert not example(candidates=("x", "x ", "w"), answer="x").is_right("C")
    assert not example().is_right(None)


def test_the_repeated_frame_is_fixed_for_a_question_and_spread_over_questions():
    frames = [seed_of(example(f"{i}?")) % 8 for i in range(400)]
    assert frames == [seed_of(example(f"{i}?")) % 8 for i in range(400)]
    assert all(30 <= frames.count(frame) <= 70 for frame in range(8))


def test_an_unknown_control_names_the_choices():
    with pytest.raises(UserError, match="unknown control 'deaf'; choose from: blind, one_frame, shuffled"):
        check_control("deaf")
