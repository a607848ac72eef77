"""Which requests reach the page: those of its own script, meant for it, and no larger than they may be."""

from __future__ import annotations

import asyncio
import socket

import pytest

from videogpt_plus.app.web.guard import REQUEST, UPLOAD, Guard, names_of
from videogpt_plus.app.web.uploads import Uploads

PAGE = "127.0.0.1:7860"


async def app(scope, receive, send):
    """Reads all that it is sent, and says how much it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def asked(folder, method="POST", path=UPLOAD, body=(b"x",), at="127.0.0.1", names=(), **headers):
    """Status and text of a request to a page that listens at an address."""
    guard = Guard(app, names_of(at, names), at != "127.0.0.1", Uploads(folder, 3e6), 2e6, set(names))
    headers = {"host": PAGE, **headers}
    said = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": said}
    parts = [{"type": "http.request", "body": part, "more_body": i < len(body) - 1} for i, part in enumerate(body)]
    answers = []

    async def receive():
        return parts.pop(0)

    async def send(message):
        answers.append(message)

    asyncio.run(guard(scope, receive, send))
    return answers[0]["status"], b"".join(a.get("body", b"") for a in answers[1:]).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {},  # no browser
        {"origin": f"http://{PAGE}", "sec_fetch_site": "same-origin"},
        {"origin": "http://localhost:7860", "host": "localhost:7860"},
        {"origin": "http://[::1]:7860", "host": "[::1]:7860"},
        {"sec_fetch_site": "none"},
    ],
)
def test_the_page_s_own_requests_go_through(tmp_path, headers):
    assert asked(tmp_path, **headers) == (200, "1")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8888"},  # another server of this machine
        {"origin": "http://localhost:7860"},  # the same server by another name is another origin
        {"origin": "file://"},
        {"origin": "http://[broken"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},  # other ports of this machine
        {"sec_fetch_site": "cross-site", "origin": f"http://{PAGE}"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},  # a form of another page
    ],
)
@pytest.mark.parametrize("path", [UPLOAD, "/gradio_api/queue/join", "/gradio_api/run/predict"])
def test_a_page_of_another_host_sends_nothing(tmp_path, headers, path):
    status, told = asked(tmp_path, path=path, **headers)
    assert status == 403 and "nothing from a page of another host" in told


def test_a_link_from_elsewhere_may_be_followed_and_nothing_else_be_got(tmp_path):
    visit = {"method": "GET", "sec_fetch_site": "cross-site"}
    assert asked(tmp_path, path="/", sec_fetch_mode="navigate", **visit)[0] == 200
    assert asked(tmp_path, path="/", sec_fetch_mode="no-cors", **visit)[0] == 403
    assert asked(tmp_path, path="/config", sec_fetch_mode="navigate", **visit)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1:7860", ""])
def test_a_name_that_leads_here_is_not_answered(tmp_path, host):
    """DNS rebinding: to the browser it is one origin, so that the host's name alone gives it away."""
    assert asked(tmp_path, host=host, origin=f"http://{host}", sec_fetch_site="same-origin")[0] == 404


def test_a_page_for_other_machines_answers_to_addresses_and_to_its_own_name(tmp_path):
    def status(host, names=()):
        return asked(tmp_path, at="0.0.0.0", host=host, origin=f"http://{host}", names=names)[0]

    assert {status(host) for host in ("10.0.0.1:7860", "[fd00::1]:7860", f"{socket.gethostname()}:7860")} == {200}
    assert status("evil.example:7860") == 404
    assert status("gpu.example", names=("gpu.example",)) == 200


def test_a_proxy_may_change_the_host(tmp_path):
    """As proxies do unless told: the page's public name is in the origin alone."""
    origin = {"origin": "https://gpu.example", "sec_fetch_site": "same-origin"}
    assert asked(tmp_path, **origin)[0] == 403
    assert asked(tmp_path, names=("gpu.example",), **origin)[0] == 200


def test_a_file_that_says_it_is_too_large_is_not_read(tmp_path):
    status, told = asked(tmp_path, body=(), content_length="4000000")
    assert (status, told) == (413, "it is larger than 2 MB")


def test_a_file_that_does_not_say_how_large_it_is_is_cut_off(tmp_path):
    assert asked(tmp_path, body=[bytes(500_000)] * 5) == (200, "2500000")  # what stands round a file has room, too
    assert asked(tmp_path, body=[bytes(500_000)] * 10)[0] == 413


def test_other_requests_are_small(tmp_path):
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
        assert asked(tmp_path, path=path, body=[bytes(REQUEST)])[0] == 200
        assert asked(tmp_path, path=path, body=[bytes(REQUEST), b"x"])[0] == 413


def test_uploads_at_the_same_time_have_room_together(tmp_path):
    uploads = Uploads(tmp_path, 3e6)
    guard = Guard(app, names_of("127.0.0.1"), False, uploads, 2e6)
    answers = []

    async def send(message):
        answers.append(message)

    headers = [(b"host", PAGE.encode()), (b"content-length", b"1000000")]
    with uploads.arriving(2.5e6):
        asyncio.run(guard({"type": "http", "method": "POST", "path": UPLOAD, "headers": headers}, None, send))
    assert answers[0]["status"] == 503 and b"too many files are being uploaded" in answers[1]["body"]


def test_no_websocket_is_opened(tmp_path):
    answers = []

    async def send(message):
        answers.append(message)

    guard = Guard(app, names_of("127.0.0.1"), False, Uploads(tmp_path, 3e6), 2e6)
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert answers == [{"type": "websocket.close", "code": 1008}]
