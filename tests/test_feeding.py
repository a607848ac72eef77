"""Clips made ready ahead: the same as without, in order, bounded, and whatever a decoder does."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from copy import copy
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import coded_frames, render_mp4
from feeding_jobs import DiesAtTheStart, prepare
from PIL import Image

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.decoders import DECODERS
from videogpt_plus.clips.prefetch import Job, Prefetcher, Preparation, shuffled
from videogpt_plus.config.experiment import Sampling
from videogpt_plus.io.time_limit import within
from videogpt_plus.types import ClipError, UserError, Visual

TESTS = Path(__file__).parent


def jobs(*names: object) -> list[Job]:
    return [Job(str(name)) for name in names]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not yet asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon(happens) -> bool:
    end = time.monotonic() + 20
    while not happens() and time.monotonic() < end:
        time.sleep(0.05)
    return happens()


# What happens to one clip.


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """a.mp4 (20 frames), bad.mp4, a.png (20 x 48) and a folder of six frames."""
    folder = tmp_path_factory.mktemp("media")
    render_mp4(folder / "a.mp4", coded_frames(20), 10)
    (folder / "bad.mp4").write_bytes(b"no video")
    Image.fromarray(np.full((20, 48, 3), 255, np.uint8)).save(folder / "a.png")
    (folder / "frames").mkdir()
    for i, frame in enumerate(coded_frames(6)):
        Image.fromarray(frame).save(folder / "frames" / f"{i}.png")
    return folder


@pytest.fixture
def preparation(tiny_experiment) -> Preparation:
    return Preparation(tiny_experiment.branches, Sampling(8))


def equal(a: Visual, b: Visual) -> bool:
    return a[1::2] == b[1::2] and all(
        x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and x[n].equal(y[n]) for n in x)
        for x, y in zip(a[::2], b[::2], strict=True)
    )


def test_one_frame_stands_for_all(preparation, media):
    whole = preparation(media / "a.mp4")
    for frame in (0, 3, 7, 8 * 1234 + 3):
        visual = preparation(media / "a.mp4", frame=frame)
        assert visual.placeholders == 8
        for name, pixels in visual.pixels.items():
            assert all(one.equal(whole.pixels[name][frame % 8]) for one in pixels)


def test_one_frame_is_never_kept(tiny_experiment, media, tmp_path):
    kept = Preparation(tiny_experiment.branches, Sampling(8), store=GridCache(tmp_path))
    assert kept(media / "a.mp4").key and kept(media / "a.mp4", frame=0).key is None


def test_pictures_of_several_sizes_are_each_made_ready_as_they_are_alone(preparation, tmp_path):
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (64, 48), (100, 30)]):
        for other in range(3):  # of a folder every third picture is taken
            picture = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / f"{3 * number + other}.png")
    together = preparation(tmp_path)
    alone = [preparation(tmp_path / f"{number}.png") for number in (0, 3, 6)]
    assert together.placeholders == 3
    for stream, pixels in together.pixels.items():
        assert torch.equal(pixels, torch.cat([visual.pixels[stream] for visual in alone]))
    assert torch.equal(preparation(tmp_path, frame=1).pixels["video"][2], alone[1].pixels["video"][0])
    shuffled = preparation(tmp_path, shuffle=5).pixels["image"]
    assert sorted(frame.sum().item() for frame in shuffled) == sorted(v.pixels["image"].sum().item() for v in alone)


def test_shuffling_shows_the_same_frames_in_an_order_fixed_by_its_number(preparation, media):
    for clip in ("a.mp4", "frames"):  # eight frames and two
        whole, orders = preparation(media / clip), set()
        for seed in range(20):
            visual = preparation(media / clip, shuffle=seed)
            order = shuffled(whole.placeholders, seed)
            assert sorted(order) == list(range(whole.placeholders)) and visual.placeholders == whole.placeholders
            for name, pixels in whole.pixels.items():  # both streams in the same order, to the bit
                assert visual.pixels[name].equal(pixels[order])
                assert visual.pixels[name].sum(0, dtype=torch.float64).allclose(pixels.sum(0, dtype=torch.float64))
            orders.add(tuple(order))
        assert len(orders) >= (2 if clip == "frames" else 19)


def test_a_shuffled_order_is_the_same_on_any_day_and_every_place_is_equally_likely():
    assert shuffled(8, 0) == [6, 4, 2, 1, 7, 5, 0, 3]
    assert shuffled(1, 5) == [0] and shuffled(0, 5) == []
    firsts = Counter(shuffled(4, seed)[0] for seed in range(2000))
    assert all(400 < firsts[i] < 600 for i in range(4))


def test_shuffled_frames_are_never_kept_nor_taken_from_a_store(tiny_experiment, media, tmp_path):
    store = GridCache(tmp_path)
    kept = Preparation(tiny_experiment.branches, Sampling(8), store=store)
    store.write(kept(media / "a.mp4").key, {name: torch.zeros(8, 3, 3, 5) for name, _ in tiny_experiment.branches})
    visual = kept(media / "a.mp4", shuffle=1)
    assert visual.key is None and not visual.grids and visual.pixels.keys() == dict(tiny_experiment.branches).keys()


def test_a_clip_that_is_not_there_is_a_clip_error_with_a_store_too(tiny_experiment, media, tmp_path):
    kept = Preparation(tiny_experiment.branches, Sampling(8), store=GridCache(tmp_path))
    with pytest.raises(ClipError, match="no such file"):
        kept(media / "none.mp4")


def test_unknown_decoder_is_refused_before_anything_is_read(tiny_experiment):
    with pytest.raises(UserError, match="unknown decoder 'cv2'; choose from: pyav, decord, torchcodec"):
        Preparation(tiny_experiment.branches, Sampling(8), decoder="cv2")


# Ahead of the model.


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_in_order_and_as_without_a_feeder(tiny_experiment, media, tmp_path, workers):
    store = GridCache(tmp_path, "bfloat16")
    kept = Preparation(tiny_experiment.branches, Sampling(8), store=store)
    grids = {n: torch.randn(8, 3, 3, 5) for n, _ in tiny_experiment.branches}
    store.write(kept(media / "a.mp4", 0, 1).key, grids)
    wanted = [
        Job(media / "a.mp4"),
        Job(media / "bad.mp4"),
        Job(media / "a.png", still="pad"),
        Job(media / "a.mp4", 0, 1),  # in the store
        Job(media / "frames"),
        Job(media / "a.mp4", frame=5),
        Job(media / "frames", shuffle=5),
        Job(media / "a.mp4", 1, 2),
    ] * 2
    with Prefetcher(kept, workers, ahead=3) as feeder:
        fed = list(feeder(wanted))
    assert len(fed) == len(wanted)
    for job, (outcome, seconds) in zip(wanted, fed, strict=True):
        assert seconds > 0
        if job.path.name == "bad.mp4":
            assert isinstance(outcome, ClipError) and "bad.mp4: the file is damaged" in str(outcome)
        else:
            assert equal(outcome, kept(*job))
    assert fed[3].outcome.grids["video"].equal(grids["video"].bfloat16()) and not fed[3].outcome.pixels


@pytest.fixture(scope="module")
def feeder():
    with Prefetcher(prepare, workers=2, ahead=4, seconds=1.5) as feeder:
        yield feeder


def numbers(fed) -> list[int | None]:
    return [None if isinstance(f.outcome, ClipError) else int(f.outcome.pixels["image"][0, 0]) for f in fed]


def test_a_clip_that_hangs_costs_its_limit_and_nothing_else(feeder):
    list(feeder(jobs("0_", "1_")))  # the processes have begun
    began = time.monotonic()
    fed = list(feeder(jobs("1_", "2_hang", *(f"{i}_" for i in range(3, 9)))))
    assert 1.5 <= time.monotonic() - began < 6
    assert numbers(fed) == [1, None, 3, 4, 5, 6, 7, 8]
    assert str(fed[1].outcome).startswith("cannot read 2_hang: not decoded within 1.5 s; ")
    assert "--clip-seconds" in str(fed[1].outcome) and fed[1].seconds == 1.5


@pytest.mark.parametrize(
    ("name", "end"), [("crash", "SIGSEGV"), ("killed", "SIGKILL"), ("exit", "exit code 3"), ("memory", "more memory")]
)
def test_a_decoder_that_brings_its_process_down_costs_its_clip(feeder, name, end):
    fed = list(feeder(jobs("1_", f"2_{name}", "3_", f"4_{name}", "5_")))
    assert numbers(fed) == [1, None, 3, None, 5]
    assert f"cannot read 2_{name}: " in str(fed[1].outcome) and end in str(fed[1].outcome)


def test_a_reader_that_was_killed_once_costs_nothing(feeder, tmp_path):
    """As where memory ran out for another's sake."""
    names = [tmp_path / "0_once", tmp_path / "1", tmp_path / "2_once"]
    assert numbers(feeder(jobs(*names))) == [0, 1, 2]


def test_a_limit_counts_from_the_beginning_of_its_clip(feeder):
    # Twelve clips of 0.3 s wait behind one another, and behind a consumer that takes longer than any limit.
    for number, fed in enumerate(feeder(jobs(*(f"{i}_slow" for i in range(12))))):
        assert fed.outcome.pixels["image"][0, 0] == number and 0.3 <= fed.seconds < 1.5
        if number == 0:
            time.sleep(2)


def test_a_clip_error_is_handed_on_and_other_errors_are_raised(feeder):
    fed = list(feeder(jobs("1_", "2_unreadable", "3_")))
    assert numbers(fed) == [1, None, 3]
    assert str(fed[1].outcome) == "cannot read 2_unreadable: it is damaged; download it again"
    odd = list(feeder(jobs("1_", "2_odd", "3_")))
    assert numbers(odd) == [1, None, 3]
    assert str(odd[1].outcome).startswith("cannot read 2_odd: ZeroDivisionError: of all things; ")
    with pytest.raises(UserError, match="^the encoder is unknown; choose another$"):
        list(feeder(jobs("1_", "2_wrong", "3_")))
    with pytest.raises(RuntimeError, match=r"2_bug could not be prepared:\n(.|\n)*NameError: of all things"):
        list(feeder(jobs("1_", "2_bug", "3_")))
    assert numbers(feeder(jobs("1_", "2_"))) == [1, 2]


@pytest.mark.parametrize(("workers", "ahead"), [(2, 4), (3, 1), (1, 3)])
def test_not_more_clips_wait_than_asked_however_slow_their_consumer(tmp_path, workers, ahead):
    with Prefetcher(prepare, workers, ahead) as feeder:
        fed = feeder(jobs(*(tmp_path / f"{i}_" for i in range(20))))
        for taken in (1, 2, 3):
            next(fed)
            assert soon(lambda taken=taken: len(list(tmp_path.iterdir())) == taken + ahead - 1)
            time.sleep(0.2)
            assert len(list(tmp_path.iterdir())) == taken + ahead - 1
        assert len(list(fed)) == 17


def test_jobs_are_taken_as_they_are_needed(feeder):
    taken = []
    fed = feeder(taken.append(i) or Job(f"{i}_") for i in range(100))
    assert taken == []
    next(fed)
    assert len(taken) == 4


def test_processes_are_many_and_of_one_thread_and_share_no_memory(feeder):
    fed = list(feeder(jobs(*(f"{i}_slow" for i in range(6)))))
    assert len({f.outcome.placeholders for f in fed}) == 2 and os.getpid() not in {f.outcome.placeholders for f in fed}
    assert {int(f.outcome.pixels["threads"]) for f in fed} == {1}
    assert not any(tensor.is_shared() for f in fed for tensor in f.outcome.pixels.values())


def test_an_early_end_leaves_no_process(tmp_path):
    with Prefetcher(prepare, workers=2, ahead=6, seconds=None) as feeder:
        pids = {f.outcome.placeholders for f in feeder(jobs("0_slow", "1_slow"))}
        fed = feeder(jobs("1_", *(f"{i}_hang" for i in range(2, 20))))
        next(fed)
        assert len(pids) == 2 and all(map(alive, pids))
    assert not any(map(alive, pids))


def test_a_second_round_after_an_abandoned_one(feeder):
    first = feeder(jobs(*(f"{i}_" for i in range(20))))
    next(first)
    first.close()
    assert numbers(feeder(jobs(*(f"{i}_" for i in range(30, 36))))) == [*range(30, 36)]


def test_without_workers_the_calling_process_does_it_when_asked(tmp_path):
    with Prefetcher(prepare, workers=0) as feeder:
        fed = feeder(jobs(tmp_path / "0_slow", tmp_path / "1_unreadable", tmp_path / "2_"))
        assert list(tmp_path.iterdir()) == []
        first = next(fed)
        assert first.outcome.placeholders == os.getpid() and first.seconds >= 0.3
        assert [p.name for p in tmp_path.iterdir()] == ["0_slow"]
        assert numbers(fed) == [None, 2]


def test_without_workers_a_clip_that_hangs_costs_its_limit_as_well():
    with Prefetcher(prepare, workers=0, seconds=0.2) as feeder:
        hung, good = feeder(jobs("0_hang", "1_"))
    assert "0_hang: not decoded within 0.2 s; raise --clip-seconds" in str(hung.outcome) and hung.seconds < 5
    assert isinstance(hung.outcome, ClipError) and numbers([good]) == [1]


def test_a_decoder_that_hangs_costs_its_limit_where_no_process_reads(preparation, media, monkeypatch):
    monkeypatch.setitem(sys.modules, "hanging", SimpleNamespace(read=lambda *_: time.sleep(600)))
    monkeypatch.setitem(DECODERS, "hanging", "hanging")
    hanging = copy(preparation)
    hanging.seconds, hanging.decoder = 0.2, "hanging"
    began = time.perf_counter()
    with pytest.raises(ClipError, match="a.mp4: not decoded within 0.2 s"):
        hanging(media / "a.mp4")
    assert time.perf_counter() - began < 5


def test_a_pipe_is_refused_at_once_with_a_store_as_well(tiny_experiment, tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match="no regular file but a pipe"):
        Preparation(tiny_experiment.branches, Sampling(8), store=GridCache(tmp_path / "store"))(tmp_path / "a.mp4")


def test_work_within_a_limit_gives_and_raises_what_it_would_without():
    assert within(5, "a", divmod, 7, 2) == within(None, "a", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(5, "a", divmod, 7, 0)
    count = threading.active_count()
    within(5, "a", int)
    assert threading.active_count() == count


def test_a_process_that_ends_when_it_begins_is_not_blamed_on_a_clip():
    with (
        Prefetcher(DiesAtTheStart(), workers=1) as feeder,
        pytest.raises(UserError, match=r"ended when it began \(exit code 4\).*0 workers"),
    ):
        list(feeder(jobs("1_")))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": -1}, "workers -1 is not possible: give at least 0"),
        ({"ahead": 0}, "ahead 0 is not possible: give at least 1"),
        ({"seconds": 0}, "0 seconds a clip are not possible"),
    ],
)
def test_impossible_numbers_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        Prefetcher(prepare, **wrong)


def test_a_preparation_can_be_pickled(preparation, media):
    assert equal(pickle.loads(pickle.dumps(preparation))(media / "a.mp4"), preparation(media / "a.mp4"))


# The end of the whole.

PARENT = """
import sys
sys.path.insert(0, {tests!r})
from feeding_jobs import prepare
from videogpt_plus.clips.prefetch import Job, Prefetcher

if __name__ == "__main__":
    with Prefetcher(prepare, workers=2, ahead=4, seconds=None) as feeder:
        {before}
        for fed in feeder([Job(name) for name in ("0_slow", "1_slow", "2_hang", "3_hang", "4_hang")]):
            print("fed", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize(("ended_by", "fed"), [(signal.SIGINT, 2), (signal.SIGINT, 0), (signal.SIGKILL, 2)])
def test_the_end_of_the_parent_is_the_end_of_all(tmp_path, ended_by, fed):
    """Ctrl-C reaches the whole group of processes; SIGKILL the parent alone, while its workers hang."""
    script, mark = tmp_path / "parent.py", f"{tmp_path.name}-{os.getpid()}"
    before = "" if fed else "print('begun', flush=True)"
    script.write_text(PARENT.format(tests=str(TESTS), before=before))
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MARK": mark, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # A shell's background jobs are born deaf to Ctrl-C, and so are the tests there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(max(1, fed)):
        assert run.stdout.readline()
    assert soon(lambda: len(_marked(mark)) >= (4 if fed else 1))  # parent, fork server and workers
    if ended_by == signal.SIGINT:
        os.killpg(run.pid, signal.SIGINT)
    else:
        run.kill()
    _, stderr = run.communicate(timeout=30)
    assert soon(lambda: _marked(mark) == [])
    if ended_by == signal.SIGINT:
        assert stderr.count("Traceback") == 1 and stderr.rstrip().endswith("KeyboardInterrupt"), stderr


def _marked(mark: str) -> list[int]:
    """The living processes that inherited MARK."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes() and alive(int(process.name)):
                found.append(int(process.name))
        except OSError:  # another user's, or ended meanwhile
            continue
    return found


def test_early_jobs_do_not_wait_for_late_ones(feeder):
    began = time.monotonic()
    first = next(islice(feeder(jobs("0_", *(f"{i}_slow" for i in range(1, 9)))), 1))
    assert int(first.outcome.pixels["image"][0, 0]) == 0 and time.monotonic() - began < 1


BEGINS = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from multiprocessing import forkserver
from feeding_jobs import prepare
from videogpt_plus.clips.prefetch import Job, Prefetcher

connect = forkserver.connect_to_new_process

def die(fds):
    connect(fds)  # the reader begins, and waits for what it is to do
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    forkserver.connect_to_new_process = die
    with Prefetcher(prepare, workers=1) as feeder:
        list(feeder([Job("0")]))
"""


def test_a_reader_whose_parent_is_killed_while_it_begins_says_nothing(tmp_path):
    (tmp_path / "parent.py").write_text(BEGINS.format(tests=str(TESTS)))
    run = subprocess.run([sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL and run.stderr == ""  # it is read until the last reader has ended
