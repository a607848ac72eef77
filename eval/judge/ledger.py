"""What is to be judged, and `judged.jsonl`: a line for each judgement, on disk before the next call of its thread.

A line is keyed by what was judged (question, reference, answers) and by whom (model, prompt, aspect). So kill -9 costs
the calls that are under way, nothing is paid twice, and equal answers are paid once: also those of the same run that
were asked before (`answers_first20`) or whose folder was moved aside (`answers.old-HASH`).

judged.jsonl        lines {key, aspect, score, verdict, unscored, reply, model, tokens_in, tokens_out, ..., date}
judged.meta.json    who judges: another judge has a ledger of its own
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from eval.answer import read_answers
from eval.benchmarks import Benchmark
from eval.journal import append, claim, cut_torn_line, meta_path, open_locked, read_lines
from eval.judge.endpoint import Budget, Endpoint, Judgement, Judging, Stopped
from eval.judge.lexical import LEXICAL, RULE, lexical
from eval.judge.prompts import PAIRED, VERDICTS, Prompt, combined_hash, official_prompts, own_prompts
from eval.open_questions import OpenExample
from eval.score import check_complete
from videogpt_plus.checkpoint import read_object
from videogpt_plus.types import UserError

#: Bytes of a token and tokens of a reply, for the estimate.
BYTES_A_TOKEN, REPLY_TOKENS = 4, 12
#: Seconds that a call takes, for the estimate.
SECONDS_A_CALL = 1.5


class Item(NamedTuple):
    """One judgement to be made."""

    #: Name of what is judged and by whom; None where there is no answer to judge.
    key: str | None
    aspect: str
    task: str
    #: The examples whose answers are judged: one, or the two of a consistency entry.
    examples: tuple[OpenExample, ...]
    #: What the prompt's $names stand for.
    fields: Mapping[str, str]


class Judge(NamedTuple):
    """Who judges a benchmark, by what prompts."""

    model: str
    #: Aspect -> prompt; empty for the lexical judge.
    prompts: Mapping[str, Prompt]

    @property
    def header(self) -> dict[str, Any]:
        """What every score of this judge has in common."""
        if self.model == LEXICAL:
            return {"judge_model": LEXICAL, "prompt_hash": RULE, "wording": "no"}
        wording = next(iter(self.prompts.values())).wording
        return {"judge_model": self.model, "prompt_hash": combined_hash(self.prompts), "wording": wording}

    @property
    def slug(self) -> str:
        """A name for files: model and beginning of the prompts' hash."""
        plain = "".join(c if c.isalnum() or c in "-." else "-" for c in self.model)
        return f"{plain}_{self.header['prompt_hash'][:8]}"


class Estimate(NamedTuple):
    """What judging the rest is going to take."""

    #: Judgements that have no line yet.
    calls: int
    tokens_in: int
    tokens_out: int
    #: In the currency of the prices; None without them.
    cost: float | None
    seconds: float


class Done(NamedTuple):
    """What a call of `judge_all` did."""

    #: Judgements made by this call.
    new: int
    #: Judgements that had their line already.
    kept: int
    #: Those without a score among all of them.
    unscored: int
    #: What this call's replies cost by the server's count; 0 without prices.
    cost: float
    torn_bytes: int


def judge_of(judging: Judging, benchmark: Benchmark) -> Judge:
    """The judge of a benchmark, its prompts in our own words or in the official scripts'."""
    if judging.judge_model == LEXICAL:
        return Judge(LEXICAL, {})
    aspects = dict.fromkeys(aspect for several in benchmark.aspects.values() for aspect in several)
    if judging.official_prompts is not None:
        return Judge(judging.judge_model, official_prompts(judging.official_prompts, benchmark.files, aspects))
    return Judge(judging.judge_model, own_prompts(aspects))


def items_of(
    judge: Judge, benchmark: Benchmark, examples: Sequence[OpenExample], answers: Mapping[str, Mapping[str, Any]]
) -> list[Item]:
    """Every judgement of a finished run, in the order of aspects and questions. UserError: no facts to look up."""
    entries: dict[tuple[str, int], list[OpenExample]] = {}
    for example in examples:
        entries.setdefault((example.task, example.entry), []).append(example)
    items = []
    for (task, _), asked in entries.items():
        for aspect in benchmark.aspects[task]:
            replies = [answers[example.key]["reply"] for example in asked]
            fields = _fields(aspect, asked, replies)
            if judge.model == LEXICAL:
                check_facts(asked)
            items.append(Item(_key(judge, aspect, asked, fields), aspect, task, tuple(asked), fields))
    return items


def check_facts(examples: Sequence[OpenExample]) -> None:
    """Raises UserError unless each question states the facts that the lexical judge looks up."""
    if without := next((example for example in examples if not example.facts), None):
        raise UserError(
            f"the lexical judge looks up facts, and '{without.question}' states none; it serves toy_open: "
            "name a model by --judge-model"
        )


def _fields(aspect: str, asked: Sequence[OpenExample], replies: Sequence[str | None]) -> dict[str, str]:
    """What the prompt's names stand for; {} where a clip could not be read, so that there is nothing to judge."""
    if None in replies:
        return {}
    if aspect not in PAIRED:
        return {"question": asked[0].question, "answer": asked[0].answer, "pred": replies[0]}
    numbered = {f"question{i}": example.question for i, example in enumerate(asked, 1)}
    return numbered | {"answer": asked[0].answer} | {f"pred{i}": reply for i, reply in enumerate(replies, 1)}


def _key(judge: Judge, aspect: str, asked: Sequence[OpenExample], fields: Mapping[str, str]) -> str | None:
    if not fields:
        return None
    prompt = judge.prompts[aspect].hash if judge.prompts else [RULE, *asked[0].facts]
    content = [judge.model, prompt, aspect, sorted(fields.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def estimate(judging: Judging, judge: Judge, items: Sequence[Item], done: Mapping[str, Any]) -> Estimate:
    """What the judgements without a line are going to take. The lexical judge takes nothing."""
    left = {item.key: item for item in items if item.key and item.key not in done}
    if judge.model == LEXICAL:
        return Estimate(len(left), 0, 0, 0.0, 0.0)
    sent = sum(
        len(message["content"].encode("utf-8", "replace")) / BYTES_A_TOKEN + 5
        for item in left.values()
        for message in judge.prompts[item.aspect].messages(item.fields)
    )
    tokens_in, tokens_out = round(sent), REPLY_TOKENS * len(left)
    priced = None not in (judging.price_in, judging.price_out)
    seconds = SECONDS_A_CALL * len(left) / judging.concurrency
    seconds = max(seconds, 60 * len(left) / judging.rate) if judging.rate else seconds
    return Estimate(len(left), tokens_in, tokens_out, judging.cost(tokens_in, tokens_out) if priced else None, seconds)


def ledger_path(answers_path: str | Path, judge: Judge, again: bool) -> Path:
    """The ledger beside the answers: `judged.jsonl`, or when judged `again` by another `judged_MODEL_HASH.jsonl`."""
    path = Path(answers_path).with_name("judged.jsonl")
    if not again or not path.exists() or not meta_path(path).exists():
        return path
    same = read_object(meta_path(path), f"move it and {path} away") == judge.header
    return path if same else path.with_name(f"judged_{judge.slug}.jsonl")


def read_judged(path: str | Path) -> dict[str, dict[str, Any]]:
    """The ledger's lines by key; {} without a file. A torn last line does not count."""
    return read_lines(path, "a judgement", "remove that line and judge again")


def lines_left(path: str | Path, judge: Judge, retry_unscored: bool = False) -> dict[str, dict[str, Any]]:
    """The lines that need not be judged again: the ledger's own, and scores of `judge` in other ledgers of the run."""
    own = read_judged(path)
    scored = _of_other_answers(Path(path), judge) | {k: line for k, line in own.items() if line["score"] is not None}
    return scored if retry_unscored else own | scored


def _of_other_answers(path: Path, judge: Judge) -> dict[str, dict[str, Any]]:
    """Scores that the judge gave to other answers of the run. A line's key holds all that its score depends on."""
    found: dict[str, dict[str, Any]] = {}
    # RUN/answers_vcgbench/judged.jsonl; a ledger elsewhere belongs to no run.
    beside = path.parent.parent.glob("answers*/judged*.jsonl") if path.parent.name.startswith("answers") else ()
    for other in sorted(beside):
        meta = meta_path(other)
        if other != path and meta.exists() and read_object(meta, f"move it and {other} away") == judge.header:
            found |= {key: line for key, line in read_judged(other).items() if line["score"] is not None}
    return found


def finished_answers(path: str | Path, examples: Sequence[OpenExample]) -> dict[str, dict[str, Any]]:
    """The answers to these questions. UserError: one is missing, or was given to another reference."""
    answers = read_answers(path)
    check_complete(Path(path), answers, examples)
    return answers


def judge_all(
    judging: Judging,
    judge: Judge,
    items: Sequence[Item],
    path: str | Path,
    key: str = "",
    retry_unscored: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    budget: Budget | None = None,
) -> Done:
    """Judges what has no line in the ledger at `path`, each line on disk as soon as its reply is there.

    `key` is the server's; it is written nowhere. `progress(done, total)` counts judgements. `budget` is what other
    calls of this function share with it; one of its own when not given. UserError: the server
    refuses the key, the budget ends, ...; what was judged until then is kept, and the same call goes on from there.
    """
    path = Path(path)
    unique = {item.key: item for item in items if item.key}
    with open_locked(path) as file:
        torn = cut_torn_line(file, path)
        if path.stat().st_size and not meta_path(path).exists():
            raise UserError(f"{meta_path(path)} is missing: nothing says who judged {path}; move the ledger away")
        _claim(path, judge)
        done, own = lines_left(path, judge, retry_unscored), read_judged(path)
        append(file, path, *(done[name] for name in unique if name in done and done[name] != own.get(name)))
        left = [item for name, item in unique.items() if name not in done]
        if not left:  # nobody is called, and no key is needed
            return _done(judging, path, unique, [], torn)
        ask = _asker(judging, judge, key, say, budget)
        lock, finished = threading.Lock(), [len(unique) - len(left)]

        def one(item: Item) -> Judgement:
            judgement = ask(item)
            line = _line(item, judgement, judging)
            with lock:
                append(file, path, line)
                finished[0] += 1
                if progress:
                    progress(finished[0], len(unique))
            return judgement

        made = _all(one, left, 1 if judge.model == LEXICAL else judging.concurrency, getattr(ask, "stop", None))
        return _done(judging, path, unique, made, torn)


def _done(judging: Judging, path: Path, unique: Mapping[str, Item], made: Sequence[Judgement], torn: int) -> Done:
    lines = read_judged(path)
    cost = judging.cost(sum(j.tokens_in for j in made), sum(j.tokens_out for j in made))
    unscored = sum(lines[name]["score"] is None for name in unique)
    return Done(len(made), len(unique) - len(made), unscored, cost, torn)


class _Asker:
    """An endpoint as a function of items."""

    def __init__(self, endpoint: Endpoint, judge: Judge):
        self.endpoint, self.judge, self.stop = endpoint, judge, endpoint.stop

    def __call__(self, item: Item) -> Judgement:
        return self.endpoint.judge(self.judge.prompts[item.aspect], item.fields, item.aspect in VERDICTS)


def _asker(
    judging: Judging, judge: Judge, key: str, say: Callable[[str], None], budget: Budget | None
) -> Callable[[Item], Judgement]:
    if judge.model == LEXICAL:
        return lambda item: lexical(item.examples[0].facts, [v for k, v in item.fields.items() if k.startswith("pred")])
    return _Asker(Endpoint(judging, key, say, budget), judge)


def _all(
    one: Callable[[Item], Judgement], items: Sequence[Item], workers: int, stop: threading.Event | None
) -> list[Judgement]:
    """`one` of every item, so many at a time. The first error stops the others and is raised."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            errors = [e for f in finished if not f.cancelled() and (e := f.exception())]
            if not errors:
                return [future.result() for future in futures]
            raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
        finally:  # after Ctrl-C as well, no further call goes out
            if stop:
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _claim(path: Path, judge: Judge) -> None:
    try:
        claim(path, judge.header, "judgements")
    except UserError as error:
        found = read_object(meta_path(path), f"move it and {path} away")
        if found.keys() != judge.header.keys():
            raise
        raise UserError(
            f"{path} holds judgements of {found['judge_model']} (prompts {found['prompt_hash']}), this judge is "
            f"{judge.model} (prompts {judge.header['prompt_hash']}); `videogpt-plus rejudge` keeps them and judges anew"
        ) from error


def _line(item: Item, judgement: Judgement, judging: Judging) -> dict[str, Any]:
    return {
        "key": item.key,
        "aspect": item.aspect,
        "examples": [example.key for example in item.examples],
        "score": judgement.score,
        "verdict": judgement.verdict,
        "unscored": judgement.unscored,
        "reply": judgement.reply,
        "judge_model": judging.judge_model,
        "model": judgement.model,
        "server": "" if judging.judge_model == LEXICAL else judging.server,
        "format": judgement.format,
        "calls": judgement.calls,
        "tokens_in": judgement.tokens_in,
        "tokens_out": judgement.tokens_out,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
