"""A judge on loopback: an OpenAI-compatible server over real HTTP that scores by rule and fails on purpose.

Run as a program it prints its port and serves until it is ended: for tests that kill its client.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-loopback-1234567890"
#: What goes wrong in a bad call: name -> what the server does.
FAULTS = ("busy", "broken", "slow", "nothing", "prose", "scale", "half", "said", "cut", "filtered", "gone")
#: Longer than the tests' time limit of a call.
SLOW = 1.0


def score_of(prompt: str) -> int:
    """The judge's true opinion of a prompt: a number that depends on all of it."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 6


class Judge(ThreadingHTTPServer):
    """`share` of the calls fail, each kind in turn; `reply(request, n)` takes the place of the true answer.

    It returns status, headers and body, or None for the true answer, or a function that is given the handler.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, share: float = 0.0, reply: Callable[[dict, int], Any] | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.share, self.reply = share, reply
        self.lock = threading.Lock()
        self.random = random.Random(7)
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.faults: Counter[str] = Counter()
        self.times: list[float] = []
        self.most_at_once = self.now = 0
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that was killed, or that did not wait


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server: Judge = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.requests.append(body)
            server.times.append(time.monotonic())
            server.keys.add(self.headers["authorization"])
            server.paths.append(self.path)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            number = len(server.requests)
            fault = FAULTS[number % len(FAULTS)] if server.random.random() < server.share else None
            server.faults[fault] += 1
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        time.sleep(server.delay)
        own = server.reply(body, number) if server.reply else None
        if callable(own):  # does with the connection what no HTTP library would
            own(self)
            self.close_connection = True
            return
        if fault == "gone":
            with server.lock:
                server.now -= 1
            self.close_connection = True
            return
        status, headers, text = own or self._answer(body, fault)
        with server.lock:
            server.now -= 1
        data = text.encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: dict, fault: str | None) -> tuple[int, dict, str]:
        if fault == "busy":
            return 429, {"retry-after": "0.05"}, error("slow down", "rate_limit_exceeded")
        if fault == "broken":
            return 500, {}, error("oops")
        if fault == "slow":
            time.sleep(SLOW)
        if fault == "nothing":
            return 200, {}, ""
        if fault == "said":
            return 200, {}, error("the model is loading", 503)
        prompt = body["messages"][1]["content"]
        said = {"score": score_of(prompt)}
        if "yes or no" in prompt:
            said = {"pred": "yes" if said["score"] > 2 else "no", **said}
        words = {
            "prose": "The given answer is fine on the whole.",
            "scale": json.dumps({**said, "score": 10 * said["score"] + 60}),
            "half": json.dumps(said)[:-3],
            "cut": f"Score: {said['score']}"[:-1],
            "filtered": "",
        }.get(fault, json.dumps(said))
        finish = {"cut": "length", "filtered": "content_filter"}.get(fault, "stop")
        return 200, {}, completion(words, finish=finish)


def completion(words: str | None, model: str = "loopback-2026-11-01", finish: str = "stop", **message) -> str:
    """A server's body with these words in it."""
    message = {"role": "assistant", "content": words, **message}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choices = [{"index": 0, "finish_reason": finish, "message": message}]
    return json.dumps({"id": "x", "object": "chat.completion", "model": model, "choices": choices, "usage": usage})


def error(message: str, code: str | int | None = None, param: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": code, "code": code, "param": param}})


@contextmanager
def serving(share: float = 0.0, reply=None) -> Iterator[Judge]:
    """A judge at work."""
    server = Judge(share, reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
