"""The demo, cut down to seconds: it makes a model that can be asked, scores as it says, and goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videogpt_plus.app.cli import main
from videogpt_plus.app.commands.cinego import _show_replies
from videogpt_plus.config.experiments import TOY_CINEGO
from videogpt_plus.toy import cinego
from videogpt_plus.training.cinego.data import read_rows
from videogpt_plus.training.cinego.features import media_files
from videogpt_plus.training.cinego.stages import Recipe

SHORT = Recipe(epochs=1, batch_size=8, learning_rate=1e-3, max_length=160)
PLAN = cinego.Plan(clips=16, held_out=3, texts=16, lm=SHORT, pretrain=SHORT, sft=SHORT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo of some seconds: (its folder, its experiment)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("demo")
    experiment = replace(TOY_CINEGO, llm=str(root / "weights"))
    assert cinego.prepare(root / "data", PLAN)
    cinego.teach(experiment, root / "data", PLAN)
    yield root / "data", experiment
    torch.set_num_threads(threads)


def test_what_is_there_is_not_made_again(made):
    root, experiment = made
    (folder,) = root.glob("made-*")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pth")}
    assert [path.name for path in sorted(before)] == ["lm_64.pth", "pretrain_videolm_64.pth", "sft_videolm_64.pth"]
    assert not cinego.prepare(root, PLAN)
    cinego.teach(experiment, root, PLAN)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pth")} == before


def test_no_held_out_clip_is_trained_on(made):
    root, _ = made
    things = cinego.things(PLAN)
    assert len(set(things)) == PLAN.clips + PLAN.held_out
    trained = {
        path for stage in ("pretrain", "sft") for r in read_rows(root / f"{stage}.jsonl", root) for path in r.media
    }
    assert trained == {str(root / "train" / f"{i:04d}.mp4") for i in range(PLAN.clips)}
    assert not trained & {str(clip.path) for clip in cinego.clips(root, PLAN)[PLAN.clips :]}


def test_rows_say_what_is_in_their_clip(made):
    root, _ = made
    truth = {str(clip.path): clip.thing for clip in cinego.clips(root, PLAN)}
    for row in read_rows(root / "sft.jsonl", root):
        thing = truth[row.media[0]]
        said = [text for role, text in row.turns if role == "assistant"]
        assert len(set(said)) == 2
        assert set(said) <= {asked.answer(thing) for asked in cinego.QUESTIONS.values()}


@pytest.mark.parametrize("control", [None, "shuffled", "blind"])
def test_every_held_out_clip_is_asked_everything_in_both_turns(control, made):
    root, experiment = made
    replies = cinego.ask(experiment, root, PLAN, control)
    held_out = [clip.thing for clip in cinego.clips(root, PLAN)[PLAN.clips :]]
    for name, asked in cinego.QUESTIONS.items():
        assert sorted(truth for truth, _ in replies[name]) == sorted(asked.word(t) for t in held_out for _ in range(2))
    told = {control: replies, "shuffled": replies, "blind": replies, None: replies}
    _show_replies(told)


def test_shuffled_frames_are_the_same_frames(made):
    from videogpt_plus.clips.prefetch import Preparation

    root, experiment = made
    prepared = Preparation(experiment.branches, experiment.sampling)
    path = cinego.clips(root, PLAN)[-1].path
    ((name, seen),) = cinego._seen(prepared, path, None).pixels.items()
    mixed = cinego._seen(prepared, path, 3).pixels[name]
    assert not torch.equal(seen, mixed)
    assert torch.equal(seen.flatten(1).sum(1).sort().values, mixed.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize(
    ("text", "right"),
    [("The object is red.", True), ("Red", True), ("The object is blue.", False), ("red or blue", False), ("", False)],
)
def test_an_answer_is_right_with_the_right_word_and_no_other(text, right):
    assert cinego.is_right("colour", ("red", text)) is right


def test_eval_writes_a_line_for_each_file_and_question(made, tmp_path, monkeypatch, capsys):
    """Greedy, then on from a torn line; a file that cannot be read is a line with its error."""
    root, _ = made
    (run,) = root.glob("made-*/sft")
    media = tmp_path / "media"
    (media / "inner").mkdir(parents=True)
    clip = cinego.clips(root, PLAN)[-1].path
    (media / "inner" / "a.mp4").write_bytes(clip.read_bytes())
    (media / "torn.mp4").write_bytes(clip.read_bytes()[:300])
    questions = [asked.question for asked in cinego.QUESTIONS.values()][:2]
    (tmp_path / "questions.txt").write_text("\n".join([*questions, "", questions[0]]))
    output = tmp_path / "answers.jsonl"
    command = ["cinego", "eval", str(run), str(media), "--prompts", str(tmp_path / "questions.txt")]
    monkeypatch.chdir(tmp_path)
    main([*command, "--output", str(output)])
    shown = capsys.readouterr().out
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["file"][len(str(media)) + 1 :], line["prompt"]) for line in lines] == [
        (name, question) for name in ("inner/a.mp4", "torn.mp4") for question in questions
    ]
    assert all(line["answer"] in shown and line["seconds"] >= line["seconds_first"] > 0 for line in lines[:2])
    assert all("torn.mp4" in line["error"] and "answer" not in line for line in lines[2:])
    assert f"{output}: 4 new, 0 kept, 2 with an error\n" in shown
    output.write_text("".join(output.read_text().splitlines(keepends=True)[:1]) + '{"key": "torn')
    main([*command, "--output", str(output)])
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line.get("answer") for line in again] == [line.get("answer") for line in lines]
    assert f"{output}: 3 new, 1 kept, 2 with an error\n" in capsys.readouterr().out
    main([*command, "--output", str(output)])
    assert capsys.readouterr().out == f"{output}: 0 new, 4 kept, 2 with an error\n"
    with pytest.raises(SystemExit):
        main([*command, "--output", str(output), "--temperature", "0.7"])
    assert "temperature = 0.0, this run has 0.7" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [False, True])
def test_eval_of_nothing_that_can_be_read_ends_with_1(kept, made, tmp_path, monkeypatch, capsys):
    """The first time, and with the error's line there already."""
    root, _ = made
    (run,) = root.glob("made-*/sft")
    (tmp_path / "torn.mp4").write_bytes(cinego.clips(root, PLAN)[-1].path.read_bytes()[:300])
    monkeypatch.chdir(tmp_path)
    command = ["cinego", "eval", str(run), "torn.mp4", "--prompt", "What is it?"]
    output = ["--output", "answers.jsonl"] if kept else []
    for told in ("1 new, 0 kept, 1 with an error", "0 new, 1 kept, 1 with an error"):
        with pytest.raises(SystemExit) as ended:
            main([*command, *output])
        assert ended.value.code == 1
        assert capsys.readouterr().out == (f"answers.jsonl: {told}\n" if kept else "")


def test_a_folder_is_searched_for_all_that_the_page_takes(tmp_path):
    from videogpt_plus.app.web.clips import folder_clips

    for ending in ("mp4", "ts", "mpeg", "MPG", "flv", "ogv", "png", "txt"):
        (tmp_path / f"a.{ending}").touch()
    found = media_files(tmp_path)
    assert found == sorted(tmp_path / f"a.{end}" for end in ("mp4", "ts", "mpeg", "MPG", "flv", "ogv", "png"))
    assert found == [source.path for source in folder_clips(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["eval", "toy_cinego", "x"], "give --prompt"),
        (["eval", "toy_cinego", "x", "--prompt", " "], "--prompt is empty"),
        (["preprocess", "toy_cinego", "rows.jsonl"], "name its folder with --store DIR"),
        (["tokenizer", "--output", "x"], "no data is named"),
        (["lm", "toy", "--data", "x", "--start", "y", "--output-dir", "z"], "toy is no Cinego; choose from"),
        (["sft", "toy", "--data", "x", "--start", "y", "--output-dir", "z"], "toy is no Cinego; choose from"),
        (["sft", "toy_cinego", "--data", "x", "--start", "y", "--output-dir", "z"], "weights of Cinego not found: y"),
    ],
)
def test_what_is_missing_is_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["cinego", *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_tokenizer_is_not_overwritten(made, tmp_path, monkeypatch, capsys):
    root, _ = made
    monkeypatch.chdir(tmp_path)
    command = ["cinego", "tokenizer", str(root / "lm.jsonl"), "--output", "own", "--vocabulary"]
    main([*command, "300"])
    before = Path("own/tokenizer.json").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*command, "310"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "own/tokenizer.json is there already" in error and error.count("\n") == 1
    assert Path("own/tokenizer.json").read_bytes() == before


def test_lm_goes_on_from_the_weights_of_a_folder(made, tmp_path, monkeypatch, capsys):
    """As from the file itself; a folder with weights never gives a random beginning."""
    root, _ = made
    (trained,) = root.glob("made-*/lm")
    monkeypatch.chdir(tmp_path)
    command = ["cinego", "lm", "toy_cinego", "--data", str(root / "lm.jsonl"), "--epochs", "1", "--batch-size", "8"]
    for start, out in ((trained, "folder"), (trained / "lm_64.pth", "file")):
        main([*command, "--max-length", "160", "--start", str(start), "--output-dir", out])
    assert Path("folder/lm_64.pth").read_bytes() == Path("file/lm_64.pth").read_bytes()
    begun = [
        json.loads(Path(folder, "log.jsonl").read_text().splitlines()[0])["start"] for folder in ("folder", trained)
    ]
    assert begun[0] != begun[1]
    capsys.readouterr()
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    (strange / "other.pth").touch()
    for start, more, told in ((trained, ["--experts"], "--experts is for a new model"), (strange, [], "no weights in")):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--start", str(start), "--output-dir", "no", *more])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and told in error and error.count("\n") == 1
    assert not Path("no").exists()


def test_the_demo_says_what_begins(made, capsys):
    root, experiment = made
    said: list[str] = []
    cinego.teach(experiment, root, PLAN, say=said.append)
    assert [line.split(":")[0] for line in said] == ["preprocess", "lm", "pretrain", "sft"]
    assert "what CLIP makes of 19 clips" in said[0]


def test_other_commands_know_the_model_that_the_demo_left(made, tmp_path, monkeypatch, capsys):
    """`predict`, and a benchmark as `answer` asks any model; its questions are not those of the demo."""
    from videogpt_plus.toy.render import Recipe as Rendered
    from videogpt_plus.toy.render import ensure_toy_data

    root, experiment = made
    ensure_toy_data(tmp_path / "toy", Rendered(test_per_task=1, train_per_task=1, images=1, videos=1))
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / TOY_CINEGO.llm
    weights.parent.mkdir(parents=True)
    weights.symlink_to(experiment.llm)
    clip = cinego.clips(root, PLAN)[-1].path
    main(["predict", "toy_cinego", "What color is the object?", "And now?", "--video", str(clip)])
    assert capsys.readouterr().out.count("\n") == 2
    main(["answer", "toy_cinego", "--benchmark", str(tmp_path / "toy" / "bench"), "--workers", "0"])
    (path,) = (tmp_path / "results" / "toy_cinego").glob("answers_mvbench_of_bench-*/answers.jsonl")
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(answers) == 10 and not any(line.get("error") for line in answers)


def test_the_commands_lead_from_text_to_a_run(made, tmp_path, monkeypatch, capsys):
    """tokenizer, lm, preprocess, pretrain and sft, each from what the one before wrote; nothing is decoded twice."""
    root, _ = made
    monkeypatch.chdir(tmp_path)
    store = ["--store", "features"]
    short = ["--epochs", "1", "--batch-size", "8", "--max-length", "160"]

    def data(stage: str) -> list[str]:
        return ["--data", str(root / f"{stage}.jsonl")]

    main(["cinego", "tokenizer", str(root / "lm.jsonl"), "--output", "tokenizer", "--vocabulary", "400"])
    main(["cinego", "lm", "toy_cinego", *data("lm"), "--start", "tokenizer", "--output-dir", "lm", *short])
    filling = [
        "cinego",
        "preprocess",
        "toy_cinego",
        str(root / "pretrain.jsonl"),
        "--media",
        str(root),
        "--workers",
        "0",
    ]
    main([*filling, *store])
    main([*filling, *store])
    shown = capsys.readouterr().out
    assert "features: 16 new, 0 there before" in shown and "features: 0 new, 16 there before" in shown
    monkeypatch.setattr("videogpt_plus.clips.video.read_clip", None)
    for stage, start in (("pretrain", "lm"), ("sft", "pretrain")):
        media = ["--media", str(root), "--start", start, "--output-dir", stage]
        main(["cinego", stage, "toy_cinego", *data(stage), *media, *short, *store])
    assert "weights: sft/sft_videolm_64.pth" in capsys.readouterr().out
    assert (tmp_path / "sft" / "experiment.json").exists()
