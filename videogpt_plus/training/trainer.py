"""transformers' Trainer, told what trains here, in which order the data comes and what a checkpoint holds.

The Trainer brings torchrun, DeepSpeed, bf16, accumulation, clipping and the schedule. What is changed, and why:
batches are a fixed list, so that the position in the data is the step's number; checkpoints hold only what
trains, and count only when complete; every step is one line of log.jsonl, and nothing is printed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from videogpt_plus.checkpoint import read_tensors, save_tensors
from videogpt_plus.configs import Training
from videogpt_plus.training.folder import Log, check_finite, mark_complete, writing
from videogpt_plus.types import UserError

TRAINABLE = "trainable.safetensors"


def training_arguments(training: Training, out_dir: Path, deepspeed: str | None) -> TrainingArguments:
    """`training` in transformers' words. The epochs are in the list of batches: the Trainer sees one."""
    cuda = torch.cuda.is_available()
    args = TrainingArguments(
        output_dir=str(out_dir),
        per_device_train_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        num_train_epochs=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_ratio,  # below 1 it is a ratio
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.bf16,
        tf32=training.tf32 if cuda else None,
        seed=training.seed,
        save_steps=training.save_steps,
        save_total_limit=None,  # `mark_complete` removes old ones, after the new one counts
        logging_steps=1,
        logging_nan_inf_filter=False,  # a lost loss stops the training instead
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not cuda,
        deepspeed=deepspeed,
    )
    # Several GPUs in one process would mean DataParallel, which cannot split a list of visuals; torchrun can.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def check_deepspeed(path: str | None, training: Training) -> None:
    """UserError for a DeepSpeed json that would train or save something else than asked."""
    if path is None:
        return
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'videogpt-plus[train]'")
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the DeepSpeed json {path}: {error}") from error
    zero = config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"{path}: ZeRO-3 would save tensors of size 0; set stage3_gather_16bit_weights_on_model_save to true"
        )
    if "optimizer" in config and training.projector_learning_rate is not None:
        raise UserError(
            f"{path}: its 'optimizer' has one learning rate and would override projector_learning_rate; "
            "remove it, the experiment sets AdamW"
        )


def is_projector(name: str) -> bool:
    """Whether a parameter of the model belongs to a projector."""
    return name.startswith("projectors.")


@contextmanager
def in_one_line() -> Iterator[None]:
    """A UserError of a data worker, as if it had been raised here: torch puts the worker's traceback into its text."""
    try:
        yield
    except UserError as error:
        *traceback, last = str(error).rstrip().split("\n")
        if not traceback:
            raise
        raise UserError(last.partition("Error: ")[2]) from error


class StageTrainer(Trainer):
    """Trains what requires a gradient in `model` on `batches` of indices into `dataset`."""

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        dataset: Dataset,
        collate: Callable[[list], dict],
        batches: list[list[int]],
        projector_learning_rate: float,
        log: Log,
        progress: Callable[[int, int, float], None] | None,
        workers: int,
    ):
        super().__init__(model, args, train_dataset=dataset, data_collator=collate)
        self.remove_callback(PrinterCallback)
        # The model's loss is the mean over its supervised tokens; a step is the mean of its passes, as in the
        # reference. True would weigh each pass by its tokens and hand the model a divisor it does not know.
        self.model_accepts_loss_kwargs = False
        self.batches = batches
        self.projector_learning_rate = projector_learning_rate
        self.log_file = log
        self.progress = progress
        self.workers = workers
        self.shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        self.step_began = time.monotonic()

    def train(self, *args: Any, **options: Any) -> TrainOutput:
        """Trainer's own. UserError: see `in_one_line`."""
        with in_one_line():
            return super().train(*args, **options)

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of the batches, in their order."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.batches[self.args.process_index :: self.args.world_size],
            collate_fn=self.data_collator,
            num_workers=self.workers,
            pin_memory=self.args.device.type == "cuda",
        )

    def _prepare_inputs(self, inputs: dict) -> dict:
        # The Trainer's own rebuilds tuples from one iterator, which a NamedTuple such as Visual does not take.
        return send_to_device(inputs, self.args.device)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Up to four groups: LoRA and projectors, each with weight decay on matrices and without on vectors."""
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        parameters = dict((model or self.model).named_parameters())
        # LoRA first: the log's lr is that of the first group.
        for name in sorted(self.shapes, key=is_projector):
            rate = self.projector_learning_rate if is_projector(name) else self.args.learning_rate
            decay = self.args.weight_decay if len(self.shapes[name]) > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameters[name])
        optimizer, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        by_group = [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
        self.optimizer = optimizer(by_group, **settings)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line a step. `log_history` stays empty: it would be written into every checkpoint in full."""
        if "loss" not in logs:  # the summary at the end
            return
        now = time.monotonic()
        line = {
            "step": self.state.global_step,
            "loss": logs["loss"],
            "lr": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "seconds": round(now - self.step_began, 4),
        }
        self.step_began = now
        check_finite(line["step"], loss=line["loss"], grad_norm=line["grad_norm"])
        if self.args.should_save:
            self.log_file.append(line)
            if self.progress:
                self.progress(line["step"], self.state.max_steps, line["loss"])

    def trained_tensors(self, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """What trained, by parameter name, on the CPU; `state` is what DeepSpeed gathered from all processes.

        UserError: a tensor has lost its values, as under a ZeRO-3 that does not gather them.
        """
        if state is None and self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.deepspeed)
        state = state or dict(self.model.named_parameters())
        tensors = {name: state[name].detach().cpu().contiguous() for name in self.shapes if name in state}
        for name, shape in self.shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise UserError(
                    f"{name} would be saved without its values: ZeRO-3 gathers them only with "
                    "stage3_gather_16bit_weights_on_model_save: true in the DeepSpeed json, or use ZeRO-2"
                )
        return tensors

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save_tensors(Path(output_dir) / TRAINABLE, self.trained_tensors(state_dict))

    def _save_checkpoint(self, model: torch.nn.Module, trial: None) -> None:
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        tensors = read_tensors(Path(resume_from_checkpoint) / TRAINABLE)
        parameters = dict(self.model.named_parameters())
        assert tensors.keys() == self.shapes.keys(), f"{resume_from_checkpoint} is of another model"
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)
