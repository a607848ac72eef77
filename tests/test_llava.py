"""LLaVA-1.5 against the original's recorded values, against transformers' own model, and against itself."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from clips import coded_frames, render_mp4
from parity import check_folder
from parity.llava import CLIP, SPELLINGS, Recordings, answers
from parity.rows import Row, names
from PIL import Image
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from test_fetch import LOOPBACK, server  # noqa: F401, a fixture
from transformers import LlavaConfig, LlavaForConditionalGeneration

from videogpt_plus.app import cli
from videogpt_plus.clips import fetch
from videogpt_plus.clips.video import middle_indices, read_clip
from videogpt_plus.config.experiment import Lora, Sampling, with_settings
from videogpt_plus.config.experiments import EXPERIMENTS, LLAVA15_7B, TOY_WEIGHTS, at_level, get_experiment
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.families.llava15 import encoder
from videogpt_plus.families.llava15.model import Llava, build_whole, load_tokenizer
from videogpt_plus.io.files import located
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model, load_models
from videogpt_plus.reducers import build_reducer
from videogpt_plus.reducers.average import Average
from videogpt_plus.text import chat
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError

pytestmark = pytest.mark.usefixtures("quick_pictures")

ROOT = Path(__file__).parent / "golden_families"
RECORDED = ROOT / "llava15"
#: The toy's own tokenizer is written by transformers 5, which earlier ones cannot read.
OURS = pytest.mark.skipif(transformers.__version__ < "5", reason="of transformers 5")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Recordings:
    found = Recordings(RECORDED, tmp_path_factory.mktemp("llava15"))
    assert found.model("hub") and found.model("original")  # loaded here, outside of any test's inference mode
    return found


@pytest.fixture(scope="module")
def model(recordings) -> Llava:
    return recordings.model("hub")


# ------------------------------------------------------------------------------------------------ the original
@pytest.mark.parametrize("case", names(RECORDED))
def test_recorded_values(case):
    rows: list[Row] = []
    check_folder(ROOT, f"llava15/{case}", rows.append)
    assert [row for row in rows if row.failed] == [] and any(row.ok for row in rows)


def test_parity_notices_a_wrong_weight(tmp_path):
    shutil.copytree(RECORDED, tmp_path / "llava15")
    file = tmp_path / "llava15" / SPELLINGS["hub5"][0]
    state = load_file(file)
    state["multi_modal_projector.linear_2.bias"] += 0.01
    save_file(state, file)
    rows: list[Row] = []
    check_folder(tmp_path, "llava15/hf", rows.append)
    failed = {row.quantity for row in rows if row.failed}
    assert "hf_short: last logits (hub5 weights)" in failed and not any("(hub weights)" in name for name in failed)


# ------------------------------------------------------------------------------------------------ transformers
@pytest.fixture(scope="module")
def theirs(recordings) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(recordings.folder("hub"), dtype=torch.float32).eval()


def asked(recordings: Recordings, question: str, number: int | None, template: str = "llava_hub"):
    """A row of ids and its picture."""
    shown = [recordings.picture(number, "pad")] if number is not None else []
    tokenizer = recordings.model("hub").tokenizer
    return chat.encode_prompt(tokenizer, question, [v.placeholders for v in shown], template), shown


@torch.inference_mode()
def test_logits_and_answers_are_those_of_transformers(recordings, model, theirs):
    row, shown = asked(recordings, "What is in the picture?", 1)
    count = recordings.config["image_tokens"]
    ids = [
        i for token in row for i in ([recordings.config["image_token"]] * count if token == PLACEHOLDER else [token])
    ]
    given = {"input_ids": torch.tensor([ids]), "pixel_values": shown[0].pixels["image"]}
    ours = torch.tensor([row])
    logits = model(ours, torch.ones_like(ours).bool(), ours.clamp(min=0), [shown]).logits
    assert torch.allclose(logits, theirs(**given).logits, atol=2e-5)
    generated = theirs.generate(**given, max_new_tokens=8, do_sample=False, eos_token_id=-1)
    assert answers(model, [row], [shown], 8)[0] == generated[0, len(ids) :].tolist()


@torch.inference_mode()
def test_answers_do_not_depend_on_the_batch(recordings, model):
    many = [asked(recordings, *pair) for pair in (("What?", 0), ("How many people are there?", 1), ("Why?", None))]
    rows, visuals = zip(*many, strict=True)
    together = answers(model, rows, visuals, 8)
    assert together == [answers(model, [row], [own], 8)[0] for row, own in many]
    assert len(set(map(tuple, together))) == 3


@torch.inference_mode()
def test_ids_that_stand_for_no_text_are_never_chosen(recordings):
    own = recordings.fresh("hub")
    own.causal.lm_head.weight[recordings.config["base_vocab"] :] = 100 * own.causal.lm_head.weight[:20]
    row, shown = asked(recordings, "What?", 0)
    assert own.vocabulary == recordings.config["base_vocab"] == recordings.model("original").vocabulary
    assert max(answers(own, [row], [shown], 6)[0]) < own.vocabulary


@torch.inference_mode()
def test_an_answer_ends_with_the_end_of_text(recordings):
    own = recordings.fresh("hub")
    row, shown = asked(recordings, "What?", 0)
    (first,) = answers(own, [row], [shown], 1)[0]
    weight = own.causal.lm_head.weight
    weight[[first, own.tokenizer.eos_token_id]] = weight[[own.tokenizer.eos_token_id, first]]
    assert own.generate_ids([row], [shown], 5) == [[own.tokenizer.eos_token_id]]


# ------------------------------------------------------------------------------------------------ files
def laid_out(recordings: Recordings, folder: Path, spelling: str, state: dict, pickled: bool = False) -> str:
    """A copy of a spelling's folder that holds `state`."""
    shutil.copytree(recordings.folder(spelling), folder)
    (folder / "model.safetensors").unlink()
    if pickled:
        names = sorted(state)
        shards = {f"pytorch_model-0000{i}-of-00002.bin": names[i - 1 :: 2] for i in (1, 2)}
        for file, keys in shards.items():
            torch.save({key: state[key].bfloat16() for key in keys}, folder / file)
        index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        save_file(state, folder / "model.safetensors")
    return str(folder)


def loaded(recordings: Recordings, spelling: str, folder: str) -> Llava:
    experiment = recordings.experiment(spelling)
    streams = tuple((name, replace(stream, weights=folder)) for name, stream in experiment.branches)
    return load_model(replace(experiment, llm=folder, branches=streams), None, "cpu", torch.float32)


def same(a: Llava, b: Llava) -> bool:
    ours, other = a.state_dict(), b.state_dict()
    return ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in ours)


@pytest.mark.parametrize("table", ["legacy_to_v5_in_memory", "legacy_to_457_in_memory_spec_only"])
def test_names_of_a_model_in_memory_are_read(recordings, table, tmp_path):
    names = json.loads((RECORDED / "key_names.json").read_text())[table]
    state = load_file(RECORDED / SPELLINGS["hub"][0])
    folder = laid_out(recordings, tmp_path / "own", "hub", {names[key]: value for key, value in state.items()})
    assert same(loaded(recordings, "hub", folder), recordings.model("hub"))


def test_what_transformers_saves_is_read(recordings, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "saved")
    shutil.copytree(recordings.folder("hub"), tmp_path / "own")
    shutil.copytree(tmp_path / "saved", tmp_path / "own", dirs_exist_ok=True)
    assert same(loaded(recordings, "hub", str(tmp_path / "own")), recordings.model("hub"))


def test_a_release_in_pickled_shards_is_read_with_its_leftovers(recordings, tmp_path):
    state = load_file(RECORDED / SPELLINGS["original"][0])
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    folder = laid_out(recordings, tmp_path / "own", "original", state, pickled=True)
    (tmp_path / CLIP).mkdir()
    shutil.copy(recordings.folder("original").parent / CLIP / "config.json", tmp_path / CLIP)
    assert same(loaded(recordings, "original", folder), recordings.model("original"))


def test_a_release_without_a_tower_takes_the_clip_beside_it(recordings, tmp_path):
    prefix = "model.vision_tower.vision_tower."
    state = load_file(RECORDED / SPELLINGS["original"][0])
    tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    folder = laid_out(recordings, tmp_path / "own", "original", rest)
    (tmp_path / CLIP).mkdir()
    shutil.copy(recordings.folder("original").parent / CLIP / "config.json", tmp_path / CLIP)
    save_file(tower, tmp_path / CLIP / "model.safetensors")
    assert same(loaded(recordings, "original", folder), recordings.model("original"))
    shutil.rmtree(tmp_path / CLIP)
    with pytest.raises(UserError, match=f"hold no vision tower; download openai/{CLIP} to {tmp_path / CLIP}"):
        encoder.load(replace(recordings.experiment("original").branches[0][1], weights=folder))


def test_what_is_missing_or_too_much_is_listed(recordings, tmp_path):
    state = load_file(RECORDED / SPELLINGS["hub"][0])
    del state["multi_modal_projector.linear_1.bias"]
    state["image_newline"] = torch.zeros(3)
    state["language_model.lm_head.weight"] = torch.zeros(3, 48)
    folder = laid_out(recordings, tmp_path / "own", "hub", state)
    with pytest.raises(UserError) as told:
        loaded(recordings, "hub", folder)
    for part in ("missing: projector.linear_1.bias", "unexpected: image_newline", "head.weight (3, 48) instead of"):
        assert part in str(told.value)


def test_a_tensor_under_two_names_is_refused(recordings, tmp_path):
    state = load_file(RECORDED / SPELLINGS["hub"][0])
    state["lm_head.weight"] = state["language_model.lm_head.weight"].clone()
    folder = laid_out(recordings, tmp_path / "own", "hub", state)
    with pytest.raises(UserError, match="a tensor under two names: language_model.lm_head.weight, lm_head.weight"):
        loaded(recordings, "hub", folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"architectures": ["LlavaNextForConditionalGeneration"]},
            "is a 'LlavaNextForConditionalGeneration', not LLaVA",
        ),
        ({"image_grid_pinpoints": [[336, 672]]}, r"is LLaVA-1.6 \(LLaVA-NeXT\)"),
        ({"quantization_config": {"load_in_4bit": True}}, "holds packed weights"),
        ({"vision_feature_layer": -1}, r"takes features \(-1, 'default'\)"),
        ({"vision_feature_select_strategy": "full"}, r"takes features \(-2, 'full'\)"),
        ({"text_config": {"model_type": "mistral"}}, "its language model is a 'mistral'"),
        ({"architectures": ["CogVLMForCausalLM"]}, "is a 'CogVLMForCausalLM', not LLaVA-1.5"),
    ],
)
def test_look_alikes_are_refused_by_name(recordings, tmp_path, change, told):
    config = json.loads((recordings.folder("hub") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=told):
        encoder.read_config(tmp_path)


def test_other_sizes_than_the_experiments_are_told(recordings):
    experiment = recordings.experiment("hub")
    ((name, stream),) = experiment.branches
    for change, told in (({"width": 33}, "says 33"), ({"pixels": 42, "grid": 3}, "the experiment's stream says")):
        with pytest.raises(UserError, match=told):
            load_model(replace(experiment, branches=((name, replace(stream, **change)),)), None, "cpu", torch.float32)


# ------------------------------------------------------------------------------------------------ sizes
def test_full_size():
    """7B as the Hub has it: 64 rows more than the original's 32,000, and names of the shapes in its files."""
    with torch.device("meta"):
        whole = build_whole(LlavaConfig(text_config={"model_type": "llama", "vocab_size": 32064}))
    shapes = {encoder.canonical(key): tuple(value.shape) for key, value in whole.state_dict().items()}
    rows, width, mlp, vision = 32064, 4096, 11008, 1024
    layer = 4 * width**2 + 3 * width * mlp + 2 * width
    block = 4 * (vision**2 + vision) + 2 * vision * 4096 + 4096 + vision + 4 * vision
    tower = 24 * block + 3 * 14**2 * vision + 577 * vision + vision + 4 * vision
    projector = vision * width + width + width**2 + width
    assert sum(p.numel() for p in whole.parameters()) == 2 * rows * width + 32 * layer + width + tower + projector
    assert sum(p.numel() for p in whole.parameters()) == 7_063_427_072
    assert shapes["text.embed_tokens.weight"] == shapes["head.weight"] == (32064, 4096)
    assert shapes["text.layers.31.mlp.gate_proj.weight"] == (11008, 4096)
    assert shapes["tower.embeddings.position_embedding.weight"] == (577, 1024)
    assert shapes["tower.encoder.layers.23.self_attn.q_proj.weight"] == (1024, 1024)
    assert shapes["projector.linear_1.weight"] == (4096, 1024) and shapes["projector.linear_2.weight"] == (4096, 4096)


def test_on_meta_there_are_names_and_shapes_alone(recordings):
    own = load_model(recordings.experiment("hub"), None, "meta", torch.bfloat16)
    there = recordings.model("hub").state_dict()
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in there.items()}
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in own.parameters())


@pytest.mark.parametrize(("level", "tokens"), [(1, 576), (2, 144), (4, 36), (8, 9), (16, 4), (24, 1)])
def test_the_level_is_a_dial_on_the_grid(level, tokens):
    assert num_visual_tokens(at_level(LLAVA15_7B, level), 1) == tokens
    assert num_visual_tokens(get_experiment(f"llava15_7b_max_pool{level}"), 8) == 8 * tokens


@torch.inference_mode()
@pytest.mark.parametrize("level", [1, 2, 4])
def test_any_level_is_the_same_weights_with_fewer_tokens(recordings, model, level):
    own = Llava(model.llm, model.tokenizer, model.encoders, model.projectors, {"image": build_reducer(Average(level))})
    row, shown = asked(recordings, "What?", 0)
    (grids,) = own.encode(shown)
    (tokens,), (whole,) = own.tokens_of([grids]), model.tokens_of([grids])
    assert len(tokens) == (4 // level) ** 2 and torch.equal(tokens, whole) == (level == 1)
    assert torch.allclose(tokens.mean(0), whole.mean(0), atol=1e-5)  # equal cells: pooling keeps the mean
    assert len(own.generate_ids([row], [shown], 3)[0]) == 3


def test_runs_at_several_levels_share_all_but_the_adapter(recordings, tmp_path):
    experiment = recordings.experiment("hub")
    runs = [(at_level(experiment, level), tmp_path) for level in (1, 4)]
    models = load_models(runs, "cpu", torch.float32, torch.float32)
    assert models[0].llm is models[1].llm and models[0].encoders["image"] is models[1].encoders["image"]
    assert [own.reducers["image"].reducer.level for own in models] == [1, 4]
    with pytest.raises(UserError, match="see clips differently"):
        load_models(
            [runs[0], (with_settings(experiment, {"sampling.num_frames": 2}), tmp_path)],
            "cpu",
            torch.float32,
            torch.float32,
        )


# ------------------------------------------------------------------------------------------------ text
@pytest.mark.parametrize(
    "text", ["What is it?", "two  spaces ", "größe\n\n☃ 数", "tab\there", "a</s>b<image>", "\n", ""]
)
def test_the_originals_tokenizer_is_sentencepieces(recordings, text):
    ours = load_tokenizer(recordings.folder("original"))
    pieces = SentencePieceProcessor(model_file=str(recordings.folder("original") / "tokenizer.model"))
    assert chat.text_ids(ours, text) == pieces.encode(text)
    assert chat.text_ids(ours, text) == chat.text_ids(recordings.model("hub").tokenizer, text)


def test_a_damaged_tokenizer_is_one_line(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="tokenizer.model has an impossible value"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="LLaVA's tokenizer not found"):
        load_tokenizer(tmp_path.parent)


def said(tokenizer, ids: list[int]) -> str:
    """Ids as text, one piece between pictures after the other."""
    place = ids.index(PLACEHOLDER)
    return f"{tokenizer.decode(ids[:place])}<image>{tokenizer.decode(ids[place + 1 :])}"


def test_both_forms_of_a_prompt(model):
    system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    system += "detailed, and polite answers to the user's questions. "
    for template, begin in (("llava_v1", system), ("llava_hub", "")):
        ids = chat.encode_prompt(model.tokenizer, "What?", [1], template)
        assert said(model.tokenizer, ids) == f"<s> {begin}USER: <image>\nWhat? ASSISTANT:"
        assert ids.count(model.tokenizer.bos_token_id) == 1 and ids[0] == model.tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["llava_v1", "llava_hub", pytest.param("qwen2", marks=OURS)])
def test_a_question_with_a_past_is_the_conversation_up_to_it(template, model):
    from transformers import AutoTokenizer

    qwen2 = located(f"{TOY_WEIGHTS}/llm")
    tokenizer = AutoTokenizer.from_pretrained(qwen2) if template == "qwen2" else model.tokenizer
    turns = [("human", "<image>\nA dog?"), ("gpt", "Yes."), ("human", "What colour?"), ("gpt", "Black.")]
    turns = [{"from": who, "value": text} for who, text in turns]
    ids, labels = chat.encode_conversation(tokenizer, turns, [1], template)
    asked = chat.encode_prompt(tokenizer, "What colour?", [1], template, [("A dog?", "Yes.")])
    last = next(i for i in range(len(labels) - 1, 0, -1) if labels[i] != IGNORE and labels[i - 1] == IGNORE)
    assert ids[:last] == asked and labels.count(PLACEHOLDER) == 0


def test_every_answer_and_its_end_is_supervised(model):
    turns = [("human", "<image>\nA dog?"), ("gpt", "Yes."), ("human", "What colour?"), ("gpt", "Black.")]
    turns = [{"from": who, "value": text} for who, text in turns]
    ids, labels = chat.encode_conversation(model.tokenizer, turns, [1], "llava_v1")
    kept = [i for i, label in enumerate(labels) if label != IGNORE]
    assert model.tokenizer.decode([ids[i] for i in kept]) == "Yes.</s> Black.</s>"


def test_no_question_can_close_its_own_turn(model):
    ids = chat.encode_prompt(model.tokenizer, "</s>USER: <image>", [1], "llava_v1")
    assert ids.count(PLACEHOLDER) == 1 and model.tokenizer.eos_token_id not in ids
    assert model.causal.config.image_token_index not in ids


def test_turns_that_do_not_alternate_are_one_line(model):
    turns = [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]
    with pytest.raises(UserError, match="do not alternate"):
        chat.encode_conversation(model.tokenizer, turns, [], "llava_v1")


# ------------------------------------------------------------------------------------------------ frames
def test_the_frames_in_the_middle_of_equal_parts_are_taken():
    table = {
        (1, 1): [0],
        (2, 1): [1],
        (9, 1): [4],
        (10, 2): [2, 7],
        (3, 8): [0, 1, 2],
        (12, 4): [1, 4, 7, 10],
        (0, 1): [],
    }
    assert {key: middle_indices(*key) for key in table} == table


def test_a_clip_is_seen_by_its_middle_frame(recordings, tmp_path):
    render_mp4(tmp_path / "clip.mp4", coded_frames(41), 20)
    whole = read_clip(tmp_path / "clip.mp4", 41, sampling="even")
    seen = read_clip(tmp_path / "clip.mp4", 1, sampling="middle")
    assert torch.equal(seen.frames[0], whole.frames[20])
    assert read_clip(tmp_path / "clip.mp4", 1, 1.0, 2.0, sampling="middle").seconds == (1.5,)
    assert recordings.prepare.sampling.rule == "middle"
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(9):
        Image.new("RGB", (4, 4), (20 * i, 0, 0)).save(frames / f"{i}.png")
    assert read_clip(frames, 1, sampling="middle").frames[0, 0, 0, 0] == 20 * 3  # the second of 0, 3 and 6
    assert len(read_clip(frames, 2, sampling="middle").frames) == 2


@torch.inference_mode()
def test_several_frames_are_pictures_one_behind_the_other(recordings, model, tmp_path):
    from videogpt_plus.clips.prefetch import Preparation

    render_mp4(tmp_path / "clip.mp4", coded_frames(40), 20)
    visual = Preparation(recordings.experiment("hub").branches, Sampling(3, "middle"))(tmp_path / "clip.mp4")
    ids = chat.encode_prompt(model.tokenizer, "What?", [visual.placeholders], "llava_v1")
    (tokens,) = model.tokens_of(model.encode([visual]))
    assert ids.count(PLACEHOLDER) == 3 and len(tokens) == 3 * 16
    assert len(model.generate_ids([ids], [[visual]], 2)[0]) == 2


# ------------------------------------------------------------------------------------------------ LoRA
def test_a_lora_is_on_the_language_model_alone_and_merges_into_it(recordings, tmp_path):
    from peft import get_peft_model_state_dict

    row, shown = asked(recordings, "What?", 0)
    ids = torch.tensor([row])
    given = (ids, torch.ones_like(ids).bool(), ids.clamp(min=0), [shown])
    own = recordings.fresh("hub")
    plain = own(*given).logits
    own.add_lora(Lora(r=2, alpha=4, dropout=0.0))
    wrapped = {name for name, _ in own.named_modules() if name.endswith("lora_A")}
    assert len(wrapped) == 7 * recordings.config["text"]["num_hidden_layers"]
    with torch.no_grad():
        for name, parameter in own.llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    beside = own(*given).logits
    save_tensors(tmp_path / "adapter_model.safetensors", get_peft_model_state_dict(own.llm))
    own.llm.peft_config["default"].save_pretrained(tmp_path)
    again = load_model(recordings.experiment("hub"), tmp_path, "cpu", torch.float32)
    assert torch.allclose(again(*given).logits, beside, atol=1e-4) and not torch.allclose(beside, plain, atol=1e-2)


# ------------------------------------------------------------------------------------------------ the command line
@pytest.fixture
def tiny(recordings, tmp_path, monkeypatch) -> str:
    """The name of the tiny twin, as an experiment of its own."""
    monkeypatch.chdir(tmp_path)
    own = with_settings(recordings.experiment("hub"), {"prompting.max_new_tokens": 3, "benchmark_root": "toy/bench"})
    monkeypatch.setitem(EXPERIMENTS, own.name, own)
    return own.name


def test_predict_takes_a_picture_a_video_and_several_questions(tiny, tmp_path, capsys):
    render_mp4(tmp_path / "clip.mp4", coded_frames(20), 20)
    picture = RECORDED / "fixtures" / "img0.png"
    cli.main(["predict", tiny, "What is it?", "--image", str(picture)])
    cli.main(["predict", f"{tiny}_pool2", "What is it?", "Why?", "--image", str(picture)])
    cli.main(["predict", tiny, "What is it?", "--video", "clip.mp4"])
    assert len(capsys.readouterr().out.splitlines()) >= 4
    assert not Path(f"results/{tiny}_pool2").exists(), "to ask once leaves no run behind"


def test_a_further_question_goes_on_with_the_conversation(tiny, monkeypatch, capsys):
    asked, usual = [], chat.encode_prompt
    monkeypatch.setattr(chat, "encode_prompt", lambda *a: (asked.append(a[1:]), usual(*a))[1])
    cli.main(["predict", tiny, "One?", "Two?", "--image", str(RECORDED / "fixtures" / "img0.png")])
    first = capsys.readouterr().out.removesuffix("\n")
    assert [(question, counts) for question, counts, *_ in asked] == [("One?", [1]), ("Two?", [1])]
    ((question, reply),) = asked[1][3]
    assert question == "One?" and first.startswith(reply)


def test_predict_fetches_a_picture_and_sees_what_is_in_it(tiny, server, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(fetch, "fetch_image", partial(fetch.fetch_image, allow=LOOPBACK))
    monkeypatch.setattr("test_fetch.picture", lambda form: (RECORDED / "fixtures" / "img1.png").read_bytes())
    cli.main(["predict", tiny, "What is it?", "--image", f"{server.url}/picture/PNG"])
    fetched = capsys.readouterr().out
    cli.main(["predict", tiny, "What is it?", "--image", str(RECORDED / "fixtures" / "img1.png")])
    assert capsys.readouterr().out == fetched and len(server.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--image", "{url}/picture", "--no-url"], "--no-url fetches none"),
        (["--image", "{url}/picture"], "127.0.0.1, inside a network and not public"),
        (["--image", "file:///etc/passwd"], "'file' is no http or https address"),
        (["--image", "notes.txt"], "cannot read notes.txt: there is no such file"),
    ],
)
def test_what_predict_does_not_fetch(tiny, server, arguments, told, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", tiny, "What?", *(a.format(url=server.url) for a in arguments)])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and told in " ".join(line.split()) and server.asked == []


def test_a_sweep_over_levels_trains_nothing_and_reports(tiny, tmp_path, capsys):
    ensure_toy_data(tmp_path / "toy", Recipe(test_per_task=1, train_per_task=1, images=1, videos=1))
    cli.main(["sweep", tiny, "--levels", "1", "4", "--controls", "blind", "--workers", "0"])
    with open(tmp_path / f"results/{tiny}/report/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = {(row["experiment"], row["visual_tokens"]) for row in rows}
    assert tokens >= {(f"{tiny}_pool1", "16"), (f"{tiny}_pool4", "1"), (f"{tiny}_pool4", "0")}
    assert not list(tmp_path.glob("results/*/pretrain"))


def test_tokens_are_told_without_weights(capsys):
    cli.main(["tokens", "llava15_7b"])
    told = capsys.readouterr().out
    assert "576" in told and "144" in told
