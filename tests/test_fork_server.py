"""A forked command is like one that was started: it differs from it in nothing that a test looks at."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import fork_server
import pytest

BOTH = pytest.mark.parametrize("processes", [subprocess, fork_server], ids=["started", "forked"])
TELLS = (
    "import json, os, sys\n"
    "print(json.dumps([sys.argv, os.getcwd(), os.environ.get('MARK'), 'HOME' in os.environ, sys.path[0], __name__]))\n"
    "print('an error', file=sys.stderr)\n"
)


def ways(tmp_path) -> dict[str, list[str]]:
    """Code, a module and a script that say who they are."""
    (tmp_path / "told.py").write_text(TELLS)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "script.py").write_text(TELLS)
    return {"code": ["-c", TELLS, "a", "b"], "module": ["-m", "told", "a"], "script": [tmp_path / "sub/script.py", "a"]}


@pytest.mark.parametrize("way", ["code", "module", "script"])
def test_arguments_folder_environment_and_streams_are_those_of_a_started_process(way, tmp_path):
    command = [sys.executable, *ways(tmp_path)[way]]
    env = {"MARK": "it is set", "PATH": os.environ["PATH"]}
    started, forked = (
        processes.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        for processes in (subprocess, fork_server)
    )
    assert (forked.returncode, forked.stderr) == (0, "an error\n") == (started.returncode, started.stderr)
    assert forked.stdout == started.stdout


@BOTH
@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('one line')", 1, "one line\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import os; os._exit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit; atexit.register(print, 'the end', file=__import__('sys').stderr)", 0, "the end\n"),
    ],
)
def test_every_way_to_end_is_told(processes, code, exit_code, said):
    done = processes.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == exit_code and done.stderr.endswith(said) and bool(done.stderr) == bool(said)
    assert done.stderr.count("Traceback") == (exit_code in (1, -2) and said != "one line\n")


@BOTH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_process(processes, number):
    code = "import time; print('here', flush=True); time.sleep(60)"
    with processes.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(10) == -number == process.poll()


@BOTH
def test_a_process_that_takes_too_long_is_ended(processes, tmp_path):
    code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run([sys.executable, "-c", code], cwd=tmp_path, timeout=1)
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@BOTH
def test_both_streams_can_go_into_one_and_both_can_be_long(processes):
    code = "import sys\nfor i in range(200):\n    print('o' * 999, flush=True), print('e' * 999, file=sys.stderr)"
    call = [sys.executable, "-c", code]
    together = processes.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    apart = processes.run(call, capture_output=True, text=True, check=True)
    assert together.stdout == ("o" * 999 + "\n" + "e" * 999 + "\n") * 200
    assert (len(apart.stdout), len(apart.stderr)) == (200_000, 200_000)
    with pytest.raises(subprocess.CalledProcessError):
        processes.run([sys.executable, "-c", "raise SystemExit(1)"], check=True)


@BOTH
def test_input_is_read_and_what_goes_nowhere_is_lost(processes):
    code = "import sys; print('nowhere', file=sys.stderr); print(sys.stdin.read() * 2)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with processes.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdin.write("ab")
        process.stdin.close()
        assert process.stdout.read() == "abab\n" and process.stderr is None


@BOTH
def test_a_terminal_is_one(processes):
    ours, theirs = pty.openpty()
    code = "import sys, time; print(sys.stdout.isatty()); time.sleep(60)"
    with processes.Popen([sys.executable, "-c", code], stdout=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 4) == b"True", "a line is written at once"
        process.kill()
    os.close(ours)


@BOTH
def test_a_new_session_is_a_group_of_its_own(processes):
    code = "import os; print(os.getpid(), os.getpgid(0), os.getsid(0))"
    call = [sys.executable, "-c", code]
    pid, group, session = processes.run(call, capture_output=True, text=True).stdout.split()
    assert (int(group), int(session)) == (os.getpgid(0), os.getsid(0)) and pid != group
    with processes.Popen(call, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.communicate()[0].split() == [str(process.pid)] * 3


@BOTH
def test_spawned_children_run_the_same_script(processes, tmp_path):
    (tmp_path / "script.py").write_text(
        "from multiprocessing import get_context\n"
        "def square(x):\n    return x * x\n"
        "if __name__ == '__main__':\n"
        "    for method in ('spawn', 'fork'):\n"
        "        with get_context(method).Pool(1) as pool:\n"
        "            print(pool.map(square, [3]), flush=True)\n"
    )
    done = processes.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.stdout == "[9]\n[9]\n", done.stderr


def test_it_has_imported_torch_and_is_not_that_of_another_command():
    first = "import sys; print('torch' in sys.modules); import torch, random; torch.manual_seed(5); sys.changed = True"
    second = "import sys, torch; print(hasattr(sys, 'changed'), torch.initial_seed() == 5)"
    told = [fork_server.run([sys.executable, "-c", c], capture_output=True, text=True).stdout for c in (first, second)]
    assert told == ["True\n", "False False\n"]


def test_a_command_of_ours_runs_as_one_that_was_started(tmp_path):
    call = [sys.executable, "-m", "videogpt_plus", "tokens"]
    env = {**os.environ, "PYTHONPATH": str(fork_server.ROOT)}
    for name in ("toy", "toyy"):
        started, forked = (
            processes.run([*call, name], cwd=tmp_path, env=env, capture_output=True, text=True)
            for processes in (subprocess, fork_server)
        )
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            started.returncode,
            started.stdout,
            started.stderr,
        )
