"""The processes that train together, and what becomes of the others when one fails."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import get_int_from_env
from torch.distributed import DistBackendError, DistNetworkError

from videogpt_plus.types import UserError

#: Seconds that one process waits for another: rank 0 may take so long to write or to load.
TIMEOUT = 1800
#: Seconds in which torchrun ends a process after another one failed.
PATIENCE = 10
#: In the text of what gloo raises when a connection is lost.
GLOO = "/gloo/"


def join() -> PartialState:
    """The group of processes that torchrun started, or this one alone."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns of it wherever it is installed
    backend = "gloo" if not cuda and processes_launched() > 1 else None  # otherwise accelerate knows
    return PartialState(cpu=not cuda, backend=backend, timeout=timedelta(seconds=TIMEOUT))


def leave() -> None:
    """Ends the group of several processes, all of whose work is done.

    A process that ends while the group's threads still run may end by an abort: torchrun then calls a finished
    training a failed one.
    """
    if processes_launched() > 1 and dist.is_initialized():
        dist.destroy_process_group()


def processes_launched() -> int:
    """How many processes train together: what torchrun told this one, 1 without it."""
    return get_int_from_env(["WORLD_SIZE"], 1)


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
            "was killed; then run the same command again: it resumes from the last checkpoint"
        ) from error


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
            "it resumes from the last checkpoint; fewer --dataloader-num-workers need less"
        ) from error
    except UserError as error:
        *traceback, last = str(error).rstrip().split("\n")
        if not traceback:
            raise
        raise UserError(last.partition("Error: ")[2]) from error
