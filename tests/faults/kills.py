"""Trainings and answering that are killed with kill -9, gone on with, and compared with what nobody disturbed."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fork_server
from train_worker import Job

from videogpt_plus.training import stages

from .lines import ROOT, refused
from .tiny import Tiny, answered, differing, trained

#: Stages and what a training is killed at; pre-training's only final file is its weights.
DEATHS = [(stage, dies) for dies in ("running", "saving", "marking") for stage in ("pretrain", "finetune")]
DEATHS.append(("finetune", "finishing"))
WORKER = Path(__file__).parents[1] / "train_worker.py"
#: Kills that one file of answers lives through.
KILLS_A_RUN = 8
#: Trainings that one process forks and kills: it takes longer to start than they do.
KILLS_A_WORKER = 10


def kill_trainings(tiny: Tiny, root: Path, count: int) -> Iterator[tuple[str, str | None]]:
    """Kills so many trainings, each once, and goes on with them; yields a name and what differs then."""
    root.mkdir()
    jobs = [_job(tiny, root / str(i), *DEATHS[i % len(DEATHS)]) for i in range(count)]
    for first in range(0, count, KILLS_A_WORKER):
        some = jobs[first : first + KILLS_A_WORKER]
        (root / "jobs").write_bytes(pickle.dumps(some))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        fork_server.run([sys.executable, WORKER, root / "jobs"], check=True, timeout=600, env=environment)
        for number, job in enumerate(some, first + 1):
            yield f"training {number}: {job.stage} killed while {job.dies}", _gone_on_with(tiny, job)


def _job(tiny: Tiny, folder: Path, stage: str, dies: str) -> Job:
    return Job(stage, tiny.arguments(stage, folder), tiny.samples, dies)


def _gone_on_with(tiny: Tiny, job: Job) -> str | None:
    folder = job.arguments["out_dir"]
    if (folder / "projectors.safetensors").exists():
        return "it was finished before it was killed"
    getattr(stages, job.stage)(**job.arguments)
    return differing(trained(folder), trained(tiny.expected(job.stage)))


def answer_words(run: Path) -> list[str]:
    return ["answer", str(run), "--workers", "0"]


def whole_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_answers(tiny: Tiny, root: Path, count: int, questions: int) -> Iterator[tuple[str, str | None]]:
    """Kills answering so often, KILLS_A_RUN times a run; yields a name and what is wrong, at the end of a run.

    Each kill comes at a random moment after a few more answers.
    """
    moments = random.Random(0)
    straight, killed = copied(tiny, root / "straight"), None
    refused(answer_words(straight))
    for number in range(count):
        if number % KILLS_A_RUN == 0:
            killed = copied(tiny, root / f"killed{number}")
        path = killed / "answers" / "answers.jsonl"
        wanted = whole_lines(path) + moments.randint(0, max(1, questions // KILLS_A_RUN - 2))
        command = [sys.executable, "-m", "videogpt_plus", *answer_words(killed)]
        process = fork_server.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and whole_lines(path) < wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.wait()
        kept = whole_lines(path)
        told = None if process.returncode == -9 else f"it ended before it was killed: exit code {process.returncode}"
        if number % KILLS_A_RUN == KILLS_A_RUN - 1 or number == count - 1:
            code, said = refused(answer_words(killed))
            told = told or (said if code else compared(killed, straight))
        yield f"answering {number + 1}: killed after {kept} of {questions}", told


def copied(tiny: Tiny, folder: Path) -> Path:
    """A run folder of its own that nobody asked yet, of the fine-tuned model's weights."""
    folder.mkdir(parents=True)
    for file in tiny.straight["finetune"].iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def compared(killed: Path, straight: Path) -> str | None:
    names = ("answers.jsonl", "answers.meta.json")
    found, wanted = ({name: read(folder / "answers" / name) for name in names} for folder in (killed, straight))
    left = [path.name for path in killed.rglob("*.part")]
    return f"half-written files were left: {left}" if left else differing(found, wanted)


def read(path: Path) -> bytes:
    return answered(path) if path.suffix == ".jsonl" else path.read_bytes()
