"""The trial of a real size with random weights, at a tiny size: the same code, the same files, the same measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clips import coded_frames, render_mp4
from safetensors.torch import load_file

from scripts import random_full_size
from scripts.random_full_size import SIZES, Size, load, main, table, trial
from videogpt_plus.config.experiment import Branch, InternVideo2Size, Lora, with_settings
from videogpt_plus.config.experiments import QWEN_1_5B

pytestmark = pytest.mark.usefixtures("quick_pictures")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, which this system has not"
)

IMAGE, VIDEO = (stream for _, stream in QWEN_1_5B.branches)
TINY = Size(
    with_settings(
        QWEN_1_5B,
        {
            "branches": (
                ("image", Branch("clip", IMAGE.weights, pixels=48, grid=12, width=32)),
                ("video", Branch("internvideo2", VIDEO.weights, 32, 8, 32, size=InternVideo2Size(3, 32, 4, 4))),
            ),
            "source.lora": Lora(r=4, alpha=8),
            "sampling.num_frames": 4,
            "prompting.max_new_tokens": 3,
        },
    ),
    SIZES["1.5b"].llm
    | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_window_layers": 2,
    },
    {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "image_size": 48,
            "patch_size": 4,
        },
        "text_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
        },
        "projection_dim": 16,
    },
)
BUILT = ["LLM", "CLIP", "InternVideo2", "projectors, LoRA"]
ASKED = ["decode", "preprocess", "image encoder", "video encoder", "projectors", "pooling", "prefill"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return render_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", coded_frames(8), fps=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def result(root, clip):
    return trial(TINY, root, clip, (2, 8), torch.bfloat16, "What is this?")


def test_every_stage_is_measured_at_every_level(result):
    stages = [f"build, save: {part}" for part in BUILT]
    for level in (2, 8):
        stages += [f"level {level}: load", *(f"level {level}: {stage}" for stage in ASKED)]
        stages.append(f"level {level}: further tokens")
    rows = {row["stage"]: row for row in result["stages"]}
    assert list(rows) == stages
    assert all(row["seconds"] > 0 and 0 < row["peak_bytes"] <= result["peak_bytes"] for row in rows.values())
    assert {rows[f"level 2: {stage}"]["calls"] for stage in ("image encoder", "video encoder")} == {1}
    assert {rows[f"level 2: {stage}"]["calls"] for stage in ("projectors", "pooling", "further tokens")} == {2}


def test_answers_see_as_many_visual_tokens_as_their_level_says(result):
    seen = [(a["level"], a["frames"], a["visual_tokens"], a["new_tokens"]) for a in result["answers"]]
    assert seen == [(2, 4, 4 * (36 + 16), 3), (8, 4, 4 * (4 + 1), 3)]
    texts = {a["prompt_tokens"] - a["visual_tokens"] for a in result["answers"]}
    assert len(texts) == 1 and texts.pop() > len("You are a helpful AI assistant.")


def test_the_table_has_a_line_for_every_stage_and_answer(result):
    lines = table(result)
    assert len(lines) == 1 + len(result["stages"]) + len(result["answers"]) + 1
    assert f"{result['parameters']:,} parameters" in lines[-1]


def test_what_was_saved_is_what_is_loaded(result, root):
    model, experiment = load(TINY, root, 2, torch.bfloat16)
    streams = dict(experiment.branches)
    saved = torch.load(streams["video"].weights, weights_only=True)["module"]
    tower = model.encoders["video"].tower.state_dict()
    assert {f"vision_encoder.{key}" for key in tower} == {k for k in saved if ".blocks.2." not in k}
    assert all(torch.equal(value, saved[f"vision_encoder.{key}"]) for key, value in tower.items())
    saved = load_file(Path(streams["image"].weights) / "model.safetensors")
    assert any(key.startswith("text_model.") for key in saved)
    for key, value in model.encoders["image"].tower.model.state_dict().items():
        assert torch.equal(value, saved[f"vision_model.{key}"])
    saved = torch.load(root / "trained" / "pretrain" / "video" / "mm_projector.bin", weights_only=True)
    assert torch.equal(model.projectors["video"][0].weight, saved["model.mm_projector.0.weight"].float())


def test_the_adapter_is_merged_into_the_llm(result, root):
    model, experiment = load(TINY, root, 2, torch.bfloat16)
    base = load_file(Path(experiment.llm) / "model.safetensors")
    lora = load_file(root / "trained" / "finetune" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    down, up = (lora[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
    merged = base[f"{name}.weight"].float() + 2 * up @ down
    torch.testing.assert_close(model.llm.get_parameter(f"{name}.weight").float(), merged, atol=5e-4, rtol=8e-3)
    assert not torch.equal(model.llm.get_parameter(f"{name}.weight"), base[f"{name}.weight"])


def test_the_tokenizer_has_qwen2_s_size_and_takes_a_token_for_each_byte(result, root):
    model, _ = load(TINY, root, 2, torch.bfloat16)
    tokenizer = model.tokenizer
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file_sep|>"])
    assert (len(tokenizer), ids) == (151_665, [151_643, 151_644, 151_645, 151_664])
    text = "Où est l'objet?\n"
    assert len(tokenizer(text).input_ids) == len(text.encode()) and tokenizer.decode(tokenizer(text).input_ids) == text


def test_one_command_prints_writes_its_report_and_removes_the_weights(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setitem(SIZES, "1.5b", TINY)
    main(tmp_path / "weights", clip, levels=(4,), max_new_tokens=2, report=tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["size"], report["dtype"], report["weights"]) == ("1.5b", "bf16", "random")
    assert report["answers"][0]["new_tokens"] == 2 and report["machine"]["cores"] > 0
    assert capsys.readouterr().out == "\n".join(table(report)) + "\n"
    assert not (tmp_path / "weights").exists()


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path, clip, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(tmp_path, clip)
    assert end.value.code == 2 and "is not empty; name a new folder" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_disk_without_room_is_told_before_anything_is_built(tmp_path, clip, monkeypatch, capsys):
    usage = random_full_size.shutil.disk_usage(tmp_path)._replace(free=3 * 2**30)
    monkeypatch.setattr(random_full_size.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit) as end:
        main(tmp_path / "weights", clip)
    assert end.value.code == 2 and "has 3.0 GiB of free space, the files take 6" in capsys.readouterr().err
    assert not any((tmp_path / "weights").iterdir())


def test_a_clip_that_cannot_be_read_ends_in_one_line_and_removes_the_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SIZES, "1.5b", TINY)
    with pytest.raises(SystemExit) as end:
        main(tmp_path / "weights", tmp_path / "gone.mp4")
    told = capsys.readouterr().err
    assert end.value.code == 2 and "gone.mp4" in told.splitlines()[-1]
    assert not (tmp_path / "weights").exists()
