"""The reference's recorded values, by `tests/parity`; and that it sees what is wrong, in any folder of such values."""

from __future__ import annotations

import filecmp
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import fork_server
import pytest
import torch
from parity import check, check_folder
from parity.__main__ import main
from parity.folder import Folder
from parity.models import own_visuals, pixels, set_level
from parity.rows import Row
from safetensors.torch import load_file, save_file
from torch.nn.functional import adaptive_max_pool2d
from torch.nn.utils.rnn import pad_sequence

from videogpt_plus.reducers.average import Average
from videogpt_plus.text.chat import encode_conversation, encode_prompt
from videogpt_plus.types import IGNORE

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden"
LEVELS = {"1", "2", "4", "8", "16", "24", "3", "1.5"}
CASES = Folder(GOLDEN, GOLDEN).names()


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory):
    """The rows of a case; each is checked once, with models that the cases share."""
    folder, known = Folder(GOLDEN, tmp_path_factory.mktemp("weights")), {}

    def ask(name: str) -> list[Row]:
        if name not in known:
            known[name] = []
            check(folder, name, known[name].append)
        return known[name]

    return ask


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_value_is_ours(name, rows_of, record_property):
    rows = rows_of(name)
    assert any(row.ok for row in rows)
    record_property("worst", max((row.difference for row in rows if row.ok and row.tolerance), default=0))
    assert [row for row in rows if row.failed] == []
    assert {row.quantity for row in rows if row.skipped} <= {"video_noise_1e_3"}  # its noise was not recorded


@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        ("mini_b1", {"merged visual tokens", "inputs_embeds", "logits", "greedy tokens with EOS"}),
        ("full_b1", {"merged visual tokens", "inputs_embeds", "scores of greedy steps", "greedy tokens without EOS"}),
        ("mini_train", {"labels after merging", "lengths and mask after merging", "supervised logits", "loss"}),
        ("full_b2", {"merged visual tokens, sample 0", "merged visual tokens, sample 1", "logits", "loss"}),
    ],
)
def test_these_quantities_are_compared_at_all_eight_levels(name, quantities, rows_of):
    for quantity in quantities:
        assert {row.level for row in rows_of(name) if row.quantity == quantity} == LEVELS


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings lie in the repository alone")
def test_the_recordings_here_are_unchanged():
    files = [p.relative_to(SHARED) for p in SHARED.rglob("*") if p.is_file() and p.name != "README.md"]
    assert all(filecmp.cmp(SHARED / file, GOLDEN / file, shallow=False) for file in files)


# ------------------------------------------------------------------------------------- what parity must notice
def copied(root: Path, *names: str) -> Path:
    """A folder with these recordings alone."""
    for name in names:
        source = GOLDEN / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    return root


def some(root: Path, case: str, weights: str) -> Path:
    return copied(root, case, "tokenizer", f"{weights}.json", f"{weights}.safetensors")


def change_tensor(folder: Path, name: str, by: float) -> None:
    file = folder / "tensors.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[-1] += by
    save_file(tensors, file)


def change_meta(folder: Path, change) -> None:
    file = folder / "meta.json"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))


def another_token(meta: dict) -> None:
    meta["pools"]["24"]["generate8_eos"][3] += 1


def another_loss(meta: dict) -> None:
    meta["loss"] += 3e-5


SHORT, PRETRAIN = ("mini_short4", "weights_mini"), ("pretrain_image_qwen2", "weights_pretrain_image_qwen2")
BIAS = "grad.image_mm_projector.2.bias"


@pytest.mark.parametrize(
    ("recorded", "change", "quantity"),
    [
        (SHORT, partial(change_tensor, name="p2.merged", by=3e-5), "merged visual tokens"),
        (SHORT, partial(change_tensor, name="input_ids", by=1), "prompt ids"),
        (SHORT, partial(change_meta, change=another_token), "greedy tokens with EOS"),
        (SHORT, partial(change_tensor, name="p24.gen_scores_probe", by=3e-5), "scores of greedy steps"),
        (PRETRAIN, partial(change_meta, change=another_loss), "loss"),
        (PRETRAIN, partial(change_tensor, name=BIAS, by=3e-5), f"gradient of {BIAS.removeprefix('grad.')}"),
        (PRETRAIN, partial(change_tensor, name="merged_labels", by=101), "labels after merging"),
    ],
)
def test_one_wrong_value_is_a_failed_row(recorded, change, quantity, tmp_path, capsys):
    some(tmp_path, *recorded)
    change(tmp_path / recorded[0])
    assert main([str(tmp_path)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "NOT OK" in line]
    assert any(quantity in line for line in failed)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("sampling", lambda t: t["raw_video"][5]["eval"]["video"].__setitem__(3, 4)),
        ("pool_shapes", lambda t: t[3].__setitem__("total", 3327)),
        ("mvbench_hard_rule", lambda t: t[0].__setitem__("selected", True)),
        ("dataset_config", lambda t: t["PRETRAINING"].pop()),
        ("check_ans", lambda t: t[0].__setitem__("verdict", False)),
    ],
)
def test_one_wrong_entry_of_a_table_is_a_failed_row(table, change, tmp_path, capsys):
    value = json.loads((GOLDEN / f"{table}.json").read_text())
    change(value)
    (tmp_path / "renamed.json").write_text(json.dumps(value))  # a table is known by what it holds
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("NOT OK") == 1 and ", 1 failed, 0 skipped" in out


def test_one_wrong_logit_in_half_precision_is_a_failed_row(tmp_path):
    some(tmp_path, "mini_b1", "weights_mini")
    copied(tmp_path, "dtype")
    change_tensor(tmp_path / "dtype", "eval.logits_last", 0.05)
    rows = check_folder(tmp_path, "dtype", lambda row: None)
    assert {row.quantity.split(" (")[0] for row in rows if row.failed} == {
        "logits in float32, to the recorded eval regime's",
        "logits in the eval regime",
    }


def test_a_model_that_computes_something_else_fails(tmp_path, monkeypatch):
    some(tmp_path, *SHORT)
    monkeypatch.setattr(Average, "pool", lambda self, frames, side: adaptive_max_pool2d(frames, side))
    rows = check_folder(tmp_path, None, lambda row: None)
    failed = {row.quantity for row in rows if row.failed}
    assert failed >= {"merged visual tokens", "inputs_embeds", "logits", "scores of greedy steps"}
    assert not any("features" in quantity for quantity in failed)


def test_a_tensor_that_no_check_knows_is_a_failed_row(tmp_path, capsys):
    some(tmp_path, *SHORT)
    file = tmp_path / "mini_short4" / "tensors.safetensors"
    save_file(load_file(file) | {"p2.attention": torch.zeros(1)}, file)
    assert main([str(tmp_path), "--case", "mini_short4"]) == 1
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if "NOT OK" in line]
    assert "p2.attention" in failed and "no check knows" in failed


def test_a_case_of_no_known_kind_fails_and_what_is_no_case_is_named(tmp_path, capsys):
    copied(tmp_path, "check_ans.json")
    (tmp_path / "riddle").mkdir()
    (tmp_path / "riddle" / "meta.json").write_text('{"kind": "riddle"}')
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "a case of no known kind (riddle)" in out
    assert out.count("skipped: ") == 2 and "4 rows, 1 failed, 2 skipped" in out


def test_a_folder_in_which_nothing_could_be_compared_does_not_pass(tmp_path, capsys):
    copied(tmp_path, "dtype")
    assert main([str(tmp_path)]) == 1
    assert "1 rows, 0 failed, 1 skipped" in capsys.readouterr().out


def test_a_case_whose_weights_are_missing_fails_and_the_others_are_checked(tmp_path, capsys):
    copied(tmp_path, "mini_short4", "pool_shapes.json")
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "the case names the weights 'weights_mini'" in out and "33 rows, 1 failed, 0 skipped" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [([], "no recordings in"), (["--case", "mini"], "no recordings in"), (["/nowhere"], "no recordings at /nowhere")],
)
def test_an_empty_folder_is_one_clear_line(args, said, tmp_path, capsys):
    where = [] if args and args[0].startswith("/") else [str(tmp_path)]
    assert main([*where, *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"error: {said}") and shown.err.count("\n") == 1


def test_an_unknown_case_names_the_choices(capsys):
    assert main([str(GOLDEN), "--case", "mini_b3"]) == 2
    assert "choose from: check_ans, dataset_config" in capsys.readouterr().err


def test_the_command_runs_from_the_repository():
    command = [sys.executable, "-m", "tests.parity", "tests/golden", "--case", "mvbench_hard_rule.json"]
    done = fork_server.run(command, cwd=GOLDEN.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 rows, 0 failed, 0 skipped" in done.stdout


# ----------------------------------------------------------------------------------- folders never seen before
def test_a_case_under_another_name_is_the_same_case(tmp_path, capsys):
    some(tmp_path, *SHORT)
    (tmp_path / "mini_short4").rename(tmp_path / "okapi")
    for suffix in ("json", "safetensors"):
        (tmp_path / f"weights_mini.{suffix}").rename(tmp_path / f"weights_giraffe.{suffix}")
    change_meta(tmp_path / "okapi", lambda meta: meta.update(case="okapi", kind="?", weights="weights_giraffe"))
    assert main([str(tmp_path)]) == 0
    assert ", 0 failed, 0 skipped" in capsys.readouterr().out


QUESTIONS = ["What moves?", "Where does the red cube go, and who takes it there?", "How many?"]


def seeds(number: int) -> dict:
    return {"video_seed": 7 * number, "context_seed": 11 * number, "n": 8, "video_size": 56, "image_size": 84}


def record_inference(folder: Path, model, level: str) -> None:
    """A case with another prompt and other seeds, written down from our model."""
    ids = torch.tensor([encode_prompt(model.tokenizer, QUESTIONS[1], [8], "qwen2")])
    (visual,) = own_visuals([pixels(seeds(1))], [8], 4)
    set_level(model, float(level))
    tokens = model.visual_tokens(model.encode([visual])[0])
    logits = model(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), [[visual]]).logits
    answer = model.generate_ids(ids.tolist(), [[visual]], 5)[0]
    prompt = model.tokenizer.decode([token for token in ids[0].tolist() if token >= 0])
    prompt = prompt.replace("<|im_start|>user\n", "<|im_start|>user\n" + "<image>" * 8)
    meta = {
        "weights": "weights_mini",
        "frames": [seeds(1)],
        "prompt": prompt,
        "pools": {level: {"n_visual_tokens": len(tokens), "generate5_eos": answer, "argmax_last": answer[0]}},
    }
    write(folder, meta, {"input_ids": ids, f"p{level}.merged": tokens[None], f"p{level}.logits_last": logits[0, -1]})


def record_training(folder: Path, model, level: str) -> None:
    """A batch of three, each sample of which is written down as it is alone."""
    set_level(model, float(level))
    turns = [[{"from": "human", "value": f"<video>\n{q}"}, {"from": "gpt", "value": "A cat."}] for q in QUESTIONS]
    rows = [[torch.tensor(r) for r in encode_conversation(model.tokenizer, t, [8], "qwen2")] for t in turns]
    tensors, losses, lengths = {}, [], []
    for i, (ids, labels) in enumerate(rows):
        (visual,) = own_visuals([pixels(seeds(i))], [8], 4)
        tensors[f"p{level}.merged{i}"] = model.visual_tokens(model.encode([visual])[0])[None]
        out = model(ids[None], torch.ones_like(ids[None]), labels[None], [[visual]])
        losses.append(out.loss.item())  # answers are equally long
        lengths.append(out.logits.shape[1])
    for i, name in enumerate(("input_ids", "labels")):
        tensors[name] = pad_sequence([row[i] for row in rows], batch_first=True)
    tensors["attention_mask"] = pad_sequence([torch.ones_like(row[0]) for row in rows], batch_first=True).byte()
    expected = {"loss": sum(losses) / 3, "mask_true_per_row": lengths, "merged_len": max(lengths)}
    meta = {"weights": "weights_mini", "conversations": turns, "frames": [seeds(i) for i in range(3)]}
    write(folder, meta | {"pools": {level: expected}}, tensors)


def write(folder: Path, meta: dict, tensors: dict) -> None:
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps(meta))
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / "tensors.safetensors")


@torch.no_grad()
def test_other_seeds_levels_prompts_and_batches_are_understood(tmp_path, tmp_path_factory):
    copied(tmp_path, "tokenizer", "weights_mini.json", "weights_mini.safetensors")
    model = Folder(GOLDEN, tmp_path_factory.mktemp("weights")).fresh("weights_mini")
    record_inference(tmp_path / "a", model, "2.5")
    record_training(tmp_path / "b", model, "6")
    rows = check_folder(tmp_path, None, lambda row: None)
    assert [row for row in rows if not row.ok] == []
    said = {(row.case, row.quantity, row.level) for row in rows}
    assert said >= {
        ("a", "prompt ids", ""),
        ("a", "merged visual tokens", "2.5"),
        ("a", "greedy tokens with EOS", "2.5"),
        ("b", "merged visual tokens, sample 2", "6"),
        ("b", "loss", "6"),
    }
