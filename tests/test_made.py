"""Folders that are made by themselves: whole or not there, and nothing of somebody else's is removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from videogpt_plus.app import runs
from videogpt_plus.config.experiments import EXPERIMENTS, TOY_FAMILIES
from videogpt_plus.families.twin import ensure_twin
from videogpt_plus.io.folders import MADE, making, new_folder
from videogpt_plus.toy import cinego
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.toy.rwf2000 import Recipe as Fights
from videogpt_plus.toy.rwf2000 import ensure_rwf2000
from videogpt_plus.types import UserError

FEW = Recipe(test_per_task=1, train_per_task=1, images=1, videos=1)
PLAN = cinego.Plan(clips=2, held_out=1, texts=2)
#: What makes each kind of folder at a path.
MAKERS = {
    "rwf2000": lambda root: ensure_rwf2000(root, Fights(train=1, val=1)),
    "demo": lambda root: cinego.prepare(root, PLAN),
    "family": lambda root: ensure_twin(root),
}


def made(root: Path, text: str = "new", **options: bool) -> bool:
    with making(root, {"from": text}, ["file", "folder"], **options) as scratch:
        if scratch is None:
            return False
        (scratch / "file").write_text(text)
        (scratch / "folder").mkdir()
        (scratch / "folder" / text).touch()
    return True


def files(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_is_there_stays_and_another_recipe_takes_its_place_alone(tmp_path):
    root = tmp_path / "root"
    assert made(root, "old") and not made(root, "old")
    (root / "taught").write_text("hours of work")
    assert made(root) and not made(root)
    found = files(root)
    assert found.pop(MADE) and found == {"file": "new", "folder/new": "", "taught": "hours of work"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


@pytest.mark.parametrize(("name", "shared", "refused"), [
    ("file", True, True), ("folder", True, True), ("other", True, False), ("other", False, True),
])  # fmt: skip
def test_a_folder_of_somebody_else_is_left_as_it_is(name, shared, refused, tmp_path):
    (tmp_path / name).write_text("mine")
    root = tmp_path
    if not refused:
        assert made(root, shared=shared) and (root / name).read_text() == "mine"
        return
    with pytest.raises(UserError, match=f"was not made here .*holds {name}: it is left as it is") as told:
        made(root, shared=shared)
    assert "\n" not in str(told.value) and files(root) == {name: "mine"}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"whole": false}', "\x00"])
def test_a_damaged_made_json_is_made_again_and_said(text, tmp_path, capsys):
    assert made(tmp_path / "root")
    (tmp_path / "root" / MADE).write_text(text)
    assert made(tmp_path / "root") and not made(tmp_path / "root")
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if "whole" in text else 1) and (
        "whole" in text or str(tmp_path / "root" / MADE) in said
    )


def test_an_end_between_two_names_is_made_good(tmp_path, monkeypatch):
    made(tmp_path / "root", "old")
    monkeypatch.setattr(shutil, "move", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(tmp_path / "root")
    monkeypatch.undo()
    assert made(tmp_path / "root") and files(tmp_path / "root")["file"] == "new"


@pytest.mark.parametrize("kind", MAKERS)
def test_every_maker_refuses_what_is_not_its_own(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path(TOY_FAMILIES) / "llava15" if kind == "family" else Path("mine")
    root.mkdir(parents=True)
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made here"):
        MAKERS[kind](root)
    assert files(root) == {"thesis.txt": "mine"}
    (root / "thesis.txt").unlink()
    assert MAKERS[kind](root) and not MAKERS[kind](root)


def test_rendering_the_toy_leaves_what_lies_beside_it(tmp_path):
    root = tmp_path / "toy"
    for name in ("cinego/sft_videolm_64.pth", "families/llava15/model.safetensors", "open/generic_qa.json"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("kept")
    assert ensure_toy_data(root, FEW) and ensure_toy_data(root, replace(FEW, seed=21))
    assert {name for name, text in files_but_clips(root).items() if text == "kept"} == {
        "cinego/sft_videolm_64.pth", "families/llava15/model.safetensors", "open/generic_qa.json",
    }  # fmt: skip
    shutil.rmtree(root)
    (root / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="holds train"):
        ensure_toy_data(root, FEW)


def files_but_clips(root: Path) -> dict[str, str]:
    paths = [p for p in root.rglob("*") if p.is_file() and p.suffix not in (".mp4", ".jpg")]
    return {p.relative_to(root).as_posix(): p.read_text() for p in paths}


RENDER = """
import sys
from pathlib import Path
from videogpt_plus.toy.render import Recipe, ensure_toy_data
if __name__ == "__main__":
    many = Recipe(test_per_task=40, images=400, videos=400)
    ensure_toy_data(Path(sys.argv[1]), many, lambda *_: print("on", flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_killed_rendering_leaves_no_process_that_holds_the_lock(tmp_path):
    (tmp_path / "render.py").write_text(RENDER)
    run = subprocess.Popen([sys.executable, tmp_path / "render.py", tmp_path / "toy"], stdout=subprocess.PIPE)
    assert run.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.wait()
    began = time.monotonic()
    assert ensure_toy_data(tmp_path / "toy", FEW) and time.monotonic() - began < 20
    assert not any(str(tmp_path).encode() in _command(pid) for pid in Path("/proc").glob("[0-9]*"))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


# ---------------------------------------------------------------------------------------------- copies and runs
def test_a_copy_that_a_kill_cut_short_is_no_run_and_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = Path("results/.toy_pool2.999999999.part")  # beyond any process's id
    shutil.copytree(runs.find_run("toy_pool2"), left)
    assert runs.find_run("toy_pool2").parent.name == "runs"  # the packaged one
    with pytest.raises(UserError, match="no trained run"):
        runs.find_runs("*pool2*")
    assert runs.own_runs(["toy_pool2"]) == [Path("results/toy_pool2")]
    assert [path.name for path in Path("results").iterdir()] == ["toy_pool2"]
    assert runs.find_runs("*pool2*") == [Path("results/toy_pool2")]


def test_a_living_process_keeps_its_part(tmp_path):
    (tmp_path / f".a.{os.getppid()}.part").mkdir()
    with new_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".a.{os.getppid()}.part", "a"]


def test_take_leaves_a_trained_run_and_a_users_folder_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs.find_run("toy_pool2"), "run")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    before = files_but_weights(Path("run"))
    published = EXPERIMENTS["toy_llava15"]
    with pytest.raises(UserError, match=r"run holds another experiment .*remove the folder or choose another"):
        runs.take_published(published, Path("run"))
    with pytest.raises(UserError, match=r"mine is no run folder and holds thesis.txt"):
        runs.take_published(published, Path("mine"))
    assert files_but_weights(Path("run")) == before and files(Path("mine")) == {"thesis.txt": "mine"}
    assert runs.take_published(published, Path("new")) == runs.take_published(published, Path("new"))


def files_but_weights(root: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in root.iterdir() if p.suffix != ".safetensors"}
