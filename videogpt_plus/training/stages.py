"""The two stages of training: a stream's projector alone, then LoRA and all projectors at a pool level.

Both fill a run folder (training/folder.py) and go on from its latest complete checkpoint: on a CPU the files of
an interrupted training are those of a straight one, bit for bit. A finished folder is left as it is.

Gradient accumulation: a forward pass's loss is the mean over its supervised tokens, and a step descends the mean
of its passes. So a pass with few supervised tokens weighs as much as one with many, as in the reference.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import set_seed

from videogpt_plus.config.experiment import Experiment, pretraining_experiment
from videogpt_plus.config.experiment_file import experiment_json
from videogpt_plus.config.mixtures import get_mixture
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.config.training import Training
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import read_object, write_bytes, write_json
from videogpt_plus.io.run_weights import projector_key, reducer_key
from videogpt_plus.io.runs import FINISHED, QUESTION, TUNED, Log, alone_in, are_there, difference
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import data
from videogpt_plus.training.checkpoints import complete_checkpoints, ready_to_go_on, step_of
from videogpt_plus.training.folder import check_claim, claim, describe
from videogpt_plus.training.loop import (
    StageTrainer,
    check_deepspeed,
    is_visual,
    join,
    left_alone,
    processes_launched,
    share,
    training_arguments,
)
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.clips.cache import GridCache
    from videogpt_plus.models.dual_encoder import DualEncoderVLM

Progress = Callable[[int, int, float], None]


class Means(NamedTuple):
    """By what a training is made, whatever it trains; see `pretrain`."""

    deepspeed: str | None
    workers: int | None
    progress: Progress | None
    store: GridCache | None
    decoder: str
    say: Callable[[str], None] | None


def pretrain(
    experiment: Experiment,
    stream_name: str,
    out_dir: str | Path,
    *,
    deepspeed: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    store: GridCache | None = None,
    decoder: str = "pyav",
    say: Callable[[str], None] | None = None,
) -> None:
    """Trains the projector of one stream at level 1, with its encoder and the LLM frozen.

    Writes `projectors.safetensors`, `experiment.json` and `log.jsonl` into `out_dir`. `deepspeed` is a
    DeepSpeed json, `workers` how many processes read clips (unless told, 4 with a GPU and 0 without), `progress`
    is called after each step with (step, steps, loss). Clips are decoded by `decoder` and encoded unless `store`
    has their grids, and then kept there; `say` is told before what they will take, and in the end what was lost.
    Raises UserError.
    """
    stage = pretraining_experiment(experiment, stream_name)

    def build(dtype: torch.dtype) -> DualEncoderVLM:
        return load_model(stage, None, "cpu", dtype)

    _train(stage, Path(out_dir), (FINISHED,), build, Means(deepspeed, workers, progress, store, decoder, say))


def finetune(
    experiment: Experiment,
    projectors: Mapping[str, str | Path],
    out_dir: str | Path,
    *,
    deepspeed: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    store: GridCache | None = None,
    decoder: str = "pyav",
    say: Callable[[str], None] | None = None,
) -> None:
    """Trains LoRA on the LLM and all projectors at the experiment's level.

    `projectors` gives each stream its pre-training folder; of a model that was published whole there is none, and its
    projectors stay as they are. Writes what `pretrain` writes and PEFT's `adapter_model.safetensors` and
    `adapter_config.json`. The other arguments are those of `pretrain`.
    """
    _check_starts(experiment, projectors)

    def build(dtype: torch.dtype) -> DualEncoderVLM:
        model = load_model(experiment, None, "cpu", dtype)
        for name, folder in projectors.items():
            model.load_projectors(folder, [name])
        if not experiment.trains_projectors:
            model.projectors.requires_grad_(False)
        model.add_lora(experiment.lora)
        return model

    _train(experiment, Path(out_dir), TUNED, build, Means(deepspeed, workers, progress, store, decoder, say))


def check(experiment: Experiment, start: str | Mapping[str, str | Path], out_dir: Path, deepspeed: str | None) -> None:
    """UserError: `pretrain` of the stream `start`, or `finetune` from these projectors, would not begin.

    Nothing is written, and neither weights nor data are looked at.
    """
    if isinstance(start, str):
        experiment = pretraining_experiment(experiment, start)
    else:
        _check_starts(experiment, start)
    check_deepspeed(deepspeed)
    share(experiment.training, processes_launched())
    check_claim(out_dir, experiment)


def trainable_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Numbers of values: "trains" by each parameter's name, "frozen" by part (llm, encoders.image, ...).

    UserError: a parameter has no values, because DeepSpeed's ZeRO-3 took them before the weights were read.
    """
    trains, frozen = {}, Counter()
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0:
            raise UserError(
                f"{name} has size 0: ZeRO-3 divided the model before its weights were read; "
                "begin the training in a fresh process, or use a ZeRO-2 json"
            )
        if parameter.requires_grad:
            trains[name] = parameter.numel()
        else:
            first, second, *_ = name.split(".")
            frozen[f"{first}.{second}" if first == "encoders" else first] += parameter.numel()
    return {"trains": trains, "frozen": dict(frozen)}


def training_batches(dataset: data.Conversations, training: Training, processes: int) -> list[list[int]]:
    """Indices of every forward pass of the whole training, a pure function of the seed.

    Pass i is of process i modulo `processes`; a step takes `share`'s number of each process, and so has as
    many samples whatever their number.
    """
    size, own = share(training, processes)
    passes = own * processes
    lengths = dataset.modality_lengths() if training.group_by_modality_length else None
    count = training.num_train_epochs * math.ceil(len(dataset) / size)
    if training.max_steps > 0:
        count = min(count, training.max_steps * passes)
    count = math.ceil(count / passes) * passes  # whole steps: any number of processes makes the same ones
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < count:
        order = data.epoch_order(len(dataset), training.seed, epoch, lengths, size, passes)
        batches += [order[i : i + size] for i in range(0, len(order), size)]
        epoch += 1
    return batches[:count]


def _check_starts(experiment: Experiment, projectors: Mapping[str, str | Path]) -> None:
    """UserError unless every stream has a start, pre-trained with the same LLM and encoder."""
    streams = dict(experiment.branches)
    if projectors and not experiment.trains_projectors:
        raise UserError(f"{experiment.name} was published with its projectors: name none to start from")
    for name in projectors.keys() - streams.keys():
        raise UserError(f"unknown stream '{name}'; choose from: {', '.join(streams)}")
    for name in streams.keys() - projectors.keys():
        if experiment.trains_projectors and streams[name].projector != "identity":  # which has no weights
            raise UserError(f"no pre-trained projector for stream '{name}': pre-train it and name its folder")
    for name, folder in projectors.items():
        recorded = Path(folder) / "experiment.json"
        if not recorded.exists():  # the reference's folders have none; wrong shapes are found on loading
            continue
        wanted = pretraining_experiment(experiment, name)
        found = read_object(recorded, "pre-train it again")
        parts = {"llm": wanted.llm, "branches": experiment_json(wanted)["branches"]}
        if told := difference(found, parts):
            raise UserError(f"the projector in {folder} was trained for another model ({told}): pre-train it again")


@left_alone()
def _train(
    experiment: Experiment,
    out_dir: Path,
    outputs: Sequence[str],
    build: Callable[[torch.dtype], DualEncoderVLM],
    means: Means,
) -> None:
    """Fills `out_dir` by the recipe `experiment.training`: trains what wants a gradient in `build(dtype)`.

    It is finished where all `outputs` are there.
    """
    check_deepspeed(means.deepspeed)
    share(experiment.training, processes_launched())  # refused before minutes of loading
    with claimed_together(join(means.deepspeed), out_dir, experiment, outputs) as finished:
        if not finished:
            _fill(experiment, out_dir, build, means)


def _fill(
    experiment: Experiment,
    out_dir: Path,
    build: Callable[[torch.dtype], DualEncoderVLM],
    means: Means,
) -> None:
    """`_train` in a folder that is claimed and unfinished."""
    training, store = experiment.training, means.store
    set_seed(training.seed)  # random projectors and LoRA
    model = build(torch.bfloat16 if training.bf16 else torch.float32)
    if training.gradient_checkpointing:
        model.llm.activation_checkpointing_enable()
    parameters = trainable_parameters(model)
    if not parameters["trains"]:
        raise UserError(f"nothing trains in '{experiment.name}': an 'identity' projector needs no pre-training")
    model.store = store
    listed = out_dir / "substituted.jsonl"
    with TemporaryDirectory() as scratch:
        own_list = listed if PartialState().num_processes == 1 else Path(scratch) / listed.name
        dataset = data.Conversations(
            experiment,
            model.tokenizer,
            own_list,
            store,
            means.decoder,
            data.Room(model.reads, partial(num_visual_tokens, experiment)) if model.reads else None,
        )
        args = training_arguments(training, out_dir, means.deepspeed)
        if store and means.say and args.should_save:
            videos, stills = dataset.count_media()
            means.say(store.announce(videos, experiment, dataset.arithmetic, stills))
        if means.deepspeed:
            _keep_from_deepspeed(model, args.device)
        batches = training_batches(dataset, training, args.world_size)
        rate = training.projector_learning_rate
        log = Log(out_dir / "log.jsonl")
        trainer = StageTrainer(
            model,
            args,
            dataset,
            partial(data.collate, pad_id=model.tokenizer.pad_token_id),
            batches,
            training.learning_rate if rate is None else rate,
            log,
            means.progress,
            workers=4 * torch.cuda.is_available() if means.workers is None else means.workers,
            before_checkpoint=partial(gather_substitutions, own_list, listed),
        )
        header = {
            "experiment": experiment.name,
            "start": digest(model),
            "samples": len(dataset),
            "annotations": {str(path): fingerprint.of_path(path) for path, _ in get_mixture(training.data)},
            "processes": args.world_size,
            "zero_stage": args.hf_deepspeed_config.get_value("zero_optimization.stage") if means.deepspeed else None,
            **parameters,
        }
        if args.should_save:
            ready_to_go_on(out_dir, means.say)
        trainer.accelerator.wait_for_everyone()
        checkpoint = next(reversed(complete_checkpoints(out_dir)), None)
        if args.should_save:
            log.start(header, step_of(checkpoint) if checkpoint else 0)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        gather_substitutions(own_list, listed)
        tensors = trainer.trained_tensors()
        if args.should_save:
            if question := dataset.question():
                write_bytes(out_dir / QUESTION, question.encode())
            _save(model, tensors, experiment, out_dir)
            if store and means.say and (lost := store.measured()):
                means.say(lost)
        trainer.accelerator.wait_for_everyone()


@contextmanager
def claimed_together(
    processes: PartialState, out_dir: Path, experiment: Experiment, outputs: Sequence[str] = (FINISHED,)
) -> Iterator[bool]:
    """`claim` in every process, of which the first one alone writes, and keeps other trainings out."""
    with ExitStack() as held:
        with processes.main_process_first():
            finished = _claim(processes, out_dir, experiment, outputs)
            if processes.is_main_process and not finished:
                held.enter_context(alone_in(out_dir))
                finished = are_there(out_dir, outputs)  # by the other training, while this one waited
        yield finished


def _claim(processes: PartialState, out_dir: Path, experiment: Experiment, outputs: Sequence[str]) -> bool:
    if not (processes.is_main_process or (out_dir / "experiment.json").exists()):
        raise UserError(
            f"process {processes.process_index} does not see what the first one wrote into {out_dir}: choose a "
            "folder on a file system that all nodes share"
        )
    return claim(out_dir, experiment, outputs)


def gather_substitutions(own_list: Path, listed: Path) -> None:
    """Brings every process's substitutions into the one list; each process has to call it."""
    lines = gather_object(data.read_substitutions(own_list))
    if PartialState().is_main_process:
        for line in sorted(lines, key=lambda line: line["sample"]):
            data.append_once(listed, line)


def _keep_from_deepspeed(model: DualEncoderVLM, device: torch.device) -> None:
    """Holds the encoders beside the tree of modules that DeepSpeed divides, hooks and saves.

    ZeRO-3 stops when processes call other modules, and how often these are called depends on a batch's visuals. Of
    reducers, which are all called at once, it takes the weights together.
    """
    from deepspeed.utils import set_z3_leaf_module

    assert not any(p.requires_grad for p in model.encoders.parameters()), "encoders train: DeepSpeed has to know them"
    encoders = model.encoders.to(device)
    del model.encoders
    object.__setattr__(model, "encoders", encoders)  # Module's own would register them again
    set_z3_leaf_module(model.reducers, True)
    model.config = model.llm.config  # "auto" in a DeepSpeed json may ask for its hidden_size


def digest(model: nn.Module) -> str:
    """Of the values that training starts from: a resumed one must start from the same."""
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()


def _save(model: DualEncoderVLM, tensors: Mapping[str, Tensor], experiment: Experiment, out_dir: Path) -> None:
    """Writes the weights from the trained parameters by name; the file that says "finished" comes last."""
    lora = {n.removeprefix("llm."): t for n, t in tensors.items() if n.startswith("llm.")}
    if lora:
        from peft import get_peft_model_state_dict

        adapter = get_peft_model_state_dict(model.llm, state_dict=lora, save_embedding_layers=False)
        save_tensors(out_dir / "adapter_model.safetensors", adapter)
        # Without the LLM's path on this machine: experiment.json beside it names the LLM.
        config = {**model.llm.peft_config["default"].to_dict(), "inference_mode": True, "base_model_name_or_path": None}
        # Sorted, for the order of a set differs from process to process.
        listed = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        write_json(out_dir / "adapter_config.json", listed)
    named = {"projectors": projector_key, "reducers": reducer_key}
    split = [n.split(".", 2) + [t] for n, t in tensors.items() if is_visual(n)]
    assert len(lora) + len(split) == len(tensors), "something trained that no file holds"
    describe(out_dir, experiment)
    save_tensors(out_dir / FINISHED, {f"{named[part](stream)}.{key}": t for part, stream, key, t in split})
