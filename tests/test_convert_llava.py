"""LLaVA-1.5's published layouts turned into each other, against the recorded files and transformers' own loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from parity.llava import CLIP, SPELLINGS, Recordings
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from videogpt_plus.app import cli
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.convert import convert_family, differing
from videogpt_plus.io import shards
from videogpt_plus.io.model_folders import read_folder
from videogpt_plus.models.loading import load_model
from videogpt_plus.types import UserError

RECORDED = Path(__file__).parent / "golden_families" / "llava15"
#: Layouts that are recorded, by the name that `convert --to` has for them.
LAYOUTS = {name: RECORDED / file for name, (file, _) in SPELLINGS.items()}
#: transformers 4 knows no tower without `vision_model.` in its names.
ONLY_5 = pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 5 writes and reads it")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Recordings:
    return Recordings(RECORDED, tmp_path_factory.mktemp("llava15"))


def edited(recordings: Recordings, folder: Path, layout: str, change) -> Path:
    """A copy of a layout's folder whose tensors `change` has edited, with the original's CLIP beside it."""
    shutil.copytree(recordings.folder(layout), folder)
    if layout == "original":
        shutil.copytree(recordings.folder(layout).parent / CLIP, folder.parent / CLIP)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_becomes_every_other_as_recorded(recordings, source, to, tmp_path):
    assert convert_family("llava15", recordings.folder(source), tmp_path / "new", shard_bytes=50_000, to=to) == to
    ours, theirs = read_folder(tmp_path / "new"), load_file(LAYOUTS[to])
    assert ours.keys() == theirs.keys() and len(list((tmp_path / "new").glob("*.safetensors"))) > 2
    base = recordings.config["base_vocab"]
    for key, value in theirs.items():
        added = source == "original" and to != "original" and len(value) == recordings.config["padded_vocab"]
        rows = base if added else len(value)
        assert ours[key].dtype == value.dtype and ours[key].shape == value.shape, key
        assert torch.equal(ours[key][:rows], value[:rows]) and not ours[key][rows:].any(), key
    assert differing("llava15", recordings.folder(source), tmp_path / "new")[1] == []


@pytest.mark.parametrize("source", LAYOUTS)
def test_the_usual_target_is_the_other_publishers(recordings, source, tmp_path):
    usual = convert_family("llava15", recordings.folder(source), tmp_path / "new")
    assert usual == ("hub" if source == "original" else "original")


@torch.inference_mode()
@pytest.mark.parametrize(("source", "to"), [("original", "hub"), ("original", "hub5"), ("hub", "original")])
def test_what_was_converted_is_a_run_that_computes_the_same(recordings, source, to, tmp_path):
    convert_family("llava15", recordings.folder(source), tmp_path / "new", "float32", to=to)
    moved = tmp_path / "moved"  # a folder finds its weights wherever it stands
    (tmp_path / "new").rename(moved)
    experiment = load_experiment(moved)
    ours = load_model(experiment, moved, "cpu", torch.float32)
    theirs = recordings.model(source)
    pixels = torch.randn(1, 2, 3, experiment.branches[0][1].pixels, experiment.branches[0][1].pixels)
    grids = [model.encoders["image"](pixels)[0] for model in (ours, theirs)]
    tokens = [m.tokens_of([{"image": grid}])[0] for m, grid in zip((ours, theirs), grids, strict=True)]
    base = recordings.config["base_vocab"]
    logits = [m.causal(inputs_embeds=t[None]).logits[..., :base] for m, t in zip((ours, theirs), tokens, strict=True)]
    assert torch.equal(*grids) and torch.equal(*tokens) and torch.equal(*logits)
    for text in ("What is it?", "größe\n☃", " a"):
        ids = [m.tokenizer(text, add_special_tokens=False).input_ids for m in (ours, theirs)]
        assert ids[0] == ids[1]


@torch.inference_mode()
@pytest.mark.parametrize("to", ["hub", pytest.param("hub5", marks=ONLY_5)])
def test_transformers_loads_what_came_of_the_original(recordings, to, tmp_path):
    convert_family("llava15", recordings.folder("original"), tmp_path / "new", to=to)
    loads = {"dtype": torch.float32, "output_loading_info": True}
    ours, told = LlavaForConditionalGeneration.from_pretrained(tmp_path / "new", **loads)
    theirs = LlavaForConditionalGeneration.from_pretrained(recordings.folder("hub"), dtype=torch.float32)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config, base = recordings.config, recordings.config["base_vocab"]
    ids = torch.tensor([[1, *[config["image_token"]] * config["image_tokens"], *range(20, 40)]])
    given = {"input_ids": ids, "pixel_values": torch.randn(1, 3, *[config["vision"]["image_size"]] * 2)}
    logits = [model.eval()(**given).logits[..., :base] for model in (ours, theirs)]
    assert torch.equal(*logits)


def test_the_hubs_tokens_stand_behind_the_originals(recordings, tmp_path):
    from transformers import AutoTokenizer

    convert_family("llava15", recordings.folder("original"), tmp_path / "new")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    base = recordings.config["base_vocab"]
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [base, base + 1]
    assert (config["image_token_index"], config["pad_token_id"]) == (base, base + 1)
    assert config["text_config"]["vocab_size"] == recordings.config["padded_vocab"]
    assert tokenizer("<s>a<image>").input_ids[-1] == base and tokenizer("a").input_ids[0] == tokenizer.bos_token_id


def test_rows_that_stand_for_no_token_stay_the_hubs(recordings, tmp_path):
    """From one of the Hub's layouts to the other nothing is cut, whatever stands in them."""
    key = "language_model.lm_head.weight"
    base = recordings.config["base_vocab"]
    folder = edited(recordings, tmp_path / "own", "hub", lambda state: state[key][base:].fill_(3.0))
    convert_family("llava15", folder, tmp_path / "new", to="hub5")
    assert (read_folder(tmp_path / "new")[key][base:] == 3).all()


def test_a_dtype_is_that_of_every_tensor_and_of_the_config(recordings, tmp_path):
    convert_family("llava15", recordings.folder("hub"), tmp_path / "new", "float16")
    assert {value.dtype for value in read_folder(tmp_path / "new").values()} == {torch.float16}
    assert json.loads((tmp_path / "new/config.json").read_text())["torch_dtype"] == "float16"
    assert differing("llava15", recordings.folder("hub"), tmp_path / "new", "float16")[1] == []
    assert len(differing("llava15", recordings.folder("hub"), tmp_path / "new")[1]) > 90  # not as they were stored


def test_a_release_in_pickles_without_a_tower_takes_the_clip_beside_it(recordings, tmp_path):
    prefix = "model.vision_tower.vision_tower."
    folder = edited(recordings, tmp_path / "own", "original", lambda state: None)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    tower |= {"text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(())}
    tower["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    rest["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    torch.save(rest, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"no weights in {tmp_path / CLIP}"):
        convert_family("llava15", folder, tmp_path / "new")
    save_file(tower, tmp_path / CLIP / "model.safetensors")
    convert_family("llava15", folder, tmp_path / "new")
    assert read_folder(tmp_path / "new").keys() == load_file(LAYOUTS["hub"]).keys()
    assert differing("llava15", folder, tmp_path / "new")[1] == []


def test_no_more_than_a_shard_is_held(recordings, tmp_path, monkeypatch):
    held, usual = [], shards.save_tensors
    monkeypatch.setattr(shards, "save_tensors", lambda path, own: (held.append(own.copy()), usual(path, own)))
    convert_family("llava15", recordings.folder("hub"), tmp_path / "new", shard_bytes=20_000)
    assert len(held) > 5
    assert all(sum(t.nbytes for t in own.values()) <= 20_000 or len(own) == 1 for own in held)


def test_verify_tells_a_tensor_that_differs(recordings, tmp_path):
    convert_family("llava15", recordings.folder("hub"), tmp_path / "new")
    file = sorted((tmp_path / "new").glob("*.safetensors"))[-1]
    state = load_file(file)
    state["model.mm_projector.2.bias"][0] += 1
    save_file(state, file)
    count, wrong, rounded = differing("llava15", recordings.folder("hub"), tmp_path / "new")
    assert not rounded and wrong == ["projector.linear_2.bias"] and count == len(load_file(LAYOUTS["hub"]))


def test_missing_and_unexpected_keys_are_listed_and_nothing_is_written(recordings, tmp_path):
    def change(state):
        del state["multi_modal_projector.linear_1.bias"]
        state["image_newline"] = torch.zeros(3)
        state["language_model.lm_head.weight"] = torch.zeros(3, 48)

    folder = edited(recordings, tmp_path / "own", "hub", change)
    with pytest.raises(UserError) as told:
        convert_family("llava15", folder, tmp_path / "new")
    for part in ("missing: projector.linear_1.bias", "unexpected: image_newline", "head.weight (3, 48) instead of"):
        assert part in str(told.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("layout", "change", "told"),
    [
        ("hub", {"architectures": ["LlavaNextForConditionalGeneration"]}, "is a 'LlavaNextForConditionalGeneration'"),
        ("hub", {"architectures": ["CogVLMForCausalLM"]}, "is a 'CogVLMForCausalLM', not LLaVA-1.5"),
        ("hub", {"quantization_config": {"load_in_4bit": True}}, "holds packed weights"),
        ("original", {"mm_projector_type": "linear"}, "is the first LLaVA"),
        ("original", {"mm_use_im_start_end": True}, "is the first LLaVA"),
        ("original", {"image_aspect_ratio": "anyres"}, "LLaVA-1.6"),
    ],
)
def test_look_alikes_are_refused_by_name(recordings, tmp_path, layout, change, told):
    folder = edited(recordings, tmp_path / "own", layout, lambda state: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=told):
        convert_family("llava15", folder, tmp_path / "new")


def test_packed_and_doubled_tensors_and_a_lora_are_refused(recordings, tmp_path):
    packed = {"language_model.lm_head.weight.absmax": torch.zeros(1)}
    folder = edited(recordings, tmp_path / "packed", "hub", lambda state: state.update(packed))
    with pytest.raises(UserError, match="packed by bitsandbytes"):
        convert_family("llava15", folder, tmp_path / "new")
    double = {"lm_head.weight": torch.zeros(320, 48)}
    folder = edited(recordings, tmp_path / "double", "hub", lambda state: state.update(double))
    with pytest.raises(UserError, match="a tensor under two names"):
        convert_family("llava15", folder, tmp_path / "new")
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="merge it first"):
        convert_family("llava15", folder, tmp_path / "new")


@pytest.mark.parametrize(("value", "refused"), [(65_504.0, False), (1e6, True), (-1e6, True), (float("inf"), False)])
def test_a_finite_value_beyond_a_dtype_is_refused_and_nothing_is_left(recordings, tmp_path, capsys, value, refused):
    """What is infinite in the source stays so."""
    key = "multi_modal_projector.linear_1.bias"

    def change(state):
        state[key] = state[key].float()
        state[key][3] = value

    folder = edited(recordings, tmp_path / "own", "hub", change)
    command = ["convert", "--family", "llava15", "--input", str(folder), "--output", str(tmp_path / "new/half")]
    command += ["--verify", "--dtype"]
    if not refused:
        cli.main([*command, "float16"])
        assert "tensors are the same after rounding to float16" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit):
        cli.main([*command, "float16"])
    told = capsys.readouterr()
    error = " ".join(told.err.split())
    assert f"projector.linear_1.bias holds {abs(value):g}, which is beyond float16's" in error
    assert "choose --dtype bfloat16" in error and told.err.count("\n") == 1 and told.out == ""
    assert not any(tmp_path.glob("new/*")) and not any(tmp_path.glob("new/.*"))
    cli.main([*command, "bfloat16"])
    assert "tensors are the same after rounding to bfloat16" in capsys.readouterr().out


def test_a_dtype_that_the_source_has_is_compared_bit_for_bit(recordings, tmp_path, capsys):
    half = tmp_path / "half"
    convert_family("llava15", recordings.folder("original"), half, "float16", to="hub")
    command = ["convert", "--family", "llava15", "--input", str(half), "--output", str(tmp_path / "new")]
    cli.main([*command, "--verify", "--dtype", "float16"])
    told = capsys.readouterr().out
    assert "tensors are bit for bit the same" in told and "left out" not in told  # the rows that we add are zero


def test_rows_behind_the_vocabulary_that_are_not_zero_are_told(recordings, tmp_path, capsys):
    base = recordings.config["base_vocab"]

    def change(state):
        head, table = (state[f"language_model.{key}.weight"] for key in ("lm_head", "model.embed_tokens"))
        head[base:], table[base:] = 0, 0
        head[base + 2, 0] = table[base + 2, 1] = head[base + 5, 2] = 1

    folder = edited(recordings, tmp_path / "own", "hub", change)
    command = ["convert", "--family", "llava15", "--input", str(folder), "--output"]
    cli.main([*command, str(tmp_path / "new")])
    assert "2 rows behind the vocabulary left out, not zero\n" in capsys.readouterr().out
    cli.main([*command, str(tmp_path / "kept"), "--to", "hub5"])
    assert "left out" not in capsys.readouterr().out


def test_convert_and_predict_by_the_command_line(recordings, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = str(recordings.folder("original"))
    cli.main(["convert", "--family", "llava15", "--input", source, "--output", "ours", "--verify"])
    count = len(load_file(LAYOUTS["original"]))
    assert f"hub: ours\n{count} of {count} tensors are bit for bit the same" in capsys.readouterr().out
    cli.main(["predict", "ours", "What is it?", "--image", str(RECORDED / "fixtures/img0.png")])
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ["--family", "llava15", "--to", "ours"],
            "unknown layout 'ours' of LLaVA-1.5; choose from: original, hub, hub5",
        ),
        (["--to", "hub"], "name it with --family llava15"),
        (["--family", "llava15", "--experiment", "llava15_7b"], "leave it out with --family"),
        (["--family", "llava15", "--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_what_is_wrong_is_one_line(recordings, args, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", "--input", str(recordings.folder("hub")), "--output", "x", *args])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert told in " ".join(error.split()) and error.count("\n") == 1
