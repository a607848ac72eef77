"""Cells of a sweep: what was made from what is never guessed, and what is gone, damaged or failed is said."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sweep_worker import ARGS, prepare

from videogpt_plus.app import cli
from videogpt_plus.app.sweep import cells as sweep
from videogpt_plus.app.sweep.jobs import run_cells
from videogpt_plus.config import experiments
from videogpt_plus.types import UserError

FEW = [*ARGS[:2], "--levels", "16", "--controls"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_experiment):
    """A folder in which a sweep of one level has run once."""
    folder = tmp_path_factory.mktemp("cells")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(folder, tiny_experiment)
        cli.main(FEW)
        yield folder
        del experiments.EXPERIMENTS["tiny"]


ROOT = Path("results/tiny")
#: An output of every kind of cell.
OUTPUTS = ("pretrain/image/projectors.safetensors", "tiny_pool16/adapter_model.safetensors")
OUTPUTS += ("tiny_pool16/answers/answers.jsonl",)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_finished_cell_whose_output_is_gone_is_made_again(name, swept, capsys):
    path = ROOT / name
    before = path.read_bytes()
    path.unlink()
    cli.main(FEW)
    out = capsys.readouterr().out
    assert f"{path} is gone: it is made again" in out and out.count("finished before") == 3
    if path.suffix != ".jsonl":  # answers hold their seconds
        assert path.read_bytes() == before
    assert not list(ROOT.rglob("*.old-*"))


def test_a_damaged_record_is_said_and_the_cell_is_made_again(swept, capsys):
    folder = ROOT / "tiny_pool16/answers"
    (folder / "cell.json").write_text("{")
    cli.main([*FEW, "--dry-run"])
    assert capsys.readouterr().out.count("to do") == 2  # the answers and the report
    cli.main(FEW)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "cell.json" in line]
    assert "made again" in line and f"{folder}.old-" in line and out.count("finished before") == 3
    assert json.loads((folder / "cell.json").read_text())["finished"]
    (moved,) = folder.parent.glob("answers.old-*")
    assert (moved / "cell.json").read_text() == "{" and (moved / "answers.jsonl").is_file()
    moved.rename(swept / "moved")


@pytest.fixture
def cell(swept) -> sweep.Cell:
    """The answers of the sweep."""
    base = experiments.EXPERIMENTS["tiny"]
    return sweep.plan(base, [experiments.at_level(base, 16)], ROOT)[3]


def test_what_changes_while_a_cell_is_made_is_never_taken_for_what_it_was_made_from(swept, cell):
    annotation = sorted((swept / ".cache/toy/bench/json").glob("*.json"))[0]
    then = annotation.read_text()
    assert cell.kind == "answer" and sweep.is_finished(cell) and sweep.begin(cell) is None
    annotation.write_text(then.replace("[", "[ ", 1))
    try:
        with pytest.raises(UserError, match=r"has changed meanwhile \(benchmark: .* there, .* now\); run the sweep"):
            sweep.finish(cell, 1.0)
        assert not sweep.is_finished(cell)
        record = json.loads((cell.folder / "cell.json").read_text())
        assert record["finished"] is False and record["inputs"] != json.loads(json.dumps(sweep.inputs(cell)))
    finally:
        annotation.write_text(then)
    sweep.finish(cell, 1.0)
    assert sweep.is_finished(cell)


@pytest.mark.parametrize("text", ["", "[]", '{"finished": true}', '{"finished": 1, "inputs": {}}', "\x00"])
def test_a_cell_with_a_damaged_record_begins_anew(text, cell, swept):
    """And those behind it do not begin."""
    record, judge = cell.folder / "cell.json", replace(cell, kind="judge", needs=(cell.folder,))
    then = record.read_text()
    record.write_text(text)
    assert not sweep.is_finished(cell)
    with pytest.raises(UserError, match="which is not finished"):
        sweep.begin(judge)
    told = sweep.begin(cell)
    moved = Path(told.rpartition(" ")[2])
    assert "cell.json" in told and "\n" not in told and [path.name for path in cell.folder.iterdir()] == ["cell.json"]
    record.unlink()
    cell.folder.rmdir()
    moved.rename(cell.folder)
    record.write_text(then)


@pytest.mark.parametrize("name", ["experiment.json", "adapter_config.json", "projectors.safetensors"])
def test_every_output_counts(name, swept):
    base = experiments.EXPERIMENTS["tiny"]
    train = sweep.plan(base, [experiments.at_level(base, 16)], ROOT)[2]
    assert train.kind == "train" and sweep.is_finished(train)
    kept = (train.folder / name).rename(swept / name)
    assert not sweep.is_finished(train)
    (train.folder / name).touch()
    assert not sweep.is_finished(train)
    kept.rename(train.folder / name)


def test_a_cell_is_not_finished_without_its_output(cell):
    sweep.begin(cell)
    path = cell.folder / "answers.jsonl"
    kept = path.rename(path.with_suffix(".kept"))
    with pytest.raises(UserError, match="answers.jsonl is not there although all was made"):
        sweep.finish(cell, 1.0)
    kept.rename(path)
    sweep.finish(cell, 1.0)


def test_records_of_before_outputs_were_told_stay_finished(cell):
    path = cell.folder / "cell.json"
    record = json.loads(path.read_text())
    del record["outputs"]
    path.write_text(json.dumps(record))
    assert sweep.is_finished(cell)


def test_a_cell_does_not_begin_in_a_folder_of_somebody_else(swept, tmp_path):
    base = experiments.EXPERIMENTS["tiny"]
    first = sweep.plan(base, [experiments.at_level(base, 16)], tmp_path)[0]
    first.folder.mkdir(parents=True)
    (first.folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no run folder and holds thesis.txt"):
        sweep.begin(first)
    assert [path.name for path in first.folder.iterdir()] == ["thesis.txt"]


def test_half_written_files_of_a_killed_cell_are_swept(cell):
    left = cell.folder / ".cell.json.999999999.part"  # beyond any process's id
    left.write_text("{")
    sweep.begin(cell)
    sweep.finish(cell, 1.0)
    assert not left.exists()


def test_questions_without_an_answer_are_said_and_asked_again(swept, capsys):
    """A reader that was killed, or a clip that was not there yet, leaves errors in a finished cell."""
    path = ROOT / "tiny_pool16/answers/answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:2]:
        line |= {"reply": None, "choice": None, "correct": False, "error": "cannot read it", "visual_tokens": None}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cli.main(FEW)
    out = " ".join(capsys.readouterr().out.split())
    assert "2 questions have no answer" in out and "add --retry-errors" in out and out.count("finished before") == 4
    cli.main([*FEW, "--retry-errors"])
    out = capsys.readouterr().out
    assert "no answer" not in out and out.count("finished before") == 3
    latest = {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}
    assert len(latest) == len(lines) and not any(line["error"] for line in latest.values())


@dataclass(frozen=True)
class Part:
    """As much of a cell as running one needs."""

    title: str
    folder: str
    needs: tuple[str, ...] = ()


def killed(cells: list[Part], title: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    titled = [([Part("train a", "a")], "0/1 train a"), ([Part("train b", "b")], "1/1 train b")]
    with pytest.raises(
        UserError, match=r"a process of this sweep was ended while it ran train .*: it goes on$"
    ) as told:
        run_cells(titled, killed, 2)
    assert "\n" not in str(told.value)
