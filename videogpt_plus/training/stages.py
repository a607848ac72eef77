"""The two stages of training: a stream's projector alone, then LoRA and all projectors at a pool level.

Both fill a run folder (training/folder.py) and resume from its latest complete checkpoint. A finished folder is left
as it is.

Gradient accumulation: a forward pass's loss is the mean over its supervised tokens, and a step descends the mean
of its passes. So a pass with few supervised tokens weighs as much as one with many, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from videogpt_plus.config.experiment import Experiment, pretraining_experiment
from videogpt_plus.config.experiment_file import experiment_json
from videogpt_plus.config.mixtures import get_mixture
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.config.training import Training
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import read_object, write_bytes, write_json
from videogpt_plus.io.run_weights import projector_key, reducer_key
from videogpt_plus.io.runs import FINISHED, QUESTION, TUNED, alone_in, are_there, difference
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.training import data
from videogpt_plus.training.engine import Update, is_visual, trained
from videogpt_plus.training.folder import check_claim, claim, describe
from videogpt_plus.training.loop import Job, Means, fit, own_list
from videogpt_plus.training.plan import schedule, share_of, training_steps
from videogpt_plus.training.processes import join, left_alone, processes_launched
from videogpt_plus.training.zero import check_deepspeed
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.clips.cache import GridCache
    from videogpt_plus.models.base import VisionLM


def pretrain(
    experiment: Experiment,
    stream_name: str,
    out_dir: str | Path,
    *,
    store: GridCache | None = None,
    decoder: str = "pyav",
    **means: Any,
) -> None:
    """Trains the projector of one stream at level 1, with its encoder and the LLM frozen.

    Writes `projectors.safetensors`, `experiment.json` and `log.jsonl` into `out_dir`. Clips are decoded by `decoder`
    and encoded unless `store` has their grids, and then kept there. `means` are the fields of `loop.Means`: progress,
    say, workers, deepspeed. Raises UserError.
    """
    stage = pretraining_experiment(experiment, stream_name)

    def build(dtype: torch.dtype) -> VisionLM:
        return load_model(stage, None, "cpu", dtype)

    _train(stage, Path(out_dir), (FINISHED,), build, Means(**means), store, decoder)


def finetune(
    experiment: Experiment,
    projectors: Mapping[str, str | Path],
    out_dir: str | Path,
    *,
    store: GridCache | None = None,
    decoder: str = "pyav",
    **means: Any,
) -> None:
    """Trains LoRA on the LLM and all projectors at the experiment's level.

    `projectors` gives each stream its pre-training folder; of a model that was published whole there is none, and its
    projectors stay as they are. Writes what `pretrain` writes and PEFT's `adapter_model.safetensors` and
    `adapter_config.json`. The other arguments are those of `pretrain`.
    """
    _check_starts(experiment, projectors)

    def build(dtype: torch.dtype) -> VisionLM:
        model = load_model(experiment, None, "cpu", dtype)
        for name, folder in projectors.items():
            model.load_projectors(folder, [name])
        if not experiment.trains_projectors:
            model.projectors.requires_grad_(False)
        model.add_lora(experiment.lora)
        return model

    _train(experiment, Path(out_dir), TUNED, build, Means(**means), store, decoder)


def check(experiment: Experiment, start: str | Mapping[str, str | Path], out_dir: Path, deepspeed: str | None) -> None:
    """UserError: `pretrain` of the stream `start`, or `finetune` from these projectors, would not begin.

    Nothing is written, and neither weights nor data are looked at.
    """
    if isinstance(start, str):
        experiment = pretraining_experiment(experiment, start)
    else:
        _check_starts(experiment, start)
    check_deepspeed(deepspeed)
    share_of(experiment.training, processes_launched())
    check_claim(out_dir, experiment)


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


def update_of(training: Training, processes: int) -> Update:
    """How a step of `training` changes the weights, each process doing its share of it."""
    rate = training.projector_learning_rate
    return Update(
        learning_rate=training.learning_rate,
        projector_learning_rate=training.learning_rate if rate is None else rate,
        passes=share_of(training, processes).passes,
        weight_decay=training.weight_decay,
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        dtype=torch.bfloat16 if training.bf16 else torch.float32,
        tf32=training.tf32,
    )


@left_alone()
def _train(
    experiment: Experiment,
    out_dir: Path,
    outputs: Sequence[str],
    build: Callable[[torch.dtype], VisionLM],
    means: Means,
    store: GridCache | None,
    decoder: str,
) -> None:
    """Fills `out_dir` by the recipe `experiment.training`: trains what wants a gradient in `build(dtype)`.

    It is finished where all `outputs` are there.
    """
    check_deepspeed(means.deepspeed)
    # Refused before minutes of loading.
    update = update_of(experiment.training, processes_launched())
    schedule(experiment.training.lr_scheduler_type)
    state = join()
    with claimed_together(state, out_dir, experiment, outputs) as finished:
        if not finished:
            set_seed(experiment.seed)  # random projectors and LoRA
            _fill(experiment, out_dir, build(update.dtype), update, means.of(state), store, decoder)


def _fill(
    experiment: Experiment,
    out_dir: Path,
    model: VisionLM,
    update: Update,
    means: Means,
    store: GridCache | None,
    decoder: str,
) -> None:
    """`_train` in a folder that is claimed and unfinished."""
    training, state = experiment.training, PartialState()
    if training.gradient_checkpointing:
        model.llm.activation_checkpointing_enable()
    if not trained(model):
        raise UserError(f"nothing trains in '{experiment.name}': an 'identity' projector needs no pre-training")
    model.store = store
    room = data.Room(model.reads, partial(num_visual_tokens, experiment)) if model.reads else None
    with own_list(out_dir) as listed:
        dataset = data.Conversations(experiment, model.tokenizer, listed, store, decoder, room)
        if store and state.is_main_process:
            videos, stills = dataset.count_media()
            means.say(store.announce(videos, experiment, dataset.arithmetic, stills))
        collate = partial(data.collate, pad_id=model.tokenizer.pad_token_id)
        steps = training_steps(dataset, training, state.num_processes)
        header = {
            "experiment": experiment.name,
            "annotations": {str(path): fingerprint.of_path(path) for path, _ in get_mixture(training.data)},
        }
        job = Job(model, dataset, collate, steps, update, training.seed, training.save_steps)
        tensors = fit(job, out_dir, header, means)
        if state.is_main_process:
            if question := dataset.question():
                write_bytes(out_dir / QUESTION, question.encode())
            _save(model, tensors, experiment, out_dir)
        if store and (lost := store.measured()):
            means.say(lost)
        state.wait_for_everyone()


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


def _save(model: VisionLM, tensors: Mapping[str, Tensor], experiment: Experiment, out_dir: Path) -> None:
    """Writes the weights from the trained parameters by name; the file that says "finished" comes last."""
    lora = {n.removeprefix("llm."): t for n, t in tensors.items() if n.startswith("llm.")}
    if lora:
        from peft import get_peft_model_state_dict

        adapter = get_peft_model_state_dict(model.llm, state_dict=lora, save_embedding_layers=False)
        save_tensors(out_dir / "adapter_model.safetensors", adapter)
        # Without the LLM's path on this machine, which experiment.json names.
        config = {**model.llm.peft_config["default"].to_dict(), "inference_mode": True, "base_model_name_or_path": None}
        # Sorted, for the order of a set differs from process to process.
        listed = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        write_json(out_dir / "adapter_config.json", listed)
    named = {"projectors": projector_key, "reducers": reducer_key}
    split = [n.split(".", 2) + [t] for n, t in tensors.items() if is_visual(n)]
    assert len(lora) + len(split) == len(tensors), "something trained that no file holds"
    describe(out_dir, experiment)
    save_tensors(out_dir / FINISHED, {f"{named[part](stream)}.{key}": t for part, stream, key, t in split})
