"""The judge's key is hidden in whatever a server says, however it writes it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
#: A key of fewer characters than this is hidden only where it stands as a word: it may be part of any other one.
SHORT = 8


class Mask:
    """A text -> the same with *** for the key: as it is, escaped for JSON, HTML or an address, in base64 or hex."""

    def __init__(self, key: str):
        forms = sorted({form for form in _forms(key) if form}, key=len, reverse=True)
        pattern = "|".join(map(re.escape, forms))
        if len(key) < SHORT:
            pattern = rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])"
        self._pattern = re.compile(pattern, re.I) if forms else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text


def _forms(key: str) -> Iterator[str]:
    yield key
    yield from (quote(key, safe=""), quote_plus(key), html.escape(key), key.encode().hex())
    once = json.dumps(key)[1:-1]
    yield from (once, json.dumps(once)[1:-1], repr(key)[1:-1])
    if key:
        yield from _in_base64(key.encode())


def _in_base64(key: bytes) -> Iterator[str]:
    """What base64 makes of the key alone, and of the key behind one or two bytes more, as in `Bearer KEY`."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + key).decode()
        if before == 0:
            yield text.rstrip("=")
        # The first and the last character may hold bits of the bytes around the key.
        inner = text.rstrip("=")[-(-before * 8 // 6) : -1 if (before + len(key)) % 3 else None]
        if len(inner) >= SHORT:
            yield from (inner, inner.replace("+", "-").replace("/", "_"))
