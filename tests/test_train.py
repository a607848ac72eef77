"""Both stages: what trains, in which order, what is written, and that a killed training ends as a straight one."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fork_server
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from train_worker import QUESTIONS, Job, tiny_data, tiny_training

from videogpt_plus.config.experiment import Experiment, with_settings
from videogpt_plus.config.training import Training
from videogpt_plus.io.runs import FINISHED, alone_in
from videogpt_plus.models.loading import load_model
from videogpt_plus.reducers.max import Max
from videogpt_plus.training import stages
from videogpt_plus.training.plan import training_steps
from videogpt_plus.training.processes import in_one_line, left_alone
from videogpt_plus.training.zero import check_deepspeed, filled, keep_frozen_apart
from videogpt_plus.types import UserError

WORKER = Path(__file__).with_name("train_worker.py")
#: Stage and moment of death; a pre-training ends with the file that a fine-tuning, too, writes last.
DEATHS = [
    ("pretrain", "running"),
    ("pretrain", "saving"),
    ("finetune", "running"),
    ("finetune", "saving"),
    ("finetune", "marking"),
    ("finetune", "finishing"),
]


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory):
    with tiny_data(tmp_path_factory.mktemp("samples")) as root:
        yield root


@pytest.fixture(scope="module")
def experiment(tiny_experiment) -> Experiment:
    return tiny_training(tiny_experiment)


@pytest.fixture(scope="module")
def straight(experiment, tmp_path_factory) -> dict[str, Path]:
    """Folders of trainings that nobody disturbed: projectors "image" and "video", and "finetune" from them."""
    root = tmp_path_factory.mktemp("straight")
    for stream in ("image", "video"):
        stages.pretrain(experiment, stream, root / stream)
    stages.finetune(experiment, {s: root / s for s in ("image", "video")}, root / "finetune")
    return {name: root / name for name in ("image", "video", "finetune")}


def starts(straight) -> dict[str, Path]:
    return {stream: straight[stream] for stream in ("image", "video")}


def log_of(folder: Path) -> list[dict]:
    """The lines but for their seconds, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def files_of(folder: Path) -> dict[str, bytes]:
    """What must be the same to the byte: weights, their configs, the optimizer's, schedule's and random state."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "log.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def killed(experiment, straight, samples, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """A training killed by each of DEATHS, with the arguments to go on with."""
    root = tmp_path_factory.mktemp("killed")
    trainings = {}
    for stage, dies in DEATHS:
        given = {"stream_name": "image"} if stage == "pretrain" else {"projectors": starts(straight)}
        trainings[stage, dies] = {"experiment": experiment, "out_dir": root / f"{stage}_{dies}", **given}
    jobs = [Job(stage, arguments, samples, dies) for (stage, dies), arguments in trainings.items()]
    (root / "jobs").write_bytes(pickle.dumps(jobs))
    fork_server.run([sys.executable, WORKER, root / "jobs"], check=True, timeout=300)
    return trainings


@pytest.mark.parametrize(("stage", "dies"), DEATHS)
def test_killed_training_ends_as_a_straight_one(stage, dies, killed, straight):
    arguments, expected = killed[stage, dies], straight["image" if stage == "pretrain" else stage]
    folder = arguments["out_dir"]
    assert not (folder / "projectors.safetensors").exists()
    getattr(stages, stage)(**arguments)
    assert log_of(folder) == log_of(expected)
    found, wanted = files_of(folder), files_of(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_only_steps_after_a_complete_checkpoint_are_repeated(killed, straight, tmp_path):
    arguments = killed["finetune", "marking"]
    folder = tmp_path / "copy"
    shutil.copytree(straight["finetune"], folder)
    (folder / "projectors.safetensors").unlink()
    steps = []
    stages.finetune(**{**arguments, "out_dir": folder}, progress=lambda *step: steps.append(step))
    assert steps == []  # checkpoint-6 is complete
    (folder / "projectors.safetensors").unlink()
    (folder / "checkpoint-6" / "COMPLETE").unlink()
    stages.finetune(**{**arguments, "out_dir": folder}, progress=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(5, 6), (6, 6)]  # checkpoint-4 is kept, too


def test_finished_folder_is_left_as_it_is(experiment, straight, monkeypatch):
    monkeypatch.setattr(stages, "load_model", None)
    stages.pretrain(experiment, "image", straight["image"])
    stages.finetune(experiment, starts(straight), straight["finetune"])


def test_two_trainings_do_not_fill_one_folder(experiment, straight, tmp_path, monkeypatch):
    monkeypatch.setattr("videogpt_plus.io.runs.PATIENCE", 0)
    shutil.copytree(straight["image"], tmp_path / "image")
    (tmp_path / "image" / FINISHED).unlink()
    files = sorted(tmp_path.rglob("*"))
    with (
        alone_in(tmp_path / "image"),
        pytest.raises(UserError, match="image is being filled by another process, .*killed launcher") as told,
    ):
        stages.pretrain(experiment, "image", tmp_path / "image")
    assert "\n" not in str(told.value) and sorted(tmp_path.rglob("*")) == files
    stages.pretrain(experiment, "image", tmp_path / "image")
    assert (tmp_path / "image" / FINISHED).read_bytes() == (straight["image"] / FINISHED).read_bytes()


def test_a_training_that_waited_for_the_other_finds_its_weights(experiment, straight, tmp_path, monkeypatch):
    shutil.copytree(straight["image"], tmp_path / "image")
    whole = (tmp_path / "image" / FINISHED).rename(tmp_path / FINISHED)
    monkeypatch.setattr(stages, "load_model", None)
    with ThreadPoolExecutor(1) as other, alone_in(tmp_path / "image"):
        waiting = other.submit(stages.pretrain, experiment, "image", tmp_path / "image")
        time.sleep(0.5)
        assert not waiting.done()
        whole.rename(tmp_path / "image" / FINISHED)
    waiting.result()


def test_a_lost_connection_is_one_line_and_other_errors_stay(monkeypatch):
    monkeypatch.setattr("videogpt_plus.training.processes.PATIENCE", 0)
    lost = pytest.raises(UserError, match="process 0 lost the others: .*run the same command again")
    with lost as told, left_alone():
        raise RuntimeError("[third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    assert "\n" not in str(told.value)
    with pytest.raises(RuntimeError, match="shapes"), left_alone():
        raise RuntimeError("shapes")


def test_a_killed_data_worker_is_one_line():
    class Killed(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> int:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match="a process that reads training data was ended") as told, in_one_line():
        list(DataLoader(Killed(), num_workers=1))
    assert "\n" not in str(told.value)


def test_folder_of_another_experiment_is_refused(experiment, straight):
    with pytest.raises(UserError, match=r"holds another experiment \(reducer.level: 4 there, 2 now\)"):
        stages.finetune(with_settings(experiment, {"reducer.level": 2}), starts(straight), straight["finetune"])


def test_levels_and_adapters_share_their_projectors(experiment):
    other = with_settings(experiment, {"name": "other", "reducer": Max(2), "source.lora.r": 2})
    assert stages.pretraining_experiment(other, "image") == stages.pretraining_experiment(experiment, "image")


def test_missing_start_is_refused(experiment, straight, tmp_path):
    with pytest.raises(UserError, match="no pre-trained projector for stream 'video'"):
        stages.finetune(experiment, {"image": straight["image"]}, tmp_path / "out")
    with pytest.raises(UserError, match="no projectors in"):
        stages.finetune(experiment, {**starts(straight), "video": tmp_path}, tmp_path / "out")


def test_start_of_another_llm_is_refused(experiment, straight, tmp_path):
    with pytest.raises(UserError, match="trained for another model .llm: "):
        stages.finetune(replace(experiment, llm="elsewhere"), starts(straight), tmp_path / "out")


def test_resuming_from_another_start_is_refused(experiment, straight, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(straight["finetune"], folder)
    (folder / "projectors.safetensors").unlink()
    with pytest.raises(UserError, match="began otherwise .start: "):
        stages.finetune(
            replace(experiment), {"image": other_start(straight, tmp_path), "video": straight["video"]}, folder
        )


def other_start(straight, tmp_path) -> Path:
    from videogpt_plus.io.tensors import save_tensors

    folder = tmp_path / "other"
    tensors = load_file(straight["image"] / "projectors.safetensors")
    save_tensors(folder / "projectors.safetensors", {key: value + 1 for key, value in tensors.items()})
    return folder


def test_log_begins_with_what_trains(straight):
    pretraining, finetuning = log_of(straight["image"])[0], log_of(straight["finetune"])[0]
    assert set(pretraining["trains"]) == {f"projectors.image.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")}
    assert set(pretraining["frozen"]) == {"llm", "encoders.image"}
    assert all("lora_" in name or name.startswith("projectors.") for name in finetuning["trains"])
    assert sum("lora_" in name for name in finetuning["trains"]) == 2 * 7 * 2  # layers, targets, A and B
    assert set(finetuning["frozen"]) == {"llm", "encoders.image", "encoders.video"}


def test_run_folder_loads_as_it_was_trained(experiment, straight):
    model = load_model(experiment, straight["finetune"], "cpu", torch.float32)
    saved = load_file(straight["finetune"] / "checkpoint-6" / "trainable.safetensors")
    for name, parameter in model.projectors.named_parameters():
        assert torch.equal(parameter, saved[f"projectors.{name}"])
    plain = load_model(experiment, None, "cpu", torch.float32)
    key = "model.layers.0.mlp.up_proj"
    a, b = (saved[f"llm.base_model.model.{key}.lora_{x}.default.weight"] for x in "AB")
    merged = plain.llm.get_parameter(f"{key}.weight") + experiment.lora.alpha / experiment.lora.r * b @ a
    torch.testing.assert_close(model.llm.get_parameter(f"{key}.weight"), merged)


def test_projectors_have_their_own_learning_rate(tiny_experiment, straight, tmp_path):
    still = tiny_training(tiny_experiment, projector_learning_rate=0.0, max_steps=2)
    stages.finetune(still, starts(straight), tmp_path)
    before = load_file(straight["image"] / "projectors.safetensors") | load_file(
        straight["video"] / "projectors.safetensors"
    )
    after = load_file(tmp_path / "projectors.safetensors")
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    assert any(value.any() for key, value in adapter.items() if "lora_B" in key)  # begins at zero


def test_step_is_the_mean_of_its_passes(tiny_experiment, tmp_path):
    def losses(accumulation: int) -> list[float]:
        changes = {"gradient_accumulation_steps": accumulation, "learning_rate": 0.0, "num_train_epochs": 1}
        folder = tmp_path / str(accumulation)
        stages.pretrain(tiny_training(tiny_experiment, **changes), "image", folder)
        return [line["loss"] for line in log_of(folder)[1:]]

    one, four = losses(1), losses(4)
    assert len(one) == 4 and len(four) == 1
    assert four[0] == pytest.approx(sum(one) / 4, rel=1e-6)


def test_two_processes_train_as_one_that_accumulates(tiny_experiment, straight, samples, tmp_path):
    """Also where one of them has no visual in its batch."""
    alone = tiny_training(tiny_experiment, max_steps=4)
    alone = with_settings(alone, {"source.lora": replace(alone.lora, dropout=0.0)})
    stages.finetune(alone, starts(straight), tmp_path / "alone")
    arguments = {"experiment": alone, "projectors": starts(straight), "out_dir": tmp_path / "both"}
    (tmp_path / "jobs").write_bytes(pickle.dumps([Job("finetune", arguments, samples, "never")]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, WORKER, tmp_path / "jobs"], check=True, timeout=300)
    for one, two in zip(log_of(tmp_path / "alone")[1:], log_of(tmp_path / "both")[1:], strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_towers_beside_the_model_change_no_loss(experiment):
    """What DeepSpeed gets to see holds no encoder, and computes the same."""
    from videogpt_plus.training import data

    model = load_model(experiment, None, "cpu", torch.float32)
    dataset = data.Conversations(experiment, model.tokenizer, "unused")
    batch = data.collate([dataset[0], dataset[1]], pad_id=0)
    before = model(**batch).loss
    keep_frozen_apart(model, torch.device("cpu"), 2)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"llm", "projectors"}
    assert torch.equal(model(**batch).loss, before)


def test_data_workers_change_nothing(experiment, straight, tmp_path):
    stages.pretrain(experiment, "image", tmp_path, workers=2)
    assert log_of(tmp_path) == log_of(straight["image"])


def test_gradient_checkpointing_changes_no_loss(tiny_experiment, straight, tmp_path):
    changed = tiny_training(tiny_experiment, gradient_checkpointing=True, max_steps=2)
    stages.finetune(changed, starts(straight), tmp_path)
    assert log_of(tmp_path)[1]["loss"] == log_of(straight["finetune"])[1]["loss"]


def test_bf16_keeps_what_trains_in_float32(tiny_experiment, tmp_path):
    stages.pretrain(tiny_training(tiny_experiment, bf16=True, max_steps=1), "video", tmp_path)
    assert {v.dtype for v in load_file(tmp_path / "projectors.safetensors").values()} == {torch.float32}


def test_lost_loss_names_the_step_and_keeps_the_last_checkpoint(tiny_experiment, tmp_path):
    wild = tiny_training(tiny_experiment, learning_rate=1e18, save_steps=1, warmup_ratio=0.0)
    with pytest.raises(UserError, match=r"loss is nan at step 2.*lower the learning rate"):
        stages.pretrain(wild, "image", tmp_path)
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (tmp_path / "projectors.safetensors").exists()


@pytest.mark.parametrize("limit", [100, 10_000, 40_000])
def test_full_disk_is_one_line(limit, experiment, tmp_path):
    """A limit on the size of files stands for a full disk: for experiment.json, for a checkpoint's files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*test_full_disk"):
            stages.pretrain(experiment, "image", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_impossible_folder_is_one_line(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        stages.pretrain(experiment, "image", tmp_path / "file" / "out")


def test_unknown_stream_is_named(experiment, tmp_path):
    with pytest.raises(UserError, match="unknown stream 'audio'; choose from: image, video"):
        stages.pretrain(experiment, "audio", tmp_path)


def passes_of(training: Training, processes: int) -> list[list[int]]:
    """Every forward pass on ten samples."""
    ten = type("Sized", (SimpleNamespace,), {"__len__": lambda self: 10})()
    return [one for step in training_steps(ten, training, processes) for one in step.passes]


@pytest.mark.parametrize(
    ("changes", "processes", "passes"),
    [
        ({}, 1, 3),  # 10 samples by 4
        ({"num_train_epochs": 2.5}, 1, 8),
        ({"num_train_epochs": 2.5, "max_steps": 2, "gradient_accumulation_steps": 3}, 1, 6),
        ({"gradient_accumulation_steps": 2}, 2, 4),  # every process makes as many passes
    ],
)
def test_passes_of_a_training(changes, processes, passes):
    training = Training(data="TINY", per_device_train_batch_size=4, **changes)
    batches = passes_of(training, processes)
    assert len(batches) == passes
    assert sorted(i for batch in batches[:3] for i in batch) == list(range(10))
    assert batches == passes_of(training, processes)
    assert batches != passes_of(replace(training, seed=1), processes)


def test_epochs_have_orders_of_their_own():
    training = Training(data="TINY", per_device_train_batch_size=10, num_train_epochs=2)
    first, second = passes_of(training, 1)
    assert sorted(first) == sorted(second) and first != second


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}, "its 'optimizer' would replace"),
        ({"scheduler": {"type": "WarmupLR"}}, "its 'scheduler' would replace"),
        (None, "zero.json is not JSON"),
    ],
)
def test_deepspeed_json_that_would_train_otherwise_is_refused(config, message, tmp_path, monkeypatch):
    monkeypatch.setattr("videogpt_plus.training.zero.find_spec", lambda name: True)
    path = tmp_path / "zero.json"
    path.write_text("{" if config is None else json.dumps(config))
    with pytest.raises(UserError, match=message):
        check_deepspeed(str(path))


def test_what_a_deepspeed_json_leaves_out_or_calls_auto_is_the_experiments(tmp_path):
    path = tmp_path / "zero.json"
    stated = {"gradient_clipping": "auto", "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}}
    path.write_text(json.dumps(stated))
    update = stages.update_of(replace(QUESTIONS, bf16=True, max_grad_norm=0.5), 2)
    found = filled(str(path), update, samples=2, processes=2, width=64)
    batches = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    assert [found[name] for name in batches] == [2, 1, 4]
    assert found["gradient_clipping"] == 0.5
    assert found["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 4096}  # DeepSpeed's own are left to it
    assert found["bf16"]["enabled"] and not found["fp16"]["enabled"]
    path.write_text(json.dumps({**stated, "train_batch_size": 8}))
    with pytest.raises(UserError, match='train_batch_size is 8 there and 4 here; write "auto" there'):
        filled(str(path), update, samples=2, processes=2, width=64)
