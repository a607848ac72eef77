"""The runner of `make faults`, shortened: it counts enough, sees what is wrong, and a part of it is tried here."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from faults import Kind, Line, all_kinds, failure
from faults.__main__ import guarded, main
from faults.disks import fill_disks
from faults.kills import kill_answers, kill_trainings
from faults.lines import OUTPUTS, Refused, all_lines, line_failure
from faults.many import check_many
from faults.tiny import tiny

from videogpt_plus.types import UserError

KINDS, LINES = all_kinds(), list(all_lines())


def test_there_are_as_many_kinds_and_lines_as_promised_each_of_its_own_name():
    assert len(KINDS) >= 120 and len(LINES) + len(OUTPUTS) >= 60
    for named in (KINDS, LINES):
        assert [name for name, count in Counter(map(str, named)).items() if count > 1] == []
    groups = {"video", "picture", "annotation", "answers", "experiment", "weights", "features", "cell"}
    assert {kind.group for kind in KINDS} == groups


def of_each_group(kinds: list[Kind], share: int) -> list[Kind]:
    """One of so many, the same ones each time."""
    return random.Random(0).sample(kinds, len(kinds) // share)


@pytest.mark.parametrize("kind", of_each_group(KINDS, 8), ids=str)
def test_a_kind_is_read_as_expected(kind, tmp_path):
    assert failure(kind, tmp_path) is None


@pytest.mark.parametrize("line", random.Random(0).sample(LINES, 10), ids=str)
def test_a_bad_line_is_refused_as_expected(line, tmp_path):
    assert line_failure(line, tmp_path) is None


def refuse(path: Path) -> None:
    raise UserError("cannot read it; take another")


@pytest.mark.parametrize(
    ("read", "expected", "told"),
    [
        (lambda path: 1, 2, "expected 2; found 1"),
        (refuse, 2, "expected 2; found Line"),
        (lambda path: 1, Line("no"), "found 1"),
        (refuse, Line("another word"), "found Line"),
        (lambda path: 1 / 0, 1, "ZeroDivisionError"),
    ],
)
def test_what_is_not_as_expected_is_told(read, expected, told):
    assert told in guarded(failure, Kind("video", "a", lambda folder: folder, read, expected))


def test_what_hangs_is_told_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("faults.__main__.LIMIT", 0.1)
    began = time.monotonic()
    assert guarded(lambda folder: time.sleep(3)) == "it did not end within 0.1 s"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("line", [Refused(("--help",), "x"), Refused(("tokens", "toyy"), "another word")], ids=str)
def test_a_line_that_is_not_refused_as_expected_is_told(line, tmp_path):
    assert "expected exit code 2" in line_failure(line, tmp_path)


def test_the_runner_counts_and_fails_where_one_did(monkeypatch, capsys):
    from faults import __main__ as runner

    monkeypatch.setitem(runner.PARTS, "files", lambda: iter([("a", None), ("b", "it is wrong")]))
    assert main(["--only", "files"]) == 1
    out = capsys.readouterr().out
    assert "files    2 FAILED b\n    it is wrong" in out and out.split()[-5:-1] == ["files", "2", "1", "1"]
    monkeypatch.setitem(runner.PARTS, "files", lambda: iter([("a", None)]))
    assert main(["--only", "files"]) == 0


def test_the_command_is_found():
    root = Path(__file__).parents[1]
    assert "faults:" in (root / "Makefile").read_text()
    assert (
        subprocess.run([sys.executable, "-m", "tests.faults", "--help"], cwd=root, capture_output=True).returncode == 0
    )


# Kills, disks and many clips


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with tiny(tmp_path_factory.mktemp("faults"), 320) as made:
        yield made


def all_well(outcomes) -> int:
    """How many there were. Fails where one is told."""
    found = list(outcomes)
    assert [told for told in found if told[1]] == []
    return len(found)


def test_killed_trainings_end_in_the_bytes_of_undisturbed_ones(made, tmp_path):
    assert all_well(kill_trainings(made, tmp_path / "killed", 2)) == 2


def test_killed_answering_ends_in_the_answers_of_an_undisturbed_one(made, tmp_path):
    assert all_well(kill_answers(made, tmp_path, 4, 320)) == 4


def test_a_disk_that_is_full_in_the_middle_of_a_file_costs_one_line(made, tmp_path):
    assert all_well(fill_disks(made, tmp_path, most=1)) == 12


def test_of_many_clips_the_broken_and_the_hanging_are_counted():
    assert all_well(check_many(40, 1, 1)) == 2
