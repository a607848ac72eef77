"""Middleware before Gradio: which requests reach it, how large they may be, and which hosts its answers may name.

ASGI middleware; written here because Gradio's page is not ours to edit.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from videogpt_plus.app.web.uploads import Uploads
from videogpt_plus.clips import fetch
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The browser loads nothing from another host, whatever a model may write.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
#: What the page needs of Gradio's addresses; others fetch files and addresses, edit apps and tell of visitors.
USED = re.compile(
    r"/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/(join|data)|run/predict|reset|cancel|upload|upload_progress|startup-events|heartbeat/\w+)"
)
UPLOAD = "/gradio_api/upload"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Bytes of a request that brings no file, and of what stands round a file in one that does.
REQUEST = 2**20
#: Seconds that a file may take to arrive.
SECONDS = 1800.0


class Refused(Exception):
    """A request that goes no further: its status, and a line that says why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def names_of(host: str, more: Sequence[str] = ()) -> frozenset[str]:
    """The names that a page which listens at `host` answers to. UserError: one of `more` is no name of a host."""
    for name in more:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--names {name} is no name of a host: write it without scheme and port, as gpu.example")
    own = () if host in LOOPBACK else (socket.gethostname(), socket.getfqdn())
    return frozenset(name.lower() for name in (*LOOPBACK, host, *own, *more))


class Guard:
    """Lets through what this page's own script asks for, and keeps its answers from naming other hosts.

    A page of another host may link to this one and do nothing else: neither under its own name (the browser says where
    a request comes from), nor under a name that leads here (as in DNS rebinding), which is none of `names`. `addresses`
    says whether any address is a name, too. `more` are names of proxies, which may change what the browser said of the
    host. A file's body ends at `largest` bytes, and there is room for it in `uploads` before it is let in.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Collection[str],
        addresses: bool,
        uploads: Uploads,
        largest: float,
        more: Collection[str] = (),
    ):
        self.app, self.names, self.addresses, self.more = app, names, addresses, more
        self.uploads, self.largest = uploads, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(send, _header(scope, "host"))
        try:
            self._check(scope)
            with self._room(scope) as most:
                async with asyncio.timeout(SECONDS if scope["path"] == UPLOAD else None):
                    await self.app(scope, _limited(receive, most), answer)
        except (Refused, UserError, TimeoutError) as error:
            if answer.began:
                raise
            told = str(error) or f"it took longer than {SECONDS:.0f} s to arrive"
            await answer.refuse(getattr(error, "status", 503), told)

    def _check(self, scope: Scope) -> None:
        """Refused: it is none of the page's addresses, meant for another host, or sent by a page of another one."""
        if not USED.fullmatch(scope["path"]) or not self._is_meant(_header(scope, "host")):
            raise Refused(404, "")
        if self._is_foreign(scope):
            raise Refused(403, "this page takes nothing from a page of another host")

    def _is_meant(self, host: str) -> bool:
        name = _name(host)
        return name in self.names or (self.addresses and fetch.is_address(name))

    def _is_foreign(self, scope: Scope) -> bool:
        """Whether a page of another host asks; to follow a link from there to this one is not foreign."""
        site, mode = _header(scope, "sec-fetch-site"), _header(scope, "sec-fetch-mode")
        visit = scope["method"] == "GET" and scope["path"] == "/" and mode == "navigate"
        if site not in ("", "same-origin", "none") and not visit:
            return True
        host = _header(scope, "host").lower()
        origins = [value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"origin"]
        return any(_netloc(origin) != host and _name(_netloc(origin)) not in self.more for origin in origins)

    @contextmanager
    def _room(self, scope: Scope) -> Iterator[float]:
        """How many bytes of a request are read. Refused: it says that it has more. UserError: there is no room."""
        upload = scope["path"] == UPLOAD
        most = REQUEST + (self.largest if upload else 0)
        said = _header(scope, "content-length")
        length = int(said) if said.isdigit() else most
        if length > most:
            raise Refused(413, f"it is larger than {self.largest / 1e6:g} MB" if upload else "it is too large")
        if not upload:
            yield most
            return
        with self.uploads.arriving(min(length, self.largest)):
            yield most


def _limited(receive: Receive, most: float) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise Refused(413, "it is larger than it may be")
        return message

    return limited


class _Answer:
    """Sends what the app answers, with our headers; a page of HTML as a whole and without addresses of other hosts."""

    def __init__(self, send: Send, host: str):
        self._send, self._host = send, host.encode("latin-1")
        self._page: Message | None = None
        self._body = b""
        self.began = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            start = {**message, "headers": [*message["headers"], *HEADERS]}
            if _is_page(message["headers"]):
                self._page = start
            else:
                await self._begin(start)
        elif self._page is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._begin_page()

    async def _begin(self, start: Message) -> None:
        self.began = True
        await self._send(start)

    async def _begin_page(self) -> None:
        own = _without_hosts(self._body, self._host)
        kept = [(k, v) for k, v in self._page["headers"] if k.lower() != b"content-length"]
        await self._begin({**self._page, "headers": [*kept, (b"content-length", str(len(own)).encode())]})
        await self._send({"type": "http.response.body", "body": own})

    async def refuse(self, status: int, why: str) -> None:
        kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await self._begin({"type": "http.response.start", "status": status, "headers": [*HEADERS, *kind]})
        await self._send({"type": "http.response.body", "body": why.encode()})


def _header(scope: Scope, name: str) -> str:
    return dict(scope["headers"]).get(name.encode(), b"").decode("latin-1")


def _netloc(origin: str) -> str:
    with suppress(ValueError):
        return urlsplit(origin).netloc
    return ""


def _name(host: str) -> str:
    """A host without its port."""
    return re.sub(r":\d+$", "", host).strip("[]").lower()


def _is_page(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(key.lower() == b"content-type" and value.startswith(b"text/html") for key, value in headers)


def _without_hosts(html: bytes, own: bytes) -> bytes:
    """A page without addresses of hosts other than `own`: in its head, and in what Gradio tells of its parts."""
    html = re.sub(rb"<(meta|link)\b[^>]*\bhttps?://[^>]*>", b"", html)
    return re.sub(rb'"https?://(?!' + re.escape(own) + rb')[^"\s]*"', b'""', html)
