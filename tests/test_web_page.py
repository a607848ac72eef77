"""The page in a headless Chromium, with real models behind it: click, upload, ask, compare, stop."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import fork_server
import numpy as np
import pytest
from PIL import Image

from tests.clips import coded_frames, render_mp4
from tests.faults.pictures import BLUE, FOREIGN, GREEN, RED, YELLOW, animation, bomb, corners
from tests.test_web import copied_run
from videogpt_plus.app.web.clips import toy_clips
from videogpt_plus.app.web.server import check_address
from videogpt_plus.app.web.settings import Limits, offers_of
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.types import UserError

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'videogpt_plus[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright: in the extra dev")
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; Debian: apt install chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
CORNERS = (RED, GREEN, BLUE, YELLOW)
#: Milliseconds that a busy machine may take for one step.
PATIENCE = 120_000
#: What a model might write, and no browser may follow.
MARKUP = "![x](http://elsewhere.invalid/a.png) <img src='http://elsewhere.invalid/b.png'> "


@contextmanager
def serving(folder: Path, visitors: Path):
    """The address of a page with the packaged toy at levels 2 and 8; a question that begins with "count" gets slow
    numbers without end, "markup" gets MARKUP."""
    from videogpt_plus import inference
    from videogpt_plus.app.web.models import Models
    from videogpt_plus.app.web.server import served

    class Slow(Models):
        def stream(self, setting, question, visual, past, generation_config):
            if question.startswith("markup"):
                yield MARKUP
            elif question.startswith("count"):
                for number in range(1, 10_000):
                    time.sleep(0.1)
                    yield f"{number} "
            else:
                yield from super().stream(setting, question, visual, past, generation_config)

    runs = [copied_run(folder / "runs", level) for level in (2, 8)]
    models = Slow(offers_of((load_experiment(run), run) for run in runs), inference.load)
    with served(models, toy_clips(folder / "clips"), visitors, Limits(megabytes=2), sweep_every=1) as url:
        yield url


@pytest.fixture(scope="module")
def visitors(tmp_path_factory):
    """Where the server keeps what visitors bring."""
    return tmp_path_factory.mktemp("visitors")


@pytest.fixture(scope="module")
def url(tmp_path_factory, visitors):
    with serving(tmp_path_factory.mktemp("page"), visitors) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())


@pytest.fixture(scope="module")
def asked():
    """The hosts that the browser asked for anything."""
    return set()


@pytest.fixture(scope="module")
def page(browser, url, asked):
    with visit(browser, url, asked) as page:
        yield page


@contextmanager
def visit(browser, url, asked):
    """A visitor of their own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("request", lambda request: asked.add(urlparse(request.url).netloc))
    page.goto(url)
    page.wait_for_selector("#question textarea")
    yield page
    context.close()


def pick(page, name):
    page.fill("#question textarea", "")
    page.click("#pick input")
    page.get_by_role("option", name=name).click()
    page.wait_for_function("name => document.querySelector('#question textarea').value.includes('Options')", arg=name)
    page.wait_for_selector("#strip-A img")


def ask(page, question):
    page.fill("#question textarea", question)
    page.click("#send")


def said(page, side="A"):
    """The last reply of a side, whole or not; nothing before there is one."""
    replies = page.locator(f"#chat-{side} .message.bot")
    return replies.last.inner_text().strip() if replies.count() else ""


def until(condition, seconds=PATIENCE / 1000):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def figure(page, side, name):
    return page.locator(f'#figures-{side} [data-figure="{name}"] dd').inner_text()


def wait_until_asked(page, side="A"):
    """Until a side has a reply with its costs."""
    until(lambda: figure(page, side, "first token") not in ("", "–"))


@needs_browser
def test_a_picked_clip_is_shown_and_answered(page):
    pick(page, "toy: motion direction")
    assert page.locator("#strip-A img").count() == 8
    assert page.locator("#grid-A svg").count() == 4  # two streams, each under its grid and as it is pooled
    assert "12×12 patches → 6×6 = 36 tokens" in page.inner_text("#grid-A")
    assert figure(page, "A", "visual tokens") == "416"
    page.click("#send")
    wait_until_asked(page)
    until(lambda: said(page) in ("(A)", "(B)", "(C)", "(D)"))
    assert page.input_value("#question textarea") == ""


@needs_browser
def test_a_click_on_a_frame_draws_its_grid(page):
    pick(page, "toy: appearance count")
    before = page.inner_html("#grid-A")
    page.locator("#strip-A button").nth(7).click()
    until(lambda: page.locator("#strip-A button").nth(7).get_attribute("aria-pressed") == "true")
    assert page.inner_html("#grid-A") != before


@needs_browser
def test_a_conversation_has_turns_and_can_start_over(page):
    pick(page, "toy: dot in row")
    page.click("#send")
    wait_until_asked(page)
    ask(page, "markup")
    until(lambda: page.locator("#chat-A .message.user").count() == 2 and said(page) == MARKUP.strip())  # as text
    page.click("#clear")
    until(lambda: page.locator("#chat-A .message.user").count() == 0)
    assert page.locator("#strip-A img").count() == 8  # the clip stays


@needs_browser
def test_two_settings_stand_side_by_side(page):
    page.check("#compare input")
    page.wait_for_selector("#panel-B", state="visible")
    until(lambda: figure(page, "B", "visual tokens") == "40")
    pick(page, "toy: large color")
    page.click("#send")
    wait_until_asked(page, "A")
    wait_until_asked(page, "B")
    assert figure(page, "A", "visual tokens") == "416"
    assert figure(page, "B", "encoding") == "kept"  # the other side has encoded the clip
    assert figure(page, "A", "memory").endswith("B")
    assert figure(page, "A", "KV cache") != figure(page, "B", "KV cache")
    assert "12×12 patches → 2×2 = 4 tokens" in page.inner_text("#grid-B")
    left, right = (page.locator(f"#panel-{side}").bounding_box() for side in "AB")
    assert left["x"] + left["width"] <= right["x"]
    page.uncheck("#compare input")
    page.wait_for_selector("#panel-B", state="hidden")


@needs_browser
def test_another_level_begins_a_new_conversation_and_draws_another_grid(page):
    pick(page, "toy: cell of color")
    page.click("#level-A input")
    page.get_by_role("option", name="8: 2×2 + 1×1").click()
    until(lambda: figure(page, "A", "visual tokens") == "40")
    assert page.locator("#chat-A .message.user").count() == 0
    assert "12×12 patches → 2×2 = 4 tokens" in page.inner_text("#grid-A")


@needs_browser
def test_a_level_that_was_not_trained_is_refused(page):
    page.fill("#level-A input", "3")
    page.press("#level-A input", "Enter")
    until(lambda: "not trained with adapter 'average' at level 3" in page.inner_text("#message"))
    until(lambda: page.input_value("#level-A input") in ("2: 6×6 + 4×4", "8: 2×2 + 1×1"))


@needs_browser
def test_fewer_frames_are_fewer_tokens(page):
    pick(page, "toy: large shape")
    whole = int(figure(page, "A", "visual tokens"))
    page.fill("#frames-A input[type=number]", "4")
    page.press("#frames-A input[type=number]", "Enter")
    until(lambda: int(figure(page, "A", "visual tokens")) == whole // 2)
    assert page.locator("#strip-A img").count() == 4


@needs_browser
def test_stop_ends_an_answer_and_keeps_what_was_said(page):
    pick(page, "toy: color order")
    ask(page, "count")
    until(lambda: " 3 " in said(page) + " ")
    page.click("#stop")
    time.sleep(2)
    stopped = said(page)
    assert stopped.startswith("1 2 3")
    time.sleep(2)
    assert said(page) == stopped
    ask(page, "markup")  # the models are free again
    until(lambda: "elsewhere" in said(page))


@needs_browser
def test_an_uploaded_clip_is_shown_and_its_file_goes_with_the_next(page, visitors, tmp_path):
    path = render_mp4(tmp_path / "my clip.mp4", coded_frames(50))
    page.set_input_files("#upload input[type=file]", path)
    until(lambda: "my clip.mp4 is shown" in page.inner_text("#message"))
    assert page.locator("#strip-A img").count() == int(page.input_value("#frames-A input[type=number]"))
    assert len(list(visitors.rglob("*.mp4"))) == 1
    picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "noise.png")
    page.set_input_files("#upload input[type=file]", tmp_path / "noise.png")
    until(lambda: "noise.png is shown" in page.inner_text("#message"))
    assert page.locator("#strip-A img").count() == 1
    assert [path.suffix for path in visitors.rglob("*.*")] == [".png"]
    ask(page, "What is it?")
    wait_until_asked(page)


@needs_browser
def test_a_bad_file_is_a_line_and_the_clip_stays(page, visitors, tmp_path):
    pick(page, "toy: color of shape")
    frames = page.locator("#strip-A img").count()
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    page.set_input_files("#upload input[type=file]", tmp_path / "bad.mp4")
    until(lambda: "cannot read bad.mp4" in page.inner_text("#message"))
    assert "\n" not in page.inner_text("#message").strip()
    assert str(visitors) not in page.inner_text("#message")
    assert page.locator("#strip-A img").count() == frames
    assert list(visitors.rglob("*.mp4")) == []


@needs_browser
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eps.png", "it is a picture in the format PostScript, and only JPEG, PNG, WebP, BMP and GIF are read"),
        ("bomb.png", "60000 x 60000 pixels are more than"),
        ("photo.heic", "it is a picture in the format HEIC"),
        ("broken.jpg", "the image cannot be read"),
        ("large.avi", "its frames of 17 megapixels are over the limit of 10"),
    ],
)
def test_what_cannot_be_shown_is_a_line_and_no_fault_of_the_page(page, tmp_path, name, said):
    path = tmp_path / name
    if name == "large.avi":
        render_mp4(path, np.zeros((2, 4096, 4096, 3), np.uint8), options={"preset": "ultrafast"})
    else:
        made = {
            "eps": FOREIGN["PostScript"],
            "bomb": bomb("PNG"),
            "photo": FOREIGN["HEIC"],
            "broken": b"\xff\xd8\xff\0",
        }
        path.write_bytes(made[path.stem])
    statuses = []
    page.on("response", lambda response: statuses.append(response.status))
    page.set_input_files("#upload input[type=file]", path)
    until(lambda: f"cannot read {name}" in page.inner_text("#message") and said in page.inner_text("#message"))
    assert statuses and max(statuses) < 400


@needs_browser
def test_an_animation_is_shown_as_a_clip_and_a_turned_picture_upright(page, tmp_path):
    page.set_input_files("#upload input[type=file]", animation(tmp_path / "moves.webp"))
    until(lambda: "moves.webp is shown" in page.inner_text("#message"))
    assert page.locator("#strip-A img").count() == int(page.input_value("#frames-A input[type=number]"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(corners(64, 64), 1).copy()).save(tmp_path / "turned.png", exif=exif)
    page.set_input_files("#upload input[type=file]", tmp_path / "turned.png")
    until(lambda: "turned.png is shown" in page.inner_text("#message"))
    source = page.locator("#strip-A img").first.get_attribute("src")
    shown = np.asarray(Image.open(io.BytesIO(b64decode(source.partition(",")[2]))).convert("RGB")).astype(int)
    side = len(shown) - 3
    for (y, x), colour in zip(((2, 2), (2, side), (side, side), (side, 2)), CORNERS, strict=True):
        assert abs(shown[y, x] - colour).max() < 40


@needs_browser
def test_a_file_over_the_limit_is_refused(page, tmp_path):
    (tmp_path / "large.mp4").write_bytes(b"0" * 3_000_000)
    page.set_input_files("#upload input[type=file]", tmp_path / "large.mp4")
    page.wait_for_selector("text=/exceeds|too large|over the limit|maximum/i")


@needs_browser
def test_nothing_is_asked_without_a_clip_and_visitors_share_nothing(page, browser, url, asked):
    pick(page, "toy: square of color")
    ask(page, "markup")
    until(lambda: "elsewhere" in said(page))
    with visit(browser, url, asked) as other:
        assert other.locator("#strip-A img").count() == 0
        assert other.locator("#chat-A .message.user").count() == 0
        ask(other, "what?")
        until(lambda: "Choose or upload a clip first." in other.inner_text("#message"))


@needs_browser
def test_a_visitor_who_leaves_in_the_middle_holds_nobody_up(page, browser, url, asked):
    with visit(browser, url, asked) as other:
        pick(other, "toy: color order")
        ask(other, "count")
        until(lambda: " 2 " in said(other) + " ")
    pick(page, "toy: motion direction")
    ask(page, "markup")
    until(lambda: page.locator("#chat-A .message.bot").count() and "elsewhere" in said(page))


@needs_browser
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_fits_its_width_and_nothing_overlaps(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.check("#compare input")
    page.wait_for_selector("#panel-B", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for side in "AB":
        parts = [f"#{part}-{side}" for part in ("model", "level", "strip", "grid", "figures", "chat")]
        boxes = [page.locator(part).bounding_box() for part in parts]
        for above, below in zip(boxes[1:], boxes[2:], strict=False):
            apart = above["y"] + above["height"] <= below["y"] + 1 or above["x"] + above["width"] <= below["x"] + 1
            assert apart, (above, below)
    page.uncheck("#compare input")


@needs_browser
def test_no_other_host_is_asked(page, asked, url):
    """Runs behind all others: every request of every visitor was noted, and models wrote addresses of pictures."""
    assert asked - {""} == {urlparse(url).netloc}


def test_what_is_served_names_no_other_host(url):
    with urlopen(url) as answer:
        text, headers = answer.read().decode(), answer.headers
    own = urlparse(url).netloc
    addresses = {part.split("/")[0] for scheme in ("http://", "https://") for part in text.split(scheme)[1:]}
    assert {address.split('"')[0] for address in addresses} <= {own}
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["gradio_api/file=/etc/passwd", "gradio_api/vibe-edit/", "monitoring/summary", "gradio_api/info", "runs"]
)
def test_addresses_that_the_page_does_not_need_are_closed(url, path):
    with pytest.raises(HTTPError, match="404"):
        urlopen(url + path)


def test_a_page_of_another_name_does_not_pass_for_this_one(url):
    """A name of somebody else's that leads to the loopback address, as in DNS rebinding."""
    assert urlopen(Request(url, headers={"Host": f"localhost:{urlparse(url).port}"})).status == 200
    with pytest.raises(HTTPError, match="404"):
        urlopen(Request(url, headers={"Host": "elsewhere.invalid"}))


def upload(url, **headers):
    """Status of an upload as a browser sends it, with these headers."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = Request(url + "gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x", **told})
    try:
        return urlopen(sent).status
    except HTTPError as error:
        return error.code


def test_a_page_of_another_host_uploads_nothing(url, visitors):
    before = list(visitors.rglob("a.png"))
    own = f"http://{urlparse(url).netloc}"
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        assert upload(url, **headers) == 403
    assert upload(url, Origin="http://evil.example", Host="evil.example") == 404
    assert list(visitors.rglob("a.png")) == before
    assert upload(url, Origin=own, Sec_Fetch_Site="same-origin") == 200


def test_an_upload_that_nobody_shows_goes_though_nobody_uses_the_page(url, visitors):
    assert upload(url) == 200
    (path,) = visitors.rglob("a.png")
    os.utime(path, (0, 0))
    until(lambda: not path.exists(), 30)


def test_a_body_that_is_too_large_is_cut_off_and_leaves_nothing(url, visitors):
    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    sent = Request(url + "gradio_api/upload", parts(), {"Content-Type": "multipart/form-data; boundary=x"})
    with pytest.raises((HTTPError, OSError)) as caught:
        urlopen(sent)
    assert getattr(caught.value, "code", 413) == 413
    assert list(visitors.rglob("large.png")) == []


def test_an_address_of_another_machine_is_refused_at_once():
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(UserError, match=f"cannot listen at {host}: "):
            check_address(host, None)


def test_a_taken_port_is_one_line(url, tmp_path):
    from videogpt_plus.app.web.server import served

    port = urlparse(url).port
    models = type("None", (), {"offers": offers_of([(load_experiment(copied_run(tmp_path, 2)), tmp_path)])})()
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}"), served(models, [], tmp_path, port=port):
        pass


def test_the_command_serves_a_named_run_and_cleans_up_when_it_is_ended(tmp_path):
    (tmp_path / "files").mkdir()
    command = [sys.executable, "-m", "videogpt_plus", "web", str(copied_run(tmp_path, 4))]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "files")}
    process = fork_server.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    try:
        line = process.stdout.readline()
        assert line.startswith("the page is at http://127.0.0.1:"), line
        with urlopen(line.split()[4]) as answer:
            assert answer.status == 200
        assert list((tmp_path / "files").glob("videogpt-plus-web-*/toy"))
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert list((tmp_path / "files").glob("videogpt-plus-web-*")) == []


def test_without_gradio_one_line_says_what_to_install(tmp_path, monkeypatch):
    from videogpt_plus.app.web.server import served
    from videogpt_plus.types import UserError

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'videogpt_plus\[web\]'"), served(None, [], tmp_path):
        pass


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--port", "0"], "--port 0"),
        (["--loaded", "0"], "--loaded 0"),
        (["--clips", "nowhere"], "nowhere"),
        (["--names", "https://gpu.example"], "--names https://gpu.example is no name of a host"),
        (["--waiting", "0"], "a limit of 0 waiting"),
    ],
)
def test_impossible_settings_are_one_line(flags, told, capsys):
    from videogpt_plus.app.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["web", *flags])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
