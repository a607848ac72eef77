"""The whole model of tiny real parts: order, batches, gradients, answers, LoRA and run folders."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from videogpt_plus.config.experiment import Lora, with_settings
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.files import write_json
from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual


@pytest.fixture(scope="module")
def model(tiny_experiment):
    return fresh(tiny_experiment)


def fresh(experiment, run_dir=None, streams=None):
    torch.manual_seed(5)
    return load_model(experiment, run_dir, "cpu", torch.float32, streams)


def visual(t, seed=0, streams=(("image", 48), ("video", 32))):
    generator = torch.Generator().manual_seed(seed)
    return Visual({name: torch.randn(t, 3, p, p, generator=generator) for name, p in streams}, t)


def batch(*samples):
    """Samples of (ids before, visuals, ids behind); what stands behind is supervised."""
    rows, labels, visuals = [], [], []
    for before, shown, behind in samples:
        front = [*before, *[PLACEHOLDER] * sum(v.placeholders for v in shown)]
        rows.append(torch.tensor(front + behind))
        labels.append(torch.tensor([IGNORE] * len(front) + behind))
        visuals.append(shown)
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=1)
    mask = pad([torch.ones_like(r, dtype=torch.bool) for r in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
        "visuals": visuals,
    }


SAMPLES = [
    ([5, 6], [visual(8, 1)], [7, 8, 9]),
    ([5], [], [6, 7]),
    ([4, 3], [visual(1, 2)], [2]),
    ([4], [visual(5, 3), visual(1, 4)], [9, 9, 9, 9]),
]


def test_image_tokens_precede_video_tokens(model):
    grids = model.encode([visual(8)])[0]
    tokens = model.visual_tokens(grids)
    image = model.reducers["image"](model.projectors["image"](grids["image"][None]))[0]
    video = model.reducers["video"](model.projectors["video"](grids["video"][None]))[0]
    assert torch.equal(tokens, torch.cat([image, video]))


def test_visual_tokens_are_as_many_as_announced(model, tiny_experiment):
    for t in (1, 2, 5, 8):
        tokens = model.visual_tokens(model.encode([visual(t)])[0])
        assert len(tokens) == num_visual_tokens(tiny_experiment, t)


def test_a_mixed_batch_gives_each_sample_its_own_result(model):
    together = model(**batch(*SAMPLES))
    mask = model.merge(**batch(*SAMPLES)).attention_mask
    for row, sample in enumerate(SAMPLES):
        alone = model(**batch(sample)).logits[0]
        torch.testing.assert_close(together.logits[row][mask[row]], alone, atol=1e-5, rtol=0)


def test_loss_is_the_mean_over_supervised_tokens_shifted_by_one(model):
    out, merged = model(**batch(*SAMPLES)), model.merge(**batch(*SAMPLES))
    rows, columns = (merged.labels != IGNORE).nonzero().T
    expected = F.cross_entropy(out.logits[rows, columns - 1], merged.labels[rows, columns])
    torch.testing.assert_close(out.loss, expected)


def test_text_alone_is_what_the_llm_says_of_it(model):
    text = batch(([5, 0, 6], [], [7, 8]))
    expected = model.llm(input_ids=text["input_ids"]).logits
    torch.testing.assert_close(model(**text).logits, expected)


def test_gradients_reach_both_projectors_and_nothing_frozen(tiny_experiment):
    model = fresh(tiny_experiment)
    model.train()
    model(**batch(*SAMPLES)).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("projectors.")}


def test_the_loss_alone_is_that_of_all_logits_and_so_are_its_gradients(tiny_experiment):
    model, found = fresh(tiny_experiment), []
    for loss_only in (False, True):
        model.zero_grad()
        out = model(**batch(*SAMPLES), loss_only=loss_only)
        out.loss.backward()
        found.append((out.loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (alone, of_alone) = found
    assert out.logits is None and gradients.keys() == of_alone.keys()
    torch.testing.assert_close(alone, loss, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_alone[name], gradient, atol=1e-6, rtol=1e-5)


def test_features_do_not_depend_on_training_mode(tiny_experiment):
    model = fresh(tiny_experiment)
    before = model.encode([visual(8)])[0]
    model.train()
    after = model.encode([visual(8)])[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("stream", ["image", "video"])
def test_one_stream_alone_serves_projector_pretraining(tiny_experiment, stream):
    model = fresh(with_settings(tiny_experiment, {"reducer.level": 1}), streams=[stream])
    side = {"image": (48, 144), "video": (32, 64)}[stream]
    shown = visual(1, streams=((stream, side[0]),))
    assert list(model.encoders) == list(model.projectors) == [stream]
    assert len(model.visual_tokens(model.encode([shown])[0])) == side[1]
    model(**batch(([], [shown], [5, 6]))).loss.backward()
    assert all(p.grad is not None for p in model.projectors.parameters())


def test_answers_do_not_depend_on_batch_size(model):
    prompts = [[5, 6, *[PLACEHOLDER] * 8, 7], [8, 9], [*[PLACEHOLDER] * 3, 4, 4, 4]]
    visuals = [[visual(8, 1)], [], [visual(3, 2)]]
    together = model.generate_ids(prompts, visuals, 6)
    for row, (prompt, shown) in enumerate(zip(prompts, visuals, strict=True)):
        assert together[row] == model.generate_ids([prompt], [shown], 6)[0]


def test_greedy_answers_are_the_argmax_of_the_uncached_model(model):
    prompt, shown = [5, 6, *[PLACEHOLDER] * 8, 7], visual(8, 1)
    got = model.generate_ids([prompt], [[shown]], 6)[0]
    ids = list(prompt)
    for token in got:
        row = batch((ids, [], []))
        logits = model(**{**row, "visuals": [[shown]]}).logits[0, -1, : len(model.tokenizer)]
        assert token == logits.argmax().item()
        ids.append(token)


def test_answers_stop_at_the_end_of_the_turn(tiny_experiment):
    model = fresh(tiny_experiment)
    model.llm.config.eos_token_id = None  # the tokenizer's <|im_end|> decides
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():  # a model whose every next token is <|im_end|>
        model.llm.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.llm.lm_head.weight))
        model.llm.model.norm.weight.zero_()
        model.llm.lm_head.bias = torch.nn.Parameter(torch.zeros(len(model.llm.lm_head.weight)))
        model.llm.lm_head.bias[end] = 1
    assert model.generate_ids([[5, 6]], [[]], 6) == [[end]]
    assert model.generate([[5, 6]], [[]], 6) == [""]


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 50.0}, {"no_repeat_ngram_size": 1}, {"do_sample": True, "temperature": 9.0}]
)
def test_answers_ignore_the_llm_folder_s_own_generation_config(tiny_experiment, tmp_path, settings):
    shutil.copytree(tiny_experiment.llm, tmp_path / "llm")
    write_json(tmp_path / "llm" / "generation_config.json", settings)
    plain, other = (
        repeating(replace(tiny_experiment, llm=llm)) for llm in (tiny_experiment.llm, str(tmp_path / "llm"))
    )
    expected = plain.generate_ids([[5, 6]], [[]], 8)
    assert len(set(expected[0])) < len(expected[0]), "only an answer that repeats itself shows a penalty"
    assert other.generate_ids([[5, 6]], [[]], 8) == expected


def repeating(experiment):
    """A model that says one token again and again, by a small margin."""
    model = fresh(experiment)
    with torch.no_grad():
        model.llm.model.norm.weight.zero_()
        model.llm.lm_head.bias = torch.nn.Parameter(torch.linspace(1, 1.1, len(model.llm.lm_head.weight)).flip(0))
    return model


def test_answers_hold_no_id_beyond_the_vocabulary(tiny_experiment):
    model = fresh(tiny_experiment)
    rows = model.llm.lm_head.weight
    with torch.no_grad():
        rows[len(model.tokenizer) :] *= 1000
    assert max(model.generate_ids([[5, 6, 7]], [[]], 8)[0]) < len(model.tokenizer)


def save_run(model, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    save_tensors(folder / "projectors.safetensors", model.projector_state())
    save_tensors(folder / "adapter_model.safetensors", get_peft_model_state_dict(model.llm))
    model.llm.peft_config["default"].save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tiny_experiment, tmp_path_factory):
    """A model with a LoRA that does something, and its run folder."""
    model = fresh(tiny_experiment)
    model.add_lora(Lora(r=4, alpha=8, dropout=0.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("run")
    save_run(model, folder)
    return model.eval(), folder


def test_lora_wraps_the_seven_matrices_of_the_llm_alone(trained):
    model, _ = trained
    lora = {name for name, p in model.named_parameters() if p.requires_grad and "lora" in name}
    assert len(lora) == 2 * 7 * 2 and all(name.startswith("llm.") for name in lora)
    frozen = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert all(name.startswith("projectors.") for name in frozen)


def test_a_run_folder_answers_as_the_model_that_was_trained(trained, tiny_experiment):
    model, folder = trained
    loaded = load_model(tiny_experiment, folder, "cpu", torch.float32)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    got, expected = (m(**batch(*SAMPLES)).logits for m in (loaded, model))
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    assert not torch.allclose(got, fresh(tiny_experiment)(**batch(*SAMPLES)).logits, atol=1e-3)


def test_an_adapter_beside_the_llm_goes_on_training(trained, tiny_experiment):
    model, folder = trained
    loaded = fresh(tiny_experiment)
    loaded.load_projectors(folder)
    loaded.load_lora(folder, merge=False)
    loaded(**batch(*SAMPLES)).loss.backward()
    assert all(p.grad is not None for n, p in loaded.named_parameters() if "lora" in n)
    got, expected = (m(**batch(*SAMPLES)).logits for m in (loaded.eval(), model))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_pretraining_folders_load_stream_by_stream(tiny_experiment, tmp_path):
    source, model = fresh(tiny_experiment), load_model(tiny_experiment, None, "cpu", torch.float32)
    state = source.projector_state()
    for name, key in (("image", "image_mm_projector."), ("video", "mm_projector.")):
        own = {k: v for k, v in state.items() if k.startswith(key)}
        save_tensors(tmp_path / name / "projectors.safetensors", own)
        model.load_projectors(tmp_path / name, [name])
    assert all(torch.equal(value, state[key]) for key, value in model.projector_state().items())
    with pytest.raises(UserError, match="of the video projector .* missing: 0.bias"):
        model.load_projectors(tmp_path / "image", ["video"])


def test_an_adapter_of_another_rank_or_with_missing_keys_is_refused(trained, tiny_experiment, tmp_path):
    _, folder = trained
    shutil.copytree(folder, tmp_path / "run")
    state = read_tensors(folder / "adapter_model.safetensors")
    key = sorted(state)[0]
    save_tensors(
        tmp_path / "run" / "adapter_model.safetensors", {**{k: state[k] for k in state if k != key}, "odd": state[key]}
    )
    with pytest.raises(UserError) as error:
        fresh(tiny_experiment, tmp_path / "run")
    assert f"missing: {key}" in str(error.value) and "unexpected: odd" in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"family": "single"}, "unknown family 'single'; choose from: dual_encoder"),
        ({"llm": "nowhere/llm"}, "nowhere/llm"),
        ({"reducer.level": 0}, "choose a number above 0"),
    ],
)
def test_wrong_experiments_are_refused(tiny_experiment, change, told):
    with pytest.raises(UserError, match=told):
        fresh(with_settings(tiny_experiment, change))


def test_unknown_streams_and_other_llms_are_refused(tiny_experiment, tmp_path):
    with pytest.raises(UserError, match="unknown stream 'sound'; choose from: image, video"):
        fresh(tiny_experiment, streams=["sound"])
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(UserError, match="is a 'llama', not a 'qwen2'"):
        fresh(replace(tiny_experiment, llm=str(tmp_path)))


def test_an_llm_whose_weights_do_not_fit_its_config_is_refused(tiny_experiment, tmp_path):
    shutil.copytree(tiny_experiment.llm, tmp_path / "llm")
    state = read_tensors(tmp_path / "llm" / "model.safetensors")
    del state["model.layers.0.self_attn.q_proj.weight"]
    state["model.layers.1.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_tensors(tmp_path / "llm" / "model.safetensors", state)
    with pytest.raises(UserError) as error:
        fresh(replace(tiny_experiment, llm=str(tmp_path / "llm")))
    assert "missing: model.layers.0.self_attn.q_proj.weight" in str(error.value)
    assert "model.layers.1.self_attn.q_proj.weight" in str(error.value)


def test_bfloat16_keeps_projectors_in_float32_and_agrees_roughly(tiny_experiment, model):
    half = load_model(tiny_experiment, None, "cpu", torch.bfloat16)
    half.projectors.load_state_dict(model.projectors.state_dict())
    assert {p.dtype for p in half.projectors.parameters()} == {torch.float32}
    assert half.llm.dtype == torch.bfloat16
    got, expected = (m(**batch(*SAMPLES)).loss.item() for m in (half, model))
    assert got == pytest.approx(expected, rel=0.02)
