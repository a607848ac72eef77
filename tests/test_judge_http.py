"""The judge's server over real HTTP: what it takes, what it says wrong, how long it takes, what it may not see."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from judge_server import KEY, completion, error, score_of, serving
from test_judge import examples, judge_config, lines, run, write_answers

from eval.judge import endpoint, ledger
from eval.judge.endpoint import JudgeConfig, NoConnection
from eval.judge.header import left_out_by
from eval.judge.masking import Mask
from eval.judge.options import named_option, options_of, ways, without
from eval.judge.pace import back_off, retry_after
from eval.judge.prompts import Prompt, own_prompts
from eval.judge.scoring import check_alike
from eval.tasks.benchmarks import BENCHMARKS
from videogpt_plus.io.fingerprint import for_files
from videogpt_plus.io.jsonl_log import meta_path
from videogpt_plus.types import UserError

VCGBENCH = BENCHMARKS["vcgbench"]


def told(body: dict) -> str:
    return body["messages"][1]["content"]


def about(word: str):
    """The requests of one question, `What is x 1?`, which has three aspects."""
    return lambda body: f"What is {word}?" in told(body)


def taking(*names: str, param: bool = False):
    """A server that takes none of these options and says so with or without naming them."""

    def reply(body, number):
        for name in names:
            if name in body:
                return 400, {}, error("Invalid request.", "unsupported_parameter", name if param else None)
        return None

    return reply


# What a server takes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("param", [True, False])
@pytest.mark.parametrize(
    "refused",
    [
        ("response_format",),
        ("temperature",),
        ("max_tokens",),
        ("temperature", "max_tokens"),
        ("response_format", "temperature", "max_tokens"),
    ],
)
def test_what_a_server_does_not_take_is_found_out_before_the_first_score(tmp_path, refused, param):
    asked, said = examples(2), []
    with serving(reply=taking(*refused, param=param)) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked, say=said.append)
        good = [body for body in server.requests if not any(name in body for name in refused)]
    assert done[:3] == (16, 0, 0) and len(said) == len(refused)
    assert len(good) == 17 and len(server.requests) <= 17 + 9, "one small question, and the ways that were refused"
    assert all(body.keys() == good[0].keys() for body in good)
    sent = {
        "temperature": [None if "temperature" in refused else 0.0],
        "token_limit": 300,
        "limit_option": "max_completion_tokens" if "max_tokens" in refused else "max_tokens",
        "format": "text" if "response_format" in refused else "schema",
    }
    assert scores["judge"]["sent"] == sent
    assert all(line["sent"] == {**sent, "temperature": sent["temperature"][0]} for line in lines(tmp_path / "x"))
    assert json.loads(meta_path(tmp_path / "judged.jsonl").read_text())["left_out"] == sorted(refused)


def test_a_server_that_takes_everything_is_asked_nothing_but_the_questions(tmp_path):
    asked = examples(2)
    with serving() as server:
        _, scores = run(judge_config(server), write_answers(tmp_path, asked), asked)
        assert len(server.requests) == len({json.dumps(body["messages"]) for body in server.requests}) == 16
    assert scores["judge"]["sent"] == {
        "temperature": [0.0], "token_limit": 300, "limit_option": "max_tokens", "format": "schema",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["x 0", "x 1"])
@pytest.mark.parametrize(
    "answer",
    [
        error("This model's maximum context length is 4096 tokens.", "context_length_exceeded", "messages"),
        error("The text says temperature, response_format and max_tokens."),
        error("Unsupported value: 'temperature' does not support 0.", "unsupported_value", "temperature"),
        error("max_tokens is too large for this prompt.", None, "max_tokens"),
        json.dumps({"detail": [{"loc": ["body", "temperature"], "msg": "no temperature here"}]}),
    ],
)
def test_a_400_about_one_prompt_changes_nothing_for_the_others(tmp_path, word, answer):
    """The very first question as well as a later one, whatever its error says."""
    asked, said = examples(2), []
    with serving(reply=lambda body, n: (400, {}, answer) if about(word)(body) else None) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked, say=said.append)
        others = [body for body in server.requests if not about(word)(body)]
    assert done.unscored == 3 and said == []
    assert all(body["temperature"] == 0 and "response_format" in body and "max_tokens" in body for body in others)
    assert 13 <= len(others) <= 14, "at most one small question beside"
    assert scores["judge"]["sent"]["format"] == "schema" and scores["judge"]["sent"]["temperature"] == [0.0]
    assert all("400: " in line["unscored"] for line in lines(tmp_path / "x") if line["score"] is None)


def test_the_small_question_is_counted_in_what_was_spent(tmp_path):
    asked = examples(1)
    with serving(reply=taking("temperature")) as server:
        how = judge_config(server, price_in=1.0, price_out=2.0)
        done, _ = run(how, write_answers(tmp_path, asked), asked)
        replies = sum("temperature" not in body for body in server.requests)
    assert replies == 9 and done.cost == pytest.approx(9 * 0.00012)
    assert sum(line["calls"] for line in lines(tmp_path / "x")) == len(server.requests)


def test_a_server_that_refuses_every_way_is_one_line_and_nothing_is_recorded(tmp_path):
    asked = examples(1)
    with (
        serving(reply=lambda b, n: (400, {}, error("roles must alternate"))) as server,
        pytest.raises(UserError, match="refuses even a small question.*roles must alternate"),
    ):
        run(judge_config(server), write_answers(tmp_path, asked), asked)
    assert (tmp_path / "judged.jsonl").read_bytes() == b""


def test_a_ledger_goes_on_as_it_began_though_the_server_takes_more_by_now(tmp_path):
    asked = examples(2)
    first = [e for e in asked if e.video == "0.mp4"]
    with serving(reply=taking("temperature")) as server:
        run(judge_config(server), write_answers(tmp_path, first), first)
    with serving() as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked)
        assert done[:3] == (8, 8, 0) and len(server.requests) == 8
        assert not any("temperature" in body for body in server.requests)
    assert scores["judge"]["sent"]["temperature"] == [None]
    assert {line["sent"]["temperature"] for line in lines(tmp_path / "x")} == {None}


def test_a_ledger_is_not_filled_up_in_another_way_than_it_began(tmp_path):
    asked = examples(2)
    first = [e for e in asked if e.video == "0.mp4"]
    with serving() as server:
        run(judge_config(server), write_answers(tmp_path, first), first)
        before = (tmp_path / "judged.jsonl").read_bytes()
    with (
        serving(reply=taking("temperature", param=True)) as server,
        pytest.raises(UserError, match="no longer takes what this run was judged with.*temperature"),
    ):
        run(judge_config(server), write_answers(tmp_path, asked), asked)
    assert (tmp_path / "judged.jsonl").read_bytes() == before


def test_answers_judged_in_unlike_ways_never_share_a_column_or_a_line(tmp_path):
    asked, answers, found = examples(1), {}, {}
    for name, refused in {"cold": (), "warm": ("temperature",), "cut": ()}.items():
        with serving(reply=taking(*refused)) as server:
            answers[name] = write_answers(tmp_path / name / "answers", asked)
            how = judge_config(server, max_tokens=50 if name == "cut" else 300)
            found[name] = run(how, answers[name], asked)[1]
    for one, other in (("cold", "warm"), ("cold", "cut"), ("warm", "cut")):
        with pytest.raises(UserError, match="temperature .* one column would compare judges"):
            check_alike({name: found[name] for name in (one, other)})
    # Other answers of a run lend no judgement that was asked for in another way.
    with serving() as server:
        whole = write_answers(tmp_path / "warm" / "answers_first1", asked)
        assert run(judge_config(server), whole, asked)[0].new == 0, "it is asked as the run's other answers were"
        assert run(judge_config(server, max_tokens=50), whole, asked, again=True)[0].new == 8


def test_another_token_limit_is_another_judge(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        run(judge_config(server), answers, asked)
        with pytest.raises(UserError, match="at most 300 tokens a reply.*at most 1000 tokens a reply.*rejudge"):
            run(judge_config(server, max_tokens=1000), answers, asked)
        assert run(judge_config(server, max_tokens=1000), answers, asked, again=True)[0].new == 8
        assert run(judge_config(server), answers, asked, again=True)[0].new == 0


def test_a_ledger_that_does_not_say_how_its_judge_was_asked_is_another_judges(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path / "answers", asked)
    with serving() as server:
        run(judge_config(server), answers, asked)
        path = meta_path(answers.with_name("judged.jsonl"))
        meta = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in meta.items() if name != "left_out"}))
        with pytest.raises(UserError, match="holds judgements of .*rejudge"):
            run(judge_config(server), answers, asked)
        assert len(server.requests) == 8
        assert run(judge_config(server), answers, asked, again=True)[0].new == 8


def test_a_prompt_that_says_less_than_another_does_not_decide_for_it():
    """Official scripts may ask some aspects at a temperature and leave it open for others."""
    open_, cold = (Prompt("You grade.", "Q: ${question}", value, "official") for value in (None, 0.0))
    with serving(reply=taking("temperature")) as server:
        one = endpoint.Endpoint(judge_config(server), KEY, prompts=(open_, cold))
        try:
            found = [one.judge(prompt, {"question": "What?"}).score for prompt in (open_, cold)]
        finally:
            one.close()
        assert [told(body) for body in server.requests] == [
            "Q: What colour is snow?", "Q: What colour is snow?", "Q: What?", "Q: What?",
        ]  # fmt: skip
    assert one.left_out == {"temperature"} and found == [score_of("Q: What?")] * 2


def test_the_ways_left_after_an_error_that_names_an_option():
    options = options_of(own_prompts(["detail"])["detail"], False, 300)
    everything = ways(options)
    assert len(everything) == 8 and everything[0] == frozenset()
    assert all("temperature" in way for way in without(everything, "temperature"))
    assert not any("max_tokens" in way for way in without(everything, "max_completion_tokens"))
    assert without(everything, None) == without(everything, "messages") == everything
    assert named_option("response_format.json_schema", options) == "response_format"
    assert named_option("messages[1].content", options) is named_option(None, options) is None


# What it says wrong --------------------------------------------------------------------------------------------------

BAD_200 = {
    "an error object": error("the backend is loading", "overloaded"),
    "an error text": json.dumps({"error": "the backend is loading"}),
    "an object of error": json.dumps({"object": "error", "message": "the backend is loading", "code": 50001}),
    "an error of the choice": json.dumps(
        {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "the backend is loading"}}]}
    ),
}


@pytest.mark.parametrize("what", BAD_200)
def test_an_error_in_a_reply_of_status_200_is_retried_with_pauses_and_its_message_kept(tmp_path, what):
    asked = examples(1)
    reply = lambda body, n: (200, {}, BAD_200[what]) if about("x 0")(body) else None  # noqa: E731
    began = time.monotonic()
    with serving(reply=reply) as server:
        done, _ = run(judge_config(server, attempts=3), write_answers(tmp_path, asked), asked)
        assert sum(map(about("x 0"), server.requests)) == 9
    assert time.monotonic() - began > 0.25 + 0.5 and done.unscored == 3
    left = [line for line in lines(tmp_path / "x") if line["score"] is None]
    assert all("the backend is loading" in line["unscored"] for line in left)


@pytest.mark.parametrize("words", ["", "The answer is fine."])
def test_replies_without_a_score_are_not_asked_again_at_once(tmp_path, words):
    asked = examples(1)
    with serving(reply=lambda b, n: (200, {}, completion(words)) if about("x 0")(b) else None) as server:
        run(judge_config(server, attempts=3), write_answers(tmp_path, asked), asked)
        by_prompt: dict[str, list[float]] = {}
        for when, body in zip(server.times, server.requests, strict=True):
            by_prompt.setdefault(json.dumps(body["messages"]), []).append(when)
    again = [times for times in by_prompt.values() if len(times) > 1]
    assert len(again) == 3 and all(b - a >= 0.25 and c - b >= 0.5 for a, b, c in again)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (completion('{"score": ', finish="length"), "--max-tokens 300 (finish_reason length)"),
        (completion("Score: 3", finish="length"), "--max-tokens 300 (finish_reason length)"),  # perhaps of 10
        (completion("", finish="length"), "--max-tokens 300 (finish_reason length)"),
        (completion("", finish="content_filter"), "finish_reason content_filter"),
        (completion(None, finish="tool_calls", tool_calls=[{"id": "x"}]), "finish_reason tool_calls"),
    ],
)
def test_why_a_reply_ended_is_named(tmp_path, reply, said):
    asked = examples(1)
    with serving(reply=lambda b, n: (200, {}, reply) if about("x 0")(b) else None) as server:
        _, scores = run(judge_config(server, attempts=1), write_answers(tmp_path, asked), asked)
    left = [line for line in lines(tmp_path / "x") if line["score"] is None]
    assert len(left) == 3 and all(said in line["unscored"] for line in left)
    assert any(said in reason for reason in scores["aspects"]["detail"]["unscored"])


def test_a_whole_object_is_a_score_though_the_limit_was_reached_behind_it(tmp_path):
    asked = examples(1)
    with serving(reply=lambda b, n: (200, {}, completion('{"score": 4}', finish="length"))) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked)
    assert done.unscored == 0 and scores["overall"]["mean"] == 4


@pytest.mark.parametrize("value", ["0", "-5", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "1e-9"])
def test_a_retry_after_that_says_nothing_still_waits(tmp_path, value):
    asked = examples(1)
    busy = (429, {"retry-after": value}, error("busy"))
    with serving(reply=lambda b, n: busy if n <= 2 else None) as server:
        run(judge_config(server, concurrency=1), write_answers(tmp_path, asked), asked)
        assert all(later - sooner >= 0.25 for sooner, later in zip(server.times[:2], server.times[1:3], strict=True))


def test_what_a_server_asks_to_wait():
    assert retry_after({"retry-after": "7"}) == 7 and retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "-7"}) == 0 and retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is retry_after({}) is None
    assert retry_after({"retry-after": "Wed, 21 Oct 999999 07:28:00 GMT"}) is None
    assert all(0.25 <= back_off(1) <= 0.5 for _ in range(100)) and 10 <= back_off(10_000) <= 20


# Where it is ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def accepting(then):
    """A TCP server; `then(connection)` is all that it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=then, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("kind", "count"), [("refused", 1), ("refused", 12), ("name", 1), ("no TLS", 1), ("TLS", 1), ("hangs up", 12)]
)
def test_a_server_that_cannot_be_reached_is_said_within_seconds_and_nothing_recorded(
    tmp_path, monkeypatch, kind, count
):
    if kind != "refused":
        monkeypatch.setattr(endpoint, "PATIENCE_AT_FIRST", 0.5)
    asked = examples(count)
    answers = write_answers(tmp_path, asked)
    began = time.monotonic()
    with accepting(lambda connection: connection.close()) as closing, serving() as plain:
        address = {
            "refused": f"http://127.0.0.1:{free_port()}/v1",
            "name": "http://no-such-host.invalid/v1",
            "no TLS": f"https://127.0.0.1:{plain.server_port}/v1",
            "TLS": f"https://127.0.0.1:{closing}/v1",
            "hangs up": f"http://127.0.0.1:{closing}/v1",
        }[kind]
        with pytest.raises(NoConnection, match="no connection to .*nothing was recorded for what is left") as stop:
            run(JudgeConfig("loopback", base_url=address), answers, asked)
    assert time.monotonic() - began < 15 and "\n" not in str(stop.value)
    assert (tmp_path / "judged.jsonl").read_bytes() == b""
    with serving() as server:
        assert run(judge_config(server), answers, asked)[0][:3] == (8 * count, 0, 0)


def test_a_name_server_that_hangs_holds_up_neither_the_message_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "PATIENCE_AT_FIRST", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(10))
    asked = examples(1)
    began = time.monotonic()
    with pytest.raises(NoConnection, match="no connection to judge.example"):
        run(JudgeConfig("x", base_url="http://judge.example/v1", timeout=1), write_answers(tmp_path, asked), asked)
    assert time.monotonic() - began < 5


def test_a_server_that_goes_away_in_the_middle_leaves_what_was_scored_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "PATIENCE_LATER", 1.5)
    asked = examples(4)
    answers = write_answers(tmp_path, asked)
    server_gone = threading.Event()

    def reply(body, number):
        if number == 10 and not server_gone.is_set():
            server_gone.set()
            server.socket.close()  # connections that are open are served until they end
        return 200, {"connection": "close"}, completion(json.dumps({"score": score_of(told(body))}))

    began = time.monotonic()
    with serving(reply=reply) as server, pytest.raises(NoConnection, match="no connection to"):
        run(judge_config(server, concurrency=2), answers, asked)
    assert time.monotonic() - began < 15
    kept = lines(tmp_path / "x")
    assert 0 < len(kept) < 32 and all(line["score"] is not None for line in kept)
    with serving() as server:
        assert run(judge_config(server), answers, asked)[0][:2] == (32 - len(kept), len(kept))


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h:8000", "http://h:8000/chat/completions"),
        ("http://h/v1?api-version=2024-10-21", "http://h/v1/chat/completions?api-version=2024-10-21"),
        ("http://h/a%20b/?x=1&y=%2F#z", "http://h/a%20b/chat/completions?x=1&y=%2F"),
    ],
)
def test_where_calls_go(url, called):
    assert JudgeConfig("x", base_url=url).url == called


def test_a_query_goes_with_every_call(tmp_path):
    asked = examples(1)
    with serving() as server:
        how = judge_config(server, base_url=f"{server.url}?api-version=2024-10-21")
        assert run(how, write_answers(tmp_path, asked), asked)[0].unscored == 0
        assert set(server.paths) == {"/v1/chat/completions?api-version=2024-10-21"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "begins with http"),
        ("http://", "names a host"),
        ("http:///v1", "names a host"),
        ("http://host:99999/v1", "impossible port"),
        ("http://host:0/v1", "impossible port"),
        ("http://host:port/v1", "impossible port"),
        ("http://[::1/v1", "is no address"),
        ("http://me:secret@host/v1", "leave it out"),
        ("http://host /v1", "names a host"),
    ],
)
def test_an_address_that_is_none_is_one_line(url, said):
    with pytest.raises(UserError, match=said) as stop:
        JudgeConfig("x", base_url=url)
    assert "\n" not in str(stop.value) and "secret" not in str(stop.value)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.0.0.1", True), ("127.8.8.8", True),
        ("[::1]", True), ("[::ffff:127.0.0.1]", True), ("0.0.0.0", True), ("10.0.0.1", False), ("localhost.com", False),
        ("128.0.0.1", False), ("api.openai.com", False),
    ],
)  # fmt: skip
def test_which_servers_are_on_this_machine(host, local):
    assert JudgeConfig("x", base_url=f"http://{host}:8000/v1").is_local is local


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_one_line_and_the_key_is_not_sent_on(tmp_path, status):
    asked = examples(1)
    with serving() as other:
        elsewhere = (status, {"location": f"{other.url}/chat/completions?secret=1"}, "")
        with (
            serving(reply=lambda b, n: elsewhere) as server,
            pytest.raises(UserError, match="sends calls elsewhere") as s,
        ):
            run(judge_config(server), write_answers(tmp_path, asked), asked)
        assert not other.requests
    assert f"({status}, to http" in str(s.value) and "secret" not in str(s.value)
    assert (tmp_path / "judged.jsonl").read_bytes() == b""


def test_a_server_on_this_machine_is_asked_without_proxy_and_sees_no_organisation(tmp_path, monkeypatch):
    asked = examples(1)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "org-of-mine")
    with serving() as server:
        assert run(judge_config(server), write_answers(tmp_path, asked), asked)[0].unscored == 0
        assert not any("org-of-mine" in headers.values() for headers in server.headers)
        assert set(server.headers[0]) <= {
            "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
            "authorization",
        }  # fmt: skip


@pytest.mark.parametrize("proxy", ["ftp://proxy", "http://[", "http://h:99999", "socks9://x"])
def test_a_proxy_that_is_none_is_one_line(tmp_path, monkeypatch, proxy):
    asked = examples(1)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("http_proxy", raising=False)
    with pytest.raises(UserError, match="the proxy in HTTP_PROXY") as stop:
        run(JudgeConfig("x", base_url="http://judge.invalid/v1"), write_answers(tmp_path, asked), asked)
    assert "\n" not in str(stop.value)


def test_a_proxy_that_is_not_there_is_said_with_the_server(tmp_path, monkeypatch):
    asked = examples(1)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(NoConnection, match="no connection to judge.invalid by way of the proxy in HTTP_PROXY") as stop:
        run(JudgeConfig("x", base_url="http://judge.invalid/v1"), write_answers(tmp_path, asked), asked)
    assert "secret" not in str(stop.value)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_are_none_are_one_line(tmp_path, monkeypatch, content):
    asked, file = examples(1), tmp_path / "certificates.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(UserError, match=f"SSL_CERT_FILE {file} cannot be used") as stop:
        run(JudgeConfig("x", base_url="https://127.0.0.1:9/v1"), write_answers(tmp_path, asked), asked)
    assert "\n" not in str(stop.value)


def test_a_certificate_that_nobody_trusts_is_said_at_once_and_one_that_is_named_is_trusted(tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("makes its certificate with openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *name]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked = examples(1)
    answers = write_answers(tmp_path / "run", asked)
    with serving() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        how = judge_config(server, base_url=f"https://localhost:{server.server_port}/v1")
        began = time.monotonic()
        with pytest.raises(NoConnection, match="no connection to localhost.*certificate"):
            run(how, answers, asked)
        assert time.monotonic() - began < 2.5, "no time mends a certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert run(how, answers, asked)[0][:3] == (8, 0, 0)


# How long it takes ---------------------------------------------------------------------------------------------------


def drip(handler) -> None:
    """A reply that comes byte by byte and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(600):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def drip_headers(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(600):
        handler.wfile.write(f"x-{number}: 1\r\n".encode())
        time.sleep(0.05)


@pytest.mark.parametrize("slow", [drip, drip_headers])
def test_the_time_limit_is_of_the_whole_call(tmp_path, slow):
    asked = examples(1)
    began = time.monotonic()
    with serving(reply=lambda b, n: slow if about("x 0")(b) else None) as server:
        done, _ = run(judge_config(server, timeout=0.5, attempts=2), write_answers(tmp_path, asked), asked)
    assert time.monotonic() - began < 10 and done.unscored == 3
    assert any("no reply within 0.5 seconds" in (line["unscored"] or "") for line in lines(tmp_path / "x"))


def test_a_first_question_that_hangs_holds_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "WAIT_FOR_FIRST", 0.2)
    asked = examples(4)
    began, hang = time.monotonic(), lambda handler: time.sleep(4)
    with serving(reply=lambda b, n: hang if about("x 0")(b) else None) as server:
        how = judge_config(server, timeout=3, attempts=1, concurrency=8)
        done, scores = run(how, write_answers(tmp_path, asked), asked)
        assert len(server.requests) == 32
    assert time.monotonic() - began < 7 and done.unscored == 3
    assert scores["judge"]["sent"]["format"] == "schema"


def test_a_server_that_never_answered_anything_leaves_nothing_recorded(tmp_path):
    asked = examples(1)
    with (
        accepting(lambda connection: time.sleep(5)) as port,
        pytest.raises(NoConnection, match="answered none of 2 calls .no reply within 0.3 seconds"),
    ):
        how = JudgeConfig("x", base_url=f"http://127.0.0.1:{port}/v1", timeout=0.3, attempts=2)
        run(how, write_answers(tmp_path, asked), asked)
    assert (tmp_path / "judged.jsonl").read_bytes() == b""


def test_a_reply_without_an_end_is_not_kept(tmp_path):
    def flood(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1000):
            handler.wfile.write(b" " * 100_000)

    asked = examples(1)
    with serving(reply=lambda b, n: flood if about("y 0")(b) else None) as server:
        done, _ = run(judge_config(server, attempts=2), write_answers(tmp_path, asked), asked)
    assert done.unscored == 3
    assert sum("more than 4,000,000 bytes" in (line["unscored"] or "") for line in lines(tmp_path / "x")) == 3


CLIENT = """
import sys, time
sys.path[:0] = [{repo!r}, {tests!r}]
from videogpt_plus.app import cli
import videogpt_plus.app.commands.judge as command
from test_judge import *
class Server: url = {url!r}
def judge():
    print("begins", flush=True)
    run(judge_config(Server, concurrency=4), Path({answers!r}), examples(2))
cli.COMMANDS = {{"judge": judge}}
cli.main(["judge"])
"""


def test_ctrl_c_ends_within_two_seconds_with_calls_under_way(tmp_path):
    answers = write_answers(tmp_path, examples(2))
    here = Path(__file__).parent
    with serving(reply=lambda b, n: (lambda handler: time.sleep(20)) if n > 2 else None) as server:
        code = CLIENT.format(repo=str(here.parent), tests=str(here), url=server.url, answers=str(answers))
        client = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while len(server.requests) < 6 and client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=10)
        took = time.monotonic() - began
    assert client.returncode == 130 and took < 2, said
    assert said == "stopped; the same command goes on from here\n"
    assert len(lines(tmp_path / "x")) == 2


# What it may not see or say ------------------------------------------------------------------------------------------

ODD = 'k"<é>/+ &key\\1234'.encode("ascii", "ignore").decode()


@pytest.mark.parametrize("key", [KEY, ODD, "abc12", "x-1"])
@pytest.mark.parametrize("where", ["reply", "model", "finish", "usage", "error", "error of 200", "code", "header"])
def test_the_key_reaches_no_file_whatever_the_server_repeats(tmp_path, key, where, capsys):
    plain = base64.b64encode(key.encode()).decode()
    bearer = base64.b64encode(f"Bearer {key}".encode()).decode() if len(key) >= 8 else ""
    forms = [key, quote(key, safe=""), plain, key.encode().hex(), json.dumps(key)[1:-1], bearer]
    echo = " and ".join(f"<{form}>" for form in forms)

    def reply(body, number):
        if not about("x 0")(body):
            return None
        return {
            "reply": (200, {}, completion(f"You sent {echo}")),
            "model": (200, {}, completion('{"score": 3}', model=f"m {echo}")),
            "finish": (200, {}, completion("", finish=echo)),
            "usage": (200, {}, completion('{"score": 3}').replace("100", json.dumps(echo))),
            "error": (400, {}, error(f"bad key {echo}")),
            "error of 200": (200, {}, error(f"bad key {echo}")),
            "code": (400, {}, error("bad key", echo, echo)),
            "header": (500, {"x-key": quote(echo), "retry-after": quote(echo)}, error("bad", echo)),
        }[where]

    asked = examples(1)
    with serving(reply=reply) as server:
        _, scores = run(judge_config(server, attempts=1), write_answers(tmp_path, asked), asked, key=key, say=print)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    shown = written + capsys.readouterr().out
    for form in forms:
        assert not form or f"<{form}>" not in shown and f"<{json.dumps(form)[1:-1]}>" not in shown
    if len(key) >= 8:
        assert key not in shown and plain.rstrip("=") not in shown


def test_the_beginning_of_a_key_in_a_reply_that_is_cited_is_hidden_too(tmp_path):
    key = "sk-" + "0123456789abcdef" * 6
    asked = examples(1)
    with serving(reply=lambda b, n: (200, {}, completion(f"Hm, {key}")) if about("x 0")(b) else None) as server:
        run(judge_config(server, attempts=1), write_answers(tmp_path, asked), asked, key=key)
    assert key[:12] not in (tmp_path / "judged.jsonl").read_text()


def test_a_short_key_is_hidden_as_a_word_and_changes_no_score():
    assert Mask("ab1")("key ab1, ab1x and xab1: ab1") == "key ***, ab1x and xab1: ***"
    assert Mask("")("nothing to hide") == "nothing to hide"


def test_a_key_that_is_a_number_changes_no_score(tmp_path):
    asked = examples(1)
    with serving(reply=lambda b, n: (200, {}, completion('{"score": 4}'))) as server:
        done, scores = run(judge_config(server), write_answers(tmp_path, asked), asked, key="4")
    assert done.unscored == 0 and scores["overall"]["mean"] == 4


# Names of files ------------------------------------------------------------------------------------------------------


def test_no_two_judges_share_the_names_of_their_files(tmp_path):
    names = ["a/b", "a-b", "a b", "a_b", "A-b", "a-B", "ä-b", "é", "e\u0301", "a" * 300, "a" * 301, ".", "..", "a.b"]
    made = [for_files(name) for name in names]
    assert len({name.lower() for name in made}) == len(names)
    assert all(len(name) < 80 and name.isascii() and "/" not in name and name.strip(".") for name in made)
    assert for_files("a-b") == "a-b" and for_files("loopback-2026-11-01") == "loopback-2026-11-01"


def test_ledgers_of_judges_with_alike_names_lie_beside_each_other(tmp_path):
    asked = examples(1)
    answers = write_answers(tmp_path, asked)
    with serving() as server:
        for name in ("first", "a/b", "a-b", "A-b"):
            assert run(judge_config(server, judge_model=name), answers, asked, again=True)[0].new == 8
        for name in ("first", "a/b", "a-b", "A-b"):
            assert run(judge_config(server, judge_model=name), answers, asked, again=True)[0].new == 0
    assert len({path.name.lower() for path in tmp_path.glob("judged*.jsonl")}) == 4
    who = ledger.judge_of(judge_config(server, judge_model="a-b"), VCGBENCH)
    assert left_out_by(ledger.ledger_path(answers, who, True), who) == frozenset()
