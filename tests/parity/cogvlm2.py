"""Recordings of CogVLM2, image and video: `config.json`, `weights.safetensors` and cases beside them.

The weights are loaded from a folder laid out as the published one. Sizes, tokens a frame, prompts and media are the
recording's own; nothing here knows them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedTokenizerBase

from videogpt_plus.clips import video
from videogpt_plus.config.experiment import Branch, Experiment, Prompting, Published, Sampling
from videogpt_plus.encoders.loading import preprocessor
from videogpt_plus.families.cogvlm2 import decoder, eva2, rope
from videogpt_plus.families.cogvlm2.eva2_image import squashed
from videogpt_plus.families.cogvlm2.model import CogVLM2
from videogpt_plus.families.cogvlm2.positions import position_ids, vision_expert
from videogpt_plus.models.generation import generate
from videogpt_plus.models.loading import load_model
from videogpt_plus.text import chat
from videogpt_plus.types import IGNORE, PLACEHOLDER, Clip, UserError, Visual

from . import cogvlm2_controls
from .rows import Row, Sheet

#: Largest absolute difference of features, hidden states and logits.
TOLERANCE = 3e-4
PIXELS = 1e-6
#: Of a loss, as a part of it; and of a loss behind a step of an optimiser.
LOSS, STEPPED = 1e-5, 1e-4
#: A greedy step whose best logit leads by less is a tie.
TIE = 1e-3
TEMPLATES = {"chat": "cogvlm2_chat", "vqa": "cogvlm2_vqa", "base": "cogvlm2_base"}


def is_family(root: Path) -> bool:
    """Whether a folder holds recordings of CogVLM2."""
    file = root / "config.json"
    if not file.is_file() or not (root / "weights.safetensors").is_file():
        return False
    return "num_multi_query_heads" in json.loads(file.read_text()).get("config", {})


class Recordings:
    """A folder of recordings, and the model of its weights."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work = root, work
        self.config = json.loads((root / "config.json").read_text())["config"]
        self.video = "Video" in self.config["architectures"][0]
        self.stream = "video" if self.video else "image"
        self.conversations = json.loads((root / "conversation" / "meta.json").read_text())

    @property
    def tokenizer_folder(self) -> Path:
        places = [
            folder / name for folder in (self.root.parent, self.root) for name in ("cogvlm2_tokenizer", "tokenizer")
        ]
        found = next((place for place in places if (place / "tokenizer.json").is_file()), None)
        if found is None:
            raise UserError(f"no tokenizer beside {self.root}: expected {places[0]}")
        return found

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.model.tokenizer

    @cached_property
    def model(self) -> CogVLM2:
        """The recording's own weights in float32."""
        return self.fresh()

    def fresh(self, positions: Path | None = None, rope_precision: str = "fp32") -> CogVLM2:
        """A model of its own, with the table of positions of another picture size if that is given."""
        folder = self.work / f"{self.root.name}{'_positions' if positions else ''}_{rope_precision}"
        config = {**self.config, "rope_precision": rope_precision}
        state = load_file(self.root / "weights.safetensors")
        if positions:
            state |= load_file(positions)
            (table,) = load_file(positions).values()
            side = round((len(table) - 1) ** 0.5)
            patch = config["vision_config"]["patch_size"]
            config["vision_config"] = {
                **config["vision_config"],
                "image_size": side * patch,
                "num_positions": len(table),
            }
        shutil.copytree(self.tokenizer_folder, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(state, folder / "model.safetensors")
        return load_model(self.experiment(folder, config), None, "cpu", torch.float32)

    def experiment(self, folder: Path, config: Mapping[str, Any]) -> Experiment:
        vision = config["vision_config"]
        side = vision["image_size"]
        stream = Branch(
            f"eva2_{self.stream}", str(folder), side, side // vision["patch_size"] // 2, vision["hidden_size"], "glu"
        )
        return Experiment(
            self.root.name,
            str(folder),
            ((self.stream, stream),),
            Published(),
            sampling=Sampling(rule="each_second" if self.stream == "video" else "spread"),
            prompting=Prompting("cogvlm2_chat"),
            family=f"cogvlm2_{self.stream}",
        )

    def prepared(self, pixels: int) -> Callable[[Clip], Tensor]:
        """Our preprocessing to so many pixels."""
        return preprocessor(Branch(f"eva2_{self.stream}", "", pixels, 0, 0))

    def pixels(self, name: str) -> Tensor:
        """A medium of the recording, ready for the tower: Float "t 3 p p"."""
        size = self.config["vision_config"]["image_size"]
        recipe = self.conversations["media_recipes"][name]
        stored = self.root / "pixels.safetensors"
        levels = load_file(stored).get(f"{name}.resized_u8") if stored.exists() else None
        if levels is not None:  # so that Pillow's version has no part in what follows
            return eva2.normalised(levels.permute(2, 0, 1)[None] / 255)
        return self.prepared(size)(clip_of(recipe))

    def visuals(self, media: list[str | None]) -> list[list[Visual]]:
        shown = [self.pixels(name) if name else None for name in media]
        return [[] if p is None else [Visual({self.stream: p}, len(p))] for p in shown]

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = self.root / name / "tensors.safetensors"
        return json.loads((self.root / name / "meta.json").read_text()), load_file(tensors) if tensors.exists() else {}


def frames_of(seed: int, n: int, h: int, w: int) -> np.ndarray:
    """The recording's rendered frames: UInt8 "n h w 3"."""
    state = np.random.RandomState(seed)
    blocks = state.randint(0, 224, size=(n, 7, 7, 3)).astype(np.int64)
    noise = state.randint(0, 32, size=(n, h, w, 3)).astype(np.int64)
    return (blocks[:, np.arange(h) * 7 // h][:, :, np.arange(w) * 7 // w] + noise).astype(np.uint8)


def clip_of(recipe: Mapping[str, int]) -> Clip:
    frames = torch.from_numpy(frames_of(**{"n": 1, **recipe})).permute(0, 3, 1, 2).contiguous()
    return Clip(frames, tuple(map(float, range(len(frames)))), "rendered")


# ------------------------------------------------------------------------------------------------ the folder
def check(recordings: Recordings, name: str, sheet: Sheet) -> None:
    root = recordings.root
    if (root / name).is_dir():
        meta, sheet.tensors = recordings.case(name)
        sheet.meta = {**meta, **meta.get("tensors", {})}
        kind_of(meta, sheet.tensors)(recordings, sheet)
    elif name == "pixels":
        sheet.tensors = load_file(root / "pixels.safetensors")
        pixels(recordings, sheet)
    else:
        table = json.loads((root / f"{name}.json").read_text())
        if "table" in table and "num_frames" in table:
            sampling(table, sheet)
        else:
            limits(recordings, table, sheet)


def kind_of(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Callable[[Recordings, Sheet], None]:
    """The check that fits what a case holds. UserError: none does."""
    if "conversations" in meta:
        return conversations
    if "controls" in meta:
        return controls
    if "grad_norms" in meta:
        return gradients
    if "modes" in meta:
        return ropes
    if "entries" in meta:
        return preprocessing
    if "new_tokens" in meta:
        return generation
    if "recipe" in meta and "input_ids" in tensors:
        return geometry
    if "loss" in meta and "token_type_ids" in tensors:
        return forward
    raise UserError(f"a case of no known kind; it holds {', '.join(meta)}")


# ------------------------------------------------------------------------------------------------ text and pixels
def unrolled(runs: list[list[int]]) -> list[int]:
    return [value for value, repeat in runs for _ in range(repeat)]


class SpecialsActive:
    """The tokenizer as the original calls it: what users write may become a special token. Ours stays text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.convert_tokens_to_ids = tokenizer.convert_tokens_to_ids

    def __call__(self, text: str, **_: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False)


def conversations(recordings: Recordings, sheet: Sheet) -> None:
    """Ids, types, positions and labels of every recorded conversation; the hand-made positions."""
    roles = sheet.meta["roles"]
    for number, one in enumerate(sheet.meta["conversations"]):
        conversation(
            recordings, sheet, one, f"{number} {one['geometry']} {one['template_version']}", roles["placeholder"]
        )
    for number, case in enumerate(sheet.meta["position_cases"]):
        types = torch.tensor(case["token_type_ids"]).bool()
        mask = None if case["attention_mask"] is None else torch.tensor(case["attention_mask"]).bool()
        sheet.exact(f"hand-made positions {number}", position_ids(types, mask), case["position_ids"])
        sheet.exact(f"hand-made expert mask {number}", vision_expert(types).int(), case["vision_expert_mask"])


def conversation(recordings: Recordings, sheet: Sheet, one: dict[str, Any], title: str, placeholder: int) -> None:
    frames = (one["n_frames"] or 1) if one["media"] else 0
    each = sheet.meta["tokens_per_item"][one["geometry"]]
    template = TEMPLATES[one["effective_template"]]
    if recordings.video and template == "cogvlm2_chat" and frames:
        template = "cogvlm2_chat_indexed"
    turns = [(("human", q), ("gpt", a)) for q, a in one["history"] or []]
    turns = [{"from": who, "value": text} for pair in turns for who, text in pair]
    turns += [{"from": "human", "value": one["query"]}, {"from": "gpt", "value": one["answer"] or "x"}]
    turns[0]["value"] = "<video>" * bool(frames) + turns[0]["value"]
    tokenizer = SpecialsActive(recordings.tokenizer)
    parsed = [
        chat.Turn(t["from"] == "human", t["value"].removeprefix("<video>"), frames * (i == 0))
        for i, t in enumerate(turns)
    ]
    pieces = chat.template_of(template).conversation(tokenizer, parsed)
    ids, labels = [], []
    for piece in pieces if one["answer"] is not None else pieces[:1]:
        for token in piece.ids:
            more = each if token == PLACEHOLDER else 1
            ids += [placeholder if token == PLACEHOLDER else token] * more
            labels += [token if piece.supervised else IGNORE] * more
    types = [
        int(token == PLACEHOLDER)
        for piece in pieces
        for token in piece.ids
        for _ in range(each if token == PLACEHOLDER else 1)
    ]
    types = types[: len(ids)]
    sheet.exact(f"{title}: ids", ids, unrolled(one["input_ids_rle"]))
    sheet.exact(f"{title}: token types", types, unrolled(one["token_type_ids_rle"]))
    positions = position_ids(torch.tensor([types]).bool())[0]
    sheet.exact(f"{title}: positions", positions, unrolled(one["position_ids_rle"]))
    if one["labels"]:
        wanted = [IGNORE] * one["labels"]["n_ignored"] + one["labels"]["supervised"]
        sheet.exact(f"{title}: labels", labels, wanted)
    whole = [{**turns[0], "value": one["query"]}] if not one["history"] and one["answer"] is None else None
    if whole and "<|" not in one["query"]:
        ours = chat.encode_prompt(recordings.tokenizer, one["query"], [frames] if frames else [], template)
        sheet.exact(f"{title}: the prompt's ids, specials as text", ours, pieces[0].ids)


def pixels(recordings: Recordings, sheet: Sheet) -> None:
    """The media of the cases, ready for the tower."""
    for key in sorted(sheet.tensors):
        name, _, part = key.partition(".")
        recipe = recordings.conversations["media_recipes"][name]
        if part == "resized_u8":
            size = recordings.config["vision_config"]["image_size"]
            levels = [order[0].permute(1, 2, 0).int() for order in orders(clip_of(recipe), size)]
            differences = [float((ours - sheet[key].int()).abs().max()) for ours in levels]
            sheet.number(f"{name}: resized levels", min(differences), 0)
        elif part.startswith("probe"):
            ours = recordings.pixels(name)
            with tolerance(sheet, PIXELS):
                sheet.tensor(f"{name}: pixels", name, ours if recordings.video else ours[0])


def orders(clip: Clip, side: int) -> list[Tensor]:
    """The frames as our resizing makes them, then with its two passes in either order: UInt8 "1 3 p p" each.

    Pillow goes across first up to version 12; version 13 chooses by the picture's shape, and levels differ by 2.
    """
    (frame,) = clip.frames
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
    steps = ((picture.width, side), (side, picture.height))
    either = [picture.resize(step, Image.BICUBIC).resize((side, side), Image.BICUBIC) for step in steps]
    return [squashed(frame, side)[None], *(torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] for p in either)]


def preprocessing(recordings: Recordings, sheet: Sheet) -> None:
    """Pictures of other shapes than a square, at the tiny and at the published size."""
    for entry in sheet.meta["entries"]:
        clip, side, key = clip_of(entry["recipe"]), entry["image_size"], entry["key"]
        ours = [recordings.prepared(side)(clip)]
        if not recordings.video:
            ours = [own[0] for own in (*ours, *(eva2.normalised(levels / 255) for levels in orders(clip, side)))]
        told: list[Row] = []
        for own in ours:
            inner = Sheet(sheet.case, told.append, sheet.meta, sheet.tensors)
            inner.tolerance = PIXELS
            inner.tensor(f"pixels {key}", key, own)
            sheet.read |= inner.read
        sheet.tell(min(told, key=lambda row: row.difference))


def sampling(table: dict[str, Any], sheet: Sheet) -> None:
    """Which frames are taken: every recorded rate and length, variable rates, and ties."""
    count = table["num_frames"]
    wrong = {"chat": 0, "base": 0}
    for row in table["table"]:
        stamps = (np.arange(row["n"]) / row["fps"]).astype(np.float32)
        wrong["chat"] += video.each_second_indices(stamps, count) != row["chat"]
        wrong["base"] += video.even_indices(row["n"], row["fps"], count) != row["base"]
    for rule, number in wrong.items():
        sheet.number(f"{rule}: differing of {len(table['table'])} tables", number, 0)
    for kind in ("vfr", "ties"):
        for number, row in enumerate(table.get(kind, [])):
            sheet.exact(f"{kind} {number}: chat", video.each_second_indices(row["timestamps"], count), row["chat"])
            if "base" in row:
                ours = video.even_indices(len(row["timestamps"]), row["avg_fps"], count)
                sheet.exact(f"{kind} {number}: base", ours, row["base"])


@contextmanager
def tolerance(sheet: Sheet, value: float) -> Iterator[None]:
    usual, sheet.tolerance = sheet.tolerance, value
    yield
    sheet.tolerance = usual


# ------------------------------------------------------------------------------------------------ forward passes
@dataclass
class Asked:
    """A recorded batch as our model takes it: a placeholder a frame, padded on the right."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    visuals: list[list[Visual]]
    #: The recording's own mask: padded on its side.
    theirs: Tensor


def asked(recordings: Recordings, sheet: Sheet, visuals: list[list[Visual]], labels: bool = True) -> Asked:
    """The recorded ids with one placeholder for each frame."""
    types, ids = sheet["token_type_ids"], sheet["input_ids"]
    theirs = sheet["attention_mask"].bool() if "attention_mask" in sheet.tensors else torch.ones_like(ids).bool()
    wanted = sheet["labels"] if labels and "labels" in sheet.tensors else torch.full_like(ids, IGNORE)
    rows, marks = [], []
    for row, kinds, mask, own, shown in zip(ids, types, theirs, wanted, visuals, strict=True):
        frames = sum(visual.placeholders for visual in shown)
        each = int(kinds[mask].sum()) // frames if frames else 1
        kept, seen = [], 0
        for place in mask.nonzero().flatten().tolist():
            if not kinds[place]:
                kept.append((row[place], own[place]))
            elif (seen := seen + 1) % each == 1:
                kept.append((torch.tensor(PLACEHOLDER), torch.tensor(IGNORE)))
        rows.append(torch.stack([token for token, _ in kept]))
        marks.append(torch.stack([label for _, label in kept]))
    present = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return Asked(
        pad_sequence(rows, batch_first=True),
        present,
        pad_sequence(marks, batch_first=True, padding_value=IGNORE),
        visuals,
        theirs,
    )


def seen(model: CogVLM2, visuals: list[list[Visual]], sheet: Sheet) -> list[list[Visual]]:
    """The visuals encoded, with rows for all that is recorded of the tower and the projector."""
    flat = [visual for sample in visuals for visual in sample]
    if not flat:
        return visuals
    stream, tower, projector = model.stream, model.encoders[model.stream].tower, model.projectors[model.stream]
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: kept.__setitem__(name, out)

    hooks = [
        tower.patch_embedding.register_forward_hook(keep("vision.patch_embedding")),
        tower.conv.register_forward_hook(keep("vision.conv")),
    ]
    for i, block in enumerate(tower.transformer.layers):
        hooks += [
            block.attention.register_forward_hook(keep(f"vision.block{i}.attn")),
            block.register_forward_hook(keep(f"vision.block{i}")),
        ]
    every = torch.cat([visual.pixels[stream] for visual in flat])
    grid = tower(every[None])[0]
    for hook in hooks:
        hook.remove()
    kept["vision.glu"] = projector(grid).flatten(1, 2)
    kept["vision.out"] = projector.framed(kept["vision.glu"])
    for name, ours in kept.items():
        sheet.tensor(name, name, ours)
    rest = iter(grid.split([len(visual.pixels[stream]) for visual in flat]))
    return [[Visual({}, v.placeholders, {stream: next(rest)}) for v in sample] for sample in visuals]


@torch.inference_mode()
def forward(recordings: Recordings, sheet: Sheet) -> None:
    """A batch with labels: every recorded step from the pixels to the loss."""
    model = recordings.model
    visuals = recordings.visuals(sheet.meta["media"])
    batch = asked(recordings, sheet, seen(model, visuals, sheet))
    compare(model, sheet, batch)


def compare(model: CogVLM2, sheet: Sheet, batch: Asked) -> None:
    merged = model.merge(batch.ids, batch.mask, batch.labels, batch.visuals)
    left = bool((~batch.theirs[:, 0]).any())
    embeds, mask, labels, visual = (_padded_left(x, merged.attention_mask) if left else x for x in merged)
    if "labels" in sheet.tensors:
        sheet.exact("labels", labels, sheet["labels"])
    sheet.exact("token types", (visual & mask).long(), sheet["token_type_ids"])
    positions = position_ids(visual, mask)
    if "position_ids" in sheet.tensors:
        sheet.exact("positions", positions, sheet["position_ids"])
    if "vision_expert_mask" in sheet.tensors:
        sheet.exact("expert mask", vision_expert(visual).to(torch.uint8), sheet["vision_expert_mask"])
    vision = vision_expert(visual) if model.causal.experts else None
    out = inside(model, sheet, embeds, positions, mask, vision)
    loss = torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    single = bool(mask.all())
    sheet.tensor("logits", "logits", out if single and _rank(sheet, "logits") == 3 else out[mask])
    if "logits_rows" in sheet.tensors:
        rows = sheet["logits_rows"].long()
        sheet.tensor("logits at chosen places", "logits_at_rows", out[rows[:, 0], rows[:, 1]])
    if "logits_last" in sheet.tensors:
        sheet.tensor("logits of the last position", "logits_last", out[0, -1])
    best = out.argmax(-1)[mask]
    if "argmax_real_tokens" in sheet.meta:
        sure = _sure(out[mask])
        recorded = torch.tensor(sheet.meta["argmax_real_tokens"])
        sheet.exact("likeliest tokens but for ties", best[sure], recorded[sure])
    if "n_supervised_per_row" in sheet.meta:
        sheet.exact("supervised tokens", (labels != IGNORE).sum(1), sheet.meta["n_supervised_per_row"])
    sheet.number("loss", abs(loss.item() / sheet.meta["loss"] - 1), LOSS)
    whole = model(batch.ids, batch.mask, batch.labels, batch.visuals)
    sheet.number("loss of the model's own forward", abs(whole.loss.item() / sheet.meta["loss"] - 1), LOSS)


def inside(
    model: CogVLM2, sheet: Sheet, embeds: Tensor, positions: Tensor, mask: Tensor, vision: Tensor | None
) -> Tensor:
    """The logits, with rows for all that is recorded of the language model's layers."""
    kept: dict[str, Tensor] = {"hidden_states.0": embeds}
    turned: list[tuple[Tensor, Tensor]] = []
    layers = model.causal.model.layers
    hooks = []
    for i, layer in enumerate(layers):
        for name, module in ((f"layer{i}.attn_out", layer.self_attn), (f"layer{i}.mlp_out", layer.mlp)):
            hooks.append(module.register_forward_hook(lambda m, a, out, name=name: kept.__setitem__(name, out)))
        if i + 1 < len(layers):
            name = f"hidden_states.{i + 1}"
            hooks.append(layer.register_forward_hook(lambda m, a, out, name=name: kept.__setitem__(name, out)))
    usual = decoder.rotate

    def rotate(x: Tensor, *rest: Tensor) -> Tensor:
        turned.append((x, usual(x, *rest)))
        return turned[-1][1]

    decoder.rotate = rotate
    try:
        cache = DynamicCache(config=model.causal.config)
        out = model.causal.model(embeds, positions, None if mask.all() else mask, cache, vision)
    finally:
        decoder.rotate = usual
        for hook in hooks:
            hook.remove()
    kept[f"hidden_states.{len(layers)}"] = out.last_hidden_state
    for i in range(len(layers)):
        for letter, (before, after) in zip("qk", turned[2 * i : 2 * i + 2], strict=True):
            kept |= {f"layer{i}.{letter}_pre": before, f"layer{i}.{letter}_rope": after}
        kept[f"layer{i}.v"] = cache.layers[i].values
    for name, ours in kept.items():
        sheet.tensor(
            name, name, ours if mask.all() and _rank(sheet, name) > 2 else ours[mask] if ours.dim() == 3 else ours
        )
    return model.causal.lm_head(out.last_hidden_state).float()


def _rank(sheet: Sheet, name: str) -> int:
    facts = sheet.meta.get(name) or {}
    return len(facts.get("shape", sheet.tensors[name].shape if name in sheet.tensors else (0, 0, 0)))


def _padded_left(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows padded on the right, with their padding on the left."""
    return torch.stack([row.roll(int((~own).sum()), 0) for row, own in zip(rows, mask, strict=True)])


def _sure(logits: Tensor) -> Tensor:
    best = logits.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1] >= TIE


@torch.inference_mode()
def geometry(recordings: Recordings, sheet: Sheet) -> None:
    """The same weights at the published picture size: as many tokens a frame as there."""
    (positions,) = recordings.root.glob("weights_pos*.safetensors")
    model = recordings.fresh(positions)
    frames = recordings.prepared(model.encoders[model.stream].pixels)(clip_of(sheet.meta["recipe"]))
    with tolerance(sheet, PIXELS):
        sheet.tensor("pixels", "pixels", frames)
    visuals = [[Visual({model.stream: frames}, len(frames))]]
    batch = asked(recordings, sheet, seen(model, visuals, sheet))
    compare(model, sheet, batch)
    sheet.exact("length", sheet["input_ids"].shape[1], sheet.meta["length"])


# ------------------------------------------------------------------------------------------------ training
def gradients(recordings: Recordings, sheet: Sheet) -> None:
    """Every weight's gradient, and the loss behind one step of two optimisers."""
    meta, tensors = recordings.case(sheet.meta["batch"])
    inner = Sheet(sheet.case, lambda row: None, meta, tensors)
    visuals = recordings.visuals(meta["media"])

    def loss_of(model: CogVLM2) -> Tensor:
        batch = asked(recordings, inner, seen(model, visuals, inner))
        return model(batch.ids, batch.mask, batch.labels, batch.visuals, loss_only=True).loss

    model = recordings.fresh().requires_grad_(True)
    loss = loss_of(model)
    loss.backward()
    sheet.number("loss", abs(loss.item() / sheet.meta["loss"] - 1), LOSS)
    ours = {name: p for name, p in published(model)}
    sheet.exact("names of the weights", sorted(ours), sorted(sheet.meta["grad_norms"]))
    for name, norm in sheet.meta["grad_norms"].items():
        found = ours[name].grad.double().norm().item()
        sheet.number(f"gradient norm of {name}", abs(found - norm), max(1e-4 * norm, 1e-7))
        sheet.tensor(f"gradient of {name}", f"grad.{name}", ours[name].grad, gradient=True)
    sheet.exact("weights without gradient", [n for n, p in ours.items() if p.grad is None], sheet.meta["none_grad"])
    for key, make in (
        ("loss_after_step", lambda p: torch.optim.AdamW(p, 1e-3, (0.9, 0.999), 1e-8, weight_decay=0)),
        ("loss_after_sgd_step_lr1e-3", lambda p: torch.optim.SGD(p, 1e-3)),
    ):
        if key in sheet.meta:
            stepped = recordings.fresh().requires_grad_(True)
            loss_of(stepped).backward()
            make(list(stepped.parameters())).step()
            with torch.no_grad():
                sheet.number(key, abs(loss_of(stepped).item() / sheet.meta[key] - 1), STEPPED)


def published(model: CogVLM2) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every weight under its published name."""
    yield from model.llm.named_parameters()
    for part in (model.encoders[model.stream].tower, model.projectors[model.stream]):
        for name, parameter in part.named_parameters():
            yield f"model.vision.{name}", parameter


# ------------------------------------------------------------------------------------------------ answers
@torch.inference_mode()
def generation(recordings: Recordings, sheet: Sheet) -> None:
    """Greedy tokens: with the cache, alone, in a batch, up to a stop; and the logits of every step without a cache."""
    model, meta = recordings.model, sheet.meta
    visuals = recordings.visuals(meta["media"])
    batch = asked(recordings, sheet, visuals, labels=False)
    rows = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    single = meta.get("single_row_new_tokens")
    refbug = meta.get("padding_side") == "right" and single is not None
    wanted = single if refbug else meta["new_tokens"]
    count = len(wanted[0])
    said = "" if not refbug else " (the single rows', where the recording's padded ones go wrong)"
    logits, sure = forced(model, rows, visuals, wanted)
    if not refbug:
        sheet.tensor("logits of every step, without a cache", "step_logits", logits)
    else:
        kept = [
            i
            for i, (a, b) in enumerate(zip(wanted, meta["new_tokens"], strict=True))
            if a == b and batch.theirs[i].all()
        ]
        sheet.close("logits of the rows without padding", logits[kept], sheet["step_logits"][kept])
    together = answers(model, rows, visuals, count)
    alone = [answers(model, [row], [own], count)[0] for row, own in zip(rows, visuals, strict=True)]
    for title, ours in (("with the cache, in a batch", together), ("with the cache, alone", alone)):
        cut = [upto(o, s) for o, s in zip(ours, sure, strict=True)]
        sheet.exact(f"greedy tokens {title}{said}", cut, [upto(w, s) for w, s in zip(wanted, sure, strict=True)])
    for key in ("uncached_new_tokens", "generate_use_cache_false_tokens"):
        if key in meta and not refbug:
            ours = [upto(o, s) for o, s in zip(logits.argmax(-1).tolist(), sure, strict=True)]
            sheet.exact(f"greedy tokens, {key}", ours, [upto(w, s) for w, s in zip(meta[key], sure, strict=True)])
    if "stop" in meta and not refbug:
        stop = meta["stop"]["eos_token_id"]
        ours = answers(model, rows, visuals, count, [stop])
        filled = [row + [meta["stop"]["pad_token_id"]] * (max(map(len, ours)) - len(row)) for row in ours]
        sheet.exact("greedy tokens up to a stop", filled, meta["stop"]["new_tokens"])
    if "last_token_position_per_step" in meta and not refbug:
        types, mask = sheet["token_type_ids"].bool(), batch.theirs
        last = position_ids(types, mask)[:, -1]
        ours = [(last + step).tolist() for step in range(len(meta["last_token_position_per_step"]))]
        sheet.exact("position of the last token at every step", ours, meta["last_token_position_per_step"])


def answers(
    model: CogVLM2, rows: list[list[int]], visuals: list[list[Visual]], count: int, ends: list[int] | None = None
) -> list[list[int]]:
    """Greedy ids by the house's own generation."""
    from videogpt_plus.text.splice import VisualTokens

    readings = []
    for row, shown in zip(rows, visuals, strict=True):
        tokens = model.tokens_of(model.encode(shown)) if shown else []
        seen = [VisualTokens(own, v.placeholders) for own, v in zip(tokens, shown, strict=True)]
        readings.append(model._reading([row], seen))
    vocabulary = model.causal.config.vocab_size
    return [a.ids for (a,) in generate(model.causal, readings, count, ends or [], vocabulary)]


def forced(
    model: CogVLM2, rows: list[list[int]], visuals: list[list[Visual]], tokens: list[list[int]]
) -> tuple[Tensor, list[list[bool]]]:
    """The logits Float "b steps v" that choose each of `tokens`, in one pass without a cache, a row at a time."""
    every = []
    for row, shown, said in zip(rows, visuals, tokens, strict=True):
        ids = torch.tensor([[*row, *said[:-1]]])
        out = model(ids, torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE), [shown]).logits[0]
        every.append(out[-len(said) :])
    logits = torch.stack(every)
    return logits, _sure(logits).tolist()


def upto(tokens: list[int], sure: list[bool]) -> list[int]:
    """What is told before the first tie."""
    return tokens[: sure.index(False)] if False in sure else tokens


@torch.inference_mode()
def ropes(recordings: Recordings, sheet: Sheet) -> None:
    """The three precisions: angles at the published width, and what they do to logits."""
    meta, tensors = recordings.case("single_a")
    inner = Sheet(sheet.case, lambda row: None, meta, tensors)
    places = sheet["table.positions"][None]
    for mode in sheet.meta["modes"]:
        width = 2 * sheet.tensors[f"table.{mode}.cos"].shape[-1]
        cos, sin = rope.angles(places, width, mode)
        with tolerance(sheet, 1e-6):
            sheet.tensor(f"{mode}: cosines", f"table.{mode}.cos", cos[0, 0, :, : width // 2])
            sheet.tensor(f"{mode}: sines", f"table.{mode}.sin", sin[0, 0, :, : width // 2])
        model = recordings.fresh(rope_precision=mode)
        batch = asked(recordings, inner, recordings.visuals(meta["media"]), labels=False)
        ids = sheet["long_text.input_ids"]
        mask, nothing = torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE)
        for name, out in (
            ("single_a", model(batch.ids, batch.mask, batch.labels, batch.visuals).logits),
            ("long_text", model(ids, mask, nothing, [[]]).logits),
        ):
            sheet.tensor(f"{mode}: logits, {name}", f"{mode}.{name}.logits", out)
            sheet.tensor(f"{mode}: last logits, {name}", f"{mode}.{name}.logits_last", out[0, -1])


@torch.inference_mode()
def controls(recordings: Recordings, sheet: Sheet) -> None:
    """What must change the logits when it is done wrong, and by how much."""
    meta, tensors = recordings.case(sheet.meta["batch"])
    inner = Sheet(sheet.case, lambda row: None, meta, tensors)

    def logits(spoil: Callable[[cogvlm2_controls.Spoilt], None]) -> Tensor:
        spoilt = cogvlm2_controls.Spoilt(recordings.fresh(), recordings.visuals(meta["media"]))
        with cogvlm2_controls.restored():
            spoil(spoilt)
            batch = asked(recordings, inner, spoilt.visuals, labels=False)
            return spoilt.model(batch.ids, batch.mask, batch.labels, spoilt.visuals).logits

    right = logits(lambda spoilt: None)
    for name, recorded in sheet.meta["controls"].items():
        if name not in cogvlm2_controls.CONTROLS:
            sheet.skip(f"control: {name}", "no control of ours is called so")
            continue
        change = (logits(cogvlm2_controls.CONTROLS[name]) - right).abs()
        for part, ours in (("all", change.max()), ("last", change[0, -1].max())):
            lacking = max(0.0, recorded[part] / 2 - ours.item())
            sheet.number(f"control: {name}, {part}: below half of {recorded[part]:.3g} by", lacking, 0)


def limits(recordings: Recordings, table: dict[str, str], sheet: Sheet) -> None:
    """What the original refuses or cannot do: ours says it in one line, or does it."""
    model, names = recordings.model, list(recordings.conversations["media_recipes"])
    if "unknown template_version" in table:
        try:
            chat.encode_prompt(recordings.tokenizer, "a", [1], "nope")
            sheet.fail("unknown template_version", "accepted")
        except UserError:
            sheet.number("unknown template_version: one line", 0, 0)
    if any("batch of two" in key for key in table):
        prompt = chat.encode_prompt
        shown = recordings.visuals(names[:2])
        rows = [prompt(recordings.tokenizer, "What?", [s[0].placeholders], "cogvlm2_chat_indexed") for s in shown]
        with torch.inference_mode():
            together = answers(model, rows, shown, 6)
            alone = [answers(model, [row], [own], 6)[0] for row, own in zip(rows, shown, strict=True)]
        sheet.exact("two videos in a batch, which the original cannot: as each alone", together, alone)
    for key in table.keys() & {"PIL mode L without convert", "PIL mode RGBA without convert"}:
        mode = key.split()[2]
        path = recordings.work / f"{mode}.png"
        Image.new(mode, (8, 8)).save(path)
        size = recordings.config["vision_config"]["image_size"]
        ours = recordings.prepared(size)(video.read_clip(path, 1))
        sheet.exact(f"{key}: read as RGB", list(ours.shape), [1, 3, size, size])
    done = ("template_version", "batch of two", "PIL mode")
    for key in table:
        if not any(part in key for part in done):
            sheet.skip(key, "a call that our interface does not have")
