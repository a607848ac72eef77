"""The tiny twins of published families: written on demand, asked, converted, swept and shown side by side."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from pathlib import Path

import fork_server
import pytest
import torch
from PIL import Image

from videogpt_plus.app import cli
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import EXPERIMENTS, TOY_FAMILIES, at_level
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.convert import convert_family, differing
from videogpt_plus.families import FAMILIES
from videogpt_plus.families.llava15 import twin as twin_of_llava
from videogpt_plus.families.twin import ensure_twin
from videogpt_plus.models.loading import load_model
from videogpt_plus.toy.render import Recipe, ensure_toy_data

#: Families that have a twin.
TWINS = [family.name for family in FAMILIES.values() if family.twin]
pytestmark = pytest.mark.usefixtures("quick_pictures")

#: What a published grid's side is to its twin's.
RATIO = 2


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder to work in, where all twins stand."""
    root = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert all(ensure_twin(f"{TOY_FAMILIES}/{family}") for family in TWINS)
    return root


@pytest.fixture
def here(written, monkeypatch) -> Path:
    monkeypatch.chdir(written)
    return written


def hashes(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.iterdir()}


def twin(family: str):
    return EXPERIMENTS[f"toy_{family}"]


def published(family: str):
    return EXPERIMENTS["llava15_7b" if family == "llava15" else family]


@pytest.mark.parametrize("family", TWINS)
def test_a_twin_is_written_once_and_always_alike(family, here, tmp_path, monkeypatch):
    folder = Path(TOY_FAMILIES) / family
    before = hashes(folder)
    assert not ensure_twin(folder) and not ensure_twin("elsewhere/llava15")
    monkeypatch.chdir(tmp_path)
    assert ensure_twin(folder) and hashes(folder) == before
    (folder / "made.json").write_text(json.dumps({"code": "another"}))
    (folder / "config.json").unlink()
    assert ensure_twin(folder) and hashes(folder) == before
    assert [p.name for p in folder.parent.glob("*.partial")] == []


def test_nothing_half_made_is_left_under_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(TOY_FAMILIES) / "llava15"
    monkeypatch.setattr(twin_of_llava, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensure_twin(folder)
    assert not folder.exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert ensure_twin(folder) and (folder / "config.json").is_file()


@pytest.mark.parametrize("family", TWINS)
def test_a_twin_is_the_real_class_with_weights_that_differ_from_nought(family, here):
    model = load_model(twin(family), None, "cpu", torch.float32)
    assert all(p.any() for p in model.parameters())
    real = load_model_class(family)
    assert type(model) is real and sum(p.numel() for p in model.parameters()) < 1_000_000


def load_model_class(family: str) -> type:
    from videogpt_plus.families.cogvlm2.model import CogVLM2
    from videogpt_plus.families.llava15.model import Llava

    return Llava if family == "llava15" else CogVLM2


@pytest.mark.parametrize("family", TWINS)
def test_grids_keep_the_real_ones_ratio_so_that_levels_differ(family):
    ours, theirs = (dict(e.branches).popitem()[1].grid for e in (twin(family), published(family)))
    assert theirs == RATIO * ours
    tokens = [num_visual_tokens(at_level(twin(family), level), 1) for level in (1, 2, 4)]
    assert tokens == sorted(set(tokens), reverse=True)


@pytest.mark.parametrize("family", TWINS)
def test_all_text_can_be_written_and_no_special_token_by_hand(family, here):
    tokenizer = load_model(twin(family), None, "cpu", torch.float32).tokenizer
    text = "größe ☃\n(A) <|end_of_text|></s>"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}


@pytest.mark.parametrize("family", TWINS)
def test_a_twin_is_converted_both_ways(family, here, tmp_path):
    source = Path(TOY_FAMILIES) / family
    convert_family(family, source, tmp_path / "there")
    convert_family(family, tmp_path / "there", tmp_path / "back")
    assert differing(family, source, tmp_path / "there")[1] == []
    assert differing(family, source, tmp_path / "back")[1] == []


def test_who_is_random_is_told_by_the_experiment():
    random = {name for name, experiment in EXPERIMENTS.items() if experiment.is_random}
    assert random >= {"toy_llava15", "toy_cogvlm2_image", "toy_cogvlm2_video"}
    assert not random & {"toy", "qwen1_5b", "qwen3b", "llava15_7b", "cogvlm2_image", "cogvlm2_video"}


# ------------------------------------------------------------------------------------------------ the command line
@pytest.mark.parametrize("family", TWINS)
def test_predict_writes_the_twin_and_says_that_it_means_nothing(family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), (200, 30, 30)).save("a.png")
    name = f"toy_{family}"
    cli.main(["predict", name, "What is it?", "--image", "a.png"])
    told = capsys.readouterr()
    assert told.out.endswith("\n") and f"{name}: its weights are random" in told.err
    assert not Path("results").exists() and [p.name for p in Path(".cache/toy/families").iterdir()] == [family]
    cli.main(["register", name, "--output-dir", "run"])
    capsys.readouterr()
    cli.main(["predict", "run", "What is it?", "--image", "a.png"])
    again = capsys.readouterr()
    assert again.out == told.out and f"{name}: its weights are random" in again.err


def test_families_of_one_sweeps_folder_stand_side_by_side(tmp_path, monkeypatch, capsys):
    """Two families, each swept over its levels into one folder: one table a family, one curve each, tests across."""
    monkeypatch.chdir(tmp_path)
    ensure_toy_data(tmp_path / "toy", Recipe(test_per_task=1, train_per_task=1, images=1, videos=1))
    for family, frames in (("llava15", 1), ("cogvlm2_video", 24)):
        small = with_settings(
            twin(family), {"benchmark_root": "toy/bench", "prompting.max_new_tokens": 3, "sampling.num_frames": frames}
        )
        monkeypatch.setitem(EXPERIMENTS, small.name, small)
        cli.main(["sweep", small.name, "--levels", "1", "4", "--controls", "blind", "--name", "both", "--workers", "0"])
    assert "its weights are random" in capsys.readouterr().err
    report = tmp_path / "results/both/report"
    with open(report / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # A frame a second: clips of some seconds have fewer than 24, and their tokens are what is reported.
    seen = {}
    for level in (1, 4):
        answers = Path(f"results/both/toy_cogvlm2_video_pool{level}/answers/answers.jsonl").read_text().splitlines()
        counts = [json.loads(line)["visual_tokens"] for line in answers]
        seen[level] = f"{round(sum(counts) / len(counts))}"
        assert 0 < max(counts) < num_visual_tokens(at_level(twin("cogvlm2_video"), level), 24)
    tokens = {(row["experiment"], row["control"], row["visual_tokens"]) for row in rows}
    assert tokens == {
        ("toy_llava15_pool1", "none", "144"),
        ("toy_llava15_pool4", "none", "9"),
        ("toy_llava15_pool4", "blind", "0"),
        ("toy_cogvlm2_video_pool1", "none", seen[1]),
        ("toy_cogvlm2_video_pool4", "none", seen[4]),
        ("toy_cogvlm2_video_pool4", "blind", "0"),
    }
    page = (report / "index.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert {f"{name}: accuracy by task" for name in ("toy_llava15", "toy_cogvlm2_video")} <= set(headings)
    assert "Sanity checks" not in headings, "random weights have nothing to prove"
    assert "weights are random" in re.sub(r"\s+", " ", page) and "toy_cogvlm2_video, toy_llava15" in page
    with open(report / "pairs.csv", newline="") as file:
        compared = {(row["first"], row["second"]) for row in csv.DictReader(file)}
    llava, cog = ([f"toy_{family}_pool{level}" for level in (1, 4)] for family in ("llava15", "cogvlm2_video"))
    assert compared == {tuple(llava), tuple(cog), *zip(cog, llava, strict=True)}
    assert all(row["flops"] not in ("", "0") for row in rows if row["control"] == "none")


def test_writing_a_twin_needs_no_network(tmp_path):
    """Nothing is asked of any host: sockets are out of order while it is written."""
    code = (
        "import socket\n"
        "socket.socket.connect = lambda *a: (_ for _ in ()).throw(AssertionError(a))\n"
        "from videogpt_plus.families.twin import ensure_twin\n"
        f"assert ensure_twin('{TOY_FAMILIES}/llava15') and ensure_twin('{TOY_FAMILIES}/cogvlm2_video')"
    )
    done = fork_server.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
