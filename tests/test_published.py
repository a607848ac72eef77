"""Files as others publish them: every layout gives the same model, and what does not fit is told in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.encoders.loading import load_encoder, preprocessor
from videogpt_plus.io.files import write_json
from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.types import Clip, UserError


class Wicked:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


@pytest.fixture(scope="module")
def model(tiny_experiment):
    return load_model(tiny_experiment, None, "cpu", torch.float32)


@pytest.fixture
def parts(tiny_experiment, tmp_path) -> Path:
    """A copy of the tiny parts to be changed: llm/, clip/, internvideo2.pt."""
    shutil.copytree(tiny_experiment.llm, tmp_path / "llm")
    streams = dict(tiny_experiment.branches)
    shutil.copytree(streams["image"].weights, tmp_path / "clip")
    torch.save({"module": load_file(streams["video"].weights)}, tmp_path / "internvideo2.pt")
    return tmp_path


def pointed(experiment: Experiment, parts: Path) -> Experiment:
    """The experiment with its parts in this folder."""
    image, video = (stream for _, stream in experiment.branches)
    streams = (
        ("image", replace(image, weights=str(parts / "clip"))),
        ("video", replace(video, weights=str(parts / "internvideo2.pt"))),
    )
    return replace(experiment, llm=str(parts / "llm"), branches=streams)


def load(experiment: Experiment, parts: Path, run: Path | None = None):
    return load_model(pointed(experiment, parts), run, "cpu", torch.float32)


def same_frozen(one, other) -> bool:
    """Whether LLM and encoders are the same; projectors are random."""
    frozen = [{n: t for n, t in m.state_dict().items() if not n.startswith("projectors.")} for m in (one, other)]
    return frozen[0].keys() == frozen[1].keys() and all(torch.equal(frozen[0][n], frozen[1][n]) for n in frozen[0])


def take_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return state


def one_pickle(folder: Path, state: dict) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def one_file(folder: Path, state: dict) -> None:
    save_file(state, folder / "model.safetensors")


def shards(suffix: str) -> Callable[[Path, dict], None]:
    """Two shards with their index, as huggingface_hub and transformers publish them."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"

    def write(folder: Path, state: dict) -> None:
        keys, names = sorted(state), [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
        for name, own in zip(names, (keys[::2], keys[1::2]), strict=True):
            part = {key: state[key] for key in own}
            (save_file if suffix == "safetensors" else torch.save)(part, folder / name)
        where = {key: names[i % 2] for i, key in enumerate(keys)}
        write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": 1}, "weight_map": where})

    return write


LAYOUTS = {
    "one file": one_file,
    "shards": shards("safetensors"),
    "one pickle": one_pickle,
    "shards of pickles": shards("bin"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_hugging_face_folder_gives_the_same_model(layout, parts, tiny_experiment, model):
    for folder in (parts / "llm", parts / "clip"):
        LAYOUTS[layout](folder, take_weights(folder))
    assert same_frozen(load(tiny_experiment, parts), model)


def test_leftover_files_beside_the_published_ones_are_not_read(parts, tiny_experiment, model):
    """A half-precision variant or an old pickle must not overwrite what the folder's main file says."""
    for folder in (parts / "llm", parts / "clip"):
        state = load_file(folder / "model.safetensors")
        save_file({key: torch.zeros_like(value) for key, value in state.items()}, folder / "model.fp16.safetensors")
        one_pickle(folder, {key: torch.zeros_like(value) for key, value in state.items()})
    assert same_frozen(load(tiny_experiment, parts), model)


@pytest.mark.parametrize("folder", ["llm", "clip"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_missing_shard_is_named(suffix, folder, parts, tiny_experiment):
    shards(suffix)(parts / folder, take_weights(parts / folder))
    lost = next((parts / folder).glob(f"*00002-of-00002.{suffix}"))
    lost.unlink()
    with pytest.raises(UserError, match=f"shard of .*index.json not found: {lost} does not exist"):
        load(tiny_experiment, parts)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 3}])
def test_an_index_that_names_no_shards_is_refused(weight_map, parts, tiny_experiment):
    take_weights(parts / "clip")
    write_json(parts / "clip/model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(UserError, match="model.safetensors.index.json names no shards"):
        load(tiny_experiment, parts)


PREFIXES = ["", "vision_model.", "model.image_vision_tower.vision_tower.vision_model."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_clip_s_keys_are_read_in_every_spelling(prefix, parts, tiny_experiment, model):
    state = {f"{prefix}{key}": value for key, value in take_weights(parts / "clip").items()}
    one_file(parts / "clip", state)
    assert same_frozen(load(tiny_experiment, parts), model)


def test_a_whole_clip_with_its_text_tower_gives_the_same_features(parts, tiny_experiment, model):
    """The config of both towers, keys with `vision_model.`, `position_ids`, sizes as plain numbers: as published."""
    vision = json.loads((parts / "clip/config.json").read_text())
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 50}, projection_dim=8)
    whole = {key: value.clone() for key, value in CLIPModel(config).state_dict().items()}
    own = {f"vision_model.{key}": value for key, value in take_weights(parts / "clip").items()}
    assert any(key.startswith("text_model.") for key in whole) and "logit_scale" in whole
    positions = {"vision_model.embeddings.position_ids": torch.arange(145)[None]}
    one_pickle(parts / "clip", {**whole, **own, **positions})
    config.save_pretrained(parts / "clip")
    size = {"crop_size": 48, "size": 48, "do_center_crop": True, "do_normalize": True, "do_resize": True}
    colours = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    published = {**size, **colours, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    old = preprocessor(tiny_experiment.branches[0][1])
    write_json(parts / "clip/preprocessor_config.json", published)
    assert same_frozen(load(tiny_experiment, parts), model)
    clip = Clip(torch.randint(0, 255, (2, 3, 60, 80), dtype=torch.uint8), (0.0, 1.0), "noise")
    new = preprocessor(pointed(tiny_experiment, parts).branches[0][1])
    assert torch.equal(new(clip), old(clip))


def test_a_clip_with_keys_of_another_model_is_told_with_both_lists(parts, tiny_experiment):
    state = take_weights(parts / "clip")
    state["logit_scale_2"] = state.pop("post_layernorm.weight")
    one_file(parts / "clip", state)
    with pytest.raises(UserError, match="missing: post_layernorm.weight; unexpected: logit_scale_2;"):
        load(tiny_experiment, parts)


def test_both_spellings_of_one_key_are_refused(parts, tiny_experiment):
    state = take_weights(parts / "clip")
    one_file(parts / "clip", {**state, "vision_model.pre_layrnorm.bias": torch.ones(32)})
    with pytest.raises(UserError, match="name 'pre_layrnorm.bias' twice"):
        load(tiny_experiment, parts)


#: What the published file of InternVideo2 holds beside the tower.
HEADS = [
    *("vision_encoder.clip_projector.norm1_q.weight", "vision_encoder.clip_decoder.0.head.weight"),
    *("vision_encoder.final_clip_decoder.head.weight", "vision_encoder.clip_pos_embed"),
    *("vision_encoder.clip_img_pos_embed", "vision_encoder.blocks.2.norm1.weight", "vision_proj.weight"),
    *("text_encoder.bert.embeddings.word_embeddings.weight", "text_proj.bias", "itm_head.weight", "temp"),
]


@pytest.mark.parametrize("wrapped", ["model", "module", None])
@pytest.mark.parametrize("prefix", ["", "vision_encoder.", "model.vision_tower.vision_encoder."])
def test_internvideo2_is_read_in_every_wrapping_and_spelling(prefix, wrapped, parts, tiny_experiment, model):
    state = read_tensors(parts / "internvideo2.pt")
    before = "model.vision_tower." if prefix.startswith("model.") else ""
    heads = {f"{before}{key}": torch.zeros(3) for key in HEADS}
    if not prefix:
        heads = {key.replace("vision_encoder.", ""): value for key, value in heads.items()}
    state = {**{f"{prefix}{key}": value for key, value in state.items()}, **heads}
    torch.save({wrapped: state} if wrapped else state, parts / "internvideo2.pt")
    assert same_frozen(load(tiny_experiment, parts), model)


@pytest.mark.parametrize(
    "like", ["temporal_embed", "clip_pos_embed_2", "clip_projector2.weight", "blocks.20.ls1.gamma"]
)
def test_a_key_that_only_looks_like_an_unused_one_is_told_with_the_missing_ones(like, parts, tiny_experiment):
    state = read_tensors(parts / "internvideo2.pt")
    state[like] = state.pop("blocks.1.ls2.gamma")
    torch.save({"model": state}, parts / "internvideo2.pt")
    with pytest.raises(UserError, match=f"missing: blocks.1.ls2.gamma; unexpected: {like};"):
        load(tiny_experiment, parts)


def pickles(parts: Path) -> dict[str, Path]:
    """Every place where a pickle may lie."""
    for name in ("mm_projector", "tuned"):
        (parts / name).mkdir()
    return {
        "llm": parts / "llm/pytorch_model.bin",
        "clip": parts / "clip/pytorch_model.bin",
        "internvideo2": parts / "internvideo2.pt",
        "projectors": parts / "mm_projector/mm_projector.bin",
        "adapter": parts / "tuned/adapter_model.bin",
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["llm", "clip", "internvideo2", "projectors", "adapter"])
def test_a_pickle_that_would_run_code_is_refused_wherever_it_lies(place, zipped, parts, tiny_experiment, model):
    path, run = pickles(parts)[place], None
    if place in ("llm", "clip"):
        take_weights(path.parent)
    if place in ("projectors", "adapter"):
        run = path.parent
    if place == "adapter":
        save_tensors(run / "projectors.safetensors", model.projector_state())
    torch.save({"weight": Wicked(parts / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as error:
        load(tiny_experiment, parts, run)
    assert str(error.value) == (
        f"cannot read weights {path}: it is a pickle that wants to run posix.mkdir, which was refused; nothing of it "
        "was run. Only tensors are read: download it again from its publisher, or as safetensors"
    )
    assert not (parts / "ran").exists()


WRONG = [
    ("llm", {"hidden_size": "64"}, "'hidden_size' expected int"),
    ("llm", {"intermediate_size": [1]}, "'intermediate_size' expected int"),
    ("llm", {"num_attention_heads": 0}, "ZeroDivisionError"),
    ("llm", {"vocab_size": -1}, "Padding_idx"),
    ("llm", {"hidden_act": "fast"}, "KeyError: 'fast'"),
    ("llm", {"rope_parameters": 3}, "'rope_parameters'"),
    ("llm", {"tie_word_embeddings": "yes"}, "'tie_word_embeddings' expected bool"),
    ("llm", {"dtype": "float33"}, "float33"),
    ("clip", {"hidden_size": "32"}, "'hidden_size' expected int"),
    ("clip", {"num_hidden_layers": "3"}, "'num_hidden_layers' expected int"),
    ("clip", {"num_attention_heads": 0}, "ZeroDivisionError"),
    ("clip", {"patch_size": 0}, "ZeroDivisionError"),
    ("clip", {"image_size": [1]}, "TypeError"),
    ("clip", {"vision_config": 3}, "TypeError"),
    ("clip", {"intermediate_size": -2}, "negative dimension"),
]


@pytest.mark.parametrize(("part", "values", "said"), WRONG)
def test_a_config_with_an_impossible_value_is_named_in_one_line(part, values, said, parts, tiny_experiment):
    path = parts / part / "config.json"
    write_json(path, {**json.loads(path.read_text()), **values})
    with pytest.raises(UserError) as error:
        load(tiny_experiment, parts)
    line = str(error.value)
    assert line.startswith(f"{path} has an impossible value (") and said in line and "\n" not in line
    assert line.endswith("; correct it or download it again")


@pytest.mark.parametrize(
    "values",
    [{"crop_size": "x"}, {"size": [1]}, {"image_mean": "a"}, {"image_std": [0.1]}, {"rescale_factor": "x"}],
)
def test_a_preprocessing_config_with_an_impossible_value_is_named(values, parts, tiny_experiment):
    path = parts / "clip/preprocessor_config.json"
    write_json(path, {**json.loads(path.read_text()), **values})
    with pytest.raises(UserError, match=f"^{path} has an impossible value"):
        preprocessor(pointed(tiny_experiment, parts).branches[0][1])


@pytest.mark.parametrize("values", [{"tokenizer_class": 3}, {"eos_token": [1]}, {"added_tokens_decoder": 3}])
def test_a_tokenizer_with_an_impossible_value_is_named(values, parts, tiny_experiment):
    path = parts / "llm/tokenizer_config.json"
    write_json(path, {**json.loads(path.read_text()), **values})
    with pytest.raises(UserError, match=f"^the tokenizer in {path.parent} has an impossible value"):
        load(tiny_experiment, parts)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": "four"}, "has an impossible value"),
        ({"target_modules": ["nothing"]}, "has an impossible value"),
        ({"peft_type": "IA3"}, "describes no LoRA adapter"),
        ({"peft_type": None}, "describes no LoRA adapter"),
    ],
)
def test_a_lora_config_with_an_impossible_value_is_named(values, said, parts, tiny_experiment, model):
    run = lora_run(parts, tiny_experiment)
    path = run / "adapter_config.json"
    write_json(path, {**json.loads(path.read_text()), **values})
    with pytest.raises(UserError, match=f"^{path} {said}"):
        load(tiny_experiment, parts, run)


# The vocabulary. The reference cuts the table of embeddings to its tokenizer's length, ours keeps the LLM's: a
# checkpoint may hold either.


def lora_run(parts: Path, experiment: Experiment, **tables: torch.Tensor) -> Path:
    """A run folder with a LoRA that changes something, and `tables` beside it."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import Qwen2ForCausalLM

    from videogpt_plus.models.lora import TARGETS

    torch.manual_seed(3)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS, task_type="CAUSAL_LM", init_lora_weights=False)
    llm = get_peft_model(Qwen2ForCausalLM.from_pretrained(parts / "llm"), lora)
    run = parts / "run"
    run.mkdir()
    save_tensors(run / "projectors.safetensors", load(experiment, parts).projector_state())
    state = get_peft_model_state_dict(llm, save_embedding_layers=False)
    names = {"embed": "base_model.model.model.embed_tokens.weight", "head": "base_model.model.lm_head.weight"}
    save_tensors(run / "adapter_model.safetensors", {**state, **{names[key]: t for key, t in tables.items()}})
    config = {**lora.to_dict(), "target_modules": TARGETS}
    write_json(run / "adapter_config.json", config)
    return run


def head(model) -> torch.Tensor:
    """Logits of a few ids: Float "n v"."""
    with torch.inference_mode():
        return model.llm(torch.tensor([[5, 9, 200, 7]])).logits[0]


@pytest.mark.parametrize("tied", [True, False])
def test_an_llm_saved_with_the_cut_table_loads_and_gives_the_same_logits(tied, parts, tiny_experiment, model):
    entries = len(model.tokenizer)
    state = take_weights(parts / "llm")
    assert len(state["model.embed_tokens.weight"]) == entries + 8
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:entries].clone()
    if not tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    one_file(parts / "llm", state)
    config = json.loads((parts / "llm/config.json").read_text())
    write_json(parts / "llm/config.json", {**config, "vocab_size": entries, "tie_word_embeddings": tied})
    cut = load(tiny_experiment, parts)
    assert head(cut).shape[-1] == entries
    assert torch.equal(head(cut), head(model)[:, :entries])


def test_a_cut_table_under_a_config_that_was_not_cut_is_told_with_its_shape(parts, tiny_experiment, model):
    state = take_weights(parts / "llm")
    rows, entries = len(state["model.embed_tokens.weight"]), len(model.tokenizer)
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:entries].clone()
    one_file(parts / "llm", state)
    with pytest.raises(
        UserError, match=rf"wrong shape: .*embed_tokens.weight \({entries}, 64\) instead of \({rows}, 64"
    ):
        load(tiny_experiment, parts)


def test_a_tokenizer_with_more_entries_than_the_table_is_refused(parts, tiny_experiment, model):
    model_rows = model.llm.get_input_embeddings().weight.shape[0]
    tokenizer = type(model.tokenizer).from_pretrained(parts / "llm")
    tokenizer.add_tokens([f"<more{i}>" for i in range(9)])
    tokenizer.save_pretrained(parts / "llm")
    with pytest.raises(UserError, match=f"embeddings for {model_rows} tokens, its tokenizer {model_rows + 1} entries"):
        load(tiny_experiment, parts)


@pytest.mark.parametrize("more", [0, 8])
def test_embeddings_beside_a_lora_are_taken_at_either_size(more, parts, tiny_experiment, model):
    entries = len(model.tokenizer)
    plain = load(tiny_experiment, parts, lora_run(parts, tiny_experiment))
    shutil.rmtree(parts / "run")
    table = plain.llm.get_input_embeddings().weight.detach().clone()
    table[: entries + more] += 1
    rows = table[: entries + more].clone()
    taken = load(tiny_experiment, parts, lora_run(parts, tiny_experiment, embed=rows, head=rows))
    assert torch.equal(taken.llm.get_input_embeddings().weight, table)
    assert not torch.equal(head(taken)[:, :entries], head(plain)[:, :entries])


@pytest.mark.parametrize(("rows", "width"), [(100, 64), (400, 64), (323, 32)])
def test_embeddings_that_fit_neither_size_are_refused(rows, width, parts, tiny_experiment):
    run = lora_run(parts, tiny_experiment, embed=torch.zeros(rows, width))
    with pytest.raises(UserError, match=rf"embed_tokens.weight \({rows}, {width}\) does not fit a tokenizer of 323"):
        load(tiny_experiment, parts, run)


# The tokenizer that a run was trained with.


def test_a_run_s_own_tokenizer_is_used_rather_than_its_llm_s(parts, tiny_experiment, model):
    run = lora_run(parts, tiny_experiment)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(parts / "llm" / name, run)
    tokenizer = type(model.tokenizer).from_pretrained(parts / "llm")
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(parts / "llm")
    assert len(load(tiny_experiment, parts, run).tokenizer) == len(model.tokenizer)
    (run / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="run/tokenizer.json is not JSON .*copy the LLM's again"):
        load(tiny_experiment, parts, run)


def test_an_encoder_is_the_same_in_half_precision_files(parts, tiny_experiment):
    """The published InternVideo2 is stored in half precision; what it is computed in is the caller's choice."""
    state = {key: value.half() for key, value in read_tensors(parts / "internvideo2.pt").items()}
    torch.save({"module": state}, parts / "internvideo2.pt")
    stream = pointed(tiny_experiment, parts).branches[1][1]
    encoder = load_encoder(stream, "cpu", torch.float32)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.tower.pos_embed, state["pos_embed"].float())
