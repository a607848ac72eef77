"""DeepSpeed: what its json may say, and the engine of processes that divide weights and optimizer among them."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import get_int_from_env, send_to_device
from torch import Tensor, nn

from videogpt_plus.io.files import read_object, require
from videogpt_plus.training.engine import Engine, Update, groups, peaks, set_rates, trained
from videogpt_plus.types import UserError


def check_deepspeed(path: str | None) -> None:
    """UserError: DeepSpeed or what the json at `path` needs is not there, or it would train otherwise than asked."""
    if path is None:
        return
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'videogpt_plus[train]'")
    config = _read(path)
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


def zero_stage(path: str) -> int:
    """The stage of ZeRO in a DeepSpeed json; 0 where it says nothing of it."""
    return _section(_read(path), "zero_optimization").get("stage", 0)


def filled(path: str, update: Update, samples: int, processes: int, width: int) -> dict[str, Any]:
    """The json at `path` with the experiment's values for "auto" and for what it leaves out.

    `samples` is of a forward pass, `width` the LLM's, by which the sizes of buffers are chosen. UserError: the json
    states another value than the experiment.
    """
    config = _read(path)
    ours = {
        "train_micro_batch_size_per_gpu": samples,
        "gradient_accumulation_steps": update.passes,
        "train_batch_size": samples * update.passes * processes,
        "gradient_clipping": update.max_grad_norm,
        "bf16.enabled": update.dtype == torch.bfloat16,
        "fp16.enabled": False,
    }
    sizes = {
        "zero_optimization.reduce_bucket_size": width**2,
        "zero_optimization.stage3_prefetch_bucket_size": int(0.9 * width**2),
        "zero_optimization.stage3_param_persistence_threshold": 10 * width,
    }
    for name, value in (ours | sizes).items():
        *section, key = name.split(".")
        place = _section(config, *section)
        if place.get(key, "auto" if name in ours else None) == "auto":
            place[key] = value
        elif name in ours and place[key] != value:
            raise UserError(
                f'{path} does not fit the experiment: {name} is {place[key]} there and {value} here; write "auto" there'
            )
    return {**config, "steps_per_print": float("inf"), "zero_allow_untested_optimizer": True}


def _read(path: str) -> dict[str, Any]:
    return read_object(require(path, "DeepSpeed json"), "name another one, such as scripts/zero2.json")


def _section(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """The object of that name within `config`, added where there is none, or `config` itself."""
    for name in names:
        if not isinstance(config.setdefault(name, {}), dict):
            raise UserError(f"'{name}' of a DeepSpeed json must be an object, not {config[name]!r:.60}")
        config = config[name]
    return config


def _offloads(config: dict[str, Any]) -> bool:
    """Whether DeepSpeed's own optimizer for CPUs replaces AdamW."""
    offload = _section(config, "zero_optimization").get("offload_optimizer")
    on_cpu = isinstance(offload, dict) and offload.get("device", "none") != "none"
    return on_cpu and config.get("zero_force_ds_cpu_optimizer", True)


class Zero(Engine):
    """The engine of a process that holds its part of what trains, by ZeRO of any stage."""

    def __init__(self, model: nn.Module, update: Update, state: PartialState, path: str, samples: int):
        config = filled(path, update, samples, state.num_processes, model.llm.config.hidden_size)
        deepspeed = _imported()
        from deepspeed.runtime.config import DeepSpeedConfigError

        keep_frozen_apart(model, state.device, zero_stage(path))
        self.model, self.update, self.device = model, update, state.device
        self.shapes = {name: p.shape for name, p in trained(model).items()}
        try:
            with old_names():
                self.engine, self.optimizer, *_ = deepspeed.initialize(
                    model=model, optimizer=_optimizer(model, update, config), config=config
                )
        except (ValueError, DeepSpeedConfigError) as error:
            raise UserError(f"{path} does not fit the experiment: {' '.join(str(error).split())}") from error
        self.peaks = peaks(self.optimizer)

    def backward(self, batch: Mapping[str, Any], last: bool) -> Tensor:  # noqa: D102
        loss = self.engine(**send_to_device(batch, self.device), loss_only=True).loss
        self.engine.backward(loss)  # which divides it by the passes of a step
        if not last:
            self.engine.step()  # which but counts the pass
        return loss.detach().float() / self.update.passes

    def step(self, rate: float) -> float | None:  # noqa: D102
        set_rates(self.optimizer, self.peaks, rate)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def save(self, checkpoint: Path) -> None:  # noqa: D102
        self.engine.save_checkpoint(str(checkpoint), exclude_frozen_parameters=True)

    def load(self, checkpoint: Path) -> None:  # noqa: D102
        with safe_pickles(checkpoint), plainly_named(checkpoint) as folder:
            # Not strict: checkpoints leave out what is frozen.
            loaded, _ = self.engine.load_checkpoint(folder, load_module_strict=False)
        if not loaded:
            raise UserError(f"{checkpoint} is none of DeepSpeed's: remove it and run the command again")

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        from deepspeed.utils import safe_get_full_fp32_param

        parameters = dict(self.model.named_parameters())
        with old_names():  # what the optimizer steps; with bf16 the model itself holds rounded copies
            whole = {name: safe_get_full_fp32_param(parameters[name]) for name in self.shapes}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in whole.items()}
        assert {name: tensor.shape for name, tensor in tensors.items()} == self.shapes
        return tensors


def _imported() -> Any:
    """DeepSpeed, told that a process is alone where torchrun did not start it."""
    import deepspeed

    if get_int_from_env(["RANK"], -1) < 0:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})
    return deepspeed


def _optimizer(model: nn.Module, update: Update, config: dict[str, Any]) -> torch.optim.Optimizer:
    betas = (0.9, update.adam_beta2)
    if _offloads(config):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups(model, update), betas=betas, adamw_mode=True)
    return torch.optim.AdamW(groups(model, update), fused=update.fused, betas=betas)


def keep_frozen_apart(model: nn.Module, device: torch.device, stage: int) -> None:
    """Takes encoders, and reducers that learn nothing, out of the modules that DeepSpeed divides, hooks and saves.

    ZeRO-3 stops when processes call other modules, and how often these are called depends on a batch's visuals.
    UserError: a reducer learns, and ZeRO-3 would divide its weights.
    """
    learns = any(p.requires_grad for p in model.reducers.parameters())
    if learns and stage == 3:
        raise UserError(
            "the reducer learns, and how often it is called depends on a batch's visuals, at which DeepSpeed's ZeRO-3 "
            "stops: take a ZeRO-2 json, such as scripts/zero2.json"
        )
    for name in ("encoders",) if learns else ("encoders", "reducers"):
        part = getattr(model, name).to(device)
        assert not any(p.requires_grad for p in part.parameters()), f"{name} train: DeepSpeed has to know them"
        delattr(model, name)
        object.__setattr__(model, name, part)  # Module's own would register it again


@contextmanager
def old_names() -> Iterator[None]:
    """DeepSpeed calls collectives by names of which torch warns that they are old; within it, torch does not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        yield


@contextmanager
def plainly_named(folder: Path) -> Iterator[str]:
    """The folder by a name without brackets and the like: DeepSpeed looks for its files by patterns."""
    if glob.escape(str(folder)) == str(folder):
        yield str(folder)
        return
    with TemporaryDirectory() as scratch:
        link = Path(scratch) / "checkpoint"
        link.symlink_to(folder.resolve())
        yield str(link)


@contextmanager
def safe_pickles(folder: str | Path) -> Iterator[None]:
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
