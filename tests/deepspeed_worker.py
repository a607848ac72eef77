"""The command line with tiny experiments in it: `python deepspeed_worker.py ROOT [TROUBLE] COMMAND ...`.

ROOT holds `experiments.pickle` (by name) and the samples of train_worker. TROUBLE is `--dies` (the first process,
when all of its second checkpoint but COMPLETE is written) or `--fails` (the second process alone, in its third step).
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from outside_reducer import Latents
from train_worker import die, second_call, tiny_mixtures

from videogpt_plus.app import cli
from videogpt_plus.config import experiments, mixtures
from videogpt_plus.reducers import register
from videogpt_plus.training import data, loop
from videogpt_plus.types import UserError


def failing_in_the_third_step(encode: Callable[..., data.Encoded]) -> Callable[..., data.Encoded]:
    """`encode` of a dataset, until two steps of two samples are read."""
    read = count(1)

    def encode_or_fail(*sample: object) -> data.Encoded:
        if next(read) > 4:
            raise UserError("the second process is out of luck")
        return encode(*sample)

    return encode_or_fail


def main(root: Path, command: list[str]) -> None:
    register("latents", Latents)
    experiments.EXPERIMENTS.update(pickle.loads((root / "experiments.pickle").read_bytes()))
    mixtures.MIXTURES.update(tiny_mixtures(root))
    if "--deepspeed" in command:
        import deepspeed.ops

        # DeepSpeed would compile it for most of a minute, and nothing in a training on CPUs needs it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if "--dies" in command:
        loop.mark_complete = second_call(loop.mark_complete, die)
    if "--fails" in command and os.environ["RANK"] == "1":
        data.Conversations.encode = failing_in_the_third_step(data.Conversations.encode)
    cli.main([word for word in command if word not in ("--dies", "--fails")])
    assert os.environ.get("WORLD_SIZE", "1") == "1" or not torch.distributed.is_initialized(), "the group has to end"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
