"""Who judges, where, and what that may take: checked before anything is sent."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from videogpt_plus.io.errors import translated
from videogpt_plus.types import UserError


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges, and what that may take."""

    # Name of the model as its server knows it, or `lexical` for the toy's offline judge.
    judge_model: str
    # Address of the OpenAI-compatible server; a query, such as ?api-version=..., goes with every call.
    base_url: str = "https://api.openai.com/v1"
    # Stop before more than this is spent, in the currency of the prices; needs both prices.
    max_cost: float | None = None
    # Price of a million tokens sent.
    price_in: float | None = None
    # Price of a million tokens received.
    price_out: float | None = None
    # Calls at a time.
    concurrency: int = 8
    # Calls a minute at most; no limit when not given.
    rate: float | None = None
    # Calls for one score at most; then it is recorded as unscored.
    attempts: int = 12
    # Seconds that a call may take, from the connection to the last byte.
    timeout: float = 60.0
    # Tokens of a reply at most; scores under unlike limits are kept apart.
    max_tokens: int = 300
    # Folder of your copy of the official evaluation scripts: their wording is read, nothing of them is run.
    official_prompts: Path | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is not possible: choose at least 1")
        for name in ("rate", "timeout", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} {value:g} is not possible: choose a number above 0")
        for name in ("price_in", "price_out"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name):g} is not possible")
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise UserError("--max-cost needs --price-in and --price-out: what a million tokens cost")
        _check_address(self.base_url)

    @property
    def server(self) -> str:
        """The server's host and port, without whatever else an address may hold."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname

    @property
    def url(self) -> str:
        """Where calls go: the address, its query kept behind the path."""
        parts = urlsplit(self.base_url)
        return parts._replace(path=parts.path.rstrip("/") + "/chat/completions", fragment="").geturl()

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine: then neither proxies nor an organisation concern it."""
        host = urlsplit(self.base_url).hostname.rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        with suppress(ValueError):
            address = ipaddress.ip_address(host)
            address = getattr(address, "ipv4_mapped", None) or address
            return address.is_loopback or address.is_unspecified
        return False

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """What so many tokens cost; 0 without prices."""
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / 1e6


def _check_address(address: str) -> None:
    """Raises UserError unless calls can be sent to this address."""
    with translated(ValueError, to=lambda error: UserError(f"--base-url {address!r} is no address ({error})")):
        parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise UserError(f"--base-url {address!r} is no address: it begins with http:// or https://")
    if "@" in parts.netloc:
        raise UserError("--base-url holds a user name or a password: leave it out, the key comes from OPENAI_API_KEY")
    if not parts.hostname or any(c.isspace() or not c.isprintable() for c in address):
        raise UserError(f"--base-url {address!r} is no address: it names a host, as in http://localhost:8000/v1")
    if not _has_port(parts):
        raise UserError(f"--base-url {address!r} has an impossible port: choose 1 to 65535, or leave it out")


def _has_port(parts: SplitResult) -> bool:
    with suppress(ValueError):
        return parts.port is None or parts.port > 0
    return False
