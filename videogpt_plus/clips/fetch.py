"""A picture from an http(s) address, for a program inside a network that others must not reach.

An address is resolved once, every answer must be a public one, and the connection goes to what was checked: a name
that resolves to something else a moment later changes nothing. Redirects are followed by the same rules, and from https
never to http: what was asked for over TLS does not come without it. Proxies are not used.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from videogpt_plus.clips.picture_files import FORMATS, NAMES, header
from videogpt_plus.io.errors import attempted, in_one_line, translated
from videogpt_plus.types import ClipError, UserError

#: What a server may call a picture; its content must then be one of FORMATS.
TYPES = frozenset({
    "image/jpeg", "image/jpg", "image/pjpeg", "image/mpo", "image/png", "image/apng", "image/webp", "image/bmp",
    "image/x-bmp", "image/x-ms-bmp", "image/gif",
})  # fmt: skip
SECONDS, BYTES, PIXELS, REDIRECTS = 20.0, 20 * 2**20, 50_000_000, 5
PORTS = {"http": 80, "https": 443}
MOVED = (301, 302, 303, 307, 308)
#: Where IPv6 addresses of the public internet are. Outside are those of sites and of networks over others, and those
#: with an IPv4 one inside that a gateway goes on to (::a.b.c.d, ::ffff:0:a.b.c.d, NAT64): which one is not known here.
GLOBAL = ipaddress.ip_network("2000::/3")
#: Never public, though `ipaddress` takes them for global ones: gateways from IPv4 to 6to4, and documentation.
INSIDE = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "3fff::/20")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Picture(NamedTuple):
    """The bytes of a file, and the ending that its format goes by, such as `.png`."""

    data: bytes
    suffix: str


def is_url(text: str) -> bool:
    """Whether it is an address and no path: it has a scheme, of whatever kind."""
    return "://" in text


def fetch_image(url: str, allow: Collection[str] = (), seconds: float = SECONDS, limit: int = BYTES) -> Picture:
    """The picture at an http(s) address, within so many seconds of all and so many bytes.

    `allow` names addresses that may be connected to though they are not public, such as 127.0.0.1 of a test's server.
    UserError: another scheme, a host inside a network, too slow, too large, or no picture.
    """

    def told(error: Exception) -> UserError:
        why = in_one_line(error, 160) or type(error).__name__
        return _refused(url, why, "check the address, or download the picture")

    download = _Download(url, frozenset(allow), time.monotonic() + seconds, limit)
    thread = threading.Thread(target=download.run, daemon=True)  # name resolution has no time limit
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        download.stop()
        raise _refused(url, f"it took longer than {seconds:g} s")
    with translated(OSError, HTTPException, ValueError, to=told):
        if isinstance(download.found, Exception):
            raise download.found
    return _checked(url, download.found)


def _refused(url: str, why: str, then: str = "download the picture and name its file") -> UserError:
    return UserError(f"cannot fetch {' '.join(url.split())[:200]}: {why}; {then}")


class _Download:
    """What a thread does for `fetch_image`; ends in the bytes that it `found`, or in an error."""

    def __init__(self, url: str, allow: frozenset[str], deadline: float, limit: int):
        self.url, self.allow, self.deadline, self.limit = url, allow, deadline, limit
        self.found: bytes | Exception = b""
        self.connection: HTTPConnection | None = None
        self.stopped = False

    def stop(self) -> None:
        """Ends a connection that is open; nothing is waited for."""
        self.stopped = True
        if self.connection and (sock := self.connection.sock):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """The download. What it raises is for the caller's thread to raise."""
        self.found = attempted(self._followed, Exception)

    def _followed(self) -> bytes:
        url = self.url
        for _ in range(REDIRECTS + 1):
            with self._connected(url) as self.connection:
                response = self._asked(url)
                if response.status not in MOVED:
                    return self._body(response)
                to = urljoin(url, response.headers.get("location", ""))
                if (urlsplit(url).scheme, urlsplit(to).scheme) == ("https", "http"):
                    raise _refused(self.url, f"it is redirected from https to {to[:80]}, which anybody may change")
                url = to
        raise _refused(self.url, f"it is redirected more than {REDIRECTS} times")

    def _connected(self, url: str) -> _Connection:
        parts = urlsplit(url)
        if parts.scheme not in PORTS:
            raise _refused(self.url, f"'{parts.scheme or url[:40]}' is no http or https address")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise _refused(self.url, "an address needs a host, and must hold no user name")
        port = parts.port or PORTS[parts.scheme]
        address = self._resolved(parts.hostname, port)
        if self.stopped:
            raise TimeoutError("it was given up")
        kind = _SecureConnection if parts.scheme == "https" else _Connection
        return kind(parts.hostname, port, address, max(0.01, self.deadline - time.monotonic()))

    def _resolved(self, host: str, port: int) -> str:
        """An address of the host, all of which are allowed."""
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        inside = [a for a in found if a not in self.allow and not is_public(a)]
        if inside or not found:
            raise _refused(self.url, f"{host} is {', '.join(inside)}, inside a network and not public")
        return found[0]

    def _asked(self, url: str) -> HTTPResponse:
        accept = {"Accept": ", ".join(sorted(TYPES)), "Accept-Encoding": "identity", "User-Agent": "videogpt-plus"}
        self.connection.request("GET", _target(urlsplit(url)), headers={**accept, "Connection": "close"})
        return self.connection.getresponse()

    def _body(self, response: HTTPResponse) -> bytes:
        if response.status != 200:
            raise _refused(self.url, f"the server says {response.status} {response.reason}", "check the address")
        kind = response.headers.get_content_type()
        if kind not in TYPES:
            raise _refused(self.url, f"it is '{kind}', no picture ({NAMES} are read)")
        length = response.headers.get("content-length", "")
        parts, size = [], int(length) if length.isdigit() else 0
        if size <= self.limit:
            size = 0
            while size <= self.limit and not self.stopped and (part := response.read1(65536)):
                parts.append(part)
                size += len(part)
        if size > self.limit:
            raise _refused(self.url, f"it is larger than {self.limit / 2**20:g} MiB")
        if length.isdigit() and size < int(length):
            raise _refused(self.url, f"it broke off after {size} of {length} bytes", "try again")
        return b"".join(parts)


class _Connection(HTTPConnection):
    """To an address that was resolved and checked, for a host by its name."""

    def __init__(self, host: str, port: int, address: str, seconds: float):
        super().__init__(host, port, timeout=seconds)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _SecureConnection(_Connection):
    """The same through TLS; the certificate must be the name's."""

    default_port = HTTPSConnection.default_port

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _target(parts: SplitResult) -> str:
    """What is asked for at the host, of ASCII letters alone."""
    query = f"?{parts.query}" if parts.query else ""
    return quote(f"{parts.path or '/'}{query}", safe="/?:@!$&'()*+,;=%~-._")


def is_address(name: str) -> bool:
    """Whether a host's name is an IP address."""
    return not isinstance(attempted(partial(ipaddress.ip_address, name), ValueError), ValueError)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; one that leads to IPv4 addresses is where all of them are."""
    own: Address = ipaddress.ip_address(address.partition("%")[0])
    if any(own in network for network in INSIDE if network.version == own.version):
        return False
    if isinstance(own, ipaddress.IPv6Address):
        if inner := _inner(own):
            return all(is_public(str(one)) for one in inner)
        if own not in GLOBAL:
            return False
    return own.is_global and not own.is_multicast


def _inner(own: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 one leads to; none where it stands for itself."""
    return [one for one in (own.ipv4_mapped, own.sixtofour, *(own.teredo or ())) if one is not None]


def _checked(url: str, data: bytes) -> Picture:
    """UserError: it is no picture that is read here, or one with too many pixels."""

    def told(error: Exception) -> UserError:
        return _refused(url, str(error).removeprefix("cannot read it: ").partition("; ")[0])

    with translated(ClipError, to=told):
        found = header("it", data, PIXELS)
    return Picture(data, FORMATS[found.form])
