"""What is wrong with a command line that tyro refuses: one line instead of its box.

tyro has no public way to be asked what is wrong; so its box is read, whose words this module alone knows. A box in
other words is told as it is, without the frame.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any, TypeVar

from videogpt_plus.types import UserError

Result = TypeVar("Result")
PROGRAM = "videogpt-plus"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: tyro's names of types -> what a user calls them.
TYPES = {"INT": "a whole number", "FLOAT": "a number", "INT ...": "whole numbers", "FLOAT ...": "numbers"}
#: Where tyro's words for a value that is none of a type tell that value.
GIVEN = re.compile(
    r"(?:instantiated from|parse for arguments:) \[(.*?)\](?:\.|$)|(?:base 10|to float): (.*)", re.DOTALL
)


def later(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """A function with the arguments of the command that runs nothing: what it returns does."""
    return wraps(command)(lambda *args, **kwargs: partial(command, *args, **kwargs))


def parsed(parse: Callable[[], Result], args: Sequence[str]) -> Result:
    """What tyro makes of the words `args` in `parse`. UserError: it refuses them. `--help` ends the program."""
    try:
        with redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as stop:
        if stop.code != 2:
            raise
    with redirect_stderr(io.StringIO()) as box, _wide(), suppress(SystemExit):
        parse()
    raise UserError(in_one_line(box.getvalue(), args))


@contextmanager
def _wide() -> Iterator[None]:
    """Within it no line of a box is broken."""
    usual = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({} if usual is None else {"COLUMNS": usual})


def in_one_line(box: str, args: Sequence[str]) -> str:
    """What a box of tyro says of the words `args`, and where more is told."""
    *sections, more = _sections(box)
    called = re.findall(rf"({PROGRAM}.*?) --help", " ".join(more))
    command = min(called, key=len, default=PROGRAM)
    if command == PROGRAM and args and not args[0].startswith("-"):
        command = f"{PROGRAM} {args[0]}"
    says = (said for know in (_missing, _unknown, _not_of_type, _not_of_choices) if (said := know(sections, command)))
    told = next(says, " ".join(" ".join(" ".join(part) for part in sections).split()))
    return told + (" " if told.endswith("?") else "; ") + f"`{command} --help` tells more"


def _sections(box: str) -> list[list[str]]:
    """The lines of a box between its rules, without the title. Its frame is drawn, or is none but for the rules."""
    sections: list[list[str]] = [[]]
    for line in COLOUR.sub("", box).splitlines()[1:]:
        line = (line[:-1] if line.startswith("│") else line)[2:].rstrip()
        if line and set(line) <= set("─╯-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    return [section for section in sections if section] or [[""]]


def _missing(sections: list[list[str]], command: str) -> str | None:
    """Words that have to be there and are not: each with what it is."""
    first = " ".join(sections[0])
    if choices := re.fullmatch(r"Expected one of \{(.*)\}\.", first):
        return f"{command} needs one more word: choose from {choices[1]}"
    if lacks := re.fullmatch(r"Missing value for argument '(.*)'\. .*", first):
        return f"{command} lacks a value for {lacks[1]}"
    if not first.startswith("Missing from "):
        return None
    told = [line.replace("(required)", "").strip().rstrip(".") for line in sections[0][1:]]
    return f"{command} lacks " + ", ".join(
        f"{_plain(name)} ({what})" for name, what in zip(told[::2], told[1::2], strict=True)
    )


def _unknown(sections: list[list[str]], command: str) -> str | None:
    """Words that nothing takes: the closest of what the command would take."""
    if not (words := re.match(r"Unrecognized (?:options: |or misplaced options:)(.*)", sections[0][0])):
        return None
    word = words[1].split(", ")[0] or sections[0][1].split(" (applied to ")[0].strip()
    there = next((part[0] for part in sections[1:] if part[0].startswith("Available subcommands: ")), "")
    choices = there.removeprefix("Available subcommands: ")
    if not word.startswith("-"):
        return (
            f"unknown command '{word}': " + choice(word, choices.split(", "))
            if choices
            else f"'{word}' is a word too many"
        )
    options, option = {}, ""
    for line in sections[1][1:] if len(sections) > 1 else []:
        if line.startswith("    --"):
            option = line.split()[0]
        elif line.strip() == f"in {command} --help":
            options[option] = None
    return f"{command} has no option {word}" + (f": did you mean {next(iter(options))}?" if options else "")


def _not_of_type(sections: list[list[str]], command: str) -> str | None:
    """A word that is none of the type which an option takes."""
    text = "\n".join(sections[0])
    if not (named := re.match(r"Error parsing (\S+): ", text)) or not (given := GIVEN.search(text)):
        return None
    takes = next(part[1] for part in sections[1:] if part[0] == "Argument helptext:").split(" ", 5)[-1]
    takes = _plain(takes.replace("{None}|", "").strip("{}"))
    return f"{named[1]} takes {TYPES.get(takes, takes)}, and not {given[1] or given[2]}"


def _not_of_choices(sections: list[list[str]], command: str) -> str | None:
    """A word that is none of those which an option takes."""
    found = re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.", " ".join(sections[0]))
    return found and f"{found[2]} '{found[1]}' is not possible: " + choice(found[1], re.findall(r"'(.*?)'", found[3]))


def _plain(values: str) -> str:
    """tyro's words for several values in usual ones."""
    return re.sub(r"\[(\S+) \[\1 \.\.\.\]\]", r"\1 ...", values)


def choice(word: str, choices: Sequence[str]) -> str:
    """Which of the choices was meant, where one is close, and all of them."""
    close = get_close_matches(word, choices, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + f"choose from {', '.join(choices)}"
