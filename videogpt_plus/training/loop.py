"""transformers' Trainer, told what trains here, in which order the data comes and what a checkpoint holds.

The Trainer brings torchrun, DeepSpeed, bf16, accumulation, clipping and the schedule. What is changed, and why:
batches are a fixed list, so that the position in the data is the step's number; checkpoints hold only what
trains, and count only when complete; every step is one line of log.jsonl, and nothing is printed.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import get_int_from_env, send_to_device
from torch.distributed import DistBackendError, DistNetworkError
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from videogpt_plus.config.training import Training
from videogpt_plus.io.files import read_object, require, writing
from videogpt_plus.io.runs import Log, check_finite
from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.training.checkpoints import TRAINABLE, mark_complete
from videogpt_plus.types import UserError

#: Seconds that one process waits for another: rank 0 may take so long to write or to load.
TIMEOUT = 1800
#: Seconds in which torchrun ends a process after another one failed.
PATIENCE = 10
#: In the text of what gloo raises when a connection is lost.
GLOO = "/gloo/"


def join(deepspeed: str | None) -> PartialState:
    """The group of processes that torchrun started, or this one alone."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would warn of it, where it is but installed, too
    if deepspeed:
        _prepare_deepspeed()
    return PartialState(cpu=not cuda, backend=_backend(cuda), timeout=timedelta(seconds=TIMEOUT))


@contextmanager
def left_alone() -> Iterator[None]:
    """Turns a lost connection into a UserError: the process that failed has said why."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistBackendError | DistNetworkError) and GLOO not in str(error):
            raise
        time.sleep(PATIENCE)  # by then torchrun has ended this process, too, and there is one message
        raise UserError(
            f"process {get_int_from_env(['RANK'], 0)} lost the others: see what another one says above, or whether it "
            "was killed; then run the same command again: it goes on from the last checkpoint"
        ) from error


def _backend(cuda: bool) -> str | None:
    """gloo for several processes on CPUs; otherwise accelerate knows."""
    return "gloo" if not cuda and processes_launched() > 1 else None


def _prepare_deepspeed() -> None:
    import deepspeed.ops

    # It warns that the Trainer, and not it, counts the passes of a step.
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)
    # DeepSpeed would compile it for most of a minute, and nothing in a training calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if get_int_from_env(["RANK"], -1) < 0:  # DeepSpeed needs to be told that a process is alone
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})


def processes_launched() -> int:
    """How many processes train together: what torchrun told this one, 1 without it."""
    return get_int_from_env(["WORLD_SIZE"], 1)


def share(training: Training, processes: int) -> tuple[int, int]:
    """(samples a forward pass, forward passes a step) of each process, so that a step's samples stay the same.

    UserError: they cannot be divided evenly.
    """
    samples = training.per_device_train_batch_size * training.gradient_accumulation_steps
    own, left_over = divmod(samples, processes)
    if left_over or not own:
        fitting = ", ".join(str(n) for n in range(1, samples + 1) if samples % n == 0)
        raise UserError(
            f"a step of {samples} samples cannot be divided among {processes} devices; choose a number of devices "
            f"from: {fitting}, or another gradient_accumulation_steps"
        )
    size = max(n for n in range(1, training.per_device_train_batch_size + 1) if own % n == 0)
    return size, own // size


def training_arguments(training: Training, out_dir: Path, deepspeed: str | None) -> TrainingArguments:
    """`training` in transformers' words. The epochs are in the list of batches: the Trainer sees one."""
    cuda = torch.cuda.is_available()
    size, passes = share(training, processes_launched())
    settings = dict(
        output_dir=str(out_dir),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        num_train_epochs=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_ratio,  # below 1 it is a ratio
        weight_decay=training.weight_decay,
        adam_beta2=training.adam_beta2,
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
        ddp_backend=_backend(cuda),
        ddp_timeout=TIMEOUT,
        deepspeed=deepspeed,
    )
    with fitting(deepspeed):
        args = TrainingArguments(**settings)
    # Several GPUs in one process would mean DataParallel, which cannot split a list of visuals; torchrun can.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def check_deepspeed(path: str | None) -> None:
    """UserError: DeepSpeed or what the json at `path` needs is not there, or it would train otherwise than asked."""
    if path is None:
        return
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'videogpt_plus[train]'")
    config = read_object(require(path, "DeepSpeed json"), "name another one, such as scripts/zero2.json")
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise UserError(
                f"{path}: its '{name}' would replace the experiment's, which has a learning rate of its own for "
                "projectors and a cosine schedule; remove it there"
            )
    if _offloads(config):
        from torch.utils.cpp_extension import get_cxx_compiler

        if shutil.which(compiler := get_cxx_compiler()) is None:
            raise UserError(
                f"{path}: 'offload_optimizer' compiles an optimizer of DeepSpeed's when it first runs, and there is no "
                f"compiler '{compiler}'; install g++, or take scripts/zero3.json"
            )


def _offloads(config: dict) -> bool:
    """Whether DeepSpeed's own optimizer for CPUs steps in for AdamW."""
    zero = config.get("zero_optimization")
    offload = zero.get("offload_optimizer") if isinstance(zero, dict) else None
    on_cpu = isinstance(offload, dict) and offload.get("device", "none") != "none"
    return on_cpu and config.get("zero_force_ds_cpu_optimizer", True)


@contextmanager
def fitting(path: str | None) -> Iterator[None]:
    """Turns what transformers and DeepSpeed say of a json that does not fit the experiment into a UserError."""
    if path is None:
        yield
        return
    from deepspeed.runtime.config import DeepSpeedConfigError

    try:
        yield
    except (ValueError, DeepSpeedConfigError) as error:
        raise UserError(f"{path} does not fit the experiment: {' '.join(str(error).split())}") from error


@contextmanager
def old_names() -> Iterator[None]:
    """DeepSpeed calls collectives by names of which torch warns that they are old; within it, torch does not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        yield


@contextmanager
def plainly_named(folder: str) -> Iterator[str]:
    """The folder by a name without brackets and the like: DeepSpeed looks for its files by patterns."""
    if glob.escape(folder) == folder:
        yield folder
        return
    with TemporaryDirectory() as scratch:
        link = Path(scratch) / "checkpoint"
        link.symlink_to(Path(folder).resolve())
        yield str(link)


@contextmanager
def safe_pickles(folder: str) -> Iterator[None]:
    """Within it DeepSpeed's pickles build nothing but tensors and its own records. UserError: one wants to."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    forced = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # DeepSpeed asks for weights_only=False
    os.environ[forced] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except UnpicklingError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot read the checkpoint {folder}: {reason}; remove it") from error
    finally:
        del os.environ[forced]


def is_visual(name: str) -> bool:
    """Whether a parameter of the model belongs to a projector, or to a reducer that learns."""
    return name.startswith(("projectors.", "reducers."))


@contextmanager
def in_one_line() -> Iterator[None]:
    """A UserError of a data worker, as if it had been raised here: torch puts the worker's traceback into its text.

    UserError, too: a data worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            "a process that reads training data was ended, perhaps because memory ran out: run the same command again, "
            "it goes on from the last checkpoint; fewer --dataloader-num-workers need less"
        ) from error
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
        before_checkpoint: Callable[[], None],
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
        self.before_checkpoint = before_checkpoint
        self.shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        self.step_began = time.monotonic()

    def train(self, *args: Any, **options: Any) -> TrainOutput:
        """Trainer's own. UserError: see `in_one_line`."""
        with in_one_line(), old_names():
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
        return {**send_to_device(inputs, self.args.device), "loss_only": True}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Up to four groups: LoRA and projectors, each with weight decay on matrices and without on vectors."""
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        parameters = dict((model or self.model).named_parameters())
        # LoRA first: the log's lr is that of the first group.
        for name in sorted(self.shapes, key=is_visual):
            rate = self.projector_learning_rate if is_visual(name) else self.args.learning_rate
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

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """What trained, by parameter name, on the CPU. DeepSpeed's parts come together: call it in every process."""
        parameters = dict(self.model.named_parameters())
        if self.is_deepspeed_enabled:
            from deepspeed.utils import safe_get_full_fp32_param

            with old_names():  # what the optimizer steps; with bf16 the model itself holds rounded copies
                parameters = {name: safe_get_full_fp32_param(parameters[name]) for name in self.shapes}
        tensors = {name: parameters[name].detach().cpu().contiguous() for name in self.shapes}
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == self.shapes
        return tensors

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what trained into a checkpoint; the Trainer would gather the whole LLM under ZeRO-3."""
        tensors = self.trained_tensors()
        if self.args.should_save:
            save_tensors(Path(output_dir) / TRAINABLE, tensors)

    def _save_checkpoint(self, model: torch.nn.Module, trial: None) -> None:
        self.before_checkpoint()
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.deepspeed.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None
    ) -> tuple[torch.nn.Module, DataLoader]:
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        with fitting(self.args.deepspeed):
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            with safe_pickles(resume_from_checkpoint), plainly_named(resume_from_checkpoint) as folder:
                # Not strict, as the Trainer's own would be: checkpoints leave out what is frozen.
                loaded, _ = self.deepspeed.load_checkpoint(folder, load_module_strict=False)
            if not loaded:
                raise UserError(f"{resume_from_checkpoint} is none of DeepSpeed's: remove it and run the command again")
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        tensors = read_tensors(Path(resume_from_checkpoint) / TRAINABLE)
        parameters = dict(self.model.named_parameters())
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != self.shapes:
            raise UserError(f"{resume_from_checkpoint} is of another model: remove it and run the command again")
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)
