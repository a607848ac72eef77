"""Published files of open benchmarks: what is read of them, and what is said of what is wrong in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.tasks import benchmarks
from eval.tasks.open_questions import load_vcgbench, load_vcgbench_diverse, load_zero_shot
from eval.tasks.task import fingerprint
from videogpt_plus.types import UserError


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        write(path, "clip")


@pytest.fixture
def vcgbench(tmp_path) -> Path:
    """The folders as published: questions in one, clips of any ending in the other."""
    root = tmp_path / "VCGBench"
    generic = [
        {"Q": "What happens?", "A": "He runs.", "video_name": "v_a"},
        {"Q": "What happens?", "A": "He runs fast.", "video_name": "v_a"},
        {"Q": "Where?", "A": "Outside.", "video_name": "v_b"},
    ]
    write(root / "Benchmarking_QA/generic_qa.json", generic)
    write(root / "Benchmarking_QA/temporal_qa.json", [{"Q": "Then?", "A": "He stops.", "video_name": "v_a.mp4"}])
    twice = [{"Q1": "Who?", "Q2": "Which person?", "A": "A man.", "video_name": f"v_{x}"} for x in "ab"]
    write(root / "Benchmarking_QA/consistency_qa.json", twice)
    touch(root / "Test_Videos/v_a.mkv", root / "Test_Videos/v_b.AVI")
    return root


@pytest.fixture
def diverse(tmp_path) -> Path:
    root = tmp_path / "VCGBench-Diverse"
    entries = [
        {"id": 7, "type": "temporal", "video_name": "a.mp4", "Q": "Then?", "A": "It ends."},
        {"id": 3, "type": "summary", "video_name": "a.mp4", "Q": "Describe.", "A": "A dog."},
        {"id": 9, "type": "consistency", "video_name": "b.mp4", "Q1": "Who?", "Q2": "Which?", "A": "A dog."},
    ]
    write(root / "vcgbench_diverse_qa.json", entries)
    touch(root / "videos/a.mp4", root / "videos/b.mp4")
    return root


@pytest.fixture
def zero_shot(tmp_path) -> Path:
    root = tmp_path / "Activitynet_Zero_Shot_QA"
    questions = [
        {"question": "is it night", "video_name": "x1", "question_id": "v_x1_1"},
        {"question": "who runs", "video_name": "x2", "question_id": "v_x2_8"},
    ]
    write(root / "test_q.json", questions)
    answers = [{"answer": "a man", "question_id": "v_x2_8", "type": 3}, {"answer": "no", "question_id": "v_x1_1"}]
    write(root / "test_a.json", answers)
    touch(root / "all_test/v_x1.mp4", root / "all_test/v_x2.mkv")
    return root


def test_vcgbench_as_published(vcgbench):
    generic, temporal, consistency = load_vcgbench(vcgbench)
    assert [t.name for t in (generic, temporal, consistency)] == ["generic", "temporal", "consistency"]
    assert [(e.question, e.answer) for e in generic.examples()][1:] == [
        ("What happens?", "He runs fast."),
        ("Where?", "Outside."),
    ]
    assert [e.path.name for e in generic.examples()] == ["v_a.mkv", "v_a.mkv", "v_b.AVI"]
    assert temporal.examples()[0].path.name == "v_a.mkv"  # .mp4 in the annotation, another ending on the disk
    pairs = [(e.entry, e.part, e.question) for e in consistency.examples()]
    assert pairs == [(0, 1, "Who?"), (0, 2, "Which person?"), (1, 1, "Who?"), (1, 2, "Which person?")]


def test_every_question_has_a_key_of_its_own_that_does_not_depend_on_others(vcgbench):
    before = benchmarks.examples("vcgbench", vcgbench)
    assert len({e.key for e in before}) == len(before) == 8  # two ask the same of one clip
    assert len(fingerprint(before)) == 16
    path = vcgbench / "Benchmarking_QA/generic_qa.json"
    write(path, [{"Q": "New?", "A": "Yes.", "video_name": "v_b"}, *json.loads(path.read_text())])
    after = benchmarks.examples("vcgbench", vcgbench)
    assert {e.key for e in before} < {e.key for e in after} and fingerprint(before) != fingerprint(after)


def test_a_prompt_is_the_question_alone_and_there_is_nothing_to_choose(vcgbench):
    example = benchmarks.examples("vcgbench", vcgbench)[0]
    assert example.prompt == example.question == "What happens?"
    assert example.candidates == () and example.reference == "He runs."


def test_vcgbench_diverse_as_published(diverse):
    tasks = {task.name: task.examples() for task in load_vcgbench_diverse(diverse)}
    assert list(tasks) == ["summary", "temporal", "consistency"]
    assert [e.id for e in tasks["consistency"]] == [9, 9] and tasks["summary"][0].entry == 1


def test_zero_shot_answers_belong_to_questions_by_their_id(zero_shot):
    (task,) = load_zero_shot(zero_shot)
    assert [(e.question, e.answer) for e in task.examples()] == [("is it night", "no"), ("who runs", "a man")]
    assert [e.path.name for e in task.examples()] == ["v_x1.mp4", "v_x2.mkv"]


@pytest.mark.parametrize("folder", ["videos", "mp4", "gif", "videos/all"])
def test_clips_are_found_where_copies_of_zero_shot_qa_keep_them(tmp_path, folder):
    write(tmp_path / "test_q.json", [{"question": "what", "video_name": "tumblr_1", "question_id": 5}])
    write(tmp_path / "test_a.json", [{"answer": "cat", "question_id": 5}])
    touch(tmp_path / folder / "tumblr_1.gif")
    (example,) = benchmarks.examples("tgif_qa", tmp_path)
    assert example.path == tmp_path / folder / "tumblr_1.gif" and example.kind == "gif"


def clip_called(root: Path, name: str, *files: str) -> str:
    """The file, from the benchmark's root on, that a question about the clip `name` is asked of."""
    shutil.rmtree(root, ignore_errors=True)
    for kind in ("generic", "temporal", "consistency"):
        asked = {"Q": "What?", "Q1": "What?", "Q2": "Which?", "A": "This.", "video_name": name}
        write(root / f"Benchmarking_QA/{kind}_qa.json", [asked])
    touch(*(root / file for file in files))
    return benchmarks.examples("vcgbench", root)[0].path.relative_to(root).as_posix()


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        # Names that differ in their case of letters alone are two clips, whatever their endings.
        ("v_Ab", ("Test_Videos/v_aB.mp4", "Test_Videos/v_Ab.mkv"), "Test_Videos/v_Ab.mkv"),
        ("v_aB", ("Test_Videos/v_aB.mp4", "Test_Videos/v_Ab.mkv"), "Test_Videos/v_aB.mp4"),
        ("v_Ab.mp4", ("Test_Videos/v_aB.mp4", "Test_Videos/v_Ab.mkv"), "Test_Videos/v_Ab.mkv"),
        ("v_ab", ("Test_Videos/V_AB.mp4", "Test_Videos/v_ab.flv"), "Test_Videos/v_ab.flv"),
        ("v_ab", ("Test_Videos/v_ab.MP4", "Test_Videos/V_ab.mp4"), "Test_Videos/v_ab.MP4"),
        # Also where the exact one lies in a folder that is looked into later.
        ("v_Ab", ("Test_Videos/v_aB.mp4", "videos/v_Ab.mp4"), "videos/v_Ab.mp4"),
        ("x", ("videos/X.mp4", "videos/v_x.mp4"), "videos/v_x.mp4"),
        # Of several endings the first in the order in which they are tried; small letters first.
        ("v_a", ("Test_Videos/v_a.mkv", "Test_Videos/v_a.avi"), "Test_Videos/v_a.avi"),
        ("v_a", ("Test_Videos/v_a.AVI", "Test_Videos/v_a.avi"), "Test_Videos/v_a.avi"),
        # A dot in a name is no ending.
        ("v.1.5", ("Test_Videos/v.1.mp4", "Test_Videos/v.1.5.mp4"), "Test_Videos/v.1.5.mp4"),
        ("v.1.5", ("Test_Videos/v.1.mp4",), "Test_Videos/v.1.5"),
        # A guess that fits one file is taken.
        ("v_ab", ("Test_Videos/V_AB.MP4",), "Test_Videos/V_AB.MP4"),
        ("v_ab.mp4", ("Test_Videos/v_ab.webm",), "Test_Videos/v_ab.webm"),
        ("v_ab.mp4", ("Test_Videos/v_ab.webm", "Test_Videos/V_AB.avi"), "Test_Videos/v_ab.webm"),
    ],
)
def test_a_clip_is_the_one_that_is_called_as_it_is_written_before_any_guess(tmp_path, name, files, found):
    assert clip_called(tmp_path / "bench", name, *files) == found


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("v_ab", ("Test_Videos/V_AB.mp4", "Test_Videos/V_ab.mp4")),
        ("v_ab", ("Test_Videos/V_AB.mp4", "videos/V_ab.mp4")),
        ("v_ab.mp4", ("Test_Videos/v_ab.mkv", "Test_Videos/v_ab.webm")),
        ("v_ab.mp4", ("Test_Videos/V_AB.mp4", "Test_Videos/v_AB.mkv")),
    ],
)
def test_a_guess_that_fits_two_clips_is_refused_by_their_names(tmp_path, name, files):
    with pytest.raises(UserError, match="generic_qa.json, entry 0: there is no clip called") as stop:
        clip_called(tmp_path / "bench", name, *files)
    said = str(stop.value)
    assert f'"{name}"' in said and all(file in said for file in files) and "\n" not in said


def test_one_file_under_two_names_is_no_doubt(tmp_path):
    root = tmp_path / "bench"
    assert clip_called(root, "v_ab", "Test_Videos/V_AB.mp4") == "Test_Videos/V_AB.mp4"
    (root / "Test_Videos/V_ab.mp4").symlink_to("V_AB.mp4")
    assert benchmarks.examples("vcgbench", root)[0].path.resolve().name == "V_AB.mp4"


def test_a_missing_clip_keeps_its_question(vcgbench):
    (vcgbench / "Test_Videos/v_b.AVI").unlink()
    examples = benchmarks.examples("vcgbench", vcgbench)
    assert len(examples) == 8
    assert [e.path for e in examples if e.question == "Where?"] == [vcgbench / "Test_Videos/v_b"]


def test_a_limit_counts_entries_so_that_pairs_stay_whole(vcgbench, diverse):
    assert [e.task for e in benchmarks.examples("vcgbench", vcgbench, 1)] == [
        "generic",
        "temporal",
        "consistency",
        "consistency",
    ]
    assert len(benchmarks.examples("vcgbench_diverse", diverse, 1)) == 4
    with pytest.raises(UserError, match="--limit 0 is not possible"):
        benchmarks.examples("vcgbench", vcgbench, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; build or download the benchmark again"),
        ("{", "is not JSON"),
        ({"Q": 1}, "expected a list of questions; found"),
        ([], "expected a list of questions; found"),
        ([1], "entry 0: expected an object; found 1"),
        ([{"Q": "", "A": "x", "video_name": "v"}], "entry 0: 'Q' must be a text that is not empty"),
        ([{"Q": "x", "video_name": "v"}], "entry 0: 'A' must be a text that is not empty; found nothing"),
        ([{"Q": "x", "A": "y"}], "entry 0: 'video_name' must be"),
        ([{"Q": "x", "A": "y", "video_name": "v", "facts": "red"}], "'facts' must be a list of texts"),
    ],
)
def test_wrong_shapes_of_vcgbench_are_named(vcgbench, content, said):
    path = write(vcgbench / "Benchmarking_QA/temporal_qa.json", content)
    with pytest.raises(UserError, match=said) as stop:
        load_vcgbench(vcgbench)
    assert str(path) in str(stop.value)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [{"id": 1, "type": "spatial", "video_name": "a", "Q": "x", "A": "y"}] * 2,
            "entry 1: 'id' 1 stands at entry 0",
        ),
        ([{"id": 1, "type": "spacial"}], 'unknown type "spacial"; choose from: summary, spatial'),
        (
            [{"type": "spatial", "video_name": "a", "Q": "x", "A": "y"}],
            "'id' must be a number or a text; found nothing",
        ),
        ([{"id": 1, "type": "consistency", "video_name": "a", "Q": "x", "A": "y"}], "'Q1' must be a text"),
    ],
)
def test_wrong_entries_of_vcgbench_diverse_are_named(diverse, entries, said):
    write(diverse / "vcgbench_diverse_qa.json", entries)
    with pytest.raises(UserError, match=said):
        load_vcgbench_diverse(diverse)


def test_wrong_entries_of_zero_shot_qa_are_named(zero_shot):
    answers = json.loads((zero_shot / "test_a.json").read_text())
    write(zero_shot / "test_a.json", answers[:1])
    with pytest.raises(UserError, match='entry 0: .*test_a.json has no answer with question_id "v_x1_1"'):
        load_zero_shot(zero_shot)
    write(zero_shot / "test_a.json", [*answers, answers[0]])
    with pytest.raises(UserError, match="test_a.json, entry 2: 'question_id' \"v_x2_8\" stands at entry 0, too"):
        load_zero_shot(zero_shot)


def test_a_folder_or_file_that_is_not_there_is_named(tmp_path):
    for name in ("vcgbench", "vcgbench_diverse", "msvd_qa"):
        with pytest.raises(UserError, match="no benchmark at .*/nowhere: there is no such folder"):
            benchmarks.examples(name, tmp_path / "nowhere")
        with pytest.raises(UserError, match="No such file or directory; build or download the benchmark again"):
            benchmarks.examples(name, tmp_path)
