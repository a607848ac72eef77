"""One of the processes that share a tiny recorded model: `torchrun parallel_worker.py OUT FAMILY ...`.

Each writes its logits, answer and number of weights to OUT/FAMILY.RANK.pt; without torchrun there is one, number 0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from parity.cogvlm2 import Recordings
from parity.llava import Recordings as LlavaRecordings
from test_cogvlm2 import prompts_of

from videogpt_plus.families import family_of
from videogpt_plus.models.tensor_parallel import processes, world
from videogpt_plus.types import IGNORE, UserError

ROOT = Path(__file__).parent / "golden_families"


@torch.inference_mode()
def share(family: str, out: Path, work: Path) -> None:
    rank, size = world()
    if family == "llava15":
        model = LlavaRecordings(ROOT / family, work).model("hub")
        row, visuals = list(range(3, 20)), []
    else:
        recordings = Recordings(ROOT / family, work)
        model, name = recordings.fresh(), next(iter(recordings.conversations["media_recipes"]))
        (row,), (visuals,) = prompts_of(recordings, ["How many people are there in it?"], [name])
    refused = ""
    if size > 1:
        shard = family_of(family).function("shard")
        try:
            shard(model, rank, 3)
        except UserError as error:
            refused = str(error)
        shard(model, rank, size)
    ids = torch.tensor([row])
    found = {
        "logits": model(ids, torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE), [visuals]).logits,
        "grids": model.encode(visuals)[0][model.stream] if visuals else torch.zeros(1),
        "answer": list(model.stream_ids(row, visuals, 8)),
        "weights": sum(p.numel() for p in model.parameters()),
        "refused": refused,
    }
    torch.save(found, out / f"{family}.{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes(), TemporaryDirectory() as scratch:
        for named in sys.argv[2:]:
            share(named, Path(sys.argv[1]), Path(scratch))
