"""Model card and upload of a run folder; the Hub is a server on this machine that writes down what it is asked."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from videogpt_plus.config.experiment import Lora, with_settings
from videogpt_plus.config.experiments import QWEN_3B, TOY, TOY_WEIGHTS, at_level, get_experiment
from videogpt_plus.hub import push
from videogpt_plus.io.files import located
from videogpt_plus.training.card import model_card
from videogpt_plus.training.folder import describe
from videogpt_plus.training.stages import pretraining_experiment
from videogpt_plus.types import UserError


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run folder of the packaged toy, with what must stay at home beside it."""
    folder = Path(shutil.copytree(located(f"{TOY_WEIGHTS}/runs/toy_pool2"), tmp_path / "toy_pool2"))
    describe(folder, at_level(TOY, 2))
    steps = [{"step": i, "loss": 2.5 - i, "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.1} for i in (1, 2)]
    lines = [{"experiment": "toy_pool2", "samples": 64}, *steps]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "answers").mkdir()
    (folder / "answers/answers.jsonl").write_text("{}\n")
    macro = {"accuracy": 0.625, "ci_low": 0.6, "ci_high": 0.65}
    scores = {"control": None, "overall": {"n": 400, "macro": macro}, "tasks": {}}
    (folder / "answers/scores.json").write_text(json.dumps(scores))
    for name in ("checkpoint-2/trainable.safetensors", "cell.json", "substituted.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


UPLOADED = {
    *("README.md", "experiment.json", "projectors.safetensors", "adapter_model.safetensors", "adapter_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "log.jsonl", "answers/scores.json"),
}


class Hub(ThreadingHTTPServer):
    """Answers as the Hub does to a new repository and a commit of regular files; `asked` holds (method, path, body)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Desk)
        self.asked: list[tuple[str, str, bytes]] = []
        self.tokens: set[str | None] = set()
        #: Status of every answer; 200 unless a test refuses.
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for _, asked, body in self.asked if asked == path]


class Desk(BaseHTTPRequestHandler):
    server: Hub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        self.server.asked.append((self.command, self.path, body))
        self.server.tokens.add(self.headers.get("Authorization"))
        told = json.dumps(self.told(body)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = answer  # noqa: N815

    def chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def told(self, body: bytes) -> dict:
        if self.path == "/api/repos/create":
            return {"url": f"{self.server.address}/me/toy", "name": "me/toy"}
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if self.path.endswith("/commit/main"):
            return {"commitUrl": f"{self.server.address}/me/toy/commit/0", "commitOid": "0", "hookOutput": ""}
        return {"errors": [], "warnings": []}  # of the check of README.md's header

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def pushed(run: Path, endpoint: str, *more: str, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, for huggingface_hub reads its environment when it is imported."""
    command = [sys.executable, "-m", "videogpt_plus", "push", str(run), "me/toy", *more]
    told = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", **environment}
    told.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=120)


def test_a_run_is_pushed_in_one_commit_without_checkpoints_and_answers(run, hub):
    done = pushed(run, hub.address, "--private")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.address}/me/toy" in done.stdout
    created = json.loads(hub.bodies("/api/repos/create")[0])
    assert (created["name"], created["organization"]) == ("toy", "me")
    assert created.get("private") is True or created.get("visibility") == "private"
    (commit,) = hub.bodies("/api/models/me/toy/commit/main")
    header, *files = [json.loads(line) for line in commit.splitlines()]
    assert header["value"]["summary"] == "Upload toy_pool2"
    content = {f["value"]["path"]: base64.b64decode(f["value"]["content"]) for f in files}
    assert content.keys() == UPLOADED
    assert all(content[name] == (run / name).read_bytes() for name in UPLOADED)
    assert "Bearer hf_secret" in hub.tokens and b"hf_secret" not in commit


def test_the_card_is_written_anew_and_tells_the_scores(run, hub):
    assert "## Scores" not in (run / "README.md").read_text()
    assert pushed(run, hub.address).returncode == 0
    created = json.loads(hub.bodies("/api/repos/create")[0])
    assert not created.get("private") and created.get("visibility") != "private"
    assert "| all frames | 400 | 62.5 | 60.0 to 65.0 |" in (run / "README.md").read_text()


def judged(folder: Path, name: str, judge: str, mean: float | None) -> None:
    """Scores as a judge's run leaves them, cut to two aspects."""
    row = {"n": 9, "n_expected": 10, "mean": mean, "ci_low": mean and mean - 0.5, "ci_high": mean and mean + 0.5}
    scores = {
        "control": "one_frame",
        "benchmark": "vcgbench",
        "judge": {"judge_model": judge, "prompt_hash": "abc123"},
        "overall": {"n": 18, "mean": mean},
        "aspects": {"detail": row, "temporal": row},
    }
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(scores))


def test_the_card_tells_the_scores_of_every_judge_by_aspect(run):
    folder = run / "answers_vcgbench_one_frame"
    judged(folder, "scores.json", "judge-one", 3.25)
    judged(folder, "scores_judge-two_abc.json", "judge-two", None)
    card = model_card(at_level(TOY, 2), run)
    for aspect in ("detail", "temporal"):
        line = f"one frame | {aspect} | 9 of 10 |"
        assert f"| vcgbench | judge-one, prompts abc123 | {line} 3.25 | 2.75 to 3.75 |" in card
        assert f"| vcgbench | judge-two, prompts abc123 | {line} none |  |" in card
    assert "| `.cache/toy/bench` | all frames | 400 | 62.5 | 60.0 to 65.0 |" in card
    assert "| MVBench | all frames | 400 |" in model_card(at_level(QWEN_3B, 2), run)


def test_a_limited_trial_is_in_no_card_and_stays_at_home(run, hub):
    trial = {"control": None, "overall": {"n": 2, "macro": {"accuracy": 1.0, "ci_low": 0.9, "ci_high": 1.0}}}
    for name in ("answers_first2", "answers_blind_first2"):
        (run / name).mkdir()
        (run / name / "scores.json").write_text(json.dumps(trial))
    judged(run / "answers_vcgbench_first2", "scores.json", "judge-one", 3.25)
    card = model_card(at_level(TOY, 2), run)
    assert "100.0" not in card and "judge-one" not in card and "| all frames | 400 |" in card
    assert pushed(run, hub.address).returncode == 0
    (commit,) = hub.bodies("/api/models/me/toy/commit/main")
    assert b"answers/scores.json" in commit and b"first2" not in commit


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses_is_one_line(status, run, hub):
    hub.status = status
    done = pushed(run, hub.address)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: cannot push to 'me/toy': ") and str(status) in done.stderr
    assert "Traceback" not in done.stderr and "hf_secret" not in done.stderr


def test_a_hub_that_is_not_there_is_one_line(run):
    done = pushed(run, "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "error: cannot push to 'me/toy': [Errno 111] Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfinished_run_and_an_impossible_name_are_refused(run):
    before = (run / "README.md").read_bytes()
    with pytest.raises(UserError, match="'two/slashes/here' is no name of a repository"):
        push(run, "two/slashes/here")
    assert (run / "README.md").read_bytes() == before, "the name is checked before the card is written"
    (run / "projectors.safetensors").unlink()
    with pytest.raises(UserError, match="is not finished: it has no projectors.safetensors"):
        push(run, "me/toy")


def test_the_card_tells_what_it_is_made_of_how_trained_and_how_to_use(run):
    finetune = replace(TOY.training, data="TOY_FINETUNING", learning_rate=5e-4, projector_learning_rate=2e-5)
    experiment = with_settings(
        at_level(TOY, 2), {"source.finetune": finetune, "source.lora": Lora(r=16, alpha=32, dropout=0.0)}
    )
    card = model_card(experiment, run)
    for told in (
        "# toy_pool2",
        "sees 8 frames of a clip as 416 visual tokens",
        "the reducer average at level 2",
        "| LLM | `package:toy/weights/llm` | its own |",
        "96 px, 12 x 12 patches a frame, reduced to 6 x 6; projector mlp2x_gelu",
        "| data | TOY_FINETUNING: `questions.json` |",
        "| LoRA | r 16, alpha 32, dropout 0 |",
        "| learning rate | 0.0005, projectors 2e-05 |",
        "| length | 2 steps over 64 samples |",
        "| last loss | 0.5000 |",
        "videogpt-plus predict FOLDER",
        "## Licence",
    ):
        assert told in card
    assert str(run) not in card and card == model_card(experiment, run)


def test_the_card_names_published_parts_and_their_licences(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    card = model_card(at_level(QWEN_3B, 4), tmp_path)
    header = card.split("---")[1]
    assert "base_model:\n- Qwen/Qwen2.5-3B-Instruct\n- openai/clip-vit-large-patch14-336\n- OpenGVLab/" in header
    assert "832 visual tokens" in card
    assert "| Qwen Research License: not for commercial use |" in card


def test_the_card_of_a_pre_training_says_that_it_answers_nothing(tmp_path):
    stage = pretraining_experiment(get_experiment("qwen1_5b"), "video")
    card = model_card(stage, tmp_path)
    assert "The pre-trained projector of the video stream" in card and "--projectors video=FOLDER" in card
    assert "LoRA |" not in card and "predict" not in card


def test_the_tokenizer_in_a_run_folder_is_the_llm_s_byte_for_byte(run):
    llm = located(TOY.llm)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        assert (run / name).read_bytes() == (llm / name).read_bytes()
