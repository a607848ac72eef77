"""Objects in a judge's reply: JSON, a Python dict, or something near to them. Nothing is run, and nothing recurses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"\s*(?::|=>?)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'', re.S)
_BARE_NAME = re.compile(r"[A-Za-z_][\w ()/-]{0,60}")
_BARE_VALUE = re.compile(r"[^,{}\[\]\n\":=]*(?![:=])")
#: A field of an object that is broken: `{''score': 4}`. Its whole value, up to another field or an end.
_NEXT_FIELD = r",\s{0,3}[\"']{0,2}[\w ]{1,40}[\"']{0,2}\s{0,3}[:=]"
_BROKEN_FIELD = re.compile(
    rf"(?<!\w)(score|pred)[\"'\s]{{0,4}}[:=]\s{{0,3}}((?:[^,}}\n]|(?!{_NEXT_FIELD}),){{0,200}})", re.I
)


class Field(NamedTuple):
    """A name and its value, at any depth of an object."""

    name: str
    #: As it is written, without quotes; None for a list or an object.
    value: str | None


class Object(NamedTuple):
    """An object, from `begin` to `end` of the text."""

    begin: int
    end: int
    fields: tuple[Field, ...]
    #: Whether it ends at all.
    whole: bool = True


def objects(text: str) -> Iterator[Object]:
    """Every outermost object in `text`; one that never ends is the last one, without fields."""
    at = text.find("{")
    while at >= 0:
        end, fields = _read(text, at)
        if fields is None:  # neither JSON nor Python: up to the next brace that closes
            close = text.find("}", end)
            if close < 0:
                yield Object(at, len(text), (), whole=False)
                return
            end = close + 1
            fields = [Field(name, value.strip(" \"'")) for name, value in _BROKEN_FIELD.findall(text[at:end])]
        if fields:
            yield Object(at, end, tuple(fields))
        at = text.find("{", end)


def _read(text: str, at: int) -> tuple[int, list[Field] | None]:
    """(the place behind the object that begins at `at`, its fields), or (where it stops to be one, None)."""
    stack, fields = ["{"], []
    at, wanted = at + 1, "name"
    while stack:
        at = _skip(text, at)
        sign = text[at : at + 1]
        if sign in ("}", "]") and sign == {"{": "}", "[": "]"}[stack[-1]] and wanted in ("name", "value", "comma"):
            if wanted == "value" and stack[-1] == "{":
                return at, None
            stack.pop()
            at, wanted = at + 1, "comma"
        elif wanted == "name":
            name = _STRING.match(text, at) or _BARE_NAME.match(text, at)
            separator = name and _SEPARATOR.match(text, name.end())
            if not separator:
                return at, None
            fields.append(Field(_inner(name), None))
            at, wanted = separator.end(), "value"
        elif wanted == "comma":
            if sign != ",":
                return at, None
            at, wanted = at + 1, "name" if stack[-1] == "{" else "value"
        elif sign and sign in "{[":
            stack.append(sign)
            at, wanted = at + 1, "name" if sign == "{" else "value"
        else:
            value = _STRING.match(text, at) or _BARE_VALUE.match(text, at)
            if not value or not sign or value.end() == at:
                return at, None
            if stack[-1] == "{":
                fields[-1] = Field(fields[-1].name, _inner(value).strip())
            at, wanted = value.end(), "comma"
    return at, fields


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _inner(match: re.Match[str]) -> str:
    """A string without its quotes; anything else as it stands."""
    return next((group for group in match.groups() if group is not None), match[0]) if match.re is _STRING else match[0]
