"""The judge: whatever its server does, the same scores; nothing paid twice, nothing guessed, no key written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from judge_server import FAULTS, KEY, completion, error, score_of, serving
from test_judge_words import scripts

from eval.judge import ledger, pace
from eval.judge.endpoint import JudgeConfig
from eval.judge.scoring import all_scores, check_alike, common_scores, score_judged
from eval.report.compare import read_run
from eval.report.judged import CSV_COLUMNS, Run, judged_section
from eval.report.parts import DETECTABLE
from eval.report.reference_format import write_open_files
from eval.report.report import write_report
from eval.statistics.estimates import SCORE
from eval.statistics.paired import compare
from eval.tasks.benchmarks import BENCHMARKS
from eval.tasks.open_questions import OpenExample
from videogpt_plus.app import cli
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import TOY
from videogpt_plus.io.jsonl_log import meta_path
from videogpt_plus.types import UserError

pytestmark = pytest.mark.usefixtures("quick_pictures")

VCGBENCH = BENCHMARKS["vcgbench"]
HEADER = {"experiment": "tiny_pool4", "weights": ["w"], "questions": "q", "control": None, "benchmark": "vcgbench"}


def examples(count: int = 6) -> list[OpenExample]:
    """Two generic questions a clip, a temporal and a consistency entry: 8 judgements a clip."""
    made = []
    for i in range(count):
        clip = (Path(f"/v/{i}.mp4"), f"{i}.mp4")
        for j, word in enumerate("xy"):
            made.append(OpenExample("generic", *clip, f"What is {word} {i}?", f"{word} is red", 2 * i + j))
        made.append(OpenExample("temporal", *clip, f"What comes first in {i}?", "red", i))
        made += [OpenExample("consistency", *clip, f"Same {i}, {part}?", "red", i, part) for part in (1, 2)]
    return made


def write_answers(folder: Path, asked: list[OpenExample], reply=lambda e: f"I see {e.video} and {e.question}") -> Path:
    """A finished run's answers; None is a clip that could not be read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "answers.jsonl"
    lines = []
    for e in asked:
        text = reply(e)
        broken = "cannot read it: it is empty; download it again" if text is None else None
        lines.append({"key": e.key, "video": e.video, "reference": e.reference, "reply": text, "error": broken})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = folder.parent
    name = {"experiment": load_experiment(run).name} if (run / "experiment.json").exists() else {}
    meta_path(path).write_text(json.dumps(HEADER | name))
    return path


def judge_config(server, **how) -> JudgeConfig:
    return JudgeConfig(**{"judge_model": "loopback", "base_url": server.url, "timeout": 30, "concurrency": 6, **how})


def run(how: JudgeConfig, answers: Path, asked, again=False, key=KEY, benchmark="vcgbench", say=lambda _: None, **more):
    """Judges and scores; (what was done, scores)."""
    kind = BENCHMARKS[benchmark]
    who = ledger.judge_of(how, kind)
    items = ledger.items_of(who, kind, asked, ledger.finished_answers(answers, asked))
    path = ledger.ledger_path(answers, who, again)
    done = ledger.judge_all(how, who, items, path, key, say=say, **more)
    return done, score_judged(answers, benchmark, kind, asked, who, path)


def without_dates(scores: dict) -> dict:
    judge = {k: v for k, v in scores["judge"].items() if k not in ("first_date", "last_date")}
    return {**scores, "judge": {k: v for k, v in judge.items() if not k.startswith("tokens")}}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path.parent / "judged.jsonl").read_text().splitlines()]


def test_a_server_that_fails_in_every_way_gives_the_scores_of_one_that_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.05)
    asked = examples(12)
    with serving() as server:
        answers = write_answers(tmp_path / "clean", asked)
        done, clean = run(judge_config(server), answers, asked)
        assert done[:3] == (96, 0, 0) and len(server.requests) == 96
    with serving(share=0.3) as server:
        answers = write_answers(tmp_path / "bad", asked)
        done, bad = run(judge_config(server, timeout=0.3), answers, asked)
        assert server.faults.keys() == {*FAULTS, None}, server.faults
        assert 0.2 < 1 - server.faults[None] / len(server.requests) < 0.4
    assert done[:3] == (96, 0, 0)
    assert without_dates(bad) == without_dates(clean)
    assert bad["overall"]["n"] == bad["overall"]["n_expected"] == 96


def test_the_score_is_what_the_judge_says_of_question_reference_and_answer(tmp_path):
    asked = examples(1)
    with serving() as server:
        answers = write_answers(tmp_path, asked)
        _, scores = run(judge_config(server), answers, asked)
        told = [request["messages"][1]["content"] for request in server.requests]
    assert scores["aspects"].keys() == {"correctness", "detail", "context", "temporal", "consistency"}
    assert Counter(v for a in scores["aspects"].values() for v in a["scores"].values()) == Counter(map(score_of, told))
    generic = next(text for text in told if "What is x 0?" in text)
    assert "x is red" in generic and "I see 0.mp4 and What is x 0?" in generic
    (pair,) = [text for text in told if "Same 0, 1?" in text]
    assert "Same 0, 2?" in pair and "I see 0.mp4 and Same 0, 2?" in pair
    row = scores["aspects"]["correctness"]
    assert row["mean"] == sum(row["scores"].values()) / 2 and row["n"] == row["n_expected"] == 2


def test_the_request_asks_for_a_schema_and_nothing_that_varies(tmp_path):
    asked = examples(1)
    with serving() as server:
        run(judge_config(server), write_answers(tmp_path, asked), asked)
        request = server.requests[0]
    assert request["temperature"] == 0 and request["model"] == "loopback"
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"]["enum"] == [0, 1, 2, 3, 4, 5] and schema["required"] == ["score"]


def test_a_server_that_knows_no_schema_is_asked_without_and_says_so_once(tmp_path):
    def reply(body, number):
        if "response_format" in body:
            return 400, {}, error("Invalid parameter: 'response_format' of type 'json_schema' is not supported")
        return 200, {}, completion(f"Sure! ```json\n{{'score': {score_of(body['messages'][1]['content'])}}}\n```")

    asked, said = examples(6), []
    with serving(reply=reply) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked, say=said.append)
        assert sum("response_format" in body for body in server.requests) <= 6  # those already under way
    assert done[:3] == (48, 0, 0)
    assert len(said) == 1 and "does not take response_format" in said[0]
    assert scores["judge"]["formats"] == ["text"]


def test_options_that_newer_models_refuse_are_replaced(tmp_path):
    def reply(body, number):
        for name in ("max_tokens", "temperature"):
            if name in body:
                return 400, {}, error(f"Unsupported parameter: '{name}' is not supported with this model.")
        return None

    asked, said = examples(1), []
    with serving(reply=reply) as server:
        done, _ = run(judge_config(server, concurrency=1), write_answers(tmp_path, asked), asked, say=said.append)
        assert server.requests[-1]["max_completion_tokens"] == 300 and "response_format" in server.requests[-1]
    assert done.unscored == 0 and len(said) == 2


def test_one_question_that_the_server_refuses_is_unscored_and_the_others_keep_their_schema(tmp_path):
    def reply(body, number):
        if "What is x 1?" in body["messages"][1]["content"]:
            return 400, {}, error("The request was filtered.", "content_filter")
        return None

    asked, said = examples(2), []
    with serving(reply=reply) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked, say=said.append)
        others = [body for body in server.requests if "What is x 1?" not in body["messages"][1]["content"]]
    assert len(others) == 13 and all("response_format" in body for body in others)
    assert done.unscored == 3 and said == []
    row = scores["aspects"]["correctness"]
    assert (row["n"], row["n_expected"], row["n_unscored"]) == (3, 4, 1)
    assert row["unscored"] == {"400": 1}
    assert any("The request was filtered." in (line["unscored"] or "") for line in lines(tmp_path / "x"))


REPLIES = {
    "a refusal": completion(None, refusal="I cannot help with that."),
    "another language": completion("这个回答基本正确，给四分。"),
    "no choices": json.dumps({"choices": None}),
    "no object": "[1, 2]",
    "no JSON": "<html>hello</html>",
}


@pytest.mark.parametrize("what", REPLIES)
def test_a_reply_without_a_score_is_recorded_as_unscored_after_bounded_attempts(tmp_path, what):
    def reply(body, number):
        return (200, {}, REPLIES[what]) if "What is x 0?" in body["messages"][1]["content"] else None

    asked = examples(2)
    with serving(reply=reply) as server:
        done, scores = run(judge_config(server, attempts=3), write_answers(tmp_path, asked), asked)
        assert sum("What is x 0?" in body["messages"][1]["content"] for body in server.requests) == 9
    assert done.unscored == 3
    row = scores["aspects"]["correctness"]
    assert (row["n"], row["n_unscored"]) == (3, 1) and row["mean"] is not None
    left = [line for line in lines(tmp_path / "x") if line["score"] is None]
    assert len(left) == 3 and all("(3 calls)" in line["unscored"] for line in left)


def test_unscored_answers_are_judged_again_only_on_request(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving(reply=lambda body, number: (200, {}, completion("well"))) as server:
        done, scores = run(judge_config(server, attempts=1), answers, asked)
        assert (
            done.unscored == 8 and scores["aspects"]["temporal"]["mean"] is None and scores["overall"]["mean"] is None
        )
    with serving() as server:
        assert run(judge_config(server), answers, asked)[0][:3] == (0, 8, 8)
        done, scores = run(judge_config(server), answers, asked, retry_unscored=True)
    assert done[:3] == (8, 0, 0) and scores["overall"]["n_unscored"] == 0


def test_a_clip_that_could_not_be_read_earns_nothing_and_costs_nothing(tmp_path):
    asked = examples(2)
    answers = write_answers(tmp_path, asked, lambda e: None if e.video == "0.mp4" else "red")
    with serving() as server:
        done, scores = run(judge_config(server), answers, asked)
        assert len(server.requests) == done.new == 8 - 0
    row = scores["aspects"]["temporal"]
    assert (row["n"], row["n_failed"], row["n_unscored"]) == (2, 1, 0)
    assert list(row["scores"].values())[0] == 0


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "invalid_api_key", "refuses the key in OPENAI_API_KEY"),
        (403, None, "refuses the key in OPENAI_API_KEY"),
        (402, None, "no credit is left"),
        (429, "insufficient_quota", "no credit is left"),
        (404, "model_not_found", "has no model 'loopback'"),
    ],
)
def test_what_cannot_go_better_stops_at_once_and_the_key_is_in_no_message(tmp_path, status, code, said):
    asked = examples(12)
    with serving(reply=lambda body, number: (status, {}, error(f"Incorrect key {KEY}", code))) as server:
        with pytest.raises(UserError, match=said) as stop:
            run(judge_config(server), write_answers(tmp_path, asked), asked)
        assert len(server.requests) <= 6  # those that were under way together
    assert KEY not in str(stop.value) and "\n" not in str(stop.value)
    assert (tmp_path / "judged.jsonl").read_bytes() == b""


def test_the_key_goes_to_the_server_and_into_no_file(tmp_path):
    asked = examples(1)
    with serving(reply=lambda b, n: (500, {}, error(f"oops {KEY}")) if n == 1 else None) as server:
        run(judge_config(server, attempts=1), write_answers(tmp_path, asked), asked)
        assert server.keys == {f"Bearer {KEY}"}
    assert any(line["unscored"] for line in lines(tmp_path / "x"))
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_scores_which_are_published_hold_no_address_of_the_judge(tmp_path):
    def reply(body, number):
        where = f"http://127.0.0.1:{server.server_port}/v1 is behind 10.1.2.3:9000"
        return (400, {}, error(where)) if "What is x 0?" in body["messages"][1]["content"] else None

    asked = examples(1)
    with serving(reply=reply) as server:
        _, scores = run(judge_config(server), write_answers(tmp_path, asked), asked)
        address = f"127.0.0.1:{server.server_port}"
    written = (tmp_path / "scores.json").read_text()
    assert scores["aspects"]["correctness"]["n_unscored"] == 1
    assert "127.0.0.1" not in written and "10.1.2.3" not in written
    assert {line["server"] for line in lines(tmp_path / "x")} == {address}, "at home it is known who judged"


def test_retry_after_is_honoured_by_every_call(tmp_path):
    asked = examples(2)
    with serving(reply=lambda b, n: (429, {"retry-after": "0.5"}, error("busy")) if n == 1 else None) as server:
        run(judge_config(server, concurrency=1), write_answers(tmp_path, asked), asked)
        assert 0.5 <= server.times[1] - server.times[0] < 5
    late = (429, {"retry-after": "3600"}, error("busy"))
    with serving(reply=lambda b, n: late) as server, pytest.raises(UserError, match="asks to wait 3600 seconds"):
        run(judge_config(server), write_answers(tmp_path / "long", asked), asked)


def test_a_server_that_is_gone_ends_the_run_and_not_every_question(tmp_path):
    asked = examples(12)
    with serving() as server:
        how = judge_config(server, attempts=1)
    with pytest.raises(UserError, match="no connection to 127.0.0.1:.* nothing was recorded for what is left"):
        run(how, write_answers(tmp_path, asked), asked)
    assert lines(tmp_path / "x") == []


def test_the_rate_and_the_number_of_calls_at_a_time_are_limits(tmp_path):
    asked = examples(2)
    with serving() as server:
        run(judge_config(server, rate=600), write_answers(tmp_path / "rate", asked), asked)
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert sum(gaps) >= 0.1 * 15 * 0.9
    with serving() as server:
        server.delay = 0.05
        run(judge_config(server, concurrency=3), write_answers(tmp_path / "few", asked), asked)
        assert 2 <= server.most_at_once <= 3


def test_the_estimate_and_the_limit_of_cost(tmp_path):
    asked = examples(12)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        how = judge_config(server, price_in=1.0, price_out=2.0, concurrency=2)
        who = ledger.judge_of(how, VCGBENCH)
        items = ledger.items_of(who, VCGBENCH, asked, ledger.finished_answers(answers, asked))
        before = ledger.estimate(how, who, items, {})
        assert before.calls == 96 and 96 * 100 < before.tokens_in < 96 * 400 and before.seconds == 72
        assert before.cost == pytest.approx((before.tokens_in + 2 * before.tokens_out) / 1e6)
        assert ledger.estimate(replace(how, rate=12), who, items, {}).seconds == 480
        # The server counts 100 and 10 tokens a call: 0.00012. The most that one may cost is about 0.0012.
        with pytest.raises(UserError, match="stopped before --max-cost 0.006 is passed"):
            run(replace(how, max_cost=0.006), answers, asked)
        first = len(server.requests)
        assert 20 < first < 50
        done, _ = run(how, answers, asked)
        assert done.kept == first and len(server.requests) == 96
        assert done.cost == pytest.approx((96 - first) * 0.00012)


def test_equal_answers_are_paid_once_and_new_answers_alone_are_paid_again(tmp_path):
    asked = examples(3)
    twice = [*asked, *[replace(e, again=1, entry=e.entry + 100) for e in asked]]
    with serving() as server:
        answers = write_answers(tmp_path, twice)
        done, scores = run(judge_config(server), answers, twice)
        assert len(server.requests) == done.new == 24 and scores["overall"]["n"] == 48
        write_answers(
            tmp_path,
            twice,
            lambda e: "changed" if e.question == "What is x 0?" else f"I see {e.video} and {e.question}",
        )
        done, _ = run(judge_config(server), answers, twice)
        assert done.new == 3 and done.kept == 21


def test_a_server_that_counts_no_tokens_is_held_to_the_limit_of_cost_by_the_most_that_calls_may_take(tmp_path):
    def reply(body, number):
        told = json.loads(completion('{"score": 3}'))
        return 200, {}, json.dumps({name: value for name, value in told.items() if name != "usage"})

    asked = examples(12)
    with serving(reply=reply) as server:
        how = judge_config(server, price_in=1.0, price_out=2.0, max_cost=0.02, concurrency=1)
        with pytest.raises(UserError, match="stopped before --max-cost 0.02 is passed"):
            run(how, write_answers(tmp_path, asked), asked)
        # The most that a call may take is about 0.0012: 300 tokens back, and half of the bytes there.
        assert 10 < len(server.requests) < 30


def test_several_runs_share_one_limit_of_cost(answered, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    save_experiment("second", replace(TOY, benchmark_root="nowhere"))
    write_answers(Path("second/answers_vcgbench"), answered, lambda e: f"second {e.question}")

    def reply(body, number):  # 0.0012 a call, four times the estimate
        told = json.loads(completion('{"score": 3}')) | {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
        return 200, {}, json.dumps(told)

    with serving(reply=reply) as server:
        where = ["judge", "run", "second", "--base-url", server.url, "--judge-model", "loopback", "--concurrency", "1"]
        price = ["--price-in", "1", "--price-out", "2"]
        cli.main([*where, *price, "--dry-run"])
        assert "calls of 2 runs" in capsys.readouterr().out and not server.requests
        with pytest.raises(SystemExit):
            cli.main([*where, *price, "--max-cost", "0.016"])
        assert "stopped before --max-cost 0.016" in capsys.readouterr().err
        first = len(server.requests)
        assert 8 < first <= 13, "the second run goes on with what the first one's 8 calls have left"
        assert Path("run/answers_vcgbench/scores.json").exists()
        cli.main(where)
        assert len(server.requests) == 8 + 11, "and nothing is paid twice"


def test_a_run_without_a_single_readable_clip_has_scores_and_nothing_to_pay(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path / "toy_pool4/answers", asked, lambda e: None)
    with serving() as server:
        done, scores = run(judge_config(server), answers, asked)
        assert done[:3] == (0, 0, 0) and not server.requests and scores["overall"]["mean"] == 0
    (table,) = judged_section({answers: level(4)}).tables
    assert "no day: there was no answer to judge" in table.note and table.rows[0][1].startswith("0.00")


def test_answers_that_were_redone_or_tried_before_are_paid_again_only_where_they_changed(tmp_path):
    asked, run_folder = examples(3), tmp_path / "run"

    def said(e):
        return "changed" if e.question == "What is x 0?" else f"I see {e.video} and {e.question}"

    with serving() as server:
        first = [e for e in asked if e.video == "0.mp4"]
        trial = write_answers(run_folder / "answers_vcgbench_first2", first)
        assert run(judge_config(server), trial, first)[0].new == 8
        answers = write_answers(run_folder / "answers_vcgbench", asked)
        done, before = run(judge_config(server), answers, asked)
        assert (done.new, done.kept) == (16, 8), "a trial's judgements are those of the whole"
        # A sweep that redoes the answers moves their folder aside.
        answers.parent.rename(run_folder / "answers_vcgbench.old-12345678")
        answers = write_answers(answers.parent, asked, said)
        who = ledger.judge_of(judge_config(server), VCGBENCH)
        items = ledger.items_of(who, VCGBENCH, asked, ledger.finished_answers(answers, asked))
        known = ledger.lines_left(ledger.ledger_path(answers, who, False), who)
        assert ledger.estimate(judge_config(server), who, items, known).calls == 3
        done, after = run(judge_config(server), answers, asked)
        assert (done.new, done.kept) == (3, 21) and len(server.requests) == 8 + 16 + 3
        rows = [one["aspects"]["detail"]["scores"] for one in (before, after)]
        changed = {f"{e.key}/detail" for e in asked if e.question == "What is x 0?"}
        assert all(rows[0][key] == rows[1][key] for key in rows[0].keys() - changed)
        assert len((answers.parent / "judged.jsonl").read_text().splitlines()) == 24, "the ledger holds them itself"
        # Another judge takes nothing from the first one.
        other = judge_config(server, judge_model="other")
        assert run(other, answers, asked, again=True)[0].new == 24


def test_a_torn_last_line_is_cut_off_and_judged_again(tmp_path):
    asked = examples(2)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        _, first = run(judge_config(server), answers, asked)
        path = tmp_path / "judged.jsonl"
        path.write_bytes(path.read_bytes()[:-30])
        done, second = run(judge_config(server), answers, asked)
    assert (done.new, done.kept) == (1, 15) and done.torn_bytes > 0
    assert without_dates(first) == without_dates(second)


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        run(judge_config(server), answers, asked)
        path = tmp_path / "judged.jsonl"
        path.write_bytes(b"{oops\n" + path.read_bytes())
        with pytest.raises(UserError, match="judged.jsonl, line 1: not a judgement"):
            run(judge_config(server), answers, asked)


CLIENT = """
import sys
sys.path[:0] = [{repo!r}, {tests!r}]
from test_judge import *
class Server: url = {url!r}
asked = examples(12)
run(judge_config(Server, concurrency=3), Path({answers!r}), asked)
"""


def test_kill_9_costs_the_calls_under_way_and_nothing_is_paid_twice(tmp_path):
    asked = examples(12)
    answers = write_answers(tmp_path, asked)
    here = Path(__file__).parent
    with serving() as server:
        server.delay = 0.02
        code = CLIENT.format(repo=str(here.parent), tests=str(here), url=server.url, answers=str(answers))
        path, kept = tmp_path / "judged.jsonl", 0
        for kill in range(1, 4):
            client = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
            while not (path.exists() and path.read_bytes().count(b"\n") >= kept + 15):
                assert client.poll() is None, client.stderr.read()
                time.sleep(0.005)
            os.kill(client.pid, signal.SIGKILL)
            client.communicate()
            time.sleep(0.1)
            kept, sent = path.read_bytes().count(b"\n"), len(server.requests)
            assert kept < 96 and sent - kept <= 3 * kill
        done, scores = run(judge_config(server), answers, asked)
        assert (done.kept, done.new) == (kept, 96 - kept)
        assert len(server.requests) == sent + 96 - kept
        undisturbed = write_answers(tmp_path / "undisturbed", asked)
        assert without_dates(run(judge_config(server), undisturbed, asked)[1]) == without_dates(scores)


def test_two_processes_do_not_judge_into_one_ledger(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)

    def reply(body, number):
        with pytest.raises(UserError, match="is being written by another process"):
            run(judge_config(server), answers, asked)
        return None

    with serving(reply=reply) as server:
        assert run(judge_config(server, timeout=30), answers, asked)[0].new == 8


def test_another_judge_has_a_ledger_of_its_own_and_the_first_is_kept(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        run(judge_config(server), answers, asked)
        first = (tmp_path / "judged.jsonl").read_bytes()
        with pytest.raises(UserError, match="holds judgements of loopback .*this judge is other .*rejudge"):
            run(judge_config(server, judge_model="other"), answers, asked)
        done, _ = run(judge_config(server, judge_model="other/judge"), answers, asked, again=True)
        assert done.new == 8 and (tmp_path / "judged.jsonl").read_bytes() == first
        assert (
            run(judge_config(server), answers, asked, again=True)[0].new == 0
        )  # the first judge again: nothing to pay
    assert len(list(tmp_path.glob("judged_other-judge_*.jsonl"))) == 1
    assert [s["judge"]["judge_model"] for s in all_scores(answers).values()] == ["loopback", "other/judge"]


def test_scores_of_unlike_judges_never_stand_in_one_column(tmp_path):
    asked, paths = examples(1), {}
    with serving() as server:
        for name, model in {"a": "loopback", "b": "loopback", "c": "other"}.items():
            paths[name] = write_answers(tmp_path / name, asked)
            run(judge_config(server, judge_model=model), paths[name], asked)
    assert len(common_scores({name: paths[name] for name in "ab"})) == 1
    with pytest.raises(UserError, match="a was judged by loopback.* c by other.*judges, not models.*rejudge"):
        common_scores(paths)
    # An alias that the server answers with another model of is another judge, whatever it is called.
    newer = write_answers(tmp_path / "d", asked)
    body = completion('{"score": 3}', model="loopback-2027-01-01")
    with serving(reply=lambda b, n: (200, {}, body)) as server:
        _, scores = run(judge_config(server), newer, asked)
    with pytest.raises(UserError, match="answered by loopback-2027-01-01"):
        check_alike({"a": next(iter(all_scores(paths["a"]).values())), "d": scores})


def test_every_score_says_who_gave_it_by_what_prompt_and_when(tmp_path):
    asked = examples(1)
    with serving() as server:
        _, scores = run(judge_config(server), write_answers(tmp_path, asked), asked)
    judge = scores["judge"]
    assert judge["judge_model"] == "loopback" and judge["served_models"] == ["loopback-2026-11-01"]
    assert judge["wording"] == "own" and len(judge["prompt_hash"]) == 16 and len(judge["prompts"]) == 5
    assert judge["last_date"] == time.strftime("%Y-%m-%d", time.gmtime())
    assert json.loads((tmp_path / "scores.json").read_text()) == scores


def test_scores_of_answers_that_have_changed_since_are_not_shown(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        run(judge_config(server), answers, asked)
    write_answers(tmp_path, asked, lambda e: "something else")
    with pytest.raises(UserError, match="scores.json is not of the answers that are there now; judge again"):
        all_scores(answers)


def test_scores_are_of_what_the_answers_say_and_not_of_their_order_or_seconds(tmp_path):
    asked = examples(2)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        _, first = run(judge_config(server), answers, asked)
        content = [json.loads(line) | {"seconds": i} for i, line in enumerate(answers.read_text().splitlines())]
        answers.write_text("".join(json.dumps(line) + "\n" for line in reversed(content)))
        assert all_scores(answers) == {"scores.json": first}
        assert run(judge_config(server), answers, asked)[1]["answers"] == first["answers"]
    write_answers(tmp_path, asked, lambda e: None if e.key == asked[0].key else f"I see {e.video} and {e.question}")
    with pytest.raises(UserError, match="not of the answers that are there now"):
        all_scores(answers)


def test_scores_of_older_answers_are_told_and_cost_nobody_the_newer_ones(tmp_path, capsys):
    asked, runs = examples(2), {}
    with serving() as server:
        for number in (4, 16):
            path = write_answers(tmp_path / f"toy_pool{number}/answers", asked)
            run(judge_config(server, judge_model="other"), path, asked)
            runs[path] = level(number)
        first = next(iter(runs))
        run(judge_config(server), first, asked, again=True)  # its scores_loopback_HASH.json
        write_answers(first.parent, asked, lambda e: f"now I see {e.video} and {e.question}")
        _, newer = run(judge_config(server, judge_model="other"), first, asked)
    capsys.readouterr()
    (old,) = first.parent.glob("scores_*.json")
    said = f"{old} is not of the answers that are there now and is left out; judge again: what was paid for is not paid"
    tables = judged_section(runs).tables
    assert capsys.readouterr().err.count(said) == 1
    assert [table.title for table in tables] == ["vcgbench: judged answers", tables[1].title]
    assert len(tables[0].rows) == 3 and str(old) in tables[0].note
    assert read_run(first).meta == newer and capsys.readouterr().err.count(said) == 1
    assert len(common_scores({str(path): path for path in runs})) == 1


def test_report_files_of_judges_with_one_name_stand_beside_each_other(tmp_path):
    asked, runs = examples(1), {}
    served = {4: ("alias", "m-1"), 8: ("alias", "m-2"), 16: ("a/b", "m"), 2: ("a-b", "m"), 1: ("A-b", "m")}
    for number, (model, answered) in served.items():
        body = completion('{"score": 3}', model=answered)
        with serving(reply=lambda b, n, body=body: (200, {}, body)) as server:
            path = write_answers(tmp_path / f"toy_pool{number}/answers", asked)
            run(judge_config(server, judge_model=model), path, asked)
            runs[path] = level(number)
    files = judged_section(runs).files
    tables = [name for name in files if name.endswith(".csv")]
    assert len({name.lower() for name in tables}) == 5 and all(name.isascii() and "/" not in name for name in files)
    rows = {name: list(csv.DictReader(files[name].decode().splitlines())) for name in tables}
    for model, answered in served.values():
        (one,) = (n for n, r in rows.items() if (r[0]["judge_model"], r[0]["served_models"]) == (model, answered))
        assert f"_{answered}_" in one


def test_an_unfinished_run_is_not_judged(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path / "run" / "answers_vcgbench", asked[:-1])
    command = "finish them with: videogpt-plus answer .*/run --task vcgbench"
    with serving() as server, pytest.raises(UserError, match=f"1 of 5 answers are missing; {command}"):
        run(judge_config(server), answers, asked)
    assert not server.requests


def test_yes_or_no_and_a_score_for_zero_shot_answers(tmp_path):
    asked = [OpenExample("qa", Path(f"/v/{i}"), f"{i}", f"Who is {i}?", "a man", i, id=f"{i}") for i in range(20)]
    with serving(share=0.3) as server:
        answers = write_answers(tmp_path, asked)
        done, scores = run(judge_config(server), answers, asked, benchmark="msvd_qa")
        properties = server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["pred", "score"] and done.unscored == 0
    row = scores["aspects"]["answer"]
    assert row["accuracy"] == pytest.approx(sum(score > 2 for score in row["scores"].values()) / 20)
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"concurrency": 0}, "--concurrency 0 is not possible"),
        ({"rate": 0.0}, "--rate 0 is not possible"),
        ({"timeout": float("nan")}, "--timeout nan is not possible"),
        ({"max_cost": 1.0}, "--max-cost needs --price-in and --price-out"),
        ({"base_url": "localhost:8000"}, "is no address"),
    ],
)
def test_impossible_settings_are_refused(how, said):
    with pytest.raises(UserError, match=said):
        JudgeConfig("x", **how)


def level(number: float, seed: int = 1) -> Run:
    return Run(f"toy_pool{number:g}" + (f"_seed{seed}" if seed > 1 else ""), number, seed, int(1664 / number**2))


def test_the_report_has_a_table_a_judge_and_never_mixes_them(tmp_path):
    asked, runs = examples(2), {}
    with serving() as server:
        for number, model in {4: "loopback", 16: "loopback", 2: "other"}.items():
            path = write_answers(tmp_path / f"toy_pool{number}/answers", asked)
            run(judge_config(server, judge_model=model), path, asked)
            runs[path] = level(number)
        waiting = {write_answers(tmp_path / "toy_pool8/answers", asked): level(8)}
        alike = dict(list(runs.items())[:2])
        table, paired, left = judged_section(alike | waiting).tables
        command = f"videogpt-plus judge {tmp_path}/toy_pool8 --task vcgbench --judge-model MODEL"
        assert list(left.rows) == [["toy_pool8: 26 tokens", command]]
        assert [row[0] for row in table.rows] == ["toy_pool4: 104 tokens", "toy_pool16: 6 tokens", DETECTABLE]
        assert "Not judged yet: toy_pool8" in table.note
        assert table.columns[1:3] == ["correctness", "detail"] and "loopback, answered by" in table.note
        scores = json.loads((tmp_path / "toy_pool4/answers/scores.json").read_text())["aspects"]["correctness"]
        assert table.rows[0][1].startswith(f"{scores['mean']:.2f} (")
        assert [row[0] for row in paired.rows] == ["toy: level 4 - level 16"] * 5

        # One run of another judge costs no other run its table.
        both = judged_section(runs).tables
        first, second = (one for one in both if one.title == "vcgbench: judged answers")
        assert [row[0] for row in first.rows[:2]] == ["toy_pool4: 104 tokens", "toy_pool16: 6 tokens"]
        assert "not in this table: toy_pool2: 416 tokens (judged by other" in first.note
        assert [row[0] for row in second.rows] == ["toy_pool2: 416 tokens"] and "judged by other" in second.note
        assert sum(one.title.endswith("paired tests of judged answers") for one in both) == 1

        # Judged by both, they have a table each: what they have in common.
        for path in alike:
            run(judge_config(server, judge_model="other"), path, asked, again=True)
    table, _ = judged_section(runs).tables
    assert len(table.rows) == 4 and "judged by other" in table.note
    assert [len(t.rows) for t in judged_section(alike).tables] == [3, 5, 3, 5]
    # Answers that have changed wait for their judge, and the others are shown.
    write_answers(next(iter(alike)).parent, asked, lambda e: "something else")
    table, left = judged_section(alike).tables[0], judged_section(alike).tables[-1]
    assert table.rows[0][0].startswith("toy_pool16") and left.rows[0][0].startswith("toy_pool4")


def test_judged_levels_are_tested_in_pairs_and_exported(tmp_path):
    asked, runs, scores = examples(12), {}, {}

    def reply(body, number):
        told = body["messages"][1]["content"]
        worse = 2 if "coarse" in told else 0
        return 200, {}, completion(json.dumps({"score": max(0, 4 + score_of(told) % 2 - worse)}))

    with serving(reply=reply) as server:
        for number, word in {4: "fine", 16: "coarse"}.items():
            for seed in (1, 2):
                folder = tmp_path / f"toy_pool{number}_seed{seed}" / "answers"
                path = write_answers(folder, asked, lambda e, w=word, s=seed: f"{w} {s} {e.question}")
                scores[number, seed] = run(judge_config(server), path, asked)[1]
                runs[path] = level(number, seed)
    alone = {path: one for path, one in runs.items() if one.seed == 1}
    table = judged_section(alone).tables[1]
    row = dict(zip(table.columns, next(row for row in table.rows if row[1] == "correctness"), strict=True))
    sides = [scores[number, 1]["aspects"]["correctness"]["scores"] for number in (4, 16)]
    clips = {f"{e.key}/correctness": e.video for e in asked}
    expected = compare(*sides, clips, scale=SCORE)
    assert row["n (clips)"] == "24 (12)"
    assert row["difference"].startswith(f"{expected.difference:+.2f} ({expected.low:+.2f} to")
    assert "is better" in row["shown"]
    assert len(table.rows) == 5 and "One training seed" in table.note

    section = judged_section(runs)
    assert "Over several seeds" in section.tables[1].note and len(section.tables[1].rows) == 5
    write_report([], tmp_path / "report", more=section)
    (one,) = (tmp_path / "report").glob("vcgbench_loopback_loopback-2026-11-01_????????_????????.csv")
    rows = list(csv.DictReader(one.open()))
    assert list(rows[0]) == CSV_COLUMNS and len(rows) == 4 * 5
    found = next(r for r in rows if (r["level"], r["seed"], r["aspect"]) == ("16", "2", "detail"))
    assert float(found["mean"]) == pytest.approx(scores[16, 2]["aspects"]["detail"]["mean"], abs=1e-6)
    assert found["judge_model"] == "loopback" and found["n"] == "24" and found["visual_tokens"] == "6"
    pairs = list(csv.DictReader(one.with_name(f"{one.stem}_pairs.csv").open()))
    assert {(r["first"], r["second"], r["seeds"]) for r in pairs} == {("toy_pool4", "toy_pool16", "2")}
    page = (tmp_path / "report/index.html").read_text()
    assert f"{one.stem}_score_vs_tokens.png" in page and "paired tests of judged answers" in page
    assert "judged-answers" in (tmp_path / "report/sweep.tex").read_text()


def test_official_wording_is_asked_as_the_official_scripts_ask(tmp_path):
    asked = examples(1)
    folder = scripts(tmp_path / "scripts")
    with serving() as server:
        answers = write_answers(tmp_path / "run", asked)
        _, scores = run(judge_config(server, official_prompts=folder), answers, asked)
        assert all(body.keys() == {"model", "messages", "max_tokens"} for body in server.requests)
        own = write_answers(tmp_path / "own", asked)
        run(judge_config(server), own, asked)
    assert scores["judge"]["wording"] == "official" and scores["overall"]["n"] == 8
    with pytest.raises(UserError, match="would compare judges"):
        common_scores({"a": answers, "b": own})


@pytest.fixture
def answered(tmp_path, monkeypatch):
    """A run folder with an answered VCGBench of three files, in the folder where commands look for it."""
    monkeypatch.chdir(tmp_path)
    root = Path(".cache/VCGBench/Benchmarking_QA")
    root.mkdir(parents=True)
    for i, (name, count) in enumerate({"generic": 3, "temporal": 1, "consistency": 1}.items()):
        names = ("Q1", "Q2") if name == "consistency" else ("Q",)
        entries = [{n: f"{name} {n} {j}?" for n in names} | {"A": "yes", "video_name": f"{i}"} for j in range(count)]
        (root / f"{name}_qa.json").write_text(json.dumps(entries))
    save_experiment("run", replace(TOY, benchmark_root="nowhere"))
    asked = BENCHMARKS["vcgbench"].load(".cache/VCGBench")
    asked = [e for task in asked for e in task.examples()]
    write_answers(Path("run/answers_vcgbench"), asked, lambda e: None if "generic Q 2" in e.question else e.question)
    return asked


def test_the_commands_from_answers_to_two_judges_tables(answered, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    with serving(share=0.3) as server:
        where = ["run", "--base-url", server.url, "--timeout", "0.5"]
        price = ["--price-in", "1", "--price-out", "2", "--max-cost", "1"]
        cli.main(["judge", *where, "--judge-model", "loopback", *price])
        told = capsys.readouterr().out
        assert "8 calls to 127.0.0.1" in told and "in the currency of the prices" in told and "8 new, 0 kept" in told
        assert told.index("8 calls to") < told.index("8 new")
        cli.main(["judge", *where, "--judge-model", "loopback"])
        assert "0 calls" in (told := capsys.readouterr().out) or "nothing to pay" in told
        with pytest.raises(SystemExit):
            cli.main(["judge", *where, "--judge-model", "other"])
        assert "rejudge" in capsys.readouterr().err
        cli.main(["rejudge", *where, "--judge-model", "other"])
        capsys.readouterr()
    cli.main(["score", "run", "--task", "vcgbench"])
    told = capsys.readouterr().out
    assert told.count("judged by") == 2 and "consistency" in told and "2 of 3" not in told and "3 of 3" in told
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("limit", ["1", "3"])
def test_a_server_that_is_not_there_is_one_line_and_exit_code_2_however_little_is_left(
    answered, monkeypatch, capsys, limit
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    few = [e for e in answered if e.entry < int(limit)]
    folder = Path(f"run/answers_vcgbench_first{limit}")
    write_answers(folder, few)
    with serving() as server:
        where = ["judge", "run", "--limit", limit, "--base-url", server.url, "--judge-model", "loopback"]
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        cli.main(where)
    assert time.monotonic() - began < 15 and stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no connection to 127.0.0.1" in said and "same command asks it again" in said
    assert (folder / "judged.jsonl").read_bytes() == b"" and not (folder / "scores.json").exists()


def test_a_refused_key_is_one_line_and_exit_code_2(answered, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with (
        serving(reply=lambda b, n: (401, {}, error(f"Incorrect API key provided: {KEY}", "invalid_api_key"))) as server,
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["judge", "run", "--base-url", server.url, "--judge-model", "loopback"])
    error_line = capsys.readouterr().err
    assert stop.value.code == 2 and "refuses the key in OPENAI_API_KEY (401" in error_line
    assert error_line.count("\n") == 1 and KEY not in error_line


def test_answers_and_results_in_the_references_files(answered, capsys):
    with serving() as server:
        answers = Path("run/answers_vcgbench/answers.jsonl")
        _, scores = run(judge_config(server), answers, answered)
    cli.main(["export", "run", "out", "--task", "vcgbench"])
    assert "6 answers in the reference's format" in capsys.readouterr().out
    found = {path.name: json.loads(path.read_text()) for path in Path("out").glob("*.json")}
    assert {name: len(content) for name, content in found.items()} == {
        "answer-video-generic.json": 3, "answer-video-temporal.json": 1, "answer-video-consistency.json": 1,
    }  # fmt: skip
    first, _, failed = found["answer-video-generic.json"]
    assert first == {"video_name": "0", "prompt": "generic Q 0?", "text": "generic Q 0?", "answer": "yes"}
    assert failed["text"].startswith("no answer: cannot read it")
    (pair,) = found["answer-video-consistency.json"]
    assert pair.keys() == {"video_name", "prompt_1", "text_1", "prompt_2", "text_2", "answer"}
    results = {path.stem: json.loads(path.read_text()) for path in Path("out/results").glob("*.json")}
    assert results.keys() == scores["aspects"].keys()
    means = {a: sum(given["score"] for given, _ in r.values()) / len(r) for a, r in results.items()}
    assert means == {a: row["mean"] for a, row in scores["aspects"].items()}
    assert list(results["detail"]) == ["1_0", "1_1", "1_2"]
    assert results["detail"]["1_0"][1] == {"q": "generic Q 0?", "a": "yes", "pred": "generic Q 0?"}
    assert results["consistency"]["1_0"][1].keys() == {"q1", "q2", "a", "pred1", "pred2"}


def test_the_references_files_of_diverse_and_zero_shot_answers(tmp_path, monkeypatch):
    clip = (Path("/v/a.mp4"), "a.mp4")
    diverse = [
        OpenExample("summary", *clip, "Describe.", "A dog.", 1, id=30),
        OpenExample("spatial", *clip, "Where?", "Left.", 2, id=31),
        OpenExample("consistency", *clip, "Who?", "A dog.", 0, 1, id=29),
        OpenExample("consistency", *clip, "Which?", "A dog.", 0, 2, id=29),
    ]
    short = [OpenExample("qa", *clip, f"{w}?", "dog", i, id=f"v_a_{i}") for i, w in enumerate(("who", "what"))]
    for name, asked in {"vcgbench_diverse": diverse, "msvd_qa": short}.items():
        monkeypatch.setattr("eval.report.reference_format.examples_of", lambda root, limit, task, asked=asked: asked)
        answers = write_answers(tmp_path / name, asked, lambda e: f"I say {e.question}")
        with serving() as server:
            _, scores = run(judge_config(server), answers, asked, benchmark=name)
        write_open_files(answers, name, "nowhere", None, tmp_path / f"{name}_out")
        if name == "vcgbench_diverse":
            (path,) = (tmp_path / f"{name}_out").glob("*.json")
            written = json.loads(path.read_text())
            assert path.name == "answer-vcgbench-diverse.json" and [e["ann_id"] for e in written] == [29, 30, 31]
            detail = json.loads((path.parent / "results/detail.json").read_text())
            assert detail.keys() == {"30", "31"} and detail["30"][0]["score"] in range(6)
            row = scores["aspects"]["dense caption"]  # over correctness and detail of one type
            both = [scores["aspects"][a]["scores"][f"{diverse[0].key}/{a}"] for a in ("correctness", "detail")]
            assert row["mean"] == sum(both) / 2 and row["n"] == 2
            assert scores["overall"]["n"] == 7  # further means count nothing twice
        else:
            written = json.loads((tmp_path / f"{name}_out" / "pred.json").read_text())
            told = {"id": "v_a_0", "video_name": "a.mp4", "Q": "who?", "A": "dog", "question": "who?", "answer": "dog"}
            assert written[0] == {**told, "pred": "I say who?"}
            results = json.loads((tmp_path / f"{name}_out" / "results/answer.json").read_text())
            assert list(results) == ["a.mp4_0", "a.mp4_1"] and results["a.mp4_0"][0]["pred"] in ("yes", "no")
