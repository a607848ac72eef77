"""Cinego's three trainings: the language model on text, then projection, summary and last layer, then all but CLIP.

All run in the loop of the other families (training/loop.py), with their own data, loss and schedule. The weights are
written last, under the published names (families/cinego/weights.py), after the tokenizer: the next training starts
from that folder, and the last one is a model that can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import set_seed

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders.loading import load_encoder
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import MiniMind, Size
from videogpt_plus.families.cinego.model import Cinego, assemble, load_tokenizer
from videogpt_plus.io.files import read_object, write_bytes, write_json
from videogpt_plus.io.fingerprint import of_path, of_value
from videogpt_plus.io.model_folders import TOKENIZER_FILES
from videogpt_plus.io.runs import difference
from videogpt_plus.models.base import only_stream
from videogpt_plus.training.cinego.data import Left, Samples, encode_all, encode_reference, read_rows
from videogpt_plus.training.cinego.features import SUFFIX, check_sidecar, find_features, frames_of
from videogpt_plus.training.cinego.tokenizer import check_tokenizer
from videogpt_plus.training.data import collate
from videogpt_plus.training.engine import Update
from videogpt_plus.training.loop import Job, Means, fit, own_list
from videogpt_plus.training.plan import Step, epoch_order, share
from videogpt_plus.training.processes import join, left_alone, processes_launched
from videogpt_plus.training.stages import claimed_together
from videogpt_plus.types import ClipError, UserError

Stage = Literal["lm", "pretrain", "sft"]
Dtype = Literal["float32", "bfloat16", "float16"]
#: What a training was told that is not in experiment.json.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained."""

    # Passes over the data.
    epochs: int = 4
    # Samples a device and forward pass.
    batch_size: int = 16
    # Forward passes a step, of all devices together.
    accumulation: int = 1
    # The rate begins at 1.1 of it and ends near 0.1 of it, on half a cosine.
    learning_rate: float = 4e-4
    # Tokens of a sample at most, visual ones included.
    max_length: int = 640
    # What is computed in: float32, or bfloat16 or float16 under autocast; weights are held in float32.
    dtype: Dtype = "float32"
    # Gradient norm is clipped to this.
    max_grad_norm: float = 1.0
    # AdamW's weight decay, of every parameter.
    weight_decay: float = 0.01
    # A checkpoint every so many steps.
    save_steps: int = 100
    # Initial weights, order of the data, dropout.
    seed: int = 1337
    # The original's order (that of the file), masks (shifted by one), truncation and accumulation, to compare with it.
    reference: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} is not possible: choose at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UserError(f"learning_rate {self.learning_rate:g} is not possible: choose a number above 0")


#: The authors' recipes; that of the language model is MiniMind's.
RECIPES: dict[str, Recipe] = {
    "lm": Recipe(epochs=1, batch_size=32, accumulation=8, learning_rate=5e-4, max_length=512),
    "pretrain": Recipe(),
    "sft": Recipe(epochs=16, learning_rate=5e-6, max_length=1536),
}


class Source(NamedTuple):
    """What a training reads."""

    #: JSONL files.
    data: Sequence[str | Path]
    #: Folder that the rows' files start from.
    media: str | Path = "."
    #: Folder of the original's .npy files, one for each of the rows' images and videos; None to read those.
    features: str | Path | None = None
    #: Where the encoder's output was kept, and is.
    store: GridCache | None = None
    decoder: str = "pyav"
    #: Holds every file's features in memory once they were read.
    keep: bool = False


def learning_rate(step: int, steps: int, base: float = 1.0) -> float:
    """The authors' schedule: from 1.1 `base` at step 0 towards 0.1 `base` at `steps`, without a warm-up."""
    return base / 10 + base / 2 * (1 + math.cos(math.pi * step / steps))


def plan(count: int, recipe: Recipe, processes: int = 1) -> list[Step]:
    """Every step of a training on `count` samples: a pure function of the recipe.

    As many samples a step on any number of processes; pass i of a step is of process i modulo `processes`.
    With `reference`: the file's order in every epoch; what an epoch leaves over of an accumulation weighs into the
    first step of the next, and what the last one leaves over is lost. UserError: a step cannot be divided evenly.
    """
    if recipe.reference:
        if processes > 1:
            raise UserError("a training as the original's takes one process: it is there to compare with")
        return _reference_plan(count, recipe)
    size, own = share(recipe.batch_size, recipe.accumulation, processes)
    together = size * own * processes
    steps = max(1, round(recipe.epochs * count / together))
    order: list[int] = []
    for epoch in range(math.ceil(steps * together / count)):
        order += epoch_order(count, recipe.seed, epoch)
    passes = [order[i : i + size] for i in range(0, steps * together, size)]
    whole = own * processes
    return [Step(passes[i * whole : (i + 1) * whole], learning_rate(i, steps)) for i in range(steps)]


def _reference_plan(count: int, recipe: Recipe) -> list[Step]:
    epoch = [list(range(i, min(i + recipe.batch_size, count))) for i in range(0, count, recipe.batch_size)]
    total = recipe.epochs * len(epoch)
    steps, left = [], []
    for number in range(total):
        within = number % len(epoch)
        left.append(epoch[within])
        if (within + 1) % recipe.accumulation == 0:
            steps.append(Step(left, learning_rate(number, total)))
            left = []
    return steps


class LanguageModel(nn.Module):
    """MiniMind as a trainer calls a model: without visuals."""

    def __init__(self, llm: MiniMind):
        super().__init__()
        self.llm = llm

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, visuals: Sequence, loss_only: bool = False
    ) -> Any:
        """Loss and logits of a right-padded batch of text."""
        return self.llm(input_ids=input_ids, attention_mask=attention_mask, labels=labels, loss_only=loss_only)

    def checkpoint_state(self) -> Mapping[str, Tensor]:
        """The tensors of an lm_ file."""
        return weights.whole_state(self.llm)


def train(
    stage: Stage,
    experiment: Experiment,
    source: Source,
    start: str | Path | None,
    out_dir: str | Path,
    recipe: Recipe | None = None,
    *,
    size: Size | None = None,
    workers: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Trains one stage into `out_dir`; returns the file of its weights, which is written last.

    `start` is the file, or its folder, that the stage starts from: for "lm" a folder with a tokenizer, or weights of
    a language model; for "pretrain" a file of weights with or without visual parts; for "sft" one with them. `size` is
    the architecture of a language model that begins with random weights. `say` is told what did not fit. Raises
    UserError: above all where there is nothing to start from.
    """
    recipe = recipe or RECIPES[stage]
    out_dir = Path(out_dir)
    experiment = replace(experiment, llm=str(out_dir))  # what is trained here is asked from here
    begin = _start(stage, start, size)
    told = {
        "stage": stage,
        "recipe": asdict(recipe),
        "start": of_path(begin) if begin.is_file() else of_value(asdict(size)),
        "tokenizer": of_path(begin.parent / "tokenizer.json" if begin.is_file() else begin / "tokenizer.json"),
        "data": [of_path(path) for path in source.data],
        "store_dtype": source.store.dtype if source.store else None,
    }
    plan(recipe.batch_size, recipe, processes_launched())  # refused before minutes of loading
    _check_dtype(recipe.dtype)
    with left_alone(), claimed_together(state := join(), out_dir, experiment):
        _same_recipe(out_dir, told)
        finished = sorted(out_dir.glob(f"{weights.STAGES[stage]}*.pth"))
        if finished:
            return finished[0]
        means = Means(progress, say, workers).of(state)
        return _fill(stage, experiment, source, begin, out_dir, recipe, size, means)


def _start(stage: Stage, start: str | Path | None, size: Size | None) -> Path:
    """The file of weights to begin with, or for a new language model the folder of its tokenizer."""
    if start is None:
        raise UserError(
            f"{stage} starts from nothing: name a tokenizer's folder for lm, a file lm_*.pth for pretrain, a file "
            "pretrain_videolm_*.pth for sft"
        )
    path = Path(start)
    if stage == "lm" and size is not None:
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"no tokenizer in {path}: train one with `videogpt-plus cinego tokenizer`")
        return path
    found = weights.locate(path)
    if stage == "sft" and not weights.part_of(weights.read(found), weights.PROJECTION):
        raise UserError(f"{found} has no projection and no summary: sft starts from what pretrain wrote; run it first")
    return found


def _same_recipe(out_dir: Path, told: dict[str, object]) -> None:
    path = out_dir / RECIPE
    if PartialState().is_main_process and not path.exists():
        write_json(path, told)
    PartialState().wait_for_everyone()
    if changed := difference(read_object(path, "remove the folder or choose another one"), told):
        raise UserError(f"{out_dir} holds another training ({changed}): remove the folder or choose another one")


def _fill(
    stage: Stage,
    experiment: Experiment,
    source: Source,
    start: Path,
    out_dir: Path,
    recipe: Recipe,
    size: Size | None,
    means: Means,
) -> Path:
    """`train` in a folder that is claimed and unfinished."""
    set_seed(recipe.seed)  # random weights
    model, tokenizer = build(stage, experiment, start, size)
    state = PartialState()
    with own_list(out_dir) as listed:
        samples = read_samples(experiment, source, tokenizer, recipe, listed, blind=stage == "lm")
        _say_left(samples.left, recipe.max_length, means.say)
        if isinstance(model, Cinego):
            # What is kept is said to be float32's; under autocast the tower would compute otherwise.
            model.store = source.store if recipe.dtype == "float32" else None
        steps = plan(len(samples), recipe, state.num_processes)
        header = {
            "experiment": experiment.name,
            "stage": stage,
            "left_out": len(samples.left.out) + len(samples.left.unreadable),
            "answers_cut": samples.left.cut,
            "steps": len(steps),
        }
        collate_padded = partial(collate, pad_id=tokenizer.pad_token_id)
        update = update_of(recipe, state.num_processes)
        job = Job(model, samples, collate_padded, steps, update, recipe.seed, recipe.save_steps)
        fit(job, out_dir, header, means)
    path = out_dir / weights.file_name(stage, model.llm.size)
    if state.is_main_process:
        _write(model, model.llm.size, start if start.is_dir() else start.parent, path)
    state.wait_for_everyone()
    return path


def update_of(recipe: Recipe, processes: int) -> Update:
    """The authors' optimizer: AdamW that decays vectors, too."""
    return Update(
        learning_rate=recipe.learning_rate,
        projector_learning_rate=recipe.learning_rate,
        passes=share(recipe.batch_size, recipe.accumulation, processes).passes,
        weight_decay=recipe.weight_decay,
        decays_vectors=True,
        max_grad_norm=recipe.max_grad_norm,
        dtype=getattr(torch, recipe.dtype),
        fused=False,
    )


def _check_dtype(dtype: Dtype) -> None:
    if dtype == "float16" and not torch.cuda.is_available():
        raise UserError("float16 scales gradients on a GPU, and there is none: choose bfloat16 or float32")


def _say_left(left: Left, max_length: int, say: Callable[[str], None]) -> None:
    if left.unreadable:
        first, *more = left.unreadable
        say(f"left out: {first}" + (f"; and {len(more)} more rows that cannot be read" if more else ""))
    if left.out or left.cut:
        say(
            f"{len(left.out)} rows have no part of an answer within {max_length} tokens and are left out; "
            f"{left.cut} lose a part of theirs"
        )


def build(stage: Stage, experiment: Experiment, start: Path, size: Size | None) -> tuple[Cinego | LanguageModel, Any]:
    """The model of a stage before its first step, in float32, what trains wanting a gradient; and its tokenizer.

    UserError: as in `models.loading.load_model`.
    """
    folder = start if start.is_dir() else start.parent
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, folder)
    if stage == "lm":
        return LanguageModel(_language_model(start, size, len(tokenizer))), tokenizer
    name, stream = only_stream(experiment)
    state = weights.read(start)
    found = weights.size_of(state, weights.described(folder), start)
    llm = weights.build_lm(weights.lm_part(state), found, start)
    visual = bool(weights.part_of(state, weights.PROJECTION))
    encoder = load_encoder(stream, "cpu", torch.float32)
    model = assemble(experiment, llm, tokenizer, {name: encoder}, state if visual else None)
    model.load_checkpoint(start, lm_only=not visual)
    model.train_only(stage)
    return model, tokenizer


def _language_model(start: Path, size: Size | None, entries: int) -> MiniMind:
    if start.is_file():
        return weights.load_lm(start).requires_grad_(True)
    if entries > size.vocabulary:
        raise UserError(f"the tokenizer in {start} has {entries} entries, more than a vocabulary of {size.vocabulary}")
    llm = MiniMind(size)
    llm.reset_parameters()
    return llm


def read_samples(
    experiment: Experiment,
    source: Source,
    tokenizer: Any,
    recipe: Recipe,
    substituted: str | Path,
    blind: bool = False,
) -> Samples:
    """The data of a training. `blind`: a language model's, whose rows may have no files.

    UserError: no rows, a row with files where there may be none, or nothing that fits.
    """
    name, _ = only_stream(experiment)
    rows = [row for path in source.data for row in read_rows(path, source.media, recipe.reference)]
    if not rows:
        raise UserError("a training needs data: name JSONL files")
    if source.features is not None:
        found = find_features((path for row in rows for path in row.media), source.features)
        rows = [replace(row, media=tuple(found[path] for path in row.media)) for row in rows]
    if blind and (seen := next((row for row in rows if row.media), None)):
        raise UserError(f"{seen.where} shows {seen.media[0]}, and a language model is trained on text alone")
    pixels = any(not path.endswith(SUFFIX) for row in rows for path in row.media)
    if pixels and source.store:
        check_sidecar(experiment, source.store)
    prepare = Preparation(experiment.branches, experiment.sampling, source.decoder, source.store) if pixels else None
    if recipe.reference:
        queries = num_visual_tokens(experiment, experiment.num_frames)
        samples = [(encode_reference(row, tokenizer, queries, recipe.max_length), row.where) for row in rows]
        return Samples(samples, prepare, name, substituted, keep=source.keep)
    samples, left = encode_all(rows, tokenizer, partial(_visual_tokens, experiment), recipe.max_length)
    return Samples(samples, prepare, name, substituted, left, source.keep)


def _visual_tokens(experiment: Experiment, path: str) -> int:
    """Tokens of a file at most, before it is read; one that cannot be read will be replaced with its row."""
    frames = experiment.num_frames
    if path.endswith(SUFFIX):
        with suppress(ClipError):
            frames = frames_of(path)
    return num_visual_tokens(experiment, frames)


def _write(model: Cinego | LanguageModel, size: Size, folder: Path, path: Path) -> None:
    """The weights, behind tokenizer and config."""
    for file in (folder / name for name in TOKENIZER_FILES):
        if file.is_file():
            write_bytes(path.parent / file.name, file.read_bytes())
    weights.describe(path.parent, size)
    weights.save(path, model.checkpoint_state())
