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
    (["check", LONG], "File name too long"),
    (["compare", f"{LONG}.jsonl", "x.jsonl"], "File name too long"),
    (["report", LONG], "File name too long"),
    (["tokens", "\udcff"], "unknown experiment"),
    (["\udcff"], "unknown command"),
    (["web", "--host", "\udcff"], "it is taken, or no address of this machine"),
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
    (["sweep", "qwen1_5b", "--adapters", "pol"], "unknown reducer 'pol'; choose from: average, max, bilinear"),
    (["sweep", "qwen1_5b", "--limit", "0"], "--limit 0 is not possible"),
    (["predict", "no/such/run", "q", "--image", "a.png"], "run folder not found: no/such/run does not exist"),
    (["report", "nowhere"], "nothing to report: no answers under nowhere; run"),
    (["train", "qwen1_5b", "--output-dir", "t"], "pre-trained projector"),
    (["pretrain", "qwen1_5b", "sound", "--output-dir", "t"], "sound"),
    (["pretrain", "qwen1_5b", "image", "--dataloader-num-workers", "-1", "--output-dir", "w"], "-1 is not possible"),
    (["predict", PACKAGED, "What?"], "give --video FILE or --image FILE"),
    (["check", "nowhere"], "nowhere"),
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
#: Words that the parser refuses -> what is said. Its box of several lines is told in one.
USAGE = [
    (["tokens"], "videogpt-plus tokens lacks EXPERIMENT (toy, qwen1_5b, "),
    (["tokens", "toy", "extra"], "'extra' is a word too many; `videogpt-plus tokens --help` tells more"),
    (["tokens", "toy", "--levls", "2"], "videogpt-plus tokens has no option --levls: did you mean --levels? `videogpt"),
    (["tokens", "toy", "--scoring", "both"], "videogpt-plus tokens has no option --scoring; `videogpt-plus tokens --h"),
    (
        ["tokens", "toy", "--levels", "two"],
        "--levels takes numbers, and not 'two'; `videogpt-plus tokens --help` tells",
    ),
    (["sweep", "toy", "--levels", "1", "two"], "--levels takes numbers, and not '1', 'two'; `"),
    (["tokens", "toy", "-x"], "videogpt-plus tokens has no option -x; "),
    (["sweep", "toy", "--jobs", "x"], "--jobs takes a whole number, and not 'x'; `videogpt-plus sweep --help`"),
    (["sweep", "toy", "--nonsense"], "videogpt-plus sweep has no option --nonsense; `videogpt-plus sweep --help`"),
    (["sweep", "toy", "--dry-run=yes"], "'yes' is a word too many; "),
    (["predict"], "videogpt-plus predict lacks STR (A run folder, or an experiment's name); "),
    (["web", "--port"], "videogpt-plus web lacks a value for --port; "),
    (["web", "--port", "abc"], "--port takes a whole number, and not 'abc'; "),
    (["score", "toy", "--limit", "3.5"], "--limit takes a whole number, and not '3.5'; "),
    (["answer", "toy", "--scoring", "logprobs"], "did you mean 'logprob'? choose from generate, logprob, both; `video"),
    (
        ["answer", "toy", "--scoring", f"/{LONG}/{LONG}"],
        f"--scoring '/{LONG}/{LONG}' is not possible: choose from gene",
    ),
    (["data", "rwf2001"], "dataset 'rwf2001' is not possible: did you mean 'rwf2000'? "),
    (
        ["data", "rwf2000"],
        "videogpt-plus data lacks --data-dir PATH (Folder that holds train/{Fight,NonFight} and val/",
    ),
    (
        ["cinego"],
        "videogpt-plus cinego needs one more word: choose from tokenizer, lm, pretrain, sft, preprocess, demo, ",
    ),
    (["cinego", "nope"], "unknown command 'nope': choose from tokenizer, lm, "),
    (["cinego", "lm", "toy_cinego"], "videogpt-plus cinego lm lacks --data PATH ... (JSONL files of"),
    ([], "videogpt-plus needs one more word: choose from sweep, pretrain, train, "),
]
#: Words about what this project makes by itself: clips of the toy, weights of a twin, a copy of the packaged run.
#: Nothing of it is made -> what is said.
UNMADE = [
    (["sweep", "toy", "--levels", "0"], "pool level 0 is not possible"),
    (["sweep", "toy", "--levels", "nan"], "pool level nan is not possible"),
    (["sweep", "toy", "--levels"], "the sweep has no cell"),
    (["sweep", "toy", "--limit", "0"], "--limit 0 is not possible"),
    (["sweep", "toy", "--seeds", "-1"], "seed -1 is not possible"),
    (["sweep", "toy", "--adapters", "pol"], "unknown reducer 'pol'"),
    (["sweep", "toy", "--margin", "0"], "--margin 0 is not possible"),
    (["sweep", "toy", "--cell", "99999"], "there is no cell 99999"),
    (["sweep", "toy", "--benchmarks"], "--benchmarks names none"),
    (["sweep", "toy", "--benchmarks", "nowhere"], "unknown benchmark 'nowhere'"),
    (["sweep", "toy", "--benchmarks", "mine=nowhere"], "as one of your own it has"),
    (["sweep", "toy", "--benchmarks", "mvbench=nowhere"], "nowhere"),
    (["sweep", "toy", "--benchmarks", "toy_open", "--scoring", "both"], "--scoring both needs options"),
    (["sweep", "toy", "--decoder", "nothing"], "unknown decoder 'nothing'"),
    (["sweep", "toy", "--store", "s", "--store-cap-gib", "0"], "a grid store of 0 GiB holds nothing"),
    (["sweep", "toy", "--bits", "4"], "--bits 4 is not for the family 'dual_encoder'"),
    (["sweep", "toy", "--batch-size", "0"], "--batch-size 0 is not possible"),
    (["sweep", "toy", "--judge-model", "x"], "scores open questions, and no benchmark of this sweep has any"),
    (["sweep", "toy_llava15", "--levels", "0"], "pool level 0 is not possible"),
    (["sweep", "toy_rwf", "--limit", "0"], "--limit 0 is not possible"),
    (["pretrain", "toy", "sound"], "unknown stream 'sound'; choose from: image, video"),
    (["pretrain", "toy", "image", "--dataloader-num-workers", "-1"], "-1 is not possible"),
    (["pretrain", "toy", "image", "--decoder", "nothing"], "unknown decoder 'nothing'"),
    (["pretrain", "toy", "image", "--store", "s", "--store-cap-gib", "-1"], "a grid store of -1 GiB holds nothing"),
    (["pretrain", "toy", "image", "--deepspeed", "nowhere.json"], "nowhere.json"),
    (["pretrain", "toy", "image", "--output-dir", str(PACKAGED)], "holds another experiment"),
    (["pretrain", "toy", "image", "--output-dir", str(PACKAGED / "README.md")], "cannot write into"),
    (["pretrain", "toy_llava15", "image"], "is asked as it was published, and is not trained"),
    (["train", "toy"], "no pre-trained projector for stream '"),
    (["train", "toy_pool0", "--projectors", "image=x"], "pool level 0 is not possible"),
    (["train", "toy", "--projectors", "image"], "--projectors takes STREAM=FOLDER"),
    (["train", "toy", "--projectors", "image=nowhere"], "no pre-trained projector at nowhere"),
    (["train", "toy", "--projectors", f"image={ROOT}"], "no pre-trained projector for stream 'video'"),
    (["train", "toy_rwf", "--dataloader-num-workers", "-1"], "-1 is not possible"),
    (["train", "toy_rwf", "--projectors", f"image={ROOT}"], "was published with its projectors"),
    (["register", "toy"], "toy is trained before it is asked"),
    (["register", "toy_llava15", "--output-dir", str(PACKAGED)], "holds another experiment"),
    (["answer", "toy_pool2", "--limit", "-1"], "--limit -1 is not possible"),
    (["answer", "toy_pool2", "--limit", "0", "--task", "toy_open"], "--limit 0 is not possible"),
    (["answer", "toy_pool2", "--benchmark", "nowhere"], "nowhere"),
    (["answer", "toy_pool2", "--task", "nowhere"], "unknown benchmark 'nowhere'"),
    (["answer", "toy_pool2", "--task", "mine=nowhere"], "as one of your own it has"),
    (["answer", "toy_pool2", "--task", "vcgbench"], ".cache/VCGBench"),
    (["answer", "toy_pool2", "--task", "toy_open", "--scoring", "logprob"], "--scoring logprob needs options"),
    (["answer", "toy_pool2", "--decoder", "nothing"], "unknown decoder 'nothing'"),
    (["answer", "toy_pool2", "--store", "s", "--store-cap-gib", "0"], "a grid store of 0 GiB holds nothing"),
    (["answer", "toy_pool2", "--bits", "8"], "--bits 8 is not for the family 'dual_encoder'"),
    (["answer", "toy_pool2", "toy_llava15"], "share no encoders"),
    (["answer", "toy_pool2", "nowhere"], "unknown experiment 'nowhere'"),
    (["answer", "toy_llava15", "nowhere"], "unknown experiment 'nowhere'"),
    (["answer", "toy_llava15", "--limit", "-1"], "--limit -1 is not possible"),
    (["answer", "toy_cinego", "--devices", "2"], "--devices 2 is not for the family 'cinego'"),
    (["score", "toy_pool2", "--limit", "0"], "--limit 0 is not possible"),
    (["score", "toy_pool2", "--task", "nowhere"], "unknown benchmark 'nowhere'"),
    (["score", "toy_pool2"], "all answers are missing; finish them with: videogpt-plus answer"),
    (["export", "toy_pool2", "out", "--limit", "0"], "--limit 0 is not possible"),
    (["export", "toy_pool2", "out", "--task", "toy_open"], "all answers are missing; finish them with"),
    (["judge", "toy_pool2", "--judge-model", "lexical", "--task", "mvbench"], "has options and needs no judge"),
    (["judge", "toy_pool2", "--judge-model", "lexical", "--task", "toy_open"], "all answers are missing; finish them"),
    (["judge", "toy_pool2", "--judge-model", "lexical", "--task", "toy_open", "--limit", "0"], "--limit 0 is not"),
    (["judge", "toy_llava15", "--judge-model", "lexical", "--task", "toy_open"], "was not asked here yet"),
    (["check", "toy_open", "--decoder", "nothing"], "unknown decoder 'nothing'"),
    (["check", "toy_open", "--per-task", "0"], "0 clips a task are not possible"),
    (["check", "toy_open", "--tflops", "0"], "--tflops 0 is not possible"),
    (["check", "toy_open", "--experiment", "toyy"], "unknown experiment 'toyy'"),
    (["predict", "toy_llava15", "What?", "--image", "nowhere.png"], "there is no such file"),
    (["predict", "toy_llava15", "What?", "--video", "nowhere.mp4"], "there is no such file"),
    (["predict", "toy_llava15", "What?", "--image", "http://a/b.png", "--no-url"], "--no-url fetches none"),
    (["predict", "toy_cinego", "What?", "--image", str(ROOT / "README.md"), "--bits", "4"], "--bits 4 is not for"),
    (["predict", "toy_llava15", "What?", "--image", str(ROOT / "README.md")], "it is none of JPEG"),
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
    for words, said in [*WORDS, *NAMES, *USAGE, *UNMADE]:
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
    """What stands below a folder."""
    return sorted(folder.rglob("*"))


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
