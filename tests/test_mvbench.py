"""Annotations in MVBench's layout become checked examples; what is wrong in them is named with file and entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.mvbench import MVBENCH, load_benchmark
from eval.task import Example, check_control, fingerprint, frame_of
from videogpt_plus.types import UserError

PROMPTS = Path(__file__).parents[1].parent / "shared" / "golden" / "mvbench_prompts.json"
GOOD = {"video": "a.mp4", "question": "Which?", "candidates": ["x", "y", "z"], "answer": "z"}


def bench(root: Path, entries, tasks=None) -> Path:
    (root / "json").mkdir(parents=True)
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (root / "json" / "colour.json").write_text(text)
    (root / "tasks.json").write_text(json.dumps(tasks or {"colour": {"folder": "video/colour"}}))
    return root


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
    with pytest.raises(UserError, match="fine_grained_pose.json: there is no such file"):
        load_benchmark(tmp_path)


def test_a_tasks_file_states_folder_kind_bounds_group_and_level(tmp_path):
    table = {"colour": {"folder": "video/c", "kind": "frames", "bounds": True, "needs_level": 2, "group": "fine"}}
    task = load_benchmark(bench(tmp_path, [GOOD | {"start": 1, "end": 2.5}], table))[0]
    (only,) = task.examples()
    assert (task.name, task.group, task.expected_examples) == ("colour", "fine", 1)
    assert only.path == tmp_path / "video/c/a.mp4" and only.path.is_absolute() and only.video == "a.mp4"
    assert (only.kind, only.start, only.end, only.needs_level) == ("frames", 1.0, 2.5, 2)


def test_bounds_count_only_where_the_table_says_so(tmp_path):
    (only,) = load_benchmark(bench(tmp_path, [GOOD | {"start": 1, "end": 2}]))[0].examples()
    assert only.start is None and only.end is None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("", "colour.json: is empty"),
        ("[{", "colour.json: is not JSON"),
        ("[]", r"colour.json: expected a list of questions; found \[\]"),
        ({"a": 1}, "colour.json: expected a list"),
        ([GOOD, 3], "colour.json, entry 1: expected an object"),
        ([{**GOOD, "video": None}], "entry 0: 'video' must be a text"),
        (
            [{k: v for k, v in GOOD.items() if k != "question"}],
            "entry 0: 'question' must be .* found nothing",
        ),
        ([GOOD | {"candidates": ["z"]}], "entry 0: 'candidates' must be a list of 2 to 26"),
        ([GOOD | {"candidates": ["z", " "]}], "entry 0: 'candidates' must be a text that is not empty"),
        ([GOOD | {"answer": "w"}], 'entry 0: the answer "w" is not among the candidates'),
        ([GOOD, GOOD | {"question": "2?"}, GOOD], "entry 2: the same clip, bounds and question as entry 0"),
    ],
)
def test_a_wrong_annotation_is_named_with_file_and_entry(tmp_path, entries, message):
    with pytest.raises(UserError, match=message) as caught:
        load_benchmark(bench(tmp_path, entries))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [None, "1", True])
def test_a_bound_that_is_no_time_is_refused(tmp_path, start):
    table = {"colour": {"folder": "video", "bounds": True}}
    with pytest.raises(UserError, match="entry 0: 'start' must be a time in seconds"):
        load_benchmark(bench(tmp_path, [GOOD | {"start": start, "end": 2}], table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"colour": {"folder": "v", "knd": 1}}, "unknown field 'knd'; choose from: folder, kind"),
        ({"colour": {"folder": "v", "kind": "pdf"}}, 'unknown kind "pdf"; choose from: video, gif, frames'),
        ({"colour": {}}, "task 'colour': expected an object with a 'folder'"),
    ],
)
def test_a_wrong_tasks_file_is_named(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        load_benchmark(bench(tmp_path, [GOOD], table))


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


@pytest.mark.skipif(not PROMPTS.exists(), reason="the reference's recordings are not here")
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
    frames = [frame_of(example(f"{i}?")) % 8 for i in range(400)]
    assert frames == [frame_of(example(f"{i}?")) % 8 for i in range(400)]
    assert all(30 <= frames.count(frame) <= 70 for frame in range(8))


def test_an_unknown_control_names_the_choices():
    with pytest.raises(UserError, match="unknown control 'deaf'; choose from: blind, one_frame"):
        check_control("deaf")
