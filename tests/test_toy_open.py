"""The second toy benchmark: the same clips asked in free words, through the real commands from clip to table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from eval.answers.answer import read_answers
from eval.judge.lexical import found, lexical
from eval.tasks import benchmarks
from videogpt_plus.app import cli
from videogpt_plus.config.experiment import Lora
from videogpt_plus.config.experiment_file import save_experiment
from videogpt_plus.config.experiments import TOY, at_level
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.toy import world
from videogpt_plus.toy.open_questions import ensure_open_questions, open_questions
from videogpt_plus.toy.render import Recipe, ensure_toy_data

SMALL = Recipe(test_per_task=2, train_per_task=1, images=1, videos=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_experiment) -> Path:
    """A trained run of the tiny model, beside the toy's data."""
    from peft import get_peft_model_state_dict

    root = tmp_path_factory.mktemp("open")
    ensure_toy_data(root / "toy", SMALL)
    experiment = at_level(replace(tiny_experiment, benchmark_root=str(root / "toy/bench")), 16)
    torch.manual_seed(0)
    model = load_model(experiment, None, "cpu", torch.float32)
    model.add_lora(Lora(r=4, alpha=8, dropout=0.0))
    folder = root / experiment.name
    save_tensors(folder / "projectors.safetensors", model.projector_state())
    save_tensors(folder / "adapter_model.safetensors", get_peft_model_state_dict(model.llm))
    model.llm.peft_config["default"].save_pretrained(folder)
    save_experiment(folder, experiment)
    return folder


@pytest.fixture
def questions(run) -> Path:
    ensure_open_questions(run.parent / "toy", SMALL)
    return run.parent / "toy" / "open"


def test_the_questions_are_written_once_and_change_no_clip(run):
    data = run.parent / "toy"
    before = {p: sha256(p.read_bytes()).hexdigest() for p in data.rglob("*") if p.is_file() and "open" not in p.parts}
    shutil.rmtree(data / "open", ignore_errors=True)
    assert ensure_open_questions(data, SMALL) and not ensure_open_questions(data, SMALL)
    after = {p: sha256(p.read_bytes()).hexdigest() for p in data.rglob("*") if p.is_file() and "open" not in p.parts}
    assert before == after
    assert not ensure_toy_data(data, SMALL), "the toy's data would be rendered anew"


@pytest.mark.parametrize("text", ["", "[{", "\x00"])
def test_damaged_questions_are_written_again(text, tmp_path):
    assert ensure_open_questions(tmp_path, SMALL)
    path = tmp_path / "open" / "generic_qa.json"
    then = path.read_bytes()
    path.write_text(text)
    assert ensure_open_questions(tmp_path, SMALL) and path.read_bytes() == then


def test_every_question_has_a_clip_and_facts_that_its_own_answer_states(questions):
    examples = benchmarks.examples("toy_open", questions)
    assert {e.task for e in examples} == {"generic", "temporal", "consistency"}
    assert all(e.path.exists() and e.facts for e in examples)
    assert {e.kind for e in examples} == {"video", "frames"}
    assert all(lexical(e.facts, [e.answer]).score == 5 for e in examples)
    asked = open_questions(SMALL)["generic_qa.json"]
    tasks = [task for task in world.TASKS.values() if task.group != "temporal"]
    assert len(asked) == 2 * (len(tasks) - 1) + 2 * 2  # without the one that asks about a part; two described


@pytest.mark.parametrize(
    ("fact", "answer", "there"),
    [
        ("red", "It is RED.", True),
        ("red", "It is reddish.", False),
        ("leftward|left", "to the left", True),
        ("large object", "a large, object", True),
        ("a", "", False),
    ],
)
def test_a_fact_is_found_as_whole_words(fact, answer, there):
    assert found(fact, answer) is there


def test_the_score_is_the_share_of_the_facts_and_both_answers_must_hold_them():
    assert [lexical(["red", "cross"], [text]).score for text in ("a red cross", "red", "nothing")] == [5, 2, 0]
    assert lexical(["red"], ["red", "red, I think"]).score == 5
    assert lexical(["red"], ["red", "blue"]).score == 0


def test_the_whole_path_from_clips_to_the_table(run, questions, capsys):
    where = ["--task", "toy_open", "--benchmark", str(questions)]
    cli.main(["answer", str(run), *where, "--workers", "0"])
    (path,) = run.glob("answers_toy_open_of_*/answers.jsonl")
    assert path.parent.name == f"answers_toy_open_of_{benchmarks.copy_of('toy_open', '', questions)}"
    answers = read_answers(path)
    examples = benchmarks.examples("toy_open", questions)
    assert set(answers) == {e.key for e in examples}
    assert all(line["error"] is None and line["choice"] is line["correct"] is None for line in answers.values())
    assert {line["visual_tokens"] for line in answers.values()} == {2 * 8}
    capsys.readouterr()

    cli.main(["judge", str(run), *where, "--judge-model", "lexical", "--dry-run"])
    assert "judgements to make, nothing to pay" in capsys.readouterr().out
    assert not path.with_name("judged.jsonl").exists()
    cli.main(["judge", str(run), *where, "--judge-model", "lexical"])
    told = capsys.readouterr().out
    scores = json.loads(path.with_name("scores.json").read_text())
    asked = {e.key: e for e in examples}
    for aspect in ("correctness", "temporal"):
        right = {}
        for key, line in answers.items():
            if asked[key].task == {"correctness": "generic"}.get(aspect, aspect):
                right[f"{key}/{aspect}"] = lexical(asked[key].facts, [line["reply"]]).score
        assert scores["aspects"][aspect]["scores"] == right
    assert scores["aspects"].keys() == {"correctness", "detail", "context", "temporal", "consistency"}
    assert scores["judge"]["comparable"] is False and "comparable with nothing" in " ".join(told.split())

    cli.main(["judge", str(run), *where, "--judge-model", "lexical"])
    assert "0 new" in capsys.readouterr().out
    cli.main(["score", str(run), *where])
    assert "consistency" in capsys.readouterr().out


def test_facts_that_are_said_are_points(run, questions, capsys):
    where = ["--task", "toy_open", "--benchmark", str(questions), "--limit", "1"]
    cli.main(["answer", str(run), *where, "--workers", "0"])
    (path,) = run.glob("answers_toy_open_of_*-????????_first1/answers.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4  # one generic, one temporal, the two of one consistency entry
    truth = {e.key: e.answer for e in benchmarks.examples("toy_open", questions, 1)}
    path.write_text("".join(json.dumps({**line, "reply": truth[line["key"]]}) + "\n" for line in lines))
    cli.main(["judge", str(run), *where, "--judge-model", "lexical"])
    scores = json.loads((path.parent / "scores.json").read_text())
    assert {aspect: row["mean"] for aspect, row in scores["aspects"].items()} == dict.fromkeys(scores["aspects"], 5.0)
    capsys.readouterr()


@pytest.mark.parametrize("control", ["blind", "one_frame"])
def test_controls_work_on_open_questions(run, questions, control):
    where = ["--task", "toy_open", "--benchmark", str(questions), "--limit", "1", "--control", control]
    cli.main(["answer", str(run), *where, "--workers", "0"])
    (path,) = run.glob(f"answers_toy_open_of_*_{control}_first1/answers.jsonl")
    lines = read_answers(path)
    assert {line["control"] for line in lines.values()} == {control}
    assert {line["visual_tokens"] for line in lines.values()} == {0 if control == "blind" else 16}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["answer", "--task", "toy_opn"], "unknown benchmark 'toy_opn'; choose from: mvbench, vcgbench"),
        (["answer", "--task", "toy_open", "--scoring", "logprob"], "--scoring logprob needs options"),
        (
            ["judge", "--task", "mvbench", "--judge-model", "lexical"],
            "{run} --benchmark {questions}` counts the right ones",
        ),
        (
            ["judge", "--task", "toy_rwf2000", "--judge-model", "lexical", "--control", "blind", "--limit", "2"],
            "toy_rwf2000 has options and needs no judge: `videogpt-plus score {run} --task toy_rwf2000 --control blind "
            "--limit 2 --benchmark {questions}`",
        ),
        (
            ["judge", "--task", "toy_open", "--judge-model", "lexical", "--limit", "2"],
            "answers are missing; finish them",
        ),
        (["score", "--task", "toy_open", "--control", "shuffled"], "not judged yet; run `videogpt-plus answer"),
        (["export", "OUT", "--task", "toy_open", "--limit", "2"], "answers are missing"),
    ],
)
def test_what_the_user_can_mend_is_one_line(run, questions, args, said, capsys):
    command, *rest = args
    more = ["--benchmark", str(questions)] if command != "score" else []
    with pytest.raises(SystemExit) as stop:
        cli.main([command, str(run), *rest, *more])
    error = capsys.readouterr().err
    said = said.format(run=run, questions=questions)
    assert stop.value.code == 2 and said in error and error.count("\n") == 1, error


def test_the_key_is_asked_for_only_when_there_is_somebody_to_call(run, questions, monkeypatch, capsys):
    where = ["--task", "toy_open", "--benchmark", str(questions), "--limit", "1"]
    cli.main(["answer", str(run), *where, "--control", "blind", "--workers", "0"])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["judge", str(run), *where, "--control", "blind", "--judge-model", "gpt", "--rate", "30"])
    told = capsys.readouterr()
    assert stop.value.code == 2 and "OPENAI_API_KEY is not set" in told.err
    assert "5 calls to api.openai.com" in told.out and "cost unknown without" in told.out
    price = ["--price-in", "100", "--price-out", "100", "--max-cost", "0.01"]
    with pytest.raises(SystemExit):
        cli.main(["judge", str(run), *where, "--control", "blind", "--judge-model", "gpt", *price])
    assert "is more than --max-cost 0.01: nothing was sent" in capsys.readouterr().err


def test_the_toys_own_open_questions_lie_where_the_command_looks_for_them():
    root = Path(benchmarks.BENCHMARKS["toy_open"].root)
    assert root.parent == Path(TOY.benchmark_root).parent
