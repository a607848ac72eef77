"""The reference's files into our run folders and back: nothing lost, nothing taken for something else."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_worker import tiny_data, tiny_training

from videogpt_plus.app import cli
from videogpt_plus.config import experiments
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.convert import LORA_KEYS, TOLERANCE, convert, largest_difference
from videogpt_plus.io.files import write_json
from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import stages
from videogpt_plus.types import IGNORE, UserError, Visual

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = ("adapter_model.safetensors", "projectors.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_experiment):
    """Finished folders: pre-trainings "image" and "video", and "tuned" at level 4."""
    with tiny_data(tmp_path_factory.mktemp("runs")) as root, pytest.MonkeyPatch.context() as patch:
        tiny = tiny_training(tiny_experiment, max_steps=2, warmup_ratio=0.0)
        patch.setitem(experiments.EXPERIMENTS, "tiny", tiny)
        for stream in ("image", "video"):
            stages.pretrain(tiny, stream, root / stream)
        stages.finetune(at_level(tiny, 4), {s: root / s for s in ("image", "video")}, root / "tuned")
        yield root


@pytest.fixture(scope="module")
def reference(runs):
    """The tuned run in the reference's layout."""
    convert(runs / "tuned", runs / "reference")
    return runs / "reference"


@pytest.fixture
def copied(reference, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(reference, tmp_path / "copied"))


def changed(folder: Path, file: str = "config.json", **values: object) -> Path:
    """The folder with other values in one of its JSON files; None takes a key away."""
    path = folder / file
    merged = {**json.loads(path.read_text()), **values}
    write_json(path, {key: value for key, value in merged.items() if value is not None})
    return folder


def same_tensors(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first
    )


@pytest.mark.parametrize("name", ["tuned", "image", "video"])
def test_there_and_back_again_gives_the_same_tensors_and_experiment(name, runs, tmp_path):
    chosen = None if name == "tuned" else "tiny"
    assert convert(runs / name, tmp_path / "theirs") == "reference"
    assert convert(tmp_path / "theirs", tmp_path / "ours", chosen) == "ours"
    files = WEIGHTS if name == "tuned" else WEIGHTS[1:]
    assert all(same_tensors(runs / name / file, tmp_path / "ours" / file) for file in files)
    assert load_experiment(tmp_path / "ours") == load_experiment(runs / name)
    assert (tmp_path / "ours/tokenizer.json").read_bytes() == (runs / name / "tokenizer.json").read_bytes()
    assert "not recorded" in (tmp_path / "ours/README.md").read_text()


def test_the_reference_gets_the_files_keys_and_values_that_it_reads(runs, reference):
    assert {p.name for p in reference.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "non_lora_trainables.bin", "config.json",
    }  # fmt: skip
    state = torch.load(reference / "non_lora_trainables.bin", weights_only=True)
    wrapped = [
        f"{p}.{i}.{n}" for p in ("mm_projector", "image_mm_projector") for i in (0, 2) for n in ("weight", "bias")
    ]
    assert set(state) == {f"base_model.model.model.{key}" for key in wrapped}
    # As the reference strips them: `base_model.`, then one `model.` where two stand.
    stripped = {key.removeprefix("base_model.").removeprefix("model.") for key in state}
    assert stripped == {f"model.{key}" for key in wrapped}
    lora = json.loads((reference / "adapter_config.json").read_text())
    assert lora.keys() <= set(LORA_KEYS) and (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (4, 8, 0.1)
    config = json.loads((reference / "config.json").read_text())
    told = {
        "model_type": "VideoGPT+", "pool_level": 4, "hidden_size": 64, "mm_hidden_size": 32,
        "image_mm_hidden_size": 32, "mm_projector_type": "mlp2x_gelu", "image_mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "rope_theta": 10000.0,
        "torch_dtype": "float32", "tune_mm_mlp_adapter": False, "tune_image_mm_mlp_adapter": False,
    }  # fmt: skip
    assert {key: config[key] for key in told} == told
    streams = dict(load_experiment(runs / "tuned").branches)
    assert config["mm_vision_tower"] == streams["video"].weights
    assert config["image_mm_vision_tower"] == streams["image"].weights
    assert "rope_parameters" not in config and "dtype" not in config  # words of transformers 5


def test_a_pre_training_is_written_as_the_reference_s(runs, tmp_path):
    convert(runs / "video", tmp_path / "theirs")
    assert {p.name for p in (tmp_path / "theirs").iterdir()} == {"mm_projector.bin", "config.json"}
    state = torch.load(tmp_path / "theirs/mm_projector.bin", weights_only=True)
    assert set(state) == {f"model.mm_projector.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")}
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    assert config["tune_mm_mlp_adapter"] is True and config["image_mm_vision_tower"] is None


@pytest.mark.parametrize("stream", ["image", "video"])
def test_a_fine_tuning_starts_from_a_bare_mm_projector_bin(stream, runs, tmp_path):
    """Both streams' files carry this name: the keys inside tell them apart, by their whole names."""
    convert(runs / stream, tmp_path / "theirs")
    file = Path(shutil.move(tmp_path / "theirs/mm_projector.bin", tmp_path / "mm_projector.bin"))
    convert(file, tmp_path / stream, "tiny")
    tiny = experiments.EXPERIMENTS["tiny"]
    starts = {s: (tmp_path if s == stream else runs) / s for s in ("image", "video")}
    stages.finetune(at_level(tiny, 4), starts, tmp_path / "tuned")
    assert all(same_tensors(runs / "tuned" / file, tmp_path / "tuned" / file) for file in WEIGHTS)


@pytest.mark.parametrize("name", ["tuned", "image"])
def test_verify_finds_both_sides_the_same_and_exits_with_1_where_they_are_not(name, runs, tmp_path, capsys):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    cli.main(["convert", str(runs / name), str(theirs), "--verify"])
    cli.main(["convert", str(theirs), str(ours), "--experiment", "tiny", "--verify"])
    said = capsys.readouterr().out
    assert f"reference: {theirs}" in said and f"ours: {ours}" in said
    assert said.count("largest difference of a logit: 0 (at most 2e-05)") == 2
    assert largest_difference(theirs, ours, "ours") == 0
    state = load_file(ours / "projectors.safetensors")
    state["image_mm_projector.2.bias"][0] += 0.1
    save_tensors(ours / "projectors.safetensors", state)
    assert largest_difference(theirs, ours, "ours") > TOLERANCE


def test_a_mismatch_ends_the_command_with_exit_code_1(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("videogpt_plus.convert.largest_difference", lambda *sides: float("nan"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", str(runs / "tuned"), str(tmp_path / "theirs"), "--verify"])
    assert stop.value.code == 1 and "nan (above 2e-05)" in capsys.readouterr().out


def test_verify_reads_the_level_of_each_side_from_its_own_files(runs, copied, tmp_path):
    assert largest_difference(runs / "tuned", changed(copied, pool_level=2), "reference") > TOLERANCE


def test_an_adapter_in_a_pickle_is_read(copied, runs, tmp_path):
    torch.save(load_file(copied / "adapter_model.safetensors"), copied / "adapter_model.bin")
    (copied / "adapter_model.safetensors").unlink()
    convert(copied, tmp_path / "ours")
    assert same_tensors(runs / "tuned" / WEIGHTS[0], tmp_path / "ours" / WEIGHTS[0])
    assert largest_difference(copied, tmp_path / "ours", "ours") == 0


def test_lora_s_numbers_are_those_of_the_adapter(copied, tmp_path):
    tiny = experiments.EXPERIMENTS["tiny"]
    assert tiny.lora.alpha == 8
    convert(changed(copied, "adapter_config.json", lora_alpha=16), tmp_path / "ours", "tiny_pool4")
    assert load_experiment(tmp_path / "ours").lora == replace(tiny.lora, alpha=16)


@pytest.mark.parametrize(
    ("config", "experiment", "said"),
    [
        ({"pool_level": 2}, "tiny_pool4", "pool_level is 2 there"),
        ({"pool_level": None}, "tiny", "names no pool_level"),
        ({"pool_level": "4"}, "tiny_pool4", "names no pool_level .found '4'"),
        ({"pool_level": -1}, "tiny", "pool level -1 is not possible"),
        ({"mm_projector_type": "linear"}, "tiny", "mm_projector_type is 'linear' there, 'mlp2x_gelu' in"),
        ({"image_mm_projector_type": "linear"}, "tiny", "image_mm_projector_type is 'linear' there"),
        ({"hidden_size": 128}, "tiny", "hidden_size is 128 there, 64 in"),
        ({"image_mm_hidden_size": 1024}, "tiny", "image_mm_hidden_size is 1024 there, 32 in"),
        ({"num_hidden_layers": 28}, "tiny", "num_hidden_layers is 28 there, 2 in"),
        ({"mm_vision_select_layer": -1}, "tiny", "mm_vision_select_layer is -1 there, -2 in"),
        ({"mm_use_im_patch_token": True}, "tiny", "mm_use_im_patch_token is True there"),
        ({}, "toy_pool4", "is not 'toy_pool4': image_mm_hidden_size is 32 there, 64 in .*; mm_hidden_size is 32"),
        ({"hidden_size": 128}, None, "cannot tell which experiment .* is .nothing in it fits one"),
        ({}, "tinny", "unknown experiment 'tinny'"),
    ],
)
def test_a_config_that_contradicts_the_experiment_is_refused(config, experiment, said, copied, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        convert(changed(copied, **config), tmp_path / "ours", experiment)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_the_name_gives_the_level_where_the_config_does_not(copied, tmp_path):
    convert(changed(copied, pool_level=None), tmp_path / "ours", "tiny_pool4")
    assert load_experiment(tmp_path / "ours").level == 4


def test_two_experiments_that_fit_have_to_be_told_apart_by_name(reference, tmp_path, monkeypatch):
    other = replace(experiments.EXPERIMENTS["tiny"], name="other")
    monkeypatch.setitem(experiments.EXPERIMENTS, "other", other)
    with pytest.raises(UserError, match="it fits tiny, other.: name it with --experiment"):
        convert(reference, tmp_path / "ours")
    convert(reference, tmp_path / "ours", "other")
    assert load_experiment(tmp_path / "ours").name == "other_pool4"


def test_a_folder_of_both_layouts_is_refused_until_told(runs, copied, tmp_path):
    shutil.copy(runs / "tuned/projectors.safetensors", copied)
    shutil.copy(runs / "tuned/experiment.json", copied)
    with pytest.raises(UserError, match="holds both projectors.safetensors and non_lora_trainables.bin: say which"):
        convert(copied, tmp_path / "out")
    assert convert(copied, tmp_path / "ours", to="ours") == "ours"
    assert convert(copied, tmp_path / "theirs", to="reference") == "reference"


def test_what_is_neither_or_not_there_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match="nothing to convert in .*: expected projectors.safetensors"):
        convert(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="not found: .*nowhere does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="says itself which experiment it is"):
        convert(runs / "tuned", tmp_path / "out", "tiny")


def test_a_target_that_holds_something_is_kept(runs, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UserError, match="is not empty: remove it or name another target"):
        convert(runs / "tuned", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_a_conversion_that_fails_leaves_nothing(copied, tmp_path):
    lost = torch.load(copied / "non_lora_trainables.bin", weights_only=True)
    lost["base_model.model.model.mm_projector.1.bias"] = lost.pop("base_model.model.model.mm_projector.2.bias")
    lost["base_model.model.model.image_mm_projector.0.weight"] = torch.zeros(3, 3)
    torch.save({**lost, "odd": torch.zeros(1)}, copied / "non_lora_trainables.bin")
    with pytest.raises(UserError) as error:
        convert(copied, tmp_path / "ours")
    assert "missing: mm_projector.2.bias; unexpected: mm_projector.1.bias, odd; wrong shape: image_mm" in str(
        error.value
    )
    assert [p.name for p in tmp_path.iterdir()] == ["copied"]


@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_reference_folder_that_lost_a_file_is_refused(lost, copied, tmp_path):
    (copied / lost).unlink()
    with pytest.raises(UserError, match=f"{lost} does not exist"):
        convert(copied, tmp_path / "ours")
    with pytest.raises(UserError, match=f"{lost} does not exist"):  # nor does it load as a model without LoRA
        load_model(at_level(experiments.EXPERIMENTS["tiny"], 4), copied, "cpu", torch.float32)


def test_a_run_that_lost_its_adapter_is_refused(runs, tmp_path):
    run = Path(shutil.copytree(runs / "tuned", tmp_path / "run"))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (run / file).unlink()
    with pytest.raises(UserError, match="has no LoRA adapter and the streams image, video"):
        convert(run, tmp_path / "theirs")


def test_a_projector_file_of_both_streams_is_no_pre_training(runs, tmp_path):
    state = load_file(runs / "tuned/projectors.safetensors")
    torch.save({f"model.{key}": value for key, value in state.items()}, tmp_path / "mm_projector.bin")
    with pytest.raises(UserError, match="holds projectors of image and video: a pre-training writes that of one"):
        convert(tmp_path / "mm_projector.bin", tmp_path / "ours", "tiny")


def test_what_the_reference_cannot_compute_is_not_written(runs, tmp_path):
    run = Path(shutil.copytree(runs / "tuned", tmp_path / "run"))
    changed(run, "experiment.json", reducer={"name": "max", "level": 2.0})
    with pytest.raises(UserError, match="reduces by 'max', the reference by 'average' alone"):
        convert(run, tmp_path / "theirs")
    changed(run, "experiment.json", reducer={"name": "average", "level": 2.0})
    changed(run, "adapter_config.json", use_qalora=True)
    with pytest.raises(UserError, match="uses use_qalora, which the reference's peft does not know"):
        convert(run, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": "4"}, "must have numbers for r"),
        ({"lora_alpha": None}, "must have numbers for r"),
    ],
)
def test_numbers_of_lora_must_be_numbers(values, said, copied, tmp_path):
    with pytest.raises(UserError, match=said):
        convert(changed(copied, "adapter_config.json", **values), tmp_path / "ours")


class Wicked:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


@pytest.mark.parametrize("file", ["non_lora_trainables.bin", "adapter_model.bin"])
def test_a_source_that_would_run_code_is_refused_and_does_not_run(file, copied, tmp_path):
    if file == "adapter_model.bin":
        (copied / "adapter_model.safetensors").unlink()
    torch.save({"weight": Wicked(tmp_path / "ran")}, copied / file)
    with pytest.raises(UserError, match=f"{file}: it is a pickle that wants to run posix.mkdir, which was refused"):
        convert(copied, tmp_path / "ours")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copied"]


def test_a_recorded_checkpoint_of_the_reference_converts_and_gives_its_logits(tmp_path, monkeypatch):
    from parity.models import pixels, write_parts

    mini = replace(
        write_parts(GOLDEN / "weights_mini", GOLDEN / "tokenizer", tmp_path, all_rows=False),
        name="mini",
        source=experiments.TOY.source,
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "mini", mini)
    convert(GOLDEN / "lora_ckpt", tmp_path / "ours")
    converted = load_experiment(tmp_path / "ours")
    assert (converted.name, converted.level, converted.lora.r) == ("mini_pool2", 2, 4)
    assert largest_difference(GOLDEN / "lora_ckpt", tmp_path / "ours", "ours") == 0
    assert json.loads((GOLDEN / "lora_ckpt/adapter_config.json").read_text()).keys() == set(LORA_KEYS)
    meta = json.loads((GOLDEN / "lora/meta.json").read_text())
    recorded = read_tensors(GOLDEN / "lora/tensors.safetensors")
    ids, shown = recorded["input_ids"], Visual(pixels(meta["frames"][0]), meta["frames"][0]["n"])
    for level in meta["pools"]:
        model = load_model(
            with_settings(converted, {"reducer.level": float(level)}), tmp_path / "ours", "cpu", torch.float32
        )
        with torch.inference_mode():
            logits = model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [[shown]]).logits
        flat = logits[..., : len(model.tokenizer)].flatten()
        probe = torch.from_numpy(np.random.RandomState(0).randint(0, flat.numel(), 256))
        assert (flat[:64] - recorded[f"p{level}.logits.first64"]).abs().max() < 2e-5
        assert (flat[probe] - recorded[f"p{level}.logits.probe256"]).abs().max() < 2e-5
