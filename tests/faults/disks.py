"""A disk that is full in the middle of each file that a command writes, one file after the other.

No disk is filled: from the moment a file is opened for writing, no file of this process grows beyond half of what it
held when nobody disturbed the command.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from videogpt_plus.training import stages
from videogpt_plus.types import UserError

from .kills import answer_words, copied
from .lines import refused
from .tiny import Tiny, answered, trained

PART = re.compile(r"^\.(?P<name>.+)\.\d+\.part$")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass
class Watch:
    """Files below a folder that are opened for writing, and how large they became."""

    root: Path
    sizes: dict[str, int] = field(default_factory=dict)
    #: The disk is full from the opening of this file on, which has this limit.
    full_at: str | None = None
    limit: int = 0
    is_full: bool = False

    def opened(self, path: Path) -> None:
        if not path.is_relative_to(self.root):
            return
        name = str(path.relative_to(self.root).with_name(final_name(path)))
        self.look()
        self.sizes.setdefault(name, 0)
        if name == self.full_at and not self.is_full:
            self.is_full = True
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))

    def look(self) -> None:
        """Sees how large every file has become."""
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root).with_name(final_name(path)))
            if name in self.sizes and path.is_file():
                self.sizes[name] = max(self.sizes[name], path.stat().st_size)


def final_name(path: Path) -> str:
    """The name that a file has once it is whole."""
    found = PART.match(path.name)
    return found["name"] if found else path.name


#: The watch that the hook below tells; a hook of Python's stays as long as its process.
_watching: list[Watch] = []
_hooked: list[bool] = []


def _tell(event: str, arguments: tuple) -> None:
    if event != "open" or not _watching or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    _, mode, flags = arguments
    if set(mode or "") & set("wax+") or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
        _watching[-1].opened(Path(os.fsdecode(arguments[0])).absolute())


@contextmanager
def watched(watch: Watch) -> Iterator[Watch]:
    """Tells the watch of every file that is opened for writing; torch opens its own in C++."""
    if not _hooked:
        sys.addaudithook(_tell)
        _hooked.append(True)
    save, limits = torch.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def told(value: object, path: object, *arguments: object, **named: object) -> None:
        sys.audit("open", path, "w", 0) if isinstance(path, str | os.PathLike) else None
        save(value, path, *arguments, **named)

    torch.save = told
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.pop()
        torch.save = save
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        watch.look()


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, and what two undisturbed runs of it share."""

    name: str
    #: Makes what must be there before.
    begin: Callable[[Path], None]
    #: The one line that it is refused with, or None.
    run: Callable[[Path], str | None]
    result: Callable[[Path], object]


def commands(tiny: Tiny) -> list[Command]:
    def training(stage: str) -> Command:
        def run(folder: Path) -> str | None:
            try:
                getattr(stages, stage)(**tiny.arguments(stage, folder))
            except UserError as error:
                return f"error: {error}\n"
            return None

        return Command(stage, lambda folder: None, run, trained)

    def words(*command: str) -> Callable[[Path], str | None]:
        def run(folder: Path) -> str | None:
            code, said = refused([word.replace("ROOT", str(folder)) for word in command])
            return said if code else None

        return run

    asked = words(*answer_words(Path("ROOT/run")))
    stored = words(*answer_words(Path("ROOT/run")), "--store", "ROOT/store")

    def begin(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        copied(tiny, folder / "run")

    def begin_asked(folder: Path) -> None:
        begin(folder)
        asked(folder)

    def result(folder: Path) -> object:
        return answered(folder / "run" / "answers" / "answers.jsonl")

    def names(folder: Path) -> object:
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)

    return [
        training("pretrain"),
        training("finetune"),
        Command("answer", begin, asked, result),
        Command("answer --store", begin, stored, lambda folder: (result(folder), names(folder))),
        Command("score", begin_asked, words("score", "ROOT/run"), names),
        Command("report", begin_asked, words("report", "ROOT"), names),
    ]


def fill_disks(tiny: Tiny, root: Path, most: int | None = None) -> Iterator[tuple[str, str | None]]:
    """For each command and each file that it writes: a disk that is full there, one line, and the command again.

    Yields a name and what is wrong. `most` files a command where given.
    """
    for number, command in enumerate(commands(tiny)):
        folder = root / str(number)
        command.begin(folder)
        with watched(Watch(folder)) as seen:
            said = command.run(folder)
        wanted = command.result(folder)
        yield f"{command.name} undisturbed", said
        for name, size in [(n, s) for n, s in seen.sizes.items() if s][:most]:
            shutil.rmtree(folder)
            command.begin(folder)
            yield (
                f"{command.name}: full at {size // 2:,} of {size:,} bytes of {name}",
                _filled(command, folder, name, size, wanted),
            )


def _filled(command: Command, folder: Path, name: str, size: int, wanted: object) -> str | None:
    with watched(Watch(folder, full_at=name, limit=size // 2)) as watch:
        said = command.run(folder)
    if not watch.is_full:
        return "the file was not written this time"
    if said is None or not re.fullmatch(r"error: [^\n]*(cannot write|cannot be written)[^\n]*\n", said):
        return f"expected one line that says what cannot be written; found {said!r}"
    again = command.run(folder)
    if again is not None:
        return f"the command was refused again: {again}"
    return None if command.result(folder) == wanted else "its result is another one than that of an undisturbed run"
