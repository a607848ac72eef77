"""Recorded weights as a model of ours, recorded seeds as frames, and which of them the reference looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from videogpt_plus.config.experiment import Branch, Experiment, InternVideo2Size, Published
from videogpt_plus.encoders.loading import load_encoder
from videogpt_plus.io.run_weights import projector_key
from videogpt_plus.io.tensors import read_tensors
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.loading import load_model
from videogpt_plus.models.projectors import build_projector
from videogpt_plus.reducers import build_reducer
from videogpt_plus.reducers.average import Average
from videogpt_plus.types import PLACEHOLDER, Visual

from .reference_state import split_reference

#: Mean and deviation of each stream's pixels.
MOMENTS = {
    "video": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "image": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def frames(seed: int, n: int, size: int, stream: str) -> Tensor:
    """Float "n 3 size size": the recipe by which the recorded frames were made."""
    mean, deviation = MOMENTS[stream]
    random = np.random.RandomState(seed)
    base = random.randint(0, 224, size=(n, 7, 7, 3)).astype(np.int64)
    noise = random.randint(0, 32, size=(n, size, size, 3)).astype(np.int64)
    k = size // 7
    pixels = (np.repeat(np.repeat(base, k, 1), k, 2) + noise).astype(np.uint8)
    x = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(deviation)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32))


def pixels(recorded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The frames of every stream of one recorded video or image."""
    n = recorded["n"]
    if "seed" in recorded:  # pre-training shows one stream alone
        stream = "video" if recorded["kind"] == "video" else "image"
        return {stream: frames(recorded["seed"], n, recorded["size"], stream)}
    return {
        "image": frames(recorded["context_seed"], n, recorded["image_size"], "image"),
        "video": frames(recorded["video_seed"], n, recorded["video_size"], "video"),
    }


def placeholders(ids: Tensor) -> list[int]:
    """How many placeholders each row of ids holds."""
    return (ids == PLACEHOLDER).sum(1).tolist()


def own_visuals(shown: Sequence[Mapping[str, Tensor]], counts: Sequence[int], chunk: int) -> list[Visual]:
    """What the reference reads of each sample alone: all images, and a chunk of video for `chunk` placeholders."""
    return [
        _cut(pixels, pixels.get("video"), count, count // chunk * chunk)
        for pixels, count in zip(shown, counts, strict=True)
    ]


def visuals_of_the_reference(shown: Sequence[Mapping[str, Tensor]], counts: Sequence[int], chunk: int) -> list[Visual]:
    """What the reference reads of each sample of a batch: chunks of all videos one after another.

    It takes as many as fit the placeholders and goes on there, so that behind a sample with fewer placeholders than
    frames the next one reads the rest of that video: a defect, unless all counts are those of the frames.
    """
    every = [pixels["video"] for pixels in shown if "video" in pixels]
    row, visuals, cursor = torch.cat(every) if every else None, [], 0
    for pixels, count in zip(shown, counts, strict=True):
        taken = count // chunk * chunk
        visuals.append(_cut(pixels, row[cursor:] if "video" in pixels else None, count, taken))
        cursor += taken
    return visuals


def _cut(pixels: Mapping[str, Tensor], video: Tensor | None, count: int, taken: int) -> Visual:
    # A single frame is an image to the video stream as well, and fills no chunk.
    cut = {} if video is None or len(pixels["video"]) == 1 else {"video": video[:taken]}
    return Visual({**pixels, **cut}, count)


def write_parts(weights: Path, tokenizer: Path, folder: Path, all_rows: bool) -> Experiment:
    """The parts of a full state dict of the reference, each in the layout that our loaders read.

    With `all_rows` the tokenizer gets a token for every row of the LLM's table, for the reference answered with all
    of them, except after loading a LoRA checkpoint: then it cuts the table to the tokenizer.
    """
    info = json.loads(weights.with_suffix(".json").read_text())
    parts = split_reference(read_tensors(weights.with_suffix(".safetensors")))
    llm = _llm(info["llm"], parts["llm"])
    llm.save_pretrained(folder / "llm")
    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    if all_rows:
        words.add_tokens([f"<row{i}>" for i in range(len(words), llm.config.vocab_size)])
    words.save_pretrained(folder / "llm")
    streams = []
    if info["clip"]:
        streams.append(("image", _write_clip(info, parts["clip"], folder / "clip")))
    if info["internvideo"]:
        streams.append(("video", _write_internvideo2(info, parts["internvideo2"], folder / "internvideo2.pt")))
    (folder / "run").mkdir()
    projectors = {f"model.{key}": value for key, value in parts["projectors"].items()}
    torch.save(projectors, folder / "run" / "mm_projector.bin")
    return Experiment(name=weights.name, llm=str(folder / "llm"), branches=tuple(streams), source=Published())


def _llm(recorded: Mapping[str, Any], state: Mapping[str, Tensor]) -> transformers.PreTrainedModel:
    """The LLM by its recorded class: Qwen2, or Phi-3, with which the reference also pre-trains projectors."""
    kind = getattr(transformers, recorded["architectures"][0])
    config = kind.config_class.from_dict({**recorded, "model_type": kind.config_class.model_type})
    llm = kind(config)
    llm.load_state_dict(state, strict=not config.tie_word_embeddings)
    return llm


def _write_clip(info: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> Branch:
    config = transformers.CLIPVisionConfig.from_dict(info["clip"])
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors")
    side = config.image_size
    processor = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    projector = info["llm"]["image_mm_projector_type"]
    return Branch("clip", str(folder), side, side // config.patch_size, config.hidden_size, projector)


def _write_internvideo2(info: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> Branch:
    torch.save({"module": state}, path)
    tower = info["internvideo"]
    size = InternVideo2Size(
        depth=tower["parity_depth"],
        width=tower["parity_embed_dim"],
        heads=tower["parity_num_heads"],
        patch=tower["patch_size"],
        chunk=tower["num_frames"],
        mlp_ratio=tower["mlp_ratio"],
    )
    side = tower["img_size"]
    return Branch(
        "internvideo2", str(path), side, side // size.patch, size.width, info["llm"]["mm_projector_type"], size
    )


def build(experiment: Experiment, run: Path, dtype: torch.dtype = torch.float32) -> VisionLM:
    """The experiment's model as the product loads it; with an LLM that it does not offer, composed in the same way."""
    kind = json.loads((Path(experiment.llm) / "config.json").read_text())["model_type"]
    if kind == "qwen2":
        return load_model(experiment, run, "cpu", dtype)
    llm = transformers.AutoModelForCausalLM.from_pretrained(experiment.llm, dtype=dtype)
    model = VisionLM(
        llm,
        transformers.AutoTokenizer.from_pretrained(experiment.llm),
        {name: load_encoder(stream, "cpu", dtype) for name, stream in experiment.branches},
        {n: build_projector(s.projector, s.width, llm.config.hidden_size) for n, s in experiment.branches},
        {name: build_reducer(Average()) for name, _ in experiment.branches},
    )
    model.load_projectors(run)
    return model.eval()


def set_level(model: VisionLM, level: float) -> None:
    for name in model.reducers:
        model.reducers[name] = build_reducer(Average(level))


@contextmanager
def encoded_once(model: VisionLM, visuals: Sequence[Visual]) -> Iterator[list[dict[str, Tensor]]]:
    """Within it the model takes the grids of these visuals from memory: they are the same at every level."""
    grids = model.encode(visuals)
    known = {id(visual): grid for visual, grid in zip(visuals, grids, strict=True)}
    model.encode = lambda asked: [known[id(visual)] for visual in asked]
    try:
        yield grids
    finally:
        del model.encode


def named_projectors(model: VisionLM) -> dict[str, torch.nn.Parameter]:
    """The projectors' parameters under the reference's names, `mm_projector.0.weight` and so on."""
    return {
        f"{projector_key(stream)}.{key}": parameter
        for stream, projector in model.projectors.items()
        for key, parameter in projector.named_parameters()
    }
