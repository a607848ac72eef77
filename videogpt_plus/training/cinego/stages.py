"""Cinego's three trainings: the language model on text, then projection, summary and last layer, then all but CLIP.

Each fills a run folder (training/folder.py) as the other families' do and goes on from its latest complete checkpoint:
on a CPU the files of an interrupted training are those of a straight one, bit for bit. The weights are written last,
under the published names (models/cinego/weights.py), with the tokenizer beside them: the next training starts there,
and the last one is a model that can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments, set_seed

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.prefetch import Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.config.training import Training
from videogpt_plus.encoders import load_encoder
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import MiniMind, Size
from videogpt_plus.families.cinego.model import Cinego, assemble, load_tokenizer
from videogpt_plus.io.files import read_object, write_bytes, write_json
from videogpt_plus.io.fingerprint import of_path, of_value
from videogpt_plus.io.model_folders import TOKENIZER_FILES
from videogpt_plus.io.runs import Log, difference
from videogpt_plus.models.shared_llm import only_stream
from videogpt_plus.training.checkpoints import complete_checkpoints, ready_to_go_on, step_of
from videogpt_plus.training.cinego.data import Samples, encode_all, encode_reference, read_rows
from videogpt_plus.training.cinego.features import SUFFIX, check_sidecar, find_features, frames_of
from videogpt_plus.training.cinego.tokenizer import check_tokenizer
from videogpt_plus.training.data import collate, epoch_order
from videogpt_plus.training.loop import StageTrainer, join, left_alone, processes_launched, share, training_arguments
from videogpt_plus.training.stages import claimed_together, digest, gather_substitutions, trainable_parameters
from videogpt_plus.types import ClipError, UserError

Stage = Literal["lm", "pretrain", "sft"]
Dtype = Literal["float32", "bfloat16", "float16"]
#: What a training was told, beside experiment.json.
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


Progress = Callable[[int, int, float], None]


def learning_rate(step: int, steps: int, base: float) -> float:
    """The authors' schedule: from 1.1 `base` at step 0 towards 0.1 `base` at `steps`, without a warm-up."""
    return base / 10 + base / 2 * (1 + math.cos(math.pi * step / steps))


class Step(NamedTuple):
    """One step of the optimizer."""

    #: Indices of each forward pass, of all processes.
    passes: list[list[int]]
    learning_rate: float


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
    training = Training(
        "", per_device_train_batch_size=recipe.batch_size, gradient_accumulation_steps=recipe.accumulation
    )
    size, own = share(training, processes)
    together = size * own * processes
    steps = max(1, round(recipe.epochs * count / together))
    order: list[int] = []
    for epoch in range(math.ceil(steps * together / count)):
        order += epoch_order(count, recipe.seed, epoch)
    passes = [order[i : i + size] for i in range(0, steps * together, size)]
    whole = own * processes
    return [
        Step(passes[i * whole : (i + 1) * whole], learning_rate(i, steps, recipe.learning_rate)) for i in range(steps)
    ]


def _reference_plan(count: int, recipe: Recipe) -> list[Step]:
    epoch = [list(range(i, min(i + recipe.batch_size, count))) for i in range(0, count, recipe.batch_size)]
    total = recipe.epochs * len(epoch)
    steps, left = [], []
    for number in range(total):
        within = number % len(epoch)
        left.append(epoch[within])
        if (within + 1) % recipe.accumulation == 0:
            steps.append(Step(left, learning_rate(number, total, recipe.learning_rate)))
            left = []
    return steps


class Batches(Dataset[list[dict[str, Any]]]):
    """Step -> its forward passes of one process, collated."""

    def __init__(self, samples: Samples, steps: Sequence[Step], process: int, processes: int, pad_id: int):
        self.samples, self.pad_id = samples, pad_id
        self.steps = [step.passes[process::processes] for step in steps]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        """The batches of a step, in order."""
        return [collate([self.samples[i] for i in batch], self.pad_id) for batch in self.steps[number]]


class CinegoTrainer(StageTrainer):
    """Trains what requires a gradient by the authors' optimizer and schedule. A step's passes come together."""

    def __init__(self, *arguments: Any, rates: Sequence[float], passes: int, **named: Any):
        """`rates` are those of all steps; a pass's loss is divided by `passes`."""
        super().__init__(*arguments, **named)
        self.rates, self.passes = rates, passes

    def get_train_dataloader(self) -> DataLoader:
        """One item a step."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=[[i] for i in range(len(self.train_dataset))],
            collate_fn=_only,
            num_workers=self.workers,
            pin_memory=False,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW of one group: the authors decay vectors, too."""
        parameters = dict((model or self.model).named_parameters())
        self.optimizer = torch.optim.AdamW(
            [parameters[name] for name in self.shapes], lr=self.rates[0], weight_decay=self.args.weight_decay
        )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The rates as they were planned."""
        first, last = self.rates[0], len(self.rates) - 1
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: self.rates[min(step, last)] / first
        )
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: list[dict[str, Any]], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Gradients of all passes of a step; their loss, each divided by the passes of a whole step."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs):
            last = number == len(inputs) - 1
            with nullcontext() if last else self.accelerator.no_sync(model), self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(batch)) / self.passes
                self.accelerator.backward(loss)
            total += loss.detach()
        return total


def _only(items: list[Any]) -> Any:
    (item,) = items
    return item


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
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Trains one stage into `out_dir`; returns the file of its weights, which is written last.

    `start` is the file, or its folder, that the stage goes on from: for "lm" a folder with a tokenizer, or weights of
    a language model to go on with; for "pretrain" a file of weights with or without visual parts; for "sft" one with
    them. `size` is the architecture of a language model that begins with random weights. `say` is told what did not
    fit. Raises UserError: above all where there is nothing to start from.
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
    with left_alone(), claimed_together(join(None), out_dir, experiment):
        _same_recipe(out_dir, told)
        finished = sorted(out_dir.glob(f"{weights.STAGES[stage]}*.pth"))
        if finished:
            return finished[0]
        return _fill(stage, experiment, source, begin, out_dir, recipe, size, workers, progress, say)


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
        raise UserError(f"{found} has no projection and no summary: sft goes on from what pretrain wrote; run it first")
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
    workers: int,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> Path:
    """`train` in a folder that is claimed and unfinished."""
    set_seed(recipe.seed)  # random weights and dropout
    model, tokenizer = build(stage, experiment, start, size)
    parameters = trainable_parameters(model)
    processes = PartialState()
    with TemporaryDirectory() as scratch:
        listed = out_dir / "substituted.jsonl"
        own_list = listed if processes.num_processes == 1 else Path(scratch) / listed.name
        samples = read_samples(experiment, source, tokenizer, recipe, own_list, blind=stage == "lm")
        if isinstance(model, Cinego):
            # What is kept is said to be float32's; under autocast the tower would compute otherwise.
            model.store = source.store if recipe.dtype == "float32" else None
        steps = plan(len(samples), recipe, processes.num_processes)
        args = _arguments(recipe, out_dir)
        if say and args.should_save and samples.left.unreadable:
            first, *more = samples.left.unreadable
            say(f"left out: {first}" + (f"; and {len(more)} more rows that cannot be read" if more else ""))
        if say and args.should_save and (samples.left.out or samples.left.cut):
            say(
                f"{len(samples.left.out)} rows have no part of an answer within {recipe.max_length} tokens and are "
                f"left out; {samples.left.cut} lose a part of theirs"
            )
        log = Log(out_dir / "log.jsonl")
        trainer = CinegoTrainer(
            model,
            args,
            Batches(samples, steps, processes.process_index, processes.num_processes, tokenizer.pad_token_id),
            _only,
            [],
            recipe.learning_rate,
            log,
            progress,
            workers,
            partial(gather_substitutions, own_list, listed),
            rates=[step.learning_rate for step in steps],
            passes=len(steps[0].passes) // processes.num_processes if not recipe.reference else recipe.accumulation,
        )
        header = {
            "experiment": experiment.name,
            "stage": stage,
            "start": digest(model),
            "samples": len(samples),
            "left_out": len(samples.left.out) + len(samples.left.unreadable),
            "answers_cut": samples.left.cut,
            "steps": len(steps),
            "processes": processes.num_processes,
            **parameters,
        }
        if args.should_save:
            ready_to_go_on(out_dir, say)
        processes.wait_for_everyone()
        checkpoint = next(reversed(complete_checkpoints(out_dir)), None)
        if args.should_save:
            log.start(header, step_of(checkpoint) if checkpoint else 0)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        llm = model.llm
        path = out_dir / weights.file_name(stage, llm.size)
        if args.should_save:
            folder = start if start.is_dir() else start.parent
            _write(model, llm.size, folder, path)
        processes.wait_for_everyone()
    return path


def build(stage: Stage, experiment: Experiment, start: Path, size: Size | None) -> tuple[Cinego | LanguageModel, Any]:
    """The model of a stage before its first step, in float32, what trains wanting a gradient; and its tokenizer.

    UserError: as in `models.cinego.model.load`.
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


def _arguments(recipe: Recipe, out_dir: Path) -> TrainingArguments:
    """The recipe in transformers' words; optimizer, schedule and accumulation are CinegoTrainer's."""
    training = Training(
        "",
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=processes_launched(),  # one item a process and step, which holds all its passes
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.dtype == "bfloat16",
        save_steps=recipe.save_steps,
        seed=recipe.seed,
        warmup_ratio=0.0,
    )
    args = training_arguments(training, out_dir, None)
    if recipe.dtype == "float16":
        if args.device.type != "cuda":
            raise UserError("float16 scales gradients on a GPU, and there is none: choose bfloat16 or float32")
        args = replace(args, fp16=True)
        args._n_gpu = min(args.n_gpu, 1)
    return args


def _write(model: Cinego | LanguageModel, size: Size, folder: Path, path: Path) -> None:
    """The weights, behind tokenizer and config."""
    for file in (folder / name for name in TOKENIZER_FILES):
        if file.is_file():
            write_bytes(path.parent / file.name, file.read_bytes())
    weights.describe(path.parent, size)
    weights.save(path, model.checkpoint_state())
