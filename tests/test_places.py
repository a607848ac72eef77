"""Answers lie where what was asked says, are told and not believed where they do not, and never stop a report."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.answers.answer import Target, answer_all
from eval.answers.runs import header_of
from eval.report.sweep import report_sweep
from eval.tasks.benchmarks import check_own_name, copy_of, examples
from videogpt_plus.app import cli
from videogpt_plus.app.questions import TaskConfig, benchmark_stated
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import TOY, at_level, with_seed
from videogpt_plus.config.options import DEFAULT_EVAL, EvalConfig
from videogpt_plus.types import Reply, UserError

pytestmark = pytest.mark.usefixtures("quick_pictures")

TASKS = ("Counting", "Colours")


def write_bench(root: Path, tasks=TASKS, count: int = 6, answer: str = "a cup", options=("a cup", "a hat")) -> Path:
    """A benchmark in MVBench's layout whose clips nobody needs."""
    (root / "json").mkdir(parents=True, exist_ok=True)
    (root / "tasks.json").write_text(json.dumps({task: {"folder": f"video/{task}"} for task in tasks}))
    for task in tasks:
        asked = [
            {"video": f"{i}.mp4", "question": f"{task}?", "candidates": options, "answer": answer} for i in range(count)
        ]
        (root / "json" / f"{task.lower()}.json").write_text(json.dumps(asked))
    return root


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Path:
    """The experiment's own benchmark, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return write_bench(Path("bench"))


def a_run(name: str = "toy_pool2", root: str = "results/toy", level: float = 2, seed: int = 42, **changes) -> Path:
    """A run folder without weights."""
    experiment = replace(with_seed(at_level(TOY, level), seed), benchmark_root="bench", **changes)
    save_experiment(Path(root) / name, experiment)
    (Path(root) / name / "projectors.safetensors").write_text(f"weights of {name}")
    return Path(root) / name


class First:
    """Says the first option of everything."""

    def answers(self, questions, control):
        for question in questions:
            yield question, dict.fromkeys(question.models, Reply("(A)", 16, seconds=0.1))


def answer(run: Path, task="mvbench", benchmark=None, control=None, limit=None, eval_config=DEFAULT_EVAL) -> Path:
    """What `answer` does with these options, without a model; the answers' folder."""
    task, place = benchmark_stated(task, benchmark and Path(benchmark))
    experiment, path = load_experiment(run), TaskConfig(task, control, limit, place).answers(run)
    asked = examples(task, place or experiment.benchmark_root, limit)
    header = header_of(run, experiment, asked, task, place, eval_config)
    answer_all(First, asked, {"it": Target(path, header)}, control=control)
    return path.parent


def report(*options: str, root: str = "results/toy") -> tuple[str, list[list[str]]]:
    """sweep.md and the rows of sweep.csv."""
    cli.main(["report", root, *options])
    with (Path(root) / "report/sweep.csv").open() as file:
        return (Path(root) / "report/sweep.md").read_text(), list(csv.reader(file))[1:]


def refused(capsys, *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(one) for one in args])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1, line
    return line


def test_another_copy_has_a_folder_with_its_name_and_two_of_one_name_do_not_share_it(bench):
    run = a_run()
    first, second = write_bench(Path("x/copy"), TASKS[:1]), write_bench(Path("y/copy"), TASKS[1:])
    folders = [answer(run), *(answer(run, benchmark=place) for place in (first, second))]
    folders += [answer(run, benchmark=first, control="blind"), answer(run, benchmark=first, limit=2)]
    assert folders[0] == run / "answers" and len(set(folders)) == 5
    label = copy_of("mvbench", "bench", first)
    names = [folder.name.replace(label, "LABEL") for folder in folders]
    assert names[1] == "answers_mvbench_of_LABEL" and names[2].startswith("answers_mvbench_of_copy-")
    assert names[3:] == ["answers_mvbench_of_LABEL_blind", "answers_mvbench_of_LABEL_first2"]
    # The usual place is no copy, however it is written; nor is a file of rows that is the folder's own.
    Path("link").symlink_to("bench")
    for place in ("bench", "./bench/", "link", bench.absolute(), "bench/tasks.json"):
        assert copy_of("mvbench", "bench", place) == ""
    rows = Path("rows of mine.json")
    rows.write_text(json.dumps({"root": "bench", "Colours": None, "Counting": {"folder": "video"}}))
    assert answer(run, benchmark=rows).name.startswith("answers_mvbench_of_rows-of-mine-")


def test_a_copy_of_the_same_questions_in_another_place_is_not_mixed_in_and_one_that_moved_goes_on(bench):
    run, place = a_run(), write_bench(Path("x/copy"))
    folder = answer(run, benchmark=place)
    shutil.copytree(place, "z/copy")
    with pytest.raises(UserError, match="holds answers to the benchmark at .*/x/copy, which is still there, and this"):
        answer(run, benchmark="z/copy")
    shutil.rmtree(place)
    before = (folder / "answers.jsonl").read_bytes()
    assert answer(run, benchmark="z/copy") == folder and (folder / "answers.jsonl").read_bytes() == before
    assert json.loads((folder / "answers.meta.json").read_text())["root"] == str(Path("z/copy").resolve())


def test_report_finds_copies_says_what_they_are_and_goes_on_where_one_is_gone_or_has_changed(bench, capsys):
    for level in (2, 16):
        run = a_run(f"toy_pool{level}", level=level)
        answer(run)
        for count, name in enumerate(("gone", "changed", "there", "moved"), 2):
            answer(run, benchmark=write_bench(Path(f"copies/{name}"), TASKS[:1], count))
    shutil.rmtree("copies/gone")
    write_bench(Path("copies/changed"), TASKS[:1], 9)
    shutil.move("copies/moved", "elsewhere")
    text, rows = report()
    label = copy_of("mvbench", "bench", "copies/there")
    assert {row[0] for row in rows} == {"mvbench", f"mvbench_of_{label}"}
    assert {row[9] for row in rows if row[0] == "mvbench"} >= {"6"}, "the usual answers are whole"
    told = " ".join(capsys.readouterr().out.split())
    for said in (
        f"answers to another copy of mvbench, {Path('copies/there').resolve()}",
        "copies/gone, which is gone; if it lies elsewhere now, say so by --benchmarks mvbench=FOLDER",
        "copies/changed, which has other questions now",
    ):
        assert text.count(said) == told.count(said) == 2, said
    assert "Left out or renamed" in text and f"mvbench_of_{label}: toy: accuracy by task" in text
    # Where one lies now is taken for that copy, and the usual answers stay those to the whole benchmark.
    text, rows = report("--benchmarks", "mvbench=elsewhere")
    moved = {row[0] for row in rows} - {"mvbench", f"mvbench_of_{label}"}
    assert len(moved) == 1 and moved.pop().startswith("mvbench_of_moved-")
    assert {row[7] for row in rows if row[0] == "mvbench"} >= set(TASKS)


def test_an_incomplete_copy_does_not_stop_the_report_and_an_incomplete_run_does(bench, capsys):
    run, copy = a_run(), write_bench(Path("copy"), TASKS[:1])
    answer(run)
    path = answer(run, benchmark=copy) / "answers.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    text, _ = report()
    finish = f"videogpt-plus answer {run} --benchmark {copy.resolve()}"
    assert f"4 of 6 answers are missing; finish them with: {finish}" in text
    path = run / "answers/answers.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert "10 of 12 answers are missing; finish them with" in refused(capsys, "report", "results/toy")


def test_a_part_of_the_benchmark_may_be_reported_and_the_page_says_that_it_is_one(bench):
    """A file of rows that leaves tasks out, given to `report` alone; its root is seen from the working folder."""
    answer(a_run())
    elsewhere = Path("deep/down/part.json")
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(json.dumps({"root": "bench", "Colours": None, "Counting": {"folder": "video"}}))
    text, rows = report("--benchmarks", f"mvbench={elsewhere}")
    assert {row[6] for row in rows} == {"Counting", "mean of all tasks"}
    assert f"holds 6 answers more than the 6 questions of {elsewhere}, which alone count here" in text


def test_a_benchmark_of_ones_own_stands_beside_mvbench(bench, capsys):
    run, own = a_run(), write_bench(Path("my data"), ("Smells",), 4)
    answer(run)
    assert answer(run, "mine=my data").name == "answers_mine"
    assert answer(run, "mine=my data", control="blind").name == "answers_mine_blind"
    cli.main(["score", str(run), "--task", "mine=my data"])
    out = capsys.readouterr().out
    assert "4 of 4 questions were answered" in out and "Smells" in out
    scores = json.loads((run / "answers_mine/scores.json").read_text())
    assert scores["benchmark"] == "mine" and "root" not in scores, "what may be published names no path of this machine"
    cli.main(["export", str(run), "out", "--task", f"mine={own.absolute()}"])
    assert len(list(Path("out").iterdir())) == 4
    _, rows = report()
    assert {(row[0], row[7]) for row in rows} >= {("mine", "Smells"), ("mvbench", "Colours")}
    # It may move; another benchmark under its name is not mixed in.
    shutil.move("my data", "moved")
    text, _ = report()
    assert f"mine was asked at {own.resolve()}, which is gone" in text
    _, rows = report("--benchmarks", "mine=moved")
    assert "mine" in {row[0] for row in rows}
    with pytest.raises(UserError, match="questions = .* this run has"):
        answer(run, f"mine={write_bench(Path('other'), ('Sounds',))}")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("mine", "unknown benchmark 'mine'; choose from: mvbench, .* or write mine=FOLDER for one of your own"),
        ("mine=", "names no folder: write mine=FOLDER"),
        ("mine=nowhere", "'mine' is none of mvbench, .* and as one of your own it has no benchmark at .*nowhere"),
        ("MVBench=bench", "'MVBench' is mvbench in other letters"),
        ("blind=bench", "a benchmark cannot be called 'blind'"),
        ("mine_one_frame=bench", "a benchmark cannot be called 'mine_one_frame'"),
        ("mine_first20=bench", "a benchmark cannot be called 'mine_first20'"),
        ("vcgbench_of_x-12345678=bench", "a benchmark cannot be called"),
        ("a/b=bench", "a benchmark cannot be called 'a/b'"),
        ("x.old-1=bench", "a benchmark cannot be called"),
    ],
)
def test_names_that_would_be_taken_for_others_are_refused(bench, stated, said):
    with pytest.raises(UserError, match=said):
        benchmark_stated(stated)


def test_names_of_ones_own_that_are_fine(bench):
    for name in ("mine", "mvbench_2", "My-Bench.v1.5", "firstaid", "blindness"):
        check_own_name(name)
    with pytest.raises(UserError, match="says where the benchmark lies, and so does --benchmark bench: leave one out"):
        benchmark_stated("mine=bench", Path("bench"))


def test_a_sweep_plans_copies_and_benchmarks_of_ones_own_in_their_own_places(bench, capsys, monkeypatch):
    from videogpt_plus.config.experiments import EXPERIMENTS

    write_bench(Path("my data"), ("Smells",))
    copy = write_bench(Path("x/copy"), TASKS[:1])
    monkeypatch.setitem(EXPERIMENTS, "llava15_7b", replace(EXPERIMENTS["llava15_7b"], benchmark_root="bench"))
    sweep = ["sweep", "llava15_7b", "--levels", "1", "--controls", "--dry-run", "--benchmarks"]
    cli.main([*sweep, "mine=my data", f"mvbench={copy}"])
    out = capsys.readouterr().out
    assert "videogpt-plus answer results/llava15_7b/llava15_7b_pool1 --task 'mine=my data'" in out
    assert f"--benchmark {copy}" in out and "answer llava15_7b_pool1 (mvbench_of_copy-" in out
    assert "videogpt-plus report results/llava15_7b --benchmarks 'mine=my data'" in out
    assert "names mine twice; sweep it once, or give a copy" in refused(capsys, *sweep, "mine=my data", "mine=bench")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "answers").rename(run / "answers_blind"), "with all frames, which belong into"),
        (lambda run: shutil.copytree(run / "answers", run / "answers_mine"), "to mvbench with all frames, which"),
        (lambda run: save_experiment(run, at_level(TOY, 4)), "holds answers of toy_pool2, and .* is toy_pool4"),
        (lambda run: (run / "projectors.safetensors").write_text("new"), "answers of other weights: .* has changed"),
    ],
)
def test_a_folder_that_says_other_than_its_answers_is_told_and_not_believed(bench, capsys, change, said):
    run = a_run()
    answer(run)
    change(run)
    (folder,) = [path.name for path in run.glob("answers*") if path.name != "answers"] or ["answers"]
    options = {"answers_blind": ["--control", "blind"], "answers_mine": ["--task", "mine=bench"]}.get(folder, [])
    assert re.search(said, refused(capsys, "score", run, *options))
    answer(a_run("toy_pool16", level=16))
    text, rows = report()
    assert re.search(f"not reported: .*{said}", text)
    assert {row[0] for row in rows} == {"toy_pool16", *(["toy_pool2"] if folder == "answers_mine" else [])}


def test_of_answers_that_are_called_the_first_three_the_first_three_count(bench, capsys):
    run = a_run()
    answer(run).rename(run / "answers_first3")
    cli.main(["score", str(run), "--limit", "3"])
    assert "6 further answers are there" in capsys.readouterr().out


def test_answers_to_other_options_are_told_also_where_the_keys_are_the_same(bench, capsys):
    run = a_run()
    answer(run)
    write_bench(bench, options=("a cup", "a ball"))
    assert "the options of the benchmark have changed since these answers" in refused(capsys, "score", run)
    assert "nothing to report under results/toy: results/toy/toy_pool2/answers is not reported: " in refused(
        capsys, "report", "results/toy"
    )


def test_a_benchmark_that_has_grown_is_answered_to_its_end_and_one_that_has_changed_is_not(bench, capsys):
    run = a_run()
    before = (answer(run) / "answers.jsonl").read_bytes()
    write_bench(bench, count=8)
    line = refused(capsys, "score", run)
    assert f"4 of 16 answers are missing; finish them with: videogpt-plus answer {run}\n" in line
    answer(run)
    assert (run / "answers/answers.jsonl").read_bytes().startswith(before)
    cli.main(["score", str(run)])
    write_bench(bench, count=9, options=("a cup", "a ball"))
    line = refused(capsys, "score", run)
    assert "2 of 18 answers are missing, and the others are to other questions than the benchmark has now; move" in line
    with pytest.raises(UserError, match="questions = "):
        answer(run)


def test_two_recipes_under_one_name_are_two_models_and_the_page_says_how_they_differ(bench, capsys):
    other = replace(TOY.source, finetune=replace(TOY.training, learning_rate=2e-3))
    answer(a_run())
    answer(a_run("toy_pool2_fast", source=other))
    answer(a_run("toy_pool2_seed7", seed=7))
    text, rows = report()
    names = {row[0] for row in rows}
    assert len(names) == 3 and all(name.startswith("toy (recipe ") for name in names)
    (mean,) = {row[0] for row in rows if row[3] == "mean of 2"}
    (fast,) = {name for name in names if not name.startswith(mean)}
    assert names == {mean, f"{mean}_seed7", fast}, "the mean of two seeds is of one recipe"
    told = capsys.readouterr().out
    for said in ("has source.finetune.learning_rate 0.001", "has source.finetune.learning_rate 0.002"):
        assert said in text and said in told
    assert "results/toy/toy_pool2, results/toy/toy_pool2_seed7 | shown as toy (recipe" in text


def test_a_second_run_of_one_recipe_is_left_out_and_named(bench):
    answer(a_run())
    answer(a_run("again"))
    text, rows = report()
    assert "| results/toy/again | not reported: a second run of toy_pool2 with the recipe of results/toy/toy_" in text
    assert {row[0] for row in rows} == {"toy_pool2"}


def test_levels_and_seeds_of_one_recipe_are_one_curve_as_ever(bench):
    for level in (2, 16):
        for seed in (42, 7):
            name = with_seed(at_level(TOY, level), seed).name
            answer(a_run(name, level=level, seed=seed))
    text, rows = report()
    assert "Left out or renamed" not in text
    assert {row[0] for row in rows} == {"toy_pool2", "toy_pool2_seed7", "toy_pool16", "toy_pool16_seed7"}


def test_answers_of_one_curve_that_were_asked_in_two_ways_are_said_to_be(bench):
    answer(a_run())
    answer(a_run("toy_pool16", level=16), eval_config=EvalConfig(scoring="both"))
    text, _ = report()
    assert "asked with scoring both, encoder_dtype auto, and other answers of toy to mvbench were not" in text


def test_the_report_of_the_same_answers_is_the_same(bench):
    answer(a_run())
    first = report_sweep(Path("results/toy")).read_bytes()
    assert report_sweep(Path("results/toy")).read_bytes() == first
