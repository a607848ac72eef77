"""What `check` says of a benchmark is what answering it would meet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import coded_frames, render_mp4
from PIL import Image

from eval.tasks.check import examine
from eval.tasks.expectation import ANSWER_BYTES, expect
from eval.tasks.mvbench import MVBENCH, load_benchmark
from eval.tasks.probe import Probe
from videogpt_plus.app import cli
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.config.experiments import QWEN_1_5B, QWEN_3B, at_level
from videogpt_plus.types import ClipError, UserError, Visual

#: Task -> its row, the name of its clip number i.
TASKS = {
    "Action Antonym": ({"folder": "video/ssv2_video"}, "{}.mp4"),
    "Action Localization": ({"folder": "video/sta/sta_video"}, "{}.mp4"),
    "Episodic Reasoning": ({"folder": "video/tvqa/frames_fps3_hq"}, "castle_{}"),
    "Moving Dots": ({"folder": "video/dots", "kind": "gif"}, "{}.gif"),
}
COUNT = 3


def write_clip(path: Path, seconds: int = 2) -> None:
    """A clip of the kind that its name says: 10 frames a second, 3 in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        render_mp4(path, coded_frames(10 * seconds), 10)
    elif path.suffix == ".gif":
        first, *others = [Image.fromarray(frame) for frame in coded_frames(10 * seconds)]
        first.save(path, save_all=True, append_images=others, duration=100)
    else:
        path.mkdir()
        for i, frame in enumerate(coded_frames(3 * seconds)):
            Image.fromarray(frame).save(path / f"{i + 1:05d}.jpg")


def entry(video: str, question: str = "Which?", **more) -> dict:
    bounds = {"start": 0.0, "end": 1.5}
    return {"video": video, "question": question, "candidates": ["x", "y"], "answer": "y", **bounds, **more}


def annotation(root: Path, task: str) -> Path:
    return root / "json" / (task.lower().replace(" ", "_") + ".json")


def write_annotation(root: Path, task: str, entries: list) -> None:
    annotation(root, task).write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Four tasks of three questions, all of them in order: videos, bounds, folders of frames, GIFs."""
    root = tmp_path_factory.mktemp("bench")
    (root / "json").mkdir()
    rows = {}
    for task, (row, name) in TASKS.items():
        rows[task] = row | {"questions": COUNT}
        names = [name.format(i) for i in range(COUNT)]
        write_annotation(root, task, [entry(name) for name in names])
        for name in names:
            write_clip(root / row["folder"] / name)
    (root / "tasks.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def root(whole, tmp_path) -> Path:
    """A copy of the whole benchmark, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "bench"))


def look(root: Path, decode: str = "all", **how):
    """Tasks by name, and the report."""
    report = examine(str(root), decode=decode, workers=0, **how)
    return {task.task: task for task in report.tasks}, report


def said(task, kind: str) -> list[str]:
    return [finding.what for finding in task.findings if finding.kind == kind]


def test_a_whole_benchmark_has_nothing_to_mend_in_any_kind_of_clip(whole):
    tasks, report = look(whole)
    assert report.complete
    assert {name: (t.expected, t.present, t.askable, t.decoded) for name, t in tasks.items()} == dict.fromkeys(
        TASKS, (COUNT,) * 4
    )
    assert not any(task.findings for task in tasks.values())
    assert report.clip_bytes == sum(f.stat().st_size for f in (whole / "video").rglob("*") if f.is_file())
    assert report.clips == 12 and report.seconds_per_clip > 0


def test_a_missing_clip_counts_all_its_questions_and_no_others(root):
    write_annotation(root, "Action Antonym", [entry("0.mp4"), entry("0.mp4", "Who?"), entry("1.mp4")])
    (root / "video/ssv2_video/0.mp4").unlink()
    tasks, report = look(root)
    task = tasks["Action Antonym"]
    assert (task.present, task.missing, task.askable, task.renamed) == (1, 2, 1, 0)
    (finding,) = task.findings
    assert (finding.kind, finding.video, finding.questions, finding.meant) == ("missing", "0.mp4", 2, None)
    assert not report.complete and all(not t.findings for name, t in tasks.items() if name != "Action Antonym")


@pytest.mark.parametrize(
    ("named", "there"),
    [("0.webm", "0.mp4"), ("0.MP4", "0.mp4"), ("CLIP.mp4", "clip.mp4"), ("0.avi", "0.gif"), ("castle", "castle.mp4")],
)
def test_another_ending_or_case_is_named_with_the_file_that_was_meant(root, named, there):
    write_annotation(root, "Action Antonym", [entry(named), entry("1.mp4"), entry("2.mp4")])
    (root / "video/ssv2_video/0.mp4").rename(root / "video/ssv2_video" / there)
    task = look(root, "none")[0]["Action Antonym"]
    assert (task.missing, task.renamed) == (1, 1)
    assert task.findings[0].meant == str(root / "video/ssv2_video" / there)
    assert said(task, "missing") == [
        f"{root}/video/ssv2_video/{named}: there is no such file, but {root}/video/ssv2_video/{there}"
    ]


def test_two_files_that_may_be_meant_are_both_named_and_neither_is_chosen(root):
    folder = root / "video/ssv2_video"
    write_annotation(root, "Action Antonym", [entry("clip.mp4"), entry("1.mp4"), entry("2.mp4")])
    (folder / "0.mp4").rename(folder / "clip.avi")
    shutil.copy(folder / "clip.avi", folder / "CLIP.mp4")
    task = look(root, "none")[0]["Action Antonym"]
    assert task.findings[0].meant == str(folder / "clip.avi"), "the letters as they are written come first"
    shutil.copy(folder / "clip.avi", folder / "clip.mkv")
    task = look(root, "none")[0]["Action Antonym"]
    assert (task.findings[0].meant, task.renamed) == (None, 0)
    assert said(task, "missing") == [
        f"{folder}/clip.mp4: there is no such file, and {folder}/clip.avi and {folder}/clip.mkv fit: rename the one "
        "that is meant"
    ]


def test_a_clip_of_another_task_is_not_offered_for_its_number_alone(root):
    (root / "video/ssv2_video/0.mp4").unlink()  # sta/sta_video has a 0.mp4, and dots has a 0.gif
    task = look(root, "none")[0]["Action Antonym"]
    assert task.missing == 1 and task.findings[0].meant is None


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Three tasks in folders of their own, whose clips have the same numbers as names; not to be decoded."""
    return write_numbered(tmp_path / "numbered", {"Color Order": "order", "Motion Direction": "motion", "Dots": "dots"})


def write_numbered(root: Path, folders: dict[str, str], count: int = 10) -> Path:
    (root / "json").mkdir(parents=True)
    rows = {task: {"folder": f"video/{folder}"} for task, folder in folders.items()}
    (root / "tasks.json").write_text(json.dumps(rows))
    for task, folder in folders.items():
        names = [f"{i:04d}.mp4" for i in range(count)]
        write_annotation(root, task, [entry(name) for name in names])
        (root / "video" / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / "video" / folder / name).write_bytes(task.encode())
    return root


def meant(task) -> list[str]:
    return [finding.meant for finding in task.findings if finding.meant]


@pytest.mark.parametrize(("repacked", "said"), [(4, False), (8, True)])
def test_clips_with_another_ending_are_named_and_a_row_is_said_where_they_are_most(numbered, repacked, said):
    for i in range(repacked):
        (numbered / f"video/order/{i:04d}.mp4").rename(numbered / f"video/order/{i:04d}.webm")
    tasks, report = look(numbered, "none")
    assert tasks["Color Order"].renamed == repacked
    assert meant(tasks["Color Order"]) == [str(numbered / f"video/order/{i:04d}.webm") for i in range(repacked)]
    row = 'Color Order end in .webm here: write "suffix": ".webm" into its row of tasks.json'
    assert (f"{repacked} clips of {row}" in report.notes) == said


def test_what_cannot_be_read_is_counted_with_the_reason(root):
    (root / "video/ssv2_video/0.mp4").write_bytes(b"no video")
    (root / "video/ssv2_video/1.mp4").write_bytes(b"")
    for file in (root / "video/tvqa/frames_fps3_hq/castle_1").iterdir():
        file.unlink()
    tasks, report = look(root)
    assert (tasks["Action Antonym"].present, tasks["Action Antonym"].undecodable) == (3, 2)
    assert "damaged, cut off or no video" in said(tasks["Action Antonym"], "undecodable")[0]
    assert said(tasks["Action Antonym"], "empty")[0].endswith("1.mp4 is empty; download it again")
    assert tasks["Episodic Reasoning"].undecodable == 1 and not report.complete


def test_a_sample_is_spread_over_every_task_and_the_same_each_time(root):
    decoded = []

    class Recorder(Probe):
        def __call__(self, path, *job) -> Visual:
            decoded.append(str(path))
            return super().__call__(path, *job)

    tasks, _ = look(root, "sampled", per_task=2, probe=Recorder(Sampling(4)))
    first = list(decoded)
    look(root, "sampled", per_task=2, probe=Recorder(Sampling(4)))
    assert decoded == first * 2 and len(first) == 8
    assert all(task.decoded == 2 for task in tasks.values())
    assert {Path(path).parent for path in first} == {root / row["folder"] for row, _ in TASKS.values()}


def test_without_decoding_only_names_and_sizes_are_looked_at(root):
    (root / "video/ssv2_video/0.mp4").write_bytes(b"no video")
    tasks, report = look(root, "none")
    assert report.complete and tasks["Action Antonym"].decoded == 0 and report.seconds_per_clip is None


@pytest.mark.parametrize(
    ("start", "end", "outside", "words"),
    [
        (7.0, 9.0, 1, "it has 2.00 s and the question begins at 7 s"),
        (1.0, 9.0, 0, "it has 2.00 s and the question ends at 9 s; it is asked about what is there"),
        (1.0, 2.8, 0, None),
    ],
)
@pytest.mark.parametrize("task", ["Action Localization", "Episodic Reasoning"])
def test_bounds_outside_the_clip_are_found_in_videos_and_folders(root, task, start, end, outside, words):
    name = TASKS[task][1]
    entries = [entry(name.format(i)) for i in range(COUNT)]
    entries[1] |= {"start": start, "end": end}
    write_annotation(root, task, entries)
    found = look(root)[0][task]
    assert (found.outside, found.askable) == (outside, COUNT - outside)
    assert [words in what for what in said(found, "bounds")] == ([True] if words else [])


@pytest.mark.parametrize(
    ("task", "outside", "then"),
    [("Action Localization", 0, "they are taken in order"), ("Episodic Reasoning", 1, "correct the bounds")],
)
def test_bounds_that_are_turned_round_are_told_and_lost_only_where_nothing_is_read(root, task, outside, then):
    name = TASKS[task][1]
    entries = [entry(name.format(i)) for i in range(COUNT)]
    entries[1] |= {"start": 1.5, "end": 1.0}
    write_annotation(root, task, entries)
    found = look(root)[0][task]
    assert (found.outside, found.askable) == (outside, COUNT - outside)
    (what,) = said(found, "bounds")
    assert "its end at 1 s is not behind its start at 1.5 s; " in what and then in what


def test_what_the_doctor_calls_askable_is_what_can_be_read_and_nothing_else(root):
    """The same verdict as reading each question's clip: no case is told one way here and another way there."""
    from videogpt_plus.clips.video import read_clip

    (root / "video/ssv2_video/0.mp4").unlink()
    (root / "video/dots/1.gif").write_bytes(b"GIF89a")
    late = [entry("0.mp4", start=5.0, end=6.0), entry("1.mp4", start=1.9, end=30.0), entry("2.mp4", start=2.0, end=1.0)]
    write_annotation(root, "Action Localization", late)
    tasks, _ = look(root)
    for task in load_benchmark(root):
        readable = 0
        for e in task.examples():
            try:
                read_clip(e.path, 4, e.start, e.end)
                readable += 1
            except ClipError:
                pass
        assert tasks[task.name].askable == readable, task.name


def test_repeated_questions_are_listed_and_do_not_make_it_incomplete(root):
    write_annotation(root, "Action Antonym", [entry("0.mp4"), entry("1.mp4"), entry("0.mp4")])
    tasks, report = look(root, "none")
    assert report.complete and tasks["Action Antonym"].duplicates == 1
    assert said(tasks["Action Antonym"], "duplicate") == [
        "0.mp4: 'Which?' is asked again; each is answered and counted"
    ]


def test_every_wrong_entry_is_listed_and_the_others_are_looked_at(root):
    bad = [entry("0.mp4", answer="w"), 3, entry("2.mp4")]
    write_annotation(root, "Action Antonym", bad)
    annotation(root, "Moving Dots").write_text("[{")
    annotation(root, "Episodic Reasoning").unlink()
    write_annotation(root, "Action Localization", [entry("0.mp4"), entry("1.mp4")])
    tasks, report = look(root)
    antonym = tasks["Action Antonym"]
    assert (antonym.questions, antonym.present, antonym.decoded) == (1, 1, 1)
    assert [what.rpartition("/")[2] for what in said(antonym, "annotation")] == [
        'action_antonym.json, entry 0: the answer "w" is not among the candidates ["x", "y"]',
        "action_antonym.json, entry 1: expected an object with video, question, candidates, answer; found 3",
    ]
    assert "is not JSON" in said(tasks["Moving Dots"], "annotation")[0]
    assert "No such file or directory" in said(tasks["Episodic Reasoning"], "annotation")[0]
    assert "2 questions, 3 expected" in said(tasks["Action Localization"], "annotation")[0]
    assert not report.complete


def test_without_a_table_all_twenty_tasks_of_mvbench_are_expected(tmp_path):
    (tmp_path / "json").mkdir()
    _, report = look(tmp_path, "none")
    total = report.as_json()["total"]
    assert len(report.tasks) == 20 and (total["expected"], total["present"]) == (4000, 0)
    assert not report.complete


def test_tasks_of_mvbench_without_an_annotation_are_said(whole):
    _, report = look(whole, "none")
    assert len(report.notes) == 1 and report.notes[0].startswith("17 of MVBench's 20 tasks are left out, or have")


def test_open_questions_are_looked_through_too(tmp_path):
    entry = {"Q": "What happens?", "A": "a dot moves", "video_name": "0"}
    pair = {"Q1": "What happens?", "Q2": "What is going on?", "A": "a dot moves", "video_name": "1"}
    for name, entries in (("generic", [entry, entry]), ("temporal", [entry]), ("consistency", [pair])):
        (tmp_path / f"{name}_qa.json").write_text(json.dumps(entries))
    write_clip(tmp_path / "Test_Videos/0.mp4")
    report = examine("vcgbench", tmp_path, decode="all", workers=0)
    found = {t.task: (t.expected, t.present, t.missing, t.duplicates) for t in report.tasks}
    assert found == {"generic": (2, 2, 0, 1), "temporal": (1, 1, 0, 0), "consistency": (2, 0, 2, 0)}
    assert not report.complete and report.clips == 2
    write_clip(tmp_path / "Test_Videos/1.mp4")
    assert examine("vcgbench", tmp_path, decode="all", workers=0).complete


def test_a_decoder_that_hangs_or_crashes_costs_its_clip_alone(root):
    for name in ("0_hang", "1_crash", "2_fine"):
        (root / "video/ssv2_video" / name).write_bytes(b"1")
    write_annotation(root, "Action Antonym", [entry(name) for name in ("0_hang", "1_crash", "2_fine")])
    report = examine(str(root), decode="all", probe=Moody(), workers=2, clip_seconds=2)
    task = next(task for task in report.tasks if task.task == "Action Antonym")
    assert task.undecodable == 2
    assert "not decoded within 2 s" in said(task, "undecodable")[0]
    assert "brought the process down" in said(task, "undecodable")[1]


class Moody(Probe):
    """Does what the clip's name says."""

    def __init__(self):
        super().__init__(Sampling(4))

    def __call__(self, path, *job) -> Visual:
        import feeding_jobs
        import torch

        if path.suffix or path.is_dir():
            return super().__call__(path, *job)
        feeding_jobs.prepare(path.name)
        return Visual({"found": torch.tensor([0.1, 2.0], dtype=torch.float64)}, 0)


# What it will take.


def test_the_expectation_is_the_sum_of_its_parts(whole):
    _, report = look(whole)
    report = replace(report, seconds_per_clip=0.5)
    experiment = at_level(QWEN_1_5B, 2)
    one, two = (expect(report, experiment, workers, tflops=100.0) for workers in (1, 2))
    assert one.decode_hours == pytest.approx(12 * 0.5 / 3600) and two.decode_hours == one.decode_hours / 2
    assert one.visual_tokens == 3328 and one.answer_bytes == 12 * ANSWER_BYTES
    assert one.compute_hours == pytest.approx(one.flops / 100e12 / 3600)
    assert one.hours == max(one.decode_hours, one.compute_hours)
    coarse = expect(report, at_level(QWEN_1_5B, 16), 1, tflops=100.0)
    assert coarse.flops < one.flops and coarse.kv_bytes < one.kv_bytes
    assert coarse.weight_bytes == one.weight_bytes and coarse.store_bytes == one.store_bytes
    # 16 frames of 24 x 24 x 1024 and 16 x 16 x 1408 at two bytes.
    assert one.store_bytes == 12 * 16 * 2 * (24 * 24 * 1024 + 16 * 16 * 1408)


def test_weights_are_counted_as_published(whole):
    _, report = look(whole, "none")
    # 1.54 and 3.09 billion for the LLM as its cards say, 0.29 for CLIP without its last block, 0.99 for InternVideo2.
    for experiment, billions in ((QWEN_1_5B, 2.83), (QWEN_3B, 4.37)):
        found = expect(report, experiment, tflops=1.0).weight_bytes
        assert found == pytest.approx(2e9 * billions, rel=0.01)


def test_without_an_experiment_or_a_clip_nothing_is_made_up(whole):
    _, report = look(whole, "none")
    expected = expect(report)
    assert expected.hours is None and expected.weight_bytes is None and expected.flops is None
    with pytest.raises(UserError, match="--tflops 0 is not possible"):
        expect(report, QWEN_1_5B, tflops=0.0)


# The command.


def run(capsys, *args: object) -> tuple[int, str]:
    code = 0
    try:
        cli.main(["check", *map(str, args), "--workers", "1"])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out


def test_the_command_ends_with_1_if_anything_is_missing_and_0_if_not(root, capsys):
    code, out = run(capsys, root)
    assert code == 0 and "all 12 questions can be asked, as far as is known: 12 of 12 clips were decoded" in out
    (root / "video/dots/2.gif").rename(root / "video/dots/2.webm")
    code, out = run(capsys, root)
    assert code == 1 and "Moving Dots, missing clips: 1, 1 probably renamed" in out
    assert "11 of 12 questions can be asked" in out
    assert f"{root}/video/dots/2.gif: there is no such file, but {root}/video/dots/2.webm" in out


@pytest.mark.parametrize("how", [[".cache/toy/bench"], ["mvbench", "--root", ".cache/toy/bench"]])
def test_the_toy_is_rendered_where_it_is_asked_for_and_not_there(how, root, tmp_path, monkeypatch, capsys):
    def render(experiment, listener):
        shutil.copytree(root, experiment.benchmark_root)
        print("MADE")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("videogpt_plus.app.made.prepare_toy", render)
    code, out = run(capsys, *how, "--decode", "none", "--json")
    assert code == 0 and json.loads(out)["total"]["present"] == 12, "and the output is JSON alone"
    assert "MADE" not in run(capsys, *how, "--decode", "none")[1], "once is enough"


def test_json_is_all_that_is_printed_and_holds_every_finding(root, capsys):
    entries = [entry(f"{i}.mp4") for i in range(20)]
    write_annotation(root, "Action Antonym", entries)
    rows = json.loads((root / "tasks.json").read_text())
    rows["Action Antonym"]["questions"] = 20
    (root / "tasks.json").write_text(json.dumps(rows))
    code, out = run(capsys, "mvbench", "--root", root, "--json", "--experiment", "qwen1_5b_pool4", "--tflops", 100)
    found = json.loads(out)
    assert code == 1 and found["total"]["missing"] == 17 and found["complete"] is False
    assert len(found["tasks"][0]["findings"]) == 17
    assert found["expectation"]["visual_tokens"] == 832 and found["expectation"]["decode_hours"] > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["toy"], "'toy' is an experiment, not a benchmark; look at what it asks: check .cache/toy/bench"),
        (["nobench"], "unknown benchmark 'nobench', and there is no such folder"),
        (["mvbench", "--root", "nowhere"], "no benchmark at"),
        (["mvbench", "--workers", "0"], "--workers 0 is not possible"),
        (["mvbench", "--clip-seconds", "0"], "--clip-seconds 0 is not possible"),
        (["mvbench", "--experiment", "qwen9"], "unknown experiment 'qwen9'"),
    ],
)
def test_what_the_user_can_mend_is_one_line(args, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", *args])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and err.count("\n") == 1


def test_per_task_below_one_is_refused(whole):
    with pytest.raises(UserError, match="0 clips a task are not possible"):
        look(whole, "sampled", per_task=0)
    with pytest.raises(UserError, match="unknown choice of clips 'some'; choose from: sampled, all, none"):
        look(whole, "some")


def test_looking_without_decoding_needs_no_torch(whole):
    code = (
        "import sys; from eval.tasks.check import examine; "
        f"examine({str(whole)!r}, decode='none'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_published_folders_stand_in_the_table():
    folders = {row.folder for row in MVBENCH.values()}
    assert len(folders) == 11 and all(folder.startswith("video/") for folder in folders)


def test_frames_of_folders_are_three_a_second(whole):
    from videogpt_plus.clips.video import duration

    assert duration(whole / "video/tvqa/frames_fps3_hq/castle_0") == 2.0
    for clip in ("video/ssv2_video/0.mp4", "video/dots/0.gif"):
        assert duration(whole / clip) == pytest.approx(2.0, abs=0.05)
    picture = whole / "video/tvqa/frames_fps3_hq/castle_0/00001.jpg"
    assert duration(picture) == 0.0 and np.array(Image.open(picture)).shape == (48, 64, 3)
