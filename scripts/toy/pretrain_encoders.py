"""Teach the tiny encoders to see: from pixels to the words that every patch deserves.

CLIP learns on single frames, InternVideo2 on chunks of four and on stills; both through their own preprocessing and
up to the layer whose output the model uses. A linear head predicts the shares of the words; it is thrown away.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.utils.data import DataLoader, IterableDataset
from toy.pretrain_llm import IMAGE_WORDS

from videogpt_plus.config.experiment import Branch
from videogpt_plus.config.experiments import TOY
from videogpt_plus.encoders.loading import preprocessor
from videogpt_plus.toy import world
from videogpt_plus.toy.render import SIZES
from videogpt_plus.types import Clip

STREAMS = dict(TOY.branches)
#: InternVideo2 sees stills alone in its first steps: they cost a quarter, and shapes are the same in both.
STILLS = 1500
STILL_WORDS = torch.from_numpy(IMAGE_WORDS)
#: Few patches move, and their direction is the hardest word.
WEIGHT = 1 + 5 * (1 - STILL_WORDS)


def through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture with the colour subsampling and the blocks that a codec leaves."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


class Pictures(IterableDataset):
    """Endless batches of pixels "b t 3 p p" and word shares "b t h w k" for one stream."""

    def __init__(self, stream: Branch, batch: int, seed: int, first: int = 0):
        self.stream, self.batch, self.seed, self.first = stream, batch, seed, first
        self.video = stream.encoder == "internvideo2"

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, self.first, info.id if info else 0))
        prepare = preprocessor(self.stream)
        for number in count(self.first):
            frames = 4 if self.video and number >= STILLS and rng.random() < 0.8 else 1
            pairs = [
                self.sample(rng, prepare, frames)
                for _ in range(self.batch * (1 if frames == 4 or not self.video else 3))
            ]
            yield torch.stack([p for p, _ in pairs]), torch.stack([w for _, w in pairs])

    def sample(self, rng, prepare, frames: int) -> tuple[Tensor, Tensor]:
        if rng.random() < (0.8 if frames > 1 else 0.5):
            scene, first = world.random_things(rng, frames), 0
        else:
            tasks = list(world.TASKS.values())
            scene = tasks[rng.integers(len(tasks))].scene(rng)
            first = int(rng.integers(scene.segments // frames)) * frames
        height, width = SIZES[rng.integers(len(SIZES))]
        pictures = world.render(scene, height, width, rng)[first : first + frames]
        pictures = np.stack([through_jpeg(p, int(rng.integers(75, 96))) for p in pictures])
        pixels = prepare(Clip(torch.from_numpy(pictures).permute(0, 3, 1, 2), (0.0,) * frames, "toy"))
        words = torch.from_numpy(world.word_grid(scene, self.stream.grid, first, first + frames))
        return pixels, words if frames > 1 else words * STILL_WORDS


def build(stream: Branch) -> nn.Module:
    """The stream's tower with random weights."""
    if stream.encoder == "clip":
        from transformers import CLIPVisionConfig, CLIPVisionModel

        return CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=stream.width,
                intermediate_size=4 * stream.width,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=stream.pixels,
                patch_size=stream.pixels // stream.grid,
            )
        )
    from videogpt_plus.encoders.internvideo2 import InternVideo2

    tower = InternVideo2(stream.size, stream.pixels)
    for table in (tower.cls_token, tower.pos_embed, tower.img_pos_embed):
        nn.init.normal_(table, std=0.02)
    return tower


def save_processor(stream: Branch) -> None:
    from transformers import CLIPImageProcessorPil

    size = {"size": {"shortest_edge": stream.pixels}, "crop_size": stream.pixels}
    CLIPImageProcessorPil(**size).save_pretrained(stream.weights)


@torch.no_grad()
def start_chunks(tower: nn.Module) -> None:
    """Every frame of a chunk begins with the places that stills have learned, and with a mark of its own.

    Attention begins sharper, too: behind their norms q and k are so short that no token could choose one in 257.
    """
    still = tower.img_pos_embed
    marks = still[:, 1:].std() * torch.randn(tower.chunk, 1, still.shape[-1])
    tower.pos_embed[:, :1] = still[:, :1]
    tower.pos_embed[:, 1:] = (still[:, 1:] + marks).flatten(0, 1)
    for block in tower.blocks:
        block.attn.q_norm.weight *= 2
        block.attn.k_norm.weight *= 2


def clip_grid(tower: nn.Module, pixels: Tensor, grid: int) -> Tensor:
    """Float "b t h w d": what the model takes from CLIP, with gradients."""
    b, t = pixels.shape[:2]
    hidden = tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1:].reshape(b, t, grid, grid, -1)


def pretrain_encoder(
    part: str, output: Path, steps: int, log, seed: int = 0, minutes: float = 1e9, first: int = 0
) -> None:
    """Write `clip/` or `internvideo2.safetensors` to `output`; `log(line)` takes the progress.

    `first` above 0 goes on from InternVideo2's weights in `output`, saved at that step, with new heads.
    """
    from videogpt_plus.io.tensors import read_tensors, save_tensors

    torch.manual_seed(seed + first)
    clip = part == "clip"
    stream = STREAMS["image" if clip else "video"]
    stream = replace(stream, weights=str(output / Path(stream.weights).name))
    if clip:
        save_processor(stream)
    tower = build(stream).train()
    if first:
        tower.load_state_dict(read_tensors(stream.weights))
    words, bits = (nn.Linear(stream.width, len(world.WORDS)) for _ in range(2))
    around = nn.Linear(stream.width, 2 * len(world.COLORS))
    parameters = [p for module in (tower, words, bits, around) for p in module.parameters()]
    log(f"{part}: {sum(p.numel() for p in tower.parameters()):,} parameters")
    slow = [p for p in parameters if p.ndim == 2]
    quick = [p for p in parameters if p.ndim != 2]  # places, norms, biases: few values that steer the attention
    groups = [{"params": slow, "peak": 1.5e-3}, {"params": quick, "peak": 6e-3, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    began, errors = time.monotonic(), []
    pictures = Pictures(stream, 32 if clip else 12, seed, first)
    loader = DataLoader(pictures, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, (pixels, target) in enumerate(loader, first):
        if step == STILLS and not clip:
            start_chunks(tower)
        elapsed = (time.monotonic() - began) / 60
        progress = max((step - first) / (steps - first), elapsed / minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1, (step - first + 1) / 200) * min(1.0, 2 * (1 - progress))
        grid = clip_grid(tower, pixels, stream.grid) if clip else tower(pixels)
        shares = mse_loss(words(grid), target)
        weighted = (WEIGHT * (words(grid) - target) ** 2).mean()
        loss = 40 * (weighted + 0.3 * binary_cross_entropy_with_logits(bits(grid), target, weight=WEIGHT))
        beside = mse_loss(around(grid), frames_around(target))
        loss = loss + 40 * beside
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        errors.append(((shares / target.var()).item(), beside.item()))
        if step % 100 == 0:
            kinds = by_kind(words(grid), target)
            share, neighbours = np.mean(errors[-100:], 0)
            log(f"{part} step {step} ({elapsed:.1f} min): unexplained {share:.3f}, around {neighbours:.4f}, {kinds}")
    if clip:
        tower.save_pretrained(stream.weights)
    else:
        save_tensors(stream.weights, tower.state_dict())


def frames_around(target: Tensor) -> Tensor:
    """Float "b t h w 2c": a patch's colours in the frame before and the frame after; nothing beyond the chunk.

    Direction is a rare and weak signal; looking at the neighbouring frames is what it needs, and is learned fast.
    """
    colors = target[..., : len(world.COLORS)]
    nothing = torch.zeros_like(colors[:, :1])
    before, after = torch.cat([nothing, colors[:, :-1]], 1), torch.cat([colors[:, 1:], nothing], 1)
    return torch.cat([before, after], -1)


@torch.no_grad()
def by_kind(guess: Tensor, target: Tensor) -> str:
    """On patches that hold something: how often the strongest colour, shape, place and motion is the right one."""
    parts = []
    for kind, span in {
        "color": (0, 6),
        "shape": (6, 10),
        "cell": (10, 19),
        "square": (19, 35),
        "motion": (35, 39),
    }.items():
        there = target[..., slice(*span)].amax(-1) > 0.25
        if there.any():
            right = guess[..., slice(*span)].argmax(-1)[there] == target[..., slice(*span)].argmax(-1)[there]
            parts.append(f"{kind} {100 * right.float().mean():.0f}")
    return " ".join(parts)
