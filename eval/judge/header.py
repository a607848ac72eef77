"""The meta file of a ledger: who judges, and with which options.

judged.meta.json    {judge_model, prompt_hash, wording, token_limit, left_out}: the options that calls go without are
                    known from the first reply on, null before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eval.judge.lexical import LEXICAL, RULE
from eval.judge.options import LeftOut
from eval.judge.prompts import Prompt, combined_hash, official_prompts, own_prompts
from eval.judge.settings import JudgeConfig
from eval.tasks.benchmarks import Benchmark
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import read_object, write_json
from videogpt_plus.io.jsonl_log import meta_path
from videogpt_plus.types import UserError


class Judge(NamedTuple):
    """Who judges a benchmark, by what prompts."""

    model: str
    #: Aspect -> prompt; empty for the lexical judge.
    prompts: Mapping[str, Prompt]
    #: Tokens of a reply at most; None for the lexical judge.
    token_limit: int | None = None

    @property
    def header(self) -> dict[str, Any]:
        """What every score of this judge has in common, as it is known before the server is asked."""
        if self.model == LEXICAL:
            return {"judge_model": LEXICAL, "prompt_hash": RULE, "wording": "no"}
        wording = next(iter(self.prompts.values())).wording
        prompts = {"prompt_hash": combined_hash(self.prompts), "wording": wording}
        return {"judge_model": self.model, **prompts, "token_limit": self.token_limit}

    @property
    def slug(self) -> str:
        """A name for files: the model, and a hash of all that its scores have in common."""
        return f"{fingerprint.for_files(self.model)}_{fingerprint.of_value(self.header)[:8]}"


def judge_of(judge_config: JudgeConfig, benchmark: Benchmark) -> Judge:
    """The judge of a benchmark, its prompts in our own words or in the official scripts'."""
    if judge_config.judge_model == LEXICAL:
        return Judge(LEXICAL, {})
    aspects = dict.fromkeys(aspect for several in benchmark.aspects.values() for aspect in several)
    if judge_config.official_prompts is not None:
        prompts = official_prompts(judge_config.official_prompts, benchmark.files, aspects)
        return Judge(judge_config.judge_model, prompts, judge_config.max_tokens)
    return Judge(judge_config.judge_model, own_prompts(aspects), judge_config.max_tokens)


def left_out_by(path: str | Path, judge: Judge) -> LeftOut | None:
    """The options that the calls of a ledger went without; None before the first reply."""
    meta = meta_of(Path(path))
    named = meta.get("left_out") if is_of(meta, judge) else None
    return frozenset(named) if named is not None else None


def meta_of(ledger: Path) -> dict[str, Any]:
    """The meta file of a ledger; {} without one."""
    beside = meta_path(ledger)
    return read_object(beside, f"move it and {ledger} away") if beside.exists() else {}


def is_of(meta: Mapping[str, Any], judge: Judge) -> bool:
    """Whether a ledger is of this judge, and says how it was asked."""
    asked = judge.model == LEXICAL or "left_out" in meta
    return bool(meta) and asked and all(meta.get(name) == value for name, value in judge.header.items())


def asked_of(path: Path, judge: Judge) -> LeftOut | None:
    """What calls for the ledger at `path` go without: as before, else as for the run's other ledgers if they agree."""
    if path.exists() and path.stat().st_size:
        return left_out_by(path, judge)
    ways = {way for other in ledgers_beside(path, judge) if (way := left_out_by(other, judge)) is not None}
    return ways.pop() if len(ways) == 1 else None


def ledgers_beside(path: Path, judge: Judge) -> list[Path]:
    """The judge's ledgers of the same run's other answers."""
    # RUN/answers_vcgbench/judged.jsonl; a ledger elsewhere belongs to no run.
    beside = path.parent.parent.glob("answers*/judged*.jsonl") if path.parent.name.startswith("answers") else ()
    return [other for other in sorted(beside) if other != path and is_of(meta_of(other), judge)]


def claim(path: Path, judge: Judge) -> LeftOut | None:
    """Writes who judges next to the ledger; returns what its calls go without, None if that is not known yet.

    UserError: it is another judge's or another token limit's.
    """
    if not path.stat().st_size:
        asked = asked_of(path, judge)
        write_meta(path, judge, asked)
        return asked
    found = meta_of(path)
    if not is_of(found, judge):
        raise UserError(
            f"{path} holds judgements of {_described(found)}, this judge is {_described(judge.header)}; "
            "`videogpt-plus rejudge` keeps them and judges anew"
        )
    return left_out_by(path, judge)


def _described(header: Mapping[str, Any]) -> str:
    limit = f", at most {header['token_limit']} tokens a reply" if header.get("token_limit") else ""
    return f"{header.get('judge_model')} (prompts {header.get('prompt_hash')}{limit})"


def write_meta(path: Path, judge: Judge, left_out: LeftOut | None) -> None:
    """Writes the meta file of the ledger at `path`: who judges, and which options calls go without."""
    told = {} if judge.model == LEXICAL else {"left_out": None if left_out is None else sorted(left_out)}
    write_json(meta_path(path), judge.header | told)
