"""Recorded cases that need a model: what one video gives at every level, training, pre-training, LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.lora import TARGETS
from videogpt_plus.text.chat import MARKER, encode_conversation, encode_prompt
from videogpt_plus.types import IGNORE, Visual

from .folder import Folder
from .models import (
    encoded_once,
    named_projectors,
    own_visuals,
    pixels,
    placeholders,
    set_level,
    visuals_of_the_reference,
)
from .rows import GRADIENT_TOLERANCE, Sheet

#: A greedy step whose best logit leads by less is a tie; what follows it may be another answer.
TIE = 1e-3


def inference(folder: Folder, sheet: Sheet) -> None:
    """A prompt and its videos at every recorded level: features, tokens, embeddings, logits, greedy answers."""
    model = folder.model(folder.weights_of(sheet.meta))
    ids = sheet["input_ids"]
    counts, chunk = placeholders(ids), chunk_of(model)
    shown = [pixels(frame) for frame in sheet.meta["frames"]]
    visuals = visuals_of_the_reference(shown, counts, chunk)
    compare_prompt(model, sheet, ids)
    compare_features(model, sheet, [Visual(p, 0) for p in shown])
    with encoded_once(model, visuals) as grids:
        for level, expected in levels(sheet):
            set_level(model, float(level))
            compare_answers(model, sheet, level, expected, ids, visuals, grids)


def compare_prompt(model: VisionLM, sheet: Sheet, ids: Tensor) -> None:
    """The ids of a recorded prompt, put together again from the question in it."""
    text = sheet.meta.get("prompt")
    found = re.search(r"(?:<image>)+\n(.*)<\|im_end\|><\|im_start\|>assistant\n\Z", text or "", re.DOTALL)
    if found:
        ours = encode_prompt(model.tokenizer, found[1], [text.count("<image>")], "qwen2")
        sheet.exact("prompt ids", [ours] * len(ids), ids)
    elif text:
        sheet.skip("prompt ids", "the prompt is not one of the template 'qwen2'")


def compare_features(model: VisionLM, sheet: Sheet, whole: Sequence[Visual]) -> None:
    """Both encoders' features of all frames, those too that stand for no placeholder."""
    grids = model.encode(whole)
    if "image" in model.encoders:
        images = torch.stack([grid["image"].flatten(1, 2) for grid in grids])
        sheet.tensor("encoder features, image", "context_features", images)
    if "video" in model.encoders:
        chunk = chunk_of(model)
        chunks = torch.cat([grid["video"].unflatten(0, (-1, chunk)).flatten(1, 3) for grid in grids])
        sheet.tensor("encoder features, video", "video_features", chunks)


def compare_answers(
    model: VisionLM,
    sheet: Sheet,
    level: str,
    expected: dict[str, Any],
    ids: Tensor,
    visuals: Sequence[Visual],
    grids: Sequence[dict[str, Tensor]],
) -> None:
    forced, sequences = recorded_tokens(expected)
    with torch.inference_mode():
        tokens = torch.stack(model.tokens_of(grids))
        longer = torch.cat([ids, torch.tensor(forced)[:, :-1]], dim=1) if forced else ids
        nothing = torch.full_like(longer, IGNORE)
        merged = model.merge(longer, torch.ones_like(longer, dtype=torch.bool), nothing, [[v] for v in visuals])
        logits = model(longer, torch.ones_like(longer), nothing, [[v] for v in visuals]).logits
    length = merged.inputs_embeds.shape[1] - (longer.shape[1] - ids.shape[1])
    compare_facts(
        sheet,
        "lengths and mask after merging",
        level,
        expected,
        n_visual_tokens=tokens.shape[1],
        merged_len=length,
        attention_mask_len=length,
        attention_mask_all_ones=bool(merged.attention_mask.all()),
    )
    prefix = f"p{level}."
    sheet.tensor("merged visual tokens", f"{prefix}merged", tokens, level)
    sheet.tensor("inputs_embeds", f"{prefix}inputs_embeds", merged.inputs_embeds[:, :length], level)
    width = (sheet.meta.get(f"{prefix}logits") or {}).get("shape", [logits.shape[-1]])[-1]
    logits = logits[..., :width]  # after LoRA the reference has as many as its tokenizer
    sheet.tensor("logits", f"{prefix}logits", logits[:, :length], level)
    last = logits[:, length - 1]
    sheet.tensor("logits of the last position", f"{prefix}logits_last", last.squeeze(0), level)
    if not forced:
        return
    steps = logits[:, length - 1 :]
    if f"{prefix}gen_scores_probe" in sheet.tensors:
        columns = sheet.tensors[f"{prefix}gen_scores_probe"].shape[-1]
        sheet.tensor("scores of greedy steps", f"{prefix}gen_scores_probe", steps[..., :columns].squeeze(0), level)
    sure = sure_steps(expected, steps)
    compare_tokens(model, sheet, level, sequences, steps, sure, ids, visuals)
    if "argmax_last" in expected and sure[0]:
        sheet.exact("best token of the last position", last.argmax(-1)[0], torch.tensor(expected["argmax_last"]), level)


def recorded_tokens(expected: dict[str, Any]) -> tuple[list[list[int]], dict[str, list[list[int]]]]:
    """The longest recorded greedy answer of each sample, and all of them by key, `generate8_eos` and so on."""
    every = {}
    for key, value in expected.items():
        if re.fullmatch(r"generate\d+(_no_eos|_eos)?", key):
            every[key] = value if value and isinstance(value[0], list) else [value]
    longest = max(every.values(), key=lambda rows: len(rows[0]), default=[])
    # Answers of unequal lengths cannot be followed in one batch.
    return (longest if len({len(row) for row in longest}) == 1 else []), every


def sure_steps(expected: dict[str, Any], steps: Tensor) -> list[int]:
    """How many steps of each sample come before its first tie."""
    recorded = expected.get("top1_margin")
    if recorded is None:
        best = steps.topk(2).values
        margins = (best[..., 0] - best[..., 1]).tolist()
    else:
        margins = recorded if isinstance(recorded[0], list) else [recorded]
    return [next((i for i, margin in enumerate(row) if margin < TIE), len(row)) for row in margins]


def compare_tokens(
    model: VisionLM,
    sheet: Sheet,
    level: str,
    sequences: dict[str, list[list[int]]],
    steps: Tensor,
    sure: list[int],
    ids: Tensor,
    visuals: Sequence[Visual],
) -> None:
    """Answers token by token, as far as the recording decides them.

    Where nothing ends an answer each step follows the recorded ones, which comes to the same as answering freely.
    """
    for key, recorded in sequences.items():
        if key.endswith("_no_eos"):
            quantity, ours = "greedy tokens without EOS", steps.argmax(-1).tolist()
        else:
            length = int(re.search(r"\d+", key)[0])
            quantity, ours = "greedy tokens with EOS", model.generate_ids(ids.tolist(), [[v] for v in visuals], length)
        sheet.exact(quantity, cut(ours, sure), cut(recorded, sure), level)


def cut(rows: Sequence[Sequence[int]], lengths: list[int]) -> list[Sequence[int]]:
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def training(folder: Folder, sheet: Sheet) -> None:
    """A batch of conversations at every recorded level: labels and mask, logits, loss, gradients."""
    model = folder.model(folder.weights_of(sheet.meta))
    ids, labels, mask = compare_text(model, sheet, "qwen2")
    counts, chunk = placeholders(ids), chunk_of(model)
    shown = [pixels(frame) for frame in sheet.meta["frames"]]
    seen = visuals_of_the_reference(shown, [c for c in counts if c], chunk)
    own = own_visuals(shown, [c for c in counts if c], chunk)
    defect = any(
        not torch.equal(a.pixels["video"], b.pixels["video"])
        for a, b in zip(seen, own, strict=True)
        if "video" in a.pixels
    )
    said = ", fed the chunks that the reference reads" if defect else ""
    with encoded_once(model, seen) as grids:
        for level, expected in levels(sheet):
            set_level(model, float(level))
            compare_training(model, sheet, level, expected, said, (ids, mask, labels, by_sample(seen, counts)), grids)
    if defect:
        with encoded_once(model, own):
            for level, _ in levels(sheet):
                set_level(model, float(level))
                compare_with_alone(model, sheet, level, ids, mask, labels, by_sample(own, counts))


def by_sample(visuals: Sequence[Visual], counts: Sequence[int]) -> list[list[Visual]]:
    """The visuals of each sample; one without placeholders has none."""
    rest = iter(visuals)
    return [[next(rest)] if count else [] for count in counts]


def compare_text(model: VisionLM, sheet: Sheet, template: str) -> tuple[Tensor, Tensor, Tensor]:
    """Recorded ids, labels and mask of a batch, our own for its conversations being compared with them."""
    recorded, labels, mask = sheet["input_ids"], sheet["labels"], sheet["attention_mask"].bool()
    rows = [
        encode_conversation(model.tokenizer, turns, counts_of(turns, count), template)
        for turns, count in zip(sheet.meta["conversations"], placeholders(recorded), strict=True)
    ]
    ours = [pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True) for i in (0, 1)]
    lengths = [len(row[0]) for row in rows]
    sheet.exact("lengths of the text", lengths, mask.sum(1))
    for quantity, own, theirs in (("ids", ours[0], recorded), ("labels", ours[1], labels)):
        sheet.exact(
            quantity,
            [r[:n] for r, n in zip(own.tolist(), lengths, strict=True)],
            [r[m].tolist() for r, m in zip(theirs, mask, strict=True)],
        )
    return recorded, labels, mask


def counts_of(turns: Sequence[dict[str, str]], total: int) -> list[int]:
    """Placeholders of each marker where a conversation has `total`: one an image, the rest shared by the videos."""
    markers = [marker for turn in turns if turn["from"] == "human" for marker in MARKER.findall(turn["value"])]
    videos, images = markers.count("<video>"), markers.count("<image>")
    left = iter([1] * min(images, total) + [0] * images)
    share = (total - min(images, total)) // videos if videos else 0
    return [share if marker == "<video>" else next(left) for marker in markers]


def compare_training(
    model: VisionLM,
    sheet: Sheet,
    level: str,
    expected: dict[str, Any],
    said: str,
    batch: tuple[Tensor, Tensor, Tensor, list[list[Visual]]],
    grids: Sequence[dict[str, Tensor]],
) -> None:
    prefix = f"p{level}."
    norms = expected.get("grad_norms", {})
    gradients = {
        found[1]
        for key in sheet.tensors
        if (found := re.fullmatch(rf"{re.escape(prefix)}grad\.(.*?)(\.(first|probe)\d+)?", key))
    }
    wanted = {name: parameter_of(model, name) for name in sorted(gradients | norms.keys())}
    frozen = [parameter for parameter in wanted.values() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    with torch.set_grad_enabled(bool(wanted)):
        tokens = model.tokens_of(grids)
        merged = model.merge(*batch)
        out = model(*batch)
    for i, part in enumerate(tokens):
        sheet.tensor(f"merged visual tokens{said}, sample {i}", f"{prefix}merged{i}", part[None], level)
    supervised = (merged.labels != IGNORE).nonzero()
    attended = merged.attention_mask
    compare_facts(
        sheet,
        "labels after merging",
        level,
        expected,
        n_supervised=len(supervised),
        labels_supervised=[[column, merged.labels[row, column].item()] for row, column in supervised.tolist()],
    )
    compare_facts(
        sheet,
        "lengths and mask after merging",
        level,
        expected,
        merged_len=merged.labels.shape[1],
        n_visual_tokens=[len(part) for part in tokens],
        mask_true_per_row=attended.sum(1).tolist(),
        mask_false_positions=[(~row).nonzero().flatten().tolist() for row in attended],
    )
    # At padding the recorded embeddings are the pad token's, ours are zero: nothing attends to either.
    sheet.tensor(f"inputs_embeds{said}", f"{prefix}inputs_embeds", merged.inputs_embeds, level, attended)
    sheet.tensor(f"logits{said}", f"{prefix}logits", out.logits, level, attended)
    if f"{prefix}sup_rows" in sheet.tensors:
        rows, columns = sheet[f"{prefix}sup_rows"].long().T
        predicting = torch.stack([supervised[:, 0], supervised[:, 1] - 1], dim=1)
        sheet.exact("positions of the supervised logits", predicting, torch.stack([rows, columns], dim=1), level)
        stored = next(key for key in sheet.tensors if key.startswith(f"{prefix}sup_logits"))
        width = sheet.tensors[stored].shape[-1]
        sheet.tensor(f"supervised logits{said}", stored, out.logits[rows, columns][:, :width], level)
    sheet.number(f"loss{said}", abs(out.loss.item() - expected["loss"]), level=level)
    if wanted:
        model.zero_grad()
        out.loss.backward()
        compare_gradients(model, sheet, level, prefix, norms, wanted)
    for parameter in frozen:
        parameter.requires_grad_(False)
    if "vision_tower_grads" in expected:
        taught = any(p.requires_grad or p.grad is not None for p in model.encoders.parameters())
        sheet.exact("encoders get gradients", taught, expected["vision_tower_grads"], level)


def compare_gradients(
    model: VisionLM,
    sheet: Sheet,
    level: str,
    prefix: str,
    norms: dict[str, float],
    wanted: dict[str, torch.nn.Parameter],
) -> None:
    for name, parameter in wanted.items():
        quantity = f"gradient of {name.removeprefix('model.')}"
        sheet.tensor(quantity, f"{prefix}grad.{name}", parameter.grad, level, gradient=True)
    for name, norm in norms.items():
        difference = abs(wanted[name].grad.norm().item() - norm)
        sheet.number(f"gradient norm of {name.removeprefix('model.')}", difference, GRADIENT_TOLERANCE * norm, level)
    model.zero_grad()


def parameter_of(model: VisionLM, name: str) -> torch.nn.Parameter:
    """A parameter by its name in the reference: a projector's, or one of the LLM."""
    projectors, own = named_projectors(model), name.removeprefix("model.")
    return projectors[own] if own in projectors else model.llm.get_parameter(name)


def compare_with_alone(
    model: VisionLM,
    sheet: Sheet,
    level: str,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    visuals: list[list[Visual]],
) -> None:
    """Each sample of a ragged batch has the result that it has alone: the recorded batch mixes the videos."""
    said = "as alone (the reference reads another video's chunks)"
    with torch.inference_mode():
        merged, out = model.merge(ids, mask, labels, visuals), model(ids, mask, labels, visuals)
        losses, weights = [], []
        for i, row in enumerate(mask):
            one = (ids[i : i + 1, row], mask[i : i + 1, row], labels[i : i + 1, row], visuals[i : i + 1])
            alone, result = model.merge(*one), model(*one)
            s = alone.labels.shape[1]
            sheet.close(
                f"inputs_embeds of sample {i} {said}", merged.inputs_embeds[i, :s], alone.inputs_embeds[0], level
            )
            sheet.close(f"logits of sample {i} {said}", out.logits[i, :s], result.logits[0], level)
            losses.append(result.loss.item())
            weights.append((alone.labels[:, 1:] != IGNORE).sum().item())
    loss = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    sheet.number(f"loss, of samples {said}", abs(out.loss.item() - loss), level=level)


def pretraining(folder: Folder, sheet: Sheet) -> None:
    """A projector alone behind its encoder, the `plain` template, level 1: everything up to its gradients."""
    model = folder.model(folder.weights_of(sheet.meta))
    set_level(model, 1)
    ids, labels, mask = compare_text(model, sheet, "plain")
    (stream,) = model.encoders
    visuals = [Visual(pixels(f), count) for f, count in zip(sheet.meta["frames"], placeholders(ids), strict=True)]
    batch = (ids, mask, labels, [[visual] for visual in visuals])
    with encoded_once(model, visuals) as grids:
        features = torch.stack([grid[stream] for grid in grids]).flatten(1, 3)
        sheet.tensor(f"encoder features, {stream}", "encoder_features", features)
        for i, tokens in enumerate(model.tokens_of(grids)):
            sheet.tensor(f"merged visual tokens, sample {i}", f"projected{i}", tokens[None])
        merged, out = model.merge(*batch), model(*batch)
    attended = merged.attention_mask
    sheet.exact("labels after merging", merged.labels, sheet["merged_labels"])
    sheet.exact("mask after merging", attended, sheet["merged_mask"].bool())
    sheet.tensor("inputs_embeds", "inputs_embeds", merged.inputs_embeds, attended=attended)
    sheet.tensor("logits", "logits", out.logits, attended=attended)
    rows, columns = (merged.labels != IGNORE).nonzero().T
    for stored in sorted(key for key in sheet.tensors if key.startswith("logits_sup")):
        width = sheet.tensors[stored].shape[-1]
        sheet.tensor("supervised logits", stored, out.logits[rows, columns - 1][:, :width])
    sheet.number("loss", abs(out.loss.item() - sheet.meta["loss"]))
    model.zero_grad()
    out.loss.backward()
    for name, parameter in named_projectors(model).items():
        sheet.tensor(f"gradient of {name}", f"grad.{name}", parameter.grad, gradient=True)
    if "mm_projector_bin_keys" in sheet.meta:
        ours = {f"model.{key}": list(value.shape) for key, value in model.projector_state().items()}
        sheet.exact(
            "names and shapes in mm_projector.bin",
            sorted(ours.items()),
            sorted(sheet.meta["mm_projector_bin_keys"].items()),
        )


def lora(folder: Folder, sheet: Sheet) -> None:
    """A checkpoint as the reference's fine-tuning writes it, loaded and merged."""
    model = folder.model(folder.weights_of(sheet.meta), folder.checkpoint_of(sheet.case, sheet.meta))
    ids = sheet["input_ids"]
    visuals = visuals_of_the_reference([pixels(f) for f in sheet.meta["frames"]], placeholders(ids), chunk_of(model))
    compare_prompt(model, sheet, ids)
    with encoded_once(model, visuals) as grids:
        for level, expected in levels(sheet):
            set_level(model, float(level))
            compare_answers(model, sheet, level, expected, ids, visuals, grids)
    if "find_all_linear_names" in sheet.meta:
        sheet.exact("modules with LoRA", sorted(TARGETS), sorted(sheet.meta["find_all_linear_names"]))
    if "non_lora_trainables" in sheet.meta:
        ours = {f"base_model.model.model.{k}": list(v.shape) for k, v in model.projector_state().items()}
        recorded = {key: shape for key, (shape, _) in sheet.meta["non_lora_trainables"].items()}
        sheet.exact("names and shapes in non_lora_trainables.bin", sorted(ours.items()), sorted(recorded.items()))


def compare_facts(sheet: Sheet, quantity: str, level: str, expected: dict[str, Any], **ours: Any) -> None:
    """One row for those of these facts that were recorded."""
    recorded = {key: expected[key] for key in ours if key in expected}
    if recorded:
        sheet.exact(quantity, [ours[key] for key in recorded], list(recorded.values()), level)


def levels(sheet: Sheet) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from sheet.meta["pools"].items()


def chunk_of(model: VisionLM) -> int:
    """Frames a chunk of the video stream."""
    return model.encoders["video"].tower.chunk
