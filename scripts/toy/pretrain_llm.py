"""Teach the tiny LLM the toy questions over scenes given as words, before it ever sees a feature.

A visual token stands for a patch of a scene: the sum of the embeddings of the words that the patch deserves,
weighted by their share and averaged over a pooled cell as the adapter would. So the LLM learns to read bags of words
at every level; the projectors later only have to translate features into that language.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from videogpt_plus.reducers import pooled_side
from videogpt_plus.toy import world
from videogpt_plus.toy.render import prompt
from videogpt_plus.types import IGNORE

#: Kind of batch -> how often it is drawn. Binding is learned on stills, for one frame costs an eighth of eight.
#: From the 7,800th step on counting was drawn twice as often: it was the last thing to be learned. From the 8,700th
#: on answers are the letter alone and counting is of objects that follow one another (before: "(C) text", flashes).
KINDS = {"letters": 0.05, "captions": 0.12, "stills": 0.43, "coarse": 0.30, "all": 0.10}
LAST_KINDS = {"letters": 0.03, "captions": 0.08, "stills": 0.20, "coarse": 0.60, "all": 0.09}
LAST = 7800
#: Kind -> level -> (samples a batch, how often): more visual tokens, fewer samples, about the same time.
LEVELS = {
    "stills": {1: (24, 0.3), 2: (48, 0.4), 4: (64, 0.3)},
    "coarse": {4: (32, 0.2), 8: (48, 0.3), 16: (64, 0.5)},
    "all": {1: (6, 0.3), 2: (16, 0.7)},
}
#: How often a task is drawn in a kind of batch, by group: what a level cannot answer is seldom asked there.
GROUPS = {
    "stills": {"coarse": 0.5, "middle": 3, "fine": 3, "temporal": 0},
    "coarse": {"coarse": 1, "middle": 0.5, "fine": 0.3, "temporal": 3},
    "all": {"coarse": 1, "middle": 2, "fine": 2, "temporal": 2},
}
HARD = ("Appearance Count", "Dot In Row")
GRIDS = {"image": 12, "video": 8}
HEADER = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|><|im_start|>user\n"
IMAGE_WORDS = np.array([w not in world.DIRECTIONS for w in world.WORDS], np.float32)  # one frame shows no motion


def answer_text(scene: world.Scene) -> str:
    """The letter alone: it carries the answer, and a reply that cannot contradict itself is never refused."""
    return f"({'ABCD'[scene.candidates.index(scene.answer)]})"


def train_tokenizer(folder: Path, seed: int = 0) -> Qwen2Tokenizer:
    """A byte-level BPE in Qwen2's layout, so small that it knows the toy's words as single tokens and little else."""
    rng = np.random.default_rng(seed)
    scenes = [t.scene(rng) for _ in range(400) for t in world.TASKS.values()]
    corpus = [HEADER + prompt(s) + answer_text(s) for s in scenes]
    corpus += [" " + world.caption(world.random_things(rng, 4)) + "\n" for _ in range(4000)]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    bpe.train_from_iterator((c.replace("<|im_start|>", "").replace("<|im_end|>", "") for c in corpus), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(folder)
    return Qwen2Tokenizer.from_pretrained(folder)


@dataclass
class WordBatch:
    """Bags of words for every visual token and the text around them, ready to be embedded."""

    bags: Tensor  # Float "b n k"
    before: Tensor  # Int "b p": the same prefix for all
    after: Tensor  # Int "b l", right-padded
    labels: Tensor  # Int "b l", IGNORE outside the answer


def pooled_bags(scene: world.Scene, level: float, streams=("image", "video"), first=0, last=None) -> np.ndarray:
    """Float32 "n k": image tokens, then video tokens, pooled at the level."""
    parts = []
    for stream in streams:
        words = torch.from_numpy(world.word_grid(scene, GRIDS[stream], first, last))
        if stream == "image":
            words = words * torch.from_numpy(IMAGE_WORDS)
        side = pooled_side(GRIDS[stream], level)
        pooled = adaptive_avg_pool2d(rearrange(words, "t h w k -> t k h w"), side)
        parts.append(rearrange(pooled, "t k h w -> (t h w) k"))
    return torch.cat(parts).numpy()


def draw(rng: np.random.Generator, weights: dict):
    """A key of `weights`, as often as its weight says."""
    total = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(total), p=total / total.sum())]


class Words(IterableDataset):
    """Endless batches. Most are benchmark questions; some answer openly, some caption, some only name the letter."""

    def __init__(self, tokenizer: Qwen2Tokenizer, seed: int, first: int = 0):
        self.tokenizer, self.seed, self.first = tokenizer, seed, first

    def __iter__(self) -> Iterator[WordBatch]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, self.first, info.id if info else 0))
        torch.set_num_threads(1)
        for number in count(self.first):
            kind = (
                "letters" if number < 450 and rng.random() < 0.9 else draw(rng, LAST_KINDS if number >= LAST else KINDS)
            )
            if kind in LEVELS:
                level = draw(rng, {level: share for level, (_, share) in LEVELS[kind].items()})
                yield self.questions(rng, kind, level, LEVELS[kind][level][0])
            else:
                yield getattr(self, kind)(rng)

    def questions(self, rng, kind: str, level: float, size: int) -> WordBatch:
        weights = {name: GROUPS[kind][t.group] * (1 + 4 * (name in HARD)) for name, t in world.TASKS.items()}
        bags, texts = [], []
        for _ in range(size):
            scene = world.TASKS[draw(rng, weights)].scene(rng)
            first, last = scene.bounds or (0, world.SEGMENTS)
            if kind == "stills":
                last = first + 1
            bags.append(pooled_bags(scene, level, first=first, last=last))
            if rng.random() < 0.2:
                texts.append((f"Question: {scene.question}", scene.answer))
            else:
                texts.append((prompt(scene), answer_text(scene)))
        return self.chat(bags, texts)

    def letters(self, rng, size: int = 64) -> WordBatch:
        """No scene at all: which letter stands before a given option. The circuit that every question needs."""
        texts = []
        for _ in range(size):
            scene = list(world.TASKS.values())[rng.integers(len(world.TASKS))].scene(rng)
            asked = str(rng.choice(scene.candidates))
            scene = world.Scene((), f"Which option says {asked}?", scene.candidates, asked)
            texts.append((prompt(scene), answer_text(scene)))
        return self.chat([np.zeros((0, len(world.WORDS)), np.float32)] * size, texts)

    def chat(self, bags: list[np.ndarray], texts: list[tuple[str, str]]) -> WordBatch:
        turns = [(f"\n{q}<|im_end|><|im_start|>assistant\n", f"{a}<|im_end|>") for q, a in texts]
        return self.batch(bags, HEADER, turns)

    def captions(self, rng) -> WordBatch:
        stream, frames, size = (("image", 1, 32), ("video", 1, 32), ("video", 4, 16))[rng.integers(3)]
        scenes = [world.random_things(rng, frames) for _ in range(size)]
        bags = [pooled_bags(s, 1, (stream,)) for s in scenes]
        return self.batch(bags, "", [("", f"{world.caption(s)}\n") for s in scenes])

    def batch(self, bags: list[np.ndarray], prefix: str, texts: list[tuple[str, str]]) -> WordBatch:
        ids = [(self.tokenizer(a).input_ids, self.tokenizer(b).input_ids) for a, b in texts]
        longest = max(len(a) + len(b) for a, b in ids)
        after = torch.full((len(ids), longest), self.tokenizer.pad_token_id)
        labels = torch.full((len(ids), longest), IGNORE)
        for i, (a, b) in enumerate(ids):
            after[i, : len(a) + len(b)] = torch.tensor(a + b)
            labels[i, len(a) : len(a) + len(b)] = torch.tensor(b)
        before = torch.tensor(self.tokenizer(prefix).input_ids, dtype=torch.long).repeat(len(ids), 1)
        return WordBatch(torch.from_numpy(np.stack(bags)), before, after, labels)


def word_ids(tokenizer: Qwen2Tokenizer) -> list[int]:
    """The token of each of WORDS; every one has to be a single token."""
    ids = [tokenizer(" " + w).input_ids for w in world.WORDS]
    assert all(len(i) == 1 for i in ids), [w for w, i in zip(world.WORDS, ids, strict=True) if len(i) > 1]
    return [i[0] for i in ids]


def embed(llm: Qwen2ForCausalLM, words: Tensor, batch: WordBatch) -> Tensor:
    """Float "b s d": prefix, visual tokens as noisy word bags of random scale, text."""
    table = llm.get_input_embeddings()
    visual = batch.bags @ table(words)
    if not visual.shape[1]:
        return torch.cat([table(batch.before), table(batch.after)], 1)
    size = visual.shape[0]
    scale = torch.exp(torch.empty(size, 1, 1).uniform_(-0.5, 0.7))
    offset = torch.randn(size, 1, visual.shape[-1]) * torch.rand(size, 1, 1) * 0.1 * visual.detach().std()
    noise = torch.randn_like(visual) * 0.1 * visual.detach().std()
    return torch.cat([table(batch.before), (visual + noise + offset) * scale, table(batch.after)], 1)


def pretrain_llm(
    folder: Path, steps: int, log, seed: int = 0, learning_rate: float = 1e-3, minutes: float = 1e9, first: int = 0
) -> None:
    """Write tokenizer and LLM to `folder` in Hugging Face's layout; `log(line)` takes the progress.

    `first` above 0 goes on from the tokenizer and the weights in `folder`, saved at that step, with a new optimizer.
    """
    torch.manual_seed(seed + first)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder) if first else train_tokenizer(folder, seed)
    words = torch.tensor(word_ids(tokenizer))
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.08,  # with Qwen2's 0.02 the options' letters take three times as many steps
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    llm = Qwen2ForCausalLM.from_pretrained(folder) if first else Qwen2ForCausalLM(config)
    log(f"llm: {sum(p.numel() for p in llm.parameters()):,} parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(llm.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup, began, total = 100, time.monotonic(), steps
    running: dict[str, list[float]] = {}
    batches = DataLoader(Words(tokenizer, seed, first), batch_size=None, num_workers=1, prefetch_factor=4)
    for step, batch in enumerate(batches, first):
        elapsed = (time.monotonic() - began) / 60
        progress = max((step - first) / (total - first), elapsed / minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step - first + 1) / warmup) * min(1.0, 2.5 * (1 - progress))
        hidden = llm.model(inputs_embeds=embed(llm, words, batch)).last_hidden_state
        hidden = hidden[:, -batch.labels.shape[1] - 1 : -1]
        kept = batch.labels != IGNORE
        logits = llm.lm_head(hidden[kept])
        target = batch.labels[kept]
        loss = cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        kind = f"{batch.bags.shape[1]}tokens" + ("" if batch.before.shape[1] else "-caption")
        running.setdefault(kind, []).append(loss.item())
        if step % 100 == 0:
            text = ", ".join(f"{k} {np.mean(v[-30:]):.3f}" for k, v in sorted(running.items()))
            log(f"llm step {step} ({elapsed:.1f} min): {text}")
        if step % 500 == 0:
            log(f"llm step {step}: {accuracy_line(llm, tokenizer, words)}")
            llm.save_pretrained(folder)
    log(f"llm end: {accuracy_line(llm, tokenizer, words, 60)}")
    llm.save_pretrained(folder)


@torch.no_grad()
def accuracy_line(llm: Qwen2ForCausalLM, tokenizer, words: Tensor, size: int = 30) -> str:
    """Share of right letters per task at levels 2 and 16, on scenes of their own."""
    rng, parts = np.random.default_rng(999), []
    maker = Words(tokenizer, 0)
    for name, task in world.TASKS.items():
        row = []
        for level in (2, 16):
            scenes = [task.scene(rng) for _ in range(size)]
            bags = [pooled_bags(s, level, first=f, last=e) for s in scenes for f, e in [s.bounds or (0, 8)]]
            texts = [(f"\n{prompt(s)}<|im_end|><|im_start|>assistant\n(", answer_text(s)[1]) for s in scenes]
            batch = maker.batch(bags, HEADER, texts)
            hidden = llm.model(inputs_embeds=embed(llm, words, batch)).last_hidden_state
            hidden = hidden[:, -batch.labels.shape[1] - 1 : -1]
            kept = batch.labels != IGNORE
            right = llm.lm_head(hidden[kept]).argmax(-1) == batch.labels[kept]
            row.append(f"{100 * right.float().mean():.0f}")
        parts.append(f"{name} {'/'.join(row)}")
    return ", ".join(parts)
