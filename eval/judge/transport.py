"""One POST to the judge's server: bounded as a whole, and cut short from another thread.

Calls run as tasks of an event loop in a thread of its own. There a time limit holds for everything that a call does,
a body that comes byte by byte included, and all calls under way can be ended at once. httpx2 is imported where it is
needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple

from eval.judge.settings import JudgeConfig
from videogpt_plus.io.errors import attempted, reason, translated
from videogpt_plus.types import UserError

#: Seconds that a connection may take to come about, names and certificates included.
CONNECTING = 5.0
#: Bytes of a server's answer at most.
LARGEST = 4_000_000
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Stopped(Exception):
    """Another call found that no call can succeed."""


class Unreachable(Exception):
    """No connection came about. `final`: another try would end the same way."""

    def __init__(self, reason: str, final: bool = False):
        super().__init__(reason)
        self.final = final


class Lost(Exception):
    """A connection came about, and no whole reply. `waited`: the time limit passed."""

    def __init__(self, reason: str, waited: bool = False):
        super().__init__(reason)
        self.waited = waited


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """The way to the server; may be used by several threads. UserError: proxies or certificates that cannot be used."""

    def __init__(self, judge_config: JudgeConfig, key: str):
        self.timeout = judge_config.timeout
        self.proxied = not judge_config.is_local and any(
            os.environ.get(n) or os.environ.get(n.lower()) for n in PROXIES[:3]
        )
        self._client, self._url = _client(judge_config, key), judge_config.url
        self._lock, self._closed = threading.Lock(), False
        self._loop = _Loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge-calls", daemon=True)
        self._thread.start()

    def post(self, body: Mapping[str, Any]) -> Reply:
        """The server's answer of whatever status. Raises Unreachable, Lost, or Stopped after `close`."""
        data = json.dumps(body).encode()
        with self._lock:
            if self._closed:
                raise Stopped
            future = asyncio.run_coroutine_threadsafe(self._post(data), self._loop)
        with translated(CancelledError, to=lambda _: Stopped()):
            return future.result()

    def close(self) -> None:
        """Ends the calls under way, which raise Stopped, and lets none begin."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _post(self, data: bytes) -> Reply:
        import httpx2

        not_connected = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol)

        def told(error: Exception) -> Exception:
            if isinstance(error, TimeoutError):
                return Lost(f"no reply within {self.timeout:g} seconds", waited=True)
            why, final = _cause(error)
            return Unreachable(why, final) if isinstance(error, not_connected) else Lost(f"no reply: {why}")

        with translated(TimeoutError, httpx2.TransportError, httpx2.DecodingError, to=told):
            async with asyncio.timeout(self.timeout), self._client.stream("POST", self._url, content=data) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > LARGEST:
                        raise Lost(f"a reply of more than {LARGEST:,} bytes")
                return Reply(response.status_code, response.headers, bytes(body))

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that nobody waits for at the end: a name server that hangs would hold up Ctrl-C."""

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):  # noqa: A002  # asyncio's names
        found = self.create_future()

        def settle(answer: Any) -> None:
            if not found.done():
                found.set_exception(answer) if isinstance(answer, Exception) else found.set_result(answer)

        def look_up() -> None:
            call = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
            answer = attempted(call, OSError, UnicodeError)
            if isinstance(answer, UnicodeError):  # a part of the name is empty or too long
                answer = socket.gaierror(socket.EAI_NONAME, "no name that can be looked up")
            if not self.is_closed():
                self.call_soon_threadsafe(settle, answer)

        threading.Thread(target=look_up, name="judge-names", daemon=True).start()
        return await found


def _client(judge_config: JudgeConfig, key: str):
    """An httpx2 client that follows no redirect and, for a server on this machine, asks the environment for nothing."""
    import httpx2

    def no_proxy(error: Exception) -> UserError:
        named = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
        return UserError(
            f"the proxy in {' or '.join(named) or 'the system settings'} cannot be used ({type(error).__name__}); "
            f"correct it, or leave it out for this server: NO_PROXY={judge_config.server}"
        )

    what = f"--base-url {judge_config.base_url!r} is no address"
    with translated(httpx2.InvalidURL, to=lambda error: UserError(f"{what} ({error})")):
        httpx2.URL(judge_config.url)
    with translated(httpx2.InvalidURL, ValueError, ImportError, to=no_proxy):
        return httpx2.AsyncClient(
            headers=_headers(judge_config, key),
            verify=_certificates() if judge_config.url.startswith("https:") or not judge_config.is_local else False,
            trust_env=not judge_config.is_local,
            follow_redirects=False,
            timeout=httpx2.Timeout(None, connect=min(CONNECTING, 0.8 * judge_config.timeout)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=judge_config.concurrency),
        )


def _headers(judge_config: JudgeConfig, key: str) -> dict[str, str]:
    """Key and, for a server elsewhere, the organisation and project that the environment names."""
    headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "videogpt-plus"}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    if not judge_config.is_local:
        owners = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        headers |= {header: value for header, name in owners.items() if (value := os.environ.get(name, "").strip())}
    return headers


def _certificates() -> ssl.SSLContext:
    """Whom to trust: SSL_CERT_FILE and SSL_CERT_DIR where they are set, else what the system trusts."""
    import httpx2

    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    then = "name a file of certificates, or unset it"
    with translated(  # ssl.SSLError is an OSError
        OSError, to=lambda error: UserError(f"SSL_CERT_FILE {file} cannot be used ({reason(error)}); {then}")
    ):
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=folder or None)
        return httpx2.create_ssl_context()


def _cause(error: BaseException) -> tuple[str, bool]:
    """The first cause of an error, in one line, and whether it is a certificate, so that trying again is no use."""
    while True:
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, ConnectionError) and error.errno:  # asyncio says the address again
        told = os.strerror(error.errno)
    return " ".join(told.split()), isinstance(error, ssl.SSLCertVerificationError)
