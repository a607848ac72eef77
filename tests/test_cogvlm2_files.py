"""CogVLM2's files: converted both ways, refused where they are something else, asked through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import coded_frames, render_mp4
from parity.cogvlm2 import Recordings
from PIL import Image
from safetensors.torch import load_file, save_file

from eval.answers.answer import read_answers
from eval.answers.runs import answer_runs
from videogpt_plus.app import cli
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import EXPERIMENTS, at_level
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.convert import convert_family, differing
from videogpt_plus.io import shards
from videogpt_plus.io.model_folders import read_folder
from videogpt_plus.models.loading import load_model, load_models
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import UserError

pytestmark = pytest.mark.usefixtures("quick_pictures")

ROOT = Path(__file__).parent / "golden_families"
FAMILIES = ("cogvlm2_image", "cogvlm2_video")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def published(family, tmp_path_factory) -> Path:
    """A folder laid out as the published one."""
    recordings = Recordings(ROOT / family, tmp_path_factory.mktemp("published"))
    return Path(recordings.fresh().tokenizer.name_or_path)


def edited(published: Path, folder: Path, change) -> Path:
    """A copy whose tensors `change` has edited."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((published / name).read_bytes())
    state = load_file(published / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def test_a_finite_value_beyond_a_dtype_is_refused_and_nothing_is_left(family, published, tmp_path):
    for key in ("model.norm.weight", "model.vision.boi"):  # in a shard, and in the projector's file
        folder = edited(published, tmp_path / key, lambda state, key=key: state[key].view(-1)[:1].fill_(1e6))
        with pytest.raises(UserError, match=f"{key} holds .*beyond float16's largest number: choose --dtype bfloat16"):
            convert_family(family, folder, tmp_path / "new/half", "float16")
        assert not any((tmp_path / "new").glob("*")) and not any((tmp_path / "new").glob(".*"))


def test_there_and_back_is_bit_for_bit_the_same(family, published, tmp_path):
    assert convert_family(family, published, tmp_path / "ours", shard_bytes=100_000) == "ours"
    assert convert_family(family, tmp_path / "ours", tmp_path / "back", shard_bytes=100_000) == "published"
    before, after = read_folder(published), read_folder(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[k].dtype == after[k].dtype and torch.equal(before[k], after[k]) for k in before)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
        (published / "config.json").read_text()
    )
    assert len(list((tmp_path / "ours/llm").glob("*.safetensors"))) > 2
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (published / "tokenizer.json").read_bytes()


def test_a_converted_folder_is_a_run_that_computes_the_same(family, published, tmp_path):
    convert_family(family, published, tmp_path / "ours", "float32")
    moved = tmp_path / "moved"  # a run folder finds its own parts wherever it stands
    (tmp_path / "ours").rename(moved)
    experiment = load_experiment(moved)
    ours = load_model(experiment, moved, "cpu", torch.float32)
    stream = experiment.branches[0][0]
    theirs = Recordings(ROOT / family, tmp_path).fresh()
    pixels = torch.randn(1, 2, 3, experiment.branches[0][1].pixels, experiment.branches[0][1].pixels)
    with torch.inference_mode():
        grids = [model.encoders[stream](pixels)[0] for model in (ours, theirs)]
        tokens = [model.tokens_of([{stream: grid}])[0] for model, grid in zip((ours, theirs), grids, strict=True)]
        logits = [
            m.causal(t[None], torch.arange(len(t))[None]).logits for m, t in zip((ours, theirs), tokens, strict=True)
        ]
    assert torch.equal(*grids) and torch.equal(*tokens) and torch.equal(*logits)


def test_no_more_than_a_shard_is_held(family, published, tmp_path, monkeypatch):
    held = []
    usual = shards.save_tensors
    monkeypatch.setattr(
        shards, "save_tensors", lambda path, tensors: (held.append(tensors.copy()), usual(path, tensors))
    )
    convert_family(family, published, tmp_path / "ours", shard_bytes=60_000)
    sizes = [sum(t.nbytes for t in own.values()) for own in held[:-1]]
    assert all(size <= 60_000 or len(own) == 1 for size, own in zip(sizes, held, strict=False))


def test_verify_tells_a_tensor_that_differs(family, published, tmp_path):
    convert_family(family, published, tmp_path / "ours", "bfloat16")
    assert differing(family, published, tmp_path / "ours", "bfloat16")[1] == []
    file = tmp_path / "ours/projectors.safetensors"
    state = load_file(file)
    key = next(key for key in state if key.endswith(".eoi"))
    state[key][0, 0, 0] += 1
    save_file(state, file)
    assert differing(family, published, tmp_path / "ours", "bfloat16")[1] == ["model.vision.eoi"]


def test_missing_and_unexpected_keys_are_listed_and_nothing_is_written(family, published, tmp_path):
    def change(state):
        del state["model.norm.weight"]
        state["model.extra"] = torch.zeros(1)
        state["model.vision.boi"] = torch.zeros(1, 1, 3)

    folder = edited(published, tmp_path / "broken", change)
    with pytest.raises(UserError) as told:
        convert_family(family, folder, tmp_path / "ours")
    for part in ("missing: model.norm.weight", "unexpected: model.extra", "model.vision.boi (1, 1, 3) instead of"):
        assert part in str(told.value)
    assert not (tmp_path / "ours").exists()


def test_look_alikes_are_refused_by_name(family, published, tmp_path):
    first = edited(published, tmp_path / "first", lambda s: [s.pop(k) for k in list(s) if ".vision.conv." in k])
    with pytest.raises(UserError, match="CogVLM, the first version"):
        convert_family(family, first, tmp_path / "ours")
    packed = edited(published, tmp_path / "packed", lambda s: s.update({"lm_head.weight.absmax": torch.zeros(1)}))
    with pytest.raises(UserError, match="packed by bitsandbytes"):
        convert_family(family, packed, tmp_path / "ours")
    other = next(name for name in FAMILIES if name != family)
    with pytest.raises(UserError, match=f"is {family}, not {other}"):
        convert_family(other, published, tmp_path / "ours")


def test_weights_of_the_other_modality_under_a_borrowed_config_are_told_by_their_keys(family, published, tmp_path):
    from videogpt_plus.families.cogvlm2.sizes import ARCHITECTURES

    other = next(name for name in FAMILIES if name != family)
    folder = edited(published, tmp_path / "borrowed", lambda state: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [ARCHITECTURES[other]]}))
    with pytest.raises(UserError, match=f"visual experts: it is {family}, not {other}"):
        convert_family(other, folder, tmp_path / "ours")


def test_frequencies_that_differ_between_layers_are_refused(family, published, tmp_path):
    key = "model.layers.1.self_attn.rotary_emb.inv_freq"
    folder = edited(published, tmp_path / "odd", lambda state: state[key].mul_(2))
    with pytest.raises(UserError, match="other rotary frequencies"):
        convert_family(family, folder, tmp_path / "ours")


def test_a_file_without_frequencies_loads(family, published, tmp_path):
    folder = edited(published, tmp_path / "bare", lambda s: [s.pop(k) for k in list(s) if k.endswith("inv_freq")])
    convert_family(family, folder, tmp_path / "ours")
    assert load_model(load_experiment(tmp_path / "ours"), tmp_path / "ours", "cpu", torch.float32).llm


# ------------------------------------------------------------------------------------------------ the command line
@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    render_mp4(path, coded_frames(60), 20)
    return path


def test_convert_and_predict_by_the_command_line(family, published, tmp_path, clip, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["convert", "--family", family, "--input", str(published), "--output", "ours", "--verify"])
    told = capsys.readouterr().out
    count = len(load_file(published / "model.safetensors"))
    assert f"ours: ours\n{count} of {count} tensors are bit for bit the same" in told
    cli.main(["predict", "ours", "What happens?", "--video", str(clip)])
    assert capsys.readouterr().out.endswith("\n")


def test_a_published_folder_named_as_a_run_says_where_it_belongs(family, published, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path(EXPERIMENTS[family].llm)
    place.parent.mkdir()
    place.symlink_to(published)
    for folder, told in ((published, f"put them at {place} and name the experiment {family}"), (place, "")):
        with pytest.raises(SystemExit):
            cli.main(["predict", str(folder), "What?", "--image", "a.png"])
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{folder} is no run folder" in error and told in error
        assert error.endswith(f"name the experiment {family}\n") and (told or "put" not in error)


def test_published_weights_are_asked_by_name_at_any_level(family, published, tmp_path, clip, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = json.loads((published / "config.json").read_text())
    streams = Recordings(ROOT / family, tmp_path / "unused").experiment(published, config).branches
    tiny = with_settings(
        EXPERIMENTS[family],
        {"name": "tiny_cog", "llm": str(published), "branches": streams, "prompting.max_new_tokens": 4},
    )
    monkeypatch.setitem(EXPERIMENTS, "tiny_cog", tiny)
    for name in ("tiny_cog", "tiny_cog_pool2"):
        cli.main(["predict", name, "What happens?", "--video", str(clip)])
    assert not Path("results").exists(), "to ask published weights once leaves nothing behind"
    runs = [(at_level(tiny, level), tmp_path) for level in (1, 2)]
    models = load_models(runs, "cpu", torch.float32, torch.float32)
    assert models[0].llm is models[1].llm and [m.reducers[m.stream].reducer.level for m in models] == [1, 2]


def test_a_sweep_over_levels_trains_nothing_and_reports(family, published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ensure_toy_data(tmp_path / "toy", Recipe(test_per_task=1, train_per_task=1, images=1, videos=1))
    config = json.loads((published / "config.json").read_text())
    streams = Recordings(ROOT / family, tmp_path / "unused").experiment(published, config).branches
    tiny = with_settings(
        EXPERIMENTS[family],
        {"name": "tiny_cog", "llm": str(published), "branches": streams, "prompting.max_new_tokens": 2},
    )
    tiny = with_settings(tiny, {"sampling.num_frames": min(tiny.num_frames, 2), "benchmark_root": "toy/bench"})
    monkeypatch.setitem(EXPERIMENTS, "tiny_cog", tiny)
    command = ["sweep", "tiny_cog", "--levels", "1", "2", "--controls", "blind", "--workers", "0"]
    cli.main([*command, "--dry-run"])
    told = capsys.readouterr().out
    assert "register tiny_cog_pool2" in told and "pretrain" not in told and "train tiny" not in told
    cli.main(command)
    rows = (tmp_path / "results/tiny_cog/report/sweep.csv").read_text()
    marks = tiny.num_frames * 2
    side = streams[0][1].grid
    assert (
        f",{tiny.num_frames * side**2 + marks}," in rows
        and f",{tiny.num_frames * max(1, side // 2) ** 2 + marks}," in rows
    )
    capsys.readouterr()
    cli.main(command)
    assert capsys.readouterr().out.count("finished before") >= 3


@pytest.mark.parametrize("control", [None, "blind"])
def test_a_benchmark_is_answered_at_several_levels_as_at_each_alone(family, published, tmp_path, control):
    root = tmp_path / "toy"
    ensure_toy_data(root, Recipe(test_per_task=1, train_per_task=1, images=1, videos=1))
    config = json.loads((published / "config.json").read_text())
    streams = Recordings(ROOT / family, tmp_path / "unused").experiment(published, config).branches
    base = with_settings(
        EXPERIMENTS[family],
        {"llm": str(published), "branches": streams, "prompting.max_new_tokens": 3, "sampling.num_frames": 4},
    )
    base = with_settings(base, {"sampling.num_frames": 1}) if family == "cogvlm2_image" else base
    folders = []
    for level in (1, 2):
        folders.append(tmp_path / f"level{level}")
        save_experiment(folders[-1], replace(at_level(base, level), benchmark_root=str(root / "bench")))
    eval_config = EvalConfig(workers=0, scoring="both", batch_size=3)
    answer_runs({folder: folder / "together.jsonl" for folder in folders}, control, eval_config=eval_config)
    for folder in folders:
        answer_runs({folder: folder / "alone.jsonl"}, control, eval_config=eval_config)
        together, alone = (read_answers(folder / f"{name}.jsonl") for name in ("together", "alone"))
        assert len(together) == 10 and together.keys() == alone.keys()
        for key, line in together.items():
            assert line["error"] is None
            assert (line["reply"], line["logprob_choice"]) == (alone[key]["reply"], alone[key]["logprob_choice"])
            assert line["logprob_margin"] == pytest.approx(alone[key]["logprob_margin"], abs=1e-3)
            assert (line["visual_tokens"] == 0) == (control == "blind")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["convert", "--family", "cogvlm3", "--input", "{published}", "--output", "x"], "unknown family 'cogvlm3'"),
        (["convert", "--family", "cogvlm2_image", "--input", "{published}"], "takes two folders"),
        (["convert", "{published}", "x", "--dtype", "float16"], "name it with --family"),
        (
            ["convert", "--family", "cogvlm2_image", "--input", "{published}", "--output", "x", "--dtype", "int4"],
            "int4",
        ),
        (["pretrain", "cogvlm2_video", "video"], "asked as it was published"),
        (["train", "cogvlm2_image_pool2", "--projectors", "a=b"], "asked as it was published"),
        (["predict", "cogvlm2_video_pool2", "What?", "--image", "a.png"], "weights of cogvlm2_video_pool2 not found"),
    ],
)
def test_what_is_wrong_is_one_line(args, told, published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")  # a missing picture would be told first
    with pytest.raises(SystemExit) as stopped:
        cli.main([arg.format(published=published) for arg in args])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_tokens_are_told_without_weights(capsys):
    cli.main(["tokens", "cogvlm2_video", "--levels", "1", "2"])
    shown = capsys.readouterr().out
    assert "1584" in shown and "432" in shown
