"""Recordings of Cinego: `config.json`, the weights of both variants and of CLIP, a tokenizer, media, and cases.

The weights are laid out as their authors lay them out and loaded by the family's own loader. Which case one is follows
from what it holds. Rows called "defect" compare with what the original does wrong: ours has to differ.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache

from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.clips.video import linspace_indices, read_clip
from videogpt_plus.config.experiment import Branch, Experiment, with_settings
from videogpt_plus.config.experiments import CINEGO_512
from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.encoders.loading import preprocessor
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import Experts, MiniMind, Size, angles, mlp_width, rotate
from videogpt_plus.families.cinego.model import Cinego, assemble
from videogpt_plus.families.cinego.placeholders import runs, with_placeholders
from videogpt_plus.models.generation import Reading, generate, processed
from videogpt_plus.models.loading import load_model
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.text.splice import VisualTokens
from videogpt_plus.training.cinego import data as cinego_data
from videogpt_plus.training.cinego import stages as cinego_training
from videogpt_plus.training.cinego.features import as_grid
from videogpt_plus.types import IGNORE, PLACEHOLDER, Clip, ClipError, UserError, Visual

from .rows import Sheet, largest

#: Largest absolute differences: of logits, features and summaries; of gradients and losses; of probabilities.
TOLERANCE, GRADIENT, PROBABILITY = 1e-4, 1e-5, 1e-5
#: The original's mixture of experts, which goes through float16 in a training.
HALF = 5e-3
#: Weights behind steps of AdamW, and behind steps of several passes.
STEPPED, ACCUMULATED = 1e-6, 1e-5
#: Pixels of files without loss, and of others, whose decoders may differ.
PIXELS, LOSSY = 1e-6, 0.1
#: Means of frames are recorded with five digits.
MEANS = 1e-5
#: A greedy step whose best logit leads by less is a tie.
TIE = 1e-3
#: A difference that is no rounding: every defect makes a far larger one.
DEFECT = 1e-2
VARIANTS = ("s", "st")
FILES = ("weights.safetensors", "weights_vision.safetensors", "weights_moe.safetensors")


def is_family(root: Path) -> bool:
    """Whether a folder holds recordings of Cinego."""
    return (root / "config.json").is_file() and all((root / file).is_file() for file in FILES)


class Recordings:
    """A folder of recordings, and the models of its weights."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work = root, work / root.name
        self.config = json.loads((root / "config.json").read_text())
        self.models: dict[str, Cinego] = {}

    @property
    def queries(self) -> int:
        return self.config["summary"]["n_queries"]

    @cached_property
    def mark(self) -> int:
        """The id that stands for a visual token in the original's text."""
        (mark,) = set(self.config["image_ids"])
        return mark

    def state(self, variant: str) -> weights.State:
        """The reference's tensors of a variant, under its names."""
        state = {key: value.float() for key, value in load_file(self.root / FILES[0]).items()}
        state["tok_embeddings.weight"] = state["output.weight"]
        return {k: v for k, v in state.items() if variant == "st" or not re.search("query_t|cross_attn_t", k)}

    def folder(self, variant: str) -> Path:
        """The weights of a variant as their authors keep them."""
        folder = self.work / variant
        if not folder.is_dir():
            shutil.copytree(self.root / "tokenizer", folder)
            told = {"rope_layout": "interleaved", "num_attention_heads": self.config["lm"]["n_heads"]}
            (folder / weights.CONFIG).write_text(json.dumps(told))
            torch.save(self.state(variant), folder / f"pretrain_videolm_{self.config['lm']['dim']}.pth")
        return folder

    def clip(self, pixels: int | None = None) -> Path:
        """CLIP as it is published, with the preprocessing of another size if that is given."""
        vision = self.config["vision"]
        pixels = pixels or vision["image_size"]
        folder = self.work / f"clip-{pixels}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({k: v for k, v in vision.items() if k[0] != "_"}))
            side = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
            (folder / "preprocessor_config.json").write_text(json.dumps(side))
            tower = load_file(self.root / FILES[1])
            save_file({k.removeprefix("vision_encoder."): v for k, v in tower.items()}, folder / "model.safetensors")
        return folder

    def experiment(self, variant: str) -> Experiment:
        """`cinego_512` at the recording's size."""
        vision, summary = self.config["vision"], self.config["summary"]
        side = vision["image_size"] // vision["patch_size"]
        clip = Branch(
            "clip_cinego", str(self.clip()), vision["image_size"], side, vision["hidden_size"], projector="linear"
        )
        return replace(
            CINEGO_512,
            name=f"cinego_{variant}",
            llm=str(self.folder(variant)),
            branches=(("video", clip),),
            reducer=Summary(1, summary["n_queries"], summary["num_heads"], branches=variant, dropout=0.0),
        )

    def model(self, variant: str) -> Cinego:
        if variant not in self.models:
            self.models[variant] = self.fresh(variant)
        return self.models[variant]

    def fresh(self, variant: str) -> Cinego:
        """A model of its own, to be changed."""
        return load_model(self.experiment(variant), None, "cpu", torch.float32)

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = self.root / name / "tensors.safetensors"
        return json.loads((self.root / name / "meta.json").read_text()), load_file(tensors) if tensors.exists() else {}

    def features(self, frames: int) -> Tensor:
        """Recorded features "b t l d" of so many frames."""
        return load_file(self.root / "vision" / "tensors.safetensors")[f"features_T{frames}"]


# ------------------------------------------------------------------------------------------------ the folder
def check(recordings: Recordings, name: str, sheet: Sheet) -> None:
    if not (recordings.root / name).is_dir():
        full_sizes(json.loads((recordings.root / f"{name}.json").read_text()), sheet)
        return
    sheet.meta, sheet.tensors = recordings.case(name)
    for pattern, compare in KINDS:
        if any(re.search(pattern, key) for key in (*sheet.tensors, *(f"meta:{key}" for key in sheet.meta))):
            compare(recordings, sheet)
            return
    raise UserError(f"a case of no known kind; it holds {', '.join(sheet.meta)}")


@contextmanager
def tolerance(sheet: Sheet, value: float):
    before, sheet.tolerance = sheet.tolerance, value
    yield
    sheet.tolerance = before


def defect(sheet: Sheet, quantity: str, ours: Tensor, theirs: Tensor) -> None:
    """A row that is ok where ours is another value than the original's wrong one."""
    away = largest(ours.detach() - theirs)
    sheet.exact(f"defect, ours differs: {quantity}", away > DEFECT, True)


# ------------------------------------------------------------------------------------------------ the language model
@contextmanager
def hooked(lm: MiniMind):
    """Collects what each layer returns."""
    seen: list[Any] = []
    handles = [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in lm.layers]
    yield seen
    for handle in handles:
        handle.remove()


def language_model(recordings: Recordings, sheet: Sheet) -> None:
    lm = recordings.model("s").causal
    with torch.no_grad(), hooked(lm) as states:
        logits = lm(input_ids=sheet["input_ids"]).logits
    for i, (state, _) in enumerate(states):
        sheet.tensor(f"hidden state behind layer {i}", f"hidden{i}", state)
    sheet.tensor("logits", "logits", logits)


def mixture(recordings: Recordings, sheet: Sheet) -> None:
    """Experts: what is chosen, logits in eval and training, the loss of uneven choices, gradients."""
    state = weights.cleaned({k: v.float() for k, v in load_file(recordings.root / FILES[2]).items()}, FILES[2])
    told = {"rope_layout": "interleaved", "num_attention_heads": recordings.config["lm"]["n_heads"]}
    size = weights.size_of(state, told, FILES[2])
    sheet.exact("width of an expert", size.mlp, sheet.meta["hidden_dim"])
    lm = weights.build_lm(state, size, FILES[2]).eval()
    ids = sheet["input_ids"]
    with torch.no_grad():
        chosen: list[Any] = []
        handles = [
            layer.feed_forward.gate.register_forward_hook(lambda _, __, out: chosen.append(out)) for layer in lm.layers
        ]
        sheet.tensor("logits in eval mode", "eval_logits", lm(input_ids=ids).logits)
        for handle in handles:
            handle.remove()
    for i, (experts, shares, _) in enumerate(chosen):
        # In whatever order the best are found.
        order = sheet[f"eval_topk_idx{i}"].sort(-1)
        ours = experts.flatten(0, 1).sort(-1)
        sheet.exact(f"layer {i}: experts chosen", ours.values, order.values)
        theirs = sheet[f"eval_topk_weight{i}"].gather(-1, order.indices)
        sheet.close(f"layer {i}: their weights", shares.flatten(0, 1).gather(-1, ours.indices), theirs)
    following = torch.where(sheet["loss_mask"].bool(), sheet["Y"], IGNORE)
    labels = torch.cat([torch.full_like(following[:, :1], IGNORE), following], 1)
    for run, result in sheet.meta["results"].items():
        # As recorded the experts' outputs go through float16; train32 is the same without that.
        allowed = TOLERANCE if run.endswith("32") else HALF
        lm.zero_grad()
        padded = torch.cat([ids, sheet["Y"][:, -1:]], 1)
        real = torch.ones_like(padded).bool()
        real[:, -1] = False
        with hooked(lm.train()) as states:
            out = lm(input_ids=padded, labels=labels, attention_mask=real)
        for i, (_, uneven) in enumerate(states):
            sheet.number(f"{run}: loss of layer {i}'s choices", abs(uneven.item() - result["aux_layers"][i]), allowed)
        sheet.number(f"{run}: loss of all choices", abs(out.aux_loss.item() - result["aux_total"]), allowed)
        sheet.number(f"{run}: loss", abs(out.loss.item() - result["loss"]), allowed)
        out.loss.backward()
        with tolerance(sheet, allowed):
            every = sheet[f"{run}.logits_every2nd"]
            sheet.close(f"{run}: logits", out.logits[:, : 2 * every.shape[1] : 2], every)
            for key in (key for key in sheet.tensors if key.startswith(f"{run}.grad.")):
                name = key.removeprefix(f"{run}.grad.")
                sheet.close(f"{run}: gradient of {name}", lm.get_parameter(name).grad, sheet[key])
    lm.eval()


def rope(recordings: Recordings, sheet: Sheet) -> None:
    """Turned queries and keys, the table of angles, and the other layout of the same weights."""
    size = recordings.model("s").causal.size
    q, k = (rearrange(sheet[name], "b s heads d -> b heads s d") for name in ("xq", "xk"))
    for key in (key for key in sheet.tensors if "_out_" in key):
        start = int(key.rpartition("_")[2])
        positions = torch.arange(start, start + q.shape[2])[None]
        turned = rotate(q if key[0] == "q" else k, angles(positions, size.head_dim, size.rope_theta), "interleaved")
        sheet.close(f"{key[0]} from position {start} on", rearrange(turned, "b heads s d -> b s heads d"), sheet[key])
    cos, sin = angles(sheet["table_positions"][None], size.head_dim, sheet.meta["theta"])
    sheet.tensor("cosines", "table_cos", cos[0, 0])
    sheet.tensor("sines", "table_sin", sin[0, 0])
    perm = sheet["interleaved_to_half_perm"]
    rows = torch.arange(size.width).float()[:, None].expand(-1, size.width)
    key = "layers.0.attention.wq.weight"
    moved = weights.regrouped({key: rows}, size, "half")[key][: size.head_dim, 0].long()
    sheet.exact("rows of a head in the other layout", moved, perm)
    half = replace(size, rope_layout="half")
    back = weights.regrouped(weights.regrouped({key: rows}, size, "half"), half, "interleaved")[key]
    sheet.exact("there and back", back[:, 0].long(), torch.arange(size.width))
    rotary = angles(torch.arange(q.shape[2])[None], size.head_dim, size.rope_theta)
    groups = q.shape[1] // k.shape[1]

    def scores(layout: str, order: Tensor) -> Tensor:
        turned = [rotate(x[..., order], rotary, layout) for x in (q, k.repeat_interleave(groups, 1))]
        return turned[0] @ turned[1].mT

    same = torch.arange(size.head_dim)
    sheet.close("scores in the other layout", scores("half", perm), scores("interleaved", same))
    away = largest(scores("half", same) - scores("interleaved", same))
    sheet.close(
        "scores in the wrong layout are as wrong",
        torch.tensor(away),
        torch.tensor(sheet.meta["scores_half_not_permuted_maxdiff"]),
    )


# ------------------------------------------------------------------------------------------------ what is seen
def vision(recordings: Recordings, sheet: Sheet) -> None:
    model = recordings.model("s")
    for key in (key for key in sheet.tensors if key.startswith("pixels_T")):
        grids = model.encode([Visual({"video": clip}, 1) for clip in sheet[key].float()])
        features = torch.stack([grid["video"][:, 0] for grid in grids])
        sheet.tensor(f"features of {key}", key.replace("pixels", "features"), features)
        one = model.encode([Visual({"video": sheet[key][0, :1].float()}, 1)])[0]["video"]
        sheet.close("a single frame, at which the original raises", one[0], features[0, :1])
    for key in (key for key in sheet.tensors if key.startswith("features_T")):
        sheet.exact(f"{key}: tokens a frame", sheet[key].shape[2], recordings.config["vision"]["tokens_per_frame"])


@torch.no_grad()
def summary(recordings: Recordings, sheet: Sheet) -> None:
    for variant in VARIANTS:
        model = recordings.model(variant)
        adapter = model.reducers["video"]
        for key in (key for key in sheet.tensors if re.match(rf"{variant}\.T\d", key)):
            frames, times = re.fullmatch(rf"{variant}\.T(\d+)(?:x(\d+))?", key).groups(default="1")
            grid = recordings.features(int(frames)).repeat(1, int(times), 1, 1)[:, :, None]
            sheet.tensor(f"{variant}: summary of {frames} frames, {times} times", key, adapter(grid))
            if times != "1":
                # The model repeats a picture by itself.
                model.num_frames = int(times)
                ours = model.reduced(recordings.features(int(frames))[:, :, None])
                sheet.close(f"{variant}: a picture counts as {times} frames", ours, sheet[key])
        for key in (key for key in sheet.tensors if key.startswith(f"{variant}.attn_s_T")):
            tokens = recordings.features(int(key.rpartition("T")[2])).flatten(1, 2)
            queries = adapter.query_s.expand(len(tokens), -1, -1)
            read = torch.cat([tokens, queries], 1)
            _, attention = adapter.cross_attn_s[0].mha(queries, read, read, need_weights=True)
            sheet.tensor(f"{variant}: attention of {key}", key, attention)
        for key in (key for key in sheet.tensors if key.startswith(f"proj.{variant}.T")):
            grids = recordings.features(int(key.rpartition("T")[2]))[:, :, None]
            tokens = torch.stack(model.tokens_of([{"video": grid} for grid in grids]))
            sheet.tensor(f"{variant}: projected", key, tokens)
        grid = recordings.features(3)[:, :, None]
        away = largest(adapter(grid) - adapter(grid.flip(1)))
        sheet.number(f"{variant}: frames the other way round", away, TOLERANCE)


@torch.no_grad()
def summary_extra(recordings: Recordings, sheet: Sheet) -> None:
    """Other numbers of layers, queries and heads, with weights of their own."""
    features = sheet["features"]
    for key in (key for key in sheet.tensors if key.startswith("out.")):
        name = key.removeprefix("out.")
        prefix = f"w.{name}."
        state = {k.removeprefix(prefix): sheet[k] for k in sheet.tensors if k.startswith(prefix)}
        heads = re.search(r"_h(\d+)$", name)
        settings = Summary(
            1, state["query_s"].shape[1], int(heads[1]) if heads else recordings.config["summary"]["num_heads"]
        )
        found = weights.summary_of({f"{weights.SUMMARY}{k}": v for k, v in state.items()}, settings)
        sheet.exact(f"{name}: branches by the keys", found.branches, name.split(".")[0])
        experiment = recordings.experiment(found.branches)
        model = assemble(
            replace(experiment, reducer=replace(found, dropout=0.0)),
            recordings.model("s").causal,
            recordings.model("s").tokenizer,
            recordings.model("s").encoders,
        )
        adapter = model.reducers["video"].eval()
        adapter.load_state_dict(state)
        sheet.tensor(f"{name}: summary", key, adapter(features[:, :, None]))


# ------------------------------------------------------------------------------------------------ text and visuals
def given(recordings: Recordings, ids: Tensor, features: Tensor, visuals: int = 1) -> dict[str, Any]:
    """A batch of ours from ids of theirs: `visuals` runs of marks at most become placeholders."""
    count = recordings.queries
    rows = [with_placeholders(row, count, visuals, recordings.mark) for row in ids.tolist()]
    shown = [
        [Visual({}, count, {"video": own[:, None]})] * (row.count(PLACEHOLDER) // count)
        for row, own in zip(rows, features, strict=True)
    ]
    placed = torch.tensor(rows)
    return {
        "input_ids": placed,
        "attention_mask": torch.ones_like(placed).bool(),
        "labels": torch.where(placed == PLACEHOLDER, IGNORE, placed),
        "visuals": shown,
    }


@torch.no_grad()
def splice(recordings: Recordings, sheet: Sheet) -> None:
    """Every layout of placeholders: embeddings and logits."""
    features = recordings.features(3)
    for key in (key for key in sheet.tensors if key.endswith(".input_ids")):
        layout, ids = key.removesuffix(".input_ids"), sheet[key]
        for variant in (v for v in VARIANTS if sheet.stored(f"{layout}.{v}.logits_last")):
            model, name = recordings.model(variant), f"{layout}.{variant}"
            batch = given(recordings, ids, features)
            embeds = model.merge(*batch.values()).inputs_embeds
            logits = model(**batch).logits
            stored = sheet[f"{name}.spliced"]
            sheet.close(f"{name}: embeddings", embeds[..., :: embeds.shape[-1] // stored.shape[-1]], stored)
            sheet.tensor(f"{name}: last logits", f"{name}.logits_last", logits[:, -1])
            if f"{name}.logits" in sheet.tensors:
                rows = sheet.meta[f"{name}.logits_rows"]
                sheet.tensor(f"{name}: logits", f"{name}.logits", logits[rows])
            if f"{name}.logits_every4th_vocab8" in sheet.tensors:
                every = sheet[f"{name}.logits_every4th_vocab8"]
                sheet.close(f"{name}: logits, spread", logits[:, ::4, ::8], every)
            if f"{name}.logits_text_only_last" in sheet.tensors:
                text = model.causal(input_ids=ids).logits[:, -1]
                sheet.tensor(f"{name}: last logits without the visual", f"{name}.logits_text_only_last", text)
    for layout, windows in sheet.meta["windows"].items():
        for row, (ids, theirs) in enumerate(zip(sheet[f"{layout}.input_ids"].tolist(), windows, strict=True)):
            apart: list[int] = []
            for place in theirs:
                apart += [place] * (not apart or place >= apart[-1] + recordings.queries)
            sheet.exact(f"{layout}, row {row}: places", runs(ids, recordings.queries, recordings.mark), apart)
            if len(theirs) > 1 and theirs != apart:
                wrong = theirs != runs(ids, recordings.queries, recordings.mark)
                sheet.exact(f"defect, ours differs: {layout}, row {row}: places overlap", wrong, True)
    for name, equal in sheet.meta["notes"].items():
        if name.endswith("_equals_text_only"):
            batch = given(recordings, sheet[f"{name.removesuffix('_equals_text_only')}.input_ids"], features)
            sheet.exact(f"{name}", (batch["input_ids"] != PLACEHOLDER).all().item(), equal)


@torch.no_grad()
def cache(recordings: Recordings, sheet: Sheet) -> None:
    """Prefill and single steps, and several new tokens at once, with keys and values that are kept."""
    prompt, more = sheet["prefill_ids"], sheet["ext_ids"]
    features = recordings.features(3)
    for variant in VARIANTS:
        model = recordings.model(variant)
        embeds = model.merge(*given(recordings, prompt, features).values()).inputs_embeds
        follow = model.causal.tok_embeddings(more)
        whole = model.causal(inputs_embeds=torch.cat([embeds, follow], 1)).logits
        tail = f"{variant}.full_logits_tail"
        sheet.tensor(f"{variant}: without a cache", tail, whole[:, -sheet.tensors[tail].shape[1] :])
        kept = DynamicCache(config=model.causal.config)
        steps = [model.causal(inputs_embeds=embeds, past_key_values=kept).logits[:, -1]]
        for part, there in (("k", kept.layers[0].keys), ("v", kept.layers[0].values)):
            ours = rearrange(there, "b heads s d -> b s heads d")
            sheet.tensor(f"{variant}: {part} of layer 0", f"{variant}.{part}_layer0_prefill", ours.clone())
        for i in range(follow.shape[1]):
            steps.append(model.causal(inputs_embeds=follow[:, i : i + 1], past_key_values=kept).logits[:, -1])
        name = f"{variant}.step_logits"
        sheet.tensor(f"{variant}: step by step", name, torch.stack(steps, 1)[:, : sheet.tensors[name].shape[1]])
        wrong = sheet[f"{variant}.chunk2_refbug_logits"]
        kept = DynamicCache(config=model.causal.config)
        model.causal(inputs_embeds=embeds, past_key_values=kept)
        count = wrong.shape[1]
        chunk = model.causal(inputs_embeds=follow[:, :count], past_key_values=kept).logits
        there = prompt.shape[1]
        sheet.close(f"{variant}: {count} tokens at once are right", chunk, whole[:, there : there + count])
        defect(sheet, f"{variant}: {count} tokens at once with a cache", chunk, wrong)


def reading(model: Cinego, recordings: Recordings, ids: Tensor, features: Tensor) -> Reading:
    batch = given(recordings, ids[None], features[None])
    shown = [VisualTokens(t, recordings.queries) for t in model.tokens_of([v.grids for v in batch["visuals"][0]])]
    return model._reading([batch["input_ids"][0].tolist()], shown)


@torch.inference_mode()
def greedy(recordings: Recordings, sheet: Sheet) -> None:
    for row in sheet.meta["rows"]:
        model, i = recordings.model(row["variant"]), row["row"]
        name = f"{row['variant']}, row {i}"
        ids, features = sheet["input_ids"][i], recordings.features(3)[i]
        tokens = row["tokens"]
        sure = next((k for k, margin in enumerate(row["margins"]) if margin < TIE), len(tokens))
        # Theirs may choose an id that stands for no token; ours alone never does.
        every = model.causal.size.vocabulary
        ((ours,),) = generate(model.causal, [reading(model, recordings, ids, features)], len(tokens), [], every)
        sheet.exact(f"{name}: tokens", ours.ids[:sure], tokens[:sure])
        whole = torch.cat([ids, torch.tensor(tokens)])[None]
        logits = model(**given(recordings, whole, features[None])).logits[0, len(ids) - 1 : -1]
        sheet.tensor(f"{name}: logits of every step", f"{row['variant']}.row{i}.logits", logits)
        sheet.exact(f"{name}: tokens without a cache", logits.argmax(-1)[:sure], tokens[:sure])
        sheet.exact(f"{name}: the original's sampler agrees with itself", row["sampler_top_p_1e9_equal"], True)


@torch.inference_mode()
def sampler(recordings: Recordings, sheet: Sheet) -> None:
    """What a token is drawn from. The original divides by a penalty also what is below 0, and so favours it."""
    model = recordings.model("s")
    row = int(re.search(r"input_ids row (\d+)", sheet.meta["note"])[1])
    ids = recordings.case("greedy")[1]["input_ids"][row]
    said, features = ids.tolist(), recordings.features(3)[row]
    logits, told = [], [said]
    for _ in range(2):
        whole = torch.tensor(told[-1])[None]
        logits.append(model(**given(recordings, whole, features[None])).logits[0, -1])
        told.append([*told[-1], logits[-1].argmax().item()])
    for number, setting in enumerate(sheet.meta["settings"]):
        recorded = sheet[f"probs{number}"]
        temperature, top_p, penalty = (setting[key] for key in ("temperature", "top_p", "rp"))
        generation_config = GenerationConfig(temperature=temperature, top_p=top_p or 1.0)
        for step, own in enumerate(logits):
            title = f"temperature {temperature}, top_p {top_p}, penalty {penalty}, step {step}"
            there = own.clone()
            there[sorted(set(told[step]))] /= penalty
            ours = processed(there, told[step], generation_config).softmax(-1)
            with tolerance(sheet, PROBABILITY):
                sheet.close(f"{title}: probabilities", ours, recorded[step])
            sheet.exact(f"{title}: tokens that are kept", int((ours > 0).sum()), setting["kept"][step])
            if penalty != 1:
                said_once = sorted({token for token in told[step] if own[token] < 0})
                lowered = processed(own, told[step], GenerationConfig(temperature=1.0, repetition_penalty=penalty))[
                    said_once
                ]
                sheet.exact(
                    f"defect, ours differs: {title}: what was said is not favoured",
                    bool((lowered < own[said_once]).all() and (there[said_once] > own[said_once]).all()),
                    True,
                )


# ------------------------------------------------------------------------------------------------ files
def frames(recordings: Recordings, sheet: Sheet) -> None:
    table = sheet.meta["table"]
    ours = [linspace_indices(*map(int, key.split("x"))) for key in table]
    sheet.exact("indices", ours, list(table.values()))
    media = recordings.root / "fixtures" / "media"
    for case in sheet.meta["video"]:
        pixels = seen(recordings, media / case["file"], case["num_frames"], case["size"])
        lossless = Path(case["file"]).suffix in (".mkv", ".png")
        means = torch.tensor(case["frame_means"])
        sheet.number(
            f"{case['file']}: {case['num_frames']} frames, means",
            largest(pixels.mean((1, 2, 3)).expand(len(means)) - means),
            MEANS if lossless else LOSSY,
        )
        if case["indices"]:
            sheet.exact(f"{case['file']}: {case['num_frames']} frames", len(pixels), len(case["indices"]))
    for name in sorted({re.match(r"(.+\.T\d+(?:_\d+)?)(\.|$)", key)[1] for key in sheet.tensors}):
        file, count, size = re.fullmatch(r"(.+)\.T(\d+)(?:_(\d+))?", name).groups()
        side = int(size or recordings.config["vision"]["image_size"])
        pixels = seen(recordings, media / file, int(count), side)
        stored = sheet.meta.get(name, {}).get("shape") or list(
            sheet.tensors[name].shape if name in sheet.tensors else pixels.shape
        )
        with tolerance(sheet, PIXELS if file.endswith((".mkv", ".png")) else LOSSY):
            # Of a picture the recording keeps one frame, or as many copies as were asked for.
            sheet.tensor(f"{name}: pixels", name, pixels.expand(stored[0], -1, -1, -1).contiguous())
    for name in sheet.meta["bad_inputs_silently_zero"]:
        sheet.exact(f"defect, ours differs: {name} is no black clip", bad_input(recordings, media, name), "not black")


def seen(recordings: Recordings, file: Path, count: int, side: int) -> Tensor:
    """Pixels of a file as the encoder gets them."""
    clip = Branch("clip_cinego", str(recordings.clip(side)), side, 1, 1)
    chosen: Clip = read_clip(file, count, sampling="linspace")
    return preprocessor(clip)(chosen)


def bad_input(recordings: Recordings, media: Path, name: str) -> str:
    """What becomes of a file that the original takes for a black clip."""
    path = recordings.work / "bad" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "bad.mp4":
        path.write_bytes(b"no video")
    elif not name.startswith("missing"):
        kind = {".jpeg": ".jpg", ".png": ".png"}.get(path.suffix.lower(), ".mkv")
        like = next(p for p in sorted(media.iterdir()) if p.suffix == kind)
        shutil.copyfile(like, path)
    try:
        pixels = seen(recordings, path, 4, recordings.config["vision"]["image_size"])
    except ClipError:
        return "not black"
    return "black" if not pixels.any() else "not black"


@torch.no_grad()
def features(recordings: Recordings, sheet: Sheet) -> None:
    """What preprocessing wrote, as it is read here, against what the live path makes of the same files."""
    fixtures = recordings.root / "fixtures"
    for name, facts in sheet.meta["files"].items():
        stored = torch.from_numpy(np.load(fixtures / name))
        sheet.exact(f"{name}: shape", list(stored.shape), facts["shape"])
        experiment, file = recordings.experiment("s"), fixtures / "media" / facts["source"]
        prepare = Preparation(experiment.branches, replace(experiment.sampling, num_frames=facts["shape"][0]))
        live = prepare(file, still="crop" if file.suffix in (".png", ".jpg") else None)
        (grids,) = recordings.model("s").encode([live])
        ours = grids["video"].expand(len(stored), -1, -1, -1)
        with tolerance(sheet, TOLERANCE if file.suffix in (".mkv", ".png") else LOSSY):
            sheet.close(f"{name}: live", ours, as_grid(stored))
    best = None  # which file the logits are of, the recording does not say: the one that is closest, for both variants
    for variant in VARIANTS:
        recorded = sheet[f"{variant}.logits_from_npy_last8"]
        logits = {}
        for name in [best] if best else sheet.meta["files"]:
            stored = torch.from_numpy(np.load(fixtures / name))[None]
            whole = recordings.model(variant)(**given(recordings, sheet["input_ids"], stored)).logits
            logits[name] = whole[:, -recorded.shape[1] :]
        best = min(logits, key=lambda name: largest(logits[name] - recorded))
        sheet.close(f"{variant}: logits of stored features", logits[best], recorded)


# ------------------------------------------------------------------------------------------------ training
def rows_of(recordings: Recordings) -> list[cinego_data.Row]:
    fixtures = recordings.root / "fixtures"
    return cinego_data.read_rows(fixtures / "data.jsonl", fixtures / "media", reference=True)


def dataset(recordings: Recordings, sheet: Sheet) -> None:
    """Ids and the original's shifted mask at every length; and what is trained here instead."""
    tokenizer, queries = recordings.model("s").tokenizer, recordings.queries
    rows, told = rows_of(recordings), sheet.meta["rows"]
    for i, (row, facts) in enumerate(zip(rows, told, strict=True)):
        for length in sheet.meta["max_lengths"]:
            ids, labels = cinego_data.reference_ids(row, tokenizer, queries, length)
            name = f"{facts['name']}, {length}"
            sheet.exact(f"{name}: X", ids[:-1], sheet[f"X.{length}"][i].tolist())
            sheet.exact(f"{name}: Y", ids[1:], sheet[f"Y.{length}"][i].tolist())
            mask = [int(label != IGNORE) for label in labels[1:]]
            sheet.exact(f"{name}: legacy mask", mask, sheet[f"mask.{length}"][i].tolist())
    longest = max(sheet.meta["max_lengths"])
    fixed = fixed_rows(recordings)
    for i, facts in enumerate(told):
        if facts["name"] not in fixed:
            continue
        (sample,) = cinego_data.encode(fixed[facts["name"]], tokenizer, lambda _: queries, longest)
        ids = [j for token in sample.ids.tolist() for j in ([recordings.mark] * queries if token < 0 else [token])]
        labels = [j for token, label in zip(sample.ids.tolist(), sample.labels.tolist(), strict=True)
                  for j in ([IGNORE] * queries if token < 0 else [label])]  # fmt: skip
        theirs = [0, *sheet[f"mask.{longest}"][i].tolist()][: len(ids)]
        whole = [*sheet[f"X.{longest}"][i].tolist(), sheet[f"Y.{longest}"][i, -1].item()][: len(ids)]
        sheet.exact(f"{facts['name']}: the same ids without their mistakes", ids, whole)
        # Theirs begins one late and ends one late, in every answer alike.
        ours = [int(label != IGNORE) for label in labels]
        sheet.exact(f"{facts['name']}: the mask is theirs, one earlier", ours[:-1], theirs[1:])
        sheet.exact(f"defect, ours differs: {facts['name']}: the mask", ours != theirs, True)


def fixed_rows(recordings: Recordings) -> dict[str, cinego_data.Row]:
    """Rows that both sides can write down alike, by name: roles as they stand, a file for each marker, no control text.

    Those with an answer of one token or none at all lose the comparison by position.
    """
    fixtures, found = recordings.root / "fixtures", {}
    told = recordings.case("dataset")[0]["rows"]
    for i, line in enumerate((fixtures / "data.jsonl").read_text().splitlines()):
        content = [turn["content"] for turn in json.loads(line)["conversations"]]
        plain = not any("</s>" in text or "<s>" in text or "@" in text for text in content)
        roles = [turn["role"] for turn in json.loads(line)["conversations"]]
        if not plain or roles != ["user", "assistant"] * (len(roles) // 2) or not all(content):
            continue
        if sum(text.count("<image>") for text in content) != 1:
            continue
        (row,) = [r for r in cinego_data.read_rows(fixtures / "data.jsonl", fixtures / "media", reference=True)
                  if r.where.endswith(f"line {i + 1}")]  # fmt: skip
        found[told[i]["name"]] = row
    return found


def losses(recordings: Recordings, sheet: Sheet) -> None:
    """The loss of recorded rows under the original's mask, and its gradients, with everything but CLIP learning."""
    x, y, mask = sheet["X"], sheet["Y"], sheet["loss_mask"].bool()
    ids = torch.cat([x, y[:, -1:]], 1)
    features = sheet["features"]
    picked = [int(i) for i in re.search(r"rows are for ids ([\d,]+)", sheet.meta["note"])[1].split(",")]
    for variant in VARIANTS:
        model = recordings.fresh(variant).train()
        model.train_only("sft")
        batch = given(recordings, ids, features)
        labels = torch.where(mask, y, IGNORE)
        # Each of our placeholders is one id of theirs, so that positions are the same.
        batch["labels"] = torch.cat([torch.full_like(labels[:, :1], IGNORE), labels], 1)
        out = model(**batch)
        sheet.number(f"{variant}: loss", abs(out.loss.item() - sheet.meta["loss"][variant]), GRADIENT)
        stored = sheet[f"{variant}.logits_at_mask"]
        sheet.close(f"{variant}: logits that are learned", out.logits[:, :-1][mask][:, : stored.shape[1]], stored)
        alone = model(**batch, loss_only=True).loss
        sheet.number(f"{variant}: loss without other logits", abs(alone.item() - out.loss.item()), GRADIENT)
        out.loss.backward()
        grads = gradients(model)
        sheet.exact(f"{variant}: what has a gradient", sorted(grads), sorted(sheet.meta["grad_norms"][variant]))
        for name, norm in sheet.meta["grad_norms"][variant].items():
            sheet.number(f"{variant}: norm of the gradient of {name}", abs(grads[name].norm().item() - norm), GRADIENT)
        with tolerance(sheet, GRADIENT):
            for key in (key for key in sheet.tensors if key.startswith(f"{variant}.grad.")):
                name = key.removeprefix(f"{variant}.grad.")
                own = grads[name.removesuffix(".rows")]
                sheet.close(
                    f"{variant}: gradient of {name}", own[picked] if name.endswith(".rows") else own, sheet[key]
                )
        if sheet.meta.get(f"{variant}_no_placeholder_grad_is_None"):
            model.zero_grad()
            text = ids.clone()
            text[text == recordings.mark] = recordings.mark + 1
            model(**{**batch, "input_ids": text, "visuals": [[] for _ in text]}).loss.backward()
            lacking = [name for name, grad in gradients(model).items() if grad is None]
            sheet.exact(f"defect, ours differs: {variant}: text alone leaves no gradient out", lacking, [])
    empty = sheet.meta["empty_mask"]
    rows = rows_of(recordings)
    short = cinego_data.encode(
        rows[sheet.meta["rows"][0]],
        recordings.model("s").tokenizer,
        lambda _: recordings.queries,
        empty["max_length"],
    )
    sheet.exact(f"defect, ours differs: no sample without an answer at {empty['max_length']}", short, [])


def gradients(model: Cinego) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model._named()}


def train_loop(recordings: Recordings, sheet: Sheet) -> None:
    """Whole trainings as the original's: losses, rates, what changed, weights behind."""
    for name, run in sheet.meta["runs"].items():
        training(recordings, sheet, name, run)
    for name, run in sheet.meta["trainable"].items():
        if not isinstance(run, list):
            continue
        variant = "st" if "_st" in name else "s"
        model = recordings.fresh(variant)
        sheet.exact(f"{name}: what learns", model.train_only("sft" if "sft" in name else "pretrain"), sorted(run))
    for key in (key for key in sheet.meta if key.startswith("checkpoint_")):
        variant = key.removeprefix("checkpoint_")
        facts = sheet.meta[key]
        ours = recordings.model(variant).checkpoint_state()
        sheet.exact(f"{key}: keys", sorted(ours), facts["keys"])
        sheet.exact(f"{key}: number of keys", len(ours), facts["n_keys"])
        if "/" in facts["file"] and (file := recordings.root / facts["file"]).is_file():
            published(recordings, sheet, variant, file)


def published(recordings: Recordings, sheet: Sheet, variant: str, file: Path) -> None:
    """A file that the original wrote is read, and written again as it was."""
    model = recordings.fresh(variant)
    model.load_checkpoint(file)
    again = recordings.work / "written" / file.name
    weights.save(again, model.checkpoint_state())
    theirs, ours = (torch.load(f, weights_only=True) for f in (file, again))
    sheet.exact(f"{file.name}: keys written", sorted(ours), sorted(theirs))
    wrong = [key for key in theirs if not torch.equal(ours[key], theirs[key]) or ours[key].dtype != theirs[key].dtype]
    sheet.exact(f"{file.name}: tensors that are written otherwise", wrong, [])


def training(recordings: Recordings, sheet: Sheet, name: str, run: dict[str, Any]) -> None:
    stage = "sft" if "sft" in name else "pretrain"
    variant = "st" if "_st" in name else "s"
    count = int(re.search(r"\[:(\d+)\]", run["rows"])[1])
    fixtures = recordings.root / "fixtures"
    source = recordings.work / "training" / f"{name}.jsonl"
    source.parent.mkdir(parents=True, exist_ok=True)
    lines = (fixtures / "data.jsonl").read_text().splitlines()[:count]
    source.write_text("".join(f"{line}\n" for line in lines))
    recipe = cinego_training.Recipe(
        epochs=run["epochs"],
        batch_size=run["batch_size"],
        accumulation=run["accumulation"],
        learning_rate=run["lr"],
        max_length=recordings.config["max_seq_len"],
        reference=True,
    )
    told: list[float] = []
    out = recordings.work / "training" / name
    experiment = with_settings(recordings.experiment(variant), {"sampling.num_frames": frames_of_training(recordings)})
    start = recordings.folder(variant)
    written = cinego_training.train(
        stage,
        experiment,
        cinego_training.Source([source], fixtures / "media"),
        weights.locate(start),
        out,
        recipe,
        progress=lambda _, __, loss: told.append(loss),
    )
    steps = cinego_training.plan(count, recipe)
    per_step = run["accumulation"]
    rates = [step["lr"] for step in run["steps"]]
    total = len(rates)
    ours = [cinego_training.learning_rate(i, total, run["lr"]) for i in range(total)]
    sheet.number(f"{name}: rates", max(abs(a - b) / b for a, b in zip(ours, rates, strict=True)), 1e-12)
    sheet.exact(f"{name}: passes of each step", [len(step.passes) for step in steps], passes_of(run, count))
    # Theirs are of passes, ours of steps.
    passes = iter(step["loss"] for step in run["steps"])
    expected = [sum(next(passes) for _ in step.passes) for step in steps]
    sheet.exact(f"{name}: steps", len(told), len(expected))
    for i, (a, b) in enumerate(zip(told, expected, strict=False)):
        sheet.number(f"{name}: loss of step {i}", abs(a - b), GRADIENT)
    before, after = recordings.state(variant), weights.read(written)
    changed = sorted(key for key in after if not torch.equal(after[key], before[key]))
    sheet.exact(f"{name}: what changed", changed, sorted(run["changed"]))
    with tolerance(sheet, STEPPED if per_step == 1 else ACCUMULATED):
        for key in (key for key in sheet.tensors if key.startswith(f"{name}.after.")):
            tensor = key.removeprefix(f"{name}.after.")
            sheet.close(f"{name}: {tensor}", after[tensor], sheet[key])


def passes_of(run: dict[str, Any], count: int) -> list[int]:
    """Passes before each step of the original: what an epoch leaves over goes into the next one's first step."""
    epoch = -(-count // run["batch_size"])
    found, left = [], 0
    for _ in range(run["epochs"]):
        for i in range(epoch):
            left += 1
            if (i + 1) % run["accumulation"] == 0:
                found.append(left)
                left = 0
    return found


def frames_of_training(recordings: Recordings) -> int:
    return recordings.case("dataset")[0]["rows"][0]["visual_shape"][0]


def schedule(recordings: Recordings, sheet: Sheet) -> None:
    for row in sheet.meta["table"]:
        name = f"{row['stage']}, {row['base_lr']:g}, {row['total']} steps"
        for step, rate in row["values"].items():
            ours = cinego_training.learning_rate(int(step), row["total"], row["base_lr"])
            sheet.number(f"{name}: rate of step {step}", abs(ours - rate) / rate, 1e-12)


# ------------------------------------------------------------------------------------------------ full sizes
def full_sizes(table: dict[str, Any], sheet: Sheet) -> None:
    """Keys, shapes and numbers of parameters of the models as they were trained, without memory for them."""
    for name, facts in table.items():
        width, variant, *moe = name.split("_")
        size = Size(int(width), facts["n_layers"], mlp=mlp_width(int(width)), experts=Experts() if moe else None)
        experiment = replace(CINEGO_512, reducer=Summary(branches=variant))
        with torch.device("meta"):
            model = assemble(experiment, MiniMind(size), Vocabulary(), {})
        state = model.checkpoint_state()
        sheet.exact(f"{name}: number of keys", len(state), facts["n_keys"])
        sheet.exact(f"{name}: keys of the language model", len(weights.lm_part(state)), facts["lm_keys"])
        ours = {key: list(state[key].shape) if key in state else None for key in facts["shapes"]}
        wrong = [key for key, shape in facts["shapes"].items() if ours[key] != shape]
        sheet.exact(f"{name}: shapes that differ", wrong, [])
        unknown = [key for key in state if re.sub(r"^layers\.\d+\.", "layers.0.", key) not in facts["shapes"]]
        sheet.exact(f"{name}: keys that are not recorded of the first layer", unknown, [])
        sheet.exact(f"{name}: parameters", parameters(model, "sft"), facts["params"])
        sheet.exact(
            f"{name}: of the language model", sum(p.numel() for p in model.llm.parameters()), facts["params_lm"]
        )
        sheet.exact(f"{name}: learned in pretrain", parameters(model, "pretrain"), facts["trainable_pretrain"])


class Vocabulary:
    """As many entries as the published tokenizer."""

    def __len__(self) -> int:
        return Size.vocabulary


def parameters(model: Cinego, stage: str) -> int:
    learned = set(model.train_only(stage))
    return sum(parameter.numel() for name, parameter in model._named() if name in learned)


KINDS: Sequence[tuple[str, Callable[[Recordings, Sheet], None]]] = (
    ("^hidden0$", language_model),
    ("^eval_topk_idx0$", mixture),
    ("^xq$", rope),
    ("^pixels_T", vision),
    (r"^s\.T\d", summary),
    (r"^w\.s", summary_extra),
    (r"\.spliced$", splice),
    ("^prefill_ids$", cache),
    (r"row\d+\.logits$", greedy),
    ("^probs0$", sampler),
    ("^meta:bad_inputs", frames),
    ("^meta:files$", features),
    ("^meta:max_lengths$", dataset),
    ("^meta:grad_norms$", losses),
    ("^meta:runs$", train_loop),
    ("^meta:table$", schedule),
)
