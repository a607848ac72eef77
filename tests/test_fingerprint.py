"""Names for contents: another content has another name, however well it hides, and a lost cache costs time alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from videogpt_plus.io import fingerprint


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """A file whose hash is kept, changed a minute ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "LARGE", 10)
    monkeypatch.setattr(fingerprint, "SETTLED", 0)
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    time.sleep(0.02)
    return path


def read_again(monkeypatch) -> list[Path]:
    """The files that are read from now on."""
    read, hashed = [], fingerprint._hash
    monkeypatch.setattr(fingerprint, "_hash", lambda path: read.append(path) or hashed(path))
    return read


def test_a_large_file_is_read_once(large, monkeypatch):
    first = fingerprint.of_path(large)
    read = read_again(monkeypatch)
    assert fingerprint.of_path(large) == first and read == []


def test_another_content_of_the_same_size_and_time_is_another_name(large):
    first, then = fingerprint.of_path(large), large.stat().st_mtime_ns
    large.write_bytes(b"b" * 100)
    os.utime(large, ns=(then, then))
    assert fingerprint.of_path(large) != first


def test_another_file_put_in_its_place_is_another_name(large, tmp_path):
    first, then = fingerprint.of_path(large), large.stat().st_mtime_ns
    (tmp_path / "other").write_bytes(b"b" * 100)
    os.utime(tmp_path / "other", ns=(then, then))
    (tmp_path / "other").rename(large)
    assert fingerprint.of_path(large) != first


def test_a_file_that_changed_a_moment_ago_is_read_again(large, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLED", 3600 * 10**9)
    fingerprint.of_path(large)
    read = read_again(monkeypatch)
    fingerprint.of_path(large)
    assert read == [large] and not fingerprint.CACHE.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x00"])
def test_a_damaged_cache_is_said_once_and_made_again(text, large, capsys):
    first = fingerprint.of_path(large)
    fingerprint.CACHE.write_text(text)
    assert fingerprint.of_path(large) == first == fingerprint.of_path(large)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "fingerprints.json" in said and "it is made again" in said
    assert list(json.loads(fingerprint.CACHE.read_text())) == [str(large)]


@pytest.mark.parametrize("kept", ["0123456789abcdef", 7, None, [], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, "x"]])
def test_entries_of_other_versions_are_not_believed(kept, large):
    first = fingerprint.of_path(large)
    known = json.loads(fingerprint.CACHE.read_text())
    fingerprint.CACHE.write_text(json.dumps(dict.fromkeys(known, kept)))
    assert fingerprint.of_path(large) == first


def test_small_files_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_text("x")
    assert len(fingerprint.of_path("small")) == 16 and not fingerprint.CACHE.exists()
