"""Which frames CogVLM2-Video takes of a real file, by both of its rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import coded_frames, read_code, render_mp4

from videogpt_plus.clips.video import each_second_indices, even_indices, read_clip
from videogpt_plus.config.experiments import COGVLM2_IMAGE, COGVLM2_VIDEO, TOY
from videogpt_plus.types import Clip, ClipError


def codes(clip: Clip) -> list[int]:
    return [read_code(frame.numpy()) for frame in clip.frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Five seconds at ten frames a second."""
    return render_mp4(tmp_path_factory.mktemp("clips") / "a.mp4", coded_frames(50), 10)


def test_one_frame_a_second_has_its_number_as_its_time(clip):
    taken = read_clip(clip, 24, sampling="each_second")
    assert codes(taken) == [0, 10, 20, 30, 40, 49]
    assert [round(second) for second in taken.seconds] == list(range(6))
    assert codes(read_clip(clip, 3, sampling="each_second")) == [0, 10, 20]


def test_even_frames_are_always_as_many_as_asked(clip):
    assert codes(read_clip(clip, 4, sampling="even")) == [0, 16, 32, 49]
    assert len(codes(read_clip(clip, 60, sampling="even"))) == 60


def test_bounds_begin_the_seconds_anew(clip):
    assert codes(read_clip(clip, 24, 2, 4, sampling="each_second")) == [20, 30, 39]
    assert codes(read_clip(clip, 3, 2, 4, sampling="even")) == [20, 29, 39]
    with pytest.raises(ClipError, match="nothing of its"):
        read_clip(clip, 3, 20, 30, sampling="each_second")


def test_at_a_variable_rate_a_second_is_a_second(tmp_path):
    ticks = [50 * i for i in range(20)] + [1000 * i for i in range(1, 5)]
    path = render_mp4(tmp_path / "a.mp4", coded_frames(24), 20, ticks=ticks)
    assert codes(read_clip(path, 24, sampling="each_second")) == [0, 20, 21, 22, 23]


def test_a_tie_takes_the_earlier_frame_and_half_a_second_is_one_frame():
    assert each_second_indices([0.5, 1.5, 2.5], 24) == [0, 0, 1]
    assert each_second_indices([0.0, 0.25, 0.5], 24) == [0]


def test_a_long_clip_gives_its_first_minute_or_its_first_frames():
    assert even_indices(90 * 25, 25, 24)[-1] == 60 * 25 - 1
    assert each_second_indices([i / 25 for i in range(90 * 25)], 24) == [25 * second for second in range(24)]


def test_the_rule_is_the_encoders_own():
    chosen = {e.name: e.sampling.rule for e in (COGVLM2_VIDEO, COGVLM2_IMAGE, TOY)}
    assert chosen == {"cogvlm2_video": "each_second", "cogvlm2_image": "spread", "toy": "spread"}
