"""The grid store: what comes back, what an entry is named for, and that nothing damaged is ever believed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fork_server
import numpy as np
import pytest
import sweep_worker
import torch
from clips import coded_frames, render_mp4
from PIL import Image
from store_worker import ENTRIES, FRAMES, SETTINGS, grids, name, same
from train_worker import tiny_mixtures, tiny_training, write_samples

from videogpt_plus.app import cli
from videogpt_plus.app.sweep import cells
from videogpt_plus.clips import video
from videogpt_plus.clips.cache import DTYPES, GridCache, clip_bytes, size_text
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.config.experiments import EXPERIMENTS, QWEN_1_5B, TOY, at_level, get_experiment
from videogpt_plus.config.mixtures import MIXTURES
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.io.tensors import read_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import stages
from videogpt_plus.types import UserError, Visual

WORKER = Path(__file__).with_name("store_worker.py")


def entry(store: GridCache, key: str) -> Path:
    return store.folder / key[:2] / f"{key}.safetensors"


# What comes back.


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_writing_returns_is_what_reading_gives(tmp_path, dtype):
    store = GridCache(tmp_path / "new" / "store", dtype)
    assert store.read(name(1)) is None
    kept = store.write(name(1), grids())
    assert same(GridCache(store.folder, dtype).read(name(1)), kept)


def test_float32_loses_nothing_and_bfloat16_its_rounding_alone(tmp_path):
    assert same(GridCache(tmp_path, "float32").write(name(1), grids()), grids())
    rounded = {n: grid.bfloat16() for n, grid in grids().items()}
    assert same(GridCache(tmp_path, "bfloat16").write(name(2), grids()), rounded)


def test_int8_is_within_half_a_step_of_each_channel(tmp_path):
    kept = GridCache(tmp_path, "int8").write(name(1), grids())
    for n, grid in grids().items():
        half_a_step = grid.abs().amax((0, 1, 2)) / 127 / 2
        assert ((kept[n] - grid).abs() <= half_a_step * 1.001).all()


def test_a_channel_of_zeros_stays_zero_in_int8(tmp_path):
    grid = grids()["video"]
    grid[..., 3] = 0
    kept = GridCache(tmp_path, "int8").write(name(1), {"video": grid})["video"]
    assert (kept[..., 3] == 0).all() and kept.isfinite().all()


def test_the_error_is_measured_over_all_that_was_written(tmp_path):
    store = GridCache(tmp_path, "int8")
    kept = [store.write(name(seed), grids(seed)) for seed in range(3)]
    for n in grids():
        wanted, got = torch.cat([grids(s)[n] for s in range(3)]).double(), torch.cat([k[n] for k in kept]).double()
        assert store.errors()[n] == pytest.approx(((got - wanted).norm() / wanted.norm()).item(), rel=1e-4)
        assert 0 < store.errors()[n] < 0.01
    lossless = GridCache(tmp_path / "float32", "float32")
    lossless.write(name(1), grids())
    assert lossless.errors() == {}


def test_unknown_dtype_and_a_cap_of_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match="'float8'; choose from: bfloat16, float32, int8"):
        GridCache(tmp_path, "float8")
    with pytest.raises(UserError, match="a grid store of 0 GiB holds nothing"):
        GridCache(tmp_path, cap_gib=0)


# What an entry is named for.


@pytest.fixture
def clip(tmp_path) -> Path:
    return render_mp4(tmp_path / "a.mp4", coded_frames(20), 10)


def test_the_same_clip_elsewhere_is_the_same_entry(tmp_path, clip):
    store = GridCache(tmp_path / "store")
    copy = shutil.copy(clip, tmp_path / "b.mp4")
    os.utime(copy, (1, 1))
    assert store.key(copy, 1, 2, None, SETTINGS) == store.key(clip, 1, 2, None, SETTINGS)


def test_every_other_clip_or_part_of_it_is_another_entry(tmp_path, clip):
    store = GridCache(tmp_path / "store")
    keys = {store.key(clip, *taken, SETTINGS) for taken in [(None, None, None), (0, 1, None), (0, 2, None)]}
    keys |= {store.key(clip, None, None, still, SETTINGS) for still in ("pad", "crop")}
    content = bytearray(clip.read_bytes())
    content[-1] ^= 1
    clip.write_bytes(content)
    keys.add(store.key(clip, None, None, None, SETTINGS))
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(coded_frames(4)):
        Image.fromarray(frame).save(folder / f"{i}.png")
    keys.add(store.key(folder, None, None, None, SETTINGS))
    (folder / "3.png").rename(folder / "03.png")
    keys.add(store.key(folder, None, None, None, SETTINGS))
    Image.fromarray(coded_frames(9)[8]).save(folder / "0.png")
    keys.add(store.key(folder, None, None, None, SETTINGS))
    assert len(keys) == 9


def test_all_that_changes_the_grids_changes_the_settings(tmp_path, tiny_experiment):
    store, streams = GridCache(tmp_path / "store"), tiny_experiment.branches
    own = store.settings(streams, Sampling(8), "float32")
    image, clip_folder = dict(streams)["image"], tmp_path / "clip"
    shutil.copytree(image.weights, clip_folder)
    moved = replace(image, weights=str(clip_folder), projector="linear")  # the projector stands behind the grid
    assert store.settings([("image", moved), streams[1]], Sampling(8), "float32") == own
    others = [
        store.settings(streams, Sampling(16), "float32"),
        store.settings(streams, Sampling(8, "even"), "float32"),
        store.settings(streams, Sampling(8), "bfloat16"),
        store.settings(streams[:1], Sampling(8), "float32"),
        store.settings([("image", replace(image, pixels=96)), streams[1]], Sampling(8), "float32"),
        GridCache(tmp_path / "store", "int8").settings(streams, Sampling(8), "float32"),
    ]
    processor = clip_folder / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace('"resample": 3', '"resample": 2'))
    others.append(store.settings([("image", moved), streams[1]], Sampling(8), "float32"))
    weights = bytearray((clip_folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (clip_folder / "model.safetensors").write_bytes(weights)
    others.append(store.settings([("image", moved), streams[1]], Sampling(8), "float32"))
    assert len({own, *others}) == 9


# Damage.


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_damaged_entry_is_removed_and_never_believed(tmp_path, dtype):
    store, random = GridCache(tmp_path, dtype), np.random.default_rng(0)
    kept = store.write(name(1), grids())
    whole, path = entry(store, name(1)).read_bytes(), entry(store, name(1))
    header = int.from_bytes(whole[:8], "little") + 8
    damaged = [whole[:end] for end in (0, 4, 8, header - 1, header, len(whole) - 1)]
    damaged += [whole + b"x", whole[:header] + bytes(len(whole) - header)]
    for place in (*range(8), *random.integers(8, header, 150), *random.integers(header, len(whole), 50)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        back = store.read(name(1))
        assert back is None or same(back, kept)  # a flipped space of the header changes nothing
        assert path.exists() == (back is not None)
        refused += back is None
    assert refused > 0.9 * len(damaged)
    assert same(store.write(name(1), grids()), kept) and same(store.read(name(1)), kept)


def test_an_entry_under_another_name_is_not_believed(tmp_path):
    store = GridCache(tmp_path)
    store.write(name(1), grids(1))
    shutil.copy(entry(store, name(1)), entry(store, name(2)))
    assert store.read(name(2)) is None and store.read(name(1)) is not None


# Room.


def test_least_recently_used_entries_make_room(tmp_path):
    one = len(_written(tmp_path / "one", 0))
    store = GridCache(tmp_path / "store", "float32", cap_gib=4.5 * one / 2**30)
    for number in range(4):
        store.write(name(number), grids(number))
        os.utime(entry(store, name(number)), ns=(number, number))  # times of a quick test may be equal
    (tmp_path / "store" / "00" / "mine.safetensors").write_bytes(bytes(10 * one))
    assert store.read(name(0)) is not None
    store.write(name(4), grids(4))
    store.write(name(5), grids(5))
    left = [number for number in range(6) if entry(store, name(number)).exists()]
    assert left == [0, 3, 4, 5]
    assert (tmp_path / "store" / "00" / "mine.safetensors").exists()


def _written(folder: Path, number: int) -> bytes:
    store = GridCache(folder, "float32")
    store.write(name(number), grids(number))
    return entry(store, name(number)).read_bytes()


def test_the_cap_holds_after_every_write(tmp_path):
    one = len(_written(tmp_path / "one", 0))
    cap = 200 * one  # large enough that the folder is not looked through at each write
    store = GridCache(tmp_path / "store", "float32", cap_gib=cap / 2**30)
    most = 0
    for number in range(260):
        store.write(name(number), grids())
        most = max(most, sum(p.stat().st_size for p in store.folder.rglob("*.safetensors")))
    assert 0.95 * cap < most <= cap


def test_parts_of_killed_processes_go_when_they_are_old(tmp_path):
    store = GridCache(tmp_path)
    folder = tmp_path / name(1)[:2]
    folder.mkdir()
    old, fresh, foreign = (folder / f".{k}.safetensors.77.part" for k in (name(1), name(2), "mine"))
    for path in (old, fresh, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign):
        os.utime(path, (1, 1))
    store.write(name(3), grids())
    assert [path.exists() for path in (old, fresh, foreign)] == [False, True, True]


def test_size_is_announced_before(tmp_path, tiny_experiment, monkeypatch):
    monkeypatch.setattr(GridCache, "_free", lambda store: 10**12)  # whatever disk this is run on
    assert clip_bytes(QWEN_1_5B, "bfloat16") == 16 * (24 * 24 * 1024 + 16 * 16 * 1408) * 2 == 30_408_704
    store = GridCache(tmp_path / "store")
    said = store.announce(2000, QWEN_1_5B)
    assert "2,000 clips x 30.4 MB = 60.8 GB in bfloat16 under" in said and "0 of this kind are there already" in said
    settings = store.settings(tiny_experiment.branches, tiny_experiment.sampling, "float32")
    for key in (f"{7:016x}-{settings}", f"{8:016x}-{settings}", name(9)):  # the last one is of another model
        store.write(key, grids())
    assert "; 2 of this kind are there already" in store.announce(3, tiny_experiment)
    # A still image is one frame, and a training may have both.
    assert ": 5 still images x 1.9 MB = 9.5 MB in" in store.announce(0, QWEN_1_5B, stills=5)
    assert ": 2 clips x 30.4 MB + 5 still images x 1.9 MB = 70.3 MB in" in store.announce(2, QWEN_1_5B, stills=5)


def test_announced_size_is_the_size_on_disk(tmp_path, tiny_experiment):
    model = load_model(tiny_experiment, None, "cpu", torch.float32)
    model.store = GridCache(tmp_path, "float32")
    pixels = {n: torch.randn(tiny_experiment.num_frames, 3, e.pixels, e.pixels) for n, e in model.encoders.items()}
    model.encode([Visual(pixels, tiny_experiment.num_frames, key=name(1))])
    announced = clip_bytes(tiny_experiment, "float32")
    assert announced <= entry(model.store, name(1)).stat().st_size < announced + 1000


def test_a_disk_without_room_is_refused_before_it_begins(tmp_path):
    with pytest.raises(UserError, match=r"30408\.7 TB in bfloat16 .* do not fit into .* free space"):
        GridCache(tmp_path).announce(10**9, QWEN_1_5B)
    assert "; 1.1 GB are kept at most" in GridCache(tmp_path, cap_gib=1).announce(10**9, QWEN_1_5B)
    with pytest.raises(UserError, match="do not fit"):
        GridCache(tmp_path, cap_gib=10**9).announce(10**12, QWEN_1_5B)


@pytest.mark.parametrize(
    ("size", "said"),
    [(17, "17 bytes"), (2e3, "2.0 kB"), (30_408_704, "30.4 MB"), (6.08e10, "60.8 GB"), (1e16, "10000.0 TB")],
)
def test_sizes_read_well(size, said):
    assert size_text(size) == said


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    store = GridCache(tmp_path / "file" / "store")
    for call in (lambda: store.write(name(1), grids()), lambda: store.announce(1, TOY), lambda: store.read(name(1))):
        with pytest.raises(UserError, match=r"cannot (read|write).*Not a directory; ") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file grows beyond: what a full disk does
    try:
        with pytest.raises(UserError, match=r"cannot write .*: File too large; free space"):
            GridCache(tmp_path).write(name(1), grids())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


# Several processes.


def writer(folder: Path, step: int, cap_gib: float, turns: int) -> fork_server.Popen:
    command = [sys.executable, WORKER, folder, str(step), str(cap_gib), str(turns)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return fork_server.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_under_a_cap_disturb_each_other_in_nothing(tmp_path):
    cap = 6_000_000  # some nine of the twelve
    running = [writer(tmp_path, step, cap / 2**30, turns=150) for step in (5, 7)]
    assert [run.wait() for run in running if run.stdout.read()] == [0, 0]
    left = [n for n in range(ENTRIES) if (kept := GridCache(tmp_path).read(name(n))) and same(kept, grids(n, FRAMES))]
    assert len(left) >= 6
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= cap


def test_kill_9_leaves_whole_entries_alone(tmp_path):
    for kill in range(4):
        run = writer(tmp_path, 5, cap_gib=1, turns=100_000)
        for _ in range(3 + 7 * kill):
            run.stdout.readline()
        time.sleep(0.003 * kill)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        for path in tmp_path.rglob("*.safetensors"):
            number = int(path.stem.partition("-")[0], 16)
            assert same(GridCache(tmp_path).read(path.stem), grids(number, FRAMES))
    assert len(list(tmp_path.rglob("*.safetensors"))) >= 3


# With the model.


@pytest.fixture(scope="module")
def model(tiny_experiment):
    torch.manual_seed(3)
    return load_model(tiny_experiment, None, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_first_and_a_later_run_give_the_model_the_same(model, tiny_experiment, clip, tmp_path, monkeypatch, dtype):
    store = GridCache(tmp_path / "store", dtype)
    prepare = Preparation(tiny_experiment.branches, Sampling(8), store=store)
    monkeypatch.setattr(model, "store", store)
    cold = model.encode([prepare(clip), prepare(clip, 0, 1)])
    monkeypatch.setattr(video, "read_clip", None)  # nothing is decoded again, and nothing encoded
    calls = []
    hooks = [encoder.register_forward_hook(lambda *_: calls.append(1)) for encoder in model.encoders.values()]
    visuals = [prepare(clip, 0, 1), prepare(clip)]
    warm = model.encode(visuals)
    for hook in hooks:
        hook.remove()
    assert calls == [] and [v.placeholders for v in visuals] == [8, 8] and not visuals[0].pixels
    assert same(warm[1], cold[0]) and same(warm[0], cold[1])
    assert {grid.dtype for grid in warm[0].values()} == {torch.float32}


def test_what_is_kept_does_not_depend_on_neighbours(model, tiny_experiment, clip, tmp_path, monkeypatch):
    kept = []
    for folder, together in (("alone", False), ("together", True)):
        store = GridCache(tmp_path / folder, "float32")
        monkeypatch.setattr(model, "store", store)
        prepare = Preparation(tiny_experiment.branches, Sampling(8), store=store)
        visuals = [prepare(clip), prepare(clip, 0, 1), prepare(clip, 1, 2)]
        for group in [visuals] if together else [[v] for v in visuals]:
            model.encode(group)
        kept.append([store.read(v.key) for v in visuals])
    assert all(same(a, b) for a, b in zip(*kept, strict=True))


def test_stored_and_fresh_clips_share_a_batch(model, tiny_experiment, clip, tmp_path, monkeypatch):
    store = GridCache(tmp_path / "store", "float32")
    prepare = Preparation(tiny_experiment.branches, Sampling(8), store=store)
    fresh = [prepare(clip, 0, 1), prepare(clip), Preparation(tiny_experiment.branches, Sampling(8))(clip, 1, 2)]
    expected = [model.encode([visual])[0] for visual in fresh]
    monkeypatch.setattr(model, "store", store)
    model.encode(fresh[1:2])
    mixed = model.encode([fresh[0], prepare(clip), fresh[2]])
    assert prepare(clip).grids and fresh[2].key is None
    assert all(same(a, b) for a, b in zip(mixed, expected, strict=True))
    assert len(list(store.folder.rglob("*.safetensors"))) == 2


def test_a_damaged_entry_is_made_again(model, tiny_experiment, clip, tmp_path, monkeypatch):
    store = GridCache(tmp_path / "store")
    prepare = Preparation(tiny_experiment.branches, Sampling(8), store=store)
    monkeypatch.setattr(model, "store", store)
    first = prepare(clip)
    wanted = model.encode([first])[0]
    path = entry(store, first.key)
    path.write_bytes(path.read_bytes()[:-1])
    again = prepare(clip)
    assert again.pixels and not again.grids and again.key == first.key
    assert same(model.encode([again])[0], wanted)
    assert prepare(clip).grids


@pytest.fixture
def training(tiny_experiment, tmp_path, monkeypatch):
    """A tiny training of one projector, without dropout."""
    write_samples(tmp_path)
    for mixture, files in tiny_mixtures(tmp_path).items():
        monkeypatch.setitem(MIXTURES, mixture, files)
    return tiny_training(tiny_experiment, max_steps=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_fills_the_store_and_then_decodes_nothing(training, tmp_path, monkeypatch, workers):
    store = GridCache(tmp_path / "store", "float32")
    for run in ("without", "cold", "warm"):
        if run == "warm":
            monkeypatch.setattr(video, "read_clip", None)
            monkeypatch.setattr(GridEncoder, "forward", None)
        given = None if run == "without" else store
        stages.pretrain(training, "image", tmp_path / run, workers=workers, store=given)
    trained = [read_tensors(tmp_path / run / "projectors.safetensors") for run in ("without", "cold", "warm")]
    assert same(trained[1], trained[2])
    for part, tensor in trained[0].items():  # encoded one by one instead of in a batch
        torch.testing.assert_close(trained[1][part], tensor, atol=1e-5, rtol=0)


def test_training_says_what_the_store_will_take_and_what_it_lost(training, tmp_path):
    told = []
    for run in ("cold", "warm"):
        store = GridCache(tmp_path / "store", "int8")
        stages.pretrain(training, "image", tmp_path / run, workers=0, store=store, say=told.append)
    before, lost, again = told
    assert re.match(r"grid store: 8 still images x \S+ kB = \S+ kB in int8 under .*; 0 of", before)
    assert re.fullmatch(r"grid store: what was kept as int8 differs from the encoders' grids by image 0\.\d+ %", lost)
    assert re.search(r"; [1-8] of this kind are there already", again)


def test_a_sweep_s_store_serves_its_trainings_and_is_one_of_their_inputs(
    tiny_experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    sweep_worker.prepare(tmp_path, tiny_experiment)
    try:
        cli.main(["sweep", "tiny", "--levels", "16", "--controls", "--store", "kept", "--store-dtype", "int8"])
        base, (at,) = get_experiment("tiny"), [at_level(get_experiment("tiny"), 16)]
        made = {
            store: [
                cells.inputs(cell) for cell in cells.plan(base, [at], Path("results/tiny"), eval_config=eval_config)[:3]
            ]
            for store, eval_config in {
                None: EvalConfig(decoder="decord"),
                "int8": EvalConfig(store=Path("elsewhere"), store_dtype="int8", store_cap_gib=1),
                "float32": EvalConfig(store=Path("kept"), store_dtype="float32"),
            }.items()
        }
    finally:
        del EXPERIMENTS["tiny"]
    out = capsys.readouterr().out
    assert out.count("in int8 under kept") == 4, "two pre-trainings, a fine-tuning and the answers"
    assert out.count("differs from the encoders' grids") == 4
    assert all("store_dtype" not in inputs for inputs in made[None])
    assert [inputs["store_dtype"] for inputs in made["int8"]] == ["int8"] * 3
    assert [inputs["store_dtype"] for inputs in made["float32"]] == ["float32"] * 3


def test_the_default_of_a_visual_cannot_be_filled():
    with pytest.raises(TypeError, match="empty default"):
        Visual({}, 0).grids["image"] = torch.zeros(1)
    assert Visual({}, 0).grids == {}


def test_settings_name_the_entries_of_one_kind(tmp_path, tiny_experiment, clip):
    prepare = Preparation(tiny_experiment.branches, Sampling(8), store=GridCache(tmp_path))
    assert re.fullmatch(rf"[0-9a-f]{{16}}-{prepare.settings}", prepare(clip).key)
