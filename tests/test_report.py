"""The report shows what was measured: every cell, every control, every doubt, and the same bytes each time."""

from __future__ import annotations

import base64
import csv
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from eval.answers.score import score
from eval.report.cells import (
    are_grouped,
    curves,
    dominated,
    fullest,
    groups,
    in_order,
    on_common,
    over_seeds,
    tasks,
)
from eval.report.comparisons import paired, pairs
from eval.report.csv_files import CSV_COLUMNS
from eval.report.latex import escape
from eval.report.parts import DETECTABLE
from eval.report.plots import _lines, _places, means_vs_tokens, tasks_by_level
from eval.report.plots_cost import _apart
from eval.report.plots_differences import differences
from eval.report.report import _tests, write_report
from eval.report.results import Cell
from eval.report.sanity_checks import proof
from eval.report.tables import report_tables
from eval.statistics.paired import NONE_SHOWN, holm
from eval.statistics.power import detectable
from eval.tasks.task import Example
from videogpt_plus.io.files import write_text
from videogpt_plus.types import UserError

OPTIONS = ("red", "green", "blue", "white")
TOY_TASKS = {
    "colour": "coarse",
    "shape": "coarse",
    "cell": "middle",
    "which square": "fine",
    "order": "temporal",
}
TOKENS = {1: 1664, 2: 416, 4: 104, 8: 40, 12: 16, 16: 16}


def make_cell(
    folder: Path,
    level: float,
    accuracy: dict[str, float],
    control: str | None = None,
    name: str = "toy",
    groups: dict[str, str] | None = None,
    n: int = 40,
    tokens: dict[float, int] = TOKENS,
    failed: int = 0,
    seconds_first: float | None = None,
    seed: int = 42,
    drop: int = 0,
    declared: bool = True,
) -> Cell:
    """A cell whose tasks have exactly the accuracies given, through the real scorer.

    Tasks with a group declare the level that they need, unless not `declared`. `drop` leaves out so many of the last
    questions of each task.
    """
    groups = {task: "" for task in accuracy} if groups is None else groups
    experiment = f"{name}_pool{level:g}" + (f"_seed{seed}" if seed != 42 else "")
    examples, lines = [], []
    for task, share in accuracy.items():
        for i in range(n - drop):
            asked = Example(
                task, Path("/v"), f"{task} {i}.mp4", "?", OPTIONS, OPTIONS[i % 4], group=groups[task] or task,
                needs_level=1 if declared and groups[task] else None,
            )  # fmt: skip
            # Which questions are right is shuffled, so that levels disagree on some.
            right = random.Random(f"{experiment}{control}{task}").sample(range(n), round(share * n))
            reply = asked.reference if i in right else f"({'ABCD'[(i + 1) % 4]})"
            error = "file is empty" if i < failed else None
            examples.append(asked)
            lines.append({
                "key": asked.key, "task": task, "video": asked.video, "reference": asked.reference, "seconds": 0.1,
                "reply": None if error else reply, "error": error, "seconds_first": None if error else seconds_first,
                "visual_tokens": 0 if control == "blind" else tokens[level],
            })  # fmt: skip
    path = folder / f"{experiment}-{control}" / "answers.jsonl"
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    write_text(path.with_name("answers.meta.json"), json.dumps({"experiment": experiment, "control": control}))
    shown = 0 if control == "blind" else tokens[level]
    return Cell.of(
        score(path, examples), experiment=experiment, adapter="average", level=level, control=control,
        visual_tokens=shown, seed=seed, flops=10**6 * (shown + 900), kv_bytes=1300 * (shown + 60),
    )  # fmt: skip


def accuracies(coarse: float, middle: float, fine: float, temporal: float) -> dict[str, float]:
    by_group = {"coarse": coarse, "middle": middle, "fine": fine, "temporal": temporal}
    return {task: by_group[group] for task, group in TOY_TASKS.items()}


def toy_cells(folder: Path, **more) -> list[Cell]:
    """A sweep as it should come out: levels out of order, controls at level 1."""
    more = {"groups": TOY_TASKS} | more
    return [
        make_cell(folder, 16, accuracies(0.95, 0.6, 0.3, 0.75), **more),
        make_cell(folder, 1, accuracies(0.975, 0.9, 0.9, 0.8), **more),
        make_cell(folder, 12, accuracies(0.95, 0.65, 0.325, 0.8), **more),
        make_cell(folder, 4, accuracies(0.975, 0.8, 0.6, 0.8), **more),
        make_cell(folder, 1, accuracies(0.25, 0.25, 0.25, 0.25), "blind", **more),
        make_cell(folder, 1, accuracies(0.95, 0.9, 0.9, 0.3), "one_frame", **more),
    ]


def mvbench_cells(folder: Path) -> list[Cell]:
    names = {f"Task {i}": 0.3 + 0.03 * i for i in range(20)}
    tokens = {1: 13312, 2: 3328, 4: 832, 8: 208, 12: 80, 16: 80, 24: 32}
    return [
        make_cell(folder, level, {t: a - 0.001 * i * level for i, (t, a) in enumerate(names.items())}, None, name,
                  n=20, tokens=tokens)
        for name in ("qwen1_5b", "qwen1_5b_max") for level in tokens
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The toy's cells and the folder of their report."""
    folder = tmp_path_factory.mktemp("sweep")
    cells = toy_cells(folder, failed=1)
    write_report(cells, folder / "report", title="Toy <sweep>", stamp="seed 42")
    return cells, folder / "report"


def test_the_report_has_its_files_and_they_hold_no_half_written_part(reported):
    pictures = ("accuracy_vs_cost", "accuracy_vs_tokens", "differences", "tasks_by_level")
    assert sorted(path.name for path in reported[1].iterdir()) == sorted([
        *(f"{name}.{ending}" for name in pictures for ending in ("pdf", "png", "svg")),
        "index.html", "pairs.csv", "sweep.csv", "sweep.md", "sweep.tex",
    ])  # fmt: skip


def test_the_csv_has_a_row_for_every_cell_and_task_and_the_mean(reported):
    cells, folder = reported
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert list(rows[0]) == CSV_COLUMNS
    assert {"experiment", "adapter", "level", "visual_tokens", "control", "task", "group", "n", "n_failed", "accuracy",
            "ci_low", "ci_high", "chance", "majority", "reference_rule_accuracy",
            "seconds_per_question", "seconds_to_first_token", "flops", "kv_bytes"} <= set(CSV_COLUMNS)  # fmt: skip
    assert len(rows) == len(cells) * (len(TOY_TASKS) + 1)
    row = next(r for r in rows if (r["level"], r["control"], r["task"]) == ("16", "none", "which square"))
    found = next(c for c in cells if c.level == 16).tasks["which square"]
    assert (row["group"], row["n"], row["n_failed"], row["visual_tokens"]) == ("fine", "40", "1", "16")
    assert (row["flops"], row["kv_bytes"], row["seconds_to_first_token"]) == ("916000000", "98800", "")
    assert float(row["accuracy"]) == pytest.approx(found.estimate.value, abs=1e-6)
    assert float(row["ci_low"]) < float(row["accuracy"]) < float(row["ci_high"])


def test_tables_run_from_the_finest_level_to_the_coarsest_and_show_the_controls(reported):
    text = (reported[1] / "sweep.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| group | tasks"))
    places = [line.index(f"level {level}:") for level in (1, 4, 12, 16)] + [line.index("one frame, level 1")]
    assert places == sorted(places) and "blind, level 1" in line
    for heading in (
        "Sanity checks",
        "Paired tests",
        "What the benchmark can resolve",
        "Unreadable clips",
    ):
        assert f"## {heading}" in text
    assert "| colour | colour 0.mp4 | file is empty | 6 | 6 |" in text and "counts as wrong in every run." in text
    assert re.search(r"\| coarse \| 2 \| 80 \| 80 \| 25\.0 \| 25\.0 \| \d+\.\d \(\d+\.\d to \d+\.\d\)", text)


@pytest.mark.usefixtures("quick_pictures")
def test_a_clip_is_called_wrong_in_every_run_only_where_no_run_could_read_it(tmp_path):
    """One run of two failed on the clip; the blind control needs no clip and cannot fail."""
    cells = [make_cell(tmp_path, level, {"colour": 0.5}, failed=failed) for level, failed in ((1, 1), (16, 0))]
    write_report([*cells, make_cell(tmp_path, 16, {"colour": 0.5}, "blind")], tmp_path / "report")
    text = (tmp_path / "report" / "sweep.md").read_text()
    assert "| colour | colour 0.mp4 | file is empty | 1 | 3 |" in text
    assert "counts as wrong in the runs that could not read it." in text and "wrong in every run" not in text


def test_the_page_is_self_contained_and_escapes_what_it_shows(reported):
    page = (reported[1] / "index.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(p) for p in pictures] == [
        (reported[1] / name).read_bytes()
        for name in ("accuracy_vs_tokens.png", "accuracy_vs_cost.png", "differences.png", "tasks_by_level.png")
    ]
    assert not re.search(r'(src|href)="(?!data:)|@import|url\(|<script|http', page)
    assert "<h1>Toy &lt;sweep&gt;</h1>" in page and "seed 42" in page
    assert page.count("<h2>") == (reported[1] / "sweep.md").read_text().count("\n## ")


def test_the_same_cells_give_the_same_bytes_in_whatever_order(reported, tmp_path):
    cells, folder = reported
    write_report(cells[::-1], tmp_path, title="Toy <sweep>", stamp="seed 42")
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_points_of_equal_tokens_stand_side_by_side():
    curve = [
        Cell(experiment="e", level=level, control=None, visual_tokens=tokens, tasks={})
        for level, tokens in ((12, 80), (16, 80), (24, 32))
    ]
    places = _places(curve, apart=1.1)
    assert places[0] > 80 > places[1] > places[2] == 32


def test_points_of_equal_cost_stand_side_by_side_and_others_where_they_belong():
    first, other, second = _apart([5.0, 20.0, 5.0], inch=2)
    assert first < 5 < second and other == 20


@pytest.mark.usefixtures("quick_pictures")
def test_without_groups_the_curve_shows_the_mean_and_the_tasks_that_change_most(tmp_path):
    cells = mvbench_cells(tmp_path)
    assert not are_grouped(cells) and groups(cells) == tasks(cells)
    assert list(curves(cells)) == ["qwen1_5b", "qwen1_5b_max"]
    lines = _lines(cells)
    assert list(lines)[0] == "mean of all tasks" and len(lines) == 5 and lines["Task 19"] == "Task 19"
    page = write_report(cells, tmp_path / "report").read_text()
    assert "level 12: 80 tokens" in page and "Sanity checks" not in page
    compared = [label for label, _, _ in pairs(cells)]
    assert "qwen1_5b: level 12 - level 16" in compared and "level 4: qwen1_5b - qwen1_5b_max" in compared


@pytest.mark.usefixtures("quick_pictures")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], None),
        (["blind"], "Controls: blind, without any visual token."),
        (["shuffled", "one_frame"], "Controls: one frame repeated; all frames shuffled."),
    ],
)
def test_only_the_controls_that_were_asked_are_explained(asked, said, tmp_path):
    shares = accuracies(1, 0, 0.5, 0.8)
    cells = [make_cell(tmp_path, 4, shares, control, groups=TOY_TASKS, n=8) for control in (None, *asked)]
    write_report(cells, tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    assert (f" {said} Minimum detectable difference:" in text) if said else ("Controls:" not in text)


@pytest.mark.usefixtures("quick_pictures")
def test_a_sweep_of_one_level_is_reported(tmp_path):
    cell = make_cell(tmp_path, 4, accuracies(1, 0, 0.5, 0.8), groups=TOY_TASKS, n=8)
    page = write_report([cell], tmp_path / "report").read_text()
    assert "not measured" in page and "Paired tests" not in page


@pytest.mark.usefixtures("quick_pictures")
def test_a_sweep_without_a_finished_cell_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no finished cell to report .*run the sweep first"):
        write_report([], tmp_path)


def held(cells) -> dict[str, bool | None]:
    return {claim.claim: claim.ok for claim in proof(cells)}


def test_a_pipe_that_sees_meets_every_claim(tmp_path):
    claims = held(toy_cells(tmp_path))
    assert set(claims.values()) == {True}
    assert "fine tasks together lose at least 25 points from level 1 to level 16" in claims
    assert any(claim.startswith("blind answers are neither below chance nor above") for claim in claims)


def test_few_questions_leave_a_claim_undecided_and_say_no_to_none_by_chance(tmp_path):
    """Of 10 questions a task 8 right are no proof against 85 %; of 400 they are."""
    by_size = {}
    for n in (10, 400):
        cells = [make_cell(tmp_path / str(n), level, accuracies(0.8, 0.6, fine, 0.8), groups=TOY_TASKS, n=n)
                 for level, fine in ((1, 0.9), (16, 0.3))]  # fmt: skip
        claims = {claim.claim: claim.holds for claim in proof(cells)}
        by_size[n] = claims["coarse tasks together are above 85 % at every level"]
        assert claims["fine tasks together lose at least 25 points from level 1 to level 16"] == "yes"
    assert by_size == {10: "undecided", 400: "NO"}


@pytest.mark.usefixtures("quick_pictures")
def test_groups_of_a_benchmark_that_declares_no_levels_are_names_and_prove_nothing(tmp_path):
    cells = [make_cell(tmp_path, 1, accuracies(0.5, 0.5, 0.5, 0.5), groups=TOY_TASKS, declared=False)]
    assert proof(cells) == []
    assert "Sanity checks" not in write_report(cells, tmp_path / "report").read_text()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> list[Cell]:
    """The toy's cells of 400 questions a task, which meet every claim."""
    return toy_cells(tmp_path_factory.mktemp("many"), n=400)


@pytest.mark.parametrize(
    ("at", "values", "claim"),
    [
        ((16, None), (0.85, 0.6, 0.3, 0.75), "coarse tasks together stay within 5 points"),
        ((4, None), (0.8, 0.8, 0.6, 0.8), "coarse tasks together are above 85 %"),
        ((16, None), (0.95, 0.6, 0.8, 0.75), "fine tasks together lose at least 25 points"),
        ((1, None), (0.975, 0.9, 0.9, 0.7), "temporal tasks together reach 75 %"),
        ((1, "one_frame"), (0.95, 0.9, 0.9, 0.4), "temporal tasks together are within 10 points of chance"),
        ((1, "blind"), (0.5, 0.5, 0.5, 0.5), "neither below chance nor above the best constant answer"),
        ((1, "blind"), (0.25, 0.25, 0.25, 0.6), "above the best constant answer in no task"),
    ],
)
def test_each_claim_fails_when_what_it_claims_does(many, tmp_path, at, values, claim):
    cells = [cell for cell in many if (cell.level, cell.control) != at]
    cells.append(make_cell(tmp_path / "bad", at[0], accuracies(*values), at[1], groups=TOY_TASKS, n=400))
    failing = [one.claim for one in proof(cells) if one.holds == "NO"]
    assert any(claim in name for name in failing), failing


def test_a_task_that_fails_shows_although_its_group_holds(tmp_path):
    cells = [cell for cell in toy_cells(tmp_path, n=800) if (cell.level, cell.control) != (16, None)]
    uneven = accuracies(0.975, 0.6, 0.3, 0.75) | {"shape": 0.88}
    cells.append(make_cell(tmp_path / "bad", 16, uneven, groups=TOY_TASKS, n=800))
    claims = held(cells)
    claim = "stay within 5 points from level 1 to level 16"
    assert claims[f"coarse tasks together {claim}"] and claims[f"coarse tasks each {claim}"] is False


def test_what_was_not_asked_is_not_claimed(tmp_path):
    cells = [cell for cell in toy_cells(tmp_path) if cell.control is None]
    unknown = {claim for claim, ok in held(cells).items() if ok is None}
    assert unknown == {
        "temporal tasks are within 10 points of chance with one frame repeated at level 1",
        "blind answers are worth a guess",
    }


@pytest.mark.usefixtures("quick_pictures")
def test_random_weights_have_nothing_to_prove_and_a_single_frame_no_order(tmp_path):
    cells = toy_cells(tmp_path)
    random_ones = [replace(cell, random=True) for cell in toy_cells(tmp_path, name="twin")]
    assert held(random_ones) == {}
    claims = held(cells)
    assert held([*cells, *random_ones]) == {f"toy: {claim}": ok for claim, ok in claims.items()}
    page = write_report(random_ones, tmp_path / "report").read_text()
    assert "Sanity checks" not in page and "accuracy by group" in page
    single = held([replace(cell, num_frames=1) for cell in cells])
    assert single == {claim: ok for claim, ok in claims.items() if "temporal" not in claim} != claims


@pytest.mark.usefixtures("quick_pictures")
def test_what_a_benchmark_is_too_small_to_resolve_is_said_to_be(tmp_path, reported):
    write_report([make_cell(tmp_path, 1, {"a": 0.5}, n=24)], tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    assert re.search(r"\| mean of all tasks \| 24 \| 24 \| 24 \| ±\d+\.\d \| too few \| too few \| too few \|", text)
    text = (reported[1] / "sweep.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| mean of all tasks | 200 | 200 | 200; "))
    found = [float(cell) for cell in row.strip("| ").split(" | ")[5:]]
    assert found == sorted(found) and detectable(200, 0.08) < found[0] < found[-1] < 0.2 * 100, "Holm asks for more"


def test_a_model_is_dominated_by_one_that_is_as_good_for_less(tmp_path):
    def cells(**accuracy: float) -> list[Cell]:
        return [make_cell(tmp_path, int(level[1:]), {"task": share}) for level, share in accuracy.items()]

    found = cells(l1=0.8, l2=0.8, l4=0.7, l8=0.75, l16=0.5)
    for name in ("GFLOP a question", "KV cache (MB)"):
        better = {name: cell.experiment for name, cell in dominated(found, name).items()}
        assert better == {"toy_pool1": "toy_pool2", "toy_pool4": "toy_pool8"}
    assert dominated(cells(l12=0.6, l16=0.6), "KV cache (MB)") == {}, "equals do not dominate each other"
    assert list(dominated(cells(l12=0.5, l16=0.6), "KV cache (MB)")) == ["toy_pool12"], "as dear and worse"
    assert dominated(found, "seconds to the first token") == {}, "what nobody measured dominates nothing"


def test_controls_dominate_nothing(tmp_path):
    cells = [make_cell(tmp_path, 1, {"task": 0.5}), make_cell(tmp_path, 1, {"task": 0.9}, "blind")]
    assert dominated(cells, "GFLOP a question") == {}


@pytest.mark.usefixtures("quick_pictures")
def test_costs_stand_in_the_table_and_what_nobody_measured_is_said(tmp_path):
    first = make_cell(tmp_path, 2, {"task": 0.5}, seconds_first=0.25)
    second = make_cell(tmp_path, 4, {"task": 0.75})
    second = replace(second, flops=None)
    write_report([first, second], tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| toy_pool2 | 416 | 1.32 |"))
    assert row.split(" | ")[3:6] == ["0.250", "0.619", "0.10"] and row.endswith("|  |  | toy_pool4 |")
    row = next(line for line in text.splitlines() if line.startswith("| toy_pool4 | 104 |"))
    assert row.split(" | ")[2:4] == ["not measured"] * 2


def test_seconds_to_the_first_token_are_the_median_of_the_answers_that_say_them(tmp_path):
    cell = make_cell(tmp_path, 2, {"a": 0.5, "b": 0.5}, n=4, failed=1, seconds_first=0.5)
    path = tmp_path / "toy_pool2-None/answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, seconds in zip(lines, (None, 90.0, 0.25, 0.5, None, 0.125, 0.25, 0.25), strict=True):
        line["seconds_first"] = seconds
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    examples = [
        Example(line["task"], Path("/v"), line["video"], "?", OPTIONS, OPTIONS[i % 4]) for i, line in enumerate(lines)
    ]
    scores = score(path, examples)
    assert scores["overall"]["seconds_to_first_token"] == 0.25
    assert [row["seconds_to_first_token"] for row in scores["tasks"].values()] == [0.5, 0.25]
    assert cell.overall.seconds_to_first_token == 0.5


def seeded_cells(folder: Path, **more) -> list[Cell]:
    """Three seeds at two levels whose accuracies scatter, out of order."""
    return [
        make_cell(folder, level, {"a": share + shift, "b": share - shift}, seed=seed, **more)
        for seed, shift in ((7, -0.1), (42, 0.0), (3, 0.1))
        for level, share in ((16, 0.4), (1, 0.8))
    ]


def test_seeds_of_a_model_become_their_mean_and_their_noise_is_in_the_interval(tmp_path):
    cells = seeded_cells(tmp_path)
    fine, coarse = in_order(over_seeds(cells))
    assert [cell.experiment for cell in (fine, coarse)] == ["toy_pool1", "toy_pool16"]
    assert [run.seed for run in fine.runs] == [3, 7, 42]
    row, alone = fine.tasks["a"], cells[3].tasks["a"]
    assert row.estimate.value == pytest.approx(0.8) and row.n == 40
    assert row.estimate.high - row.estimate.low > 1.3 * (alone.estimate.high - alone.estimate.low)
    found = paired(fine, coarse)
    assert found.seeds == (3, 7, 42) and found.readable is None
    assert found.paired.seeds == 3 and found.paired.mcnemar_p is None
    assert found.paired.difference == pytest.approx(0.4)
    other = paired(fine, over_seeds(cells[:1])[0])
    assert other.seeds == (7,) and other.paired.mcnemar_p is not None, "only seed 7 has both levels"


@pytest.mark.usefixtures("quick_pictures")
def test_a_comparison_of_unlike_seeds_says_which_it_used(tmp_path):
    cells = [cell for cell in seeded_cells(tmp_path) if (cell.level, cell.seed) not in ((16, 3), (16, 42))]
    write_report(cells, tmp_path / "report")
    line = next(x for x in (tmp_path / "report/sweep.md").read_text().splitlines() if x.startswith("| toy: level 1 -"))
    assert "| 7 (of 3 and 1) |" in line
    rows = list(csv.DictReader((tmp_path / "report/pairs.csv").open()))
    assert {row["seeds"] for row in rows} == {"7"}


@pytest.mark.usefixtures("quick_pictures")
def test_levels_without_a_common_seed_are_named_and_no_number_is_said_to_be_of_more_seeds_than_its_row(tmp_path):
    seeds = {1: (3, 7, 42), 2: (7,), 4: (99,)}
    cells = [make_cell(tmp_path, at, {"a": 0.6, "b": 0.7}, seed=s) for at, several in seeds.items() for s in several]
    write_report(cells, tmp_path / "report", margin=0.05)
    text = (tmp_path / "report/sweep.md").read_text()
    whole = text.partition("## Paired tests\n")[2].partition("\n| ")[0]
    assert "Not compared, without a seed in common: toy: level 1 - level 4; toy: level 2 - level 4." in whole
    assert "mean of 1 to 3 seeds" not in whole and "mean over the seeds in its row" in whole
    assert "No training seed, or no question, is in every level" in text and "| 4 | 99 |" in text


def test_code_in_a_note_keeps_its_spaces_and_its_dot(reported):
    text = (reported[1] / "sweep.md").read_text()
    assert "are listed in `pairs.csv`. The same" in text


@pytest.mark.usefixtures("quick_pictures")
def test_accuracies_over_seeds_of_unlike_questions_are_shares(tmp_path):
    """One seed was asked 10 questions of a task and the other 40: the mean is of the 10 that both have."""
    cells = [make_cell(tmp_path, 1, {"a": 0.9}, seed=7), make_cell(tmp_path, 1, {"a": 0.9}, seed=42, drop=30)]
    row = over_seeds(cells)[0].tasks["a"]
    assert row.n == 10 and 0 <= sum(row.values.values()) <= 10 and 0 <= row.estimate.value <= 1
    write_report(cells, tmp_path / "report")
    for line in csv.DictReader((tmp_path / "report/sweep.csv").open()):
        assert 0 <= float(line["ci_low"]) <= float(line["accuracy"]) <= float(line["ci_high"]) <= 1


@pytest.mark.usefixtures("quick_pictures")
def test_the_mean_of_unlike_tasks_stands_beside_what_all_questions_say(tmp_path):
    def at(level: float, small: float, n: int) -> Cell:
        cell = make_cell(tmp_path / str(n), level, {"big": 0.7, "small": 0.7}, n=400)
        part = make_cell(tmp_path / f"{n} small", level, {"small": small}, n=n)
        return replace(cell, tasks=cell.tasks | part.tasks)

    for n in (20, 400):
        page = write_report([at(1, 0.9, n), at(2, 0.4, n)], tmp_path / f"report {n}")
        text = page.with_name("sweep.md").read_text()
        assert ("level 1 80.0 %, level 2 55.0 %" in text) == (n == 20)


def test_the_headline_is_what_is_tested(tmp_path):
    """A small task that turns over whole moves the mean of tasks more than all questions together."""
    small = {"large": 0.5, "small": 1.0}, {"large": 0.55, "small": 0.2}
    cells = []
    for level, shares in zip((1, 4), small, strict=True):
        large = make_cell(tmp_path / "l", level, {"large": shares["large"]}, n=400)
        other = make_cell(tmp_path / "s", level, {"small": shares["small"]}, n=20)
        cells.append(replace(large, tasks=large.tasks | other.tasks))
    found = paired(*in_order(over_seeds(cells))).paired
    assert found.difference == pytest.approx((1.5 - 0.75) / 2) and found.p < 0.001 and found.low > 0
    assert found.first == pytest.approx(0.75), "the means that the table shows"


@pytest.mark.usefixtures("quick_pictures")
def test_questions_that_a_run_failed_at_are_left_out_beside_the_test_that_counts_them(tmp_path):
    cells = [make_cell(tmp_path, 1, {"a": 0.9}, failed=8), make_cell(tmp_path, 4, {"a": 0.9})]
    found = paired(*in_order(over_seeds(cells)))
    assert found.paired.n == 40 and found.readable.n == 32
    write_report(cells, tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    assert "difference where both read the clip" in text
    assert "wrong in every run" not in text


@pytest.mark.usefixtures("quick_pictures")
def test_a_report_over_seeds_says_so_and_lists_every_run(tmp_path):
    write_report(seeded_cells(tmp_path), tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    assert "mean of 3 seeds of fine-tuning. Their noise is in the intervals" in text
    rows = list(csv.DictReader((tmp_path / "report/sweep.csv").open()))
    assert [row["seed"] for row in rows].count("mean of 3") == 6 and len(rows) == 6 * 3 + 6
    assert {(row["experiment"], row["seed"]) for row in rows} >= {("toy_pool1_seed7", "7"), ("toy_pool1", "mean of 3")}


def test_one_seed_is_said_not_to_hold_the_noise_of_training(reported):
    assert "One training seed: the noise of training is not in these numbers" in (reported[1] / "sweep.md").read_text()


@pytest.mark.usefixtures("quick_pictures")
def test_only_questions_that_every_run_has_are_compared_and_their_number_is_said(tmp_path):
    whole, part = make_cell(tmp_path, 1, {"a": 0.75}), make_cell(tmp_path, 4, {"a": 0.5}, drop=10)
    write_report([whole, part], tmp_path / "report")
    text = (tmp_path / "report/sweep.md").read_text()
    assert "30 of 40 questions are in every run with all frames" in text
    rows = list(csv.DictReader((tmp_path / "report/pairs.csv").open()))
    assert {row["n"] for row in rows} == {"30"}
    right = sum(list(whole.tasks["a"].values.values())[:30])
    assert float(rows[0]["accuracy_first"]) == pytest.approx(right / 30, abs=1e-6)
    table = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert f"| 30 | 30 | 25.0 | 25.0 | {100 * right / 30:.1f} (" in table
    # Without the run that lacks some, all are there.
    write_report([whole], tmp_path / "alone")
    assert "40 of 40 questions" in (tmp_path / "alone/sweep.md").read_text()


def test_a_control_that_was_asked_few_questions_takes_none_from_the_models(tmp_path):
    models = [make_cell(tmp_path, level, {"a": share, "b": 0.5}) for level, share in ((1, 0.75), (4, 0.5))]
    few = [make_cell(tmp_path, 1, {"a": 0.25, "b": 0.25}, "blind", drop=30)]
    common, every = on_common([*models, *few])
    assert common[:2] == models and every == 80 and common[2] == few[0]
    tables = {table.title: table for table in report_tables(common, [*models, *few], _tests(common), every)}
    table = tables["toy: accuracy by task"]
    assert "blind, level 1: its 20 questions" in table.columns and "80 of 80 questions" in table.note
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["n"] == "40" and row["level 1: 1,664 tokens"].startswith("75.0 (")
    right = sum(few[0].tasks["a"].values.values())
    assert row["blind, level 1: its 20 questions"].startswith(f"{10 * right:.1f} ("), "on its own 10 of this task"
    assert {test.paired.n for test in _tests(common)} == {80, 40}
    # Where all were asked all, nothing is said.
    whole = make_cell(tmp_path, 1, {"a": 0.25, "b": 0.25}, "blind")
    titles = [table.columns for table in report_tables([*models, whole], [], [], 80)[1:2]]
    assert "blind, level 1" in titles[0]


def test_a_control_counts_on_the_questions_of_the_models_and_of_all_its_seeds(tmp_path):
    models = [make_cell(tmp_path, 1, {"a": 0.75}, seed=seed, drop=4) for seed in (42, 7)]
    blinds = [make_cell(tmp_path, 1, {"a": 0.25}, "blind", seed=seed, drop=drop) for seed, drop in ((42, 0), (7, 10))]
    common, every = on_common([*models, *blinds])
    assert [len(cell.tasks["a"].values) for cell in common] == [36, 36, 30, 30] and every == 36
    merged = next(cell for cell in over_seeds(common) if cell.control == "blind").tasks["a"]
    assert merged.n == 30 and 0 <= sum(merged.values.values()) <= 30


@pytest.mark.parametrize(
    "names",
    [
        {"Cell Of Color": "middle", "Dot In Row": "fine"},
        {"x": "y", "y": "x"},
        {"x": "temporal"},
        {"x": "temporal", "y": "y"},
    ],
)
def test_as_many_groups_as_tasks_are_reported_by_task(names, tmp_path):
    cells = [
        make_cell(tmp_path, level, dict.fromkeys(names, share), control, groups=names, n=8)
        for level, share in ((1, 0.75), (16, 0.5))
        for control in (None, "one_frame")
    ]
    assert not are_grouped(cells) and set(_lines(cells)) == {"mean of all tasks", *names}
    tests = _tests(cells)
    tables = report_tables(cells, cells, tests, 8 * len(names))
    (table,) = (table for table in tables if "accuracy by" in table.title)
    assert {row[0] for row in table.rows} == {*names, "mean of all tasks"}
    picture = means_vs_tokens(cells)["svg"].decode()
    assert all(f"<!-- {name} -->" in picture for name in names)


def test_models_of_unlike_questions_are_reported_as_they_are(tmp_path):
    cells = [
        make_cell(tmp_path, 1, {"a": 0.5, "b": 0.5}, groups={"a": "g", "b": "g"}, n=4),
        make_cell(tmp_path, 4, {"c": 0.5, "d": 0.5}, groups={"c": "h", "d": "h"}, n=4),
        make_cell(tmp_path, 1, {"e": 0.5}, "blind", n=4),
    ]
    common, every = on_common(cells)
    assert common == cells and every == 16
    assert report_tables(cells, cells, [], 16) and tasks_by_level(cells) and means_vs_tokens(cells)


def test_seconds_are_those_of_the_questions_that_were_answered(tmp_path):
    answered = make_cell(tmp_path, 2, {"a": 0.5, "b": 0.5}, n=4, failed=1)
    path = tmp_path / "toy_pool2-None/answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, seconds in zip(lines, (99.0, 1.0, 2.0, 3.0, 99.0, 4.0, 4.0, 4.0), strict=True):
        line["seconds"] = seconds
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    examples = [
        Example(line["task"], Path("/v"), line["video"], "?", OPTIONS, OPTIONS[i % 4]) for i, line in enumerate(lines)
    ]
    found = score(path, examples)
    assert [row["seconds_per_question"] for row in found["tasks"].values()] == [2.0, 4.0]
    assert found["overall"]["seconds_per_question"] == 3.0
    assert answered.overall.seconds_per_question == pytest.approx(0.1)
    none = make_cell(tmp_path / "none", 1, {"a": 0.5}, n=4, failed=4)
    assert none.overall.seconds_per_question is None
    (costs,) = (table for table in report_tables([none], [none], [], 4) if table.title == "Cost of a question")
    assert costs.rows[0][5] == "not measured"


def test_of_two_answers_of_one_run_those_to_more_questions_are_reported(tmp_path):
    few = make_cell(tmp_path / "few", 1, {"a": 0.5}, n=8)
    assert fullest([few, whole := make_cell(tmp_path, 1, {"a": 0.75})]) == [whole]


def test_every_pair_of_levels_is_tested_and_holm_is_over_pairs_and_tasks(reported):
    rows = list(csv.DictReader((reported[1] / "pairs.csv").open()))
    by_family = {family: [r for r in rows if r["family"] == family] for family in ("questions", "tasks")}
    assert len(by_family["tasks"]) == 6 * 5 and len(by_family["questions"]) == 6 * 5
    for group in by_family.values():
        expected = holm([float(row["p"]) for row in group])
        assert [float(row["p_holm"]) for row in group] == pytest.approx(expected, abs=1e-4)
        assert {int(row["family_size"]) for row in group} == {len(group)}
        assert all((row["verdict"] == NONE_SHOWN) == (float(row["p_holm"]) >= 0.05) for row in group)
    row = next(r for r in rows if (r["first"], r["second"], r["questions"]) == ("toy_pool1", "toy_pool16", "cell"))
    assert float(row["difference"]) == pytest.approx(0.3) and float(row["detectable"]) > 0.1


def test_no_difference_shown_is_said_where_none_is(reported):
    text = (reported[1] / "sweep.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| toy: level 12 - level 16 | mean of all"))
    assert line.endswith("| no difference shown |")
    assert re.search(r"\d+ of 30 comparisons of two models on one task show a difference; the others are listed", text)


def test_every_table_of_accuracies_says_what_it_could_find(reported):
    text = (reported[1] / "sweep.md").read_text()
    heads = [line for line in text.splitlines() if line.startswith(("| group | tasks", "| task | group"))]
    assert len(heads) == 2 and all(head.endswith(f"| {DETECTABLE} |") for head in heads)
    row = next(line for line in text.splitlines() if line.startswith("| which square | fine |"))
    assert row.split("|")[-2].strip() == "none (too few discordant pairs)" or 0 < float(row.split("|")[-2]) < 100


def test_the_heat_map_marks_what_is_more_than_chance(tmp_path):
    cells = [make_cell(tmp_path, level, {"a": share}) for level, share in ((1, 0.9), (4, 0.5))]
    plain, marked, absent = (
        differences(cells, {} if given is None else {("toy_pool1", "toy_pool4", "a"): (-40.0, given)}, "all")["png"]
        for given in (False, True, None)
    )
    assert len({plain, marked, absent}) == 3
    assert differences(cells[:1], {}, "all") is None


def test_latex_escapes_what_it_shows_and_keeps_its_columns(reported):
    text = (reported[1] / "sweep.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule") >= 3
    assert len(re.findall(r"\\caption\{(?!.*continued)", text)) == 3
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", table)[1])
        body = table.split(r"\end{tabular}")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in rows)
    assert not re.search(r"(?<!\\)[%#_]", "".join(text.splitlines()[2:]))
    assert escape("50 % of a_b & ±2 – x < y {z} -3.5 (+1.0)") == (
        r"50 \% of a\_b \& $\pm$2 \textendash{} x $<$ y \{z\} $-$3.5 ($+$1.0)"
    )
