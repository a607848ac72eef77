"""CogVLM2 against the original's recorded values, against transformers' Llama, and against itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from parity import check_folder
from parity.cogvlm2 import Recordings, answers, forced
from parity.rows import Row, names
from transformers import LlamaConfig, LlamaModel

from videogpt_plus.families.cogvlm2 import decoder, rope, weights
from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.families.cogvlm2.eva2 import Eva2, Eva2Size
from videogpt_plus.families.cogvlm2.model import CogVLM2
from videogpt_plus.families.cogvlm2.positions import advances, position_ids, vision_expert
from videogpt_plus.families.cogvlm2.projector import GluProjector
from videogpt_plus.reducers import build_reducer
from videogpt_plus.reducers.average import Average
from videogpt_plus.text import chat
from videogpt_plus.types import IGNORE, UserError, Visual

ROOT = Path(__file__).parent / "golden_families"
FAMILIES = ("cogvlm2_image", "cogvlm2_video")
CASES = [f"{family}/{name}" for family in FAMILIES for name in names(ROOT / family)]


def loaded(family: str, factory: pytest.TempPathFactory) -> Recordings:
    found = Recordings(ROOT / family, factory.mktemp(family))
    assert found.model  # loaded here, outside of any test's inference mode
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def recordings(request, tmp_path_factory) -> Recordings:
    return loaded(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Recordings:
    return loaded("cogvlm2_video", tmp_path_factory)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Recordings:
    return loaded("cogvlm2_image", tmp_path_factory)


@pytest.mark.parametrize("case", CASES)
def test_recorded_values(case):
    rows: list[Row] = []
    check_folder(ROOT, case, rows.append)
    assert [row for row in rows if row.failed] == [] and any(row.ok for row in rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_parity_notices_a_wrong_weight(family, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(ROOT / family, tmp_path / family)
    shutil.copytree(ROOT / "cogvlm2_tokenizer", tmp_path / "cogvlm2_tokenizer")
    file = tmp_path / family / "weights.safetensors"
    state = load_file(file)
    state["model.vision.eoi"] += 0.01
    save_file(state, file)
    rows: list[Row] = []
    check_folder(tmp_path, f"{family}/single_a", rows.append)
    assert {"vision.out", "logits"} <= {row.quantity for row in rows if row.failed}


# ------------------------------------------------------------------------------------------------ independent oracles
def llama_of(llm: CogVLM2LM) -> LlamaModel:
    """transformers' Llama with the language experts' weights, q, k and v cut apart."""
    ours = llm.config
    config = LlamaConfig(
        **{
            **ours.to_dict(),
            "rope_theta": rope.THETA,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope.THETA},
        }
    )
    theirs = LlamaModel(config).eval()
    state = {"embed_tokens.weight": llm.model.embed_tokens.weight, "norm.weight": llm.model.norm.weight}
    for i, layer in enumerate(llm.model.layers):
        q, k, v = layer.self_attn.language_expert_query_key_value.weight.split(layer.self_attn.sections)
        mlp = layer.mlp.language_mlp
        state |= {
            f"layers.{i}.{name}.weight": value
            for name, value in {
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": layer.self_attn.language_expert_dense.weight,
                "mlp.gate_proj": mlp.gate_proj.weight,
                "mlp.up_proj": mlp.up_proj.weight,
                "mlp.down_proj": mlp.down_proj.weight,
                "input_layernorm": layer.input_layernorm.weight,
                "post_attention_layernorm": layer.post_attention_layernorm.weight,
            }.items()
        }
    theirs.load_state_dict(state)
    return theirs


@torch.inference_mode()
def test_the_language_model_is_llama_where_all_tokens_have_one_expert(recordings):
    model = recordings.fresh()
    if model.causal.experts:  # both experts alike: routing must not matter
        for layer in model.causal.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            attention.vision_expert_query_key_value.bias.zero_()
            attention.vision_expert_query_key_value.weight.copy_(attention.language_expert_query_key_value.weight)
            attention.vision_expert_dense.load_state_dict(attention.language_expert_dense.state_dict())
            mlp.vision_mlp.load_state_dict(mlp.language_mlp.state_dict())
    embeds = torch.randn(2, 9, model.causal.config.hidden_size, generator=torch.Generator().manual_seed(0))
    visual = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 1, 1, 1]]).bool()
    places = position_ids(visual)
    vision = vision_expert(visual) if model.causal.experts else None
    ours = model.causal.model(embeds, places, vision=vision).last_hidden_state
    theirs = llama_of(model.causal)(inputs_embeds=embeds, position_ids=places).last_hidden_state
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_a_tower_block_norms_the_output_of_its_branches():
    torch.manual_seed(0)
    size = Eva2Size(28, 14, 8, 16, 1, 2)
    block = Eva2(size).transformer.layers[0]
    x = torch.randn(1, 5, 8)
    attended = x + torch.nn.functional.layer_norm(
        block.attention(x), (8,), block.input_layernorm.weight, block.input_layernorm.bias, 1e-6
    )
    expected = attended + torch.nn.functional.layer_norm(
        block.mlp(attended), (8,), block.post_attention_layernorm.weight, block.post_attention_layernorm.bias, 1e-6
    )
    assert torch.allclose(block(x), expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------ exactness
def prompts_of(recordings: Recordings, questions: list[str], media: list[str | None]):
    """Rows of ids and their visuals."""
    visuals = recordings.visuals(media)
    template = "cogvlm2_chat_indexed" if recordings.video else "cogvlm2_chat"
    rows = [
        chat.encode_prompt(recordings.tokenizer, question, [v.placeholders for v in shown], template)
        for question, shown in zip(questions, visuals, strict=True)
    ]
    return rows, visuals


@torch.inference_mode()
def test_answers_do_not_depend_on_batch_or_cache(recordings):
    names = list(recordings.conversations["media_recipes"])
    rows, visuals = prompts_of(
        recordings, ["What?", "How many people are there in it?", "Why?"], [names[0], names[1], None]
    )
    together = answers(recordings.model, rows, visuals, 8)
    alone = [answers(recordings.model, [row], [own], 8)[0] for row, own in zip(rows, visuals, strict=True)]
    uncached, sure = forced(recordings.model, rows, visuals, together)
    assert together == alone == uncached.argmax(-1).tolist()
    assert all(all(row) for row in sure)


@torch.inference_mode()
def test_questions_on_one_clip_share_its_tokens_and_answer_as_alone(recordings):
    model, (name, *_) = recordings.model, recordings.conversations["media_recipes"]
    rows, visuals = prompts_of(recordings, ["What?", "How many people are there in it?"], [name, name])
    shown = visuals[0][0]
    (grids,) = model.encode([shown])
    (both,) = model.answer([(rows, [(grids, shown.placeholders)])], 6)
    alone = [model.answer([([row], [(grids, shown.placeholders)])], 6)[0][0].ids for row in rows]
    assert [answer.ids for answer in both] == alone


@torch.inference_mode()
def test_an_answer_stops_at_either_end_token(image):
    ids = image.model.tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    assert image.model.ends == ids


def test_a_step_behind_a_visual_run_stands_at_the_last_position_plus_one(image):
    rows, visuals = prompts_of(image, ["What?"], ["img0"])
    model, asked = image.model, []
    usual = decoder.angles

    def angles(positions, *rest):
        asked.append(positions.clone())
        return usual(positions, *rest)

    decoder.angles = angles
    try:
        answers(model, rows, visuals, 3)
    finally:
        decoder.angles = usual
    seen = model.frame_tokens(Visual({}, 1, {"image": model.encode(visuals[0])[0]["image"]}))
    prefix, question, *steps = asked  # once a forward pass, not once a layer
    assert prefix.tolist() == [[0, 1, *[2] * (seen - 2), 3]]
    assert question.tolist() == [list(range(4, 4 + len(rows[0]) - 2))]
    assert [step.tolist() for step in steps] == [[[question[0, -1].item() + i]] for i in (1, 2)]


@torch.inference_mode()
def test_padding_changes_no_real_token(recordings):
    model = recordings.model
    embeds = torch.randn(1, 7, model.causal.config.hidden_size, generator=torch.Generator().manual_seed(0))
    visual = torch.tensor([[0, 1, 1, 1, 0, 0, 0]]).bool()
    vision = vision_expert(visual) if model.causal.experts else None
    alone = model.causal(embeds, position_ids(visual), vision=vision).logits
    for left, right in ((3, 0), (0, 3)):
        pad = torch.nn.functional.pad
        mask = pad(torch.ones(1, 7).bool(), (left, right))
        wide = pad(visual, (left, right))
        places = position_ids(wide, mask)
        own = model.causal(
            pad(embeds, (0, 0, left, right), value=9.0),
            places,
            mask,
            vision=vision_expert(wide) if model.causal.experts else None,
        ).logits
        assert torch.isfinite(own).all()
        assert torch.allclose(own[mask], alone[0], atol=2e-5)


def test_logits_that_are_not_finite_stop_with_advice(image):
    model = image.fresh()
    model.llm.lm_head.weight.data[3] = torch.inf
    rows, visuals = prompts_of(image, ["What?"], [None])
    with pytest.raises(UserError, match="not finite in torch.float32.*bfloat16"), torch.inference_mode():
        answers(model, rows, visuals, 1)


def test_position_rules_by_hand():
    visual = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0]]).bool()
    assert position_ids(visual).tolist() == [[0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10]]
    assert advances(visual).sum() == 11
    assert vision_expert(visual).int().tolist() == [[0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0]]


def test_rope_precisions_differ_where_the_original_does():
    places = torch.tensor([[64, 256, 257]])
    exact, stored, coarse = (rope.angles(places, 128, p)[0][0, 0] for p in rope.PRECISIONS)
    assert (coarse[1] == coarse[2]).all()  # bfloat16 has no 257
    assert round((coarse - exact)[0].abs().max().item(), 2) == 0.11
    assert 0.1 < (stored - exact)[0].abs().max() < 0.12


def test_the_files_frequencies_are_those_that_are_kept():
    odd = rope.frequencies(8) * 1.01
    places = torch.tensor([[5]])
    plain, kept = (rope.angles(places, 8, "ckpt_fp32load", stored)[0] for stored in (None, odd))
    assert not torch.equal(plain, kept)
    assert torch.equal(rope.angles(places, 8, "fp32", odd)[0], rope.angles(places, 8, "fp32")[0])


# ------------------------------------------------------------------------------------------------ sizes and levels
PUBLISHED = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_multi_query_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192,
    "bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 128002,
}  # fmt: skip


@pytest.mark.parametrize(
    ("experts", "pixels", "parameters", "tensors"),
    [(True, 1344, 19_503_105_280, 1221 - 32), (False, 224, 12_507_530_496, 1029 - 32)],
)
def test_full_sizes(experts, pixels, parameters, tensors):
    with torch.device("meta"):
        config = weights.llama_config(PUBLISHED)
        parts = [CogVLM2LM(config, experts), Eva2(Eva2Size(pixels)), GluProjector(1792, 4096, 14336)]
    every = [p for part in parts for p in part.parameters()]
    assert sum(p.numel() for p in every) == parameters
    assert len(every) == tensors


def test_costs_are_what_torch_counts(recordings, tmp_path):
    from test_flops import counted, masked_pairs

    from videogpt_plus.flops import sizes_of

    model, stream = recordings.model, recordings.stream
    (tmp_path / "config.json").write_text(json.dumps(recordings.config))
    sizes = sizes_of(recordings.experiment(tmp_path, recordings.config))
    tower, llm = sizes.towers[stream], sizes.llm
    pixels = torch.randn(1, 3, 3, model.encoders[stream].pixels, model.encoders[stream].pixels)
    with torch.no_grad():
        grid = model.encoders[stream](pixels)[0]
        assert tower.encode(3) == counted(lambda: model.encoders[stream](pixels))
        assert tower.project(3) == counted(lambda: model.projectors[stream](grid))
        embeds, visual = torch.randn(1, 21, llm.width), torch.zeros(1, 21).bool()
        visual[:, 1:9] = True
        vision = vision_expert(visual) if model.causal.experts else None
        found = counted(lambda: model.causal(embeds, position_ids(visual), vision=vision, logits_to_keep=1))
    assert llm.forward(21) == found - masked_pairs(llm, 21)
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert 0 <= weights - sizes.parameters < 0.03 * weights  # the tower's places, class token, boi and eoi


def test_full_size_costs_know_the_published_sizes():
    from videogpt_plus.config.experiments import COGVLM2_IMAGE, COGVLM2_VIDEO
    from videogpt_plus.flops import sizes_of

    for experiment, parameters in ((COGVLM2_IMAGE, 19_503_105_280), (COGVLM2_VIDEO, 12_507_530_496)):
        assert sizes_of(experiment).parameters == pytest.approx(parameters, rel=2e-3)


@torch.inference_mode()
@pytest.mark.parametrize("level", [1, 2, 4])
def test_the_level_is_a_dial_on_trained_weights(recordings, level):
    model = recordings.model
    (name, *_) = recordings.conversations["media_recipes"]
    (visual,) = recordings.visuals([name])[0]
    own = CogVLM2(
        model.llm, model.tokenizer, model.encoders, model.projectors, {model.stream: build_reducer(Average(level))}
    )
    (grids,) = own.encode([visual])
    (tokens,), (whole,) = own.tokens_of([grids]), model.tokens_of([grids])
    side = max(1, round(grids[model.stream].shape[1] / level))
    assert len(tokens) == visual.placeholders * (side**2 + 2)
    assert torch.equal(tokens, whole) == (level == 1)
    rows, visuals = prompts_of(recordings, ["What?"], [name])
    (ids,) = answers(own, rows, visuals, 4)
    logits, _ = forced(own, rows, visuals, [ids])
    assert logits[0].argmax(-1).tolist() == ids


# ------------------------------------------------------------------------------------------------ training
def test_checkpointing_changes_no_gradient(image):
    rows, visuals = prompts_of(image, ["What?"], ["img0"])
    ids = torch.tensor(rows)
    gradients = []
    for again in (False, True):
        model = image.fresh().train()
        model.llm.requires_grad_(True)
        if again:
            model.llm.activation_checkpointing_enable()
        model(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals, loss_only=True).loss.backward()
        gradients.append([p.grad for p in model.llm.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_text_alone_leaves_no_weight_of_the_language_model_without_a_gradient(image):
    model = image.fresh().train()
    model.llm.requires_grad_(True)
    ids = torch.tensor(prompts_of(image, ["What?"], [None])[0])
    model(ids, torch.ones_like(ids).bool(), ids, [[]], loss_only=True).loss.backward()
    assert all(p.grad is not None for p in model.llm.parameters())
    assert all(p.grad is not None for p in model.projectors.parameters())


def test_a_lora_is_on_the_language_model_alone_and_merges_into_it(recordings, tmp_path):
    from peft import get_peft_model_state_dict

    from videogpt_plus.config.experiment import Lora
    from videogpt_plus.io.tensors import save_tensors

    names = list(recordings.conversations["media_recipes"])
    rows, visuals = prompts_of(recordings, ["What?"], [names[0]])
    ids = torch.tensor(rows)
    model = recordings.fresh()
    plain = model(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals).logits
    model.add_lora(Lora(r=2, alpha=4, dropout=0.0))
    wrapped = {name for name, _ in model.llm.named_modules() if name.endswith("lora_A")}
    assert len(wrapped) == 7 * model.causal.config.num_hidden_layers and not any("vision" in name for name in wrapped)
    assert torch.allclose(model(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals).logits, plain)
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    beside = model(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals).logits
    save_tensors(tmp_path / "adapter_model.safetensors", get_peft_model_state_dict(model.llm))
    model.llm.peft_config["default"].save_pretrained(tmp_path)
    again = recordings.fresh()
    again.load_lora(tmp_path, merge=True)
    merged = again(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals).logits
    assert torch.allclose(merged, beside, atol=1e-4) and not torch.allclose(beside, plain, atol=1e-2)
    with torch.inference_mode():
        assert answers(again, rows, visuals, 3) == answers(model, rows, visuals, 3)


def test_the_chat_template_supervises_the_last_answer_alone(video):
    tokenizer = video.tokenizer
    turns = [("human", "<video>What?"), ("gpt", "A cup."), ("human", "Where?"), ("gpt", "There.")]
    turns = [{"from": who, "value": text} for who, text in turns]
    ids, labels = chat.encode_conversation(tokenizer, turns, [2], "cogvlm2_chat_indexed")
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert [label for label in labels if label != IGNORE] == tokenizer("There.", add_special_tokens=False).input_ids + [
        end
    ]
    said = tokenizer.decode([i for i in ids if i >= 0])
    assert said == "<|begin_of_text|>01Question: What? Answer: A cup.\nQuestion: Where? Answer:There.<|end_of_text|>"


def test_turns_that_do_not_alternate_are_one_line(video):
    turns = [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]
    with pytest.raises(UserError, match="do not alternate"):
        chat.encode_conversation(video.tokenizer, turns, [], "cogvlm2_chat")


# ------------------------------------------------------------------------------------------------ look-alikes
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_multi_query_heads": None, "vocab_size": 32000}, "is CogVLM, the first version"),
        ({"quantization_config": {"load_in_4bit": True}}, "packed by bitsandbytes"),
        ({"architectures": ["CogVLMVideoForCausalLM"]}, "is cogvlm2_video, not cogvlm2_image"),
        ({"architectures": ["LlamaForCausalLM"]}, "is a 'LlamaForCausalLM', not CogVLM2"),
        ({"rope_precision": "fp64"}, "unknown rope_precision 'fp64'"),
    ],
)
def test_look_alikes_are_refused_by_name(image, tmp_path, change, told):
    config = {key: value for key, value in {**image.config, **change}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    experiment = image.experiment(tmp_path, image.config)
    with pytest.raises(UserError, match=told):
        weights.load_llm(experiment, torch.float32, None, False)
