"""The mid size: parts of the real classes with random weights, written as published and read as a product reads them.

    ROOT/llm  ROOT/clip  ROOT/internvideo2.safetensors  ROOT/bench/{json,video}  ROOT/runs/mid_poolLEVEL

Its answers mean nothing; its times are those of the code that runs at any size.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from videogpt_plus.config.experiment import Branch, Experiment, InternVideo2Size, Lora, Prompting, Sampling, Trained
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.experiments import TOY_WEIGHTS, at_level
from videogpt_plus.config.training import Training
from videogpt_plus.encoders.internvideo2 import InternVideo2
from videogpt_plus.io.files import located
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.models.silence import quiet
from videogpt_plus.toy import render, world

LEVELS = (1, 2, 4, 8, 16)
#: Rows of the real vocabulary, for what its head costs.
REAL_VOCABULARY = 151_936
#: Of the clips that are asked about: ten seconds of 640 x 360 at 25 frames a second.
HEIGHT, WIDTH, RATE, SECONDS = 360, 640, 25, 10


@dataclass(frozen=True)
class Size:
    """Sizes of the parts. CLIP sees 336 pixels and InternVideo2 224, in patches of 14, as the real ones do."""

    width: int = 256
    heads: int = 4
    clip_layers: int = 6
    clip_mlp: int = 1024
    video_blocks: int = 6
    llm_layers: int = 4
    llm_mlp: int = 1024
    vocabulary: int = 1088
    frames: int = 16


MID = Size()


def write(root: Path, size: Size | None = None, clips: int = 1) -> Experiment:
    """Writes all parts in MID or another size, `clips` clips with a question each, an untrained run at every level.

    Returns the experiment; its run at a level is `run_folder`.
    """
    size = size or MID
    with quiet():
        write_llm(root / "llm", size)
        image = clip_stream(root / "clip", size.width, size.heads, size.clip_mlp, size.clip_layers)
        video = internvideo2_stream(root / "internvideo2.safetensors", size.width, size.heads, size.video_blocks)
        experiment = Experiment(
            name="mid",
            llm=str(root / "llm"),
            branches=(("image", image), ("video", video)),
            source=Trained(
                Training(data="TOY_FINETUNING", bf16=False, gradient_checkpointing=False),
                lora=Lora(r=16, alpha=32, dropout=0.0),
            ),
            sampling=Sampling(size.frames),
            prompting=Prompting(max_new_tokens=4),
            benchmark_root=str(root / "bench"),
        )
        write_benchmark(root / "bench", clips)
        for level in LEVELS:
            write_run(run_folder(root, level), at_level(experiment, level))
    return experiment


def run_folder(root: Path, level: float) -> Path:
    """Where `write` puts the run at a level."""
    return root / "runs" / f"mid_pool{level:g}"


def write_llm(folder: Path, size: Size) -> None:
    """Qwen2 with random weights and the toy's tokenizer, which has fewer entries than any vocabulary here."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.llm_mlp,
        num_hidden_layers=size.llm_layers,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 2),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copy(located(f"{TOY_WEIGHTS}/llm") / file, folder)


def clip_stream(folder: Path, width: int, heads: int, mlp: int, layers: int) -> Branch:
    """CLIP's vision tower at 336 pixels with its processor, written into `folder`."""
    torch.manual_seed(1)
    pixels, patch = 336, 14
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=pixels,
        patch_size=patch,
    )
    with quiet():
        CLIPVisionModel(config).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels})
    processor.save_pretrained(folder)
    return Branch("clip", str(folder), pixels, pixels // patch, width)


def internvideo2_stream(path: Path, width: int, heads: int, blocks: int) -> Branch:
    """InternVideo2 at 224 pixels, written as safetensors to `path`; of `blocks` the last never runs."""
    torch.manual_seed(2)
    size = InternVideo2Size(depth=blocks, width=width, heads=heads)
    pixels = 224
    tower = InternVideo2(size, pixels)
    state = {
        key: torch.randn_like(value) * 0.02 if value.ndim > 1 else value for key, value in tower.state_dict().items()
    }
    save_tensors(path, state)
    return Branch("internvideo2", str(path), pixels, pixels // size.patch, width, size=size)


def write_run(folder: Path, experiment: Experiment) -> None:
    """A run folder as training leaves it, with a LoRA that changes something."""
    torch.manual_seed(int(experiment.level))
    model = load_model(experiment, None, "cpu", torch.float32)
    model.add_lora(experiment.lora)
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.llm.save_pretrained(folder)
    save_tensors(folder / "projectors.safetensors", model.projector_state())
    save_experiment(folder, experiment)


def write_benchmark(root: Path, clips: int) -> None:
    """Clips of moving toy scenes and a question about each, in MVBench's layout."""
    entries, folder = [], root / "video" / "mid"
    (root / "json").mkdir(parents=True)
    folder.mkdir(parents=True)
    for i in range(clips):
        rng = np.random.default_rng((3, i))
        scene = world.motion_direction(rng)
        pictures = world.render(scene, HEIGHT, WIDTH, rng)
        shown = (pictures[j * len(pictures) // (RATE * SECONDS)] for j in range(RATE * SECONDS))
        render.write_mp4(folder / f"{i:04d}.mp4", shown, HEIGHT, WIDTH, RATE)
        question = {"question": scene.question, "candidates": list(scene.candidates), "answer": scene.answer}
        entries.append({"video": f"{i:04d}.mp4", **question})
    (root / "json" / "mid.json").write_text(json.dumps(entries))
    (root / "tasks.json").write_text(json.dumps({"Mid": {"folder": "video/mid"}}))
