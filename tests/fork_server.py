"""Python commands in processes of their own that import nothing anew: forks of one process that has imported torch.

`run` and `Popen` are called as those of `subprocess`, with a command `[sys.executable, ...]` of a module (`-m`), of
code (`-c`) or of a script. A process has the arguments, folder, environment, standard streams, exit code and signals
of a fresh one. What it does not have is the start: tests of what is imported, of flags of Python, of sys.path's order,
and of variables that a library reads when it is imported start a process of their own with `subprocess`.

One server belongs to a process of pytest and begins with its first command.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
#: What commands of the model import sooner or later.
IMPORTED = """
import av, peft, transformers.models.clip.modeling_clip, transformers.models.qwen2.modeling_qwen2, transformers.trainer
import videogpt_plus.app.cli, videogpt_plus.inference, videogpt_plus.models.dual_encoder, videogpt_plus.toy.render
import videogpt_plus.training.cinego.stages, videogpt_plus.training.stages, eval.answers.runs
"""

#: The number of a process is told in so many.
PID_BYTES = 12

# ------------------------------------------------------------------------------------------------ the side of a test


@cache
def _server() -> socket.socket:
    """The control socket of a server of this process, which ends when the socket is closed."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, pass_fds=[theirs.fileno()])
    theirs.close()
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


class Popen:
    """A forked process: the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        args: Sequence[object],
        *,
        cwd: str | os.PathLike | None = None,
        env: dict[str, str] | None = None,
        stdin: int | IO | None = None,
        stdout: int | IO | None = None,
        stderr: int | IO | None = None,
        text: bool = False,
        start_new_session: bool = False,
    ):
        executable, *words = map(os.fspath, args)
        assert executable == sys.executable, "the server is a Python, and of this version"
        self.args, self.returncode = args, None
        self._connection, theirs = socket.socketpair()
        with ExitStack() as opened:  # what is the process's alone
            ends = [_ends(number, given, opened) for number, given in enumerate((stdin, stdout, stderr))]
            if stderr == subprocess.STDOUT:
                ends[2] = (ends[1][0], None)
            opened.enter_context(theirs)
            socket.send_fds(_server(), [b"x"], [theirs.fileno(), *(end for end, _ in ends)])
        self.stdin, self.stdout, self.stderr = (
            None if own is None else os.fdopen(own, ("r" if number else "w") + ("" if text else "b"))
            for number, (_, own) in enumerate(ends)
        )
        request = {
            "words": words,
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "new_session": start_new_session,
        }
        self._connection.sendall(json.dumps(request).encode())
        self._connection.shutdown(socket.SHUT_WR)
        pid = self._connection.recv(PID_BYTES, socket.MSG_WAITALL)
        assert pid, "the server has ended: what it said stands among the captured errors"
        self.pid = int(pid)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(16))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | bytes | None, str | bytes | None]:
        found: dict[IO, str | bytes] = {}
        pipes = [pipe for pipe in (self.stdout, self.stderr) if pipe]
        readers = [Thread(target=lambda p=pipe: found.update({p: p.read()}), daemon=True) for pipe in pipes]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        for pipe in pipes:
            pipe.close()
        return found.get(self.stdout), found.get(self.stderr)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, kind: type | None, error: Exception | None, trace: TracebackType | None) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.wait()


def _ends(number: int, given: int | IO | None, opened: ExitStack) -> tuple[int, int | None]:
    """The descriptor of a process's standard stream, and that of the test's side if it is a pipe."""
    if given == subprocess.PIPE:
        own, end = os.pipe() if number else reversed(os.pipe())
        opened.callback(os.close, end)
        return end, own
    if given == subprocess.DEVNULL:
        end = os.open(os.devnull, os.O_RDWR)
        opened.callback(os.close, end)
        return end, None
    if given in (None, subprocess.STDOUT):
        return number, None
    return given if isinstance(given, int) else given.fileno(), None


def run(
    args: Sequence[object],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **named: object,
) -> subprocess.CompletedProcess:
    """`subprocess.run`; a process that takes too long is killed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture_output else {}
    process = Popen(args, **pipes, **named)
    try:
        stdout, stderr = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


# ---------------------------------------------------------------------------------------------- the side of a server


def serve(control: socket.socket) -> dict:
    """Forks for every command; comes back in the processes of commands alone, with what each is to do.

    Between the server and a command there is a process that waits for the command's end and says how it ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: pytest ends, and with it the server
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _waiting(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _waiting(connection: int, *streams: int) -> dict:
    with socket.socket(fileno=connection) as told:
        request = json.loads(told.makefile().read())
        pid = os.fork()
        if pid:
            for descriptor in (0, 1, 2, *streams):
                os.close(descriptor)
            told.sendall(f"{pid:{PID_BYTES}}".encode())
            told.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
            os._exit(0)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def become(words: list[str], cwd: str, env: dict[str, str], new_session: bool, path: list[str]) -> tuple[str, str]:
    """Makes this process that of a command, with `path` behind its own places of modules; returns what to run."""
    if new_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # Those of the server remember whether its own files could be sought in.
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    kind, what, rest = (words[0], words[1], words[2:]) if words[0] in ("-m", "-c") else ("", words[0], words[1:])
    first = {"-m": cwd, "-c": ""}.get(kind, os.path.dirname(os.path.abspath(what)))
    sys.path[:] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.argv[:] = [kind or what, *rest]
    return kind, what


def main() -> None:
    import random
    import runpy
    from types import ModuleType

    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [place for place in sys.path[1:] if place not in given]
    sys.path[:0] = [str(ROOT)]
    exec(IMPORTED)
    threads = len(list(Path("/proc/self/task").glob("*"))) if Path("/proc").exists() else 1
    assert threads == 1, f"{threads} threads: a fork would have one of them"
    kind, what = become(**serve(socket.socket(fileno=int(sys.argv[1]))), path=path)
    random.seed()
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        runpy.run_path(os.path.abspath(what), run_name="__main__")


if __name__ == "__main__":
    main()
