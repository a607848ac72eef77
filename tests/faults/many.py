"""Many clips of which some are broken and some hang: how many are counted, and what memory the process takes.

`python -m tests.faults.many CLIPS BAD HANGING` asks the packaged toy model about each and prints a JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: How long a clip may take, in seconds.
LIMIT = 2
WORKERS = 2


class Hanging:
    """A preparation whose decoder hangs at clips with this word in their names."""

    def __init__(self, prepare: object):
        self.prepare = prepare

    def __call__(self, path: str | Path, *job: object) -> object:
        if "hang" in Path(path).name:
            time.sleep(600)
        return self.prepare(path, *job)


def write(folder: Path, clips: int, bad: int, hanging: int) -> None:
    """A benchmark of so many clips, those that fail spread evenly among them."""
    from clips import coded_frames, render_mp4

    whole = render_mp4(folder / "video" / "0.mp4", coded_frames(20), 10).read_bytes()
    every = max(1, clips // max(1, bad + hanging))
    odd = {every // 2 + every * i: "bad" if i % 2 == 0 else "hang" for i in range(bad + hanging)}
    questions = []
    for number in range(clips):
        name = f"{number}{odd.get(number, '')}.mp4"
        (folder / "video" / name).write_bytes(whole[: len(whole) // 2] if "bad" in name else whole)
        questions.append({"video": name, "question": "What?", "candidates": ["red", "blue"], "answer": "red"})
    (folder / "json").mkdir()
    (folder / "json" / "clip.json").write_text(json.dumps(questions))
    (folder / "tasks.json").write_text(json.dumps({"clip": {"folder": "video"}}))


def ask(folder: Path) -> dict:
    """Asks the packaged model in a folder; returns counts, and the largest memory of this process in MiB."""
    import shutil

    from videogpt_plus import inference
    from videogpt_plus.app import cli

    from .lines import told
    from .records import PACKAGED

    prepare = inference.Preparation
    inference.Preparation = lambda *of: Hanging(prepare(*of))
    shutil.copytree(PACKAGED, folder / "run")
    began, place = time.monotonic(), ["--task", "clip", "--benchmark", str(folder)]
    with chdir(folder), told() as said:
        words = ["answer", "run", *place[2:], "--workers", str(WORKERS), "--clip-seconds", str(LIMIT)]
        cli.main(words)
        cli.main(["score", "run", *place[2:]])
    (path,) = folder.rglob("answers.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    row = json.loads(path.with_name("scores.json").read_text())["tasks"]["clip"]
    errors = [line for line in lines if line["error"]]
    return {
        "lines": len(lines),
        "n": row["n"],
        "n_failed": row["n_failed"],
        "hung": sum("not decoded within" in line["error"] for line in errors),
        "names": sorted(line["video"] for line in errors),
        "said": "".join(said),
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.monotonic() - began,
    }


def run(clips: int, bad: int, hanging: int) -> dict:
    """What `ask` returns, from a process of its own."""
    words = [sys.executable, "-m", "tests.faults.many", *map(str, (clips, bad, hanging))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    return json.loads(done.stdout.splitlines()[-1])


def check_many(clips: int, bad: int, hanging: int) -> Iterator[tuple[str, str | None]]:
    """Clips of which some fail beside as many that are fine; yields a name and what is wrong."""
    fine, mixed = run(clips, 0, 0), run(clips, bad, hanging)
    wanted = (clips, clips, bad + hanging, hanging)
    found = tuple(mixed[name] for name in ("lines", "n", "n_failed", "hung"))
    yield (
        f"{clips} clips, {bad} broken and {hanging} that hang, {mixed['seconds']:.0f} s",
        (None if found == wanted else f"expected lines, n, failed, hung {wanted}; found {found} ({mixed['names']})"),
    )
    more = mixed["MiB"] / fine["MiB"] - 1
    yield (
        f"memory {mixed['MiB']:.0f} MiB, {fine['MiB']:.0f} with {clips} good ones ({more:+.1%})",
        (None if more <= 0.05 else "more than 5 % above that of good clips"),
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        write(Path(made), *map(int, sys.argv[1:]))
        print(json.dumps(ask(Path(made))))
