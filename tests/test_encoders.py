"""Encoders: what grids they return, what they ignore, and what they refuse."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from videogpt_plus.encoders.loading import load_encoder, preprocessor
from videogpt_plus.types import Clip, UserError


def clip_of(t, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (t, 3, height, width), dtype=torch.uint8, generator=generator)
    return Clip(frames, tuple(float(i) for i in range(t)), "made in a test")


@pytest.fixture(scope="module")
def image_stream(tiny_experiment):
    return dict(tiny_experiment.branches)["image"]


@pytest.fixture(scope="module")
def video_stream(tiny_experiment):
    return dict(tiny_experiment.branches)["video"]


@pytest.fixture(scope="module")
def video_encoder(video_stream):
    return load_encoder(video_stream, "cpu", torch.float32)


@pytest.mark.parametrize("name", ["image", "video"])
@pytest.mark.parametrize("t", [1, 3, 4, 6, 8])
def test_grid_keeps_every_frame(tiny_experiment, name, t):
    stream = dict(tiny_experiment.branches)[name]
    encoder = load_encoder(stream, "cpu", torch.float32)
    pixels = encoder.preprocess(clip_of(t, 50, 70))
    assert pixels.shape == (t, 3, stream.pixels, stream.pixels)
    assert encoder(pixels[None]).shape == (1, t, stream.grid, stream.grid, stream.width)


def test_clip_grid_is_the_last_hidden_state_but_one_without_class_token(image_stream):
    from transformers import CLIPVisionModel

    encoder = load_encoder(image_stream, "cpu", torch.float32)
    pixels = encoder.preprocess(clip_of(2, 60, 48))
    whole = CLIPVisionModel.from_pretrained(image_stream.weights).eval()
    with torch.no_grad():
        expected = whole(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(encoder(pixels[None])[0].flatten(1, 2), expected)


def test_clip_resizes_the_shortest_side_and_crops_the_centre(image_stream):
    clip = clip_of(1, 60, 96)
    picture = Image.fromarray(clip.frames[0].permute(1, 2, 0).numpy()).resize((76, 48), Image.Resampling.BICUBIC)
    cropped = np.asarray(picture)[:, 14:62] / 255
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = ((cropped - mean) / deviation).transpose(2, 0, 1)
    np.testing.assert_allclose(preprocessor(image_stream)(clip)[0].numpy(), expected, atol=1e-5)


def test_video_frames_are_squashed_without_antialiasing(video_stream):
    clip = clip_of(2, 100, 80)
    frame = clip.frames[1].double().numpy()
    for axis, side in ((1, 100), (2, 80)):
        at = (np.arange(32) + 0.5) * side / 32 - 0.5
        low = np.floor(at).astype(int)
        shape = [1, 1, 1]
        shape[axis] = 32
        part = (at - low).reshape(shape)
        frame = np.take(frame, low, axis) * (1 - part) + np.take(frame, low + 1, axis) * part
    mean, deviation = ([[[c]] for c in v] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    got = preprocessor(video_stream)(clip)[1].double().numpy() * deviation + mean
    levels = got * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert np.abs(levels - frame).max() <= 0.501  # rounded to whole levels, nothing else


def test_chunks_of_four_frames_do_not_see_one_another(video_encoder):
    pixels = torch.randn(1, 8, 3, 32, 32)
    changed = pixels.clone()
    changed[:, 5] += 1
    before, after = video_encoder(pixels), video_encoder(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert all(not torch.equal(before[:, i], after[:, i]) for i in range(4, 8))


def test_a_chunk_that_is_not_full_repeats_its_last_frame(video_encoder):
    pixels = torch.randn(1, 6, 3, 32, 32)
    filled = torch.cat([pixels, pixels[:, -1:], pixels[:, -1:]], dim=1)
    torch.testing.assert_close(video_encoder(pixels), video_encoder(filled)[:, :6])


def test_only_a_single_frame_takes_the_image_positions(video_stream, video_encoder):
    other = load_encoder(video_stream, "cpu", torch.float32)
    with torch.no_grad():
        other.tower.img_pos_embed += 1
    one, four = torch.randn(1, 1, 3, 32, 32), torch.randn(1, 4, 3, 32, 32)
    assert not torch.allclose(other(one), video_encoder(one))
    assert torch.equal(other(four), video_encoder(four))


@pytest.mark.parametrize("name", ["image", "video"])
def test_encoders_are_frozen_and_stay_in_eval_mode(tiny_experiment, name):
    encoder = torch.nn.Sequential(load_encoder(dict(tiny_experiment.branches)[name], "cpu", torch.float32))
    encoder.train()
    assert not any(module.training for module in encoder[0].modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["image", "video"])
def test_preprocessing_needs_no_weights_and_travels_to_workers(tiny_experiment, name, tmp_path):
    stream = dict(tiny_experiment.branches)[name]
    if name == "image":
        shutil.copy(Path(stream.weights) / "preprocessor_config.json", tmp_path)
    preprocess = preprocessor(replace(stream, weights=str(tmp_path)))
    copy, clip = pickle.loads(pickle.dumps(preprocess)), clip_of(1, 40, 40)
    assert torch.equal(copy(clip), preprocessor(stream)(clip))


@pytest.mark.parametrize("wrapper", ["model", "module"])
def test_published_pickle_loads_with_its_wrapper_prefix_and_unused_keys(video_stream, video_encoder, tmp_path, wrapper):
    state = {f"vision_encoder.{k}": v for k, v in load_file(video_stream.weights).items()}
    state |= {f"vision_encoder.blocks.2.{k}": torch.zeros(32) for k in ("norm1.weight", "ls1.gamma")}
    state |= {"vision_encoder.clip_pos_embed": torch.zeros(1), "vision_proj.weight": torch.zeros(2, 2)}
    torch.save({wrapper: state}, tmp_path / "tower.pt")
    loaded = load_encoder(replace(video_stream, weights=str(tmp_path / "tower.pt")), "cpu", torch.float32)
    pixels = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(loaded(pixels), video_encoder(pixels))


def test_weights_that_do_not_fit_list_missing_unexpected_and_shapes(video_stream, tmp_path):
    state = load_file(video_stream.weights)
    state["strange"] = state.pop("cls_token")
    state["blocks.0.norm1.weight"] = torch.zeros(7)
    save_file(state, tmp_path / "tower.safetensors")
    with pytest.raises(UserError) as error:
        load_encoder(replace(video_stream, weights=str(tmp_path / "tower.safetensors")), "cpu", torch.float32)
    for told in ("missing: cls_token", "unexpected: strange", "blocks.0.norm1.weight (7,) instead of (32,)"):
        assert told in str(error.value)


def test_vision_tower_of_a_whole_clip_file_loads(image_stream, tmp_path):
    shutil.copytree(image_stream.weights, tmp_path / "clip")
    own = load_file(tmp_path / "clip" / "model.safetensors")
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in own.items()}
    state |= {"text_model.final_layer_norm.bias": torch.zeros(3), "logit_scale": torch.zeros(1)}
    save_file(state, tmp_path / "clip" / "model.safetensors")
    loaded = load_encoder(replace(image_stream, weights=str(tmp_path / "clip")), "cpu", torch.float32)
    pixels = torch.randn(1, 1, 3, 48, 48)
    assert torch.equal(loaded(pixels), load_encoder(image_stream, "cpu", torch.float32)(pixels))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("image", {"encoder": "clop"}, "unknown encoder 'clop'; choose from: clip, internvideo2"),
        ("image", {"grid": 11}, r"\(48, 12, 32\), the experiment's stream says \(48, 11, 32\)"),
        ("video", {"width": 48}, "contradicts its size"),
        ("video", {"size": None}, "needs `size="),
        ("image", {"weights": "nowhere/clip"}, "nowhere/clip"),
        ("video", {"weights": "nowhere/tower.pt"}, "nowhere/tower.pt does not exist"),
    ],
)
def test_wrong_streams_are_refused(tiny_experiment, name, change, told):
    stream = replace(dict(tiny_experiment.branches)[name], **change)
    with pytest.raises(UserError, match=told):
        load_encoder(stream, "cpu", torch.float32)


def test_preprocessing_of_another_size_is_refused(image_stream, tmp_path):
    config = json.loads((Path(image_stream.weights) / "preprocessor_config.json").read_text())
    config["crop_size"] = {"height": 40, "width": 40}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="crops to"):
        preprocessor(replace(image_stream, weights=str(tmp_path)))
