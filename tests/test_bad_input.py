"""Bad input through the real commands: one clear line, exit code 2, nothing lost.

What each reader refuses is tested where it lives (test_video, test_data, test_mvbench, test_checkpoint, ...). Here
stands what a user sees of it: nothing but that line on the screen, the work so far untouched, and the same command
going on once the input is mended.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
import torch
from conftest import make_tiny_experiment
from faults.clip_files import BAD, GOOD, render_clips
from faults.disks import full_disk

from videogpt_plus.app import cli
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import EXPERIMENTS
from videogpt_plus.config.mixtures import MIXTURES
from videogpt_plus.io.tensors import read_tensors, save_tensors

CLIPS = Path("bench/video/clip")
RUN = Path("run")
PROJECTORS = ["--projectors", "image=pre/image", "video=pre/video"]
TRAIN = ["train", "tiny_pool2", *PROJECTORS, "--output-dir"]
#: A frame of the tiny model at level 2: 6 x 6 image and 4 x 4 video tokens.
FRAME = 52


def question(video: str, text: str = "What?", **bounds: float) -> dict:
    return {"video": video, "question": text, "candidates": ["a cup", "a hat"], "answer": "a cup", **bounds}


def sample(video: str) -> dict:
    talk = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "a cup"}]
    return {"video": video, "conversations": talk}


def write_benchmark(questions: object, fields: dict | None = None) -> None:
    Path("bench/json").mkdir(exist_ok=True)
    table = {"clip": {"folder": "video/clip", **(fields or {})}}
    Path("bench/tasks.json").write_text(json.dumps(table))
    Path("bench/json/clip.json").write_text(questions if isinstance(questions, str) else json.dumps(questions))


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory) -> Iterator[Path]:
    """The working folder: clips, a benchmark, training data, `tiny` of its own parts, and a trained `run`."""
    folder = tmp_path_factory.mktemp("bad_input")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        render_clips(CLIPS)
        write_benchmark([question("good.mp4")])
        Path("train.json").write_text(json.dumps([sample(clip) for clip in ("good.mp4", "one.mp4", "variable.mp4")]))
        patch.setitem(MIXTURES, "TEST", [("train.json", str(CLIPS))])
        tiny = make_tiny_experiment(Path("parts"))

        def short(stage):
            return replace(stage, data="TEST", max_steps=3, per_device_train_batch_size=2, save_steps=1)

        tiny = with_settings(
            tiny,
            {
                "source.pretrain": tuple((name, short(stage)) for name, stage in tiny.pretrain),
                "source.finetune": short(tiny.training),
                "benchmark_root": "bench",
                "prompting.max_new_tokens": 2,
            },
        )
        patch.setitem(EXPERIMENTS, "tiny", tiny)
        for stream in ("image", "video"):
            cli.main(["pretrain", "tiny", stream, "--output-dir", f"pre/{stream}"])
        cli.main([*TRAIN, str(RUN)])
        yield folder


@contextmanager
def kept(*paths: Path | str) -> Iterator[None]:
    """Puts files back as they were."""
    old = {Path(path): Path(path).read_bytes() if Path(path).is_file() else None for path in paths}
    try:
        yield
    finally:
        for path, content in old.items():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)


@pytest.fixture
def refused(capfd) -> Callable[..., str]:
    """Runs a command that must be refused; returns the one line, which is all that stands on stderr."""

    def run(*args: object) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        line = capfd.readouterr().err
        assert stop.value.code == 2, line
        assert re.fullmatch(r"error: [^\n]+\n", line), line
        assert re.search(r"[;:] \w", line.removeprefix("error: ")), f"says nothing of what to do: {line}"
        return line.rstrip()

    return run


@pytest.fixture
def done(capfd) -> Callable[..., str]:
    """Runs a command that must succeed without a word on stderr; returns what it printed."""

    def run(*args: object) -> str:
        capfd.readouterr()
        cli.main([str(a) for a in args])
        out, err = capfd.readouterr()
        assert not err, err
        return out

    return run


@pytest.fixture
def answers() -> Iterator[Callable[[], list[dict]]]:
    """Reads the answer lines of the run, which has none before and after the test."""
    path = RUN / "answers" / "answers.jsonl"
    shutil.rmtree(path.parent, ignore_errors=True)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    for folder in RUN.glob("answers*"):
        shutil.rmtree(folder)


# Clips.


@pytest.mark.parametrize("name", BAD)
def test_predict_says_of_a_bad_clip_what_it_is_and_what_to_do(name, refused):
    said, then = BAD[name]
    line = refused("predict", RUN, "What?", "--image" if name.endswith(".png") else "--video", CLIPS / name)
    assert f"{CLIPS / name}: {said}" in line and then in line


def test_predict_takes_a_picture_for_a_picture(refused):
    line = refused("predict", RUN, "What?", "--image", CLIPS / "good.mp4")
    assert f"--image {CLIPS / 'good.mp4'} is no picture; " in line and "with --video" in line


def test_a_file_name_of_two_lines_makes_no_error_of_two(refused):
    assert "two lines.mp4" in refused("predict", RUN, "What?", "--video", "two\nlines.mp4")


def test_bad_clips_of_a_benchmark_are_one_error_line_each_and_the_rest_goes_on(answers, done):
    names = [*BAD, *GOOD]
    with kept("bench/json/clip.json"):
        write_benchmark([question(name) for name in names])
        assert f"{len(names)} new, 0 kept, {len(BAD)} with an error" in done("answer", RUN)
        lines = {line["video"]: line for line in answers()}
        assert len(answers()) == len(names) and list(lines) == names
        for name, (said, then) in BAD.items():
            line = lines[name]
            assert said in line["error"] and then in line["error"] and "\n" not in line["error"]
            assert (line["reply"], line["choice"], line["correct"], line["visual_tokens"]) == (None, None, False, None)
        assert {name: lines[name]["visual_tokens"] for name in GOOD} == {n: f * FRAME for n, f in GOOD.items()}
        assert all(lines[name]["error"] is None for name in GOOD)
        done("score", RUN)
        row = json.loads((RUN / "answers/scores.json").read_text())["tasks"]["clip"]
        assert (row["n"], row["n_failed"], len(row["failures"])) == (len(names), len(BAD), len(BAD))
        before = answers()
        with kept(CLIPS / "empty.mp4"):
            shutil.copy(CLIPS / "good.mp4", CLIPS / "empty.mp4")
            assert f"0 new, {len(names)} kept" in done("answer", RUN)
            assert f"{len(BAD)} new, {len(GOOD)} kept, {len(BAD) - 1} with" in done("answer", RUN, "--retry-errors")
        assert answers()[: len(names)] == before


def test_bounds_outside_the_clip_are_error_lines_and_bounds_behind_its_end_are_cut(answers, done):
    bounds = {"inside": (0, 1), "behind": (5, 9), "turned": (1.5, 1), "before": (-3, -1), "too long": (1, 99)}
    bounds |= {"huge": (0, 10**400), "nothing": (float("nan"), 1)}
    with kept("bench/json/clip.json", "bench/tasks.json"):
        write_benchmark([question("good.mp4", q, start=a, end=b) for q, (a, b) in bounds.items()], {"bounds": True})
        done("answer", RUN)
    errors = {line["question"]: line["error"] for line in answers() if line["error"]}
    assert list(errors) == ["behind", "huge", "nothing"]
    assert all("good.mp4: " in error for error in errors.values())
    assert "end is inf; give it in seconds" in errors["huge"] and "start is nan" in errors["nothing"]
    assert "nothing of its 2.00 s lies from 5 s to 9 s" in errors["behind"]


#: Clips and questions that no other file or text is like -> what their line says.
ODD = {
    ("n" * 300 + ".mp4", "What?"): "File name too long",
    ("p/" * 3000 + ".mp4", "What?"): "File name too long",
    ("good.mp4/inside.mp4", "What?"): "there is no such file",
    ("loop.mp4", "What?"): "there is no such file",
    ("null\0.mp4", "What?"): "there is no such file",
    ("\ud800.mp4", "What?"): "there is no such file",
    ("2\udcff.mp4", "What?"): None,  # a name in bytes that are not UTF-8
    (".", "What?"): "there is no such file",
    ("..", "What?"): "there is no such file",
    ("a\\b.mp4", "What?"): None,
    ("good.mp4", "What \ud83d?"): "the question about good.mp4: ",
    ("good.mp4", "What? " * 20_000): "reads 32,768, 2 of them its answer: ask in fewer words",
    ("good.mp4", "  What?\n"): None,
}


@pytest.mark.parametrize("workers", [0, 2])
def test_no_entry_ends_a_run(workers, answers, done, capfd, tmp_path):
    names = (CLIPS / "loop.mp4", CLIPS / "2\udcff.mp4", CLIPS / "a\\b.mp4")
    with kept("bench/json/clip.json", *names):
        names[0].symlink_to("loop.mp4")
        for name in names[1:]:
            shutil.copy(CLIPS / "good.mp4", name)
        write_benchmark([question(video, text) for video, text in ODD])
        failed = sum(said is not None for said in ODD.values())
        assert f"{len(ODD)} new, 0 kept, {failed} with an error" in done("answer", RUN, "--workers", workers)
        found = {(line["video"], line["question"]): line["error"] for line in answers()}
        assert found.keys() == ODD.keys()
        for entry, said in ODD.items():
            assert (found[entry] is None) == (said is None), found[entry]
            assert said is None or (said in found[entry] and "\n" not in found[entry] and len(found[entry]) < 700)
        done("score", RUN)
        done("export", RUN, tmp_path)
        written = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
        assert sum(one["pred"].startswith("no answer: ") for one in written) == failed and len(written) == len(ODD)
        with pytest.raises(SystemExit):
            cli.main(["check", "bench", "--decode", "all", "--workers", str(max(1, workers))])
        out, err = capfd.readouterr()
        clips = {video for video, text in ODD if ODD[video, text] and text == "What?"}
        assert f"{len(ODD) - len(clips)} of {len(ODD)} questions can be asked" in out and not err


# Benchmarks. What an entry may hold is tested in test_mvbench.


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ("", "bench/json/clip.json is empty; build or download the benchmark again"),
        ("[{", "bench/json/clip.json is not JSON (Expecting property name"),
        ("[" * 100_000, "bench/json/clip.json is not JSON (maximum recursion depth"),
        ([], "bench/json/clip.json: expected a list of questions; found []; build or download"),
        ([question("a.mp4"), {}], "bench/json/clip.json, entry 1: 'video' must be a text"),
        (
            [{}, question("a.mp4"), 3],
            "'video' must be a text that is not empty; found nothing (1 more; all: videogpt-plus",
        ),
    ],
)
def test_a_bad_annotation_touches_no_answer(questions, said, answers, done, refused):
    done("answer", RUN)
    before = answers()
    with kept("bench/json/clip.json"):
        write_benchmark(questions)
        assert said in refused("answer", RUN)
        assert said in refused("score", RUN)
    assert answers() == before
    assert "0 new, 1 kept, 0 with an error" in done("answer", RUN)


@pytest.mark.parametrize(
    ("field", "said"),
    [({"bounds": "no"}, "'bounds' must be true or false"), ({"needs_level": "4"}, "'needs_level' must be a number"),
     ({"group": 3}, "'group' must be a text"), ({"questions": "1"}, "'questions' must be a whole number")],
)  # fmt: skip
def test_a_field_of_another_type_is_named(field, said, refused):
    with kept("bench/tasks.json"):
        write_benchmark([question("good.mp4")], field)
        assert f"tasks.json, task 'clip': {said}; found" in refused("answer", RUN)


def test_a_benchmark_that_is_not_there_is_named(refused):
    with kept("bench/json/clip.json"):
        Path("bench/json/clip.json").unlink()
        assert "clip.json: No such file or directory; build or download" in refused("answer", RUN)
        Path("bench/json/clip.json").mkdir()
        assert "clip.json: Is a directory; build or download" in refused("answer", RUN)
    assert "no benchmark at" in refused("answer", RUN, "--benchmark", "train.json")


# Training data. What an entry may hold is tested in test_data.


@pytest.mark.parametrize("content", ["", "[{", "[" * 100_000, "[]", '[{"conversations": []}]', None])
def test_bad_training_data_is_one_line_and_training_goes_on_once_it_is_mended(content, refused, done, tmp_path):
    with kept("train.json"):
        Path("train.json").unlink() if content is None else Path("train.json").write_text(content)
        assert "train.json" in refused(*TRAIN, tmp_path)
    done(*TRAIN, tmp_path)
    assert same_weights(tmp_path, RUN)


def test_no_entry_ends_a_training(done, tmp_path):
    entries = [sample("good.mp4"), *(sample(video) for video, text in ODD if ODD[video, text] and text == "What?")]
    entries += [sample("good.mp4") | {"start": 10**400}, sample("good.mp4"), sample("good.mp4")]
    for entry, text in zip(entries[-2:], ("What \ud83d?", "What? " * 20_000), strict=True):
        entry["conversations"] = [{"from": "human", "value": f"<video>{text}"}, {"from": "gpt", "value": "a cup"}]
    with kept("train.json", CLIPS / "loop.mp4"):
        (CLIPS / "loop.mp4").symlink_to("loop.mp4")
        Path("train.json").write_text(json.dumps(entries))
        out = done(*TRAIN, tmp_path)
    listed = [json.loads(line) for line in (tmp_path / "substituted.jsonl").read_text().splitlines()]
    assert listed and f"{len(listed)} " in out and all(line["replaced_by"] == 0 for line in listed)


def same_weights(*folders: Path) -> bool:
    names = ("adapter_model.safetensors", "projectors.safetensors")
    return all(len({(folder / name).read_bytes() for folder in folders}) == 1 for name in names)


def test_bad_clips_in_training_are_replaced_counted_and_listed_and_the_weights_are_the_same_again(done, tmp_path):
    entries = [sample(clip) for clip in ("good.mp4", "damaged.mp4", "variable.mp4", "missing.mp4", "one.mp4")]
    first, second, workers, without = (tmp_path / name for name in ("first", "second", "workers", "without"))
    with kept("train.json"):
        Path("train.json").write_text(json.dumps(entries))
        out = done(*TRAIN, first)
        done(*TRAIN, second)
        done(*TRAIN, workers, "--dataloader-num-workers", 2)
        entries[1], entries[3] = entries[2], entries[4]
        Path("train.json").write_text(json.dumps(entries))
        assert "replaced" not in done(*TRAIN, without)
    assert same_weights(first, second, workers, without)
    lists = [sorted((f / "substituted.jsonl").read_text().splitlines()) for f in (first, second, workers)]
    assert lists[0] == lists[1] == lists[2]
    listed = {line["sample"]: line for line in map(json.loads, lists[0])}
    assert {n: line["replaced_by"] for n, line in listed.items()} == {1: 2, 3: 4}
    assert "damaged.mp4" in listed[1]["error"] and listed[1]["where"] == "train.json: entry 1"
    assert f"2 unreadable samples were replaced; see {first / 'substituted.jsonl'}" in out


@pytest.mark.parametrize("workers", [0, 1])
def test_training_data_without_a_readable_clip_is_one_line_from_a_worker_too(workers, refused, tmp_path):
    with kept("train.json"):
        Path("train.json").write_text(json.dumps([sample("missing.mp4"), sample("empty.mp4")]))
        line = refused(*TRAIN, tmp_path, "--dataloader-num-workers", workers)
    assert "no clip of 2 samples from train.json: entry" in line and "media of 'TEST' are complete" in line


# Names and numbers. Experiments, streams, benchmarks and frames are in test_cli.


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tokens", "tini"], "unknown experiment 'tini': did you mean 'tiny'?"),
        (["tokens", "tiny_pool1.2.3"], "unknown experiment 'tiny_pool1.2.3'"),
        (["tokens", "tiny_pool."], "unknown experiment 'tiny_pool.'"),
        (["tokens", "tiny_pool-4"], "unknown experiment 'tiny_pool-4'"),
        (["tokens", "tiny_pool0"], "pool level 0 is not possible: choose a number above 0"),
        (["tokens", "tiny", "--levels", "nan"], "pool level nan is not possible"),
        (["tokens", "tiny", "--levels", "inf"], "pool level inf is not possible"),
        (["sweep", "tiny", "--levels", "2", "inf"], "pool level inf is not possible"),
        (["sweep", "tiny", "--levels"], "the sweep has no cell: give at least one level and one adapter"),
        (["sweep", "tiny", "--adapters", "pol"], "unknown reducer 'pol'; choose from: average, max, bilinear"),
        (["sweep", "tiny", "--limit", "0"], "--limit 0 is not possible"),
        (["sweep", "tiny_mixture"], "unknown dataset mixture 'TOI'; choose from: PRETRAINING,"),
        (["sweep", "tiny_template"], "unknown template 'gpt'; choose from: qwen2, plain"),
        (["answer", "run", "--limit", "-1"], "--limit -1 is not possible: ask at least 1"),
        (["score", "run", "--limit", "0"], "--limit 0 is not possible: ask at least 1"),
        (
            ["pretrain", "tiny", "image", "--dataloader-num-workers", "-1", "--output-dir", "w"],
            "--dataloader-num-workers -1 is not possible",
        ),
        (["predict", "no/such/run", "q", "--image", "a.png"], "run folder not found: no/such/run does not exist"),
        (["predict", "pre", "q", "--image", "a.png"], "pre is no run folder: it has no experiment.json; name the"),
        (["report", "nowhere"], "nothing to report: no answers under nowhere; run"),
        (["train", "tiny", "--projectors", "image=pre/image"], "no pre-trained projector for stream 'video'"),
        (
            ["train", "tiny", "--projectors", "image=pre/image", "video=x", "--output-dir", "t"],
            "no pre-trained projector at x",
        ),
        (
            ["train", "tiny", "--projectors", "image=pre/video", "video=pre/image"],
            "(branches.image: None there, ",
        ),
        (
            ["train", "tiny", *PROJECTORS, "--output-dir", "run"],
            "run holds another experiment (name: 'tiny_pool2' there, 't",
        ),
    ],
)
def test_a_wrong_name_or_number_is_refused_before_anything_is_trained(args, said, refused, monkeypatch):
    tiny = EXPERIMENTS["tiny"]
    for name, change in (("mixture", {"source.finetune.data": "TOI"}), ("template", {"prompting.template": "gpt"})):
        changed = with_settings(tiny, {"name": f"tiny_{name}", **change})
        monkeypatch.setitem(EXPERIMENTS, changed.name, changed)
    assert said in refused(*args)
    assert not Path("results").exists()


# Run folders.


def edited(**changes: object) -> Callable[[str], str]:
    def edit(text: str) -> str:
        value = json.loads(text)
        for path, new in changes.items():
            *inner, last = path.split("__")
            part = value
            for key in inner:
                part = part[int(key) if key.isdigit() else key]
            part[int(last) if last.isdigit() else last] = new
        return json.dumps(value)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: "", "run/experiment.json is empty; train again or restore the file"),
        (lambda text: text[:-9], "run/experiment.json is not JSON (Unterminated string"),
        (lambda text: "[]", "run/experiment.json holds no JSON object; train again"),
        (
            edited(levle=3),
            "run/experiment.json: does not describe Experiment: missing [], unknown ['levle']; correct it",
        ),
        (
            edited(source__lora={"r": 4}),
            "'source.lora' does not describe Lora: missing ['alpha', 'dropout'], unknown []",
        ),
        (
            edited(reducer__level="four"),
            "run/experiment.json: 'reducer.level' must be of type float, not 'four'; correct it",
        ),
        (edited(sampling__num_frames=None), "'sampling.num_frames' must be of type int, not None"),
        (edited(branches=None), "'branches' must be an object of named values, not None; correct it"),
        (edited(branches__image=["image"]), "'branches.image' must be an object of named values, not ['image']"),
        (edited(branches__video__size__width="x"), "'branches.video.size.width' must be of type int, not 'x'"),
        (edited(source__finetune__bf16=1), "'source.finetune.bf16' must be of type bool, not 1"),
        (edited(reducer__level=0), "pool level 0 is not possible: choose a number above 0"),
        (edited(reducer__level=-2), "pool level -2 is not possible"),
        (edited(reducer__level=float("nan")), "pool level nan is not possible"),
        (
            edited(source__kind="taught"),
            "'source.kind' must be one of trained, pretrained, published, random, not 'taught'",
        ),
        (edited(source={"kind": "random"}), "'source' does not describe Random: missing ['seed'], unknown []"),
        (
            edited(streams={}, finetune={}),
            "was written by an earlier version, which kept experiments in another form: ",
        ),
        (edited(reducer__name="pol"), "unknown reducer 'pol'; choose from: average, max, bilinear"),
        (edited(family="single"), "unknown family 'single'; choose from: dual_encoder"),
        (edited(prompting__template="gpt"), "unknown template 'gpt'; choose from: qwen2, plain"),
        (edited(branches__image__encoder="vit"), "unknown encoder 'vit'; choose from: clip, internvideo2"),
        (edited(branches__image__projector="mlp"), "unknown projector 'mlp'; choose from: linear"),
        (edited(llm="nowhere"), "nowhere/config.json does not exist; download it there"),
    ],
)
def test_a_wrong_experiment_file_says_which_key_and_which_choices(edit, said, refused):
    path = RUN / "experiment.json"
    with kept(path):
        path.write_text(edit(path.read_text()))
        assert said in refused("predict", RUN, "What?", "--video", CLIPS / "good.mp4")


def test_a_damaged_experiment_file_of_a_training_is_named(refused, tmp_path):
    (tmp_path / "experiment.json").write_text("{")
    assert f"{tmp_path / 'experiment.json'} is not JSON" in refused(*TRAIN, tmp_path)
    with kept("pre/image/experiment.json"):
        Path("pre/image/experiment.json").write_text("{")
        assert "pre/image/experiment.json is not JSON" in refused(*TRAIN, tmp_path / "t")


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(b"\xff\xfenoise" * 100),
}
FILES = [
    "run/projectors.safetensors",
    "run/adapter_model.safetensors",
    "run/adapter_config.json",
    "parts/llm/config.json",
    "parts/llm/model.safetensors",
    "parts/llm/tokenizer.json",
    "parts/clip/config.json",
    "parts/clip/model.safetensors",
    "parts/clip/preprocessor_config.json",
    "parts/internvideo2.safetensors",
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_missing_or_damaged_file_of_a_model_is_named(file, damage, refused):
    with kept(file):
        DAMAGES[damage](Path(file))
        line = refused("predict", RUN, "What?", "--video", CLIPS / "good.mp4")
    path = Path(file)
    assert str(path) in line or (damage == "gone" and str(path.parent) in line and path.suffix == ".safetensors")
    assert re.search("download|copy|train", line)


@pytest.mark.parametrize("file", [f for f in FILES if f.endswith(".safetensors")])
def test_weights_that_do_not_fit_are_told_with_all_lists_in_one_line(file, refused):
    with kept(file):
        state = read_tensors(file)
        lost, bent = [key for key in sorted(state) if "lm_head" not in key][:2]
        state["odd"] = state.pop(lost)
        if file == "run/projectors.safetensors":
            state["image_mm_projector.odd"] = state["odd"]
        state[bent] = torch.zeros(3, 3)
        save_tensors(file, state)
        line = refused("predict", RUN, "What?", "--video", CLIPS / "good.mp4")
    lost, bent = (key.removeprefix("image_mm_projector.") for key in (lost, bent))
    assert re.search(
        rf"missing: .*{re.escape(lost)}; unexpected: odd; wrong shape: {re.escape(bent)} \(3, 3\) inst", line
    )


# Output folders, and disks that are full. The work so far stays, and the same command goes on.


@pytest.mark.parametrize(
    "args",
    [
        ["pretrain", "tiny", "image", "--output-dir", "file"],
        ["pretrain", "tiny", "image", "--output-dir", "file/inside"],
        [*TRAIN, "file"],
        ["sweep", "tiny", "--output", "file"],
    ],
)
def test_a_file_in_the_place_of_an_output_folder_is_named_and_kept(args, refused):
    with kept("file"):
        Path("file").write_text("a letter")
        line = refused(*args)
        assert re.search("cannot write (into )?file", line) and "choose another" in line
        assert Path("file").read_text() == "a letter"


def test_a_file_in_the_place_of_answers_scores_and_report_is_named(answers, refused, done, tmp_path):
    with kept(RUN / "answers"):
        (RUN / "answers").write_text("")
        assert "run/answers/answers.jsonl cannot be written: File exists; free space, permit" in refused("answer", RUN)
    done("answer", RUN)
    (RUN / "answers/scores.json").mkdir()
    assert "cannot write run/answers/scores.json: Is a directory; free space" in refused("score", RUN)
    (RUN / "answers/scores.json").rmdir()
    shutil.copytree(RUN, tmp_path / "run")
    (tmp_path / "report").write_text("")
    assert f"cannot write {tmp_path / 'report'}/" in refused("report", tmp_path)
    assert not list(RUN.rglob("*.part"))


def test_a_disk_that_fills_up_while_answering_loses_no_answer(answers, refused, done):
    with kept("bench/json/clip.json"):
        write_benchmark([question("one.mp4", f"What is thing {i}?") for i in range(10)])
        with full_disk(2000):
            assert "answers.jsonl cannot be written: File too large; free space" in refused("answer", RUN)
        # The line that did not fit is torn, and asked again.
        whole = (RUN / "answers/answers.jsonl").read_bytes().count(b"\n")
        assert 0 < whole < 10
        assert f"{10 - whole} new, {whole} kept, 0 with an error" in done("answer", RUN)
        assert len({line["key"] for line in answers()}) == len(answers()) == 10


@pytest.mark.parametrize("size", [1000, 60_000])
def test_a_disk_that_fills_up_while_training_changes_no_weight(size, refused, done, tmp_path):
    with full_disk(size):
        assert f"cannot write {tmp_path}/" in refused(*TRAIN, tmp_path)
    done(*TRAIN, tmp_path)
    assert same_weights(tmp_path, RUN)


def test_a_full_disk_leaves_the_old_report_whole(answers, refused, done, tmp_path):
    done("answer", RUN)
    shutil.copytree(RUN, tmp_path / "run")
    done("report", tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    with full_disk(3000):
        assert "File too large; free space" in refused("report", tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


# Incomplete runs.


@pytest.mark.parametrize(
    "asked", [[], ["--control", "blind"], ["--limit", "2"], ["--control", "blind", "--limit", "2"]]
)
def test_an_incomplete_run_has_no_score_and_the_line_holds_the_command_that_finishes_it(asked, answers, refused, done):
    with kept("bench/json/clip.json"):
        write_benchmark([question("one.mp4", f"What is thing {i}?") for i in range(3)])
        line = refused("score", RUN, *asked)
        count = 2 if "--limit" in asked else 3
        assert f"{count} of {count} answers are missing; finish them with: videogpt-plus answer run" in line
        done(*shlex.split(line.partition("videogpt-plus ")[2]))
        done("score", RUN, *asked)


def test_a_report_of_an_incomplete_sweep_says_which_run(answers, refused, done, tmp_path):
    done("answer", RUN)
    shutil.copytree(RUN, tmp_path / "run")
    with kept("bench/json/clip.json"):
        write_benchmark([question("good.mp4"), question("one.mp4")])
        assert f"1 of 2 answers are missing; finish them with: videogpt-plus answer {tmp_path}/run" in refused(
            "report", tmp_path
        )


@pytest.mark.parametrize("content", ["[", "[]", ""])
def test_a_damaged_file_beside_the_answers_is_named(content, answers, refused, done):
    done("answer", RUN)
    before = answers()
    (RUN / "answers/answers.meta.json").write_text(content)
    line = refused("answer", RUN)
    assert "run/answers/answers.meta.json" in line and "move it and run/answers/answers.jsonl away" in line
    assert answers() == before


# The screen.


def test_libraries_say_nothing_in_a_fresh_process():
    """Bars and warnings of libraries come once a process: here they would stand beside the one line."""
    call = [sys.executable, "-m", "videogpt_plus", "predict", str(RUN), "What?", "--video"]
    fine = subprocess.run([*call, CLIPS / "two.mp4"], capture_output=True, text=True)
    assert (fine.returncode, fine.stderr) == (0, "")
    broken = fork_server.run([*call, CLIPS / "damaged.mp4"], capture_output=True, text=True)
    assert broken.returncode == 2 and broken.stderr.count("\n") == 1, broken.stderr


def test_training_raises_no_warning(done, tmp_path, recwarn):
    done(*TRAIN, tmp_path)
    assert not [str(w.message) for w in recwarn]
