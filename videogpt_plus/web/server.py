"""The page on a port: what Gradio is told, and what it is kept from."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.types import UserError
from videogpt_plus.web.clips import INCOMING, Source
from videogpt_plus.web.settings import DEFAULT_LIMITS, Limits
from videogpt_plus.web.talk import Models

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What the browser is told to refuse: anything from another host, whatever a model may write.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
#: What the page needs of Gradio's addresses; others fetch files and addresses, edit apps and tell of visitors.
USED = re.compile(
    r"/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/(join|data)|run/predict|reset|cancel|upload|upload_progress|startup-events|heartbeat/\w+)"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STYLE = Path(__file__).with_name("page.css")


class Guard:
    """Tells the browser to ask no other host, and takes out what Gradio's page says of others.

    At a loopback address it answers to no other name, so that no page of another host can pass for this one.
    ASGI middleware; written here because Gradio's page is not ours to edit.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str] | None = None):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not USED.fullmatch(scope["path"]) or not self._is_meant(scope):
            await send({"type": "http.response.start", "status": 404, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": b""})
            return
        start: Message | None = None
        body = b""

        async def guarded(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                start = {**message, "headers": headers}
                if not _is_page(message["headers"]):
                    await send(start)
                    start = None
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    own = _without_hosts(body, dict(scope["headers"]).get(b"host", b""))
                    kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                    await send({**start, "headers": [*kept, (b"content-length", str(len(own)).encode())]})
                    await send({"type": "http.response.body", "body": own})

        await self.app(scope, receive, guarded)

    def _is_meant(self, scope: Scope) -> bool:
        said = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        return self.names is None or re.sub(r":\d+$", "", said).strip("[]") in self.names


_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def _is_page(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(key.lower() == b"content-type" and value.startswith(b"text/html") for key, value in headers)


def _without_hosts(html: bytes, own: bytes) -> bytes:
    """A page without addresses of hosts other than `own`: in its head, and in what Gradio tells of its parts."""
    html = re.sub(rb"<(meta|link)\b[^>]*\bhttps?://[^>]*>", b"", html)
    return re.sub(rb'"https?://(?!' + re.escape(own) + rb')[^"\s]*"', b'""', html)


@contextmanager
def _private(folder: Path) -> Iterator[None]:
    """Gradio's files go below `folder`, and it calls nobody; both are told to it by the environment."""
    told = {
        "GRADIO_TEMP_DIR": str(folder / INCOMING),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def check_address(host: str, port: int | None) -> None:
    """UserError: nothing can listen there. Gradio would try a hundred ports of an address that is not ours."""
    try:
        with socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except (OSError, UnicodeError) as error:
        place = host if port is None else f"{host}:{port}"
        raise UserError(
            f"cannot listen at {place}: it is taken, or no address of this machine; name another --port or --host"
        ) from error


@contextmanager
def served(
    models: Models,
    sources: Sequence[Source],
    folder: Path,
    limits: Limits = DEFAULT_LIMITS,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[str]:
    """The page at an address, which is what comes back, until the context ends. Files are kept below `folder`.

    `port` None takes the first free one from 7860 on. UserError: Gradio is not installed, or the port is taken.
    """
    check_address(host, port)
    with _private(folder):
        try:
            import gradio as gr
            from starlette.middleware import Middleware

            from videogpt_plus.web.page import Page
        except ImportError as error:
            raise UserError("the page needs Gradio: pip install 'videogpt_plus[web]'") from error
        blocks = Page(models, sources, folder, limits).build()
        blocks.queue(default_concurrency_limit=8, api_open=False)
        plain = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
        try:
            _, url, _ = blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                max_file_size=int(limits.megabytes * 1e6),
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                theme=gr.themes.Base(
                    primary_hue="teal", neutral_hue="slate", font=plain, font_mono=("ui-monospace", "monospace")
                ),
                css=STYLE.read_text(),
                app_kwargs={"middleware": [Middleware(Guard, names=LOOPBACK if host in LOOPBACK else None)]},
            )
        except OSError as error:
            raise UserError(f"cannot listen at {host}: {error}; name another --port or --host") from error
        try:
            yield url
        finally:
            blocks.close(verbose=False)
