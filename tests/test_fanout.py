"""Models that are asked together give the answers that each gives alone, from one decoding and one encoding a clip."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from feeding_jobs import HangsAt

from eval.answers.answer import read_answers
from eval.answers.runs import answer_runs, examples_of
from videogpt_plus import inference
from videogpt_plus.clips.prefetch import Preparation, shuffled
from videogpt_plus.config.experiment import Lora, with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import at_level
from videogpt_plus.config.options import EvalConfig
from videogpt_plus.io.tensors import save_tensors
from videogpt_plus.models.loading import load_model
from videogpt_plus.toy.render import Recipe, ensure_toy_data
from videogpt_plus.types import CONTROLS, Question

LEVELS = (1, 4, 16)
TIMES = ("seconds", "seconds_encode", "seconds_first")
HERE = EvalConfig(workers=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_experiment) -> dict[int, Path]:
    """Run folders of three levels, each with a LoRA and projectors that do something."""
    from peft import get_peft_model_state_dict

    root = tmp_path_factory.mktemp("fanout")
    ensure_toy_data(root / "toy", Recipe(test_per_task=3, train_per_task=1, images=1, videos=1))
    base = with_settings(tiny_experiment, {"benchmark_root": str(root / "toy/bench"), "prompting.max_new_tokens": 3})
    folders = {}
    for level in LEVELS:
        experiment = at_level(base, level)
        torch.manual_seed(level)
        model = load_model(experiment, None, "cpu", torch.float32)
        model.add_lora(Lora(r=4, alpha=8, dropout=0.0))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
        folder = folders[level] = root / experiment.name
        save_tensors(folder / "projectors.safetensors", model.projector_state())
        save_tensors(folder / "adapter_model.safetensors", get_peft_model_state_dict(model.llm))
        model.llm.peft_config["default"].save_pretrained(folder)
        save_experiment(folder, experiment)
    return folders


def asked(runs, tmp_path: Path, eval_config: EvalConfig = HERE, **how) -> dict[str, dict]:
    """Each run's lines by key, without their times."""
    paths = {run: tmp_path / run.name / "answers.jsonl" for run in runs}
    answer_runs(paths, eval_config=eval_config, **how)
    found = {run.name: read_answers(path) for run, path in paths.items()}
    return {
        name: {key: {k: v for k, v in line.items() if k not in TIMES} for key, line in lines.items()}
        for name, lines in found.items()
    }


@pytest.mark.parametrize("control", [None, *CONTROLS])
def test_answers_together_are_those_of_each_level_alone(runs, tmp_path, control):
    both = replace(HERE, scoring="both")
    together = asked(runs.values(), tmp_path / "together", both, control=control)
    for run in runs.values():
        assert asked([run], tmp_path / "alone", both, control=control)[run.name] == together[run.name]
    replies = {name: [line["reply"] for line in lines.values()] for name, lines in together.items()}
    assert len(set(map(tuple, replies.values()))) == len(LEVELS), "levels that answer alike would hide a mix-up"


def test_a_clip_is_encoded_once_for_all_models_and_questions(runs):
    answerer = inference.load({run.name: run for run in runs.values()}, HERE)
    counted, encoder = Counter(), next(iter(answerer.members.values())).model.encoders["image"]
    encoder.register_forward_hook(lambda module, args, out: counted.update(frames=len(args[0])))
    examples = examples_of(next(iter(answerer.members.values())).experiment.benchmark_root)
    again = [replace(example, question=f"{example.question} Really?") for example in examples]
    questions = [Question(example, tuple(answerer.members)) for example in (*examples, *again)]
    outcomes = dict(answerer.answers(questions, None))
    assert outcomes.keys() == set(questions)
    assert counted["frames"] == len({(e.path, e.start, e.end) for e in examples}) == len(examples)


def test_shuffled_frames_are_those_of_the_clip_and_each_question_has_its_order(runs):
    """A projector on frames one by one, averaged: without order nothing is left for shuffling to change."""
    answerer = inference.load({"it": runs[4]}, HERE)
    examples = examples_of(answerer.members["it"].experiment.benchmark_root)[:3]
    again = [replace(example, question=f"{example.question} Really?") for example in examples]
    encoded, encode = [], answerer.encode

    def recording(visuals):
        encoded.extend(visual.pixels["image"] for visual in visuals)
        return encode(visuals)

    answerer.encode = recording
    questions = [Question(example, ("it",)) for example in (*examples, *again)]
    shown = {}
    for control in (None, "shuffled", "shuffled"):
        encoded.clear()
        replies = dict(answerer.answers(questions, control))
        assert replies.keys() == set(questions)
        shown.setdefault(control, []).append((list(encoded), [r["it"].text for r in replies.values()]))
    ((clips, _),), (first, second) = shown[None], shown["shuffled"]
    assert len(clips) == 3 and len(first[0]) == 6, "each question has an order of its own"
    assert first[1] == second[1] and all(a.equal(b) for a, b in zip(*(run[0] for run in (first, second)), strict=True))
    for i, mixed in enumerate(first[0]):
        clip = clips[i % 3]
        key = int(questions[i].example.key, 16)
        assert mixed.equal(clip[shuffled(len(clip), key)]) and not mixed.equal(clip)
        assert sorted(frame.sum().item() for frame in mixed) == sorted(frame.sum().item() for frame in clip)


def test_models_share_their_llm_and_encoders(runs):
    models = [m.model for m in inference.load({run.name: run for run in runs.values()}, HERE).members.values()]
    assert len({id(model.causal) for model in models}) == 1
    assert len({id(encoder) for model in models for encoder in model.encoders.values()}) == 2
    assert not any(p.requires_grad for model in models for p in model.parameters())


@pytest.mark.parametrize(
    "eval_config", [replace(HERE, batch_size=4), replace(HERE, batch_size=7), EvalConfig(workers=2)]
)
def test_answers_do_not_depend_on_batches_or_workers(runs, tmp_path, eval_config):
    few = [runs[4], runs[16]]
    assert asked(few, tmp_path / "one", HERE) == asked(few, tmp_path / "other", eval_config)


def test_a_resumed_run_asks_each_model_only_what_it_lacks(runs, tmp_path):
    straight = asked(runs.values(), tmp_path / "straight")
    asked([runs[4]], tmp_path / "resumed", limit=1)
    path = tmp_path / "resumed" / runs[4].name / "answers.jsonl"
    path.with_suffix(".meta.json").unlink()
    path.unlink()
    asked([runs[4]], tmp_path / "resumed")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:11]))
    assert asked(runs.values(), tmp_path / "resumed") == straight
    assert path.read_text().startswith("".join(lines[:11]))


def test_the_most_likely_option_decides_under_logprob(runs, tmp_path):
    lines = asked([runs[4]], tmp_path, replace(HERE, scoring="logprob"))[runs[4].name].values()
    assert all(line["choice"] == line["logprob_choice"] and line["logprob_margin"] >= 0 for line in lines)
    assert all(line["reply"] == f"({line['choice']})" for line in lines)


def test_a_clip_that_hangs_costs_its_limit_and_is_a_line_with_its_error(runs, tmp_path, monkeypatch):
    undisturbed = asked([runs[16]], tmp_path / "undisturbed")[runs[16].name]
    hangs = examples_of(load_experiment(runs[16]).benchmark_root)[3]
    monkeypatch.setattr(inference, "Preparation", lambda *of: HangsAt(Preparation(*of), hangs.path.name))
    lines = asked([runs[16]], tmp_path / "hanging", EvalConfig(workers=2, clip_seconds=4))[runs[16].name]
    lost = {key for key, line in lines.items() if line["error"]}
    assert lost == {key for key, line in lines.items() if Path(line["video"]).name == hangs.path.name} >= {hangs.key}
    assert "not decoded within 4 s" in lines[hangs.key]["error"] and lines[hangs.key]["reply"] is None
    assert {k: v for k, v in lines.items() if k not in lost} == {k: v for k, v in undisturbed.items() if k not in lost}


def test_the_store_s_size_is_said_before_and_its_error_after(runs, tmp_path):
    told, store = [], replace(HERE, store=tmp_path / "store", store_dtype="int8")
    asked([runs[16]], tmp_path / "first", store, say=told.append)
    asked([runs[4]], tmp_path / "second", store, say=told.append)
    asked([runs[4]], tmp_path / "second", store, say=told.append)  # nothing is left to ask
    before, lost, again = told
    clips = len({(e.path, e.start, e.end) for e in examples_of(load_experiment(runs[16]).benchmark_root)})
    assert f"grid store: {clips} clips x " in before and "; 0 of this kind are there already" in before
    assert "kept as int8 differs from the encoders' grids by image 0." in lost and " %, video 0." in lost
    assert f"; {clips} of this kind are there already" in again


def test_a_cold_and_a_warm_store_and_none_in_float32_give_the_same_answers(runs, tmp_path):
    stored = replace(HERE, store=tmp_path / "store", store_dtype="float32")
    cold = asked(runs.values(), tmp_path / "cold", stored)
    entries = sorted((tmp_path / "store").rglob("*.safetensors"))
    warm = asked(runs.values(), tmp_path / "warm", stored)
    assert entries == sorted((tmp_path / "store").rglob("*.safetensors")) and entries
    assert cold == warm == asked(runs.values(), tmp_path / "none", HERE)
