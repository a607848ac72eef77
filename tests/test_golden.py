"""Recorded values of the reference: features, merged tokens, logits, losses, gradients, ids and answers.

Float32 on a CPU. Tolerances are absolute; the largest logits are about 5.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPVisionConfig, Qwen2Config, Qwen2ForCausalLM

from videogpt_plus.adapters import build_adapter, num_visual_tokens, pooled_side
from videogpt_plus.chat import encode_conversation, encode_prompt
from videogpt_plus.checkpoint import read_tensors, split_reference
from videogpt_plus.configs import Experiment, InternVideo2Size, Stream, Training
from videogpt_plus.experiments import QWEN_1_5B, at_level
from videogpt_plus.models import load_model
from videogpt_plus.types import IGNORE, Visual

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the reference's recorded values are not here")

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
LEVELS = (1, 2, 4, 8, 16, 24, 3, 1.5)


def frames(seed, n, size, mean, std):
    """The recipe by which the recorded frames were made."""
    rs = np.random.RandomState(seed)
    base = rs.randint(0, 224, size=(n, 7, 7, 3)).astype(np.int64)
    noise = rs.randint(0, 32, size=(n, size, size, 3)).astype(np.int64)
    k = size // 7
    pixels = (np.repeat(np.repeat(base, k, 1), k, 2) + noise).astype(np.uint8)
    x = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32))


def visual(f):
    video = frames(f["video_seed"], f["n"], f["video_size"], *IMAGENET)
    images = frames(f["context_seed"], f["n"], f["image_size"], *CLIP)
    return Visual({"image": images, "video": video}, f["n"])


def case(name):
    folder = GOLDEN / name
    return json.loads((folder / "meta.json").read_text()), load_file(folder / "tensors.safetensors")


def write_parts(weights: str, folder: Path) -> Experiment:
    """The parts of a full state dict of the reference, each in the layout that our loaders read."""
    info = json.loads((GOLDEN / f"{weights}.json").read_text())
    parts = split_reference(read_tensors(GOLDEN / f"{weights}.safetensors"))
    size = info["geometry"]
    config = Qwen2Config.from_dict({**info["llm"], "model_type": "qwen2"})
    llm = Qwen2ForCausalLM(config)
    llm.load_state_dict(parts["llm"], strict=not config.tie_word_embeddings)
    llm.save_pretrained(folder / "llm")
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")
    # The reference answered here with all rows of its table, also those that stand for no token.
    tokenizer.add_tokens([f"<row{i}>" for i in range(len(tokenizer), config.vocab_size)])
    tokenizer.save_pretrained(folder / "llm")
    streams = []
    if info["clip"]:
        CLIPVisionConfig.from_dict(info["clip"]).save_pretrained(folder / "clip")
        save_file(parts["clip"], folder / "clip" / "model.safetensors")
        pixels = size["i_size"]
        processor = {"crop_size": {"height": pixels, "width": pixels}, "size": {"shortest_edge": pixels}}
        (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(processor))
        image = Stream("clip", str(folder / "clip"), pixels, pixels // 14, size["i_dim"])
        streams.append(("image", image))
    if info["internvideo"]:
        torch.save({"module": parts["internvideo2"]}, folder / "internvideo2.pt")
        pixels = size["v_size"]
        tower = InternVideo2Size(depth=size["v_depth"], width=size["v_dim"], heads=size["v_heads"])
        path = str(folder / "internvideo2.pt")
        streams.append(("video", Stream("internvideo2", path, pixels, pixels // 14, size["v_dim"], size=tower)))
    run = folder / "run"
    run.mkdir()
    torch.save({f"model.{key}": value for key, value in parts["projectors"].items()}, run / "mm_projector.bin")
    return Experiment(
        name=weights, llm=str(folder / "llm"), streams=tuple(streams), pretrain=(), finetune=Training(data="none")
    )


def build(weights: str, folder: Path):
    experiment = write_parts(weights, folder)
    return load_model(experiment, folder / "run", "cpu", torch.float32)


def set_level(model, level):
    for name in model.adapters:
        model.adapters[name] = build_adapter("average", level)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return build("weights_mini", tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return build("weights_full", tmp_path_factory.mktemp("full"))


def difference(name: str, got: torch.Tensor, recorded: dict[str, torch.Tensor]) -> float:
    """The largest difference to what was recorded of `name`: whole, or its first 64 and 256 probed values."""
    if name in recorded:
        return (got - recorded[name]).abs().max().item()
    flat = got.flatten()
    probe = torch.from_numpy(np.random.RandomState(0).randint(0, flat.numel(), 256))
    first = flat[:64] - recorded[f"{name}.first64"]
    return max(first.abs().max().item(), (flat[probe] - recorded[f"{name}.probe256"]).abs().max().item())


def close(name, got, recorded, tolerance, record_property):
    worst = difference(name, got.detach(), recorded)
    record_property(name, worst)
    print(f"{name}: {worst:.2g}")
    assert worst <= tolerance, f"{name} differs by {worst}"


@pytest.mark.parametrize("name", ["mini_b1", "mini_b1_other", "full_b1"])
def test_one_video_at_every_level(name, request, record_property):
    model = request.getfixturevalue(name.split("_")[0])
    meta, recorded = case(name)
    shown = visual(meta["frames"][0])
    grids = model.encode([shown])[0]
    check_features(grids, recorded, record_property)
    ids = recorded["input_ids"]
    for level, expected in ((float(key), value) for key, value in meta["pools"].items()):
        set_level(model, level)
        with torch.inference_mode():
            tokens = model.visual_tokens(grids)
            mask = torch.ones_like(ids, dtype=torch.bool)
            merged = model.merge(ids, mask, torch.full_like(ids, IGNORE), [[shown]])
            out = model.llm(inputs_embeds=merged.inputs_embeds).logits
        assert len(tokens) == expected["n_visual_tokens"]
        close(f"p{level:g}.merged", tokens[None], recorded, 2e-5, record_property)
        close(f"p{level:g}.inputs_embeds", merged.inputs_embeds, recorded, 2e-5, record_property)
        close(f"p{level:g}.logits_last", out[0, -1], recorded, 2e-5, record_property)
        close(f"p{level:g}.logits", out, recorded, 2e-5, record_property)


def check_features(grids, recorded, record_property):
    video, image = grids["video"], grids["image"]
    chunks = video.reshape(video.shape[0] // 4, -1, video.shape[-1])
    images = image.reshape(1, image.shape[0], -1, image.shape[-1])
    close("video_features", chunks, recorded, 2e-5, record_property)
    close("context_features", images, recorded, 2e-5, record_property)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["mini_b1", "mini_b1_other", "full_b1"])
def test_greedy_answers(name, level, request, record_property):
    """Ids, and the scores of every step: in full_b1 the ids mostly repeat one and say little."""
    meta, recorded = case(name)
    if f"{level:g}" not in meta["pools"]:
        pytest.skip(f"{name} was not recorded at level {level:g}")
    model = request.getfixturevalue(name.split("_")[0])
    set_level(model, level)
    shown, prompt = visual(meta["frames"][0]), recorded["input_ids"]
    expected = meta["pools"][f"{level:g}"]["generate8_no_eos"]
    got = model.generate_ids([prompt[0].tolist()], [[shown]], 8)[0].tolist()
    assert got == meta["pools"][f"{level:g}"]["generate8_eos"]
    with torch.inference_mode():
        ids = torch.cat([prompt, torch.tensor([expected[:-1]])], dim=1)
        logits = model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [[shown]]).logits
    scores = {"scores": recorded[f"p{level:g}.gen_scores_probe"]}
    close("scores", logits[0, -8:, :64], scores, 2e-5, record_property)


@pytest.mark.parametrize("level", LEVELS)
def test_training_batch(mini, level, record_property):
    check_training(mini, "mini_train", level, record_property)


@pytest.mark.parametrize("level", [4, 16])
def test_training_batch_of_full_geometry(full, level, record_property):
    check_training(full, "full_b2", level, record_property)


def check_training(model, name, level, record_property):
    meta, recorded = case(name)
    set_level(model, level)
    expected = meta["pools"][f"{level:g}"]
    shown = [visual(f) for f in meta["frames"]]
    rows = [encode_conversation(model.tokenizer, c, [shown[0].placeholders], "qwen2") for c in meta["conversations"]]
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(r[i]) for r in rows], batch_first=True) for i in (0, 1)
    )
    mask = recorded["attention_mask"].bool()
    assert (ids == recorded["input_ids"])[mask].all() and (labels == recorded["labels"])[mask].all()
    merged = model.merge(ids, mask, labels, [[v] for v in shown])
    assert merged.attention_mask.sum(1).tolist() == expected["mask_true_per_row"]
    supervised = (merged.labels != IGNORE).nonzero()
    assert [[c, merged.labels[r, c].item()] for r, c in supervised.tolist()] == expected["labels_supervised"]
    out = model(ids, mask, labels, [[v] for v in shown])
    record_property("loss", abs(out.loss.item() - expected["loss"]))
    assert out.loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    rows_ = recorded[f"p{level:g}.sup_rows"].long()
    close(
        "sup",
        out.logits[rows_[:, 0], rows_[:, 1]][:, :64],
        {"sup": recorded[f"p{level:g}.sup_logits64"]},
        2e-5,
        record_property,
    )
    prefix = f"p{level:g}.grad.model."
    wanted = [k for k in recorded if k.startswith(prefix)]
    if wanted:
        model.zero_grad()
        out.loss.backward()
        grads = {k: p.grad for k, p in named_projectors(model).items()}
        for key in wanted:
            got = grads[key.removeprefix(prefix).removesuffix(".first64")]
            close(key, got.flatten()[:64], recorded, 2e-5, record_property)


def named_projectors(model):
    names = {"video": "mm_projector", "image": "image_mm_projector"}
    return {f"{names[s]}.{k}": p for s, projector in model.projectors.items() for k, p in projector.named_parameters()}


@pytest.mark.parametrize("stream", ["image", "video"])
def test_projector_pretraining(stream, tmp_path, record_property):
    name = f"pretrain_{stream}_qwen2"
    model = build(f"weights_{name}", tmp_path)
    set_level(model, 1)
    meta, recorded = case(name)
    moments = CLIP if stream == "image" else IMAGENET
    shown = [Visual({stream: frames(f["seed"], f["n"], f["size"], *moments)}, 1) for f in meta["frames"]]
    rows = [encode_conversation(model.tokenizer, c, [1], "plain") for c in meta["conversations"]]
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(r[i]) for r in rows], batch_first=True) for i in (0, 1)
    )
    mask = recorded["attention_mask"].bool()
    assert (ids == recorded["input_ids"])[mask].all() and (labels == recorded["labels"])[mask].all()
    grids = torch.stack([g[stream] for g in model.encode(shown)]).flatten(1, 3)
    close("encoder_features", grids, recorded, 2e-5, record_property)
    merged = model.merge(ids, mask, labels, [[v] for v in shown])
    assert torch.equal(merged.labels, recorded["merged_labels"])
    assert torch.equal(merged.attention_mask, recorded["merged_mask"].bool())
    # At padding the recorded embeddings are the pad token's, ours are zero: nothing attends to either.
    attended = merged.attention_mask
    embeds = {"inputs_embeds": recorded["inputs_embeds"][attended]}
    close("inputs_embeds", merged.inputs_embeds[attended], embeds, 2e-5, record_property)
    out = model(ids, mask, labels, [[v] for v in shown])
    rows, columns = (merged.labels != IGNORE).nonzero().T
    predicting = out.logits[rows, columns - 1][:, :64]
    close("logits_sup64", predicting, recorded, 2e-5, record_property)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(meta["loss"], abs=1e-5)
    for key, parameter in named_projectors(model).items():
        close(f"grad.{key}", parameter.grad, recorded, 2e-5, record_property)


@pytest.mark.parametrize("level", [2, 4, 16])
def test_published_lora_folder(tmp_path, level, record_property):
    experiment = at_level(write_parts("weights_mini", tmp_path), level)
    AutoTokenizer.from_pretrained(GOLDEN / "tokenizer").save_pretrained(experiment.llm)
    model = load_model(experiment, GOLDEN / "lora_ckpt", "cpu", torch.float32)
    meta, recorded = case("lora")
    ids, shown = recorded["input_ids"], visual(meta["frames"][0])
    with torch.inference_mode():
        logits = model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [[shown]]).logits
    kept = logits[..., : len(model.tokenizer)]  # the reference cuts the table to its vocabulary when it loads
    close(f"p{level:g}.logits", kept, recorded, 2e-5, record_property)
    answer = model.tokenizer.decode(meta["pools"][f"{level:g}"]["generate8"], skip_special_tokens=True)
    assert model.generate([ids[0].tolist()], [[shown]], 8) == [answer.strip()]


SINGLE_TURN = (
    "single_video single_video_suffix unicode image_caption image_suffix no_media",
    "starts_with_gpt trailing_newline_answer",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(GOLDEN / "tokenizer")


@pytest.mark.parametrize("name", " ".join(SINGLE_TURN).split())
def test_single_turn_ids_and_labels(name, tokenizer):
    recorded = json.loads((GOLDEN / "text.json").read_text())[name]
    expected = recorded["train.preprocess(qwen2)"]["result"]
    ids, labels = encode_conversation(tokenizer, recorded["conversation"], counts(recorded), "qwen2")
    assert (ids, labels) == (expected["input_ids"][0], expected["labels"][0])


def test_multi_turn_ids_equal_and_every_answer_is_supervised(tokenizer):
    recorded = json.loads((GOLDEN / "text.json").read_text())["multi_turn_video"]
    ids, labels = encode_conversation(tokenizer, recorded["conversation"], counts(recorded), "qwen2")
    assert ids == recorded["train.preprocess(qwen2)"]["result"]["input_ids"][0]
    kept = tokenizer.decode([token for token in labels if token != IGNORE])
    assert kept == "A woman.<|im_end|>A book.<|im_end|>She reads it.<|im_end|>"


@pytest.mark.parametrize(
    "name", ["single_video", "image_caption", "unicode", "image_suffix", "trailing_newline_answer"]
)
def test_plain_ids_and_labels(name, tokenizer):
    recorded = json.loads((GOLDEN / "text.json").read_text())[name]
    expected = recorded["pretrain.preprocess(plain)"]["result"]
    ids, labels = encode_conversation(tokenizer, recorded["conversation"], counts(recorded), "plain")
    assert (ids, labels) == (expected["input_ids"][0], expected["labels"][0])


def counts(recorded):
    text = " ".join(turn["value"] for turn in recorded["conversation"])
    return [16] * text.count("<video>") + [1] * text.count("<image>")


def test_benchmark_prompts(tokenizer):
    for recorded in json.loads((GOLDEN / "mvbench_prompts.json").read_text()):
        expected = recorded["prompts"]["qwen2_cap"]["input_ids"]
        assert encode_prompt(tokenizer, recorded["Q"], [recorded["slice_len"]], "qwen2") == expected


def test_pooled_shapes():
    for row in json.loads((GOLDEN / "pool_shapes.json").read_text()):
        level = row["pool_level"]
        assert (pooled_side(16, level), pooled_side(24, level)) == (row["video"], row["image"])
        assert num_visual_tokens(at_level(QWEN_1_5B, level), 16) == row["total"]
