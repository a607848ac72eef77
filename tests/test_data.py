"""Samples, bad annotations, substitutions, batches, and the order in which samples are seen."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import coded_frames, render_mp4
from faults.entries import BAD_ENTRIES, BAD_FILES, LAYOUTS, STILL, TEXT, VIDEO, talk
from PIL import Image

from videogpt_plus.clips.prefetch import pad_to_square
from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.mixtures import MIXTURES, get_mixture
from videogpt_plus.families.record import CLIP_MEAN_COLOUR
from videogpt_plus.training import data
from videogpt_plus.training.data import Conversations, append_once, collate, read_annotations
from videogpt_plus.training.plan import epoch_order
from videogpt_plus.types import IGNORE, PLACEHOLDER, Clip, UserError

REFERENCE = Path(__file__).parent / "golden" / "dataset_config.json"


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    """a.mp4 (20 frames), short.mp4 (3 frames), bad.mp4, and a.png (20 x 48)."""
    folder = tmp_path_factory.mktemp("media")
    render_mp4(folder / "a.mp4", coded_frames(20), 10)
    render_mp4(folder / "short.mp4", coded_frames(3), 10)
    (folder / "bad.mp4").write_bytes(b"no video")
    Image.fromarray(np.full((20, 48, 3), 255, np.uint8)).save(folder / "a.png")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_experiment):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_experiment.llm)


@pytest.fixture
def conversations(tiny_experiment, tokenizer, media, tmp_path, monkeypatch):
    """Builds the dataset of the given entries."""

    def build(entries: list[dict], room: data.Room | None = None, stills="pad", template="qwen2", **training):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(entries))
        monkeypatch.setitem(MIXTURES, "TEST", [(str(path), str(media))])
        settings = {f"source.finetune.{name}": value for name, value in {"data": "TEST", **training}.items()}
        settings |= {"sampling.stills": stills, "prompting.template": template}
        substituted = tmp_path / "run" / "substituted.jsonl"
        return Conversations(with_settings(tiny_experiment, settings), tokenizer, substituted, room=room)

    return build


# Mixtures.


def test_mixtures_equal_the_reference():
    for name, parts in json.loads(REFERENCE.read_text()).items():
        assert MIXTURES[name] == [(part["annotation_path"], part["data_path"]) for part in parts]


def test_unknown_mixture_names_the_choices():
    with pytest.raises(UserError, match="unknown dataset mixture 'TOY'; choose from: PRETRAINING, .*TOY_IMAGES"):
        get_mixture("TOY")


def test_mixtures_import_no_torch():
    code = "import sys, videogpt_plus.config.mixtures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Samples.


def test_every_frame_has_a_placeholder_and_pixels_of_each_stream(conversations):
    short = {**VIDEO, "video": "short.mp4"}
    dataset = conversations([VIDEO, short, STILL, TEXT])
    for sample, frames in zip((dataset[i] for i in range(4)), ([8], [3], [1], []), strict=True):
        assert [v.placeholders for v in sample["visuals"]] == frames
        assert sample["input_ids"].count(PLACEHOLDER) == sum(frames)
        assert len(sample["labels"]) == len(sample["input_ids"])
        for visual, t in zip(sample["visuals"], frames, strict=True):
            assert {name: tuple(x.shape) for name, x in visual.pixels.items()} == {
                "image": (t, 3, 48, 48),
                "video": (t, 3, 32, 32),
            }


def test_bounds_of_a_sample_are_used(conversations):
    bounded = {**VIDEO, "start": 1, "end": 2}
    whole, part = (v["visuals"][0].pixels["video"] for v in map(conversations([VIDEO, bounded]).__getitem__, (0, 1)))
    assert not torch.equal(whole[0], part[0])


def test_files_follow_the_order_of_their_markers(conversations, media):
    entry = {
        "image": "a.png",
        "video": ["a.mp4", "short.mp4"],
        "conversations": talk("<video> <image> <video>"),
    }
    dataset = conversations([entry])
    assert [path for _, path in dataset.entries[0].media] == [
        str(media / name) for name in ("a.mp4", "a.png", "short.mp4")
    ]
    assert [v.placeholders for v in dataset[0]["visuals"]] == [8, 1, 3]


def test_markers_in_an_answer_are_text(conversations):
    sample = conversations([{"conversations": talk("What marks a picture?", "<image> does")}])[0]
    assert sample["visuals"] == [] and PLACEHOLDER not in sample["input_ids"]


def test_still_is_padded_with_the_mean_colour_for_encoders_that_were_trained_so(conversations):
    padded = conversations([STILL])[0]["visuals"][0].pixels
    cropped = conversations([STILL], stills="crop")[0]["visuals"][0].pixels
    assert padded["image"][0, :, 0].abs().max() < 0.02  # the mean colour is zero after normalisation
    assert padded["image"][0, :, 24].min() > 1
    assert cropped["image"].min() > 1
    assert torch.equal(padded["video"], cropped["video"])


def test_video_is_not_padded(conversations):
    pad, crop = (conversations([VIDEO], stills=r)[0]["visuals"][0] for r in ("pad", "crop"))
    assert torch.equal(pad.pixels["image"], crop.pixels["image"])


@pytest.mark.parametrize("size", [(2, 5), (5, 2), (3, 3), (4, 7)])
def test_square_holds_the_picture_in_its_middle(size):
    square = pad_to_square(
        Clip(torch.full((1, 3, *size), 255, dtype=torch.uint8), (0.0,), "a.png"), CLIP_MEAN_COLOUR
    ).frames
    side = max(size)
    assert square.shape == (1, 3, side, side)
    rows, columns = (square[0, 0] == 255).nonzero(as_tuple=True)
    assert (len(rows), rows.min(), columns.min()) == (
        size[0] * size[1],
        (side - size[0]) // 2,
        (side - size[1]) // 2,
    )
    assert all((square[0, c] < 255).sum() == (square[0, c] == m).sum() for c, m in enumerate((122, 116, 104)))


def test_too_long_a_sample_loses_the_end_of_its_text(conversations):
    entry = {**VIDEO, "conversations": talk("<video>\nWhat is it?", "a cup and " * 50)}
    whole, cut = conversations([entry])[0], conversations([entry], model_max_length=90)[0]
    assert len(whole["input_ids"]) > 90
    assert cut["input_ids"] == whole["input_ids"][:90] and cut["labels"] == whole["labels"][:90]
    assert len(cut["visuals"]) == 1


def test_cutting_a_visual_or_the_whole_answer_is_an_error(conversations):
    ids = conversations([VIDEO])[0]["input_ids"]
    run_end = len(ids) - ids[::-1].index(PLACEHOLDER)
    for length in (run_end - 8, run_end - 1):
        with pytest.raises(UserError, match=rf"annotations.json: entry 0: a visual .* {length} tokens; raise model"):
            conversations([VIDEO], model_max_length=length)[0]
    with pytest.raises(UserError, match="entry 0: no part of an answer"):
        conversations([VIDEO], model_max_length=run_end)[0]


def test_template_that_does_not_fit_names_the_entry(conversations):
    entry = {"conversations": talk("a") + talk("b")}
    with pytest.raises(UserError, match="annotations.json: entry 1: .*plain"):
        conversations([entry, entry], template="plain")[1]


def test_an_unknown_way_to_make_stills_square_names_the_choices(conversations):
    with pytest.raises(UserError, match="'square'; choose from: pad, crop"):
        conversations([TEXT], stills="square")


# Bad annotations.


@pytest.mark.parametrize(("entry", "said"), BAD_ENTRIES)
def test_wrong_entry_is_named_by_file_and_number(conversations, entry, said):
    with pytest.raises(UserError) as caught:
        conversations([TEXT, TEXT, entry])
    message = str(caught.value)
    assert "annotations.json: entry 2" in message and said in message and "\n" not in message


@pytest.mark.parametrize(("content", "said"), BAD_FILES)
def test_wrong_annotation_file_is_named(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=f"a.json.*{said}"):
        read_annotations(tmp_path / "a.json", tmp_path)


def test_missing_or_binary_annotation_file_is_named(tmp_path):
    with pytest.raises(UserError, match="a.json: No such file"):
        read_annotations(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="a.json is not valid JSON"):
        read_annotations(tmp_path / "a.json", tmp_path)


# Substitutions.

BAD = {**VIDEO, "video": "bad.mp4"}
MISSING = {**VIDEO, "video": "none.mp4"}


def same(a: dict, b: dict) -> bool:
    return a["input_ids"] == b["input_ids"] and all(
        torch.equal(v.pixels["video"], w.pixels["video"]) for v, w in zip(a["visuals"], b["visuals"], strict=True)
    )


def test_bad_clip_is_replaced_by_the_next_readable_sample_and_listed_once(conversations):
    dataset = conversations([BAD, MISSING, STILL, VIDEO, BAD])
    for _ in range(2):
        assert same(dataset[0], dataset[2]) and same(dataset[1], dataset[2]) and same(dataset[4], dataset[2])
    listed = data.read_substitutions(dataset.substituted)
    assert [(line["sample"], line["replaced_by"]) for line in listed] == [(0, 2), (1, 2), (4, 2)]
    assert "bad.mp4" in listed[0]["error"] and "none.mp4" in listed[1]["error"]
    assert listed[1]["where"].endswith("annotations.json: entry 1")


def test_nothing_is_listed_where_all_clips_are_readable(conversations):
    dataset = conversations([VIDEO, TEXT])
    assert len(list(map(dataset.__getitem__, range(2)))) == 2
    assert data.read_substitutions(dataset.substituted) == []


def test_substitution_does_not_depend_on_workers(conversations):
    dataset = conversations([BAD, STILL, MISSING, VIDEO, BAD, TEXT])
    alone = [dataset[i] for i in range(6)]
    dataset.substituted.unlink()
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert all(same(a, b) for a, b in zip(alone, loader, strict=True))
    assert sorted(line["sample"] for line in data.read_substitutions(dataset.substituted)) == [0, 2, 4]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**VIDEO, "video": "n" * 300 + ".mp4"}, "File name too long"),
        ({**VIDEO, "video": "a.mp4/inside.mp4"}, "no such file"),
        ({**VIDEO, "video": "loop.mp4"}, "no such file"),
        ({**VIDEO, "video": "null\0.mp4"}, "no such file"),
        ({**VIDEO, "video": "\ud800.mp4"}, "no such file"),
        ({**VIDEO, "video": "."}, "names a folder and no clip in it"),
        ({**VIDEO, "video": "sub/.."}, "names a folder and no clip in it"),
        ({**VIDEO, "start": 10**400}, "start is inf"),
        ({**VIDEO, "end": -(10**400)}, "end is -inf"),
        ({**VIDEO, "start": float("nan")}, "start is nan"),
        ({**VIDEO, "conversations": talk("<video>\ud83d?")}, "entry 0: "),
        ({**VIDEO, "conversations": talk("<video>?" + " a cup" * 20_000)}, "no part of an answer"),
    ],
)
def test_any_entry_that_cannot_be_read_is_replaced_and_listed(conversations, media, entry, said):
    if not (media / "loop.mp4").is_symlink():
        (media / "loop.mp4").symlink_to("loop.mp4")
    dataset = conversations([entry, VIDEO])
    assert same(dataset[0], dataset[1])
    (line,) = data.read_substitutions(dataset.substituted)
    assert said in line["error"] and "\n" not in line["error"] and len(line["error"]) < 700, line


def test_an_entry_that_is_longer_than_the_llm_reads_is_replaced(conversations):
    whole = conversations([VIDEO])[0]
    text = len(whole["input_ids"]) - whole["visuals"][0].placeholders
    longer = {**VIDEO, "conversations": talk("<video>\nWhat is it, and what is it for?")}
    fits = conversations([longer, VIDEO], data.Room(text + 8 * 52, lambda frames: 52 * frames))
    assert same(fits[0], fits[1]) and same(fits[1], whole)
    (line,) = data.read_substitutions(fits.substituted)
    assert "visual ones included, and the LLM reads" in line["error"]


@pytest.mark.parametrize("content", LAYOUTS)
def test_annotations_with_a_byte_order_mark_or_a_line_an_entry_are_read(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content % (json.dumps(VIDEO), json.dumps(TEXT)))
    assert [len(entry.media) for entry in read_annotations(path, tmp_path)] == [1, 0]


def test_a_jsonl_file_of_one_line_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(VIDEO))
    assert len(read_annotations(path, tmp_path)) == 1


def test_a_backslash_in_a_name_is_a_character_like_any_other(conversations, media):
    shutil.copy(media / "a.mp4", media / "b\\c.mp4")
    assert same(conversations([{**VIDEO, "video": "b\\c.mp4"}])[0], conversations([VIDEO])[0])


@pytest.mark.parametrize("text", ["  What?", "What?\n ", "\tWhat ?"])
def test_what_people_write_keeps_its_whitespace_where_no_marker_is_taken_out(conversations, tokenizer, text):
    dataset = conversations([{"conversations": talk(text, f"{text} ")}])
    written = tokenizer.decode(dataset[0]["input_ids"])
    assert f"user\n{text}<|im_end|>" in written and written.endswith(f"assistant\n{text} <|im_end|>")


def test_all_clips_bad_is_an_error(conversations):
    with pytest.raises(UserError, match="no clip of 2 samples .*entry 0.*bad.mp4"):
        conversations([BAD, MISSING])[0]


def append_many(path: Path) -> None:
    for sample in range(40):
        append_once(path, {"sample": sample, "error": "x" * 200})


def test_lines_of_several_processes_are_whole_and_unique(tmp_path):
    path = tmp_path / "run" / "substituted.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=append_many, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(json.loads(line)["sample"] for line in path.read_text().splitlines()) == [*range(40)]


def test_torn_line_loses_nothing_but_itself(tmp_path):
    path = tmp_path / "substituted.jsonl"
    path.write_text('{"sample": 1}\n{"sample": 2, "err')
    for sample in (1, 2, 3):
        append_once(path, {"sample": sample})
    assert [line["sample"] for line in data.read_substitutions(path)] == [1, 2, 3]


# Batches and order.


def test_batch_is_padded_on_the_right_and_keeps_visuals_apart(conversations):
    dataset = conversations([VIDEO, STILL, TEXT])
    samples = [dataset[i] for i in range(3)]
    batch = collate(samples, pad_id=7)
    for row, sample in enumerate(samples):
        n = len(sample["input_ids"])
        assert batch["input_ids"][row, :n].tolist() == sample["input_ids"]
        assert batch["labels"][row, :n].tolist() == sample["labels"]
        assert (batch["input_ids"][row, n:] == 7).all() and (batch["labels"][row, n:] == IGNORE).all()
        assert batch["attention_mask"][row].tolist() == [True] * n + [False] * (len(batch["input_ids"][0]) - n)
    assert [len(v) for v in batch["visuals"]] == [1, 1, 0]


def test_lengths_decode_nothing_and_sign_the_modality(conversations):
    dataset = conversations([BAD, MISSING, TEXT])
    assert dataset.modality_lengths() == [6, 6, -9]
    assert dataset.lengths() == [6, 6, 9]


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch_order(50, 42, 0) == epoch_order(50, 42, 0)
    assert sorted(epoch_order(50, 42, 3)) == [*range(50)]
    assert len({tuple(epoch_order(50, seed, epoch)) for seed in (1, 2, 3) for epoch in (1, 2, 3)}) == 9


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (4, 1), (4, 3), (7, 2)])
def test_grouped_order_keeps_modalities_apart_and_lengths_together(batch, world):
    lengths = [int(x) for x in np.random.default_rng(0).integers(1, 100, 500) * np.tile([1, 1, -1, 1], 125)]
    order = epoch_order(500, 42, 1, lengths, batch, world)
    assert sorted(order) == [*range(500)]
    assert order == epoch_order(500, 42, 1, lengths, batch, world) != epoch_order(500, 42, 2, lengths, batch, world)
    size = batch * world
    runs = [[lengths[i] for i in order[k : k + size]] for k in range(0, 500, size)]
    mixed = [k for k, run in enumerate(runs) if min(run) < 0 < max(run)]
    assert len(mixed) <= 1 and all(k >= len(runs) - 2 for k in mixed)
    for run in runs[:-2]:
        assert [abs(x) for x in run] == sorted((abs(x) for x in run), reverse=True)


def test_grouped_order_of_one_modality_and_of_few_samples_is_complete():
    assert sorted(epoch_order(5, 0, 0, [3, 1, 2, 9, 4], 2, 1)) == [*range(5)]
    assert sorted(epoch_order(3, 0, 0, [-3, 1, -2], 8, 4)) == [*range(3)]
