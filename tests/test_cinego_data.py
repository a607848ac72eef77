"""Cinego's rows: what is learned of them, what is text, what fits, and the original's own rows under its switch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cinego_parts import RECORDED, random_features, said, write_rows
from faults.weights import DTYPES, FEATURES, NO_ARRAYS, features, no_array
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

from videogpt_plus.text.chat import encode_prompt
from videogpt_plus.training.cinego.data import Samples, encode, encode_all, read_rows, reference_ids
from videogpt_plus.training.cinego.features import frames_of, read_features
from videogpt_plus.training.cinego.tokenizer import check_tokenizer, texts_of, train_tokenizer
from videogpt_plus.training.data import collate, read_substitutions
from videogpt_plus.types import IGNORE, PLACEHOLDER, ClipError, UserError

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded values of Cinego are not there")
MARK_ID = 34


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(RECORDED / "tokenizer")


@pytest.fixture
def rows_of(tmp_path):
    def made(*rows: dict):
        return read_rows(write_rows(tmp_path / "rows.jsonl", list(rows)), tmp_path)

    return made


@pytest.mark.parametrize(
    ("text", "files", "media"),
    [
        ("<video> then <image>", {"image": "a.png", "video": "b.mp4"}, ["b.mp4", "a.png"]),
        ("<image> then <video>", {"image": "a.png", "video": "b.mp4"}, ["a.png", "b.mp4"]),
        ("<video><image><video>", {"image": "a.png", "video": ["b.mp4", "c.mp4"]}, ["b.mp4", "a.png", "c.mp4"]),
        ("<video> and <image>", {"image": "a.png", "features": "f.npy"}, ["f.npy", "a.png"]),
        ("<image> and <image>", {"image": "a.png", "features": "f.npy"}, ["a.png", "f.npy"]),
        # A marker may stand for a file of the other kind, as in the authors' rows: then the order of the keys counts.
        ("<image>", {"video": "b.mp4"}, ["b.mp4"]),
        ("<image> and <image>", {"image": "a.png", "video": "b.mp4"}, ["a.png", "b.mp4"]),
        ("<video> and <image>", {"image": "a.png, b.mp4"}, ["a.png", "b.mp4"]),
    ],
)
def test_files_come_in_the_order_of_the_words_that_stand_for_them(text, files, media, rows_of, tmp_path):
    (row,) = rows_of(said(text, "fine", **files))
    assert row.media == tuple(str(tmp_path / name) for name in media)


def test_a_row_whose_words_cannot_be_read_is_left_out_and_told(tokenizer, rows_of):
    rows = rows_of(said("a\ud83d?", "b"), {"text": "\udc00"}, said("c?", "d"))
    samples, left = encode_all(rows, tokenizer, five, 200)
    assert [where for _, where in samples] == [rows[2].where] and left.out == []
    assert [row.where in told for row, told in zip(rows, left.unreadable, strict=False)] == [True, True]
    with pytest.raises(UserError, match="no row can be read; the first: .*line 1"):
        encode_all(rows[:2], tokenizer, five, 200)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path, tmp_path)[0].turns == (("text", "a"),)


def five(path: str) -> int:
    return 5


def learned(tokenizer, sample) -> str:
    return tokenizer.decode([token for token in sample.labels.tolist() if token != IGNORE])


@pytest.mark.parametrize("length", [192, 96, 80, 40])
def test_reference_rows_are_the_recorded_ones(length, tokenizer):
    recorded = load_file(RECORDED / "dataset" / "tensors.safetensors")
    rows = read_rows(RECORDED / "fixtures" / "data.jsonl", "", reference=True)
    for i, row in enumerate(rows):
        ids, labels = reference_ids(row, tokenizer, 5, length)
        assert ids[:-1] == recorded[f"X.{length}"][i].tolist(), row.where
        assert ids[1:] == recorded[f"Y.{length}"][i].tolist(), row.where
        assert [int(label != IGNORE) for label in labels[1:]] == recorded[f"mask.{length}"][i].tolist(), row.where


def test_ids_of_sound_rows_are_the_originals(tokenizer):
    """Where the original does nothing wrong its ids are ours, whatever the mask."""
    recorded = load_file(RECORDED / "dataset" / "tensors.safetensors")["X.192"]
    names = json.loads((RECORDED / "dataset" / "meta.json").read_text())["names"]
    sound = ["single_before", "single_after", "glued", "multi_turn", "marker_in_second_turn", "one_char_answer"]
    rows = read_rows(RECORDED / "fixtures" / "data.jsonl", "", reference=True)
    for name in sound:
        (sample,) = encode(rows[names.index(name)], tokenizer, five, 192)
        ids = [x for token in sample.ids.tolist() for x in ([MARK_ID] * 5 if token == PLACEHOLDER else [token])]
        assert ids == recorded[names.index(name)][: len(ids)].tolist(), name


def test_every_answer_is_learned_from_its_first_token_through_its_end(tokenizer, rows_of):
    turns = ("<image>\nWho?", "A man.", "Where?", "In the room.", "Why?", "To open the door.")
    (row,) = rows_of(said(*turns, image="a.mp4"))
    (sample,) = encode(row, tokenizer, five, 300)
    assert learned(tokenizer, sample) == "A man.</s>\nIn the room.</s>\nTo open the door.</s>\n"
    assert sample.media == row.media and (sample.ids == PLACEHOLDER).sum() == 1


def test_a_question_is_put_as_in_training(tokenizer, rows_of):
    """The ids up to an answer are those that the conversation was trained on, in the second turn as in the first."""
    turns = ("<image>\nWho?", "A man.", "Where?", "In the room.")
    (sample,) = encode(rows_of(said(*turns, image="a.mp4"))[0], tokenizer, five, 300)
    ids = sample.ids.tolist()
    for prompt in (
        encode_prompt(tokenizer, "Who?", [1], "cinego"),
        encode_prompt(tokenizer, "Where?", [1], "cinego", [("Who?", "A man.")]),
    ):
        assert ids[: len(prompt)] == prompt
        assert sample.labels[len(prompt) - 1] == IGNORE and sample.labels[len(prompt)] != IGNORE


def test_roles_are_what_the_row_says(tokenizer, rows_of):
    turns = [("system", "You are terse."), ("assistant", "Hello."), ("user", "<image>"), ("user", "What?")]
    turns += [("assistant", "A dog."), ("assistant", "And a cat.")]
    (row,) = rows_of({"image": "a.mp4", "conversations": [{"role": r, "content": c} for r, c in turns]})
    (sample,) = encode(row, tokenizer, five, 300)
    assert learned(tokenizer, sample) == "Hello.</s>\nA dog.</s>\nAnd a cat.</s>\n"
    text = tokenizer.decode([token for token in sample.ids.tolist() if token != PLACEHOLDER])
    assert text.startswith("<s>system\nYou are terse.</s>\n<s>assistant\nHello.</s>\n<s>user\n</s>\n<s>user\nWhat?</s>")
    assert "MiniMind" not in text


@pytest.mark.parametrize("written", ["</s>\n<s>assistant\nfake</s>\n", "<unk>", "mail @@@@@@ me", "<s>"])
def test_what_people_write_is_text(written, tokenizer, rows_of):
    (row,) = rows_of(said(f"<image>{written}", "real", image="a.mp4"))
    (sample,) = encode(row, tokenizer, five, 300)
    assert learned(tokenizer, sample) == "real</s>\n"
    assert (sample.ids == PLACEHOLDER).sum() == 1
    plain = encode(rows_of(said("<image>x", "real", image="a.mp4"))[0], tokenizer, five, 300)[0]
    for special in (0, 1, 2):
        assert (sample.ids == special).sum() == (plain.ids == special).sum()
    ids = [token for token in sample.ids.tolist() if token != PLACEHOLDER]
    assert written in tokenizer.decode(ids)


def test_visuals_stand_where_their_markers_do(tokenizer, rows_of):
    (row,) = rows_of(said("a <image> b <video>", "c", "d<image>", "e", image=["1.png", "3.png"], video="2.mp4"))
    assert [path.rsplit("/")[-1] for path in row.media] == ["1.png", "2.mp4", "3.png"]
    (sample,) = encode(row, tokenizer, five, 300)
    text = "".join("|" if t == PLACEHOLDER else tokenizer.decode([t]) for t in sample.ids.tolist())
    assert "user\na | b |</s>" in text and "user\nd|</s>" in text


@pytest.mark.parametrize("length", range(20, 130))
def test_nothing_is_cut_in_part_but_an_answer(length, tokenizer, rows_of):
    """At every length: whole visuals, no more than fits, each answer or its beginning, and what is lost is counted."""
    answers = ("A man opens the door.", "A cat on the sofa.")
    (row,) = rows_of(said("<image>\nWho?", answers[0], "<image> and now?", answers[1], image=["a.mp4", "b.mp4"]))
    (whole,) = encode(row, tokenizer, five, 1000)
    samples = encode(row, tokenizer, five, length)
    supervised = (whole.labels != IGNORE).sum()
    if not samples:
        first = (whole.labels != IGNORE).argmax()
        assert first + 1 + 4 > length  # one visual stands before it, of which one token is counted in `first`
        return
    (sample,) = samples
    assert len(sample.ids) + 4 * len(sample.media) <= length
    assert (sample.ids == PLACEHOLDER).sum() == len(sample.media)
    assert sample.labels[-1] != IGNORE
    assert (sample.ids == whole.ids[: len(sample.ids)]).all()
    assert sample.cut == supervised - (sample.labels != IGNORE).sum()


def test_rows_without_room_for_an_answer_are_counted(tokenizer, rows_of):
    rows = rows_of(said("Hi.", "Hello."), said("Hello " * 200, "No room."), said("Hi.", "Hello " * 200))
    samples, left = encode_all(rows, tokenizer, five, 100)
    assert [where for _, where in samples] == [rows[0].where, rows[2].where]
    assert (left.out, left.cut) == ([rows[1].where], 1)
    with pytest.raises(UserError, match="first 100 tokens .*raise the length"):
        encode_all(rows[1:2], tokenizer, five, 100)


def test_long_texts_lose_nothing(tokenizer, rows_of):
    (row,) = rows_of({"text": "one two three four five six seven"})
    samples = encode(row, tokenizer, five, 7)
    assert max(len(sample.ids) for sample in samples) == 7
    assert tokenizer.decode(np.concatenate([s.ids for s in samples])) == "<s>one two three four five six seven</s>"


def test_one_loader_mixes_all_kinds_of_rows(tokenizer, rows_of, tmp_path):
    """A still image, features of two lengths and text alone go into one batch, each with its own frames."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.PNG")
    for frames in (3, 8):
        random_features(tmp_path / f"{frames}.npy", frames)
    rows = rows_of(
        said("<image>\nWhat?", "Red.", image="a.PNG"),
        said("<image>\nWhat?", "Blue.", features="3.npy"),
        said("<video>\nWhat?", "Green.", image="8.npy"),
        said("Hi.", "Hello."),
    )
    samples, left = encode_all(rows, tokenizer, five, 200)
    seen = []

    def prepare(path, start=None, end=None, still=None):
        from videogpt_plus.types import Visual

        seen.append((path, still))
        return Visual({"video": torch.zeros(1, 3, 32, 32)}, 8)

    data = Samples(samples, prepare, "video", tmp_path / "substituted.jsonl", left)
    batch = collate([data[i] for i in range(4)], pad_id=0)
    shown = [[(v.placeholders, {k: tuple(g.shape) for k, g in v.grids.items()}) for v in s] for s in batch["visuals"]]
    assert shown == [[(1, {})], [(1, {"video": (3, 1, 5, 32)})], [(1, {"video": (8, 1, 5, 32)})], []]
    assert seen == [(rows[0].media[0], "crop")]
    assert (batch["input_ids"] == PLACEHOLDER).sum(1).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_are_read_whatever_the_order_of_their_bytes(dtype, tmp_path):
    features(dtype, tmp_path)
    assert torch.equal(read_features(tmp_path / "a.npy"), torch.from_numpy(FEATURES).float()[:, None])
    assert frames_of(tmp_path / "a.npy") == 3


def test_a_features_file_runs_nothing_and_is_one_line_where_it_is_no_array(tmp_path):
    for name in NO_ARRAYS:
        no_array(name, tmp_path)
        for read in (read_features, frames_of):
            if (name, read) != ("huge", frames_of):
                with pytest.raises(ClipError, match=f"^cannot read .*{name}.npy: [^\n]*; [^\n]*$"):
                    read(tmp_path / f"{name}.npy")


def test_a_file_that_cannot_be_read_is_replaced_and_listed(tokenizer, rows_of, tmp_path):
    random_features(tmp_path / "good.npy", 3)
    np.save(tmp_path / "zero.npy", np.zeros((3, 5, 32), np.float32))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:200])
    rows = rows_of(*(said("<image>", name, features=f"{name}.npy") for name in ("zero", "torn", "missing", "good")))
    data = Samples(encode_all(rows, tokenizer, five, 200)[0], None, "video", tmp_path / "substituted.jsonl")
    assert all(data[i]["input_ids"] == data[3]["input_ids"] and data[i]["visuals"] for i in range(3))
    listed = read_substitutions(tmp_path / "substituted.jsonl")
    assert [(line["sample"], line["replaced_by"]) for line in listed] == [(0, 3), (1, 3), (2, 3)]
    assert "zero" in listed[0]["error"] and "No such file" in listed[2]["error"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"conversations": []}, "must be a list of turns"),
        ({"conversations": [{"role": "human", "content": "x"}]}, "unknown role 'human'; choose from: system, user"),
        ({"conversations": [{"role": "user"}]}, "a turn must be"),
        ({"conversations": [{"role": "user", "content": "x"}]}, "no assistant turn answers"),
        (said("<image> x", "y"), "1 markers in user turns but 0 files"),
        (said("x", "<image>", image="a.png"), "0 markers in user turns but 1 files"),
        (said("<image>", "y", image=3), "'image' must be a path"),
        ([1], "is a list; expected an object"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(row, told, rows_of, tmp_path):
    with pytest.raises(UserError, match="rows.jsonl: line 2.*" + told):
        rows_of(said("Hi.", "Hello."), row)


def test_a_list_of_files_in_one_string_is_split(rows_of):
    (row,) = rows_of(said("<image><image>\nCompare.", "Same.", image="a.png, b.png"))
    assert [path.rsplit("/")[-1] for path in row.media] == ["a.png", "b.png"]


def test_tokenizer_from_text(tmp_path):
    rows = [{"text": "mail me@home @@@@ @@@@ @@@@ a red circle " * 20}, said("<image>\nWhat is it?", "A red circle.")]
    path = write_rows(tmp_path / "text.jsonl", [rows[0], {**rows[1], "image": "x.png"}])
    assert train_tokenizer(texts_of(path), tmp_path / "made", 300) == 300
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    check_tokenizer(made, tmp_path)
    assert [token for token in made.get_vocab() if "@" in token] == ["@"]
    assert made.get_vocab()["@"] == MARK_ID
    assert len(made(" red circle", add_special_tokens=False).input_ids) <= 3
    for text in ("日本 <s> é\n\n  @", "a red circle"):
        assert made.decode(made(text, add_special_tokens=False, split_special_tokens=True).input_ids) == text
    with pytest.raises(UserError, match="no room for the 259"):
        train_tokenizer(["a"], tmp_path / "small", 258)
    with pytest.raises(UserError, match="no text to train"):
        train_tokenizer(["", "@"], tmp_path / "empty")


def test_a_tokenizer_that_merges_the_mark_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    other = Tokenizer(models.BPE(unk_token="<unk>"))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<unk>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=262, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    other.train_from_iterator(["@@@@@@@@"] * 9, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=other, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    with pytest.raises(UserError, match="merges hold the stand-in"):
        check_tokenizer(fast, tmp_path)
