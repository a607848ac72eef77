"""What the reference refuses, crashes on or changes: recorded shapes where it works, the right result where not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from statistics import median_low
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videogpt_plus.models.base import VisionLM
from videogpt_plus.reducers import build_reducer, pooled_side
from videogpt_plus.reducers.average import Average
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

from .cases import chunk_of
from .folder import Folder
from .models import encoded_once, frames, pixels, placeholders, set_level, visuals_of_the_reference
from .rows import Sheet, largest

COUNTS = re.compile(r"n_image_tokens=(\d+) with (\d+) frames")
RUNS = re.compile(r"two separate <image> runs in one sample \((\d+)\+(\d+)\)")
LEVEL = re.compile(r"pool_level=([\d.]+)")
#: What a recorded change of the logits did to the frames of one stream; the order of the frames after it.
CHANGES = {
    "swap_two_video_frames": ("video", lambda n, chunk: [1, 0, *range(2, n)]),
    "swap_two_context": ("image", lambda n, chunk: [1, 0, *range(2, n)]),
    "swap_chunks": ("video", lambda n, chunk: [*range(chunk, 2 * chunk), *range(chunk), *range(2 * chunk, n)]),
}


def limits(folder: Folder, sheet: Sheet, table: dict[str, Any]) -> None:
    """Each limit by its name; the weights are those whose sizes give the recorded lengths."""
    found = matching(folder, table)
    if found is None and not folder.weights():
        sheet.skip("limits", "there are no weights in this folder")
        return
    if found is None:
        sheet.fail("limits", "no weights here give the recorded lengths")
        return
    weights, text = found
    model, level = folder.model(weights), folder.config(weights)["llm"]["pool_level"]
    torch.manual_seed(0)
    for name, recorded in table.items():
        set_level(model, level)
        if match := COUNTS.match(name):
            compare_count(model, sheet, recorded, int(match[1]), int(match[2]), text)
        elif match := RUNS.match(name):
            compare_runs(model, sheet, int(match[1]), int(match[2]), text)
        elif match := LEVEL.match(name):
            compare_level(folder, model, sheet, weights, float(match[1]), recorded)
        elif name.startswith("text_only_batch") and recorded.get("ok"):
            logits = asked(model, torch.randint(0, 256, (1, recorded["result"][1])), [])
            sheet.exact("text alone: shape of the logits", list(logits.shape), recorded["result"])
        elif name.startswith(("text_only_sample", "mixed_batch")):
            compare_text_alone(model, sheet, name, text)
        elif name.startswith("droppath"):
            compare_train_mode(model, sheet)
        elif name.startswith("sensitivity"):
            compare_changes(folder, model, sheet, weights, recorded, level)
        elif name.startswith("eager_vs_sdpa"):
            compare_attention(folder, model, sheet, weights)
        else:
            sheet.skip(name, "no check knows this limit")


def matching(folder: Folder, table: Mapping[str, Any]) -> tuple[str, int] | None:
    """The weights whose sizes explain every recorded length by one and the same text, and its length in tokens."""
    rows = [
        (COUNTS.match(name), value["result"]) for name, value in table.items() if COUNTS.match(name) and value["ok"]
    ]
    for weights in folder.weights():
        info = folder.config(weights)
        if not (info["clip"] and info["internvideo"]):
            continue
        image, video = per_frame(info, info["llm"]["pool_level"])
        chunk = info["internvideo"]["num_frames"]
        texts = {result[1] - int(match[2]) * image - int(match[1]) // chunk * chunk * video for match, result in rows}
        if not rows:
            return weights, 4
        if len(texts) == 1 and min(texts) > 0 and rows[0][1][2] == info["llm"]["vocab_size"]:
            return weights, texts.pop()
    return None


def per_frame(info: Mapping[str, Any], level: float) -> tuple[int, int]:
    """Tokens a frame of the image and of the video stream."""
    sides = (
        tower[key] // tower["patch_size"]
        for tower, key in ((info["clip"], "image_size"), (info["internvideo"], "img_size"))
    )
    image, video = (pooled_side(side, level) ** 2 for side in sides)
    return image, video


def shown(model: VisionLM, images: int, video: int, count: int) -> Visual:
    """Some frames of both streams; which ones does not matter here."""
    parts = {"image": images, "video": video}
    return Visual({n: frames(1, parts[n], e.pixels, n) for n, e in model.encoders.items()}, count)


def asked(model: VisionLM, ids: Tensor, visuals: list[Visual]) -> Tensor:
    """Logits of one sample."""
    with torch.inference_mode():
        return model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [visuals]).logits


def compare_count(
    model: VisionLM, sheet: Sheet, recorded: Mapping[str, Any], count: int, total: int, text: int
) -> None:
    """Placeholders for fewer frames than there are. Where the reference fails, a clip of so many real frames."""
    ids = torch.tensor([[1] + [PLACEHOLDER] * count + list(range(2, 1 + text))])
    chunk = chunk_of(model)
    if recorded["ok"]:
        logits = asked(model, ids, [shown(model, total, count // chunk * chunk, count)])
        sheet.exact(
            f"{count} placeholders, {total} frames: shape of the logits", list(logits.shape), recorded["result"]
        )
        return
    logits = asked(model, ids, [shown(model, count, count, count)])
    image, video = (
        adapter.reducer.num_tokens(count, e.grid, e.grid)
        for adapter, e in zip(model.reducers.values(), model.encoders.values(), strict=True)
    )
    facts = [list(logits.shape[:2]), bool(logits.isfinite().all())]
    sheet.exact(f"{count} real frames (the reference fails): lengths", facts, [[1, text + image + video], True])


def compare_runs(model: VisionLM, sheet: Sheet, first: int, second: int, text: int) -> None:
    """Two videos in one sample: each run shows its own frames."""
    ids = torch.tensor([[1] + [PLACEHOLDER] * first + [2] * text + [PLACEHOLDER] * second + [3]])
    visuals = [shown(model, n, n, n) for n in (first, second)]
    with torch.inference_mode():
        tokens = model.tokens_of(model.encode(visuals))
        merged = model.merge(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [visuals]).inputs_embeds[0]
    begin = 1 + len(tokens[0]) + text
    wanted = [tokens[0], tokens[1], torch.tensor(0.0)]
    for i, part in enumerate((merged[1 : 1 + len(tokens[0])], merged[begin : begin + len(tokens[1])])):
        sheet.close(
            f"two runs in one sample: frames of run {i} (the reference shows all images twice)", part, wanted[i]
        )


def compare_level(
    folder: Folder, model: VisionLM, sheet: Sheet, weights: str, level: float, recorded: Mapping[str, Any]
) -> None:
    if not recorded["ok"]:
        try:
            build_reducer(Average(level))
            said = "taken"
        except UserError:
            said = "refused"
        sheet.exact("a level that is not possible", said, "refused", f"{level:g}")
        return
    set_level(model, level)
    for _, ids, visuals in prompts(folder, model, weights):
        logits = asked(model, ids, visuals)
        if list(logits.shape) == recorded["result"]:
            sheet.exact("shape of the logits", list(logits.shape), recorded["result"], f"{level:g}")
            return
    sheet.skip("shape of the logits", "no prompt of this folder has the recorded length", f"{level:g}")


def prompts(folder: Folder, model: VisionLM, weights: str) -> Iterator[tuple[list[str], Tensor, list[Visual]]]:
    """Levels, ids and visuals of each recorded prompt with these weights."""
    for _, meta, tensors in folder.cases():
        if meta.get("weights") == weights and "prompt" in meta and len(meta["frames"]) == 1:
            ids = tensors["input_ids"]
            yield (
                list(meta["pools"]),
                ids,
                visuals_of_the_reference([pixels(meta["frames"][0])], placeholders(ids), chunk_of(model)),
            )


def compare_text_alone(model: VisionLM, sheet: Sheet, name: str, text: int) -> None:
    """Text without a visual, beside a video in one batch: each has the logits that it has alone."""
    words, visual = torch.randint(3, 256, (1, text + 3)), shown(model, 4, 4, 4)
    video = torch.tensor([[1] + [PLACEHOLDER] * 4 + [2]])
    ids = pad_sequence([words[0], video[0]], batch_first=True)
    mask = pad_sequence([torch.ones_like(words[0]), torch.ones_like(video[0])], batch_first=True).bool()
    with torch.inference_mode():
        logits = model(ids, mask, torch.full_like(ids, IGNORE), [[], [visual]]).logits
    for kind, row, alone in (
        ("text", logits[0], asked(model, words, [])),
        ("video", logits[1], asked(model, video, [visual])),
    ):
        sheet.close(f"{name.replace('_', ' ')}, which fails in the reference: {kind}", row[: alone.shape[1]], alone[0])


def compare_train_mode(model: VisionLM, sheet: Sheet) -> None:
    """Features do not change while the rest of the model trains: a frozen tower drops no path."""
    visual = shown(model, 4, 4, 4)
    before = model.encode([visual])[0]
    model.train()
    after = model.encode([visual])[0]
    model.eval()
    for name, grid in after.items():
        sheet.close(f"features in training, {name} (the reference drops paths)", grid, before[name])


def compare_changes(
    folder: Folder, model: VisionLM, sheet: Sheet, weights: str, recorded: Mapping[str, float], level: float
) -> None:
    """How far the last logits move when frames change places: of the recorded prompt that moves as far."""
    known = {name: value for name, value in recorded.items() if name in CHANGES}
    for name in recorded.keys() - known.keys():
        sheet.skip(name, "the change itself was not recorded")
    if not known:
        return
    every = moved(folder, model, weights, known, level)
    # By the median, for one value that is wrong must not hide the prompt that it belongs to.
    tried = [(median_low([abs(ours[name] - value) for name, value in known.items()]), ours) for ours in every]
    nearest = min(tried, key=lambda pair: pair[0], default=None)
    for name, value in known.items():
        if nearest is None or nearest[0] > 1e-3:
            sheet.skip(name, "no prompt of this folder gives the recorded changes")
        else:
            sheet.number(f"change of the logits by {name}", abs(nearest[1][name] - value), level=f"{level:g}")


def moved(
    folder: Folder, model: VisionLM, weights: str, names: Mapping[str, float], level: float
) -> Iterator[dict[str, float]]:
    """The same changes on each recorded prompt."""
    for _, ids, (visual,) in prompts(folder, model, weights):
        if len(visual.pixels["video"]) < 2 * chunk_of(model):
            continue
        still = asked(model, ids, [visual])[0, -1]
        changes = {}
        for name in names:
            stream, order = CHANGES[name]
            there = visual.pixels[stream]
            changed = {**visual.pixels, stream: there[order(len(there), chunk_of(model))]}
            changes[name] = largest(asked(model, ids, [Visual(changed, visual.placeholders)])[0, -1] - still)
        yield changes


def compare_attention(folder: Folder, model: VisionLM, sheet: Sheet, weights: str) -> None:
    """The plain computation of attention and the fast one agree."""
    for _, ids, visuals in prompts(folder, model, weights):
        with encoded_once(model, visuals):
            fast = asked(model, ids, visuals)
            model.llm.set_attn_implementation("eager")
            plain = asked(model, ids, visuals)
            model.llm.set_attn_implementation("sdpa")
        sheet.close("logits, eager attention against sdpa", plain, fast)
        return
    sheet.skip("logits, eager attention against sdpa", "no prompt of this folder has these weights")
