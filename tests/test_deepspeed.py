"""Several processes train as one does: by DDP, ZeRO-2 and ZeRO-3, on CPUs over gloo, through the command line.

The single process in whose losses all must end computes without DeepSpeed; two of every eight samples are text alone.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import fork_server
import pytest
import torch
from conftest import make_tiny_experiment
from outside_reducer import Latents
from safetensors.torch import load_file
from train_worker import tiny_mixtures, tiny_training, write_samples

from videogpt_plus import reducers
from videogpt_plus.app.sweep import jobs
from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Experiment, with_settings
from videogpt_plus.config.experiments import at_level
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import data, stages
from videogpt_plus.training.plan import epoch_order, share_of
from videogpt_plus.training.zero import check_deepspeed, filled, keep_frozen_apart, safe_pickles
from videogpt_plus.types import UserError

WORKER = Path(__file__).with_name("deepspeed_worker.py")
SCRIPTS = Path(__file__).parent.parent / "scripts"
ZERO2, ZERO3, OFFLOAD = (SCRIPTS / f"{name}.json" for name in ("zero2", "zero3", "zero3_offload"))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
#: Largest difference of a trained weight, of at most 0.2, after six steps of at most 1e-3; they were 5e-8.
WEIGHTS = 1e-6
STREAMS = ("image", "video")

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[train]'"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The tiny parts, samples and experiments that the worker reads; trained in one process in `plain`."""
    root = tmp_path_factory.mktemp("deepspeed")
    six_steps = tiny_training(make_tiny_experiment(root))
    six_steps = with_settings(six_steps, {"source.lora": replace(six_steps.lora, dropout=0.0)})
    experiments = {
        "tiny": six_steps,
        "once": with_settings(six_steps, {"source.finetune": replace(six_steps.training, num_train_epochs=1)}),
        "latents": replace(six_steps, reducer=Latents(latents=10)),
        "bf16": with_settings(six_steps, {"source.finetune": replace(six_steps.training, bf16=True)}),
    }
    write_samples(root)
    (root / "experiments.pickle").write_bytes(pickle.dumps(experiments))
    return root


@pytest.fixture(scope="module")
def tiny(root) -> Experiment:
    return at_level(pickle.loads((root / "experiments.pickle").read_bytes())["tiny"], 4)


@pytest.fixture(scope="module")
def plain(root, tiny) -> dict[str, Path]:
    """Folders of trainings in one process, without DeepSpeed."""
    folders = {name: root / "plain" / name for name in (*STREAMS, "finetune")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, files in tiny_mixtures(root).items():
            patch.setitem(mixtures.MIXTURES, name, files)
        for stream in STREAMS:
            stages.pretrain(tiny, stream, folders[stream])
        stages.finetune(tiny, {stream: folders[stream] for stream in STREAMS}, folders["finetune"])
    torch.set_num_threads(threads)
    return folders


def call(*command: object, launcher: tuple[str, ...] = TORCHRUN, code: int = 0) -> str:
    """What the worker's command said on both channels. It has to end with this exit code."""
    ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    processes = subprocess if launcher == TORCHRUN else fork_server
    done = processes.run(
        [*launcher, WORKER, *map(str, command)],
        env={**ours, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def finetuning(root: Path, plain: dict[str, Path], out: Path, zero: Path | None, experiment: str = "tiny") -> list:
    """A command of the worker, without trouble."""
    command = [root, "train", f"{experiment}_pool4", "--projectors", *(f"{s}={plain[s]}" for s in STREAMS)]
    return [*command, "--output_dir", out, *(["--deepspeed", zero] if zero else [])]


def steps_of(folder: Path) -> list[dict]:
    _, *steps = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in step.items() if key != "seconds"} for step in steps]


def assert_same_training(folder: Path, expected: Path) -> None:
    """Losses, rates and gradient norms at every step, and the weights."""
    found, wanted = steps_of(folder), steps_of(expected)
    assert [step["step"] for step in found] == [step["step"] for step in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    files = [path.name for path in expected.glob("*.safetensors")]
    assert files
    for name in files:
        one, other = load_file(folder / name), load_file(expected / name)
        assert one.keys() == other.keys()
        torch.testing.assert_close(one, other, rtol=0, atol=WEIGHTS)


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


# -------------------------------------------------------------------------------------------- the same training
@needs_deepspeed
def test_two_processes_pretrain_with_zero_2_as_one_does(root, plain, tmp_path):
    out = tmp_path / "image"
    said = call(root, "pretrain", "tiny", "image", "--output_dir", out, "--deepspeed", ZERO2)
    assert_same_training(out, plain["image"])
    assert said.count(str(out)) == 1  # one process speaks
    assert said.count("6/6") == 1


@needs_deepspeed
def test_zero_2_goes_on_as_one_process_would_after_one_of_two_failed(root, plain, tmp_path):
    command = finetuning(root, plain, tmp_path / "run[1]", ZERO2)
    said = call(command[0], "--fails", *command[1:], code=1)
    assert errors(said) == ["error: the second process is out of luck"]
    assert not (tmp_path / "run[1]" / "projectors.safetensors").exists()
    assert (tmp_path / "run[1]" / "checkpoint-2" / "COMPLETE").exists()
    said = call(*command)
    assert "2/6" not in said and "3/6" in said
    assert_same_training(tmp_path / "run[1]", plain["finetune"])


@pytest.fixture(scope="module")
def zero3(root, plain) -> Path:
    """A run folder of two processes with ZeRO-3, killed with kill -9 before its second checkpoint was complete."""
    out = root / "zero3"
    command = finetuning(root, plain, out, ZERO3)
    call(command[0], "--dies", *command[1:], code=1)
    assert (out / "checkpoint-2" / "COMPLETE").exists() and not (out / "checkpoint-4" / "COMPLETE").exists()
    said = call(*command)
    assert "2/6" not in said and "3/6" in said
    return out


@needs_deepspeed
def test_killed_zero_3_ends_as_one_process_does(zero3, plain):
    assert_same_training(zero3, plain["finetune"])


@needs_deepspeed
def test_weights_of_zero_3_load_whole(zero3, plain, tiny):
    """None of the empty shards that ZeRO-3 leaves in a model."""
    ours, plain_one = (load_model(tiny, run, "cpu", torch.float32) for run in (zero3, plain["finetune"]))
    base = load_model(tiny, None, "cpu", torch.float32)
    torch.testing.assert_close(ours.state_dict(), plain_one.state_dict(), rtol=0, atol=1e-5)
    changed = "llm.model.layers.1.mlp.down_proj.weight"
    assert not torch.allclose(ours.state_dict()[changed], base.state_dict()[changed], rtol=0, atol=1e-4)


@needs_deepspeed
def test_checkpoints_leave_out_what_is_frozen(zero3):
    """At full size the LLM would be written every time."""
    (states,) = zero3.glob("checkpoint-6/global_step6/zero_pp_rank_0_mp_rank_00_model_states.pt")
    module = torch.load(states, weights_only=True)["module"]
    module.pop("llm.base_model.model.lm_head.weight")  # the tied head: a stand-in without values
    assert module and all("lora_" in name or name.startswith("projectors.") for name in module)


@needs_deepspeed
def test_zero_3_in_bf16_saves_what_the_optimizer_steps(root, plain, tmp_path):
    """The model holds rounded copies, of which a small step would be lost. And it ends with exit code 0."""
    call(*finetuning(root, plain, tmp_path / "run", ZERO3, "bf16"))
    for name in ("adapter_model.safetensors", "projectors.safetensors"):
        for key, tensor in load_file(tmp_path / "run" / name).items():
            assert tensor.dtype == torch.float32 and not torch.equal(tensor, tensor.bfloat16().float()), key
    for one, other in zip(steps_of(tmp_path / "run"), steps_of(plain["finetune"]), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)  # bf16 has three digits


@needs_deepspeed
def test_a_users_own_reducer_learns_as_in_one_process(root, plain, tmp_path, monkeypatch):
    """Two of every eight samples are text alone, so that processes have other numbers of visuals to reduce."""
    monkeypatch.setattr(reducers, "REDUCERS", dict(reducers.REDUCERS))
    reducers.register("latents", Latents)
    for name, files in tiny_mixtures(root).items():
        monkeypatch.setitem(mixtures.MIXTURES, name, files)
    own = at_level(pickle.loads((root / "experiments.pickle").read_bytes())["latents"], 4)
    stages.finetune(own, {stream: plain[stream] for stream in STREAMS}, tmp_path / "alone")
    call(*finetuning(root, plain, tmp_path / "both", ZERO2, "latents"))
    assert "mm_adapter.latent" in load_file(tmp_path / "both" / "projectors.safetensors")
    assert_same_training(tmp_path / "both", tmp_path / "alone")
    with pytest.raises(UserError, match="ZeRO-3 stops: take a ZeRO-2 json"):
        keep_frozen_apart(load_model(own, None, "cpu", torch.float32).requires_grad_(True), torch.device("cpu"), 3)


@needs_deepspeed
def test_one_process_needs_no_torchrun_and_offloads(root, plain, tmp_path):
    """With AdamW of torch in place of DeepSpeed's for CPUs, which takes minutes to compile."""
    config = {**json.loads(OFFLOAD.read_text()), "zero_force_ds_cpu_optimizer": False}
    (tmp_path / "offload.json").write_text(json.dumps(config))
    call(*finetuning(root, plain, tmp_path / "run", tmp_path / "offload.json"), launcher=(sys.executable,))
    assert_same_training(tmp_path / "run", plain["finetune"])


def test_ddp_trains_as_one_process_and_gathers_what_each_replaced(root, plain, tmp_path, monkeypatch):
    for file in root.iterdir():
        if file.suffix in (".png", ".json", ".pickle"):
            shutil.copy(file, tmp_path)
    once = at_level(pickle.loads((root / "experiments.pickle").read_bytes())["once"], 4)
    for name, files in tiny_mixtures(tmp_path).items():
        monkeypatch.setitem(mixtures.MIXTURES, name, files)
    of_the_second = epoch_order(8, once.seed, 0)[2:4]
    bad = next(sample for sample in of_the_second if sample % 4)  # the others have no picture
    (tmp_path / f"{bad}.png").write_bytes(b"no picture")
    stages.finetune(once, {stream: plain[stream] for stream in STREAMS}, tmp_path / "alone")
    said = call(*finetuning(tmp_path, plain, tmp_path / "both", None, "once"))
    assert_same_training(tmp_path / "both", tmp_path / "alone")
    alone, both = (data.read_substitutions(tmp_path / run / "substituted.jsonl") for run in ("alone", "both"))
    assert both == alone and [line["sample"] for line in both] == [bad]
    assert said.count("1 unreadable samples were replaced") == 1


# ------------------------------------------------------------------------------------------------ what is refused
def test_what_every_process_finds_wrong_is_said_once(root, plain, tmp_path):
    missing = {**plain, "video": tmp_path / "nowhere"}
    said = call(*finetuning(root, missing, tmp_path / "run", None), code=1)
    assert len(errors(said)) == 1 and "nowhere" in errors(said)[0]


@needs_deepspeed
def test_processes_are_checked_against_those_of_the_checkpoint(root, plain, zero3, tmp_path):
    """Also whether its state is DeepSpeed's: another one would resume without the optimizer's in silence."""
    shutil.copytree(zero3, tmp_path / "run")
    (tmp_path / "run" / "projectors.safetensors").unlink()
    said = call(*finetuning(root, plain, tmp_path / "run", None), launcher=(sys.executable,), code=2)
    assert "processes: 2 there, 1 now; zero_stage: 3 there, None now" in said


@needs_deepspeed
@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_published_jsons_pass_unchanged(name, monkeypatch):
    """Filled in, and read by DeepSpeed, for the real size of a 1.5B model."""
    from deepspeed.runtime.config import DeepSpeedConfig

    from videogpt_plus.config.experiments import QWEN_1_5B

    monkeypatch.setattr("videogpt_plus.training.zero.shutil.which", lambda name: f"/usr/bin/{name}")
    path = str(SCRIPTS / f"{name}.json")
    check_deepspeed(path)
    training = QWEN_1_5B.training
    read = DeepSpeedConfig(filled(path, stages.update_of(training, 1), share_of(training, 1).samples, 1, 1536))
    assert read.zero_config.stage == (2 if name == "zero2" else 3)
    assert (read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (4, 64)
    assert read.gradient_clipping == 1.0
    assert read.zero_config.reduce_bucket_size == 1536**2
    assert read.bfloat16_config.enabled and not read.float16_config.enabled


def test_missing_deepspeed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("videogpt_plus.training.zero.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'videogpt_plus\[train\]'"):
        check_deepspeed(str(ZERO2))


def test_offloading_without_a_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setattr("videogpt_plus.training.zero.find_spec", lambda name: True)
    monkeypatch.setattr("videogpt_plus.training.zero.shutil.which", lambda name: None)
    with pytest.raises(UserError, match="install g\\+\\+, or take scripts/zero3.json"):
        check_deepspeed(str(OFFLOAD))
    check_deepspeed(str(ZERO3))


@needs_deepspeed
def test_json_against_the_experiment_is_one_line(root, plain, tmp_path):
    config = {**json.loads(ZERO2.read_text()), "gradient_clipping": 0.5}
    (tmp_path / "zero.json").write_text(json.dumps(config))
    said = call(*finetuning(root, plain, tmp_path / "run", tmp_path / "zero.json"), launcher=(sys.executable,), code=2)
    assert len(errors(said)) == 1 and "gradient_clipping is 0.5 there and 1.0 here" in errors(said)[0]


class Evil:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, ("owned",)


@needs_deepspeed
def test_a_checkpoint_of_deepspeeds_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"optimizer": Evil()}, "states.pt")
    with pytest.raises(UserError, match="cannot read the checkpoint run: "), safe_pickles("run"):
        torch.load("states.pt", weights_only=False)  # as DeepSpeed calls it
    assert not Path("owned").exists()
    torch.load("states.pt", weights_only=False)
    assert Path("owned").exists()  # what it would have done


@pytest.mark.parametrize("launcher", ["true", "false"])
def test_a_launched_training_is_judged_by_its_result(launcher, tmp_path):
    """Exit code 0 without the file that it writes last is an error; a whole file is none, whatever the code."""
    with pytest.raises(UserError, match=r"exit code [01] and no .*projectors.safetensors after: "):
        jobs.launch(launcher, ["train", "toy_pool4"], tmp_path)
    (tmp_path / "projectors.safetensors").write_bytes(b"")
    assert jobs.launch(launcher, ["train", "toy_pool4"], tmp_path) == (launcher == "false")


def test_missing_launcher_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot start the launcher 'torchwalk --fast'"):
        jobs.launch("torchwalk --fast", ["train"], tmp_path)
