"""RWF-2000 by CogVLM2-Video: from folders of clips to a file, a LoRA on a tiny twin, its answers and their scores."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
import torch
from accelerate import PartialState
from clips import coded_frames, render_mp4
from safetensors.torch import load_file
from test_cogvlm2_sampling import codes
from test_train import files_of, log_of
from train_worker import Job

from eval.answers.answer import read_answers
from eval.statistics.estimates import wilson
from eval.tasks.benchmarks import examples as questions_of
from eval.tasks.binary_labels import LABELS, LabelExample, confusion, f1, label_scores, load_rwf2000, parse_label
from videogpt_plus.app import cli
from videogpt_plus.clips.video import read_clip
from videogpt_plus.config import mixtures
from videogpt_plus.config.experiment import Lora, Sampling, with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import (
    COGVLM2_RWF_CONSISTENT,
    COGVLM2_RWF_REFERENCE,
    COGVLM2_VIDEO,
    EXPERIMENTS,
    TOY_RWF,
    get_experiment,
)
from videogpt_plus.families.cogvlm2 import weights
from videogpt_plus.families.cogvlm2.decoder import CogVLM2LM
from videogpt_plus.families.cogvlm2.lora import TARGETS, split
from videogpt_plus.io.runs import QUESTION
from videogpt_plus.models.loading import load_model
from videogpt_plus.toy.rwf2000 import Recipe, ensure_rwf2000
from videogpt_plus.training import data, rwf2000, stages
from videogpt_plus.training.engine import Engine
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError

pytestmark = pytest.mark.usefixtures("quick_pictures")

WORKER = Path(__file__).with_name("train_worker.py")
LONG = "a_very_long_name_of_a_clip_from_a_camera_" * 3
SMALL = Recipe(train=3, val=2)


def touch(root: Path, *names: str) -> Path:
    """Empty files, for calls that read no clip; every folder of RWF-2000 is there."""
    for split_name in rwf2000.SPLITS:
        for label in rwf2000.LABELS:
            (root / split_name / label).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def written(file: Path) -> list[dict]:
    return json.loads(file.read_text(encoding="utf-8"))


def paths_in(file: Path) -> list[str]:
    return [rwf2000.parse(item).path for item in written(file)]


# ------------------------------------------------------------------------------------------------ the file
def test_the_file_has_the_published_schema(tmp_path):
    root = touch(tmp_path / "RWF", "train/Fight/x.avi")
    rwf2000.write(root, tmp_path / "train.json", decode=False)
    asked = (
        f"<|reserved_special_token_3|>{root}/train/Fight/x.avi<|reserved_special_token_4|>"
        "判断视频中是否包含暴力内容，输出1为包含暴力内容，输出0为不包含暴力内容。"
    )
    told = {"from": "assistant", "value": "1"}
    expected = [{"id": "x.avi", "conversations": [{"from": "user", "value": asked}, told]}]
    assert (tmp_path / "train.json").read_text(encoding="utf-8") == (
        json.dumps(expected, indent=2, ensure_ascii=False) + "\n"
    )


def test_long_names_and_roots_with_val_in_them_lose_nothing(tmp_path):
    root = touch(
        tmp_path / "evaluation" / "val" / LONG / "RWF",
        *(f"{s}/{label}/{LONG}_{i}.avi" for s in rwf2000.SPLITS for label in rwf2000.LABELS for i in range(3)),
        "train/Fight/interval.avi",
    )
    done = rwf2000.write(root, tmp_path / "train.json", decode=False)
    assert done.clips == {("train", "Fight"): 4, ("train", "NonFight"): 3}
    assert {Path(path).parts[-3] for path in paths_in(tmp_path / "train.json")} == {"train"}
    assert sum(rwf2000.write(root, tmp_path / "val.json", "val", decode=False).clips.values()) == 6
    assert sum(rwf2000.write(root, tmp_path / "all.json", "all", decode=False).clips.values()) == 13


def test_the_order_is_shuffled_and_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    root = touch(tmp_path / "RWF", *(f"train/{label}/{i}.avi" for label in rwf2000.LABELS for i in range(9)))
    rwf2000.write(root, tmp_path / "one.json", decode=False)
    usual = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(usual(self))))
    rwf2000.write(root, tmp_path / "two.json", decode=False)
    paths = paths_in(tmp_path / "one.json")
    assert paths == paths_in(tmp_path / "two.json") != sorted(paths)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """RWF-2000's folders with one whole clip each, a damaged one each, and files that are no clips."""
    root = touch(tmp_path_factory.mktemp("clips"))
    for split_name in rwf2000.SPLITS:
        for label in rwf2000.LABELS:
            folder = root / split_name / label
            render_mp4(folder / "whole.avi", coded_frames(6), 6)
            (folder / "damaged.avi").write_bytes(b"no video")
            (folder / "._whole.avi").write_bytes(b"what an archive brings along")
    (root / "train" / "Fight" / "notes.txt").touch()
    return root


def test_what_cannot_be_read_is_told_and_never_lost_from_val(clips, tmp_path):
    done = rwf2000.write(clips, tmp_path / "all.json", "all", workers=0)
    assert done.clips == {
        ("train", "Fight"): 1, ("train", "NonFight"): 1, ("val", "Fight"): 2, ("val", "NonFight"): 2,
    }  # fmt: skip
    assert len(done.unreadable) == 4 and "damaged.avi: the file is damaged" in str(done.unreadable[0])
    assert sorted(path.name for path in done.others) == ["._whole.avi"] * 4 + ["notes.txt"]


def test_counts_are_printed(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["data", "rwf2000", "--data-dir", str(clips), "--output", "train.json", "--workers", "0"])
    told = capsys.readouterr().out
    assert "train/Fight: 1 clips\ntrain/NonFight: 1 clips\n3 files are no videos" in told
    assert "2 cannot be read; of train they were left out" in told and told.endswith("2 clips: train.json\n")


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (lambda root: None, {}, "no clip of split 'train' in .*: there is no video among 0 files"),
        (lambda root: shutil.rmtree(root / "val"), {"split": "all"}, "val/Fight is not there"),
        (lambda root: None, {"split": "test"}, "unknown split 'test' of RWF-2000; choose from: train, val, all"),
        (lambda root: None, {"language": "de"}, "unknown language 'de'"),
        (lambda root: touch(root, "val/Fight/a.avi"), {"split": "all", "workers": 0}, "none of 1 can be read, first: "),
    ],
)
def test_an_empty_result_is_an_error(change, arguments, told, tmp_path):
    change(touch(tmp_path / "RWF"))
    with pytest.raises(UserError, match=told):
        rwf2000.write(tmp_path / "RWF", tmp_path / "out.json", **arguments)
    assert not (tmp_path / "out.json").exists()


def test_relative_paths_may_be_moved_and_others_are_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(Path("old/RWF"), "train/Fight/x.avi")
    rwf2000.write("old/RWF", "old/moving.json", relative_paths=True, decode=False)
    rwf2000.write("old/RWF", "fixed.json", decode=False)
    assert paths_in(Path("old/moving.json")) == ["RWF/train/Fight/x.avi"]
    assert data.read_annotations("fixed.json", "nowhere")[0].media == [("video", "old/RWF/train/Fight/x.avi")]
    Path("old").rename("new")
    assert data.read_annotations("new/moving.json", "nowhere")[0].media == [("video", "new/RWF/train/Fight/x.avi")]


@pytest.mark.parametrize(
    ("frames", "average", "each_second"),
    [(3, [0, 0, 0, 0, 1, 1, 1, 2], [0]), (50, [0, 7, 14, 21, 28, 35, 42, 49], [0, 10, 20, 30, 40, 49])],
)
def test_short_clips_by_the_rules_of_both_presets(frames, average, each_second, tmp_path):
    """Of 0.3 s and of 5 s, as RWF-2000's are."""
    clip = render_mp4(tmp_path / "clip.mp4", coded_frames(frames), 10)
    assert codes(read_clip(clip, 8, sampling="average")) == average
    assert codes(read_clip(clip, 8, sampling="each_second")) == each_second


def test_the_average_rule_does_not_end_after_a_minute(tmp_path):
    clip = render_mp4(tmp_path / "clip.mp4", coded_frames(90), 1)
    last = {rule: codes(read_clip(clip, 24, sampling=rule))[-1] for rule in ("average", "even", "each_second")}
    assert last == {"average": 89, "even": 59, "each_second": 23}


# ------------------------------------------------------------------------------------------------ presets
def test_the_reference_preset_is_the_published_recipe():
    reference = COGVLM2_RWF_REFERENCE
    t = reference.training
    assert (reference.lora.r, reference.lora.alpha, reference.lora.dropout) == (8, 32, 0.05)
    assert (t.learning_rate, t.warmup_ratio, t.weight_decay, t.adam_beta2) == (1e-4, 0.05, 0.1, 0.95)
    assert (t.num_train_epochs, t.per_device_train_batch_size, t.gradient_accumulation_steps) == (3, 1, 1)
    assert (t.lr_scheduler_type, t.seed, reference.prompting.template) == ("cosine", 0, "cogvlm2_chat")
    assert reference.sampling == Sampling(24, "average", "crop")


def test_the_consistent_preset_sees_and_reads_as_the_published_model_predicts():
    consistent = COGVLM2_RWF_CONSISTENT
    shown = ("branches", "sampling", "prompting")
    assert all(getattr(consistent, part) == getattr(COGVLM2_VIDEO, part) for part in shown)
    assert consistent.source == COGVLM2_RWF_REFERENCE.source


def test_the_full_size_lora_has_as_many_weights_as_the_published_one():
    from peft import LoraConfig, get_peft_model
    from test_cogvlm2 import PUBLISHED

    with torch.device("meta"):
        llm = CogVLM2LM(weights.llama_config(PUBLISHED), experts=False).requires_grad_(False)
        split(llm)
        lora = COGVLM2_RWF_REFERENCE.lora
        config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=TARGETS)
        wrapped = get_peft_model(llm, config, low_cpu_mem_usage=True)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == 20_971_520


# ------------------------------------------------------------------------------------------------ training
@pytest.fixture(scope="module", autouse=True)
def room(tmp_path_factory):
    """A working folder with the toy's RWF-2000 in it, small; the tiny twin's weights come on demand."""
    folder = tmp_path_factory.mktemp("room")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("videogpt_plus.toy.rwf2000.ensure_rwf2000.__defaults__", (SMALL, None))
        ensure_rwf2000(Path(".cache/toy/rwf2000"), SMALL)
        yield folder
    torch.set_num_threads(threads)


def tiny(experiment=TOY_RWF, **changes: object):
    """Six steps, with a checkpoint every two."""
    few = {"per_device_train_batch_size": 3, "num_train_epochs": 3, "save_steps": 2, **changes}
    return with_settings(
        experiment, {"source.finetune": replace(experiment.training, **few), "prompting.max_new_tokens": 4}
    )


@pytest.fixture(scope="module")
def tuned(room) -> Path:
    """The run folder of the toy, trained by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "toy_rwf", tiny())
        cli.main(["train", "toy_rwf", "--dataloader-num-workers", "0"])
    return room / "results/toy_rwf"


def test_the_lora_of_the_language_model_trains_and_nothing_else(tuned):
    header, *steps = log_of(tuned)
    assert header["samples"] == 6 and len(steps) == 6
    assert steps[-1]["loss"] < steps[0]["loss"]
    parts = {name.split(".lora_")[0].split(".layers.")[1].partition(".")[2] for name in header["trains"]}
    qkv = {f"self_attn.language_expert_query_key_value.{part}_proj" for part in "qkv"}
    mlp = {f"mlp.language_mlp.{part}_proj" for part in ("gate", "up", "down")}
    assert parts == qkv | mlp | {"self_attn.language_expert_dense"}
    assert all(name.startswith("llm.") for name in header["trains"])
    assert header["frozen"].keys() == {"llm", "encoders.video", "projectors"}
    assert load_file(tuned / "projectors.safetensors") == {}  # published, and left as they are
    assert load_experiment(tuned) == tiny()
    assert "(the LoRA adapter), the experiment" in (tuned / "README.md").read_text()


def test_a_sample_is_the_clip_the_question_and_a_supervised_label(tuned):
    experiment = load_experiment(tuned)
    model = load_model(experiment, tuned, "cpu", torch.float32)
    for chosen, numbers in ((experiment, "0123"), (with_settings(experiment, AS_PUBLISHED), "")):
        samples = data.Conversations(with_settings(chosen, {"sampling.num_frames": 4}), model.tokenizer, "unused")
        sample, item = samples[0], rwf2000.parse(written(Path(".cache/toy/rwf2000/train.json"))[0])
        ids, labels = sample["input_ids"], sample["labels"]
        text = model.tokenizer.decode([i for i in ids if i != PLACEHOLDER])
        assert text == f"<|begin_of_text|>{numbers}Question: {item.question} Answer:{item.answer}<|end_of_text|>"
        assert ids[0] == model.tokenizer.bos_token_id and ids.count(PLACEHOLDER) == 4
        assert (ids[1:5] == [PLACEHOLDER] * 4) == (not numbers)  # one run of frames, or each before its number
        supervised = [label for label in labels if label != IGNORE]
        assert model.tokenizer.decode(supervised) == f"{item.answer}<|end_of_text|>" and len(supervised) == 2
        assert labels[-2:] == supervised


AS_PUBLISHED = {"prompting.template": COGVLM2_RWF_REFERENCE.prompting.template}


def test_each_of_q_k_and_v_learns_what_its_rows_of_the_fused_layer_would(tuned):
    """The gradient of B, which begins at zero, is that of the fused weight's rows times A, times the scale."""
    experiment = tiny()
    lora = Lora(r=4, alpha=8, dropout=0.0)
    samples, gradients = None, {}
    for wrapped in (False, True):
        model = load_model(experiment, None, "cpu", torch.float32)
        if samples is None:
            dataset = data.Conversations(
                with_settings(experiment, {"sampling.num_frames": 4}), model.tokenizer, "unused"
            )
            samples = data.collate([dataset[0], dataset[1]], pad_id=0)
        torch.manual_seed(0)
        if wrapped:
            model.add_lora(lora)
        else:
            model.llm.requires_grad_(True)
        model(**samples, loss_only=True).loss.backward()
        gradients[wrapped] = dict(model.llm.named_parameters())
    key = "model.layers.1.self_attn.language_expert_query_key_value"
    rows = gradients[False][f"{key}.weight"].grad.split([64, 32, 32])
    for part, row in zip("qkv", rows, strict=True):
        a, b = (gradients[True][f"base_model.model.{key}.{part}_proj.lora_{x}.default.weight"] for x in "AB")
        torch.testing.assert_close(b.grad, lora.alpha / lora.r * row @ a.T)


def test_the_second_moments_memory_is_the_recipes():
    engine = Engine(torch.nn.Linear(2, 2), stages.update_of(tiny().training, 1), PartialState(cpu=True))
    assert engine.optimizer.defaults["betas"] == (0.9, 0.95)


DEATHS = ("running", "saving")


@pytest.fixture(scope="module")
def killed(tuned, tmp_path_factory) -> dict[str, dict]:
    """The toy's training, killed at each of DEATHS, with the arguments to go on with."""
    root = tmp_path_factory.mktemp("killed")
    given = {d: {"experiment": tiny(), "projectors": {}, "out_dir": root / d, "workers": 0} for d in DEATHS}
    (root / "jobs").write_bytes(pickle.dumps([Job("finetune", given[d], root, d) for d in DEATHS]))
    fork_server.run([sys.executable, WORKER, root / "jobs"], check=True, timeout=300)
    return given


@pytest.mark.parametrize("dies", DEATHS)
def test_a_killed_training_ends_as_a_straight_one(dies, killed, tuned):
    folder = killed[dies]["out_dir"]
    assert not (folder / "projectors.safetensors").exists()
    stages.finetune(**killed[dies])
    assert log_of(folder) == log_of(tuned)
    ours, straight = files_of(folder), {n: c for n, c in files_of(tuned).items() if "answers" not in n}
    assert ours.keys() == straight.keys()
    assert [name for name in straight if ours[name] != straight[name]] == []


def test_checkpointing_the_language_model_changes_no_loss(tuned, tmp_path):
    stages.finetune(tiny(gradient_checkpointing=True, max_steps=1), {}, tmp_path, workers=0)
    assert log_of(tmp_path)[1]["loss"] == pytest.approx(log_of(tuned)[1]["loss"], rel=1e-6)


def test_in_bfloat16_the_lora_stays_in_float32(tuned, tmp_path):
    stages.finetune(tiny(bf16=True, max_steps=1), {}, tmp_path, workers=0)
    assert {value.dtype for value in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    assert log_of(tmp_path)[1]["loss"] == pytest.approx(log_of(tuned)[1]["loss"], rel=0.05)


# ------------------------------------------------------------------------------------------------ asking
def answered(run: Path, *more: str) -> dict[str, dict]:
    cli.main(["answer", str(run), "--task", "toy_rwf2000", "--workers", "0", "--batch-size", "4", *more])
    return read_answers(run / "answers_toy_rwf2000/answers.jsonl")


def copied(run: Path, folder: Path) -> Path:
    """The run without its answers."""
    return shutil.copytree(run, folder, ignore=shutil.ignore_patterns("answers*", "checkpoint-*"))


def test_answers_go_on_and_become_accuracy_f1_and_confusion(tuned, tmp_path, capsys):
    run = copied(tuned, tmp_path / "run")
    lines = answered(run, "--scoring", "both")
    assert len(lines) == 4 and all(line["error"] is None for line in lines.values())
    file = run / "answers_toy_rwf2000/answers.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]) + b'{"key": "torn')
    capsys.readouterr()
    assert answered(run, "--scoring", "both").keys() == lines.keys()
    assert "1 new, 3 kept, 0 with an error; 13 bytes of a half-written line" in capsys.readouterr().out
    cli.main(["score", str(run), "--task", "toy_rwf2000"])
    told = capsys.readouterr().out
    assert "what was said" in told and "the label of higher probability" in told and "f1" in told
    assert "4 questions are too few for a paired test with another run to show any difference" in told
    scores = json.loads((run / "answers_toy_rwf2000/scores.json").read_text())
    for kind in ("said", "likelier"):
        table = scores["labels"][kind]["confusion"]
        assert {label: sum(row.values()) for label, row in table.items()} == {"0": 2, "1": 2}
    right = sum(scores["labels"]["said"]["confusion"][label][label] for label in LABELS)
    assert scores["labels"]["said"]["accuracy"] == pytest.approx([right / 4, *wilson(right, 4)[1:]])
    assert scores["overall"]["micro"]["accuracy"] == right / 4


@torch.inference_mode()
def test_the_labels_probabilities_are_those_of_the_next_token(tuned, tmp_path):
    run = copied(tuned, tmp_path / "run")
    lines = answered(run, "--scoring", "logprob")
    model = load_model(load_experiment(run), run, "cpu", torch.float32)
    (example, *_) = questions_of("toy_rwf2000", Path(".cache/toy/rwf2000"))
    from videogpt_plus.clips.prefetch import Preparation
    from videogpt_plus.text import chat

    experiment = load_experiment(run)
    visual = Preparation(experiment.branches, experiment.sampling)(example.path)
    template = experiment.prompting.template
    ids = torch.tensor([chat.encode_prompt(model.tokenizer, example.prompt, [visual.placeholders], template)])
    logits = model(ids, torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE), [[visual]]).logits[0, -1]
    zero, one = (logits.log_softmax(-1)[model.tokenizer.convert_tokens_to_ids(label)] for label in "01")
    line = lines[example.key]
    assert line["reply"] == ("1" if one > zero else "0") == LABELS["AB".index(line["logprob_choice"])]
    assert line["logprob_margin"] == pytest.approx(abs(one - zero).item(), abs=1e-3)
    assert line["choice"] == line["logprob_choice"]


def test_runs_with_a_lora_each_share_one_language_model(tuned, tmp_path):
    runs = [copied(tuned, tmp_path / f"run{i}") for i in range(2)]
    coarse = with_settings(load_experiment(runs[1]), {"reducer.level": 2, "name": "toy_rwf_pool2"})
    save_experiment(runs[1], coarse)
    state = load_file(runs[1] / "adapter_model.safetensors")
    from videogpt_plus.io.tensors import save_tensors

    save_tensors(runs[1] / "adapter_model.safetensors", {name: value + 0.05 for name, value in state.items()})
    asked = ["--task", "toy_rwf2000", "--workers", "0", "--scoring", "both"]
    cli.main(["answer", *map(str, runs), *asked])
    together = [read_answers(run / "answers_toy_rwf2000/answers.jsonl") for run in runs]
    for run, found in zip(runs, together, strict=True):
        shutil.rmtree(run / "answers_toy_rwf2000")
        cli.main(["answer", str(run), *asked])
        alone = read_answers(run / "answers_toy_rwf2000/answers.jsonl")
        for key, line in alone.items():
            assert (line["reply"], line["visual_tokens"]) == (found[key]["reply"], found[key]["visual_tokens"])
            assert line["logprob_margin"] == pytest.approx(found[key]["logprob_margin"], abs=2e-3)
    margins = [[line["logprob_margin"] for line in found.values()] for found in together]
    assert margins[0] != margins[1]


def test_a_run_asks_what_it_was_taught_and_says_so_when_a_benchmark_asks_otherwise(tuned, tmp_path, capsys):
    clip = next(Path(".cache/toy/rwf2000/val/Fight").iterdir())
    assert (tuned / QUESTION).read_text() == rwf2000.QUESTIONS["en"]
    cli.main(["predict", str(tuned), "--video", str(clip)])
    shown = capsys.readouterr()
    assert f"asked as in training: {rwf2000.QUESTIONS['en']}" in shown.err
    cli.main(["predict", str(tuned), rwf2000.QUESTIONS["en"], "--video", str(clip)])
    assert capsys.readouterr().out == shown.out
    run, root = copied(tuned, tmp_path / "run"), Path(".cache/toy/rwf2000")
    rwf2000.write(root, tmp_path / "val.json", "val", "zh", decode=False)
    answered(run, "--benchmark", str(tmp_path))
    assert "is asked otherwise, such as '判断视频中" in capsys.readouterr().out


def test_a_sweep_over_levels_trains_a_lora_at_each_and_reports_them(room, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "toy_rwf", tiny(max_steps=1))
    command = ["sweep", "toy_rwf", "--levels", "1", "2", "--benchmarks", "toy_rwf2000", "--controls", "blind"]
    cli.main([*command, "--name", "rwf", "--workers", "0", "--dry-run"])
    told = capsys.readouterr().out
    assert "train toy_rwf_pool1 --output-dir" in told and "register" not in told and "pretrain" not in told
    cli.main([*command, "--name", "rwf", "--workers", "0"])
    rows = (room / "results/rwf/report/sweep.csv").read_text()
    assert "toy_rwf_pool1" in rows and "toy_rwf_pool2" in rows and "blind" in rows
    capsys.readouterr()
    cli.main([*command, "--name", "rwf", "--workers", "0"])
    assert capsys.readouterr().out.count("finished before") == 4  # both levels are answered together
    file = room / ".cache/toy/rwf2000/val.json"
    kept = file.read_text()
    file.write_text(kept.replace("Judge", "Tell"))  # other questions: the trainings stay, the answers are made anew
    cli.main([*command, "--name", "rwf", "--workers", "0", "--dry-run"])
    file.write_text(kept)
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[:3].strip().isdigit()]
    assert states == ["finished", "finished", "to", "to", "to", "to"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["pretrain", "cogvlm2_rwf_reference", "video"], "published with its projectors, and none is pre-trained"),
        (["train", "toy_rwf", "--projectors", "video=x"], "published with its projectors"),
        (["register", "toy_rwf"], "toy_rwf is trained before it is asked"),
        (["answer", "cogvlm2_rwf_consistent", "--task", "rwf2000"], "videogpt-plus train cogvlm2_rwf_consistent"),
        (["train", "cogvlm2_rwf_consistent"], "CogVLM2's config"),
        (["export", "toy_rwf", "out", "--task", "rwf2000"], "no files of rwf2000's answers"),
        (["answer", "{tuned}", "--task", "rwf2000"], "data rwf2000 --data-dir FOLDER --split val --output"),
        (["predict", "toy_cogvlm2_video", "--video", "x.mp4"], "predict takes a question"),
    ],
)
def test_what_is_wrong_is_one_line(args, told, tuned, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([arg.format(tuned=tuned) for arg in args])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert told in line


# ------------------------------------------------------------------------------------------------ labels and scores
@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("1", "1"), ("0", "0"), (" 1.", "1"), ("1。", "1"), ("１", "1"), ('"0"', "0"), ("(1)", "1"), ("Answer: 1", "1"),
        ("The answer is 0.", "0"), ("输出1。", "1"), ("答案是0", "0"), ("1, there is a fight", "1"),
        ("1。视频中有暴力", "1"), ("**1**", "1"), ("1<|im_end|>", "1"), ("\\boxed{0}", "0"), ("`0`", "0"),
        ("<think>0?</think>1", "1"), ("0, no.</think>\n1", "1"), ("<answer>1</answer>", "1"), ("<think>1", None),
        ("", None), ("10", None), ("1.5", None), ("1 man", None), ("1 or 0", None), ("1, not 0", None), ("2", None),
        ("B", None), ("(B)", None), ("yes", None), ("not 1", None), ("视频中包含暴力内容", None), ("1:0", None),
    ],
)  # fmt: skip
def test_a_label_is_taken_strictly(reply, label):
    assert parse_label(reply, LABELS) == label
    (example,) = labelled("1")
    assert example.parse(reply) == {"0": "A", "1": "B", None: None}[label]


def labelled(answers: str) -> list[LabelExample]:
    return [LabelExample("violence", Path(f"{i}"), f"{i}", "?", LABELS, a) for i, a in enumerate(answers)]


def test_confusion_counts_every_clip_and_f1_is_of_the_positive_label():
    examples = labelled("1111100000")
    said = [*"BBBA", None, *"AAB", None]  # the last clip could not be read
    found = confusion(examples, {e.key: letter for e, letter in zip(examples, said, strict=False)})
    assert found["confusion"] == {
        "0": {"0": 2, "1": 1, "unparsed": 1, "failed": 1},
        "1": {"0": 1, "1": 3, "unparsed": 1, "failed": 0},
    }
    assert found["accuracy"] == list(wilson(5, 10))
    assert found["precision"] == list(wilson(3, 4)) and found["recall"] == list(wilson(3, 5))
    precision, recall = 3 / 4, 3 / 5
    assert found["f1"][0] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["f1"][1] < found["f1"][0] < found["f1"][2]


def test_f1s_interval_covers_what_it_should():
    """Of samples with a known F1, about 95 % have it in their interval."""
    import numpy as np

    rng = np.random.default_rng(0)
    chances = np.array([0.4, 0.1, 0.15, 0.35])  # hits, overlooked, false alarms, the rest
    true = 2 * 0.4 / (2 * 0.4 + 0.25)
    drawn = rng.multinomial(100, chances, 400)
    inside = [(e := f1(int(hits), int(missed + alarms))).low <= true <= e.high for hits, missed, alarms, _ in drawn]
    assert 0.92 < np.mean(inside) < 0.98


def test_nothing_is_said_where_nothing_can_be():
    found = confusion(labelled("00"), {})
    assert found["precision"] is found["recall"] is found["f1"] is None
    assert found["accuracy"][0] == 0 and found["confusion"]["0"]["failed"] == 2


def test_the_likelier_label_is_scored_beside_what_was_said():
    examples = labelled("10")
    lines = {
        e.key: {"error": None, "reply": "maybe", "logprob_choice": choice}
        for e, choice in zip(examples, "BB", strict=True)
    }
    found = label_scores(examples, lines)
    assert found["said"]["confusion"]["1"]["unparsed"] == 1 and found["said"]["f1"] == list(f1(0, 1))
    assert found["likelier"]["recall"][0] == 1 and found["likelier"]["precision"][0] == 0.5


def test_clips_of_one_name_are_two_questions(tmp_path):
    root = touch(tmp_path / "RWF", "val/Fight/a.avi", "val/NonFight/a.avi")
    rwf2000.write(root, tmp_path / "val.json", "val", decode=False)
    (task,) = load_rwf2000(tmp_path)
    first, second = sorted(task.examples(), key=lambda e: e.video)
    assert (first.video, first.answer, first.letter) == ("val/Fight/a.avi", "1", "B") and first.key != second.key
    assert first.prompt == rwf2000.QUESTIONS["zh"] and first.path == root / "val/Fight/a.avi"


@pytest.mark.parametrize(
    "item",
    [
        {"id": "x", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "1"}]},
        {
            "id": "x",
            "conversations": [
                {"from": "user", "value": f"{rwf2000.OPEN}a{rwf2000.CLOSE}?"},
                {"from": "assistant", "value": "2"},
            ],
        },
        7,
    ],
)
def test_an_entry_that_is_none_is_named(item, tmp_path):
    (tmp_path / "val.json").write_text(json.dumps([item]))
    with pytest.raises(UserError, match=r"val.json, entry 0: expected a question about a clip"):
        load_rwf2000(tmp_path)


def test_names_lead_to_the_presets():
    assert get_experiment("cogvlm2_rwf_reference_pool2").level == 2
    assert mixtures.get_mixture(COGVLM2_RWF_REFERENCE.training.data) == [(".cache/RWF-2000/train.json", ".")]
