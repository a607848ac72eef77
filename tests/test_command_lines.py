"""Malformed command lines and files through the real command: one line, exit code 2, nothing written."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.lines import NAMES, OUTPUTS, ROOT, SWEEPS, TWINS, UNMADE, WORDS, files, shell
from faults.records import (
    ANSWER,
    BAD_ANSWERS,
    BAD_CELLS,
    BAD_FIELDS,
    BAD_META,
    NEEDED,
    PACKAGED,
    answers,
    changed,
    line_of,
)

from videogpt_plus.app import cli
from videogpt_plus.app.runs import find_runs
from videogpt_plus.app.screen import new_table, progress, show


@pytest.fixture
def refused(capfd, monkeypatch, tmp_path):
    """Runs a command in an empty folder that must be refused and write nothing; returns its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> str:
        before = files(tmp_path)
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        line = capfd.readouterr().err
        assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1, line
        assert files(tmp_path) == before
        return line

    return run


@pytest.mark.parametrize(("words", "said"), SWEEPS)
@pytest.mark.parametrize("dry", [True, False])
def test_a_sweep_that_could_not_run_is_refused_before_it_begins_and_in_a_dry_run(words, said, dry, refused):
    assert said in refused("sweep", "toy", *words, *(["--dry-run"] if dry else []))


@pytest.mark.parametrize(("words", "said"), [*WORDS, *NAMES])
def test_a_word_that_names_nothing_is_one_line(words, said, refused):
    assert said in refused(*words)


@pytest.mark.parametrize(("words", "said"), UNMADE)
def test_nothing_is_rendered_copied_or_written_before_the_whole_line_is_known_to_be_good(
    words, said, refused, monkeypatch
):
    monkeypatch.setattr("videogpt_plus.toy.render.making", made_too_early)
    monkeypatch.setattr("videogpt_plus.families.twin.making", made_too_early)
    monkeypatch.setattr("videogpt_plus.toy.rwf2000.making", made_too_early)
    assert said in refused(*words)


#: Functions that make what is not there yet.
MAKERS = re.compile("prepare(_.*)?|own_runs|run_to_ask|take_published|benchmark_folder|answered_benchmark|fill_run")
CHECKS = re.compile("_?check_.*|benchmark_stated|wanted_runs?|get_experiment")


def commands(name: str) -> list[ast.FunctionDef]:
    trees = [ast.parse(path.read_text()) for path in Path(inspect.getfile(cli)).parent.rglob("*.py")]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]


def calls(node: ast.AST, names: re.Pattern[str]) -> list[ast.Call]:
    found = [call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)]
    return [call for call in found if names.fullmatch(call.func.id)]


@pytest.mark.parametrize(
    "name", ["sweep", "run_sweep", "pretrain", "train", "answer", "score", "export", "_judge", "check"]
)
def test_a_command_calls_what_checks_before_what_makes(name):
    for command in commands(name):
        makes = [call.lineno for call in calls(command, MAKERS)]
        assert [call.func.id for call in calls(command, CHECKS) if makes and call.lineno > min(makes)] == []
    assert commands(name)


def made_too_early(root: Path, *_: object, **__: object) -> None:
    raise AssertionError(f"{root} is made before the command line is known to be good")


@pytest.mark.parametrize("words", TWINS)
def test_a_twin_that_was_not_asked_is_not_made_by_what_reads_answers(words, refused):
    command, *more = words
    assert "toy_llava15 was not asked here yet" in refused(command, "toy_llava15", *more)


# What a command reads.


@pytest.mark.parametrize(("line", "said"), BAD_ANSWERS)
def test_a_line_of_answers_that_is_none_is_named_by_file_number_and_field(line, said, refused, tmp_path):
    answers([json.dumps(ANSWER), line_of(line)], tmp_path)
    told = refused("compare", "answers.jsonl", PACKAGED)
    assert "answers.jsonl, line 2: not an answer (" in told and said in told


@pytest.mark.parametrize("field", NEEDED)
def test_an_answer_that_lacks_what_is_scored_is_named(field, tmp_path):
    from eval.answers.answer import SCORED, read_answers
    from videogpt_plus.types import UserError

    short = {name: value for name, value in ANSWER.items() if name != field}
    (tmp_path / "answers.jsonl").write_text(json.dumps(short) + "\n")
    with pytest.raises(UserError, match=rf"answers.jsonl, line 1: not an answer \(no '{field}'\)"):
        read_answers(tmp_path / "answers.jsonl", SCORED)


@pytest.mark.parametrize("text", BAD_META)
def test_what_stands_beside_answers_is_checked_whole(text, tmp_path):
    from eval.answers.answer import read_meta
    from videogpt_plus.types import UserError

    (tmp_path / "answers.meta.json").write_text(text)
    with pytest.raises(UserError, match="answers.meta.json .*move it and .*answers.jsonl away"):
        read_meta(tmp_path / "answers.jsonl")


@pytest.mark.parametrize(("path", "new", "said"), BAD_FIELDS)
def test_an_experiment_is_checked_whole_where_it_is_read(path, new, said, refused, tmp_path):
    value = changed(json.loads((PACKAGED / "experiment.json").read_text()), path, new)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.json").write_text(json.dumps(value))
    told = refused("answer", "run")
    assert "run/experiment.json" in told and said in told


@pytest.mark.parametrize("text", BAD_CELLS)
def test_a_record_of_a_cell_that_is_none_finishes_nothing(text, tmp_path, monkeypatch, capsys):
    """tests/test_cells.py: the cell is made again, and says so."""
    monkeypatch.chdir(tmp_path)
    cell = Path("results/qwen1_5b/pretrain/image/cell.json")
    cell.parent.mkdir(parents=True)
    cell.write_text(text)
    cli.main(["sweep", "qwen1_5b", "--dry-run"])
    assert "0  to do     pretrain (image)" in capsys.readouterr().out


# Names with square brackets.


def test_a_folder_with_brackets_is_found_by_its_name_and_a_pattern_by_what_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run[1]", "results/a/toy_pool2", "results/b[2]/toy_pool4", "results/a/toy_pool2.old-1234"):
        Path(name).mkdir(parents=True)
        for file in ("experiment.json", "projectors.safetensors"):
            (Path(name) / file).write_bytes((PACKAGED / file).read_bytes())
    assert find_runs("run[1]") == [Path("run[1]")]
    assert find_runs("toy_pool[24]") == [Path("results/a/toy_pool2"), Path("results/b[2]/toy_pool4")]
    assert find_runs("a/toy_*") == [Path("results/a/toy_pool2")]
    assert find_runs("toy_pool4") == [Path("results/b[2]/toy_pool4")]


def test_names_are_shown_as_they_are(capsys):
    made = new_table("task", "[bold]n", title="run[1] [red]x[/red] :warning:")
    made.add_row("[link=x]a[/link] [1] :smile:", "[/]")
    show(made)
    with progress("sweep[2] [/]") as advance:
        advance(1, 1, "loss[0]")
    said = capsys.readouterr().out
    for text in ("run[1] [red]x[/red] :warning:", "[link=x]a[/link] [1] :smile:", "[bold]n", "[/]", "sweep[2] [/]"):
        assert text in said


# Standard output.

CALL = [sys.executable, "-m", "videogpt_plus"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("command", [command for command, code, _ in OUTPUTS if code == 141])
def test_a_pipe_that_nobody_reads_ends_a_command_quietly_as_it_ends_others(command, tmp_path):
    done = shell(command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.parametrize(("command", "code", "said"), [row for row in OUTPUTS if row[1] != 141])
def test_an_output_that_is_full_or_closed_is_one_line(command, code, said, tmp_path):
    done = shell(command, tmp_path)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == bool(said), done


def test_without_docstrings_there_is_one_line_and_without_asserts_all_is_well(tmp_path):
    done = shell("CLI tokens toy", tmp_path, "-OO")
    assert done.returncode == 2 and done.stderr.startswith("error: Python's -OO takes docstrings away")
    assert done.stderr.count("\n") == 1
    assert shell("CLI tokens toy", tmp_path, "-O").returncode == 0


def test_names_that_are_not_utf_8_are_printed_whatever_the_locale(tmp_path):
    for name in (b"\xff[1].mp4", "ü.mp4".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    done = subprocess.run(
        [sys.executable, "-m", "videogpt_plus", "data", "rwf2000", "--data-dir", ".", "--output", "x.json"],
        cwd=_rwf(tmp_path), env={**ENVIRONMENT, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 files are no videos: train/Fight/\\udcff[1].mp4" in done.stdout, done


def _rwf(folder: Path) -> Path:
    from clips import coded_frames, render_mp4

    for label in ("Fight", "NonFight"):
        render_mp4(folder / "train" / label / "a.mp4", coded_frames(30), 10)
    bad = folder / "train" / "Fight" / os.fsdecode(b"\xff[1].mp4")
    bad.touch()
    return folder
