"""How one stage is trained."""

from __future__ import annotations

from dataclasses import dataclass

from videogpt_plus.config.bounds import check_numbers


@dataclass(frozen=True)
class Training:
    """One training stage, in the names of transformers' TrainingArguments."""

    # Dataset mixture, a name in `mixtures.MIXTURES`.
    data: str
    # Peak learning rate: of the projectors in pre-training, of LoRA in fine-tuning.
    learning_rate: float = 1e-3
    # Peak learning rate of the projectors in fine-tuning; None uses `learning_rate`.
    projector_learning_rate: float | None = None
    # Samples a device and forward pass; fewer where a step has not that many for every device.
    per_device_train_batch_size: int = 16
    # Forward passes a step, of all devices together: a step has as many samples on eight devices as on one.
    gradient_accumulation_steps: int = 1
    # Passes over the data.
    num_train_epochs: float = 1.0
    # Stops earlier than the epochs say; -1 is no limit.
    max_steps: int = -1
    # Schedule after the warm-up: cosine, linear or constant.
    lr_scheduler_type: str = "cosine"
    # Part of the steps that warm up.
    warmup_ratio: float = 0.03
    # AdamW's weight decay.
    weight_decay: float = 0.0
    # AdamW's memory of squared gradients.
    adam_beta2: float = 0.999
    # Gradient norm is clipped to this.
    max_grad_norm: float = 1.0
    # Computes in bfloat16 under autocast; weights of the frozen parts are held in bfloat16.
    bf16: bool = True
    # TF32 matrix products on a GPU.
    tf32: bool = True
    # Recomputes the LLM's layers in the backward pass.
    gradient_checkpointing: bool = True
    # Text tokens of a sample at most; longer ones are cut at the end.
    model_max_length: int = 4096
    # Batches hold samples of one modality and similar length.
    group_by_modality_length: bool = False
    # A checkpoint every so many steps.
    save_steps: int = 500
    # Order of the data, initial projectors, LoRA and dropout.
    seed: int = 42

    def __post_init__(self) -> None:
        check_numbers(
            self, dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "save_steps"), 1)
        )
        check_numbers(self, {"model_max_length": 1, "max_steps": -1, "seed": 0}, {"seed": 2**32 - 1})
        check_numbers(self, dict.fromkeys(("learning_rate", "num_train_epochs", "weight_decay", "max_grad_norm"), 0))
        check_numbers(self, {"warmup_ratio": 0, "adam_beta2": 0}, {"warmup_ratio": 1, "adam_beta2": 1})
        if self.projector_learning_rate is not None:
            check_numbers(self, {"projector_learning_rate": 0})


@dataclass(frozen=True)
class Pretraining(Training):
    """The training of one branch's projector, which is asked and shown still images in a way of its own."""

    # Conversation template, a name in `chat.TEMPLATES`.
    template: str = "plain"
    # How a still image becomes square: "pad" or "crop".
    stills: str = "crop"
