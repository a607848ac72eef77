"""`import videogpt_plus`: runs are loaded and asked, and a sweep is run, as the command line does it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clips import coded_frames, render_mp4
from torch import nn

import videogpt_plus
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import TOY_LLAVA15, TOY_WEIGHTS, at_level
from videogpt_plus.io.files import located
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import ClipError, UserError

PACKAGED = located(f"{TOY_WEIGHTS}/runs/toy_pool2")


def test_the_import_loads_nothing_heavy_and_every_public_name_is_there():
    code = (
        "import sys, videogpt_plus as vp\n"
        "heavy = {'torch', 'transformers', 'tyro', 'rich', 'eval'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "from videogpt_plus import Experiment, get_experiment\n"
        "assert isinstance(get_experiment('toy'), Experiment) and 'torch' not in sys.modules\n"
        "assert all(getattr(vp, name) for name in vp.__all__) and set(vp.__all__) <= set(dir(vp))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = videogpt_plus.lod


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    render_mp4(path, coded_frames(60), 20)
    return path


def test_runs_by_name_and_folder_are_asked_together_as_each_alone(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    coarse = tmp_path / "coarse"
    coarse.mkdir()
    for file in PACKAGED.iterdir():
        (coarse / file.name).write_bytes(file.read_bytes())
    save_experiment(coarse, at_level(load_experiment(PACKAGED), 8))
    llm = videogpt_plus.load("toy_pool2", coarse)
    replies = llm.ask(clip, "What moves?")
    assert list(replies) == ["toy_pool2", str(coarse)]
    assert replies["toy_pool2"].visual_tokens > replies[str(coarse)].visual_tokens > 0
    for name, reply in replies.items():
        alone = llm.only(name)
        assert alone.ask(clip, "What moves?")[name].text == reply.text
        assert "".join(alone.stream("What moves?", alone.see(clip))) == reply.text
    moved = llm.only("toy_pool2", at_level(load_experiment(PACKAGED), 8))
    assert moved.ask(clip, "What moves?")["toy_pool2"].text == replies[str(coarse)].text, "the level is a dial"
    with pytest.raises(ClipError, match="gone.mp4"):
        llm.ask(tmp_path / "gone.mp4", "What moves?")
    assert capsys.readouterr().out == "", "a library prints nothing"


def test_what_cannot_be_loaded_or_asked_is_one_line(clip):
    with pytest.raises(UserError, match="unknown experiment 'toyy'"):
        videogpt_plus.load("toyy")
    with pytest.raises(UserError, match="an open question has none"):
        videogpt_plus.load(PACKAGED, scoring="logprob").ask(clip, "What moves?")


def test_one_of_the_models_leaves_the_others_their_store_and_a_trained_reducer_is_kept(clip, tmp_path):
    llm = videogpt_plus.load(PACKAGED, store=tmp_path / "store")
    (name,) = llm.members
    assert llm.only(name).ask(clip, "What moves?")[name].text == llm.ask(clip, "What moves?")[name].text
    assert len(list((tmp_path / "store").rglob("*.safetensors"))) == 1, "encoded once, and kept"
    llm.members[name].model.reducers["image"] = nn.Linear(2, 2)
    with pytest.raises(UserError, match="was trained with its reducer 'average'"):
        llm.only(name, at_level(load_experiment(PACKAGED), 8))


def test_a_sweep_of_an_experiment_of_ones_own_gives_its_scores_and_tells_only_who_listens(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    ensure_toy_data(tmp_path / "toy", Recipe(test_per_task=1, train_per_task=1, images=1, videos=1))
    short = replace(TOY_LLAVA15.prompting, max_new_tokens=2)
    mine = replace(TOY_LLAVA15, benchmark_root=str(tmp_path / "toy/bench"), prompting=short)
    options = {"levels": (1, 4), "controls": ("blind",), "root": tmp_path / "swept"}
    done = videogpt_plus.sweep(mine, **options)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert done.report == tmp_path / "swept/toy_llava15/report/index.html" and done.report.is_file()
    assert [one.kind for one in done.cells] == ["register", "register", "answer", "answer", "answer", "report"]
    asked = [(one.cell.experiment.level, one.cell.control) for one in done.scores]
    assert asked == [(1, None), (4, None), (4, "blind")]
    for one in done.scores:
        assert one.scores == json.loads((one.cell.folder / "scores.json").read_text())
        assert one.accuracy == one.scores["overall"]["macro"]["accuracy"]
    said = []
    again = videogpt_plus.sweep(mine, **options, listener=videogpt_plus.Listener(said.append, said.append))
    assert again.scores == done.scores and sum("finished before" in line for line in said) == 4
    with pytest.raises(UserError, match="unknown control 'deaf'"):
        videogpt_plus.sweep(mine, controls=("deaf",), root=tmp_path / "none")
    assert not (tmp_path / "none").exists()
