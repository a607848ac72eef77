"""A dot in a clip's name is not its ending, for whoever reads annotations."""

from __future__ import annotations

import pytest

from videogpt_plus.clips.names import ending_of, with_ending, without_ending
from videogpt_plus.training.cinego.features import find_features
from videogpt_plus.types import UserError


@pytest.mark.parametrize(
    ("name", "bare", "ending"),
    [
        ("clip.v1.5", "clip.v1.5", ""),
        ("clip.v1.5.mp4", "clip.v1.5", ".mp4"),
        ("a.b/clip", "a.b/clip", ""),
        ("clip.WebM", "clip", ".WebM"),
        ("a.mp4.b", "a.mp4.b", ""),
        (".mp4", ".mp4", ""),
        ("", "", ""),
    ],
)
def test_an_ending_is_what_a_video_or_picture_ends_in(name, bare, ending):
    assert (without_ending(name), ending_of(name)) == (bare, ending)
    assert with_ending(name, ".mkv") == f"{bare}.mkv"


def test_stored_features_of_clips_with_dots_in_their_names_are_not_mixed_up(tmp_path):
    media = ["frames/clip.v1.4", "frames/clip.v1.5", "videos/clip.v1.6.mp4"]
    found = find_features(media, tmp_path)
    assert found == {path: str(tmp_path / f"clip.v1.{i}.npy") for path, i in zip(media, "456", strict=True)}
    with pytest.raises(UserError, match="would both have the features"):
        find_features(["a/x.mp4", "b/x.jpg"], tmp_path)
