"""Recordings of LLaVA-1.5: `config.json`, the same weights in three spellings, two pictures, and cases beside them.

Each spelling is laid out as its publisher lays it out, the original's with the CLIP beside it that its config names,
and loaded by the family's own loader. Prompts come as text and go through our templates as turns.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiment import Branch, Experiment, Sampling
from videogpt_plus.config.experiments import LLAVA15_7B
from videogpt_plus.families.llava15.chat import written_with
from videogpt_plus.families.llava15.encoder import canonical
from videogpt_plus.families.llava15.model import Llava
from videogpt_plus.models.generation import Reading, _Batch, generate
from videogpt_plus.models.loading import load_model
from videogpt_plus.text import chat
from videogpt_plus.text.splice import VisualTokens
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

from . import cogvlm2
from .cogvlm2 import LOSS, PIXELS, TIE
from .rows import Sheet

#: Largest absolute difference of features and logits.
TOLERANCE = cogvlm2.TOLERANCE

#: Spelling -> its file of weights and its folder of a tokenizer.
SPELLINGS = {
    "original": ("weights_original.safetensors", "tokenizer_original"),
    "hub": ("weights_hf_legacy.safetensors", "tokenizer_hf"),
    "hub5": ("weights_hf_v5_saved.safetensors", "tokenizer_hf"),
}
#: The CLIP that an original release names, by its folder's name.
CLIP = "clip-vit-recorded"
#: What writes ids -> whether a space begins behind a visual, and behind the end of an answer.
WRITERS = {"original": (True, False), "hub": (True, True), "nonlegacy": (False, False)}


def is_family(root: Path) -> bool:
    """Whether a folder holds recordings of LLaVA-1.5."""
    return (root / "config.json").is_file() and all((root / file).is_file() for file, _ in SPELLINGS.values())


class Recordings:
    """A folder of recordings, and the models of its weights."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work = root, work
        self.config = json.loads((root / "config.json").read_text())
        self.models: dict[str, Llava] = {}

    def folder(self, spelling: str) -> Path:
        """The weights laid out as published."""
        folder = self.work / self.root.name / spelling
        if folder.is_dir():
            return folder
        weights, tokenizer = SPELLINGS[spelling]
        shutil.copytree(self.root / tokenizer, folder)
        shutil.copyfile(self.root / weights, folder / "model.safetensors")
        vision = {"model_type": "clip_vision_model", **self.config["vision"]}
        if spelling == "original":
            config = {
                "architectures": ["LlavaLlamaForCausalLM"],
                "model_type": "llava",
                "mm_vision_tower": f"openai/{CLIP}",
                "mm_vision_select_layer": self.config["vision_feature_layer"],
                "mm_projector_type": "mlp2x_gelu",
                "image_aspect_ratio": "pad",
                "vocab_size": self.config["base_vocab"],
                **self.config["text"],
            }
            (folder.parent / CLIP).mkdir()
            (folder.parent / CLIP / "config.json").write_text(json.dumps(vision))
        else:
            config = {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "image_token_index": self.config["image_token"],
                "pad_token_id": self.config["pad_token"],
                "vision_feature_layer": self.config["vision_feature_layer"],
                "vision_feature_select_strategy": "default",
                "text_config": {
                    "model_type": "llama",
                    "vocab_size": self.config["padded_vocab"],
                    **self.config["text"],
                },
                "vision_config": vision,
            }
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def experiment(self, spelling: str) -> Experiment:
        """`llava15_7b` at the recording's size: its tiny twin."""
        vision, folder = self.config["vision"], str(self.folder(spelling))
        side = vision["image_size"] // vision["patch_size"]
        stream = Branch("clip_llava", folder, vision["image_size"], side, vision["hidden_size"])
        return replace(LLAVA15_7B, name="llava15_tiny", llm=folder, branches=(("image", stream),))

    def model(self, spelling: str) -> Llava:
        if spelling not in self.models:
            self.models[spelling] = self.fresh(spelling)
        return self.models[spelling]

    def fresh(self, spelling: str) -> Llava:
        return load_model(self.experiment(spelling), None, "cpu", torch.float32)

    @cached_property
    def prepare(self) -> Preparation:
        return Preparation(self.experiment("hub").branches, Sampling(1, "middle"))

    def picture(self, number: int, still: str) -> Visual:
        """A recorded picture, padded to a square or cropped."""
        return self.prepare(self.root / "fixtures" / f"img{number}.png", still=still)

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = self.root / name / "tensors.safetensors"
        return json.loads((self.root / name / "meta.json").read_text()), load_file(tensors) if tensors.exists() else {}


# ------------------------------------------------------------------------------------------------ the folder
def check(recordings: Recordings, name: str, sheet: Sheet) -> None:
    if not (recordings.root / name).is_dir():
        key_names(recordings, json.loads((recordings.root / f"{name}.json").read_text()), sheet)
        return
    sheet.meta, sheet.tensors = recordings.case(name)
    if "background" in sheet.meta:
        preprocessing(recordings, sheet)
    elif "batch" in sheet.meta:
        hub(recordings, sheet)
    elif "cases" in sheet.meta:
        original(recordings, sheet)
    else:
        raise UserError(f"a case of no known kind; it holds {', '.join(sheet.meta)}")


# ------------------------------------------------------------------------------------------------ names, pixels, text
def key_names(recordings: Recordings, table: dict[str, Any], sheet: Sheet) -> None:
    """Every recorded spelling of a name is one name here, and all files hold the same tensors under them."""
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    tables["original"] = recordings.config["rename_original_to_legacy"]
    for name, pairs in tables.items():
        sheet.exact(f"names: {name}", [canonical(a) for a in pairs], [canonical(b) for b in pairs.values()])
    hub_names = sorted(map(canonical, load_file(recordings.root / SPELLINGS["hub"][0])))
    known = {part.split(".")[0] for part in hub_names}
    sheet.exact("names: parts", sorted(known), ["head", "projector", "text", "tower"])
    rows = recordings.config["base_vocab"]
    states = {s: recordings.model(s).state_dict() for s in SPELLINGS}
    for spelling, state in states.items():
        sheet.exact(f"{spelling}: every name is there", sorted(state), sorted(states["hub"]))
        wrong = [
            key
            for key, value in state.items()
            if not torch.equal(value[:rows], states["hub"][key][:rows].to(value.dtype))
        ]
        sheet.exact(f"{spelling}: tensors that differ", wrong, [])


def preprocessing(recordings: Recordings, sheet: Sheet) -> None:
    """Both ways to a square, of both pictures."""
    sheet.tolerance = PIXELS
    for name in sorted(sheet.tensors):
        still, number = re.fullmatch(r"(pad|crop)(\d+)", name).groups()
        pixels = recordings.picture(int(number), still).pixels["image"]
        sheet.tensor(f"pixels, {still}", name, pixels.reshape(sheet.tensors[name].shape))


def turns_of(prompt: str) -> tuple[str, list[dict[str, str]]]:
    """The system sentence of a prompt, or "", and its turns."""
    system, _, rest = prompt.partition("USER: ")
    turns = []
    for round_ in rest.split("</s>"):
        question, _, answer = round_.removeprefix("USER: ").partition(" ASSISTANT:")
        turns.append({"from": "human", "value": question})
        if answer:
            turns.append({"from": "gpt", "value": answer.removeprefix(" ")})
    return system, turns


def ids_of(recordings: Recordings, spelling: str, writer: str, prompt: str, pictures: int) -> list[int]:
    """Our ids of a recorded prompt, written as `writer` does: a PLACEHOLDER where a picture goes."""
    system, turns = turns_of(prompt)
    parsed = chat._parsed(turns, [1] * pictures)
    pieces = written_with(system, *WRITERS[writer]).conversation(recordings.model(spelling).tokenizer, parsed)
    return [token for piece in pieces for token in piece.ids]


def as_recorded(ids: list[int], token: int, repeat: int = 1) -> list[int]:
    return [other for i in ids for other in ([token] * repeat if i == PLACEHOLDER else [i])]


def ids(recordings: Recordings, sheet: Sheet, case: dict[str, Any]) -> None:
    """Every spelling of a prompt's ids that is recorded, by our tokenizer of the original and of the Hub's form."""
    name, prompt, pictures, image = case["name"], case["prompt"], len(case["images"]), recordings.config["image_token"]
    count = recordings.config["image_tokens"]
    legacy = case.get("original_ids_sp_legacy_true")
    recorded = {
        ("original", "original_ids", 1, PLACEHOLDER): case.get("original_ids"),
        ("hub", "original_ids_sp_legacy_true", 1, PLACEHOLDER): case.get("original_ids")
        if legacy == "same"
        else legacy,
        ("hub", "hf_fast_ids_unexpanded", 1, image): case.get("hf_fast_ids_unexpanded"),
        ("nonlegacy", "hf_fast_nonlegacy_ids_unexpanded", 1, image): case.get("hf_fast_nonlegacy_ids_unexpanded"),
        ("original", "expanded_ids", count, image): case.get("expanded_ids"),
        ("hub", "hf523_ids", count, image): case.get("hf523_ids"),
        ("hub", "unexpanded_ids", 1, image): case.get("unexpanded_ids"),
        ("hub", "raw_tokenizer_json_ids", 1, image): case.get("raw_tokenizer_json_ids"),
        ("nonlegacy", "nonlegacy_unexpanded_ids", 1, image): case.get("nonlegacy_unexpanded_ids"),
    }
    for (writer, key, repeat, token), wanted in recorded.items():
        if wanted is None:
            continue
        for spelling in ("original", "hub"):
            ours = as_recorded(ids_of(recordings, spelling, writer, prompt, pictures), token, repeat)
            sheet.exact(f"{name}: {key}, {spelling} tokenizer", ours, wanted)


# ------------------------------------------------------------------------------------------------ the model
def seen(recordings: Recordings, case: dict[str, Any]) -> list[Visual]:
    return [recordings.picture(number, "crop") for number in case["images"]]


def merged(model: Llava, rows: list[list[int]], visuals: list[list[Visual]]):
    """One row's embeddings and logits."""
    ids = torch.tensor(rows)
    given = (ids, torch.ones_like(ids).bool(), ids.clamp(min=0), visuals)
    return model.merge(*given).inputs_embeds[0], model(*given).logits[0]


@torch.no_grad()
def arithmetic(
    recordings: Recordings, spelling: str, sheet: Sheet, case: dict[str, Any], row: list[int], said: str
) -> None:
    model, visuals, name = recordings.model(spelling), seen(recordings, case), case["name"]
    columns = sheet.tensors[f"{name}.logits_last12"].shape[-1]
    embeds, logits = merged(model, [row], [visuals])
    for visual in visuals:
        (grids,) = model.encode([visual])
        tower = grids["image"].flatten(1, 2)
        sheet.tensor(f"{name}: features {said}", f"{name}.tower", tower)
        sheet.tensor(f"{name}: projected {said}", f"{name}.projected", model.projectors["image"](tower))
    shown = logits[:, :columns]
    if columns > shown.shape[1]:  # rows that stand for no token, which the original release has not
        shown = torch.nn.functional.pad(shown, (0, columns - shown.shape[1]))
    sheet.tensor(f"{name}: embeddings {said}", f"{name}.inputs_embeds_every4th", embeds[::4])
    sheet.tensor(f"{name}: last logits {said}", f"{name}.logits_last12", shown[-12:])
    sheet.tensor(f"{name}: logits {said}", f"{name}.logits_every8th", shown[::8])


def readings(model: Llava, rows: list[list[int]], visuals: list[list[Visual]]) -> list[Reading]:
    made = []
    for row, shown in zip(rows, visuals, strict=True):
        tokens = model.tokens_of(model.encode(shown)) if shown else []
        made.append(
            model._reading([row], [VisualTokens(t, v.placeholders) for t, v in zip(tokens, shown, strict=True)])
        )
    return made


@torch.inference_mode()
def answers(model: Llava, rows: list[list[int]], visuals: list[list[Visual]], count: int) -> list[list[int]]:
    """Greedy ids of a batch by the house's own generation, whatever ends come."""
    return [a.ids for (a,) in generate(model.causal, readings(model, rows, visuals), count, [], model.vocabulary)]


@torch.inference_mode()
def uncached(model: Llava, row: list[int], visuals: list[Visual], tokens: list[int]) -> list[int]:
    """What is likeliest before each of `tokens`, in one pass without a cache."""
    logits = merged(model, [[*row, *tokens]], [visuals])[1][-len(tokens) - 1 : -1]
    return logits[:, : model.vocabulary].argmax(-1).tolist()


def upto(tokens: list[int], margins: list[float]) -> list[int]:
    """The tokens before the first tie."""
    return tokens[: next((i for i, margin in enumerate(margins) if margin < TIE), len(tokens))]


def greedy(
    recordings: Recordings, spelling: str, sheet: Sheet, case: dict[str, Any], row: list[int], keys: list[str]
) -> None:
    model, visuals = recordings.model(spelling), seen(recordings, case)
    ours: dict[str, list[list[int]]] = {}
    for key in keys:
        wanted = case[key]
        sure = upto(wanted, case.get("margins") or case["original_margins"])
        if str(wanted) not in ours:
            alone = answers(model, [row], [visuals], len(wanted))[0]
            ours[str(wanted)] = [alone, uncached(model, row, visuals, wanted)]
        for said, tokens in zip(("", ", without a cache"), ours[str(wanted)], strict=True):
            sheet.exact(f"{case['name']}: {key}, {spelling} weights{said}", tokens[: len(sure)], sure)


def original(recordings: Recordings, sheet: Sheet) -> None:
    """The original code's ids, features, logits and greedy tokens, by the weights of every spelling."""
    for case in sheet.meta["cases"]:
        ids(recordings, sheet, case)
        row = ids_of(recordings, "original", "original", case["prompt"], len(case["images"]))
        for spelling in SPELLINGS:
            arithmetic(recordings, spelling, sheet, case, row, f"({spelling} weights)")
            greedy(recordings, spelling, sheet, case, row, ["original_greedy10_no_eos", "hf451_greedy10_no_eos"])
    rendered = sheet.meta["vicuna_v1_rendered"]
    sheet.exact("the conversation as text", text_of(recordings, rendered), rendered)


def text_of(recordings: Recordings, prompt: str) -> str:
    """A prompt through our template `llava_v1` and back into text."""
    tokenizer = recordings.model("original").tokenizer
    row, _ = chat.encode_conversation(tokenizer, turns_of(prompt)[1], [1], "llava_v1")
    place = row.index(PLACEHOLDER)
    return f"{tokenizer.decode(row[1:place])}<image>{tokenizer.decode(row[place + 1 :])}"


def hub(recordings: Recordings, sheet: Sheet) -> None:
    """transformers' ids, logits, greedy tokens, padded batch, loss and gradients, by the Hub's weights."""
    rows = {}
    for case in sheet.meta["cases"]:
        ids(recordings, sheet, case)
        row = rows[case["name"]] = ids_of(recordings, "hub", "hub", case["prompt"], len(case["images"]))
        whole = as_recorded(row, recordings.config["image_token"], recordings.config["image_tokens"])
        sheet.exact(f"{case['name']}: input_ids", [whole], sheet[f"{case['name']}.input_ids"])
        theirs = ids_of(recordings, "hub", "original", case["prompt"], len(case["images"]))
        for spelling in ("hub", "hub5"):
            arithmetic(recordings, spelling, sheet, case, row, f"({spelling} weights)")
            greedy(recordings, spelling, sheet, case, row, ["greedy10_no_eos"])
        key = "greedy10_on_original_ids"
        ours = answers(recordings.model("hub"), [theirs], [seen(recordings, case)], len(case[key]))[0]
        sheet.exact(f"{case['name']}: {key}", ours, case[key])
    batch(recordings, sheet, rows)
    loss(recordings, sheet, rows)


def batch(recordings: Recordings, sheet: Sheet, rows: dict[str, list[int]]) -> None:
    """All prompts at once, padded on the left."""
    meta, config, model = sheet.meta["batch"], recordings.config, recordings.model("hub")
    cases = {case["name"]: case for case in sheet.meta["cases"]}
    asked = [rows[name] for name in meta["cases"]]
    visuals = [seen(recordings, cases[name]) for name in meta["cases"]]
    whole = [as_recorded(row, config["image_token"], config["image_tokens"]) for row in asked]
    longest = max(map(len, whole))
    padded = [[config["pad_token"]] * (longest - len(row)) + row for row in whole]
    sheet.exact("batch: ids", padded, sheet["batch.input_ids"])
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in whole]
    sheet.exact("batch: mask", mask, sheet["batch.attention_mask"])
    with torch.inference_mode():
        sheet.tensor(
            "batch: last logits", "batch.logits_last", _Batch(model.causal, readings(model, asked, visuals)).logits
        )
    together = answers(model, asked, visuals, len(meta["greedy10"][0]))
    sheet.exact("batch: greedy tokens", together, meta["greedy10"])


def loss(recordings: Recordings, sheet: Sheet, rows: dict[str, list[int]]) -> None:
    """The loss of recorded labels, the projector's gradients and norms of others."""
    meta, model = sheet.meta["loss"], recordings.fresh("hub")
    case = next(case for case in sheet.meta["cases"] if case["name"] == meta["case"])
    row, labels = rows[meta["case"]], sheet["loss.labels"][0].tolist()
    place, behind = row.index(PLACEHOLDER), recordings.config["image_tokens"]
    own = torch.tensor([[*labels[:place], IGNORE, *labels[place + behind :]]])
    model.llm.requires_grad_(True)
    model.projectors.requires_grad_(True)
    told = model(torch.tensor([row]), torch.ones(1, len(row)).bool(), own, [seen(recordings, case)]).loss
    sheet.number("loss", abs(told.item() - meta["loss"]) / meta["loss"], LOSS)
    told.backward()
    gradients = {f"model.multi_modal_projector.{n}": p.grad for n, p in model.projectors["image"].named_parameters()}
    gradients |= {name: p.grad for name, p in model.causal.named_parameters()}
    for name, norm in meta["grad_norms"].items():
        sheet.number(f"norm of the gradient of {name}", abs(gradients[name].norm().item() - norm) / norm, 1e-4)
        sheet.tensor(f"gradient of {name}", f"loss.grad.{name}", gradients[name], gradient=True)
