"""The scripts under the reference's names: what they run, told by stand-ins that record how they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import pytest
import tyro

from videogpt_plus.app import cli
from videogpt_plus.config.experiments import get_experiment

ROOT = Path(__file__).parent.parent
LEVELS = (1, 2, 4, 8, 16)
IMAGE, VIDEO = "results/pretrain/mlp2x_gelu_clip_l14_336px", "results/pretrain/mlp2x_gelu_internvideo2"
#: Script -> (experiment, stream, output folder).
PRETRAIN = {
    "pretrain_projector_image_encoder.sh": ("qwen1_5b", "image", IMAGE),
    "pretrain_projector_video_encoder.sh": ("qwen1_5b", "video", VIDEO),
}
#: Script -> (experiment, output folder, folders of its projectors).
FINETUNE = {
    f"pool_full/finetune_poolbranch_1b_full_pool{p}.sh": (
        f"qwen1_5b_pool{p}",
        f"results/pool_full/finetune_qwen1b_poolbranch_pool{p}",
        (IMAGE, VIDEO),
    )
    for p in LEVELS
} | {
    "pool_full/finetune_poolbranch_3b_full_pool4.sh": (
        "qwen3b_pool4",
        "results/pool_full/finetune_qwen3b_poolbranch_pool4",
        (f"{IMAGE}_qwen3b", f"{VIDEO}_qwen3b"),
    )
}
#: Script -> name of the run's folder and of its answers'.
EVALUATE = {
    f"eval_pool_full/eval_sub_baseline_qwen1_5b_pool{p}.sh": f"finetune_qwen1b_poolbranch_pool{p}" for p in LEVELS
} | {"eval_pool_full/eval_sub_baseline_qwen3b_pool4.sh": "finetune_qwen3b_poolbranch_pool4"}
SCRIPTS = [*PRETRAIN, *FINETUNE, *EVALUATE]


@dataclass
class Call:
    """One program that a script ran."""

    gpus: str
    folder: str
    argv: list[str]

    @property
    def command(self) -> list[str]:
        """The arguments of videogpt-plus."""
        return self.argv[1:] if self.argv[0] == "videogpt-plus" else self.argv[self.argv.index("videogpt_plus") + 1 :]


class Place:
    """A copy of scripts/, run from elsewhere with stand-ins on the PATH."""

    def __init__(self, root: Path):
        self.repository, self.bin, self.calls = root / "repository", root / "bin", root / "calls"
        shutil.copytree(ROOT / "scripts", self.repository / "scripts")
        self.bin.mkdir()
        for name in ("torchrun", "videogpt-plus"):
            told = f"""#!/bin/bash\nprintf '%s\\n' "$CUDA_VISIBLE_DEVICES" "$PWD" {name} "$@" -- >> "$CALLS"\n"""
            (self.bin / name).write_text(told)
            (self.bin / name).chmod(0o755)
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir()

    def run(self, script: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
        env = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self.calls)} | environment
        path = self.repository / "scripts" / script
        return subprocess.run([path, *args], cwd=self.elsewhere, env=env, capture_output=True, text=True)

    def recorded(self) -> list[Call]:
        text = self.calls.read_text() if self.calls.exists() else ""
        calls = [call.splitlines() for call in text.split("--\n") if call]
        return [Call(gpus, folder, argv) for gpus, folder, *argv in calls]


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def parsed(command: list[str]) -> None:
    """Refuses what the real command line would; runs nothing."""
    stand_ins = {name: _taking_the_arguments_of(function) for name, function in cli.COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(stand_ins, args=command)


def _taking_the_arguments_of(command: Callable[..., None]) -> Callable[..., None]:
    return wraps(command)(lambda *_, **__: None)


def test_commands_are_parsed_by_the_real_command_line():
    with pytest.raises(SystemExit):
        parsed(["train", "qwen1_5b_pool2", "--projectors", "image=a", "--nonsense", "1"])


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_bash_reads_it(script):
    done = subprocess.run(["bash", "-n", ROOT / "scripts" / script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_script_is_known_here_and_can_be_run():
    there = {p.relative_to(ROOT / "scripts").as_posix() for p in (ROOT / "scripts").rglob("*.sh")}
    assert there == {*SCRIPTS, "common.sh"}
    assert all(os.access(ROOT / "scripts" / script, os.X_OK) for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("gpus", [(), ("",), ("0 1",), ("--help",), ("0,",)])
def test_without_a_list_of_gpus_one_line_says_how_it_is_used(script, gpus, place):
    done = place.run(script, *gpus)
    assert done.returncode == 2 and place.recorded() == []
    assert done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1 and script in done.stderr


@pytest.mark.parametrize(("script", "expected"), PRETRAIN.items())
def test_projectors_are_pretrained_with_zero_2(script, expected, place):
    experiment, stream, folder = expected
    assert place.run(script, "0,1,2,3,4,5,6,7").returncode == 0
    (call,) = place.recorded()
    assert call.argv[:6] == ["torchrun", "--standalone", "--nproc_per_node", "8", "-m", "videogpt_plus"]
    assert call.gpus == "0,1,2,3,4,5,6,7" and call.folder == str(place.repository)
    wanted = ["pretrain", experiment, stream, "--output-dir", folder, "--deepspeed", "scripts/zero2.json"]
    assert call.command == wanted
    parsed(call.command)


@pytest.mark.parametrize(("script", "expected"), FINETUNE.items())
def test_levels_are_fine_tuned_with_zero_3(script, expected, place):
    experiment, folder, (image, video) = expected
    assert place.run(script, "2,5").returncode == 0
    (call,) = place.recorded()
    assert call.argv[:4] == ["torchrun", "--standalone", "--nproc_per_node", "2"]
    assert call.gpus == "2,5" and call.folder == str(place.repository)
    assert call.command == [
        *("train", experiment, "--projectors", f"image={image}", f"video={video}"),
        *("--output-dir", folder, "--deepspeed", "scripts/zero3.json"),
    ]
    parsed(call.command)
    assert f"pool{get_experiment(experiment).level:g}." in script and get_experiment(experiment).name == experiment


@pytest.mark.parametrize(("script", "run"), EVALUATE.items())
def test_levels_are_asked_and_written_in_the_references_format(script, run, place):
    assert place.run(script, "3").returncode == 0
    calls = place.recorded()
    assert [call.argv for call in calls] == [
        ["videogpt-plus", "answer", f"results/pool_full/{run}"],
        ["videogpt-plus", "export", f"results/pool_full/{run}", f"json_result/{run}"],
        ["videogpt-plus", "score", f"results/pool_full/{run}"],
    ]
    assert {(call.gpus, call.folder) for call in calls} == {("3", str(place.repository))}
    for call in calls:
        parsed(call.command)


def test_each_evaluation_reads_what_a_training_wrote():
    assert {f"results/pool_full/{run}" for run in EVALUATE.values()} == {folder for _, folder, _ in FINETUNE.values()}


def test_projectors_of_another_llm_come_to_where_its_script_looks(place):
    for script in PRETRAIN:
        assert place.run(script, "0", "qwen3b").returncode == 0
    commands = [call.command for call in place.recorded()]
    assert [command[1] for command in commands] == ["qwen3b", "qwen3b"]
    _, _, starts = FINETUNE["pool_full/finetune_poolbranch_3b_full_pool4.sh"]
    assert tuple(command[command.index("--output-dir") + 1] for command in commands) == starts


def test_several_machines_take_torchruns_own_flags(place):
    flags = "--nnodes 2 --node_rank 1 --master_addr a --master_port 29500"
    assert place.run("pool_full/finetune_poolbranch_1b_full_pool2.sh", "0,1", TORCHRUN_FLAGS=flags).returncode == 0
    (call,) = place.recorded()
    assert call.argv[:12] == ["torchrun", *flags.split(), "--nproc_per_node", "2", "-m"]


def test_a_failing_step_ends_the_script(place):
    (place.bin / "videogpt-plus").write_text('#!/bin/bash\necho "$1" >> "$CALLS"\nexit 2\n')
    assert place.run("eval_pool_full/eval_sub_baseline_qwen1_5b_pool2.sh", "0").returncode == 2
    assert place.calls.read_text() == "answer\n"


def test_the_own_environment_comes_first(place):
    own = place.repository / ".venv" / "bin"
    own.mkdir(parents=True)
    shutil.copy(place.bin / "torchrun", own / "torchrun")
    (place.bin / "torchrun").write_text("#!/bin/bash\nexit 9\n")
    assert place.run("pretrain_projector_image_encoder.sh", "0").returncode == 0


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_deepspeed_jsons_leave_to_the_recipe_what_is_the_recipes(name, stage):
    """What is "auto" transformers fills in. Without a key DeepSpeed goes by a default of its own."""
    config = json.loads((ROOT / "scripts" / f"{name}.json").read_text())
    zero = config.pop("zero_optimization")
    assert zero["stage"] == stage
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (stage == 3)
    assert ("offload_param" in zero) is (name == "zero3_offload")
    for key in ("batch_size", "micro_batch_size_per_gpu"):
        assert config[f"train_{key}"] == "auto"
    assert config["gradient_accumulation_steps"] == config["gradient_clipping"] == "auto"
    assert config["bf16"]["enabled"] == config["fp16"]["enabled"] == "auto"
    assert "optimizer" not in config and "scheduler" not in config
