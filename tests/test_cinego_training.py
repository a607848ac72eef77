"""Cinego's trainings: the recorded runs of the original, what trains, resuming, and what is there to start from."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fork_server
import numpy as np
import pytest
import torch
from cinego_parts import (
    RECORDED,
    SIZE,
    random_features,
    recorded_rows,
    recorded_weights,
    said,
    write_parts,
    write_rows,
)
from PIL import Image
from safetensors.torch import load_file

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import Experts
from videogpt_plus.models.loading import load_model
from videogpt_plus.training.cinego.features import check_sidecar, media_files, preprocess, read_features
from videogpt_plus.training.cinego.stages import RECIPES, Recipe, Source, learning_rate, plan, train
from videogpt_plus.training.data import read_substitutions
from videogpt_plus.types import UserError

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded values of Cinego are not there")
RUNS = ("pretrain_s", "pretrain_st", "sft_st", "pretrain_s_accum2")
#: What a script elsewhere needs to find the package that is tested.
HERE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
#: Two steps an epoch, and dropout in the summary, so that random state counts.
SHORT = Recipe(epochs=3, batch_size=2, accumulation=2, learning_rate=1e-3, max_length=120, save_steps=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """clip/, s/ and st/ with the recorded weights, and rows.jsonl of eight rows: features of two lengths, and text."""
    root = tmp_path_factory.mktemp("cinego")
    write_parts(root / "parts")
    rows = []
    for i in range(8):
        told = ("A red circle.", "And where?", "On the left side." * (1 + i % 3))
        if i % 4 == 3:
            rows.append(said("Hello, who are you?", "I am MiniMind."))
        else:
            random_features(root / "parts" / f"{i}.npy", (3, 8)[i % 2], i)
            rows.append(said("<image>\nWhat is it?", *told, image=f"{i}.npy"))
    write_rows(root / "parts" / "rows.jsonl", rows)
    return root / "parts"


@pytest.fixture(scope="module")
def experiment(parts, tmp_path_factory):
    made = write_parts(tmp_path_factory.mktemp("same") / "again")
    stream = replace(dict(made.branches)["video"], weights=str(parts / "clip"))
    return replace(
        made, llm=str(parts / "s"), branches=(("video", stream),), reducer=replace(made.reducer, dropout=0.1)
    )


def short(stage: str, experiment, parts: Path, out: Path, start: Path | None = None, **changes) -> Path:
    source = Source([parts / "rows.jsonl"], parts)
    return train(stage, experiment, source, start or parts / "s", out, replace(SHORT, **changes))


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def files_of(folder: Path) -> dict[str, bytes]:
    """All but what names the folder, or tells the time."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("log.jsonl", "experiment.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", RUNS)
def test_the_originals_runs_come_out_as_recorded(name, experiment, parts, tmp_path):
    run = json.loads((RECORDED / "train_loop" / "meta.json").read_text())
    trainable, run = run["trainable"][name], run["runs"][name]
    branches = "st" if "_st" in name else "s"
    rows = write_rows(tmp_path / "rows.jsonl", recorded_rows(int(run["rows"].split("[:")[1].split("]")[0])))
    recipe = Recipe(run["epochs"], run["batch_size"], run["accumulation"], run["lr"], 192, reference=True)
    own = replace(experiment, reducer=replace(experiment.reducer, branches=branches, dropout=0.0))
    source = Source([rows], features=RECORDED / "fixtures" / "features_T8")
    path = train(name.split("_")[0], own, source, parts / branches, tmp_path / "run", recipe)
    header, *steps = log_of(tmp_path / "run")
    assert len(header["trains"]) == len(trainable)
    # What the original logs in each pass stands in one line a step here; its first epoch leaves a pass over.
    passes = [[0, 1], [2, 3, 4]] if recipe.accumulation == 2 else [[i] for i in range(len(run["steps"]))]
    assert len(steps) == len(passes)
    for step, own_passes in zip(steps, passes, strict=True):
        assert step["loss"] == pytest.approx(sum(run["steps"][i]["loss"] for i in own_passes), rel=1e-6)
        assert step["lr"] == pytest.approx(run["steps"][own_passes[-1]]["lr"], rel=1e-12)
    before, after = recorded_weights(branches), weights.read(path)
    assert sorted(k for k in after if not torch.equal(after[k], before[k])) == sorted(run["changed"])
    recorded = load_file(RECORDED / "train_loop" / "tensors.safetensors")
    compared = {key: value for key, value in recorded.items() if key.startswith(f"{name}.after.")}
    assert compared
    for key, value in compared.items():
        difference = (after[key.removeprefix(f"{name}.after.")] - value).abs().max().item()
        assert difference < (1e-5 if recipe.accumulation == 2 else 1e-6), key


def test_learning_rates_are_the_recorded_ones():
    table = json.loads((RECORDED / "lr_schedule" / "meta.json").read_text())["table"]
    for row in table:
        for step, value in row["values"].items():
            assert learning_rate(int(step), row["total"], row["base_lr"]) == pytest.approx(value, rel=1e-12)
    steps = plan(160, replace(RECIPES["pretrain"], epochs=2))
    assert (steps[0].rate, len(steps)) == (pytest.approx(1.1), 20)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_steps_hold_the_same_samples_on_any_number_of_processes(processes):
    recipe = Recipe(epochs=3, batch_size=4, accumulation=2)
    alone, own = plan(40, recipe), plan(40, recipe, processes)
    assert [sorted(sum(s.passes, [])) for s in own] == [sorted(sum(s.passes, [])) for s in alone]
    assert [s.rate for s in own] == [s.rate for s in alone]
    assert all(len(step.passes) % processes == 0 for step in own)
    seen = [i for step in alone for batch in step.passes for i in batch]
    for epoch in range(3):
        assert sorted(seen[40 * epoch : 40 * (epoch + 1)]) == list(range(40))
    assert seen[:40] != seen[40:80] and seen[:40] != list(range(40))


def test_killed_training_ends_as_a_straight_one(experiment, parts, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    short("sft", experiment, parts, straight)
    script = (
        "import os, pickle, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from videogpt_plus.training.cinego.stages import train\n"
        "die = lambda step, steps, loss: os.kill(os.getpid(), signal.SIGKILL) if step == 3 else None\n"
        "train(*pickle.loads(open(sys.argv[1], 'rb').read()), progress=die)\n"
    )
    given = ("sft", experiment, Source([parts / "rows.jsonl"], parts), parts / "s", killed, SHORT)
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    done = fork_server.run([sys.executable, "-c", script, tmp_path / "given"], timeout=900, env={**os.environ, **HERE})
    assert done.returncode == -signal.SIGKILL
    assert (killed / "checkpoint-2" / "COMPLETE").exists() and not list(killed.glob("*.pth"))
    short("sft", experiment, parts, killed)
    assert log_of(killed) == log_of(straight)
    found, wanted = files_of(killed), files_of(straight)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_a_finished_training_is_left_as_it_is_and_another_one_refused(experiment, parts, tmp_path):
    path = short("pretrain", experiment, parts, tmp_path / "run")
    before = files_of(tmp_path / "run")
    assert short("pretrain", experiment, parts, tmp_path / "run") == path
    assert files_of(tmp_path / "run") == before
    with pytest.raises(UserError, match="holds another training .*learning_rate: 0.001 there, 0.002 now"):
        short("pretrain", experiment, parts, tmp_path / "run", learning_rate=2e-3)


def test_what_a_stage_trains_and_what_stays(experiment, parts, tmp_path):
    before = recorded_weights("s")
    path = short("pretrain", experiment, parts, tmp_path / "pretrain")
    assert path.name == "pretrain_videolm_64.pth"
    moved = {k for k, v in weights.read(path).items() if not torch.equal(v, before[k])}
    assert {k.split(".")[0] for k in moved} == {"layers", "vision_proj", "video_summarizer"}
    assert all(k.startswith("layers.1.") for k in moved if k.startswith("layers."))
    path = short("sft", experiment, parts, tmp_path / "sft", start=path)
    moved = {k for k, v in weights.read(path).items() if not torch.equal(v, before[k])}
    assert moved == before.keys()


def test_the_last_folder_is_a_run_that_answers(experiment, parts, tmp_path):
    short("sft", experiment, parts, tmp_path / "run", epochs=1)
    own = load_experiment(tmp_path / "run")
    assert own == replace(experiment, llm=str(tmp_path / "run"))
    model = load_model(own, tmp_path / "run", "cpu", torch.float32)
    trained = weights.read(tmp_path / "run")
    assert all(torch.equal(value, trained[key]) for key, value in model.checkpoint_state().items())


@pytest.mark.parametrize("experts", [None, Experts()])
def test_a_language_model_from_nothing_learns_its_text(experts, experiment, parts, tmp_path):
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": "A man opens the door."}, said("Who?", "A man."), said("a", "b")]
    )
    recipe = Recipe(epochs=30, batch_size=3, learning_rate=3e-3, max_length=90)
    size = replace(SIZE, experts=experts)
    path = train("lm", experiment, Source([rows]), parts / "s", tmp_path / "lm", recipe, size=size)
    assert path.name == f"lm_64{'_moe' if experts else ''}.pth"
    losses = [line["loss"] for line in log_of(tmp_path / "lm")[1:]]
    assert losses[0] == pytest.approx(np.log(352), abs=0.5)
    assert losses[-1] < losses[0] / 4
    assert weights.load_lm(path).size == size
    if experts is None:
        again = short("pretrain", experiment, parts, tmp_path / "pretrain", start=path, epochs=1)
        kept, begun = weights.read(again), weights.read(path)
        assert all(torch.equal(kept[k], v) for k, v in begun.items() if not k.startswith("layers.1."))


@pytest.mark.parametrize(
    ("stage", "start", "told"),
    [
        ("lm", None, "lm starts from nothing"),
        ("pretrain", "missing", "not found"),
        ("pretrain", "clip", "no weights in"),
        ("sft", "missing/pretrain_videolm_64.pth", "not found"),
        ("sft", "lm", "has no projection and no summary"),
    ],
)
def test_a_missing_start_is_an_error_and_no_random_one(stage, start, told, experiment, parts, tmp_path):
    lm = tmp_path / "lm"
    shutil.copytree(parts / "s", lm)
    (lm / "pretrain_videolm_64.pth").unlink()
    weights.save(lm / "lm_64.pth", weights.lm_part(recorded_weights("s")))
    begin = {None: None, "lm": lm}.get(start, parts / str(start))
    source = Source([parts / "rows.jsonl"], parts)
    with pytest.raises(UserError, match=told):
        train(stage, experiment, source, begin, tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


def test_bfloat16_and_float16(experiment, parts, tmp_path):
    short("pretrain", experiment, parts, tmp_path / "32", epochs=1)
    path = short("pretrain", experiment, parts, tmp_path / "16", epochs=1, dtype="bfloat16")
    assert all(value.dtype == torch.float32 for value in weights.read(path).values())
    for exact, rounded in zip(log_of(tmp_path / "32")[1:], log_of(tmp_path / "16")[1:], strict=True):
        assert rounded["loss"] != exact["loss"]
        assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="float16 .*choose bfloat16"):
            short("pretrain", experiment, parts, tmp_path / "half", dtype="float16")


def test_features_that_are_not_there_end_no_training(experiment, parts, tmp_path):
    random_features(tmp_path / "a.npy", 3)
    rows = [said("<image>", "Hello.", image=f"{name}.npy") for name in ("gone", "a", "n" * 300)]
    rows.append(said("What \ud83d?", "Hello."))
    source = Source([write_rows(tmp_path / "rows.jsonl", rows)], tmp_path)
    told: list[str] = []
    recipe = replace(SHORT, epochs=1)
    assert train("pretrain", experiment, source, parts / "s", tmp_path / "run", recipe, say=told.append).is_file()
    listed = read_substitutions(tmp_path / "run" / "substituted.jsonl")
    assert sorted((line["sample"], line["replaced_by"]) for line in listed) == [(0, 1), (2, 1)]
    assert len(told) == 1 and told[0].startswith(f"left out: cannot read {tmp_path / 'rows.jsonl'}: line 4: ")
    assert log_of(tmp_path / "run")[0]["left_out"] == 1


def test_what_does_not_fit_is_told_and_in_the_log(experiment, parts, tmp_path):
    said_lines: list[str] = []
    random_features(tmp_path / "a.npy", 3)
    rows = [said("Hi.", "Hello."), said("Hello " * 200, "No."), said("<image>", "Hello " * 90, image="a.npy")]
    source = Source([write_rows(tmp_path / "rows.jsonl", rows)], tmp_path)
    train(
        "pretrain", experiment, source, parts / "s", tmp_path / "run", replace(SHORT, epochs=1), say=said_lines.append
    )
    assert said_lines == [
        "1 rows have no part of an answer within 120 tokens and are left out; 1 lose a part of theirs"
    ]
    header = log_of(tmp_path / "run")[0]
    assert (header["samples"], header["left_out"], header["answers_cut"]) == (2, 1, 1)


def test_preprocessed_clips_are_not_decoded_again(experiment, parts, tmp_path):
    """Media are the recorded ones; their features are those that the original extracted, and so is the training."""
    media = tmp_path / "media"
    shutil.copytree(RECORDED / "fixtures" / "media", media)
    (media / "torn.MP4").write_bytes(b"nothing")
    store = GridCache(tmp_path / "store", "float32")
    files = media_files(media)
    assert [f.name for f in files] == ["clip_a.mp4", "clip_b.mkv", "img_c.png", "img_d.jpg", "torn.MP4"]
    first = preprocess(experiment, files[:2], store)
    done = preprocess(experiment, files, store)
    assert (first.new, done.new, done.kept, list(done.failed)) == (2, 2, 2, [str(media / "torn.MP4")])
    rows = write_rows(tmp_path / "rows.jsonl", recorded_rows(4))
    for path in media.iterdir():  # the same content, which no decoder can read: it has to come out of the store
        if path.suffix == ".mkv":
            assert store.read(_key(experiment, store, path))["video"].shape == (8, 1, 5, 32)
    source = Source([rows], media, store=store)
    train("pretrain", experiment, source, parts / "s", tmp_path / "run", replace(SHORT, epochs=1))
    assert not read_substitutions(tmp_path / "run" / "substituted.jsonl")
    kept = store.read(_key(experiment, store, media / "clip_b.mkv"))["video"]
    recorded = read_features(RECORDED / "fixtures" / "features_T8" / "clip_b.npy")
    torch.testing.assert_close(kept, recorded, atol=1e-4, rtol=0)


def _key(experiment, store: GridCache, path: Path) -> str:
    settings = store.settings(experiment.branches, experiment.sampling, "float32")
    return store.key(path, None, None, None, settings)


def test_features_of_something_else_are_refused(experiment, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    store = GridCache(tmp_path / "store", "float32")
    preprocess(experiment, [tmp_path / "a.png"], store)
    check_sidecar(experiment, store)
    with pytest.raises(UserError, match="features for something else .frames: 8 there, 16 now.: run .*preprocess"):
        check_sidecar(with_settings(experiment, {"sampling.num_frames": 16}), store)
    with pytest.raises(UserError, match="dtype: 'float32' there, 'bfloat16' now"):
        check_sidecar(experiment, GridCache(tmp_path / "store", "bfloat16"))
    with pytest.raises(UserError, match="none of 1 files can be read"):
        preprocess(experiment, [tmp_path / "missing.mp4"], store)


def test_features_files_belong_to_one_medium_each(experiment, parts, tmp_path):
    rows = [said("<image>", "x", image="a/1.mp4"), said("<image>", "y", image="b/1.mp4")]
    source = Source([write_rows(tmp_path / "rows.jsonl", rows)], "media", tmp_path)
    with pytest.raises(UserError, match="media/a/1.mp4 and media/b/1.mp4 would both have the features .*1.npy"):
        train("pretrain", experiment, source, parts / "s", tmp_path / "run", SHORT)


def test_two_processes_make_the_steps_of_one(experiment, parts, tmp_path):
    """DDP, with rows of text alone among the others: a process whose pass shows nothing must not hold up the other."""
    own = replace(experiment, reducer=replace(experiment.reducer, dropout=0.0))
    alone = short("sft", own, parts, tmp_path / "alone")
    given = ("sft", own, Source([parts / "rows.jsonl"], parts), parts / "s", tmp_path / "together", SHORT)
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    script = tmp_path / "train.py"
    script.write_text(
        "import pickle, sys\n"
        "from videogpt_plus.training.cinego.stages import train\n"
        "train(*pickle.loads(open(sys.argv[1], 'rb').read()))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, script, tmp_path / "given"], check=True, timeout=900, env={**os.environ, **HERE})
    first, second = (log_of(tmp_path / name) for name in ("alone", "together"))
    assert (first[0]["processes"], second[0]["processes"]) == (1, 2)
    for one, two in zip(first[1:], second[1:], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["lr"] == one["lr"]
    found = weights.read(tmp_path / "together")
    for key, value in weights.read(alone).items():
        assert (found[key] - value).abs().max() < 5e-5, key
