"""The formulas say what torch counts on the real classes, and what the issue of a sweep rests on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import QWEN_1_5B, QWEN_3B, TOY, at_level, with_reducer
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import PUBLISHED, TEXT_TOKENS, Llm, costs, sizes_of
from videogpt_plus.reducers.summary import Summary


@pytest.fixture(scope="module")
def model(tiny_experiment):
    import torch

    from videogpt_plus.models.loading import load_model

    return load_model(tiny_experiment, None, "cpu", torch.float32)


@pytest.fixture(scope="module")
def sizes(tiny_experiment):
    return sizes_of(tiny_experiment)


def counted(run) -> int:
    """What torch counts in a call; its own attention formulas hold for the CPU's fused kernel, too."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(q, k, v, *args, out_shape=None, **options):
        return sdpa_flop_count(q, k, v)

    def backward(grad, q, k, v, *args, out_shape=None, **options):
        return sdpa_backward_flop_count(grad, q, k, v)

    aten = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        run()
    return counter.get_total_flops()


def masked_pairs(llm: Llm, new: int) -> int:
    """FLOPs of one forward's attention to positions behind: torch counts them, a causal kernel skips them."""
    return llm.layers * 4 * (new * (new - 1) // 2) * llm.heads * llm.head_dim


def pixels(tiny_experiment, name: str, frames: int):
    import torch

    side = dict(tiny_experiment.branches)[name].pixels
    return torch.randn(1, frames, 3, side, side)


@pytest.mark.parametrize("frames", [1, 3, 4, 8])
@pytest.mark.parametrize("stream", ["image", "video"])
def test_encoders_cost_what_torch_counts(model, sizes, tiny_experiment, stream, frames):
    import torch

    frozen, x = model.encoders[stream], pixels(tiny_experiment, stream, frames)
    with torch.no_grad():
        assert sizes.towers[stream].encode(frames) == counted(lambda: frozen(x))


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
def test_projectors_cost_what_torch_counts_forward_and_backward(tiny_experiment, projector):
    import torch

    from videogpt_plus.models.projectors import build_projector

    name, stream = tiny_experiment.branches[1]
    stream = replace(stream, projector=projector)
    tower = sizes_of(replace(tiny_experiment, branches=((name, stream),))).towers[name]
    patches = torch.randn(8 * stream.grid**2, stream.width)
    module = build_projector(projector, stream.width, 64)
    assert tower.project(8) == counted(lambda: module(patches))
    assert tower.train_projector(8) == counted(lambda: module(patches).sum().backward())


def test_an_identity_projector_costs_nothing(tiny_experiment):
    name, stream = tiny_experiment.branches[0]
    tower = sizes_of(replace(tiny_experiment, branches=((name, replace(stream, projector="identity")),))).towers[name]
    assert tower.project(8) == tower.train_projector(8) == 0


@pytest.mark.parametrize(("new", "logits"), [(1, 1), (37, 1), (37, 37)])
def test_prefill_costs_what_torch_counts(model, sizes, new, logits):
    import torch

    embeds, llm = torch.randn(1, new, 64), sizes.llm
    with torch.no_grad():
        found = counted(lambda: model.llm(inputs_embeds=embeds, logits_to_keep=logits))
    assert llm.forward(new, logits=logits) == found - masked_pairs(llm, new)


def test_a_generated_token_costs_what_torch_counts(model, sizes):
    import torch

    llm = sizes.llm
    with torch.no_grad():
        past = model.llm(inputs_embeds=torch.randn(1, 30, 64), use_cache=True).past_key_values
        found = counted(lambda: model.llm(inputs_embeds=torch.randn(1, 1, 64), past_key_values=past))
    assert llm.forward(1, context=30) == found


def test_keys_and_values_take_the_bytes_that_the_cache_holds(model, sizes):
    import torch

    with torch.no_grad():
        past = model.llm(inputs_embeds=torch.randn(1, 30, 64), use_cache=True).past_key_values
    held = sum(x.numel() for layer in past.layers for x in (layer.keys, layer.values))
    assert sizes.llm.key_value_bytes(30, bytes_per_value=4) == 4 * held


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_training_costs_what_torch_counts(tiny_experiment, sizes, rank, checkpointing):
    """Encoders, projectors and the LLM, forward and backward at level 4; without LoRA the projectors alone train."""
    import torch

    from videogpt_plus.models.loading import load_model
    from videogpt_plus.types import Visual

    model = load_model(tiny_experiment, None, "cpu", torch.float32)
    if rank:
        model.add_lora(replace(tiny_experiment.lora, r=rank))
    model.train()
    model.llm.config.use_cache = False
    if checkpointing:
        model.llm.activation_checkpointing_enable()  # as the training does
    frames, text, supervised = 8, 20, 5
    visual = Visual({name: pixels(tiny_experiment, name, frames)[0] for name in model.encoders}, frames)

    def step():
        tokens = model.tokens_of(model.encode([visual]))[0]
        embeds = torch.cat([tokens, torch.randn(text, 64)])[None]
        model.llm(inputs_embeds=embeds, logits_to_keep=supervised).logits.sum().backward()

    new = num_visual_tokens(tiny_experiment, frames) + text
    # Attention: two products forward, five backward, and two more where the forward is repeated.
    skipped = masked_pairs(sizes.llm, new) * (9 if checkpointing else 7) // 2
    expected = sizes.train(frames, new, supervised, rank, checkpointing)
    assert expected == counted(step) - skipped


def test_lora_beside_the_weights_costs_what_torch_counts(tiny_experiment, sizes):
    import torch

    from videogpt_plus.models.loading import load_model

    model = load_model(tiny_experiment, None, "cpu", torch.float32)
    model.add_lora(tiny_experiment.lora)
    with torch.no_grad():
        found = counted(lambda: model.llm(inputs_embeds=torch.randn(1, 9, 64), logits_to_keep=1))
    expected = sizes.llm.forward(9, rank=tiny_experiment.lora.r)
    assert expected == found - masked_pairs(sizes.llm, 9)


@pytest.mark.parametrize(("level", "share"), [(2, 60), (4, 86), (8, 95), (16, 97)])
def test_encoders_take_most_of_a_question_at_real_size(level, share):
    experiment = at_level(QWEN_1_5B, level)
    sizes = sizes_of(experiment)
    whole = sizes.question(16, num_visual_tokens(experiment, 16))
    assert round(100 * sizes.encode(16) / whole) == share


def test_encoding_once_makes_four_levels_cheaper_as_stated():
    sizes = sizes_of(QWEN_1_5B)
    after = [sizes.llm.forward(num_visual_tokens(at_level(QWEN_1_5B, v), 16) + TEXT_TOKENS) for v in (2, 4, 8, 16)]
    encode, project = sizes.encode(16), sizes.project(16)
    apart = sum(encode + project + rest for rest in after)
    assert apart / (encode + 4 * project + sum(after)) == pytest.approx(2.6, abs=0.05)
    assert apart / (4 * project + sum(after)) == pytest.approx(5.4, abs=0.1)


def test_published_sizes_stand_in_for_weights_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for experiment in (QWEN_1_5B, QWEN_3B):
        assert sizes_of(experiment).llm.vocabulary == 151936
    unknown = replace(QWEN_1_5B, llm="my/own/llm")
    assert sizes_of(unknown) is None
    assert costs(unknown, 16) == {"flops": None, "kv_bytes": None}


def test_a_config_on_disk_goes_before_the_published_sizes(monkeypatch, tmp_path):
    import json

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / QWEN_1_5B.llm
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED[QWEN_1_5B.llm], "num_hidden_layers": 2}))
    assert sizes_of(QWEN_1_5B).llm.layers == 2


def test_a_whole_clip_is_read_as_its_vision_tower(monkeypatch, tmp_path):
    import json

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / QWEN_1_5B.branches[0][1].weights
    before = sizes_of(QWEN_1_5B)
    folder.mkdir(parents=True)
    vision = PUBLISHED[QWEN_1_5B.branches[0][1].weights]
    (folder / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": vision}))
    assert sizes_of(QWEN_1_5B) == before


def test_costs_of_a_cell_fall_with_its_level():
    by_level = [costs(at_level(TOY, level), TOY.num_frames) for level in (1, 2, 4, 8, 16)]
    for name in ("flops", "kv_bytes"):
        values = [cost[name] for cost in by_level]
        assert values == sorted(values, reverse=True) and len(set(values)) == 5
    assert costs(TOY, frames=0)["flops"] == sizes_of(TOY).llm.forward(TEXT_TOKENS), "nothing shown is not encoded"
    # 5 layers, 2 key-value heads of 32, 16 visual and 60 text tokens, keys and values in two bytes.
    assert by_level[-1]["kv_bytes"] == 2 * 5 * 2 * 32 * (16 + 60) * 2


def test_parameters_are_the_matrices_of_the_model(model, sizes, tiny_experiment):
    """Biases, norms, class tokens and position embeddings are left out."""
    matrices = {id(p): p.numel() for p in model.llm.parameters() if p.ndim == 2}
    assert sizes.llm.parameters == sum(matrices.values())
    for name, tower in sizes.towers.items():
        named = model.encoders[name].named_parameters()
        blocks = sum(p.numel() for n, p in named if p.ndim == 2 and n.endswith("weight") and "embed" not in n)
        projector = sum(p.numel() for p in model.projectors[name].parameters() if p.ndim == 2)
        patch = 3 * tower.patch**2 * tower.width
        assert tower.parameters == blocks + projector + patch


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("branches", ["s", "st"])
@pytest.mark.parametrize("adapter", ["summary", "concat", "frame_mean"])
def test_cinego_costs_what_torch_counts(adapter, branches, frames, tmp_path):
    import torch
    from cinego_parts import write_parts

    from videogpt_plus.models.loading import load_model
    from videogpt_plus.types import Visual

    experiment = with_reducer(write_parts(tmp_path / "parts"), adapter)
    own = str(tmp_path / "parts" / branches)
    experiment = replace(experiment, llm=own)
    if adapter == "summary":
        experiment = with_settings(experiment, {"reducer.branches": branches})
    model, sizes = load_model(experiment, None, "cpu", torch.float32), sizes_of(experiment)
    shown = [Visual({"video": torch.randn(frames, 3, 32, 32)}, 1)]
    assert sizes.encode(frames) == counted(lambda: model.encode(shown))
    grids = model.encode(shown)
    model.requires_grad_(False)
    assert sizes.project(frames) == counted(lambda: model.tokens_of(grids))
    assert sizes.llm.tied and sizes.llm.parameters == pytest.approx(
        sum(p.numel() for p in model.llm.parameters()), 0.01
    )


def test_a_summary_costs_what_torch_counts(tiny_experiment):
    import torch

    from videogpt_plus.models.loading import load_model
    from videogpt_plus.types import Visual

    summary = Summary(2, queries=12, heads=2, layers=2, branches="st")
    experiment = replace(tiny_experiment, reducer=summary)
    model, sizes = load_model(experiment, None, "cpu", torch.float32), sizes_of(experiment)
    shown = [Visual({name: torch.randn(3, 3, s.pixels, s.pixels) for name, s in experiment.branches}, 3)]
    grids = model.encode(shown)
    model.requires_grad_(False)
    assert sizes.project(3) == counted(lambda: model.tokens_of(grids))
    learned = sum(p.numel() for name, p in model.reducers.named_parameters() if p.dim() == 2)
    assert sum(reader.parameters for reader in sizes.readers) == learned
