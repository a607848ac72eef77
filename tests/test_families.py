"""A model family is a record: one from outside loads, counts and costs as ours, and runs share an LLM by its rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from videogpt_plus import encoders, families
from videogpt_plus.config.options import DEFAULT_LOAD, LoadConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders.grid import GridEncoder
from videogpt_plus.families import DUAL_ENCODER, FAMILIES, cinego, cogvlm2, family_of, llava15
from videogpt_plus.families.record import OPTIONS, Encoder
from videogpt_plus.flops import sizes_of
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models import loading
from videogpt_plus.models.base import only_stream
from videogpt_plus.text import chat
from videogpt_plus.types import UserError

STRANGE = Encoder("videogpt_plus.encoders.clip", class_tokens=1)
OURS = DUAL_ENCODER._replace(
    name="ours", encoders={"strange": STRANGE}, templates={"ours": "test_families:TEMPLATE"}, frame_marks=3
)
TEMPLATE = chat.Template(lambda tokenizer, turns: [], lambda tokenizer, turn, past: [7] * turn.placeholders)


@pytest.fixture
def registered(monkeypatch):
    """A family from outside, which the test takes away with it."""
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))
    monkeypatch.setattr(encoders, "FAMILIES", families.FAMILIES)
    monkeypatch.setattr(chat, "FAMILIES", families.FAMILIES)
    families.register(OURS)


@pytest.fixture
def experiment(tiny_experiment):
    """The tiny experiment as that family has it, its CLIP under another name."""
    (name, stream), *rest = tiny_experiment.branches
    return replace(tiny_experiment, family="ours", branches=((name, replace(stream, encoder="strange")), *rest))


def test_a_family_from_outside_loads_and_is_counted(registered, experiment, tiny_experiment):
    model = loading.load_model(experiment, None, "cpu", torch.float32)
    assert list(model.encoders) == ["image", "video"] and model.tokenizer is not None
    frames = experiment.num_frames
    assert num_visual_tokens(experiment, frames) == num_visual_tokens(tiny_experiment, frames) + frames * (3 + 1)
    assert chat.encode_prompt(model.tokenizer, "What?", [2], "ours") == [7, 7]


def test_an_encoder_without_a_formula_has_no_cost(registered, experiment, tiny_experiment):
    assert sizes_of(tiny_experiment) is not None and sizes_of(experiment) is None


def test_a_name_that_is_taken_is_refused(registered):
    with pytest.raises(UserError, match="a model family is called 'ours' already"):
        families.register(OURS)
    with pytest.raises(UserError, match="an encoder is called 'strange' already"):
        encoders.register("strange", STRANGE)


def test_an_unknown_name_is_told_with_the_choices(tiny_experiment):
    with pytest.raises(UserError, match="unknown family 'other'; choose from: dual_encoder, llava15, "):
        family_of("other")
    with pytest.raises(UserError, match="unknown encoder 'other'; choose from: clip, internvideo2, clip_llava, "):
        encoders.encoder_of("other")
    with pytest.raises(UserError, match="unknown template 'other'; choose from: qwen2, plain, llava_v1, "):
        chat.check_template("other")


def test_every_name_of_a_record_can_be_imported():
    for family in FAMILIES.values():
        fields = ("build", "tokenizer", "sizes", "own_weights", "shard", "convert", "twin")
        assert all(callable(family.function(f)) or f == "convert" for f in fields if getattr(family, f))
        assert set(family.options) <= {*OPTIONS} and bool(family.options) == bool(family.shard)
        assert all(isinstance(chat.template_of(name), chat.Template) for name in family.templates)
        for encoder in family.encoders.values():
            assert callable(encoder.file.load) and callable(encoder.file.preprocessor)
            assert not family.options or callable(encoder.file.outline)


def test_a_family_of_one_branch_refuses_two(tiny_experiment):
    with pytest.raises(UserError, match="has 2 streams, the family dual_encoder has one: leave the others out"):
        only_stream(tiny_experiment)
    with pytest.raises(UserError, match="has 2 streams, the family llava15 has one"):
        loading.load_model(replace(tiny_experiment, family="llava15"), None, "cpu", torch.float32)


BITS = LoadConfig(bits=4)


@pytest.mark.parametrize(
    ("family", "tuned", "load_config", "found"),
    [
        (DUAL_ENCODER, [True], DEFAULT_LOAD, True),
        (DUAL_ENCODER, [True, True], DEFAULT_LOAD, True),
        (DUAL_ENCODER, [True, False], DEFAULT_LOAD, "run1 has no LoRA adapter to share an LLM with others by"),
        (cogvlm2.VIDEO, [True], DEFAULT_LOAD, False),
        (cogvlm2.VIDEO, [True], BITS, False),
        (cogvlm2.VIDEO, [False, False], BITS, False),
        (cogvlm2.VIDEO, [True, True], DEFAULT_LOAD, True),
        (cogvlm2.VIDEO, [False, True], DEFAULT_LOAD, "run0 has no LoRA adapter to share an LLM with others by"),
        (cogvlm2.VIDEO, [True, True], BITS, "--bits needs a LoRA merged into the LLM"),
        (llava15.FAMILY, [True], DEFAULT_LOAD, False),
        (llava15.FAMILY, [False, True], DEFAULT_LOAD, "run1 has a LoRA, and cannot share its LLM with others"),
        (cinego.FAMILY, [True, False], DEFAULT_LOAD, "run0 has a LoRA, and cannot share its LLM with others"),
    ],
)
def test_whether_a_lora_stays_apart_is_the_familys_rule(family, tuned, load_config, found, tiny_experiment, tmp_path):
    runs = []
    for number, has_one in enumerate(tuned):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        if has_one:
            (folder / "adapter_config.json").touch()
        runs.append((tiny_experiment, folder))
    if isinstance(found, bool):
        assert loading._lora_apart(family, runs, load_config) is found
        return
    with pytest.raises(UserError, match=found):
        loading._lora_apart(family, runs, load_config)


def test_a_tower_that_names_no_blocks_is_never_cut(tiny_experiment):
    whole = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    encoder = GridEncoder(whole, tiny_experiment.branches[0][1], lambda clip: clip)
    assert encoder.blocks == [whole]


def told_own(experiment, dtype, meta, load_config, own):
    return own


@pytest.mark.parametrize("own", [(True,), (True, True), (True, False), (False, True), (False,)])
def test_published_projectors_are_read_unless_every_run_brings_its_own(own, tiny_experiment, tmp_path):
    runs = []
    for number, has_own in enumerate(own):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_tensors(folder / "projectors.safetensors", {"mm_projector.weight": torch.ones(1)} if has_own else {})
        runs.append((tiny_experiment, folder))
    family = DUAL_ENCODER._replace(build="test_families:told_own")
    assert loading._base(family, runs, torch.float32) is all(own)
    assert loading._base(family, [*runs, (tiny_experiment, None)], torch.float32) is False
