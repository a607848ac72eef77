"""A command that a message holds works when it is pasted: read by the shell's rules, through the real command line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from eval.answers.answer import read_answers
from eval.judge import ledger
from eval.judge.endpoint import JudgeConfig
from eval.judge.scoring import score_judged
from eval.report.compare import read_run
from eval.tasks.benchmarks import BENCHMARKS, examples
from eval.tasks.mvbench import load_benchmark
from videogpt_plus.app import cli
from videogpt_plus.app.runs import named_runs
from videogpt_plus.config.experiment import Lora, with_settings
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.experiments import at_level, get_experiment
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.types import UserError

#: Names that a shell takes apart unless they are quoted.
RUN, COPY, OWN, OPEN = (Path(name) for name in ("it's a run", "a copy; $HOME", "my own (1)", 'open "questions" & more'))


def write_bench(root: Path, count: int = 2) -> None:
    (root / "json").mkdir(parents=True, exist_ok=True)
    (root / "tasks.json").write_text(json.dumps({"clip": {"folder": "video"}}))
    asked = [
        {"video": f"{i}.mp4", "question": "What?", "candidates": ["a cup", "a hat"], "answer": "a cup"}
        for i in range(count)
    ]
    (root / "json/clip.json").write_text(json.dumps(asked))


def write_open(root: Path) -> None:
    asked = [{"Q": "What?", "Q1": "What?", "Q2": "Which?", "A": "Red.", "video_name": "v", "facts": ["red"]}] * 2
    for name in ("generic", "temporal", "consistency"):
        root.mkdir(exist_ok=True)
        (root / f"{name}_qa.json").write_text(json.dumps(asked))


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory, tiny_experiment):
    """A run of the tiny model and benchmarks whose clips are missing: every answer is an error line, or blind."""
    from peft import get_peft_model_state_dict

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pasted"))
        experiment = at_level(
            with_settings(tiny_experiment, {"benchmark_root": "bench", "prompting.max_new_tokens": 1}), 16
        )
        torch.manual_seed(0)
        model = load_model(experiment, None, "cpu", torch.float32)
        model.add_lora(Lora(r=4, alpha=8, dropout=0.0))
        save_tensors(RUN / "projectors.safetensors", model.projector_state())
        save_tensors(RUN / "adapter_model.safetensors", get_peft_model_state_dict(model.llm))
        model.llm.peft_config["default"].save_pretrained(RUN)
        save_experiment(RUN, experiment)
        for root in (Path("bench"), COPY, OWN):
            write_bench(root, 3 if root == COPY else 2)
        write_open(OPEN)
        yield


@pytest.fixture(autouse=True)
def no_answers():
    yield
    for folder in RUN.glob("answers*"):
        shutil.rmtree(folder)


def message(capsys, *args: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(one) for one in args])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1, line
    return line


def pasted(line: str) -> list[str]:
    """The command in a message, as a shell takes it apart."""
    quoted = re.search(r"`videogpt-plus ([^`]*)`", line)
    return shlex.split(quoted[1] if quoted else line.strip().rpartition("videogpt-plus ")[2])


WAYS = {
    "usual": [],
    "control and limit": ["--control", "blind", "--limit", "1"],
    "copy": ["--benchmark", str(COPY)],
    "copy, control, limit": ["--control", "one_frame", "--limit", "1", "--benchmark", str(COPY)],
    "own": ["--task", f"mine={OWN}"],
    "own, blind": ["--task", f"mine={OWN}", "--control", "blind"],
    "open": ["--task", "toy_open", "--benchmark", str(OPEN), "--control", "blind"],
    "both": ["--scoring", "both", "--encoder-dtype", "float32"],
    "store": ["--store", "a store", "--store-dtype", "int8", "--control", "blind"],
}
FOR_ANSWERS_ALONE = {"--scoring", "--encoder-dtype", "--store", "--store-dtype"}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_missing_is_finished_by_the_command_in_the_line(way, capsys):
    """Once where nothing was answered, and once where some was."""
    given = WAYS[way]
    pairs = zip(given[::2], given[1::2], strict=True)
    which = [part for pair in pairs if pair[0] not in FOR_ANSWERS_ALONE for part in pair]
    scoring = ["judge", str(RUN), *which, "--judge-model", "lexical"] if way == "open" else ["score", str(RUN), *which]
    if which == given:
        line = message(capsys, *scoring)
        assert "answers are missing; finish them with: videogpt-plus answer" in line
        cli.main(pasted(line))
        cli.main(scoring)
    cli.main(["answer", str(RUN), *given, "--workers", "0"])
    (path,) = RUN.glob("answers*/answers.jsonl")
    whole = read_answers(path).keys()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    line = message(capsys, *scoring)
    assert f"1 of {len(whole)} answers are missing; finish them with: videogpt-plus answer" in line
    cli.main(pasted(line))
    assert "1 new" in " ".join(capsys.readouterr().out.split()) and read_answers(path).keys() == whole
    cli.main(scoring)


def test_the_report_of_an_incomplete_run_holds_the_command_that_finishes_it(capsys):
    cli.main(["answer", str(RUN), "--workers", "0"])
    path = RUN / "answers/answers.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    cli.main(pasted(message(capsys, "report", ".")))
    assert len(read_answers(path)) == 2


def test_an_empty_file_that_is_compared_is_filled_by_the_command_in_the_line(capsys):
    cli.main(["answer", str(RUN), "--benchmark", str(COPY), "--workers", "0"])
    (path,) = RUN.glob("answers*/answers.jsonl")
    path.write_text("")
    with pytest.raises(UserError, match="holds no answer yet; finish it with: ") as stop:
        read_run(path)
    cli.main(pasted(str(stop.value)))
    assert len(read_run(path).values) == 3


def test_open_answers_are_judged_by_the_commands_in_the_lines(capsys):
    which = ["--task", "toy_open", "--benchmark", str(OPEN), "--control", "blind"]
    cli.main(pasted(message(capsys, "score", RUN, *which)))
    (path,) = RUN.glob("answers*/answers.jsonl")
    with pytest.raises(UserError, match="nobody judged yet; judge them first with: ") as stop:
        read_run(path)
    line = message(capsys, "score", RUN, *which)
    assert "not judged yet; run `videogpt-plus judge" in line and pasted(line) == pasted(str(stop.value))
    cli.main(pasted(line))
    assert read_run(path).judged
    cli.main(["score", str(RUN), *which])
    # A ledger that lacks a judgement.
    file = path.with_name("judged.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    kind = BENCHMARKS["toy_open"]
    who = ledger.judge_of(JudgeConfig(judge_model="lexical"), kind)
    with pytest.raises(UserError, match="judgements are missing; finish them with: ") as stop:
        score_judged(path, "toy_open", kind, examples("toy_open", OPEN), who, file)
    cli.main(pasted(str(stop.value)))
    assert "scores.json" in {one.name for one in path.parent.iterdir()}


def test_the_report_names_the_command_that_judges_what_is_not_judged_yet(capsys):
    which = ["--task", "toy_open", "--benchmark", str(OPEN)]
    cli.main(["answer", str(RUN), *which, "--workers", "0"])
    cli.main(["report", "."])
    text = Path("report/sweep.md").read_text()
    command = re.search(r"\| (videogpt-plus judge .*) \|", text)[1]
    cli.main(shlex.split(command.replace("MODEL", "lexical"))[1:])
    cli.main(["report", "."])
    assert "not judged yet" not in Path("report/sweep.md").read_text()


def test_a_benchmark_of_options_is_counted_by_the_command_that_the_judge_names(capsys):
    which = ["--benchmark", str(COPY), "--control", "blind"]
    cli.main(["answer", str(RUN), *which])
    cli.main(pasted(message(capsys, "judge", RUN, "--task", "mvbench", *which, "--judge-model", "lexical")))
    assert "3 of 3 questions were answered" in capsys.readouterr().out


def test_all_that_is_wrong_with_a_benchmark_is_shown_by_the_command_in_the_line(capsys):
    broken = Path("broken 'bench'")
    write_bench(broken)
    (broken / "json/clip.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"\(1 more; all: ") as stop:
        load_benchmark(broken)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(pasted(str(stop.value).rstrip(")")))
    assert end.value.code == 1 and "wrong entries: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["qwen3b_pool4", "qwen1_5b_max_pool2", "qwen3b_pool1.5_seed7", "qwen1_5b_max_pool8_seed3", "qwen3b_seed9"]
)
def test_a_run_that_is_not_there_is_made_by_the_sweep_in_the_line(name, capsys):
    with pytest.raises(UserError, match=f"no trained '{name}' under results/; train it with ") as stop:
        named_runs([name])
    command = pasted(str(stop.value))
    assert command[0] == "sweep"
    cli.main([*command, "--dry-run"])
    made = name if "_pool" in name else get_experiment(name).name.replace("_seed", "_pool1_seed")
    assert f"videogpt-plus train {made} " in capsys.readouterr().out
