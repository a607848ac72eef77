"""The sweep end to end on tiny random parts: what it writes, what it skips, what it survives."""

from __future__ import annotations

import csv
import fcntl
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
from sweep_worker import ARGS, RECIPE, prepare

from videogpt_plus.app import cli
from videogpt_plus.app.sweep import cells as sweep
from videogpt_plus.config import experiments
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.toy.open_questions import ensure_open_questions

pytestmark = pytest.mark.usefixtures("quick_pictures")


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_experiment):
    """A folder in which the sweep has run once."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(folder, tiny_experiment)
        cli.main(ARGS)
        yield folder
        del experiments.EXPERIMENTS["tiny"]


def answers(folder: Path) -> dict[str, list[dict]]:
    found = {}
    for path in sorted(folder.glob("results/tiny/*/answers*/answers.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for name in ("seconds", "seconds_encode", "seconds_first"):
                line.pop(name)
        found[path.parent.relative_to(folder).as_posix()] = lines
    return found


def times(folder: Path) -> dict[str, int]:
    names = ("*.safetensors", "answers.jsonl", "cell.json")
    root = folder / "results/tiny"
    return {str(p): p.stat().st_mtime_ns for name in names for p in root.rglob(name) if "report" not in p.parts}


def test_a_sweep_leaves_every_artifact(swept):
    root = swept / "results/tiny"
    assert {p.name for p in (root / "report").iterdir()} == {
        "index.html", "sweep.csv", "pairs.csv", "sweep.md", "sweep.tex",
        *(f"{name}.{ending}" for name in ("accuracy_vs_tokens", "accuracy_vs_cost", "differences", "tasks_by_level")
          for ending in ("pdf", "png", "svg")),
    }  # fmt: skip
    with (root / "report/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = {(r["level"], r["control"] == "blind", r["visual_tokens"]) for r in rows}
    assert shown == {("2", False, "416"), ("16", False, "16"), ("2", True, "0"), ("16", True, "0")}
    assert {r["control"] for r in rows} == {"none", "blind", "one_frame", "shuffled"}
    for name in ("tiny_pool2", "tiny_pool16"):
        assert json.loads((root / name / "experiment.json").read_text())["name"] == name
        assert (root / name / "adapter_model.safetensors").is_file()


def test_every_question_has_one_line_with_what_the_model_was_shown(swept):
    found = answers(swept)
    assert len(found) == 8
    assert all(len(lines) == len({line["key"] for line in lines}) == 20 for lines in found.values())
    assert {line["visual_tokens"] for line in found["results/tiny/tiny_pool2/answers"]} == {416}
    assert {line["visual_tokens"] for line in found["results/tiny/tiny_pool2/answers_blind"]} == {0}


def test_a_finished_sweep_does_nothing_again(swept, capsys):
    before = times(swept)
    cli.main(ARGS)
    assert times(swept) == before
    # Two pre-trainings, two trainings, and one group of answers for all frames and each control.
    assert capsys.readouterr().out.count("finished before") == 8


def test_a_dry_run_lists_every_cell_with_its_command_and_runs_none(swept, capsys):
    cli.main([*ARGS, "--name", "other", "--dry-run"])
    out = capsys.readouterr().out
    assert not (swept / "results/other").exists()
    assert "videogpt-plus pretrain tiny image --output-dir results/other/pretrain/image" in out
    assert "videogpt-plus answer results/other/tiny_pool16 --control one_frame" in out
    assert out.count("to do") == 13


@pytest.fixture
def several(swept) -> Path:
    """A copy of the swept folder's cells, to ask their models further benchmarks; the open questions stand beside."""
    ensure_open_questions(swept / ".cache/toy", RECIPE)
    shutil.rmtree(swept / "results/several", ignore_errors=True)
    shutil.copytree(swept / "results/tiny", swept / "results/several")
    return swept / "results/several"


def asked(folder: Path, *benchmarks: str, control: str = "blind") -> list[str]:
    """The sweep of `several` with these benchmarks, under one control at one level."""
    where = {"toy_open": f"toy_open={folder / '.cache/toy/open'}"}
    names = ["--benchmarks", *(where.get(name, name) for name in benchmarks)] if benchmarks else []
    return [*ARGS[:5], "--name", "several", "--controls", control, *names]


def test_further_benchmarks_add_cells_and_leave_the_old_ones_as_they_are(several, swept):
    """What was finished before there were several benchmarks stays finished: same folders, commands and inputs."""
    base = experiments.EXPERIMENTS["tiny"]
    at = [experiments.at_level(base, level) for level in (2, 16)]
    alone = sweep.plan(base, at, several, ["blind"], [16])
    opened = sweep.Asked("toy_open", swept / ".cache/toy/open", True, True, {"judge_model": "lexical"}, ("--x", "y"))
    cells = sweep.plan(base, at, several, ["blind"], [16], benchmarks=[sweep.Asked(), opened])
    assert cells[: len(alone) - 1] == alone[:-1] and all(map(sweep.is_finished, alone[:-1]))
    records = [json.loads((cell.folder / sweep.RECORD).read_text())["inputs"] for cell in alone[:-1]]
    assert records == [json.loads(json.dumps(sweep.inputs(cell))) for cell in alone[:-1]]

    new = cells[len(alone) - 1 : -1]
    assert [cell.kind for cell in new] == ["answer"] * 3 + ["judge"] * 3
    assert {cell.folder.name for cell in new[:3]} == {"answers_toy_open", "answers_toy_open_blind"}
    assert [judge.needs for judge in new[3:]] == [(answer.folder,) for answer in new[:3]]
    assert set(cells[-1].needs) == {cell.folder for cell in cells if cell.kind in ("answer", "judge")}
    groups = [group for group in sweep.together(cells, 1) if group[0].kind in ("answer", "judge")]
    kinds = [{(cell.kind, cell.benchmark.name, cell.control) for cell in group} for group in groups]
    assert [len(group) for group in groups] == [2, 1, 2, 1, 3] and all(len(kind) == 1 for kind in kinds[:-1])
    # Another question is another benchmark; a clip beside the questions is not.
    before, file = sweep.inputs(new[0]), swept / ".cache/toy/open/generic_qa.json"
    (file.parent / "a.mp4").touch()
    assert sweep.inputs(new[0]) == before
    kept = file.read_text()
    file.write_text(json.dumps(json.loads(kept)[1:]))
    assert sweep.inputs(new[0])["benchmark"] != before["benchmark"]
    file.write_text(kept)


def test_open_questions_are_asked_judged_and_reported_with_the_others(several, swept, capsys):
    few = ["--limit", "1"]
    before = answers(swept)
    cli.main([*asked(swept, "toy_open"), *few])
    report = (several / "report/sweep.md").read_text()
    assert "toy_open, first 1 of a task: not judged yet" in report and "accuracy by task" in report
    runs = "results/several/tiny_pool16 results/several/tiny_pool2 --task toy_open --limit 1"
    assert f"videogpt-plus judge {runs} --benchmark {swept / '.cache/toy/open'} --judge-model MODEL" in report
    assert len(list(several.glob("tiny_pool*/answers_toy_open*/answers.jsonl"))) == 3

    judged = [*asked(swept, "toy_open"), *few, "--judge-model", "lexical"]
    capsys.readouterr()
    cli.main([*judged, "--dry-run"])
    out = capsys.readouterr().out
    where = f"--benchmark {swept / '.cache/toy/open'} --judge-model lexical"
    assert f"judge results/several/tiny_pool16 --task toy_open --control blind --limit 1 {where}" in out
    assert out.count("to do") == 4  # three judges, and the report
    number = next(line.split()[0] for line in out.splitlines() if "judge tiny_pool16 (toy_open, blind)" in line)
    cli.main([*judged, "--cell", number])
    assert len(list(several.glob("*/*/scores.json"))) == len(list(several.glob("*/answers*/answers.jsonl"))) - 2
    cli.main(judged)
    report = (several / "report/sweep.md").read_text()
    assert "toy_open, first 1 of a task: judged answers" in report and "not judged yet" not in report
    assert "comparable with nothing but itself" in report and "accuracy by task" in report
    ledgers = {path: path.read_bytes() for path in several.rglob("judged.jsonl")}
    capsys.readouterr()
    cli.main(judged)
    assert "to make, nothing to pay" not in capsys.readouterr().out, "finished scores are not given again"
    assert len(ledgers) == 3 and all(path.read_bytes() == then for path, then in ledgers.items())
    assert answers(swept) == before

    # One call judges several runs; a sweep whose answers are all judged has a report, too.
    runs = [str(several / name) for name in ("tiny_pool2", "tiny_pool16")]
    cli.main(["judge", *runs, *where.split(), "--task", "toy_open", "--limit", "1"])
    assert "judgements of 2 runs to make, nothing to pay" in " ".join(capsys.readouterr().out.split())
    for path in several.glob("tiny_pool*/answers*"):
        if "toy_open" not in path.name:
            shutil.rmtree(path)
    shutil.rmtree(several / "report")
    cli.main(["report", str(several)])
    written = {path.name for path in (several / "report").iterdir()}
    assert {"index.html", "sweep.md", "sweep.tex"} < written and "sweep.csv" not in written
    of_scores = {name for name in written if name.startswith("toy_open_first_1_of_a_task_lexical_facts-1")}
    endings = ("_pairs.csv", "_score_vs_tokens.pdf", "_score_vs_tokens.png", "_score_vs_tokens.svg")
    assert len(of_scores) == 5 and all(any(name.endswith(end) for name in of_scores) for end in endings)
    assert "toy_open" in (several / "report/index.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--benchmarks", "mvbench", "toy_opn"], "unknown benchmark 'toy_opn'; choose from: mvbench"),
        (["--benchmarks", "vcgbench="], "names no folder: write vcgbench=FOLDER"),
        (["--benchmarks", "mvbench", "mvbench=elsewhere"], "names mvbench twice"),
        (["--benchmarks", "mvbench", "vcgbench=elsewhere"], "no benchmark at"),
        (["--benchmarks", "vcgbench", "--scoring", "logprob"], "the questions of vcgbench are open"),
        (["--judge-model", "lexical"], "no benchmark of this sweep has any"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_trains(swept, args, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*ARGS, "--name", "nothing", *args])
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert not (swept / "results/nothing").exists()


def test_the_judges_key_is_asked_for_before_anything_trains(several, swept, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main([*asked(swept, "toy_open"), "--name", "nothing", "--judge-model", "gpt"])
    assert stop.value.code == 2 and "OPENAI_API_KEY is not set" in capsys.readouterr().err
    assert not (swept / "results/nothing").exists()


def test_a_cell_whose_inputs_are_missing_says_which(swept, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*ARGS, "--name", "other", "--cell", "2"])
    assert stop.value.code == 2
    assert "needs results/other/pretrain/image, which is not finished" in capsys.readouterr().err


def test_a_changed_config_redoes_what_it_touches_and_keeps_the_old(swept, monkeypatch, capsys):
    tiny = experiments.EXPERIMENTS["tiny"]
    changed = with_settings(tiny, {"source.finetune": replace(tiny.training, learning_rate=2e-3)})
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", changed)
    before = times(swept)
    cli.main([*ARGS, "--controls"])
    out, after = capsys.readouterr().out, times(swept)
    assert out.count("finished before") == 2  # both pre-trainings
    assert len(list((swept / "results/tiny").glob("tiny_pool2.old-*"))) == 1
    pretrained = [p for p in before if "pretrain" in p]
    assert pretrained and all(before[p] == after[p] for p in pretrained)
    trained = str(swept / "results/tiny/tiny_pool2/adapter_model.safetensors")
    assert before[trained] != after[trained]


def test_a_longer_answer_redoes_the_answers_alone(swept, monkeypatch):
    cli.main(ARGS)
    before = times(swept)
    tiny = experiments.EXPERIMENTS["tiny"]
    monkeypatch.setitem(
        experiments.EXPERIMENTS,
        "tiny",
        with_settings(tiny, {"sampling.num_frames": tiny.num_frames, "prompting.max_new_tokens": 2}),
    )
    cli.main(ARGS)
    after = times(swept)
    weights = [p for p in before if p.endswith(".safetensors") and ".old-" not in p]
    assert weights and all(after.get(p) == before[p] for p in weights)
    path = str(swept / "results/tiny/tiny_pool2/answers/answers.jsonl")
    assert before[path] != after[path]


def test_controls_are_asked_at_the_coarsest_level_unless_told(swept, capsys):
    cli.main([*ARGS[:5], "--name", "other", "--dry-run"])
    out = capsys.readouterr().out
    assert "tiny_pool16 --control blind" in out and "tiny_pool16 --control one_frame" in out
    assert "tiny_pool2 --control" not in out


def test_a_file_of_rows_makes_answers_as_its_folders_annotations_and_rows_do(tmp_path):
    from videogpt_plus.app.sweep.cells import _benchmark

    (tmp_path / "bench/json").mkdir(parents=True)
    annotation, rows = tmp_path / "bench/json/a.json", tmp_path / "rows.json"
    annotation.write_text("[1]")
    rows.write_text('{"root": "bench"}')
    seen = {_benchmark(str(rows))}
    annotation.write_text("[2]")
    seen.add(_benchmark(str(rows)))
    rows.write_text('{"root": "bench", "a": {"folder": "v"}}')
    seen.add(_benchmark(str(rows)))
    assert len(seen) == 3 and _benchmark(str(rows)) in seen


def test_a_cell_that_is_being_filled_is_left_alone(swept, capsys):
    lock = swept / "results/other/pretrain/image.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as stop:
            cli.main([*ARGS, "--name", "other", "--cell", "0"])
    assert stop.value.code == 2
    assert "is being filled by another process" in capsys.readouterr().err
    assert not (swept / "results/other/pretrain/image").exists()


def test_every_run_appends_its_time_and_memory(swept):
    runs = [json.loads(line) for line in (swept / "results/tiny/runs.jsonl").read_text().splitlines()]
    assert runs[0]["minutes"] > 0 and runs[0]["largest_gib"] > 0


def test_each_seed_has_its_own_runs_on_the_same_projectors(swept, capsys):
    cli.main(["sweep", "tiny", "--name", "seeds", "--levels", "16", "--seeds", "42", "7", "--controls"])
    root, weights = swept / "results/seeds", "adapter_model.safetensors"
    assert {p.name for p in root.glob("tiny*") if p.is_dir()} == {"tiny_pool16", "tiny_pool16_seed7"}
    assert json.loads((root / "tiny_pool16_seed7/experiment.json").read_text())["source"]["finetune"]["seed"] == 7
    assert (root / "tiny_pool16" / weights).read_bytes() != (root / "tiny_pool16_seed7" / weights).read_bytes()
    with (root / "report/sweep.csv").open() as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"42", "7", "mean of 2"}
    assert "mean of 2 seeds" in (root / "report/sweep.md").read_text()
    capsys.readouterr()
    cli.main(["sweep", "tiny", "--name", "seeds", "--levels", "16", "--seeds", "7", "--controls", "--dry-run"])
    assert capsys.readouterr().out.count("finished") == 4, "seed 7 is skipped although seed 42 is not asked for"


def test_a_sweep_killed_again_and_again_ends_as_a_straight_one_with_two_jobs(tmp_path):
    worker = Path(__file__).with_name("sweep_worker.py")

    def child() -> subprocess.Popen:
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return fork_server.Popen([sys.executable, worker], cwd=tmp_path, **pipe)

    moments, kills = random.Random(0), 0
    while kills < 4:
        process = child()
        seen = len(list(tmp_path.rglob("cell.json")))
        while process.poll() is None and len(list(tmp_path.rglob("cell.json"))) < seen + 1:
            time.sleep(0.05)
        time.sleep(moments.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    last = child()
    out, _ = last.communicate()
    assert last.returncode == 0, out.decode()
    straight = tmp_path / "straight"
    straight.mkdir()
    # The same command without a kill, side by side in two processes, in a folder of its own.
    fork_server.run([sys.executable, worker, "--jobs", "2"], cwd=straight, check=True, capture_output=True)
    assert answers(tmp_path) == answers(straight)
    for name in ("tiny_pool2", "tiny_pool16"):
        file = f"results/tiny/{name}/adapter_model.safetensors"
        assert (tmp_path / file).read_bytes() == (straight / file).read_bytes()


def test_what_is_changed_in_an_experiment_survives_a_launcher(tmp_path, tiny_experiment, monkeypatch, capfd):
    """The launched processes know the experiment by its file alone: no name says its frames or its learning rate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", tiny_experiment)
    prepare(tmp_path, tiny_experiment)
    changes = {"sampling.num_frames": 3, "source.finetune.learning_rate": 3e-3, "source.finetune.max_steps": 1}
    changes |= {f"source.pretrain.{name}.max_steps": 1 for name in ("image", "video")}
    own = with_settings(experiments.EXPERIMENTS["tiny"], {**changes, "name": "mine", "source.finetune.warmup_ratio": 0})
    save_experiment(tmp_path, own)
    launcher = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"])
    given = ["--levels", "16", "--controls", "--limit", "1", "--launcher", launcher]
    cli.main(["sweep", str(tmp_path / "experiment.json"), *given])
    run = Path("results/mine/mine_pool16")
    assert load_experiment(run) == at_level(own, 16)
    _, step = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    assert step["lr"] == pytest.approx(3e-3)
    answers = [json.loads(line) for line in (run / "answers_first1/answers.jsonl").read_text().splitlines()]
    assert {answer["visual_tokens"] for answer in answers} == {num_visual_tokens(at_level(own, 16), 3)}
