"""Bad command lines, each in an empty folder: exit code 2, one line on stderr, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from videogpt_plus.app import cli

from .records import PACKAGED

ROOT = Path(__file__).parents[2]
LONG = "n" * 300
#: Words behind `sweep toy`, with `--dry-run` as without -> what is said.
SWEEPS = [
    (["--jobs", "0"], "--jobs 0 is not possible"),
    (["--jobs", "-2"], "--jobs -2 is not possible"),
    (["--launcher", 'torchrun "x'], 'torchrun "x: no closing quotation'),
    (["--launcher", " "], "--launcher names no program"),
    (["--name", ""], "--name is empty"),
    (["--name", "."], "--name '.' is no folder within --output"),
    (["--name", "../../.."], "--name '../../..' is no folder within --output"),
    (["--name", "a/../../b"], "is no folder within --output"),
    (["--name", "/tmp/x"], "is no folder within --output"),
    (["--deepspeed", "/nonexistent.json"], "/nonexistent.json does not exist"),
    (["--deepspeed", "/"], "cannot read /: Is a directory"),
]
#: Words that name nothing -> what is said.
WORDS = [
    (["predict", PACKAGED, "What?", "--image", ""], "--image is empty"),
    (["predict", PACKAGED, "What?", "--video", ""], "--video is empty"),
    (["answer", PACKAGED, "--store", ""], "--store is empty"),
    (["predict", PACKAGED, "What?", "--video", LONG], "there is no such file"),
    (["score", LONG], "File name too long"),
    (["answer", LONG], "File name too long"),
    (["doctor", LONG], "File name too long"),
    (["compare", f"{LONG}.jsonl", "x.jsonl"], "File name too long"),
    (["report", LONG], "File name too long"),
    (["tokens", "\udcff"], "unknown experiment"),
    (["\udcff"], "unknown command"),
    (["answer", "run[1]"], "no trained run under results/ fits 'run[1]'"),
    (["answer", "/x/*"], "no trained run under results/ fits '/x/*'"),
    (["answer", "**x"], "no trained run under results/ fits '**x'"),
]
#: Words that read the answers of a published twin, which were not asked for: of each, its command and more words.
TWINS = [["compare", "toy_cinego"], ["score"], ["export", "out"], ["subset"]]
#: Names and numbers -> what is said.
NAMES = [
    (["tokens", "toyy"], "unknown experiment 'toyy': did you mean 'toy'?"),
    (["tokens", "toy_pool1.2.3"], "unknown experiment 'toy_pool1.2.3'"),
    (["tokens", "toy_pool."], "unknown experiment 'toy_pool.'"),
    (["tokens", "toy_pool-4"], "unknown experiment 'toy_pool-4'"),
    (["tokens", "toy_pool0"], "pool level 0 is not possible: choose a number above 0"),
    (["tokens", "toy", "--levels", "nan"], "pool level nan is not possible"),
    (["tokens", "toy", "--levels", "inf"], "pool level inf is not possible"),
    (["sweep", "qwen1_5b", "--levels", "2", "inf"], "pool level inf is not possible"),
    (["sweep", "qwen1_5b", "--levels"], "the sweep has no cell: give at least one level and one adapter"),
    (["sweep", "qwen1_5b", "--adapters", "pol"], "unknown adapter 'pol'; choose from: average, max, bilinear"),
    (["sweep", "qwen1_5b", "--limit", "0"], "--limit 0 is not possible"),
    (["predict", "no/such/run", "q", "--image", "a.png"], "run folder not found: no/such/run does not exist"),
    (["report", "nowhere"], "nothing to report: no answers under nowhere; run"),
    (["train", "qwen1_5b", "--output-dir", "t"], "pre-trained projector"),
    (["pretrain", "qwen1_5b", "sound", "--output-dir", "t"], "sound"),
    (["pretrain", "qwen1_5b", "image", "--dataloader-num-workers", "-1", "--output-dir", "w"], "-1 is not possible"),
    (["predict", PACKAGED, "What?"], "give --video FILE or --image FILE"),
    (["doctor", "nowhere"], "nowhere"),
    (["convert", "nowhere", "out"], "nowhere"),
    (["push", "nowhere", "NAME/MODEL"], "nowhere"),
    (["swep", "toy"], "unknown command"),
    (["judge", "nowhere", "--judge-model", "lexical"], "nowhere"),
    (["data", "rwf2000", "--data-dir", "nowhere", "--output", "x.json"], "nowhere"),
    (["sweep", "qwen1_5b", "--benchmarks", "mvbench", "toy_opn"], "unknown benchmark 'toy_opn'; choose from: mvbench"),
    (["sweep", "qwen1_5b", "--benchmarks", "vcgbench="], "names no folder: write vcgbench=FOLDER"),
    (["sweep", "qwen1_5b", "--benchmarks", "mvbench", "mvbench=elsewhere"], "names mvbench twice"),
    (["sweep", "qwen1_5b", "--seeds", "-1"], "-1"),
    (["sweep", "qwen1_5b", "--cell", "99999"], "99999"),
]
#: Command lines for a shell, in which CLI is the command -> exit code, what stderr begins with.
OUTPUTS = [
    ("CLI tokens toy > /dev/full", 2, "error: cannot write to standard output: No space left on device; free"),
    ("CLI --help > /dev/full", 2, "error: cannot write to standard output: No space left on device; free"),
    ("CLI tokens toy >&-", 2, "error: cannot write to standard output: Bad file descriptor; free"),
    ("CLI tokens toyy >&-", 2, "error: unknown experiment 'toyy'"),
    ("CLI tokens toyy 2> /dev/full", 2, ""),
    ("CLI tokens toyy 2>&-", 2, ""),
    ("CLI tokens toy > out <&- 2>&-", 0, ""),
    ("CLI sweep qwen1_5b --dry-run | true", 141, ""),
    ("CLI tokens toy | true", 141, ""),
    ("CLI --help | true", 141, ""),
]


@dataclass(frozen=True)
class Refused:
    """A command line, and what its one line says."""

    words: tuple[str, ...]
    said: str

    def __str__(self) -> str:
        return "command: " + " ".join(word if len(word) < 60 else f"{word[:20]}..." for word in self.words).encode(
            "unicode_escape"
        ).decode("ascii")


def all_lines() -> Iterator[Refused]:
    """Every line that runs in this process; OUTPUTS need a shell."""
    for words, said in SWEEPS:
        yield _refused(["sweep", "toy", *words], said)
        yield _refused(["sweep", "toy", *words, "--dry-run"], said)
    for words, said in [*WORDS, *NAMES]:
        yield _refused(words, said)
    for command, *more in TWINS:
        yield _refused([command, "toy_llava15", *more], "toy_llava15 was not asked here yet")


def _refused(words: list, said: str) -> Refused:
    return Refused(tuple(map(str, words)), said)


@contextmanager
def told() -> Iterator[list[str]]:
    """A list that holds, at the end, what this process and its libraries wrote to stderr; stdout is thrown away.

    It goes through a pipe, for a full disk would fill up a file, too.
    """
    text: list[str] = []
    read, write = os.pipe()
    os.set_blocking(read, False)
    kept, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        os.dup2(write, 2)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, it is closed below
        sys.stderr = os.fdopen(os.dup(write), "w", errors="backslashreplace")
        yield text
    finally:
        for stream in (sys.stdout, sys.stderr):  # the command has put others around the same files
            stream.close()
        sys.stdout, sys.stderr = streams
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(write)
        with suppress(BlockingIOError), os.fdopen(read, "rb", buffering=0) as rest:
            while part := rest.read(1 << 16):
                text.append(part.decode(errors="replace"))


def refused(words: Sequence[object]) -> tuple[int | None, str]:
    """The exit code of a command in this process (None: it went through), and what it wrote to stderr."""
    code = None
    with told() as text:
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
    return code, "".join(text)


def files(folder: Path) -> list[Path]:
    """What stands below a folder, but for caches."""
    return sorted(path for path in folder.rglob("*") if ".cache" not in path.parts)


def line_failure(line: Refused, folder: Path) -> str | None:
    """What is wrong with what came of the command in an empty folder; None where it is as expected."""
    with chdir(folder):
        code, text = refused(line.words)
    if code != 2 or not text.startswith("error: ") or text.count("\n") != 1 or line.said not in text:
        return f"expected exit code 2 and one line with {line.said!r}; found {code} and {text[-600:]!r}"
    return f"it wrote {files(folder)}" if files(folder) else None


def shell(command: str, folder: Path, flags: str = "") -> subprocess.CompletedProcess:
    """A command line as a shell runs it, in a folder; `flags` are Python's."""
    python = f"{sys.executable} {flags} -m videogpt_plus"
    script = f"set -o pipefail; {command.replace('CLI', python)}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def output_failure(command: str, code: int, said: str, folder: Path) -> str | None:
    """What is wrong with what came of one of OUTPUTS; None where it is as expected."""
    done = shell(command, folder)
    fits = done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
    return None if fits else f"expected exit code {code} and {said!r}; found {done.returncode} and {done.stderr!r}"
