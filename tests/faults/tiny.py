"""A tiny model and its trainings, which nobody disturbed: what disturbed ones are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from clips import coded_frames, render_mp4
from conftest import make_tiny_experiment
from train_worker import tiny_mixtures, tiny_training, write_samples

from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.training import stages

CLIPS = 4


@dataclass(frozen=True)
class Tiny:
    """What trainings and answers need."""

    experiment: Experiment
    #: Captions and questions to train on, with their pictures.
    samples: Path
    #: Folders of the trainings "image", "video" and "finetune".
    straight: dict[str, Path]

    def arguments(self, stage: str, folder: Path) -> dict:
        """Those of `train.pretrain` (of the image stream) or `train.finetune` into a folder."""
        starts = {name: self.straight[name] for name in ("image", "video")}
        given = {"stream_name": "image"} if stage == "pretrain" else {"projectors": starts}
        return {"experiment": self.experiment, "out_dir": folder, **given}

    def expected(self, stage: str) -> Path:
        return self.straight["image" if stage == "pretrain" else stage]


@contextmanager
def tiny(root: Path, questions: int) -> Iterator[Tiny]:
    """Makes all of it below a folder; its mixtures are known as long as the context lasts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    samples, names = root / "samples", ("image", "video", "finetune")
    samples.mkdir()
    write_samples(samples)
    added = tiny_mixtures(samples)
    mixtures.MIXTURES.update(added)
    try:
        bench = write_bench(root / "bench", questions)
        experiment = replace(tiny_training(make_tiny_experiment(root / "parts")), benchmark_root=str(bench))
        made = Tiny(experiment, samples, {name: root / name for name in names})
        for stream in ("image", "video"):
            stages.pretrain(experiment, stream, root / stream)
        stages.finetune(**made.arguments("finetune", root / "finetune"))
        yield made
    finally:
        for name in added:
            del mixtures.MIXTURES[name]
        torch.set_num_threads(threads)


def write_bench(root: Path, questions: int) -> Path:
    """A benchmark of one task, with so many questions about CLIPS clips."""
    (root / "json").mkdir(parents=True)
    for number in range(CLIPS):
        render_mp4(root / "video" / f"{number}.mp4", coded_frames(10 + number), 10)
    asked = [
        {"video": f"{i % CLIPS}.mp4", "question": f"What is {i}?", "candidates": ["a cup", "a hat"], "answer": "a cup"}
        for i in range(questions)
    ]
    (root / "json" / "clip.json").write_text(json.dumps(asked))
    (root / "tasks.json").write_text(json.dumps({"clip": {"folder": "video"}}))
    return root


def trained(folder: Path) -> dict[str, object]:
    """All that two trainings share: the bytes of every file, and their logs but for the seconds."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "log.jsonl"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in log]
    return {"log.jsonl": lines, **{str(p.relative_to(folder)): p.read_bytes() for p in paths}}


def answered(path: Path) -> bytes:
    """What answers say, in the order of their keys: their seconds and order depend on the machine."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if not key.startswith("seconds")} for line in lines]
    return "".join(json.dumps(line) + "\n" for line in sorted(kept, key=lambda line: line["key"])).encode()


def differing(found: dict[str, object], wanted: dict[str, object]) -> str | None:
    """Which files are not the same; None where all are."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"these differ: {', '.join(names)}" if names else None
