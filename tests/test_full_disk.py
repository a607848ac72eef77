"""Disks that fill up: one line, nothing half-made that is taken for whole, and the same command finishes after room
was made. The disk is a small file system in memory, which only root may mount.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from train_worker import tiny_data, tiny_training

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.io.folders import making
from videogpt_plus.io.jsonl_log import append, cut_torn_line, open_locked, read_lines
from videogpt_plus.training import stages
from videogpt_plus.types import UserError

ROOM = "8m"


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a disk of a size, or gives it another one; skips where nothing can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def of(size: str) -> Path:
        how = ["-o", f"remount,size={size}"] if mounted else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        if subprocess.run(["mount", *how, folder], capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk")
        mounted.append(size)
        return folder

    yield of
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)  # an error may still hold a file open


@pytest.fixture(scope="module")
def experiment(tiny_experiment, tmp_path_factory):
    with tiny_data(tmp_path_factory.mktemp("samples")):
        yield tiny_training(tiny_experiment)


@pytest.fixture(scope="module")
def straight(experiment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    stages.pretrain(experiment, "image", folder)
    return folder


def kilobytes(folder: Path) -> int:
    """What the files of a folder take of a disk of pages of 4 kB, the folders with them."""
    return sum(4 * (1 + (p.stat().st_size - 1) // 4096 if p.is_file() else 1) for p in [folder, *folder.rglob("*")])


@pytest.mark.parametrize("share", [0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97])
def test_a_training_on_a_full_disk_ends_in_one_line_and_goes_on(share, experiment, straight, disk):
    """The disk fills up in the first file, in each of the checkpoints' and in the weights."""
    root = disk(f"{max(8, int(share * kilobytes(straight)))}k")
    with pytest.raises(UserError, match=r"cannot write .*run the same command\s+again") as told:
        stages.pretrain(experiment, "image", root / "run")
    assert "\n" not in str(told.value) and not (root / "run/projectors.safetensors").exists()
    disk(ROOM)
    stages.pretrain(experiment, "image", root / "run")
    for name in ("projectors.safetensors", "checkpoint-6/optimizer.pt", "checkpoint-6/COMPLETE"):
        assert (root / "run" / name).read_bytes() == (straight / name).read_bytes()
    assert {p.name for p in (root / "run").iterdir()} == {p.name for p in straight.iterdir()}


def test_a_store_on_a_full_disk_says_so_and_keeps_what_is_whole(disk):
    store = GridCache(disk("256k") / "store", "float32")
    grids = {"image": torch.rand(4, 4, 4, 128)}  # 32 kB
    keys = [f"{i:016x}-{i:016x}" for i in range(16)]
    with pytest.raises(UserError, match="cannot write .*store.*free space") as told:
        for key in keys:
            store.write(key, grids)
    assert "\n" not in str(told.value)
    whole = [key for key in keys if store.read(key)]
    assert 0 < len(whole) < len(keys) and len(list(store.folder.rglob("*.safetensors"))) == len(whole)
    assert list(store.folder.rglob("*.part")) == []
    disk(ROOM)
    for key in keys:
        store.write(key, grids)
    assert all(torch.equal(store.read(key)["image"], grids["image"]) for key in keys)


def test_answers_on_a_full_disk_end_in_one_line_and_go_on_behind_the_last_whole_one(disk):
    path = disk("16k") / "answers.jsonl"
    lines = [{"key": str(i), "reply": "x" * 1500} for i in range(20)]

    def write() -> None:
        with open_locked(path) as file:
            cut_torn_line(file, path)
            known = read_lines(path, "an answer", "")
            for line in lines:
                if line["key"] not in known:
                    append(file, path, line)

    (path.parent / ".answers.meta.json.999999999.part").touch()  # of a killed process
    with pytest.raises(UserError, match="cannot be written: No space left on device; free space"):
        write()
    assert 0 < len(read_lines(path, "an answer", "")) < 20
    disk(ROOM)
    write()
    assert list(read_lines(path, "an answer", "").values()) == lines
    assert [one.name for one in path.parent.iterdir()] == ["answers.jsonl"]


def test_what_is_made_on_a_full_disk_is_not_there_and_is_made_after(disk):
    root = disk("32k") / "made"

    def make() -> None:
        with making(root, 1, ["a", "b"]) as scratch:
            for name in ("a", "b"):
                (scratch / name).write_bytes(b"x" * 20_000)

    with pytest.raises(UserError, match="cannot write into .*made: No space left"):
        make()
    assert not root.exists()
    disk(ROOM)
    make()
    assert sorted(path.name for path in root.iterdir()) == ["a", "b", "made.json"]
