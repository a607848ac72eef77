"""Two processes that share every layer give the logits of one, on CPUs over gloo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest
import torch
from clips import coded_frames, render_mp4

from videogpt_plus.models.tensor_parallel import agreed, check_shares, columns, rows, world
from videogpt_plus.types import UserError

WORKER = Path(__file__).with_name("parallel_worker.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
FAMILIES = ("cogvlm2_image", "cogvlm2_video", "llava15")
#: Largest difference of logits of about 10; shares are added up in another order.
CLOSE = 3e-5


def call(
    *command: object, launcher: tuple[str, ...] = TORCHRUN, code: int = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    here = str(WORKER.parent)
    processes = subprocess if launcher == TORCHRUN else fork_server
    done = processes.run(
        [*launcher, *map(str, command)],
        env={**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}:{WORKER.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> dict[str, list[dict]]:
    """What one process and what two find, by family: [alone, first, second]."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    call(WORKER, one, *FAMILIES, launcher=(sys.executable,))
    call(WORKER, two, *FAMILIES)
    files = {family: [one / f"{family}.0.pt", two / f"{family}.0.pt", two / f"{family}.1.pt"] for family in FAMILIES}
    return {family: [torch.load(path, weights_only=True) for path in paths] for family, paths in files.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_give_the_logits_and_the_answer_of_one(out, family):
    alone, *shares = out[family]
    for share in shares:
        torch.testing.assert_close(share["logits"], alone["logits"], atol=CLOSE, rtol=0)
        torch.testing.assert_close(share["grids"], alone["grids"], atol=CLOSE, rtol=0)
        assert share["answer"] == alone["answer"] and len(alone["answer"]) > 1
    assert torch.equal(shares[0]["logits"], shares[1]["logits"]), "processes that differ would wait for each other"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_process_holds_about_half_of_what_is_shared(out, family):
    alone, *shares = out[family]
    assert shares[0]["weights"] == shares[1]["weights"] < 0.9 * alone["weights"]
    for share in shares:
        assert "3 processes cannot share" in share["refused"] and "start one of: 1, 2" in share["refused"]


def test_the_command_line_under_torchrun_answers_once_and_as_one_process(tmp_path):
    clip = tmp_path / "clip.mp4"
    render_mp4(clip, coded_frames(60), 20)
    command = ("predict", "toy_cogvlm2_video", "What is it?", "--video", clip, "--max-new-tokens", "4")
    cli = ("-m", "videogpt_plus")
    alone = call(*cli, *command, launcher=(sys.executable,), cwd=tmp_path)
    both = call(*cli, *command, cwd=tmp_path)
    assert both.stdout == alone.stdout != ""
    told = [re.findall(r"toy_cogvlm2_video: weights ([\d.]+) MiB", done.stderr) for done in (alone, both)]
    (whole,), (share,) = told
    assert float(share) < 0.9 * float(whole), "what each of the two processes takes"
    refused = call(*cli, "answer", "toy_cogvlm2_video", cwd=tmp_path, code=1).stderr
    assert "answer writes one file in one process" in refused


# ------------------------------------------------------------------------------------------------ the cut itself
def test_sections_are_cut_one_by_one():
    fused = torch.nn.Linear(4, 12)
    whole, bias = fused.weight.data.clone(), fused.bias.data.clone()
    rows(fused, 1, 2, [8, 2, 2])
    own = [4, 5, 6, 7, 9, 11]  # the second half of q, of k and of v
    assert torch.equal(fused.weight, whole[own]) and torch.equal(fused.bias, bias[own]) and fused.out_features == 6


def test_shares_of_a_last_layer_add_up_with_its_bias_once():
    x, whole = torch.randn(3, 8), torch.nn.Linear(8, 5)
    shares = []
    for rank in range(4):
        own = torch.nn.Linear(8, 5)
        own.load_state_dict(whole.state_dict())
        columns(own, rank, 4)
        shares.append(own(x[:, 2 * rank : 2 * rank + 2]))
    torch.testing.assert_close(sum(shares), whole(x))


def test_what_cannot_be_shared_is_refused_with_what_can():
    check_shares(4, {"heads": 32, "key-value heads": 8})
    with pytest.raises(UserError, match="16 processes cannot share 8 key-value heads evenly; start one of: 1, 2, 4, 8"):
        check_shares(16, {"heads": 32, "key-value heads": 8})


def test_one_process_is_a_world_of_its_own():
    assert world() == (0, 1) and agreed(7) == 7
