"""What is to be judged, and `judged.jsonl`: a line for each judgement, on disk before the next call of its thread.

A line is keyed by what was judged (question, reference, answers) and by whom (model, prompt, aspect). So kill -9 costs
the calls that are under way, nothing is paid twice, and equal answers are paid once: also those of the same run that
were asked before (`answers_first20`) or whose folder was moved aside (`answers.old-HASH`).

judged.jsonl        lines {key, aspect, score, verdict, unscored, reply, model, sent, tokens_in, ..., date}
judged.meta.json    who judges and how all of it was asked: another judge, or another way, has a ledger of its own
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from eval.answers.answer import read_answers
from eval.answers.places import check_complete, check_place
from eval.judge.endpoint import Budget, Endpoint, JudgeConfig, Judgement, NoConnection, Stopped
from eval.judge.header import Judge, asked_of, claim, is_of, judge_of, ledgers_beside, left_out_by, meta_of, write_meta
from eval.judge.lexical import LEXICAL, RULE, lexical
from eval.judge.options import LeftOut
from eval.judge.prompts import PAIRED, VERDICTS
from eval.tasks.benchmarks import Benchmark
from eval.tasks.open_questions import OpenExample
from videogpt_plus.io.fingerprint import of_value
from videogpt_plus.io.jsonl_log import append, cut_torn_line, meta_path, open_locked, read_lines
from videogpt_plus.types import UserError

__all__ = [
    "Done", "Estimate", "Item", "Judge", "JudgeConfig", "check_facts", "estimate", "finished_answers", "items_of",
    "judge_all", "judge_of", "ledger_path", "lines_left", "read_judged",
]  # fmt: skip

#: Bytes of a token and tokens of a reply, for the estimate.
BYTES_A_TOKEN, REPLY_TOKENS = 4, 12
#: Seconds that a call takes, for the estimate.
SECONDS_A_CALL = 1.5
#: Seconds for which calls under way may end by themselves after no connection came about.
GRACE = 2.0


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
    return of_value(content, 32)


def estimate(judge_config: JudgeConfig, judge: Judge, items: Sequence[Item], done: Mapping[str, Any]) -> Estimate:
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
    priced = None not in (judge_config.price_in, judge_config.price_out)
    seconds = SECONDS_A_CALL * len(left) / judge_config.concurrency
    seconds = max(seconds, 60 * len(left) / judge_config.rate) if judge_config.rate else seconds
    return Estimate(
        len(left), tokens_in, tokens_out, judge_config.cost(tokens_in, tokens_out) if priced else None, seconds
    )


def ledger_path(answers_path: str | Path, judge: Judge, again: bool) -> Path:
    """The ledger next to the answers: `judged.jsonl`, or when judged `again` by another `judged_MODEL_HASH.jsonl`."""
    path = Path(answers_path).with_name("judged.jsonl")
    if not again or not path.exists() or not meta_path(path).exists():
        return path
    for one in (path, *sorted(path.parent.glob("judged_*.jsonl"))):
        if is_of(meta_of(one), judge):
            return one
    return path.with_name(f"judged_{judge.slug}.jsonl")


def read_judged(path: str | Path) -> dict[str, dict[str, Any]]:
    """The ledger's lines by key; {} without a file. A torn last line does not count."""
    return read_lines(path, "a judgement", "remove that line and judge again")


def lines_left(path: str | Path, judge: Judge, retry_unscored: bool = False) -> dict[str, dict[str, Any]]:
    """The lines that need not be judged again: the ledger's own, and scores of `judge` in other ledgers of the run."""
    own = read_judged(path)
    scored = _of_other_answers(Path(path), judge) | {k: line for k, line in own.items() if line["score"] is not None}
    return scored if retry_unscored else own | scored


def _of_other_answers(path: Path, judge: Judge) -> dict[str, dict[str, Any]]:
    """Scores that the judge gave to other answers of the run, asked in the way that the ledger at `path` is filled in.

    A line's key and that way hold all that its score depends on.
    """
    if (asked := asked_of(path, judge)) is None and judge.model != LEXICAL:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for other in ledgers_beside(path, judge):
        if left_out_by(other, judge) == asked:
            found |= {key: line for key, line in read_judged(other).items() if line["score"] is not None}
    return found


def finished_answers(
    path: str | Path, examples: Sequence[OpenExample], asked: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The answers to these questions. UserError: one is missing, or was given to another reference or by another run.

    `asked` is for the command that finishes them (`places.answer_command`).
    """
    check_place(path)
    answers = read_answers(path, ("reference", "reply"))
    check_complete(path, answers, examples, asked)
    return answers


def judge_all(
    judge_config: JudgeConfig,
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
        done, own = lines_left(path, judge, retry_unscored), read_judged(path)
        left = [item for name, item in unique.items() if name not in done]
        asked = claim(path, judge)
        append(file, path, *(done[name] for name in unique if name in done and done[name] != own.get(name)))
        if not left:  # nobody is called, and no key is needed
            return _done(judge_config, path, unique, [], torn)

        def settled(left_out: LeftOut) -> None:
            write_meta(path, judge, left_out)

        ask = _asker(judge_config, judge, key, say, budget, asked, settled)
        lock, finished = threading.Lock(), [len(unique) - len(left)]

        def one(item: Item) -> Judgement:
            judgement = ask(item)
            line = _line(item, judgement, judge_config)
            with lock:
                append(file, path, line)
                finished[0] += 1
                if progress:
                    progress(finished[0], len(unique))
            return judgement

        made = _all(one, left, ask)
        return _done(judge_config, path, unique, made, torn)


def _done(
    judge_config: JudgeConfig, path: Path, unique: Mapping[str, Item], made: Sequence[Judgement], torn: int
) -> Done:
    lines = read_judged(path)
    cost = judge_config.cost(sum(j.tokens_in for j in made), sum(j.tokens_out for j in made))
    unscored = sum(lines[name]["score"] is None for name in unique)
    return Done(len(made), len(unique) - len(made), unscored, cost, torn)


class _Asker:
    """An endpoint as a function of items."""

    def __init__(self, endpoint: Endpoint, judge: Judge):
        self.endpoint, self.judge = endpoint, judge
        self.workers, self.close = endpoint.judge_config.concurrency, endpoint.close

    def __call__(self, item: Item) -> Judgement:
        return self.endpoint.judge(self.judge.prompts[item.aspect], item.fields, item.aspect in VERDICTS)

    def grace(self, error: BaseException) -> float:
        """Seconds for which calls under way, which are paid, may end by themselves after an error."""
        return GRACE if isinstance(error, NoConnection) else self.endpoint.judge_config.timeout


class _Lexical:
    """The lexical judge as a function of items."""

    workers = 1

    def __call__(self, item: Item) -> Judgement:
        return lexical(item.examples[0].facts, [v for k, v in item.fields.items() if k.startswith("pred")])

    def close(self) -> None:
        """Nothing is open."""

    def grace(self, error: BaseException) -> float:
        return 0.0


def _asker(
    judge_config: JudgeConfig,
    judge: Judge,
    key: str,
    say: Callable[[str], None],
    budget: Budget | None,
    asked: LeftOut | None,
    settled: Callable[[LeftOut], None],
) -> _Asker | _Lexical:
    if judge.model == LEXICAL:
        return _Lexical()
    return _Asker(Endpoint(judge_config, key, say, budget, tuple(judge.prompts.values()), asked, settled), judge)


def _all(one: Callable[[Item], Judgement], items: Sequence[Item], ask: _Asker | _Lexical) -> list[Judgement]:
    """`one` of every item, as many at a time as `ask` allows. The first error stops the others and is raised."""
    with ThreadPoolExecutor(ask.workers) as pool, ExitStack() as at_the_end:
        # After Ctrl-C as well, no further call goes out, and none is waited for.
        at_the_end.callback(pool.shutdown, wait=True, cancel_futures=True)
        at_the_end.callback(ask.close)
        futures = [pool.submit(one, item) for item in items]
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        errors = [e for f in finished if not f.cancelled() and (e := f.exception())]
        if not errors:
            return [future.result() for future in futures]
        error = next((e for e in errors if not isinstance(e, Stopped)), errors[0])
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures if future.running()], timeout=ask.grace(error))
        raise error


def _line(item: Item, judgement: Judgement, judge_config: JudgeConfig) -> dict[str, Any]:
    return {
        "key": item.key,
        "aspect": item.aspect,
        "examples": [example.key for example in item.examples],
        "score": judgement.score,
        "verdict": judgement.verdict,
        "unscored": judgement.unscored,
        "reply": judgement.reply,
        "judge_model": judge_config.judge_model,
        "model": judgement.model,
        "server": "" if judge_config.judge_model == LEXICAL else judge_config.server,
        "sent": judgement.sent,
        "format": judgement.sent["format"] if judgement.sent else None,
        "calls": judgement.calls,
        "tokens_in": judgement.tokens_in,
        "tokens_out": judgement.tokens_out,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
