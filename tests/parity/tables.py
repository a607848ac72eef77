"""Recorded tables: conversations, prompts, verdicts, frame indices, pooled sides, mixtures, the token-aware rule."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.statistics.subset import needs_tokens
from eval.tasks.mvbench import load_benchmark
from eval.tasks.options import reference_verdict
from eval.tasks.task import Example
from videogpt_plus.clips.video import folder_indices, sample_indices
from videogpt_plus.config.experiments import QWEN_1_5B, at_level
from videogpt_plus.config.mixtures import MIXTURES
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.reducers import pooled_side
from videogpt_plus.text.chat import encode_conversation, encode_prompt, known_templates
from videogpt_plus.training.data import collate
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError

from .cases import counts_of
from .folder import Folder
from .rows import Sheet

#: The reference's names of templates -> ours.
TEMPLATE_NAMES = {"qwen2_cap": "qwen2", "qwen2": "qwen2", "plain": "plain"}


def text(folder: Folder, sheet: Sheet, table: dict[str, Any]) -> None:
    """Conversations to ids and labels, by every template that both have; templates that we have not are refused."""
    tokenizer = folder.tokenizer
    refused = set()
    for name, recorded in table.items():
        if name.startswith("_collate"):
            compare_collated(sheet, tokenizer, name, recorded, table)
            continue
        for key, value in recorded.items():
            found = re.search(r"preprocess(?:_(\w+))?\((?:default_conversation=)?(\w+)", key)
            if not found or "fallthrough" in key:
                continue
            template = TEMPLATE_NAMES.get(found[2])
            if template:
                total = frames_of(recorded)
                compare_conversation(sheet, tokenizer, name, template, recorded["conversation"], value, total)
            else:
                refused.add(found[2])
    compare_refusals(sheet, tokenizer, refused)


def frames_of(recorded: dict[str, Any]) -> int:
    """Placeholders in a conversation's recorded ids: the most of any template, for one may have failed."""
    results = [value.get("result") for value in recorded.values() if isinstance(value, dict)]
    rows = [r["input_ids"][0] for r in results if isinstance(r, dict) and "input_ids" in r]
    return max((row.count(PLACEHOLDER) for row in rows), default=0)


def compare_conversation(
    sheet: Sheet, tokenizer, name: str, template: str, turns: Sequence[dict[str, str]], recorded: dict, total: int
) -> None:
    try:
        ids, labels = encode_conversation(tokenizer, turns, counts_of(turns, total), template)
    except UserError:
        ids, labels = None, None
    quantity = f"{name}, {template}: "
    if "error" in recorded:
        expected = right_of_failed(tokenizer, turns, total, template)
        sheet.exact(f"{quantity}ids and labels (the reference raises)", [ids, labels], expected)
        return
    theirs, marked = recorded["result"]["input_ids"][0], recorded["result"]["labels"][0]
    shown = [turn["value"] for turn in turns if template != "plain" or turn["from"] == "gpt"]
    special = any(token in value for value in shown for token in tokenizer.all_special_tokens)
    if special:
        own, other = (decoded(tokenizer, row) for row in (ids, closed(tokenizer, theirs)))
        sheet.exact(f"{quantity}text (a special token that people write is text to us)", own, other)
    elif template == "qwen2" and not all(turn["value"] for turn in turns if turn["from"] == "gpt"):
        expected = closed(tokenizer, theirs)
        sheet.exact(f"{quantity}ids, an empty answer closed (the reference leaves it open)", ids, expected)
    else:
        sheet.exact(f"{quantity}ids", ids, theirs)
    if special or (all(label == IGNORE for label in marked) and any(turn["from"] == "gpt" for turn in turns)):
        expected = answers_marked(tokenizer, ids, template)
        sheet.exact(f"{quantity}labels: every answer (the reference masks all)", labels, expected)
    else:
        sheet.exact(f"{quantity}labels", labels, marked)


def decoded(tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode([token for token in ids if token != PLACEHOLDER])


def header_of_answers(tokenizer) -> list[int]:
    return [
        tokenizer.convert_tokens_to_ids("<|im_start|>"),
        *tokenizer("assistant\n", add_special_tokens=False).input_ids,
    ]


def closed(tokenizer, ids: Sequence[int]) -> list[int]:
    """Ids with the end of turn behind each empty answer, where the reference writes none."""
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    header, whole = header_of_answers(tokenizer), []
    for i, token in enumerate(ids):
        whole.append(token)
        if whole[-len(header) :] == header and (i + 1 == len(ids) or ids[i + 1] == start):
            whole.append(end)
    return whole


def right_of_failed(tokenizer, turns: Sequence[dict[str, str]], total: int, template: str) -> list[Any]:
    """What a conversation gives on which the reference raises: placeholders and caption, or a refusal."""
    while turns and turns[0]["from"] == "gpt":
        turns = turns[1:]
    if template != "plain" or [turn["from"] for turn in turns] != ["human", "gpt"]:
        return [None, None]
    caption = tokenizer(f"{turns[1]['value']}\n", add_special_tokens=False).input_ids
    return [[PLACEHOLDER] * total + caption, [IGNORE] * total + caption]


def answers_marked(tokenizer, ids: Sequence[int], template: str) -> list[int]:
    """Labels that supervise each assistant turn with its end, and nothing else; of `plain`, the caption."""
    if template == "plain":
        return [IGNORE if token == PLACEHOLDER else token for token in ids]
    end, header = tokenizer.convert_tokens_to_ids("<|im_end|>"), header_of_answers(tokenizer)
    labels, inside = [], False
    for i, token in enumerate(ids):
        inside = inside or ids[max(0, i - len(header)) : i] == header
        labels.append(token if inside else IGNORE)
        inside = inside and token != end
    return labels


def compare_collated(sheet: Sheet, tokenizer, name: str, recorded: dict[str, Any], table: dict[str, Any]) -> None:
    members = re.fullmatch(r"_collate\((.*)\)", name)[1].split(",")
    samples = []
    for row, member in zip(recorded["input_ids"], members, strict=True):
        turns = table[member.strip()]["conversation"]
        counts = counts_of(turns, row.count(PLACEHOLDER))
        ids, labels = encode_conversation(tokenizer, turns, counts, "qwen2")
        samples.append({"input_ids": ids, "labels": labels, "visuals": []})
    batch = collate(samples, tokenizer.pad_token_id)
    for key, value in recorded.items():
        sheet.exact(f"batch of {len(members)}: {key}", batch[key], value)


def compare_refusals(sheet: Sheet, tokenizer, names: set[str]) -> None:
    """A template that is not offered is refused; the reference takes another one in silence."""
    for name in sorted(names - known_templates().keys()):
        try:
            encode_prompt(tokenizer, "?", [], name)
            said = "taken"
        except UserError:
            said = "refused"
        sheet.exact(f"template '{name}' (not offered: the reference falls back in silence)", said, "refused")


def prompts(folder: Folder, sheet: Sheet, table: list[dict[str, Any]]) -> None:
    """The benchmark's questions: wording, right answer, ids."""
    tokenizer, refused = folder.tokenizer, set()
    for i, entry in enumerate(table):
        data, frames = entry["data"], entry["slice_len"]
        where = f"entry {i}, {frames} frames: "
        if data["answer"] in data["candidates"]:
            example = Example("", Path(), "", data["question"], tuple(data["candidates"]), data["answer"])
            sheet.exact(f"{where}question", example.prompt, entry["Q"])
            sheet.exact(f"{where}right answer", example.reference, entry["A"])
        else:
            said = loads_as_benchmark(data)
            sheet.exact(f"{where}no candidate is the answer (the reference asks it)", said, "refused")
        for name, recorded in entry["prompts"].items():
            template = TEMPLATE_NAMES.get(name)
            if template and recorded.get("error"):
                sheet.skip(f"{where}prompt ids ({name})", f"the reference raised {recorded['error']}")
            elif template == "qwen2":
                ours = encode_prompt(tokenizer, entry["Q"], [frames], template)
                sheet.exact(f"{where}prompt ids", ours, recorded["input_ids"])
            elif template == "plain":
                ours = encode_prompt(tokenizer, entry["Q"], [frames], template)
                sheet.exact(f"{where}prompt ids of 'plain', which drops the question", ours, [PLACEHOLDER] * frames)
            else:
                refused.add(name)
    compare_refusals(sheet, tokenizer, refused)


def loads_as_benchmark(data: dict[str, Any]) -> str:
    """Whether a benchmark with this one question is "read" or "refused"."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "json").mkdir()
        (Path(root) / "json" / "task.json").write_text(json.dumps([{"video": "clip.mp4", **data}]))
        (Path(root) / "tasks.json").write_text(json.dumps({"task": {"folder": "video"}}))
        try:
            load_benchmark(root)
        except UserError:
            return "refused"
        return "read"


def verdicts(folder: Folder, sheet: Sheet, table: list[dict[str, Any]]) -> None:
    """The reference's own verdict on replies, kept as a second column; None where it raises."""
    ours = [reference_verdict(entry["pred"], entry["gt"]) for entry in table]
    sheet.exact(f"the reference's verdict on {len(table)} replies", ours, [entry["verdict"] for entry in table])


def sampling(folder: Folder, sheet: Sheet, table: dict[str, list[dict[str, Any]]]) -> None:
    """Frame indices for every recorded length and rate, of files and of folders of frames."""
    trained = [[], []]
    for entry in table.get("raw_video", []):
        total, fps, bounds = entry["n_frames"], entry["fps"], (entry["start"], entry["end"])
        quantity = f"frames of {total} at {fps:g} a second{bounded(*bounds)}"
        recorded = entry["eval"]
        if isinstance(recorded, str):
            expected = right_frames(total, fps, *bounds)
            sheet.exact(f"{quantity} (the reference raises)", sample_indices(total, fps, 16, *bounds), expected)
            continue
        compare_frames(sheet, quantity, sample_indices(total, fps, len(recorded["video"]), *bounds), recorded)
        train = entry.get("train")
        if isinstance(train, dict) and "zero" not in train["video"]:
            trained[0].append(sample_indices(total, fps, len(train["video"]), *bounds))
            trained[1].append(train["video"])
    if trained[1]:
        sheet.exact("frames in training are evaluation's, where the reference pads no zero frames", *trained)
    for key, entries in table.items():
        if rate := re.fullmatch(r"frame_folder_(\d+)fps", key):
            for entry in entries:
                compare_folder(sheet, entry, int(rate[1]))


def compare_folder(sheet: Sheet, entry: dict[str, Any], fps: int) -> None:
    total, bounds, recorded = entry["n_files"], (entry["start"], entry["end"]), entry["result"]
    quantity = f"frames of a folder of {total} at {fps} a second{bounded(*bounds)}"
    if isinstance(recorded, str):
        ours = folder_indices(total, 16, *bounds, fps)
        first, last = (
            int((bounds[0] or 0) * fps),
            total - 1 if bounds[1] is None else min(int(bounds[1] * fps), total - 1),
        )
        sheet.exact(f"{quantity} (the reference raises)", ours, list(range(first, last + 1, fps))[:16])
    else:
        compare_frames(sheet, quantity, folder_indices(total, len(recorded["video"]), *bounds, fps), recorded)


def compare_frames(sheet: Sheet, quantity: str, ours: list[int], recorded: dict[str, Any]) -> None:
    """Both streams' real frames: the reference's zero frames behind them are not ours."""
    streams = [[i for i in recorded[stream] if i != "zero"] for stream in ("video", "context")]
    sheet.exact(quantity, [ours, ours, len(ours)], [*streams, recorded.get("slice_len", len(ours))])


def right_frames(total: int, fps: float, start: float | None, end: float | None) -> list[int]:
    """Where the reference raises: all frames between the bounds, evenly cut to 16; none where there are none."""
    first, last = 0, total - 1
    if start is not None or end is not None:
        begin, stop = sorted(max(0, int(bound)) for bound in (start or 0, total / fps + 1 if end is None else end))
        first, last = int(begin * fps), int(min(max(stop, begin + 1) * fps, last))
    there = list(range(first, last + 1))
    return there if len(there) <= 16 else [there[i] for i in np.linspace(0, len(there) - 1, 16).astype(int)]


def bounded(start: float | None, end: float | None) -> str:
    return "" if start is None and end is None else f", {start} to {end} s"


def pooled_shapes(folder: Folder, sheet: Sheet, table: list[dict[str, Any]]) -> None:
    """Pooled sides and token counts of the full-size streams."""
    grids = {name: stream.grid for name, stream in QWEN_1_5B.branches}
    frames = QWEN_1_5B.num_frames
    for entry in table:
        level = entry["pool_level"]
        sides = {name: pooled_side(grid, level) for name, grid in grids.items()}
        ours = {name: side for name, side in sides.items()}
        ours |= {f"tokens_{name}": frames * side**2 for name, side in sides.items()}
        ours["total"] = num_visual_tokens(at_level(QWEN_1_5B, level), frames)
        sheet.exact(
            "pooled sides and tokens",
            [ours[key] for key in entry if key in ours],
            [entry[key] for key in entry if key in ours],
            f"{level:g}",
        )


def mixtures(folder: Folder, sheet: Sheet, table: dict[str, list[dict[str, str]]]) -> None:
    """Annotation files and media folders of each mixture, in order."""
    for name, entries in table.items():
        recorded = [[entry["annotation_path"], entry["data_path"]] for entry in entries]
        sheet.exact(f"mixture {name}", MIXTURES.get(name), recorded)


def token_aware(folder: Folder, sheet: Sheet, table: list[dict[str, Any]]) -> None:
    """Which questions need visual tokens, by their results from the finest level to the coarsest."""
    ours = [needs_tokens([bool(right) for right in entry["correct"]]) for entry in table]
    sheet.exact(f"the token-aware rule on {len(table)} outcomes", ours, [entry["selected"] for entry in table])
