"""The command that judges answers."""

from __future__ import annotations

import shlex
from pathlib import Path

from eval.answers.answer import read_meta
from eval.answers.places import _run, options, task_of
from videogpt_plus.io.files import read_object
from videogpt_plus.io.jsonl_log import meta_path


def judge_command(path: str | Path, model: str | None = None, command: str = "judge") -> str:
    """The command that judges these answers: by `model`, else by the judge that has a ledger there, else by MODEL."""
    path = Path(path)
    meta = read_meta(path)
    named = ["--judge-model", model or _judge_of(path, task_of(meta))]
    return shlex.join(["videogpt-plus", command, str(_run(path)), *options(path, meta), *named])


def _judge_of(path: Path, task: str) -> str:
    from eval.judge.lexical import LEXICAL

    ledger = meta_path(path.with_name("judged.jsonl"))
    usual = LEXICAL if task == "toy_open" else "MODEL"
    return read_object(ledger, "move the ledger away").get("judge_model", usual) if ledger.is_file() else usual
