"""Fewer bits in the LLM's layers, and nowhere else."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from parity.cogvlm2 import Recordings
from test_cogvlm2 import prompts_of
from test_placement import published

from videogpt_plus.config.options import EvalConfig, LoadConfig
from videogpt_plus.models import quantize as module
from videogpt_plus.models.loading import load_models
from videogpt_plus.models.quantize import check_bits, chosen, skipped
from videogpt_plus.types import UserError

ROOT = Path(__file__).parent / "golden_families"
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install '.[bits]'"
)


@pytest.mark.parametrize(("name", "pixels", "each"), [("image", 1344, 10), ("video", 224, 5)])
def test_the_published_size_keeps_tower_convolution_projector_embeddings_norms_and_head(name, pixels, each):
    model = published(name, pixels)
    fewer, kept = chosen(model), skipped(model)
    assert Counter(n.split(".")[3] for n in fewer) == {str(i): each for i in range(32)}
    assert all(n.startswith("llm.model.layers.") for n in fewer)
    tower = {n for n, m in model.named_modules() if n.startswith("encoders.") and list(m.parameters(recurse=False))}
    assert tower < set(kept) and f"encoders.{name}.tower.conv" in tower and len(tower) > 63 * 6
    projector = f"projectors.{name}"
    assert {projector, f"{projector}.linear_proj.gate_proj", "llm.lm_head", "llm.model.embed_tokens"} < set(kept)
    owned = [p for n in (*fewer, *kept) for p in model.get_submodule(n).parameters(recurse=False)]
    assert len(owned) == len(list(model.parameters())), "each weight is on one of the lists, once"


def test_without_bitsandbytes_there_is_one_line(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check_bits(None)
    with pytest.raises(UserError, match="--bits 4 needs bitsandbytes: pip install 'videogpt_plus.bits.'"):
        check_bits(4)


def test_bits_and_rope_shape_answers_and_cards_do_not():
    plain = EvalConfig().shapes_answers()
    assert EvalConfig(devices=4).shapes_answers() == plain
    assert EvalConfig(bits=4, rope_precision="fp32").shapes_answers() == {**plain, "bits": 4, "rope_precision": "fp32"}


@pytest.fixture(scope="module", params=["cogvlm2_image", "cogvlm2_video"])
def recordings(request, tmp_path_factory) -> Recordings:
    found = Recordings(ROOT / request.param, tmp_path_factory.mktemp(request.param))
    assert found.model
    return found


def logits(model, rows, visuals) -> torch.Tensor:
    ids = torch.tensor(rows)
    return model(ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals).logits


def rounded(layer: torch.nn.Module) -> torch.Tensor:
    """A layer's weights as its few bits say."""
    import bitsandbytes as bnb

    if layer.weight.dtype == torch.uint8:
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data * layer.weight.SCB[:, None] / 127


@needs_bitsandbytes
@torch.inference_mode()
@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_compute_as_the_rounded_weights_do(recordings, bits):
    folder = next(recordings.work.iterdir())
    run = [(recordings.experiment(folder, recordings.config), folder)]
    (model,) = load_models(run, "cpu", torch.float32, torch.float32, LoadConfig(bits=bits))
    oracle = recordings.fresh()
    for name in chosen(oracle):
        few, plain = model.get_submodule(name), oracle.get_submodule(name)
        assert few.weight.element_size() == 1 and few.weight.numel() == plain.weight.numel() * bits // 8
        near = rounded(few)
        # Half the widest gap between levels: of 4 bits .15 of the largest of 64 weights, of 8 bits 1 / 254 of a row's.
        far = (near - plain.weight).abs().amax(1) / plain.weight.abs().amax()
        assert 0 < far.max() < (1 / 250 if bits == 8 else 0.16)
        plain.weight.copy_(near)
    rows, visuals = prompts_of(recordings, ["What?"], [next(iter(recordings.conversations["media_recipes"]))])
    ours, theirs, whole = (logits(m, rows, visuals) for m in (model, oracle, recordings.model))
    # bitsandbytes computes in bfloat16 on a CPU with 4 bits, and rounds what goes into a layer, too, with 8.
    away = (ours - whole).norm()
    assert away > 1e-3 * whole.norm()
    assert (ours - theirs).norm() < (0.1 * away if bits == 4 else 0.1 * whole.norm())
    assert type(model.causal.lm_head) is torch.nn.Linear
    assert len(list(model.stream_ids(rows[0], visuals[0], 3))) == 3
