"""The command line as a user meets it: in a process of its own where exit codes and imports matter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from videogpt_plus import cli


def run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "videogpt_plus.cli", *args], capture_output=True, text=True)


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom videogpt_plus import cli\n"
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
    ("args", "said"),
    [
        (["tokens", "qwen15b"], "did you mean 'qwen1_5b'?"),
        (["tokens", "toy", "--levels", "0"], "pool level 0 is not possible"),
        (["tokens", "toy", "--levels", "-2"], "pool level -2 is not possible"),
        (["tokens", "toy", "--frames", "0"], "at least 1 frame"),
        (["predict", "toy", "What?"], "give --video FILE or --image FILE"),
        (["predict", "qwen3b_pool4", "What?", "--image", "x.png"], "no trained 'qwen3b_pool4' under results/"),
        (["train", "qwen3b", "--projectors", "image"], "--projectors takes STREAM=FOLDER"),
        (["pretrain", "qwen3b", "audio"], "unknown stream 'audio'; choose from: image, video"),
        (["answer", "qwen3b", "--task", "mvbnch"], "unknown benchmark 'mvbnch'"),
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
