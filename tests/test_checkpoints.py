"""Checkpoints: only whole ones are gone on from, damage is said, and nothing that no training wrote is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from train_worker import tiny_data, tiny_training

from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import EXPERIMENTS
from videogpt_plus.training import stages
from videogpt_plus.training.checkpoints import complete_checkpoints, ready_to_resume
from videogpt_plus.training.folder import claim
from videogpt_plus.types import UserError

#: Every file of a checkpoint, as one process without DeepSpeed writes it.
FILES = ("trainable.safetensors", "optimizer.pt", "rng_state_0.pth")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    with tiny_data(tmp_path_factory.mktemp("samples")) as root:
        yield root


@pytest.fixture(scope="module")
def experiment(tiny_experiment, samples):
    return tiny_training(tiny_experiment)


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory) -> Path:
    """A pre-training of six steps, with checkpoints 4 and 6."""
    folder = tmp_path_factory.mktemp("trained") / "image"
    stages.pretrain(experiment, "image", folder)
    return folder


@pytest.fixture
def stopped(trained, tmp_path) -> Path:
    """The same, as it is when it is stopped before its weights are written."""
    shutil.copytree(trained, tmp_path / "image")
    (tmp_path / "image" / "projectors.safetensors").unlink()
    return tmp_path / "image"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Turns over one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(folder: Path) -> list[str]:
    return [checkpoint.name for checkpoint in complete_checkpoints(folder)]


def test_the_last_two_checkpoints_stand_and_list_all_their_files(trained):
    assert names(trained) == ["checkpoint-4", "checkpoint-6"]
    listed = json.loads((trained / "checkpoint-6" / "COMPLETE").read_text())["sha256"]
    assert listed.keys() == set(FILES) and all(len(value) == 64 for value in listed.values())


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip])
@pytest.mark.parametrize("name", [*FILES, "COMPLETE"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(name, damage, stopped):
    damage(stopped / "checkpoint-6" / name)
    said = []
    ready_to_resume(stopped, said.append)
    assert names(stopped) == ["checkpoint-4"]
    if (name, damage) == ("COMPLETE", Path.unlink):
        assert said == []  # as a kill leaves it
        return
    (line,) = said
    assert "checkpoint-6 is damaged (" in line and (name in line or name == "COMPLETE")
    assert "resumes from checkpoint-4" in line and "\n" not in line


@pytest.mark.parametrize("name", FILES)
def test_a_training_that_falls_back_ends_as_a_straight_one(name, stopped, trained, experiment):
    (stopped / "checkpoint-6" / name).unlink()
    steps, said = [], []
    stages.pretrain(experiment, "image", stopped, progress=lambda *step: steps.append(step[0]), say=said.append)
    assert steps == [5, 6] and len(said) == 1
    weights = "projectors.safetensors"
    assert (stopped / weights).read_bytes() == (trained / weights).read_bytes()
    assert (stopped / "checkpoint-6" / name).read_bytes() == (trained / "checkpoint-6" / name).read_bytes()


def test_without_a_whole_checkpoint_nothing_is_removed_and_one_line_says_so(stopped, experiment):
    (stopped / "checkpoint-6" / "optimizer.pt").unlink()
    flip(stopped / "checkpoint-4" / "rng_state_0.pth")
    files = sorted(stopped.rglob("*"))
    with pytest.raises(UserError, match=r"checkpoint-6 is damaged \(optimizer.pt is missing\), .*no whole") as told:
        stages.pretrain(experiment, "image", stopped)
    assert "\n" not in str(told.value) and sorted(stopped.rglob("*")) == files


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": {}}'])
def test_a_checkpoint_that_lists_no_files_is_damaged(content, stopped):
    (stopped / "checkpoint-6" / "COMPLETE").write_text(content)
    said = []
    ready_to_resume(stopped, said.append)
    assert names(stopped) == ["checkpoint-4"] and "COMPLETE is no list of its files" in said[0]


def test_folders_of_the_user_stay(stopped, experiment):
    kept = [stopped / name / "notes.txt" for name in ("checkpoint-old", "checkpoint-6-good", "checkpoint-")]
    for path in kept:
        path.parent.mkdir()
        path.write_text("mine")
    (stopped / "checkpoint-9").symlink_to(stopped / "checkpoint-old")
    stages.pretrain(experiment, "image", stopped)
    assert all(path.read_text() == "mine" for path in kept) and (stopped / "checkpoint-9").is_symlink()


def test_a_checkpoint_with_something_of_the_user_is_in_the_way(stopped, experiment):
    (stopped / "checkpoint-8").mkdir()
    (stopped / "checkpoint-8" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"checkpoint-8 is in the way and holds notes.txt.*move it away"):
        stages.pretrain(experiment, "image", stopped)
    assert (stopped / "checkpoint-8" / "notes.txt").read_text() == "mine"


def test_changed_annotations_are_another_training(stopped, experiment, samples):
    path = samples / "captions.json"
    then = path.read_text()
    path.write_text(then.replace("red cup", "tin cup"))  # as many samples, of as many tokens
    try:
        with pytest.raises(UserError, match=r"began otherwise \(annotations.*captions.json: '\w{16}' there, '\w{16}'"):
            stages.pretrain(experiment, "image", stopped)
    finally:
        path.write_text(then)


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path, experiment):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"is no run folder and holds README.md: .*choose a new or an empty folder"):
        stages.pretrain(experiment, "image", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_new_folder_may_hold_what_a_sweep_or_a_kill_left(tmp_path):
    for name in ("cell.json", ".experiment.json.7.part"):
        (tmp_path / name).write_text("{}")
    assert not claim(tmp_path, with_settings(EXPERIMENTS["toy"], {"reducer.level": 2}))


def test_half_written_files_are_swept_when_the_folder_is_taken_up_again(stopped, experiment):
    dead = stopped / ".projectors.safetensors.999999999.part"  # beyond any process's id
    living, foreign = stopped / ".projectors.safetensors.1.part", stopped / ".mine.part"
    for path in (dead, living, foreign):
        path.write_bytes(b"half")
    stages.pretrain(experiment, "image", stopped)
    assert not dead.exists() and living.exists() and foreign.exists()
