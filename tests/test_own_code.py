"""Whose code runs: this project's `eval` wherever a command is started, and none that lies beside weights."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clips import coded_frames, render_mp4
from faults.weights import IMPOSSIBLE

from videogpt_plus.families.llava15.model import load_tokenizer as load_llava_tokenizer
from videogpt_plus.io.tensors import read_tensors
from videogpt_plus.text.tokenizer import load_tokenizer
from videogpt_plus.types import UserError

ROOT = Path(__file__).parent.parent
#: What would run if a folder's code did.
CODE = "from pathlib import Path\nPath({!r}).touch()\nraise SystemExit('it ran')\n"


def call(folder: Path, *args: str, path: str = str(ROOT)) -> subprocess.CompletedProcess:
    """A command as `python -m`, and so torchrun, runs it: `folder` comes first in sys.path."""
    command = [sys.executable, "-m", "videogpt_plus", *args]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A folder with a package `eval` of its own, and a benchmark of one clip."""
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "__init__.py").write_text("raise SystemExit('another eval ran')")
    (tmp_path / "bench" / "json").mkdir(parents=True)
    asked = {"video": "a.mp4", "question": "What?", "candidates": ["a", "b"], "answer": "a"}
    (tmp_path / "bench" / "json" / "clip.json").write_text(json.dumps([asked]))
    (tmp_path / "bench" / "tasks.json").write_text(json.dumps({"clip": {"folder": "video"}}))
    render_mp4(tmp_path / "bench" / "video" / "a.mp4", coded_frames(5), 10)
    return tmp_path


def test_another_eval_in_the_working_folder_is_passed_by_in_workers_too(foreign):
    done = call(foreign, "check", "bench", "--decode", "all", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 1 questions can be asked" in done.stdout


@pytest.mark.parametrize("kind", ["module", "folder", "first in PYTHONPATH"])
def test_another_eval_of_any_kind_is_passed_by(foreign, kind):
    path = str(ROOT)
    if kind == "module":
        shutil.move(foreign / "eval" / "__init__.py", foreign / "eval.py")
        (foreign / "eval").rmdir()
    elif kind == "folder":
        (foreign / "eval" / "__init__.py").unlink()
    else:
        path = f"{foreign}{os.pathsep}{ROOT}"
    done = call(foreign, "tokens", "toy", path=path)
    assert (done.returncode, done.stderr) == (0, "") and "13" in done.stdout


def test_spawned_processes_take_over_the_order(foreign):
    code = (
        "import multiprocessing, videogpt_plus.app.commands, eval.answers.score\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(eval.answers.score.scores_path, ('a/answers.jsonl',)))\n"
    )
    (foreign / "start.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "start.py"], cwd=foreign, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "a/scores.json", done.stderr


def test_an_eval_that_is_imported_already_is_told(foreign):
    (foreign / "eval" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{foreign}{os.pathsep}{ROOT}"}
    code = "import eval, videogpt_plus.app.cli"
    done = subprocess.run([sys.executable, "-c", code], cwd=foreign, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "another package is called `eval` and was imported first" in last and "a process of its own" in last


# Tokenizers.


@pytest.fixture
def with_code(tiny_experiment, tmp_path) -> Path:
    """A tokenizer's folder that names code of its own."""
    folder = tmp_path / "llm"
    shutil.copytree(tiny_experiment.llm, folder)
    (folder / "own.py").write_text(CODE.format(str(tmp_path / "ran")))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("load", [lambda folder: load_tokenizer(folder, None), load_llava_tokenizer])
def test_a_tokenizers_own_code_is_not_run_and_nobody_is_asked(load, with_code, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(UserError, match=r"llm wants to run code of its own .*own.Own.*refused; nothing of it was run"):
        load(with_code)
    assert not (with_code.parent / "ran").exists()


def test_a_tokenizer_that_is_built_in_is_read_without_the_code_beside_it(with_code, tiny_experiment):
    config = json.loads((with_code / "tokenizer_config.json").read_text())
    (with_code / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Qwen2Tokenizer"}))
    text = "What is it? (A) a cup"
    assert load_tokenizer(with_code, None)(text).input_ids == load_tokenizer(tiny_experiment.llm, None)(text).input_ids
    assert not (with_code.parent / "ran").exists()


def test_nothing_is_loaded_that_may_bring_code_along():
    """Every `from_pretrained` of transformers says that code in the folder is not trusted."""
    calls = [
        (path, node)
        for path in (ROOT / "videogpt_plus").rglob("*.py")
        if "toy" not in path.parts  # which reads what it wrote itself
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "PeftConfig")  # a JSON file
    ]
    assert len(calls) >= 8
    for path, node in calls:
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("trust_remote_code") == "False", f"{path}, line {node.lineno}"


# Weights. Pickles are tested in test_checkpoint, DeepSpeed's in test_deepspeed, .npy files in test_cinego_data.


@pytest.mark.parametrize(("name", "content"), IMPOSSIBLE)
def test_weights_with_an_impossible_header_are_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^cannot read weights {tmp_path / name}: [^\n]+; [^\n]+$") as told:
        read_tensors(tmp_path / name)
    assert ("it is a GGUF file" in str(told.value)) == content.startswith(b"GGUF")
