"""The command line as a user meets it: in a process of its own where exit codes and imports matter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from videogpt_plus.app import cli
from videogpt_plus.app.runs import named_runs, own_runs
from videogpt_plus.config.experiment_file import named_or_filed
from videogpt_plus.config.experiments import EXPERIMENTS, get_experiment
from videogpt_plus.types import UserError


def run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "videogpt_plus", *args], capture_output=True, text=True)


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom videogpt_plus.app import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'av', 'numpy', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_tokens_of_the_real_size_at_every_level(capsys):
    cli.main(["tokens", "qwen1_5b"])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    found = {row[1].strip(): (int(row[4]), row[6].strip()) for row in rows}
    assert {level: tokens for level, (tokens, _) in found.items()} == {
        "1": 13312, "2": 3328, "4": 832, "8": 208, "16": 80, "24": 32,
    }  # fmt: skip
    assert [found[level][1] for level in ("2", "4", "8", "16")] == ["60 %", "86 %", "95 %", "97 %"]


@pytest.mark.parametrize(
    ("args", "levels"),
    [
        (["qwen1_5b_pool2"], ["2"]),
        (["qwen1_5b_pool1"], ["1"]),
        (["qwen1_5b_pool2", "--levels", "4", "8"], ["4", "8"]),
    ],
)
def test_tokens_are_of_the_level_in_the_name_unless_levels_are_given(args, levels, capsys):
    cli.main(["tokens", *args])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == levels


def test_a_level_that_upsamples_is_said_to(capsys):
    cli.main(["tokens", "qwen1_5b", "--levels", "0.5", "1"])
    assert "Level 0.5 is below 1: the grid is upsampled" in capsys.readouterr().out
    cli.main(["tokens", "qwen1_5b", "--levels", "1", "2"])
    assert "upsampled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "arguments", "taken"),
    [
        ("sweep", "EXPERIMENT", lambda e: True),
        ("tokens", "EXPERIMENT", lambda e: True),
        ("pretrain", "EXPERIMENT STREAM", lambda e: bool(e.pretrain)),
        ("train", "EXPERIMENT", lambda e: e.is_trained),
        ("register", "EXPERIMENT", lambda e: not e.is_trained),
        ("convert", "SOURCE TARGET", None),
        ("push", "RUN NAME/MODEL", None),
    ],
)
def test_help_names_its_arguments_and_the_experiments_that_it_takes(command, arguments, taken, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert arguments in shown.splitlines()[0]
    if arguments.startswith("EXPERIMENT"):
        listed = shown.split("positional arguments")[1].split("(required)")[0]
        listed = [name for name in EXPERIMENTS if re.search(rf"\b{name}\b", listed)]
        assert listed == [e.name for e in EXPERIMENTS.values() if taken(e)]


def dry_run(capsys, *more: str) -> list[str]:
    """The commands of the cells of a sweep, without anything there."""
    cli.main(["sweep", "qwen1_5b", "--levels", "4", "--controls", "blind", "--dry-run", *more])
    return [line.strip() for line in capsys.readouterr().out.splitlines()[1::2]]


def test_a_dry_run_prints_trainings_behind_their_launcher_and_the_rest_without(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("zero2.json").write_text("{}")
    given = ("--launcher", "torchrun --nproc_per_node 8", "--deepspeed", "zero2.json")
    commands, plain = dry_run(capsys, *given), dry_run(capsys)
    assert len(plain) == 6 and all(command.startswith("videogpt-plus ") for command in plain)
    for behind, bare in zip(commands[:3], plain[:3], strict=True):  # two pre-trainings and the fine-tuning
        kind, name, *rest = bare.removeprefix("videogpt-plus ").split()
        file = f"results/qwen1_5b/experiments/{name}.json"  # a name would not say what was changed
        words = " ".join([kind, file, *rest])
        assert behind == f"torchrun --nproc_per_node 8 -m videogpt_plus {words} --deepspeed zero2.json"
        assert named_or_filed(file) == get_experiment(name)
    assert commands[3:] == plain[3:]
    assert dry_run(capsys, *given, "--cell", "2") == commands[2:3]
    assert dry_run(capsys, "--deepspeed", "zero2.json")[0] == f"{plain[0]} --deepspeed zero2.json"


ASK_HERE = ["predict", "toy_pool2", "What?", "--image", "x.png"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["swep", "toy"], "unknown command 'swep': did you mean 'sweep'?"),
        (["tokens", "qwen15b"], "did you mean 'qwen1_5b'?"),
        (["tokens", "toy_pol2"], "did you mean 'toy'?"),
        (
            ["train", "toy_max_pool3", "--projectors", "image=nowhere"],
            "no pre-trained projector at nowhere: make it with `videogpt-plus pretrain toy image --output-dir nowhere`",
        ),
        (["sweep", "qwen1_5b", "--dry-run", "--cell", "99"], "there is no cell 99: this sweep has cells 0 to 15"),
        (["tokens", "toy", "--levels", "0"], "pool level 0 is not possible"),
        (["tokens", "toy", "--levels", "-2"], "pool level -2 is not possible"),
        (["tokens", "toy", "--frames", "0"], "at least 1 frame"),
        (["predict", "toy", "What?"], "give --video FILE or --image FILE"),
        (["predict", "qwen3b_pool4", "What?", "--image", "x.png"], "no trained 'qwen3b_pool4' under results/"),
        (["train", "qwen3b", "--projectors", "image"], "--projectors takes STREAM=FOLDER"),
        (["pretrain", "qwen3b", "audio"], "unknown stream 'audio'; choose from: image, video"),
        (["answer", "qwen3b", "--task", "mvbnch"], "unknown benchmark 'mvbnch'"),
        (["answer"], "no run is named"),
        (["subset"], "no run is named"),
        (["answer", "toy_pool2", "--decoder", "avi"], "unknown decoder 'avi'"),
        (["predict", "toy_pool2", "What?", "--video", "nowhere.mp4"], "cannot read nowhere.mp4: there is no such file"),
        (["predict", "toy_pool17", "What?", "--image", "x.png"], "videogpt-plus sweep toy --levels 17"),
        (["subset", "toy_pool2", "--output", "nowhere/subset.json"], "there is no folder nowhere"),
        (["compare", "toy_pool2", "toy_pool2"], "name two runs"),
        (ASK_HERE + ["--max-new-tokens", "0"], "error: --max-new-tokens 0 is not possible: choose at least 1"),
        (ASK_HERE + ["--temperature", "-1"], "error: --temperature -1 is not possible: choose 0 or more"),
        (ASK_HERE + ["--devices", "0"], "error: --devices 0 is not possible: choose at least 1"),
        (["answer", "toy_pool2", "--batch-size", "0"], "error: --batch-size 0 is not possible"),
        (["sweep", "toy", "--clip-seconds", "0"], "error: --clip-seconds 0 is not possible"),
        (["judge", "toy_pool2", "--judge-model", "x", "--concurrency", "0"], "error: --concurrency 0 is not possible"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in error
    assert error.count("\n") == 1


def test_an_unknown_option_is_refused_with_exit_code_2():
    done = run("tokens", "toy", "--levle", "2")
    assert done.returncode == 2
    assert "levle" in done.stderr + done.stdout


def test_answers_of_the_packaged_run_are_kept_outside_of_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (copy,) = own_runs(["toy_pool2"])
    assert copy == Path("results/toy_pool2") and (copy / "projectors.safetensors").is_file()
    assert "copied from the package" in capsys.readouterr().out
    assert own_runs(["toy_pool2"]) == [copy] and named_runs(["toy_pool2"]) == [copy]
    assert [path.name for path in Path("results").iterdir()] == ["toy_pool2"]


def test_answers_under_a_control_are_not_taken_for_those_of_all_frames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (copy,) = own_runs(["toy_pool2"])
    for name in ("answers", "answers_blind"):
        (copy / name).mkdir()
    assert named_runs([str(copy / "answers")]) == [copy]
    with pytest.raises(UserError, match="holds answers: name the run, results/toy_pool2"):
        named_runs([str(copy / "answers_blind")])


@pytest.mark.parametrize(("earlier", "now"), cli.EARLIER.items())
def test_a_command_answers_to_its_earlier_name_and_says_the_new_one(earlier, now, capsys):
    for name in (earlier, now):
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.err == f"`{earlier}` is called `{now}` now; the old name goes with the next version\n"
    first, second = said.out.split(f"usage: videogpt-plus {now} ")[1:]
    assert first.rstrip() == second.rstrip()
