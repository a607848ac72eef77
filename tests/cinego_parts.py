"""Cinego at the size of its recorded values: an experiment, files to start from, rows with stored features."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videogpt_plus.config.experiment import Branch, Experiment, Prompting
from videogpt_plus.config.experiments import CINEGO_512
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import Size
from videogpt_plus.reducers.summary import Summary

RECORDED = Path(__file__).parent / "golden_families" / "cinego"
SIZE = Size(64, 2, 4, 2, 176, 352)


def recorded_weights(branches: str) -> dict[str, Tensor]:
    """The recorded weights of a variant, "s" or "st", with both names of the tied one."""
    state = {key: value.float() for key, value in load_file(RECORDED / "weights.safetensors").items()}
    state["tok_embeddings.weight"] = state["output.weight"]
    return {k: v for k, v in state.items() if branches == "st" or not ("query_t" in k or "cross_attn_t" in k)}


def write_parts(folder: Path) -> Experiment:
    """Writes clip/, s/ and st/ with the recorded weights; the experiment of the variant "s"."""
    config = json.loads((RECORDED / "config.json").read_text())
    tower = {
        k.removeprefix("vision_encoder."): v for k, v in load_file(RECORDED / "weights_vision.safetensors").items()
    }
    (folder / "clip").mkdir(parents=True)
    save_file({key: value.float() for key, value in tower.items()}, folder / "clip" / "model.safetensors")
    (folder / "clip" / "config.json").write_text(json.dumps(config["vision"]))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(sizes))
    for branches in ("s", "st"):
        own = folder / branches
        own.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(RECORDED / "tokenizer" / name, own / name)
        weights.describe(own, SIZE)
        weights.save(own / "pretrain_videolm_64.pth", recorded_weights(branches))
    stream = Branch("clip_cinego", str(folder / "clip"), 32, 2, 32, projector="linear")
    return replace(
        CINEGO_512,
        name="tiny_cinego",
        llm=str(folder / "s"),
        branches=(("video", stream),),
        reducer=Summary(queries=5, heads=4, dropout=0.0),
        prompting=Prompting("cinego", max_new_tokens=8),
    )


def write_rows(path: Path, rows: list[dict]) -> Path:
    """A JSONL file."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, errors="backslashreplace")  # half a pair of surrogates as JSON writes it
    return path


def recorded_rows(count: int) -> list[dict]:
    """The first recorded rows."""
    lines = (RECORDED / "fixtures" / "data.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def said(*turns: str, **files: str) -> dict:
    """A row of alternating turns, the user's first."""
    roles = ("user", "assistant")
    return {"conversations": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)], **files}


def random_features(path: Path, frames: int, seed: int = 0) -> Path:
    """A features file of the recorded size."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, torch.randn(frames, 5, 32, generator=torch.Generator().manual_seed(seed)).numpy())
    return path
