"""Forward, backward and optimizer step of one process: alone, or together with others that hold the same weights (DDP).

`zero.py` has the same interface for processes that divide the weights among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from videogpt_plus.io.tensors import read_tensors, save_tensors
from videogpt_plus.training.checkpoints import OPTIMIZER, TRAINABLE
from videogpt_plus.types import UserError


@dataclass(frozen=True)
class Update:
    """How a step changes the weights, by AdamW."""

    # Peak learning rates: of projectors and reducers, and of all else.
    learning_rate: float
    projector_learning_rate: float
    # Forward passes of a process by whose number the loss of each is divided.
    passes: int
    weight_decay: float
    # Whether vectors decay, too, and not matrices alone.
    decays_vectors: bool = False
    adam_beta2: float = 0.999
    # Gradient norm is clipped to this; 0 does not clip.
    max_grad_norm: float = 1.0
    # What is computed in, under autocast.
    dtype: torch.dtype = torch.float32
    # TF32 matrix products on a GPU.
    tf32: bool = True
    # One kernel for all weights. It rounds otherwise than AdamW without it.
    fused: bool = True


class Engine:
    """The part of one process that holds all weights in each step."""

    def __init__(self, model: nn.Module, update: Update, state: PartialState):
        self.update, self.device, self.writes = update, state.device, state.is_main_process
        self.model = model.to(self.device)
        self.called = self.model
        if state.num_processes > 1:
            own = [self.device.index] if self.device.type == "cuda" else None
            # A batch without a visual uses no projector.
            self.called = DistributedDataParallel(self.model, device_ids=own, find_unused_parameters=True)
        self.optimizer = torch.optim.AdamW(groups(model, update), fused=update.fused, betas=(0.9, update.adam_beta2))
        self.peaks = peaks(self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=update.dtype == torch.float16)

    def backward(self, batch: Mapping[str, Any], last: bool) -> Tensor:
        """Adds the gradients of a pass, of which `last` is the step's last; returns its part of the step's loss."""
        with nullcontext() if last or self.called is self.model else self.called.no_sync():
            with torch.autocast(self.device.type, self.update.dtype, enabled=self.update.dtype != torch.float32):
                loss = self.called(**send_to_device(batch, self.device), loss_only=True).loss
            loss = loss.float() / self.update.passes
            self.scaler.scale(loss).backward()
        return loss.detach()

    def step(self, rate: float) -> float | None:
        """Changes the weights at `rate` of the peak learning rates; returns the norm of the gradients.

        None: it is not finite in float16, so the step was left out and the loss is scaled down.
        """
        set_rates(self.optimizer, self.peaks, rate)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.update.max_grad_norm or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return None if self.scaler.is_enabled() and not norm.isfinite() else norm.item()

    def learning_rate(self) -> float:
        """Of the last step: LoRA's, or the projectors' where nothing else trains."""
        return self.optimizer.param_groups[0]["lr"]

    def save(self, checkpoint: Path) -> None:
        """Writes weights and the optimizer's state; every process calls it."""
        if self.writes:
            save_tensors(checkpoint / TRAINABLE, self.tensors())
            state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            torch.save(state, str(checkpoint / OPTIMIZER))

    def load(self, checkpoint: Path) -> None:
        """Reads what `save` wrote. UserError: it is of another model."""
        tensors, parameters = read_tensors(checkpoint / TRAINABLE), trained(self.model)
        if {name: t.shape for name, t in tensors.items()} != {name: p.shape for name, p in parameters.items()}:
            raise UserError(f"{checkpoint} is of another model: remove it and run the command again")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
        state = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def tensors(self) -> dict[str, Tensor]:
        """What trained, by parameter name, on the CPU; every process calls it."""
        return {name: p.detach().cpu().contiguous() for name, p in trained(self.model).items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that want a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_visual(name: str) -> bool:
    """Whether a parameter of the model belongs to a projector, or to a reducer that learns."""
    return name.startswith(("projectors.", "reducers."))


def groups(model: nn.Module, update: Update) -> list[dict[str, Any]]:
    """The optimizer's groups, at most four: LoRA and projectors, each with and without weight decay."""
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    # LoRA first: the log's lr is that of the first group.
    for name, parameter in sorted(trained(model).items(), key=lambda item: is_visual(item[0])):
        rate = update.projector_learning_rate if is_visual(name) else update.learning_rate
        decay = update.weight_decay if update.decays_vectors or parameter.ndim > 1 else 0.0
        found.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in found.items()]


def peaks(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each group."""
    return [group["lr"] for group in optimizer.param_groups]


def set_rates(optimizer: torch.optim.Optimizer, peaks: list[float], rate: float) -> None:
    """Each group's learning rate becomes `rate` of its peak."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * rate
