"""Files of weights: what is read from whose, what is refused, and that writing is all or nothing."""

from __future__ import annotations

import json
import os

import pytest
import torch
from parity.reference_state import split_reference

from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import EXPERIMENTS
from videogpt_plus.io import files
from videogpt_plus.io.files import write_json
from videogpt_plus.io.model_folders import read_folder
from videogpt_plus.io.run_weights import read_projectors
from videogpt_plus.io.tensors import load_exactly, read_tensors, save_tensors
from videogpt_plus.types import UserError


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("mm_projector.bin", "model."),
        ("non_lora_trainables.bin", "base_model.model.model."),
        ("projectors.safetensors", ""),
    ],
)
def test_projectors_are_told_apart_by_their_full_name(tmp_path, file, prefix):
    video, image = torch.zeros(1), torch.ones(1)
    state = {f"{prefix}mm_projector.0.bias": video, f"{prefix}image_mm_projector.0.bias": image}
    write = save_tensors if file.endswith("safetensors") else lambda path, tensors: torch.save(tensors, path)
    write(tmp_path / file, state)
    read = read_projectors(tmp_path)
    assert read == {"mm_projector.0.bias": video, "image_mm_projector.0.bias": image}


def test_a_full_state_dict_is_split_by_the_reference_s_names():
    keys = [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.mm_projector.0.bias",
        "model.image_mm_projector.0.bias",
        "model.vision_tower.vision_encoder.cls_token",
        "model.image_vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
    ]
    parts = split_reference(dict.fromkeys(keys, torch.zeros(1)))
    assert {part: list(state) for part, state in parts.items()} == {
        "llm": ["model.embed_tokens.weight", "lm_head.weight"],
        "projectors": ["mm_projector.0.bias", "image_mm_projector.0.bias"],
        "internvideo2": ["vision_encoder.cls_token"],
        "clip": ["vision_model.pre_layrnorm.bias"],
    }


class Wicked:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"weight": Wicked(tmp_path / "ran")}, tmp_path / "wicked.pt")
    with pytest.raises(UserError, match="cannot read weights"):
        read_tensors(tmp_path / "wicked.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("gone.bin", lambda path: None, "does not exist"),
        ("cut.safetensors", lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0{"), "cannot read weights"),
        ("cut.bin", lambda path: path.write_bytes(b"PK\3\4no zip"), "cannot read weights"),
        ("empty.pt", lambda path: path.write_bytes(b""), "cannot read weights"),
        ("list.pt", lambda path: torch.save([1, 2], path), "no state dict"),
    ],
)
def test_missing_damaged_and_foreign_files_are_refused(tmp_path, name, write, told):
    write(tmp_path / name)
    with pytest.raises(UserError, match=told) as error:
        read_tensors(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_folders_without_weights_say_what_was_expected(tmp_path):
    with pytest.raises(UserError, match="model.safetensors"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="projectors.safetensors, non_lora_trainables.bin, mm_projector.bin"):
        read_projectors(tmp_path)


def test_shards_of_a_folder_are_read_together(tmp_path):
    names = {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for i, name in enumerate(names.values(), start=1):
        save_tensors(tmp_path / name, {f"w{i}": torch.full((2,), i)})
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    assert {key: value.tolist() for key, value in read_folder(tmp_path).items()} == {"w1": [1, 1], "w2": [2, 2]}


def test_a_misfit_is_told_in_one_line_with_all_lists():
    module = torch.nn.Linear(2, 2)
    state = {"weight": torch.zeros(3, 2), **{f"extra{i}": torch.zeros(1) for i in range(12)}}
    with pytest.raises(UserError) as error:
        load_exactly(module, state, source="here")
    text = str(error.value)
    assert "missing: bias;" in text and "weight (3, 2) instead of (2, 2)" in text
    assert "unexpected: extra0," in text and "and 4 more" in text and "\n" not in text


def test_tensors_that_share_memory_are_written(tmp_path):
    tensor = torch.randn(4, 4)
    save_tensors(tmp_path / "deep" / "w.safetensors", {"a": tensor, "b": tensor.T, "c": tensor[1]})
    read = read_tensors(tmp_path / "deep" / "w.safetensors")
    assert torch.equal(read["b"], tensor.T) and torch.equal(read["c"], tensor[1])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", {})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_comes_back_equal(tmp_path, name):
    save_experiment(tmp_path, EXPERIMENTS[name])
    assert load_experiment(tmp_path) == EXPERIMENTS[name]


@pytest.mark.parametrize("part", [(), ("finetune",), ("lora",)])
def test_an_experiment_with_an_unknown_key_is_refused(tmp_path, tiny_experiment, part):
    save_experiment(tmp_path, with_settings(tiny_experiment, {"reducer.level": 2}))
    value = json.loads((tmp_path / "experiment.json").read_text())
    inner = value["source"][part[0]] if part else value
    inner["levle"] = 3
    write_json(tmp_path / "experiment.json", value)
    with pytest.raises(UserError, match=r"unknown \['levle'\]"):
        load_experiment(tmp_path)
