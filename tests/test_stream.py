"""An answer comes in pieces of whole characters that make the answer, and a terminal sees each as it comes."""

from __future__ import annotations

import os
import pty
import random
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest
from clips import coded_frames, render_mp4
from torch import nn
from transformers import AutoTokenizer

from eval.tasks.task import Example
from videogpt_plus import inference
from videogpt_plus.config.experiments import TOY_WEIGHTS
from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.io.files import located
from videogpt_plus.models.base import VisionLM
from videogpt_plus.types import Question, UserError

HERE = Path(__file__).parent
RUN = located(f"{TOY_WEIGHTS}/runs/toy_pool2")
#: Llama-3's kind, which asks for cleaning up; Qwen2's; and Llama-2's, where a rare character is a token a byte.
TOKENIZERS = ["golden_families/cogvlm2_tokenizer", "golden/tokenizer", "golden_families/llava15/tokenizer_hf"]
TEXTS = [
    "The cup stands left of it .  It's red, isn't it ? Yes !",
    "  a video \n\n with spaces \t ",
    "红色的杯子在左边。它在动吗？",
    "émigré naïve 🎬👩‍👩‍👧 ½\u3000",
    "",
    "(A)",
]


class Speaker(VisionLM):
    """The text side of a model alone."""

    def __init__(self, folder: str):
        nn.Module.__init__(self)
        self.tokenizer = AutoTokenizer.from_pretrained(HERE / folder, local_files_only=True)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


@pytest.fixture(scope="module", params=TOKENIZERS)
def speaker(request) -> Speaker:
    return Speaker(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_make_the_text(speaker, text):
    ids = [*speaker.ids(text), speaker.tokenizer.eos_token_id]
    pieces = list(speaker.pieces(ids))
    assert "".join(pieces) == speaker.text_of(ids) == text.strip()
    assert all(pieces) and not any("\ufffd" in piece for piece in pieces)


def test_ids_in_any_order_make_the_text_that_they_are(speaker):
    """Halves of characters too, and bytes that are none."""
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(len(speaker.tokenizer)) for _ in range(draw.randrange(1, 30))]
        if draw.random() < 0.5:  # all bytes of characters, but one
            ids = [i for text in TEXTS for i in speaker.ids(text)]
            ids.pop(draw.randrange(len(ids)))
        assert "".join(speaker.pieces(ids)) == speaker.text_of(ids)


def test_a_piece_comes_as_soon_as_its_token(speaker):
    taken = []
    pieces = speaker.pieces(taken.append(i) or i for i in speaker.ids("The cup stands left of it, and it is red."))
    first = next(pieces)
    assert len(taken) <= 3 and first.startswith("T")
    rest = [(piece, len(taken)) for piece in pieces]
    assert len(rest) > len(taken) / 2, "one behind the other, and not all at the end"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    render_mp4(path, coded_frames(60), 20)
    return path


def test_the_stream_is_the_answer_that_a_benchmark_gets(clip):
    answerer = inference.load({"it": RUN})
    asked = "Question: What is it?\nOptions:\n(A) red\n(B) blue"
    example = Example("a_task", clip, "clip.mp4", asked, ("red", "blue"), "red")
    ((_, replies),) = answerer.answers([Question(example, ("it",))], None)
    visual = answerer.prepare(clip)
    pieces = list(answerer.stream(example.prompt, visual))
    assert "".join(pieces) == replies["it"].text != ""
    longer = "".join(
        answerer.stream("Why?", visual, [("What?", "A cup.")], GenerationConfig(2.0, seed=1, max_new_tokens=40))
    )
    assert len(longer) > len("".join(answerer.stream("Why?", visual, (), GenerationConfig(max_new_tokens=1))))


def test_each_turn_draws_anew_from_one_seed(clip, monkeypatch):
    answerer = inference.load({"it": RUN})
    visual, seeds = answerer.prepare(clip), []
    monkeypatch.setattr(VisionLM, "stream_ids", lambda *given: seeds.append(given[-1].seed) or iter(()))
    for _ in range(2):
        for past in ((), [("Why?", "So.")], [("Why?", "So.")] * 2):
            list(answerer.stream("Why?", visual, past, GenerationConfig(1.0, seed=2**63 - 2)))
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3


def test_an_answer_gets_the_room_that_there_is_and_no_more_can_be_asked_for(clip):
    answerer = inference.load({"it": RUN})
    visual = answerer.prepare(clip)
    most = answerer.members["it"].model.causal.config.max_position_embeddings
    with pytest.raises(UserError, match=f"of the {most:,} tokens that it reads, and {most:,} more do not fit: choose"):
        list(answerer.stream("Why?", visual, (), GenerationConfig(max_new_tokens=most)))
    with pytest.raises(UserError, match=f"it reads {most:,}: ask in fewer words"):
        list(answerer.stream("why " * most, visual))


def test_a_terminal_shows_an_answer_as_it_comes(clip):
    command = [sys.executable, "-m", "videogpt_plus", "predict", str(RUN), "What is it?", "--video", str(clip)]
    command += ["--temperature", "9", "--seed", "1", "--max-new-tokens", "12"]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    plain = fork_server.run(command, capture_output=True, text=True, check=True, env=surroundings).stdout
    ours, theirs = pty.openpty()
    with fork_server.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=surroundings) as process:
        os.close(theirs)
        parts = []
        while part := _read(ours):
            parts.append(part)
        said = process.stderr.read().decode()
    os.close(ours)
    assert process.returncode == 0, said
    assert b"".join(parts).decode().replace("\r\n", "\n") == plain
    assert len(plain.strip()) > 3 and len(parts) > 3


def _read(terminal: int) -> bytes:
    """What came to a terminal since the last time; nothing once its other side is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
