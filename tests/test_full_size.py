"""Both real sizes without their weights: what is built of files with every real name and shape, and no numbers.

A pickle of tensors on "meta" holds names and shapes alone, so the loaders run as they do on the published files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_tokenizer
from manifest import SIZES, Clip, InternVideo2, Qwen2, Shapes, Size, count, lora, ours, parts, projectors, reference
from parity.reference_state import split_reference
from transformers import CLIPConfig, CLIPImageProcessorPil, Qwen2Config

from scripts.random_full_size import SIZES as BUILT
from scripts.random_full_size import moved
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import QWEN_1_5B, QWEN_3B
from videogpt_plus.models.loading import load_model
from videogpt_plus.types import UserError

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = {"1.5b": QWEN_1_5B, "3b": QWEN_3B}


def empty(shapes: Shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def write_files(root: Path, size: str, shapes: Shapes) -> Experiment:
    """The published files of a size below `root`, filled with `shapes`; returns the experiment that names them."""
    experiment, state = moved(EXPERIMENTS[size], root), split_reference(empty(shapes))
    llm, streams = Path(experiment.llm), dict(experiment.branches)
    clip, video = (Path(streams[name].weights) for name in ("image", "video"))
    save_tiny_tokenizer(llm)
    Qwen2Config(**BUILT[size].llm).save_pretrained(llm)
    torch.save(state["llm"], llm / "pytorch_model.bin")
    CLIPConfig(**BUILT[size].clip).save_pretrained(clip)
    CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}).save_pretrained(clip)
    torch.save(state["clip"], clip / "pytorch_model.bin")
    video.parent.mkdir()
    torch.save({"module": state["internvideo2"]}, video)
    (root / "run").mkdir()
    wrapped = {f"base_model.model.model.{key}": value for key, value in state["projectors"].items()}
    torch.save(wrapped, root / "run" / "non_lora_trainables.bin")
    return experiment


def loaded(root: Path, size: str, shapes: Shapes):
    model = load_model(write_files(root, size, shapes), None, "meta", torch.bfloat16)
    model.load_projectors(root / "run")
    return model


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def model(size, tmp_path_factory):
    return loaded(tmp_path_factory.mktemp(size.replace(".", "_")), size, reference(SIZES[size]))


def shapes_of(parameters) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in parameters}


def differences(built: Shapes, expected: Shapes) -> dict[str, list[str]]:
    return {
        "missing": sorted(expected.keys() - built.keys()),
        "unexpected": sorted(built.keys() - expected.keys()),
        "other shape": sorted(k for k in built.keys() & expected.keys() if built[k] != expected[k]),
    }


NONE = {"missing": [], "unexpected": [], "other shape": []}


def test_every_name_and_shape_is_the_manifest_s(model, size):
    built = shapes_of(model.named_parameters())
    assert differences(built, ours(SIZES[size])) == NONE
    assert count(built.values()) == parts(SIZES[size])["built model"]


def test_the_model_on_meta_holds_no_numbers_and_the_asked_dtypes(model):
    assert {p.device.type for p in model.parameters()} == {"meta"}
    frozen = [*model.llm.parameters(), *model.encoders.parameters()]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert {p.dtype for p in model.projectors.parameters()} == {torch.float32}


def test_heads_which_no_shape_tells(model, size):
    config = model.llm.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (SIZES[size].llm.heads, SIZES[size].llm.kv_heads)
    assert {block.attn.heads for block in model.encoders["video"].tower.blocks} == {16}
    assert model.encoders["image"].tower.model.config.num_attention_heads == 16


def test_lora_adds_the_published_adapter_and_trains_it_with_the_projectors(size, tmp_path):
    from peft import get_peft_model_state_dict

    model = loaded(tmp_path, size, reference(SIZES[size]))
    model.add_lora(EXPERIMENTS[size].lora)
    adapter = get_peft_model_state_dict(model.llm, save_embedding_layers=False)
    assert differences(shapes_of(adapter.items()), lora(SIZES[size].llm)) == NONE
    trainable = count(p.shape for p in model.parameters() if p.requires_grad)
    assert trainable == count([*lora(SIZES[size].llm).values(), *projectors(SIZES[size]).values()])


@pytest.mark.parametrize(
    ("size", "part", "numbers"),
    [
        ("1.5b", "LLM", 1_543_714_304),
        ("3b", "LLM", 3_085_938_688),
        ("1.5b", "CLIP vision tower", 303_507_456),
        ("1.5b", "InternVideo2", 1_012_586_496),
        ("1.5b", "built model", 2_830_423_552),
        ("3b", "built model", 4_377_565_184),
        ("1.5b", "LoRA, r 128", 147_718_144),
        ("3b", "LoRA, r 128", 239_468_544),
    ],
)
def test_parameters_of_each_part(size, part, numbers):
    assert parts(SIZES[size])[part] == numbers


CHANGES = {
    "an LLM layer less": ("model.layers.27.mlp.up_proj.weight", None, "missing: model.layers.27.mlp.up_proj.weight"),
    "an LLM of another width": ("model.norm.weight", (2048,), r"model.norm.weight \(2048,\) instead of \(1536,\)"),
    "a CLIP without its norm": (
        "model.image_vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
        None,
        "missing: pre_layrnorm.bias",
    ),
    "InternVideo2 for 8 frames": (
        "model.vision_tower.vision_encoder.pos_embed",
        (1, 2049, 1408),
        r"pos_embed \(1, 2049, 1408\) instead of \(1, 1025, 1408\)",
    ),
    "an unknown head of InternVideo2": (
        "model.vision_tower.vision_encoder.head.weight",
        (10, 1408),
        "unexpected: head.weight",
    ),
    "a wider projector": ("model.mm_projector.2.bias", (2048,), r"2.bias \(2048,\) instead of \(1536,\)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_differ_in_one_name_or_shape_are_refused(tmp_path, change):
    name, shape, told = CHANGES[change]
    shapes = reference(SIZES["1.5b"])
    shapes.pop(name, None)
    with pytest.raises(UserError, match=told):
        loaded(tmp_path, "1.5b", shapes if shape is None else shapes | {name: shape})


def test_the_3b_files_are_not_taken_for_the_1_5b(tmp_path):
    experiment = write_files(tmp_path, "3b", reference(SIZES["3b"]))
    Qwen2Config(**BUILT["1.5b"].llm).save_pretrained(experiment.llm)
    with pytest.raises(UserError, match="unexpected: model.layers.28"):
        load_model(experiment, None, "meta", torch.bfloat16)


def recorded_size(about: dict) -> Size:
    """The recorded model's size in the manifest's terms."""
    llm, clip, video = about["llm"], about["clip"], about["internvideo"]
    return Size(
        Qwen2(
            width=llm["hidden_size"],
            layers=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            kv_heads=llm["num_key_value_heads"],
            mlp=llm["intermediate_size"],
            vocabulary=llm["vocab_size"],
            tied=llm["tie_word_embeddings"],
        ),
        Clip(
            width=clip["hidden_size"],
            layers=clip["num_hidden_layers"],
            mlp=clip["intermediate_size"],
            pixels=clip["image_size"],
            patch=clip["patch_size"],
        ),
        InternVideo2(
            width=video["parity_embed_dim"],
            depth=video["parity_depth"],
            pixels=video["img_size"],
            patch=video["patch_size"],
            chunk=video["num_frames"],
            pooled=video["clip_embed_dim"],
            teacher=video["clip_teacher_embed_dim"],
            teacher_end=video["clip_teacher_final_dim"],
            imitated=video["clip_return_layer"],
        ),
    )


@pytest.mark.parametrize("recording", ["full", "mini"])
def test_the_manifest_names_what_the_reference_wrote(recording):
    """The same formulas, at the sizes of the recorded models: every name and shape that the reference itself wrote."""
    size = recorded_size(json.loads((GOLDEN / f"weights_{recording}.json").read_text()))
    assert differences(stored_shapes(GOLDEN / f"weights_{recording}.safetensors"), reference(size)) == NONE


def test_the_manifest_names_what_the_reference_s_lora_wrote():
    folder = GOLDEN / "lora_ckpt"
    size = recorded_size(json.loads((GOLDEN / "weights_mini.json").read_text()))
    r = json.loads((folder / "adapter_config.json").read_text())["r"]
    assert differences(stored_shapes(folder / "adapter_model.safetensors"), lora(size.llm, r)) == NONE


def stored_shapes(path: Path) -> Shapes:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}
