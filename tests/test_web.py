"""The page's logic without a browser: settings, clips, drawings and conversations."""

from __future__ import annotations

import re
import threading
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import coded_frames, render_mp4
from videogpt_plus.app.web import drawing
from videogpt_plus.app.web.clips import Source, check_file, folder_clips, look, toy_clips
from videogpt_plus.app.web.settings import DEFAULT_LIMITS, Limits, Setting, check_room, offers_of
from videogpt_plus.app.web.talk import Session
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import (
    COGVLM2_VIDEO,
    LLAVA15_7B,
    TOY,
    TOY_CINEGO,
    TOY_COGVLM2_IMAGE,
    TOY_COGVLM2_VIDEO,
    TOY_LLAVA15,
    at_level,
    with_reducer,
)
from videogpt_plus.config.options import GREEDY
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.files import located
from videogpt_plus.types import ClipError, UserError, Visual

PACKAGED = located("package:toy/weights/runs/toy_pool2")


def toy_offers():
    return offers_of([(at_level(TOY, 4), Path("four")), (at_level(TOY, 2), Path("two"))])


@pytest.fixture
def clip(tmp_path):
    return Source("numbers.mp4", render_mp4(tmp_path / "numbers.mp4", coded_frames(50)))


class Words:
    """Models that say the numbers from one on; each reply is as long as `count`."""

    def __init__(self, offers, count=3):
        self.offers, self.count, self.encoded, self.lock = offers, count, 0, threading.Lock()
        self.heard = []

    def turn(self):
        return self.lock

    def load(self, setting):
        raise AssertionError("it says that it is loaded")

    def is_loaded(self, setting):
        return True

    def positions(self, setting):
        return 4096

    def encode(self, setting, visual):
        self.encoded += 1
        return Visual({}, visual.placeholders, visual.pixels)

    def stream(self, setting, question, visual, past, generation_config):
        self.heard.append((setting, question, past))
        for number in range(self.count):
            yield f"{number + 1} "

    def key_values(self, setting, tokens):
        return 10 * tokens

    def memory(self):
        return 1000, "process"


@pytest.fixture
def talk(tmp_path):
    offers = toy_offers()
    begin = offers["toy"].default()
    session = Session(tmp_path / "visitors", {"A": begin, "B": replace(begin, level=4.0)})
    return Words(offers), session


# Settings


def test_levels_of_a_trained_model_are_those_it_was_trained_at():
    offer = toy_offers()["toy"]
    assert offer.levels("average") == [2, 4]
    assert offer.adapters() == ["average"]
    with pytest.raises(UserError, match="not trained with adapter 'average' at level 8: choose level 2 or 4"):
        offer.checked(Setting("toy", "average", 8, 8))
    with pytest.raises(UserError, match="not trained with adapter 'max'"):
        offer.checked(Setting("toy", "max", 2, 8))


def test_a_trained_level_is_answered_by_its_own_run():
    offer = toy_offers()["toy"]
    experiment, folder = offer.run(Setting("toy", "average", 4, 3))
    assert (experiment.level, experiment.num_frames, folder) == (4, 3, Path("four"))


@pytest.mark.parametrize("published", [LLAVA15_7B, COGVLM2_VIDEO, TOY_LLAVA15], ids=lambda e: e.name)
def test_level_and_adapter_of_published_weights_are_dials(published):
    (offer,) = offers_of([(published, Path("run"))]).values()
    setting = offer.checked(Setting(published.name, "max", 1.5, 2))
    experiment, folder = offer.run(setting)
    assert (experiment.reducer.name, experiment.level, experiment.num_frames) == ("max", 1.5, 2)
    assert folder == Path("run")
    with pytest.raises(UserError, match="pool level -1 is not possible"):
        offer.checked(replace(setting, level=-1))


def test_offered_levels_of_published_weights_all_differ_in_tokens():
    (offer,) = offers_of([(LLAVA15_7B, Path("run"))]).values()
    tokens = [num_visual_tokens(at_level(LLAVA15_7B, level), 1) for level in offer.levels("average")]
    assert tokens[0] == 576
    assert sorted(set(tokens), reverse=True) == tokens


def test_an_adapter_that_learned_keeps_its_level():
    learned = TOY_CINEGO
    (offer,) = offers_of([(learned, Path("run"))]).values()
    assert not offer.free
    assert offer.adapters() == ["summary"]
    assert offer.levels("summary") == [learned.level]


def test_frames_beyond_the_trained_number_are_refused():
    offer = toy_offers()["toy"]
    with pytest.raises(UserError, match="9 frames are not possible for toy: choose 1 to 8"):
        offer.checked(Setting("toy", "average", 2, 9))


def test_seeds_of_one_experiment_are_models_of_their_own():
    seven = replace(at_level(TOY, 2), name="toy_pool2_seed7")
    assert list(offers_of([(at_level(TOY, 2), Path("a")), (seven, Path("b"))])) == ["toy", "toy_seed7"]


def test_of_two_runs_of_one_setting_the_first_counts():
    (offer,) = offers_of([(at_level(TOY, 2), Path("trained")), (at_level(TOY, 2), Path("packaged"))]).values()
    assert offer.run(offer.default())[1] == Path("trained")


def test_no_model_is_an_error():
    with pytest.raises(UserError, match="no model to talk to"):
        offers_of([])


def test_tokens_that_do_not_fit_are_refused_before_anything_is_computed():
    check_room(LLAVA15_7B, 7, 4096)
    with pytest.raises(UserError, match="4,608 visual tokens do not fit into the 4,096 positions"):
        check_room(LLAVA15_7B, 8, 4096)
    check_room(LLAVA15_7B, 8, None)


# Clips


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", b"hello", "no type of clip or picture"),
        ("fake.mp4", b"this is no video at all", "damaged, cut off or no video"),
        ("fake.png", b"this is no picture", "the image cannot be read"),
        ("empty.mp4", b"", "the file is empty"),
        ("large.mp4", b"0" * 2_000_001, r"2.0 MB are over the limit of 2 MB"),
    ],
)
def test_a_bad_upload_is_one_line_that_names_it(tmp_path, name, content, told):
    path = tmp_path / f"secret{Path(name).suffix}"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=told) as caught:
        check_file(path, name, Limits(megabytes=2))
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # nor the folders of the server
    assert "\n" not in str(caught.value)


def test_a_video_that_is_too_long_is_refused(clip):
    check_file(clip.path, clip.name, Limits(minutes=1))
    with pytest.raises(ClipError, match=r"minutes are over the limit of 0.01"):
        check_file(clip.path, clip.name, Limits(minutes=0.01))


def test_frames_with_too_many_pixels_are_refused(clip, tmp_path):
    with pytest.raises(ClipError, match="megapixels are over the limit of 0.001"):
        check_file(clip.path, clip.name, Limits(frame_megapixels=0.001))
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    with pytest.raises(ClipError, match="megapixels are over the limit of 0.001"):
        check_file(tmp_path / "picture.png", "picture.png", Limits(picture_megapixels=0.001))


def test_good_files_are_taken(clip, tmp_path):
    assert check_file(clip.path, "mine.mp4", DEFAULT_LIMITS) == Source("mine.mp4", clip.path)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.JPG")
    assert check_file(tmp_path / "picture.JPG", "picture.JPG", DEFAULT_LIMITS).path == tmp_path / "picture.JPG"


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(UserError, match="a limit of 0 megabytes"):
        Limits(megabytes=0)


def test_clips_of_a_folder_go_by_their_path_in_it(tmp_path):
    for name in ("b.mp4", "in/a.png", "notes.txt", ".hidden/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [source.name for source in folder_clips(tmp_path)] == ["b.mp4", "in/a.png"]
    with pytest.raises(UserError, match="does not exist"):
        folder_clips(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no clip"):
        folder_clips(tmp_path / "none")


def test_every_toy_clip_can_be_looked_at(tmp_path):
    sources = toy_clips(tmp_path)
    assert len(sources) >= 8
    for source in sources:
        assert "Options:" in source.question
        assert len(look(source, TOY).seconds) == TOY.num_frames


def test_pictures_are_what_the_encoder_is_shown(tmp_path):
    left_red = np.zeros((20, 64, 64, 3), np.uint8)
    left_red[:, :, :32] = (250, 10, 10)
    seen = look(Source("x", render_mp4(tmp_path / "x.mp4", left_red)), TOY)
    for name, stream in TOY.branches:
        pictures = seen.pictures[name]
        assert pictures.shape[1:] == (stream.pixels, stream.pixels, 3)
        half = stream.pixels // 2 - 4
        assert abs(pictures[:, :, :half].mean((0, 1, 2)) - (250, 10, 10)).max() < 12
        assert pictures[:, :, -half:].max() < 40


def test_a_large_frame_is_drawn_small():
    from torch import rand

    from videogpt_plus.app.web.clips import _seen

    def shown(picture):
        return picture.frames.float() / 255

    assert _seen(rand(1, 3, 672, 672), shown).shape == (1, 336, 336, 3)


# Drawing


def lines(html: str, kind: str) -> int:
    (path,) = re.findall(rf'class="{kind}" d="([^"]*)"', html)
    return path.count("H")


@pytest.mark.parametrize(("level", "kept"), [(1, 12), (2, 6), (4, 3), (16, 1)])
def test_the_drawn_grid_has_the_cells_of_the_level(level, kept):
    experiment = replace(at_level(TOY, level), branches=TOY.branches[:1])
    frames = {"image": np.zeros((2, 96, 96, 3), np.uint8)}
    html = drawing.pooled(frames, experiment, 0)
    assert lines(html, "patches") == 12 + 1
    assert lines(html, "cells") == kept + 1
    assert f"12×12 patches → {kept}×{kept} = {kept * kept} token" in html


def test_what_is_left_is_what_the_adapter_makes():
    frame = np.zeros((1, 96, 96, 3), np.uint8)
    frame[:, :, 48:] = 200  # right half
    left = drawing._mosaic(frame, 12, at_level(TOY, 6))
    assert left[:, :, 0].tolist() == [[0, 200], [0, 200]]
    quarter = np.zeros((1, 96, 96, 3), np.uint8)
    quarter[:, :8, :8] = 240  # one patch of the 36 in its cell
    assert drawing._mosaic(quarter, 12, at_level(TOY, 6))[0, 0, 0] == round(240 / 36)
    assert drawing._mosaic(quarter, 12, at_level(with_reducer(TOY, "max"), 6))[0, 0, 0] == 240


def test_the_mean_of_all_frames_is_drawn_as_such():
    frames = np.stack([np.full((96, 96, 3), value, np.uint8) for value in (0, 100)])
    experiment = at_level(with_reducer(TOY, "frame_mean"), 12)
    assert drawing._mosaic(frames, 12, experiment).tolist() == [[[50, 50, 50]]]
    assert "mean of all frames" in drawing.pooled({"image": frames}, experiment, 1)


def test_of_concatenated_frames_the_chosen_one_is_drawn():
    frames = np.stack([np.full((96, 96, 3), value, np.uint8) for value in (0, 100)])
    first, second = (drawing.pooled({"image": frames}, with_reducer(TOY, "concat"), frame) for frame in (0, 1))
    left = drawing._png(np.full((12, 12, 3), 100, np.uint8))
    assert left in second
    assert left not in first


def test_an_adapter_without_a_grid_says_so():
    html = drawing.pooled({"image": np.zeros((2, 96, 96, 3), np.uint8)}, with_reducer(TOY, "summary"), 0)
    assert "learned queries read all 12×12 patches" in html
    assert 'class="cells"' not in html


def test_names_and_messages_are_text_and_no_markup():
    assert "<img" not in drawing.message("cannot read <img src=x>: it is none", "error")
    assert drawing.message("") == ""


# Conversations


def test_a_conversation_goes_on_with_what_was_said(talk, clip):
    models, session = talk
    session.show(clip)
    for question in ("first?", "second?"):
        *_, last = session.answers(models, "A", question, GREEDY)
        assert last.text == "1 2 3 "
    assert models.heard[1][2] == (("first?", "1 2 3 "),)
    assert [question for question, _ in session.sides["A"].past] == ["first?", "second?"]
    assert session.sides["B"].past == []


def test_the_encoders_run_once_for_both_sides_and_all_questions(talk, clip):
    models, session = talk
    session.show(clip)
    kept = [list(session.answers(models, side, "what?", GREEDY))[-1].costs.kept for side in "ABA"]
    assert kept == [False, True, True]
    assert models.encoded == 1


def test_other_frames_are_encoded_anew(talk, clip):
    models, session = talk
    session.show(clip)
    list(session.answers(models, "A", "what?", GREEDY))
    session.turn_to("A", replace(session.sides["A"].setting, frames=3))
    list(session.answers(models, "A", "what?", GREEDY))
    assert models.encoded == 2


def test_costs_tell_tokens_and_times(talk, clip):
    models, session = talk
    session.show(clip)
    *_, last = session.answers(models, "A", "what?", GREEDY)
    assert last.costs.key_values == 10 * num_visual_tokens(at_level(TOY, 2), 8)
    assert last.costs.pieces == 3
    assert 0 <= last.costs.first <= last.costs.total
    assert last.costs.memory == 1000


def test_stop_keeps_what_was_said_so_far(talk, clip):
    models, session = talk
    models.count = 1000
    session.show(clip)
    said = []
    for progress in session.answers(models, "A", "count", GREEDY):
        said.append(progress)
        if progress.text == "1 2 ":
            session.stop()
    assert said[-1].stopped
    assert session.sides["A"].past == [("count", "1 2 3 ")]
    assert not models.lock.locked()


def test_a_setting_that_changes_ends_the_answer_and_begins_anew(talk, clip):
    models, session = talk
    models.count = 1000
    session.show(clip)
    answer = session.answers(models, "A", "count", GREEDY)
    while next(answer).text != "1 2 ":
        pass
    assert session.turn_to("A", replace(session.sides["A"].setting, level=4.0))
    assert list(answer) == []
    assert session.sides["A"].past == []
    assert not session.turn_to("A", session.sides["A"].setting)


def test_an_abandoned_answer_gives_its_turn_back(talk, clip):
    models, session = talk
    session.show(clip)
    answer = session.answers(models, "A", "count", GREEDY)
    while next(answer).text != "1 ":
        pass
    assert models.lock.locked()
    answer.close()
    assert not models.lock.locked()


def test_visitors_share_nothing(talk, clip):
    models, session = talk
    session.show(clip)
    list(session.answers(models, "A", "what?", GREEDY))
    other = deepcopy(session)
    assert other.source is None
    assert all(side.past == [] for side in other.sides.values())
    assert other.folder != session.folder
    other.show(clip)
    list(other.answers(models, "A", "what?", GREEDY))
    assert models.encoded == 2


def test_a_visitors_file_goes_with_the_next_clip_and_others_stay(talk, clip):
    _, session = talk
    session.folder.mkdir(parents=True)
    own = session.folder / "own.mp4"
    own.write_bytes(clip.path.read_bytes())
    session.show(Source("own.mp4", own))
    session.show(clip)
    assert not own.exists()
    session.close()
    assert clip.path.exists()
    assert not session.folder.exists()


def test_only_so_many_clips_are_kept(talk, tmp_path):
    models, session = talk
    for number in range(9):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 40), (number, 0, 0)).save(path)
        session.show(Source(path.name, path))
        list(session.answers(models, "A", "what?", GREEDY))
    assert len(session._looks) == 6


# Real weights


def copied_run(folder: Path, level: float) -> Path:
    """The packaged run as one of another level."""
    run = folder / f"toy_pool{level:g}"
    run.mkdir(parents=True)
    for file in PACKAGED.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    save_experiment(run, at_level(load_experiment(PACKAGED), level))
    return run


def test_the_page_answers_as_predict_does_at_each_level(tmp_path):
    from videogpt_plus import inference
    from videogpt_plus.app.web.models import Models

    runs = {level: copied_run(tmp_path, level) for level in (2, 8)}
    offers = offers_of((load_experiment(run), run) for run in runs.values())
    models = Models(offers, inference.load)
    source = next(s for s in toy_clips(tmp_path / "clips") if s.name == "toy: motion direction")
    session = Session(tmp_path, {str(level): Setting("toy", "average", level, 8) for level in runs})
    session.show(source)
    for level, run in runs.items():
        *_, last = session.answers(models, str(level), source.question, GREEDY)
        alone = inference.load({"alone": run})
        assert last.text == "".join(alone.stream(source.question, alone.prepare(source.path)))
    assert models.is_loaded(session.sides["2"].setting)


def cinego(folder: Path, adapter: str):
    from cinego_parts import write_parts

    return with_reducer(write_parts(folder / "cinego"), adapter)


FAMILIES = {
    "llava15": (lambda folder: TOY_LLAVA15, [("average", 1), ("max", 4)]),
    "cogvlm2_image": (lambda folder: TOY_COGVLM2_IMAGE, [("average", 2), ("bilinear", 12)]),
    "cogvlm2_video": (lambda folder: TOY_COGVLM2_VIDEO, [("average", 1), ("average", 4)]),
    "cinego": (lambda folder: cinego(folder, "summary"), [("summary", 1)]),
    "cinego of concatenated frames": (lambda folder: cinego(folder, "concat"), [("concat", 1), ("average", 2)]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_published_family_answers_as_it_does_alone(family, tmp_path, monkeypatch, clip):
    """Levels and adapters are dials over weights that are loaded once."""
    from videogpt_plus import inference
    from videogpt_plus.app.web.models import Models
    from videogpt_plus.families.twin import ensure_twin

    monkeypatch.chdir(tmp_path)
    make, dials = FAMILIES[family]
    experiment = make(tmp_path)
    ensure_twin(experiment.llm)
    save_experiment(tmp_path / "run", experiment)
    models = Models(offers_of([(experiment, tmp_path / "run")]), inference.load)
    settings = [Setting(experiment.name, adapter, level, experiment.num_frames) for adapter, level in dials]
    session = Session(tmp_path, {str(i): setting for i, setting in enumerate(settings)})
    session.show(clip)
    for side, (adapter, level) in zip(session.sides, dials, strict=True):
        *_, last = session.answers(models, side, "What is it?", GREEDY)
        own = at_level(with_reducer(experiment, adapter), level)
        save_experiment(tmp_path / side, own)
        alone = inference.load({"alone": tmp_path / side})
        assert last.text == "".join(alone.stream("What is it?", alone.prepare(clip.path)))
        seen = session.look(models.offers[experiment.name].run(session.sides[side].setting)[0])
        assert "<svg" in drawing.pooled(seen.pictures, own, 0)
    assert len(models._loaded) == 1


def test_the_model_not_asked_for_longest_makes_room(tmp_path):
    from videogpt_plus.app.web.models import Models

    loaded = []
    two = offers_of([(at_level(TOY, 2), Path("a")), (LLAVA15_7B, Path("b")), (COGVLM2_VIDEO, Path("c"))])
    models = Models(two, lambda runs: loaded.append(list(runs)) or object(), most=2)
    settings = [offer.default() for offer in two.values()]
    for i in (0, 1, 0, 2, 0):
        models.load(settings[i])
    assert loaded == [["a"], ["b"], ["c"]]
    assert not models.is_loaded(settings[1])
