"""Files that visitors bring: what is read of them before they are taken, where that is done, and how long they stay."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import coded_frames, render_mp4
from tests.faults.pictures import FOREIGN, animation, bomb
from videogpt_plus.app.web import clips, faults
from videogpt_plus.app.web.apart import Readers
from videogpt_plus.app.web.clips import Source, check_file
from videogpt_plus.app.web.page import Page
from videogpt_plus.app.web.settings import DEFAULT_LIMITS, Limits
from videogpt_plus.app.web.uploads import Uploads
from videogpt_plus.clips.decoders import declared, pyav, timeline
from videogpt_plus.config.experiments import TOY
from videogpt_plus.types import ClipError, UserError

# What is read before a file is taken


@pytest.fixture
def headers_alone(monkeypatch):
    """Fails where a picture is decoded, or the frames of a video are counted."""

    def refuse(*_):
        raise AssertionError("more than the header was read")

    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr(timeline, "Timeline", refuse)
    monkeypatch.setattr(pyav, "read", refuse)


def large_video(path: Path, side: int = 4096, **options) -> Path:
    return render_mp4(path, np.zeros((3, side, side, 3), np.uint8), options={"preset": "ultrafast"}, **options)


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv", ".ts"])
def test_large_frames_are_refused_without_decoding_one(tmp_path, suffix, headers_alone):
    path = large_video(tmp_path / f"large{suffix}")
    began = time.perf_counter()
    with pytest.raises(ClipError, match="its frames of 17 megapixels are over the limit of 10; scale it"):
        check_file(path, path.name, DEFAULT_LIMITS)
    assert time.perf_counter() - began < 1


def test_ffmpeg_is_told_not_to_decode_large_frames_of_a_header_that_lies(tmp_path):
    """The size in the container is a claim; that of the codec's own header counts, too."""
    path = large_video(tmp_path / "lies.avi", 2048)
    content = path.read_bytes()
    true = (2048).to_bytes(4, "little") * 2
    assert content.count(true) >= 2
    path.write_bytes(content.replace(true, (64).to_bytes(4, "little") * 2))
    assert declared.declared(path, 1e6).pixels in (64 * 64, 2048 * 2048)
    with pytest.raises(ClipError):
        check_file(path, path.name, Limits(frame_megapixels=1))
        clips.look(Source("lies.avi", path), TOY)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "JPEG", "BMP"])
def test_a_picture_bomb_is_refused_by_its_header(tmp_path, form, headers_alone):
    for side, told in ((60_000, "60000 x 60000 pixels|3600000000"), (8_000, "64 megapixels are over the limit of 50")):
        path = tmp_path / f"bomb{'.gif' if form == 'GIF' else '.png'}"
        path.write_bytes(bomb(form, side))
        with pytest.raises(ClipError, match=told):
            check_file(path, "bomb", DEFAULT_LIMITS)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_has_the_limits_of_a_video(tmp_path, suffix, request):
    path = animation(tmp_path / f"moves{suffix}", duration=30_000)
    request.getfixturevalue("headers_alone")
    assert check_file(path, "moves", Limits(minutes=4)).name == "moves"
    with pytest.raises(ClipError, match="its 4 minutes are over the limit of 3"):
        check_file(path, "moves", Limits(minutes=3))
    with pytest.raises(ClipError, match="megapixels are over the limit of 0.0009"):
        check_file(path, "moves", Limits(frame_megapixels=0.0009))  # of 40 x 24 pixels


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.heic", "a.mp4"])
def test_other_formats_are_named(tmp_path, form, name, headers_alone):
    path = tmp_path / f"secret-{name}"
    path.write_bytes(FOREIGN[form])
    with pytest.raises(ClipError, match=f"cannot read {name}: it is a picture in the format {form}"):
        check_file(path, name, DEFAULT_LIMITS)


def test_a_picture_is_shown_as_it_is_predicted(tmp_path):
    """Upright, and padded as the model's stills are; an animation is a clip."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), (200, 100, 50)).save(tmp_path / "turned.jpg", exif=exif)
    seen = clips.look(Source("turned.jpg", tmp_path / "turned.jpg"), TOY)
    (picture,) = seen.pictures["image"]
    side = len(picture)
    assert abs(picture[5, side // 2].astype(int) - (200, 100, 50)).max() < 10  # tall: it reaches the upper edge,
    assert abs(picture[side // 2, 5].astype(int) - (122, 116, 104)).max() < 10  # and is padded at the left
    moves = clips.look(Source("moves", animation(tmp_path / "moves.webp")), TOY)
    assert moves.seconds == (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5) and len(moves.pictures["image"]) == 8


# In a process of its own


@pytest.fixture(scope="module")
def read():
    return Readers()


def hang(seconds: float) -> None:
    time.sleep(seconds)


def fill(size: int) -> int:
    return len(bytearray(size))


def crash() -> None:
    os._exit(1)


def fault() -> None:
    raise KeyError("no file should raise this")


def test_what_is_read_comes_back(read):
    assert read(divmod, 7, 2, name="seven", seconds=60) == (3, 1)


def test_what_hangs_costs_its_time_and_no_more(read):
    began = time.perf_counter()
    with pytest.raises(ClipError, match="cannot read slow.mp4: it was not read within 0.5 s; cut it shorter"):
        read(hang, 60, name="slow.mp4", seconds=0.5)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("work", "given", "told"),
    [
        (fill, (2**30,), "cannot read a.mp4: it takes more memory than it may"),
        (crash, (), "cannot read a.mp4: its decoder brought the process down"),
        (fault, (), r"cannot read a.mp4: it could not be read \(KeyError\)"),
    ],
)
def test_what_goes_wrong_in_there_is_one_line(read, work, given, told, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(ClipError, match=told) as caught:
        read(work, *given, name="a.mp4", seconds=60, room=2**28)
    assert "\n" not in str(caught.value)
    assert ("no file should raise this" in caplog.text) is (work is fault)


def test_what_a_file_is_refused_for_comes_back_as_it_is(read, tmp_path):
    (tmp_path / "eps.png").write_bytes(FOREIGN["PostScript"])
    with pytest.raises(ClipError, match="cannot read mine.png: it is a picture in the format PostScript"):
        read(check_file, tmp_path / "eps.png", "mine.png", DEFAULT_LIMITS, name="mine.png", seconds=60)


def test_a_clip_is_seen_as_in_the_page_s_own_process(read, tmp_path):
    source = Source("a.mp4", render_mp4(tmp_path / "a.mp4", coded_frames(50)))
    there, here = read(clips.look, source, TOY, name="a.mp4", seconds=60), clips.look(source, TOY)
    assert there.seconds == here.seconds and there.visual.placeholders == here.visual.placeholders
    for name in here.pictures:
        assert (there.pictures[name] == here.pictures[name]).all()
        assert (there.visual.pixels[name] == here.visual.pixels[name]).all()


def test_whoever_comes_when_too_many_wait_is_told_so():
    full = Readers(at_once=1, waiting=0)
    with full.line.taken(), pytest.raises(UserError, match="1 files are being read or wait for it: try again"):
        full(int, name="a.mp4", seconds=1)
    with full.line.taken():
        pass  # there is room again


# How long they stay


def arrived(uploads: Uploads, name: str, size: int = 100, age: float = 0, place: str = "incoming") -> Path:
    path = uploads.folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_uploads_go_by_age(tmp_path):
    uploads = Uploads(tmp_path, 1e6)
    old = [arrived(uploads, "hash/a.mp4", age=700), arrived(uploads, "b/a.mp4", age=25 * 3600, place="visitors")]
    new = [arrived(uploads, "tmp1", age=500), arrived(uploads, "c/a.mp4", age=20 * 3600, place="visitors")]
    other = arrived(uploads, "clip.mp4", age=1e6, place="toy")  # the page's own
    uploads.sweep()
    assert [path.exists() for path in (*old, *new, other)] == [False, False, True, True, True]


def test_uploads_go_by_size_and_the_oldest_first(tmp_path):
    uploads = Uploads(tmp_path, 250)
    files = [
        arrived(uploads, f"{age}/a.mp4", age=age, place=place)
        for age, place in ((30, "visitors"), (40, "incoming"), (10, "visitors"), (20, "incoming"))
    ]
    uploads.sweep()
    assert [path.exists() for path in files] == [False, False, True, True]
    with uploads.arriving(150):  # room for it is made before it comes
        assert [path.exists() for path in files] == [False, False, True, False]
        with pytest.raises(UserError, match="too many files are being uploaded"), uploads.arriving(150):
            pass
    with uploads.arriving(250):
        assert not any(path.exists() for path in files)


def test_uploads_are_swept_though_nobody_uses_the_page(tmp_path):
    uploads = Uploads(tmp_path, 1e6)
    with uploads.swept(every=0.05):
        old = arrived(uploads, "hash/a.mp4", age=1e5)
        end = time.monotonic() + 10
        while old.exists() and time.monotonic() < end:
            time.sleep(0.02)
    assert not old.exists()


def test_an_empty_folder_goes_too(tmp_path):
    uploads = Uploads(tmp_path, 1e6)
    gone = arrived(uploads, "hash/a.mp4", age=1e5).parent
    uploads.sweep()
    assert gone.exists()  # a file may be on its way into it
    os.utime(gone, (0, 0))
    uploads.sweep()
    assert not gone.exists()


def test_an_upload_that_is_gone_is_one_line(tmp_path):
    uploads = Uploads(tmp_path, 1e6)
    with pytest.raises(UserError, match="a.mp4 did not arrive whole: upload it again"):
        uploads.keep(tmp_path / "incoming" / "a.mp4", uploads.visitors / "me")


# What the page says


class Silent:
    """Models that nobody asks."""

    def __init__(self):
        from videogpt_plus.app.web.settings import offers_of

        self.offers = offers_of([(TOY, Path("run"))])


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    return Page(Silent(), [], Uploads(tmp_path, 1e6), Limits(waiting=1))


@pytest.fixture
def session(page):
    from videogpt_plus.app.web.talk import Session

    return Session(page.uploads.visitors, page.begin, page._look)


def test_a_shown_upload_that_was_swept_is_a_message(page, session):
    path = arrived(page.uploads, "me/a.png", place="visitors")
    Image.new("RGB", (8, 8)).save(path)
    session.show(Source("mine.png", path))
    path.unlink()
    with pytest.raises(UserError, match="cannot read mine.png: it lay here for too long, or others needed the room"):
        session.look(TOY)


def test_one_choice_that_is_told_twice_is_made_once(page, session, tmp_path):
    """As Gradio's list does, at the same time; the second would end the answer to a question asked meanwhile."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    page.sources["a"] = Source("a", tmp_path / "a.png", "What is it?")
    shown, began = [], session._round
    threads = [threading.Thread(target=lambda: shown.append(page.take_pick(session, "a"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.source == page.sources["a"] and session._round == began + 2  # of one `show`
    assert sorted("What is it?" in parts for parts in shown) == [False, True]


def test_a_click_on_a_picture_that_is_gone_is_a_message_and_no_fault(page, session):
    session.show(Source("mine.png", page.uploads.visitors / "gone.png"))
    event = type("Event", (), {"frame": 0})
    said, *rest = faults.told(page._frame_click("A"), 3)(session, event)
    assert "cannot read mine.png" in said and "error" in said and len(rest) == 2


def test_what_nobody_foresaw_is_a_message_and_a_line_in_the_log(page, session, caplog):
    session.show(Source("mine.png", page.uploads.visitors / "gone.png"))
    said, *_ = faults.told(page._frame_click("A"), 3)(session, object())  # names no frame
    assert "this could not be done (AttributeError)" in said and "AttributeError" in caplog.text


def test_the_line_of_questions_is_bounded(page, session):
    session.show(Source("mine.png", Path("a.png")))
    with page.line.taken(), page.line.taken():  # one is answered, one waits
        *_, (said, question, *_) = page.ask(session, "What?", False, 0, 0)
        assert "1 questions wait for their turn: ask again in a minute" in said and question == "What?"
    with page.line.taken():
        pass
