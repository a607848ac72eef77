"""Pictures from addresses: what is fetched, and everything that is not."""

from __future__ import annotations

import io
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from videogpt_plus.clips import fetch
from videogpt_plus.clips.fetch import fetch_image, is_public, is_url
from videogpt_plus.types import UserError

LOOPBACK = ("127.0.0.1",)


def picture(form: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (200, 30, 40)).save(data, form)
    return data.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path that is asked for."""

    def do_GET(self) -> None:  # noqa: N802, the name is http.server's
        self.server.asked.append((self.path, dict(self.headers)))
        name, _, rest = self.path[1:].partition("/")
        getattr(self, f"give_{name}")(rest)

    def give(self, data: bytes, kind: str = "image/png", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def give_picture(self, form: str) -> None:
        self.give(picture(form or "PNG"), f"image/{(form or 'PNG').lower()}")

    def give_page(self, rest: str) -> None:
        self.give(picture(), "text/html; charset=utf-8")

    def give_eps(self, rest: str) -> None:
        self.give(picture("EPS"), "image/png")

    def give_text(self, rest: str) -> None:
        self.give(b"root:x:0:0", "image/png")

    def give_large(self, rest: str) -> None:
        self.give(bytes(5000))

    def give_endless(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        for _ in range(50):  # no length is told
            self.wfile.write(bytes(1000))

    def give_broken(self, rest: str) -> None:
        self.give(picture()[:20], **{"Content-Length": "1000"})

    def give_nothing(self, rest: str) -> None:
        self.give(b"", status=404)

    def give_moved(self, to: str) -> None:
        self.give(b"", status=302, Location=self.server.moves.get(to, to))

    def give_trickle(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.give_slow(rest)

    def give_slow(self, rest: str) -> None:
        for _ in range(100):  # each byte comes in time, all of them never would
            self.wfile.write(b"X")
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    own = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    own.asked, own.moves, own.handle_error = [], {}, lambda *_: None
    own.daemon_threads = True
    thread = threading.Thread(target=own.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    own.url = f"http://127.0.0.1:{own.server_port}"
    yield own
    own.shutdown()
    own.server_close()


@pytest.mark.parametrize(
    ("form", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp"), ("GIF", ".gif")]
)
def test_a_picture_comes_as_it_is(server, form, suffix):
    assert fetch_image(f"{server.url}/picture/{form}", LOOPBACK) == (picture(form), suffix)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("page", "it is 'text/html', no picture"),
        ("eps", "it is a picture in the format PostScript, and only JPEG, PNG, WebP, BMP and GIF are read"),
        ("text", "the image cannot be read: it is none of JPEG, PNG, WebP, BMP and GIF"),
        ("large", "it is larger than 0.00390625 MiB"),
        ("endless", "it is larger than 0.00390625 MiB"),
        ("broken", "it broke off after 20 of 1000 bytes|IncompleteRead"),
        ("nothing", "the server says 404"),
    ],
)
def test_what_is_no_picture_or_too_large_is_one_line(server, path, told):
    with pytest.raises(UserError, match=told) as error:
        fetch_image(f"{server.url}/{path}", LOOPBACK, limit=4096)
    assert "\n" not in str(error.value)


def test_of_a_jpeg_with_several_pictures_all_comes(server, monkeypatch):
    """MPO: two pictures in one JPEG, as phones and cameras write them."""
    data = io.BytesIO()
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ((200, 30, 40), (0, 0, 0)))
    first.save(data, "MPO", save_all=True, append_images=[second])
    monkeypatch.setattr(sys.modules[__name__], "picture", lambda form: data.getvalue())
    assert fetch_image(f"{server.url}/picture/JPEG", LOOPBACK) == (data.getvalue(), ".jpg")


def test_a_picture_of_too_many_pixels_is_refused(server, monkeypatch):
    monkeypatch.setattr(fetch, "PIXELS", 23)
    with pytest.raises(UserError, match="its 6 x 4 pixels are more than 23"):
        fetch_image(f"{server.url}/picture", LOOPBACK)


@pytest.mark.parametrize("path", ["slow", "trickle"])
def test_a_server_that_drips_is_given_up(server, path):
    threads, began = threading.active_count(), time.monotonic()
    with pytest.raises(UserError, match=r"it took longer than 0.3 s"):
        fetch_image(f"{server.url}/{path}", LOOPBACK, seconds=0.3)
    while threading.active_count() > threads + 1 and time.monotonic() - began < 4:  # the server's own goes on
        time.sleep(0.02)
    assert time.monotonic() - began < 3 and threading.active_count() <= threads + 1


def test_a_resolver_that_hangs_is_given_up(monkeypatch):
    hold = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hold.wait(5) or [])
    with pytest.raises(UserError, match=r"it took longer than 0.2 s"):
        fetch_image("http://example.org/a.png", seconds=0.2)
    hold.set()


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a.png", "gopher://example.org", "data:image/png;base64,AAAA", "a.png"],
)
def test_other_schemes_are_refused(url):
    with pytest.raises(UserError, match="is no http or https address"):
        fetch_image(url)


@pytest.mark.parametrize("url", ["http://", "http:///a.png", "http://user@example.org/a", "https://:p@example.org/a"])
def test_an_address_needs_a_host_and_no_user(url):
    with pytest.raises(UserError, match="needs a host, and must hold no user name"):
        fetch_image(url)


@pytest.mark.parametrize("url", ["http://example.org:99999/a", "http://[::1/a", "http://a..b/", "http://\x00/"])
def test_an_address_that_cannot_be_read_is_one_line(url):
    with pytest.raises(UserError, match="cannot fetch"):
        fetch_image(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_spelling_of_loopback_is_reached(server, host):
    with pytest.raises(UserError, match="inside a network and not public|cannot fetch"):
        fetch_image(f"http://{host}:{server.server_port}/picture")
    assert server.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:ffff::808:808", "2001:db8::1",
        "fec0::1", "feff::1", "::127.0.0.1", "::169.254.169.254", "::8.8.8.8", "2002:a9fe:a9fe::1", "2002:a00:1::1",
        "2001:0:7f00:1::", "2001:0:808:808::f5ff:fffe", "2001:0:808:808::80ff:fffe", "192.88.99.1",
        "::ffff:0:127.0.0.1", "::ffff:0:808:808", "64:ff9b:0:1::1", "200::1", "5f00::1", "4000::1", "3fff::1",
    ],
)  # fmt: skip
def test_addresses_inside_a_network_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1"]
)
def test_public_addresses_are_public(address):
    assert is_public(address)


def test_a_redirect_is_followed(server):
    server.moves["there"] = "/picture"
    assert fetch_image(f"{server.url}/moved/there", LOOPBACK).suffix == ".png"


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://127.0.0.2:{port}/picture", "http://10.0.0.1/a.png"])
def test_a_redirect_to_another_scheme_or_inside_is_refused(server, to):
    server.moves["there"] = to.format(port=server.server_port)
    with pytest.raises(UserError, match="no http or https address|inside a network and not public"):
        fetch_image(f"{server.url}/moved/there", LOOPBACK)
    assert [path for path, _ in server.asked] == ["/moved/there"]


def test_redirects_in_a_circle_end(server):
    server.moves["round"] = "/moved/round"
    with pytest.raises(UserError, match="redirected more than 5 times"):
        fetch_image(f"{server.url}/moved/round", LOOPBACK)


def test_a_name_that_also_resolves_inside_is_refused(server, monkeypatch):
    both = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(UserError, match="host.example is 127.0.0.1, inside a network"):
        fetch_image(f"http://host.example:{server.server_port}/picture")


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(server, monkeypatch):
    """DNS rebinding: the second answer would be another machine."""
    asked, usual = [], socket.getaddrinfo

    def rebinding(host, *rest, **named):
        if host != "pictures.example":
            return usual(host, *rest, **named)
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1" if len(asked) == 1 else "10.0.0.1", server.server_port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = f"http://pictures.example:{server.server_port}/picture"
    assert fetch_image(url, LOOPBACK).data == picture()
    assert asked == ["pictures.example"]
    assert server.asked[0][1]["Host"] == f"pictures.example:{server.server_port}"


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch_image(f"{server.url}/picture", LOOPBACK).data == picture()


def test_letters_beyond_ascii_are_quoted(server):
    with pytest.raises(UserError, match="cannot fetch"):
        fetch_image(f"{server.url}/größe 1", LOOPBACK)
    assert server.asked[-1][0] == "/gr%C3%B6%C3%9Fe%201"


def test_https_to_a_server_without_tls_is_one_line(server):
    with pytest.raises(UserError, match="cannot fetch https://"):
        fetch_image(f"{server.url.replace('http:', 'https:')}/picture", LOOPBACK)


@pytest.fixture
def secured(server, tmp_path):
    """The same server behind TLS, and the certificate of its name `pictures.example`."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=pictures.example"]
        + ["-addext", "subjectAltName=DNS:pictures.example", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server, certificate


@pytest.fixture
def names_are_here(secured, monkeypatch) -> None:
    """Every name below `.example` is this machine's."""
    found, usual = [(2, 1, 6, "", ("127.0.0.1", secured[0].server_port))], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: found if host.endswith(".example") else usual(host, *a, **k)
    )


@pytest.mark.parametrize(("to", "followed"), [("https", True), ("http", False)])
def test_a_redirect_from_https_to_http_is_refused(secured, names_are_here, monkeypatch, to, followed):
    server, certificate = secured
    trusted = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusted)
    here = f"pictures.example:{server.server_port}"
    server.moves["there"] = f"{to}://{here}/picture"
    if followed:
        assert fetch_image(f"https://{here}/moved/there", LOOPBACK).data == picture()
    else:
        with pytest.raises(UserError, match="redirected from https to http://pictures.example"):
            fetch_image(f"https://{here}/moved/there", LOOPBACK)
    assert [path for path, _ in server.asked] == ["/moved/there", "/picture"][: 1 + followed]


def test_https_checks_the_certificate_against_the_name(secured, names_are_here, monkeypatch):
    server, certificate = secured
    urls = [f"https://{name}.example:{server.server_port}/picture" for name in ("pictures", "other")]
    with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED"):  # nobody vouches for it
        fetch_image(urls[0], LOOPBACK)
    trusted = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusted)
    assert fetch_image(urls[0], LOOPBACK).data == picture()
    with pytest.raises(UserError, match="not valid for 'other.example'"):
        fetch_image(urls[1], LOOPBACK)


def test_paths_are_no_addresses():
    assert is_url("https://example.org/a.png") and is_url("file:///a.png")
    assert not is_url("a.png") and not is_url("/data/a:b.png")


def test_a_fetched_picture_that_is_damaged_is_named_by_its_address(monkeypatch):
    """The file that it is kept in for a moment is nobody's."""
    from videogpt_plus.app.commands.ask import _picture
    from videogpt_plus.clips.pictures import read_picture

    url, cut_off = "https://pictures.example/a.jpg", picture("JPEG")[:-40]
    monkeypatch.setattr(fetch, "fetch_image", lambda _: fetch.Picture(cut_off, ".jpg"))
    with pytest.raises(UserError, match=f"cannot read {url}: the image cannot be read"), _picture(url) as path:
        read_picture(path)
    assert not path.exists()
