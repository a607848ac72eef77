"""Layers on several cards: planned from names and shapes alone, told before anything is read, and then really there."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from parity.cogvlm2 import Recordings
from parity.llava import Recordings as LlavaRecordings
from test_cogvlm2 import PUBLISHED

from videogpt_plus.config.experiment import Branch
from videogpt_plus.config.experiments import LLAVA15_7B
from videogpt_plus.config.options import LoadConfig
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.families import FAMILIES
from videogpt_plus.families.cogvlm2 import weights
from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.families.cogvlm2.eva2 import Eva2, Eva2Size
from videogpt_plus.families.cogvlm2.model import CogVLM2
from videogpt_plus.families.cogvlm2.positions import position_ids, vision_expert
from videogpt_plus.families.cogvlm2.projector import GluProjector
from videogpt_plus.models import tensor_parallel
from videogpt_plus.models.device_map import GIB, LOST, Needs, Unit, check, loads_of, needs, place, spread, summary
from videogpt_plus.models.generation import Reading, _Batch
from videogpt_plus.models.loading import load_models, outline
from videogpt_plus.types import UserError

ROOT = Path(__file__).parent / "golden_families"
BF16 = (2, 2)


def published(name: str, pixels: int) -> CogVLM2:
    """The model at its published size, without memory."""
    stream = Branch(f"eva2_{name}", "", pixels, pixels // 28, 1792, "glu")
    with torch.device("meta"):
        tower = GridEncoder(Eva2(Eva2Size(pixels)), stream, lambda clip: clip)
        llm = CogVLM2LM(weights.llama_config(PUBLISHED), name == "image")
        return CogVLM2(llm, None, {name: tower}, {name: GluProjector(1792, 4096, 14336)}, {})


@pytest.fixture(scope="module")
def image() -> CogVLM2:
    return published("image", 1344)


def image_needs(image, bits: int | None = None) -> Needs:
    return needs(image, 1, 3000, 1, BF16, bits)


def test_weights_and_cache_of_the_published_size_are_exact(image):
    asked = image_needs(image)
    assert sum(unit.bytes for unit in asked.units) == 2 * 19_503_105_280
    assert sum(unit.cache for unit in asked.units) == 3000 * 128 * 1024
    video = needs(published("video", 224), 24, 2048, 3, BF16)
    assert sum(unit.bytes for unit in video.units) == 2 * 12_507_530_496
    assert sum(unit.cache for unit in video.units) == 3 * 256 * 2**20


def test_every_weight_has_one_place_and_no_block_is_cut(image):
    asked = image_needs(image)
    modules = [module for unit in asked.units for module in unit.modules]
    owned = [name for module in modules for name, _ in image.get_submodule(module).named_parameters(prefix=module)]
    assert sorted(owned) == sorted(name for name, _ in image.named_parameters())
    assert len(set(modules)) == len(modules)
    blocks = [m for m in modules if ".transformer.layers." in m]
    assert len(blocks) == 63 and all(m.count(".") == 5 for m in blocks)
    assert [m for m in modules if m.startswith("llm.model.layers.")] == [f"llm.model.layers.{i}" for i in range(32)]
    together = {unit.modules for unit in asked.units if len(unit.modules) > 1}
    assert together == {("projectors.image", "llm.model.embed_tokens"), ("llm.model.norm", "llm.lm_head")}


@pytest.mark.parametrize("cards", [[80], [48], [24, 24], [24, 24, 24], [16] * 4, [12] * 8, [24, 48], [8] * 8])
def test_a_plan_goes_from_card_to_card_in_order_and_fits(image, cards):
    asked, free = image_needs(image), [size * GIB for size in cards]
    placed = check(asked, free, "cogvlm2_image", None)
    assert all(0 <= then - now <= 1 for now, then in pairwise(placed)) and placed[0] == 0
    loads = loads_of(asked, placed, len(cards))
    assert sum(loads) == asked.total
    assert all(load + asked.work + LOST <= size for load, size in zip(loads, free, strict=True))


def test_the_tower_stands_with_projector_and_embeddings_where_a_card_holds_them(image):
    asked = image_needs(image)
    names = [unit.modules for unit in asked.units]
    door = next(i for i, modules in enumerate(names) if "llm.model.embed_tokens" in modules)
    for cards, whole in (([24] * 2, True), ([12] * 5, True), ([8] * 8, False)):
        placed = place(asked, [size * GIB for size in cards])
        assert (len(set(placed[: door + 1])) == 1) == whole


def test_two_cards_share_evenly(image):
    asked = image_needs(image)
    one, other = loads_of(asked, place(asked, [40 * GIB] * 2), 2)
    assert abs(one - other) < max(unit.bytes for unit in asked.units)


def test_what_does_not_fit_is_refused_with_what_would(image):
    asked, fewer = image_needs(image), image_needs(image, 4)
    with pytest.raises(UserError) as refused:
        check(asked, [24 * GIB], "cogvlm2_image", None, fewer)
    said = str(refused.value)
    assert "does not fit 1 card with 24.0 GiB free" in said and "--devices 2 on cards of 24.0 GiB each (" in said
    assert "--bits 4 on these cards" in said
    # what it proposes is true
    assert place(asked, [24 * GIB] * 2) is not None and place(fewer, [24 * GIB]) is not None
    assert place(asked, [24 * GIB]) is None
    with pytest.raises(UserError, match=r"would fit: cards with more than \d+\.\d GiB each$"):
        check(asked, [GIB] * 4, "cogvlm2_image", None, fewer)


def test_fewer_bits_take_the_llms_layers_alone(image):
    whole, fewer = image_needs(image), image_needs(image, 4)
    for before, after in zip(whole.units, fewer.units, strict=True):
        layer = before.modules[0].startswith("llm.model.layers.")
        assert after.bytes < 0.3 * before.bytes if layer else after.bytes == before.bytes


def test_a_plan_is_as_even_as_any_cut_into_runs():
    """Against every way to cut ten units, behind a first one that holds the embeddings, into three runs."""
    sizes = [(7 * i) % 11 + 1 for i in range(10)]
    units = (Unit(("door", "embeddings"), 3 * GIB), *(Unit((str(i),), size * GIB) for i, size in enumerate(sizes)))
    asked, cards = Needs(units, 0), [200 * GIB + LOST] * 3
    found = max(loads_of(asked, place(asked, cards), 3))
    every = [unit.bytes for unit in units]
    best = min(max(sum(every[:a]), sum(every[a:b]), sum(every[b:])) for a in range(1, 11) for b in range(a, 12))
    assert found == best


# ------------------------------------------------------------------------------------------------ really there
@pytest.fixture(scope="module", params=["cogvlm2_image", "cogvlm2_video"])
def recordings(request, tmp_path_factory) -> Recordings:
    found = Recordings(ROOT / request.param, tmp_path_factory.mktemp(request.param))
    assert found.model
    return found


def devices_of(model, asked: Needs) -> list[list[str]]:
    return [[str({p.device for p in model.get_submodule(m).parameters()}) for m in u.modules] for u in asked.units]


def embedded(model) -> tuple[torch.Tensor, dict]:
    """Nine embeddings, a run of visual ones among them, on the device where text goes in."""
    visual = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0]]).bool()
    embeds = model.causal.get_input_embeddings()(torch.arange(9, device=model.device)[None])
    vision = vision_expert(visual) if model.causal.experts else None
    return embeds, {"position_ids": position_ids(visual), "vision": vision}


@torch.inference_mode()
def test_what_is_spread_computes_the_same(recordings):
    """On one CPU twice: every hook is there, and moves nothing."""
    model, spreaded = recordings.model, recordings.fresh()
    asked = needs(spreaded, 2, 50, 1, (4, 4))
    placed = [int(i > len(asked.units) // 2) for i in range(len(asked.units))]
    spread(spreaded, asked, placed, ["cpu", "cpu"])
    names = list(recordings.conversations["media_recipes"])
    from test_cogvlm2 import prompts_of

    rows, visuals = prompts_of(recordings, ["What?"], [names[0]])
    assert list(spreaded.stream_ids(rows[0], visuals[0], 6)) == list(model.stream_ids(rows[0], visuals[0], 6))


@torch.inference_mode()
@pytest.mark.parametrize("cut", ["behind the tower", "inside the tower", "among the layers", "before the head"])
def test_no_operation_mixes_two_devices(recordings, cut):
    """The second device is "meta": it keeps shapes, and refuses operands that are elsewhere."""
    model = recordings.fresh()
    asked = needs(model, 2, 50, 1, (4, 4))
    names = [unit.modules[0] for unit in asked.units]
    begins = {
        "behind the tower": "projectors.",
        "among the layers": "llm.model.layers.1",
        "before the head": "llm.model.norm",
    }
    first = 2 if cut == "inside the tower" else next(i for i, n in enumerate(names) if n.startswith(begins[cut]))
    spread(model, asked, [int(i >= first) for i in range(len(names))], ["cpu", "meta"])
    for i, found in enumerate(devices_of(model, asked)):
        assert all("meta" in one if i >= first else "cpu" in one for one in found)
    size = model.encoders[model.stream].pixels
    grid = model.encoders[model.stream](torch.zeros(1, 2, 3, size, size))
    assert grid.device.type == ("meta" if cut == "inside the tower" else "cpu")
    (tokens,) = model.tokens_of([{model.stream: grid[0]}])
    assert tokens.device == model.device
    embeds, places = embedded(model)
    logits = model.causal(embeds, **places).logits
    assert logits.device.type == "meta" and logits.shape == (1, 9, model.causal.config.vocab_size)


@torch.inference_mode()
def test_a_batch_reads_and_scores_over_two_devices(recordings):
    model = recordings.fresh()
    asked = needs(model, 2, 50, 1, (4, 4))
    spread(model, asked, [int(i > len(asked.units) - 3) for i in range(len(asked.units))], ["cpu", "meta"])
    embed = model.causal.get_input_embeddings()
    texts = [embed(torch.arange(length)) for length in (3, 5, 2, 4, 1)]
    batch = _Batch(model.causal, [Reading(texts[0], texts[1:3]), Reading(texts[3], texts[4:])])
    assert batch.scores([(1, 2), (1, 3)], 9).shape == (3, 2)
    following = batch.read(batch.embed(torch.zeros(3, 1, dtype=torch.long)))
    assert following.device.type == "meta" and following.shape == (3, model.causal.config.vocab_size)


def test_a_device_that_was_forgotten_would_be_noticed(recordings, monkeypatch):
    from accelerate import hooks

    monkeypatch.setattr(hooks, "add_hook_to_module", lambda module, hook: module)
    model = recordings.fresh()
    asked = needs(model, 2, 50, 1, (4, 4))
    spread(model, asked, [int(i > len(asked.units) - 3) for i in range(len(asked.units))], ["cpu", "meta"])
    embeds, places = embedded(model)
    with pytest.raises(RuntimeError, match="device"):
        model.causal(embeds, **places)


def test_the_outline_has_the_names_and_shapes_of_the_model(recordings, tmp_path):
    folder = next(recordings.work.iterdir())
    drawn = outline(recordings.experiment(folder, recordings.config), None)
    shapes = {name: tuple(p.shape) for name, p in recordings.model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in drawn.named_parameters()} == shapes
    assert all(p.device.type == "meta" for p in drawn.parameters())


# ------------------------------------------------------------------------------------------------ asked for
def test_the_need_is_told_before_a_weight_is_read_and_a_full_card_is_refused(recordings, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    source = next(recordings.work.iterdir())
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    experiment = recordings.experiment(folder, recordings.config)
    lines: list[str] = []

    def load(load_config: LoadConfig, cards: list[int]):
        return load_models(
            [(experiment, folder)], "cpu", torch.float32, torch.float32, load_config, 1, cards, lines.append
        )

    with pytest.raises(UserError, match="not found|safetensors"):
        load(LoadConfig(), [])
    (line,) = lines
    count = sum(p.numel() for p in recordings.model.parameters())
    assert f"weights {4 * count / 2**20:.1f} MiB" in line and "on the CPU" in line
    with pytest.raises(UserError, match="--devices 2 is not possible: this machine has no GPU"):
        load(LoadConfig(devices=2), [])
    with pytest.raises(UserError, match="--devices 3 is not possible: this machine has 2 GPUs"):
        load(LoadConfig(devices=3), [GIB, GIB])
    with pytest.raises(UserError, match="does not fit 2 cards with 1.0 MiB . 1.0 MiB free; what would fit: cards with"):
        load(LoadConfig(devices=2), [2**20, 2**20])


def test_families_refuse_what_they_cannot_do(tiny_experiment, tmp_path):
    told_of = {
        "devices": LoadConfig(devices=2),
        "bits": LoadConfig(bits=4),
        "rope_precision": LoadConfig(rope_precision="fp32"),
    }
    for name, load_config in told_of.items():
        families = ", ".join(family.name for family in FAMILIES.values() if name in family.options)
        with pytest.raises(UserError, match=f"not for the family 'dual_encoder'; .*: {families}$"):
            load_models([(tiny_experiment, tmp_path)], "cpu", torch.float32, torch.float32, load_config)
    other = replace(tiny_experiment, family="llava15")
    with pytest.raises(UserError, match="--rope-precision reference_bf16 is not for the family 'llava15'"):
        load_models(
            [(other, tmp_path)], "cpu", torch.float32, torch.float32, LoadConfig(rope_precision="reference_bf16")
        )


def test_a_family_that_is_not_shared_out_refuses_several_processes(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_parallel, "world", lambda: (1, 2))
    with pytest.raises(UserError, match="the family 'dual_encoder' is answered in one process"):
        load_models([(tiny_experiment, tmp_path)], "cpu", torch.float32, torch.float32)


@torch.inference_mode()
def test_llava_is_spread_too(tmp_path_factory):
    recordings = LlavaRecordings(ROOT / "llava15", tmp_path_factory.mktemp("llava15"))
    model = recordings.model("hub")
    folder = str(next(path.parent for path in recordings.work.rglob("config.json")))
    ((name, stream),) = LLAVA15_7B.branches
    vision, tower = model.encoders[name], replace(stream, weights=folder)
    tower = replace(tower, pixels=vision.pixels, grid=vision.grid, width=vision.width)
    drawn = outline(replace(LLAVA15_7B, llm=folder, branches=((name, tower),)), None)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in drawn.named_parameters()} == shapes
    asked = needs(drawn, 1, 50, 1, (4, 4))
    assert sum(unit.bytes for unit in asked.units) == 4 * sum(p.numel() for p in model.parameters())
    layers = [unit.modules[0] for unit in asked.units if unit.cache]
    assert len(layers) == model.causal.config.text_config.num_hidden_layers
    first = next(i for i, unit in enumerate(asked.units) if unit.modules[0] == layers[1])
    spread(model, asked, [int(i >= first) for i in range(len(asked.units))], ["cpu", "meta"])
    embeds = model.causal.get_input_embeddings()(torch.arange(9)[None])
    logits = model.causal(inputs_embeds=embeds, position_ids=torch.arange(9)[None]).logits
    assert logits.device.type == "meta" and logits.shape[:2] == (1, 9)


def test_the_line_says_what_goes_where(image):
    asked = image_needs(image)
    cards = [24 * GIB] * 2
    line = summary(asked, place(asked, cards), cards, "cogvlm2_image")
    assert line.startswith("cogvlm2_image: weights 36.3 GiB, cache 0.4 GiB, about ")
    assert "card 0: 18." in line and "card 1: 18." in line and json.dumps(line).isascii()
