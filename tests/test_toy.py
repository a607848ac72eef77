"""The toy world: deterministic, answerable by construction, and lossy under pooling exactly where its tasks say."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from eval.tasks.mvbench import load_benchmark
from videogpt_plus.clips.video import read_clip
from videogpt_plus.toy import world
from videogpt_plus.toy.render import Recipe, bounds_of, ensure_toy_data, path_of, plan, prompt

SMALL = Recipe(test_per_task=3, train_per_task=2, images=4, videos=4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy") / "data"
    assert ensure_toy_data(root, SMALL)
    return root


def digests(root) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_the_same_recipe_renders_the_same_bytes(toy, tmp_path):
    ensure_toy_data(tmp_path / "again", SMALL)
    assert digests(tmp_path / "again") == digests(toy)


def test_what_is_rendered_is_left_alone_and_another_recipe_renders_anew(toy, tmp_path):
    root = tmp_path / "data"
    assert ensure_toy_data(root, SMALL)
    assert not ensure_toy_data(root, SMALL)
    assert ensure_toy_data(root, replace(SMALL, seed=21))
    assert digests(root) != digests(toy)


def test_an_interrupted_rendering_leaves_nothing_under_the_final_name(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_toy_data(tmp_path / "data", SMALL, stop)
    assert not (tmp_path / "data").exists()
    assert ensure_toy_data(tmp_path / "data", SMALL)


def test_training_and_test_share_no_scene_and_no_scene_comes_twice():
    jobs = plan(Recipe())
    scenes = [job.scene.things for job in jobs]
    assert len(set(scenes)) == len(scenes)
    counts = Counter(job.group for job in jobs if job.part == "bench")
    assert len(counts) == len(world.TASKS) >= 8
    assert min(counts.values()) >= 100


def test_the_benchmark_reads_in_mvbenchs_layout(toy):
    tasks = load_benchmark(toy / "bench")
    assert [t.name for t in tasks] == list(world.TASKS)
    examples = [e for t in tasks for e in t.examples()]
    assert len(examples) == 3 * len(world.TASKS)
    # 0000.mp4 of one task is another clip than that of the next: to statistics, too.
    assert len({e.clip for e in examples}) == len({e.path for e in examples}) == len(examples)
    assert all(len(e.candidates) == 4 and e.path.exists() for e in examples)
    assert {e.kind for e in examples} == {"video", "frames"}
    assert any(e.start is not None for e in examples)
    assert {e.group for e in examples} == {"coarse", "middle", "fine", "temporal"}


def test_training_samples_speak_the_benchmarks_words(toy):
    sample = json.loads((toy / "train/questions.json").read_text())[0]
    human, gpt = (turn["value"] for turn in sample["conversations"])
    assert human.startswith("<video>\nQuestion: ") and human.endswith("\nOnly give the best option.")
    assert gpt.startswith("(") and gpt[4:] in human


@pytest.mark.parametrize("task", world.TASKS)
def test_no_constant_reply_beats_chance_by_much(task):
    rng = np.random.default_rng(0)
    scenes = [world.TASKS[task].scene(rng) for _ in range(400)]
    letters = Counter(s.candidates.index(s.answer) for s in scenes)
    assert max(letters.values()) < 0.33 * 400
    assert all(s.answer in s.candidates and len(set(s.candidates)) == 4 for s in scenes)


def test_a_clip_sampled_at_eight_frames_shows_every_segment_once(toy):
    for job in plan(SMALL):
        if job.group == "Color Order" and job.part == "bench":
            clip = read_clip(path_of(toy, job), world.SEGMENTS)
            assert len(clip.frames) == world.SEGMENTS
            seen = [nearest_color(frame.numpy()) for frame in clip.frames]
            wanted = [next(t.color for t in job.scene.things if t.at[s]) for s in range(world.SEGMENTS)]
            assert seen == wanted


def test_bounds_show_one_colour_alone(toy):
    for job in plan(SMALL):
        if job.scene.bounds and job.part == "bench":
            clip = read_clip(path_of(toy, job), world.SEGMENTS, **bounds_of(job))
            assert len(clip.frames) == world.SEGMENTS
            assert {nearest_color(frame.numpy()) for frame in clip.frames} == {job.scene.answer}


def nearest_color(frame: np.ndarray) -> str:
    """The colour most of the bright or saturated pixels are nearest to."""
    pixels = frame.reshape(3, -1).T.astype(int)
    lit = pixels[(np.ptp(pixels, axis=1) > 60) | (pixels.min(1) > 180)]
    distance = np.stack([np.abs(lit - np.array(rgb)).sum(1) for rgb in world.COLORS.values()])
    return list(world.COLORS)[Counter(distance.argmin(0).tolist()).most_common(1)[0][0]]


def coarsest_bag(scene: world.Scene) -> np.ndarray:
    return world.word_grid(scene, 12).mean((1, 2))


def swapped(scene: world.Scene) -> world.Scene:
    """The first two things of different colours exchange their places."""
    first, second = scene.things[0], next(t for t in scene.things[1:] if t.color != scene.things[0].color)
    moved = {first: replace(first, at=second.at), second: replace(second, at=first.at)}
    return replace(scene, things=tuple(moved.get(t, t) for t in scene.things))


@pytest.mark.parametrize("task", ["Square Of Color", "Dot In Row"])
def test_fine_tasks_ask_for_what_the_coarsest_level_cannot_hold(task):
    rng = np.random.default_rng(1)
    for _ in range(20):
        scene = world.TASKS[task].scene(rng)
        other = swapped(scene)
        # Other pictures at level 1, one and the same bag at level 16.
        assert not np.array_equal(world.word_grid(scene, 12), world.word_grid(other, 12))
        np.testing.assert_allclose(coarsest_bag(scene), coarsest_bag(other), atol=1e-6)


def test_a_lone_things_place_survives_any_pooling():
    # Why no task asks for it: the bag of one thing holds its place.
    here = world.Scene((world.still("square", "red", 4, 1, 1),))
    there = world.Scene((world.still("square", "red", 4, 17, 17),))
    assert np.abs(coarsest_bag(here) - coarsest_bag(there)).max() > 0.01


def test_motion_is_not_told_by_where_a_thing_is():
    rng = np.random.default_rng(2)
    means = {}
    for direction in ("leftward", "rightward"):
        things = [world.moving(rng, direction, world.SEGMENTS) for _ in range(600)]
        means[direction] = np.mean([t.at[s][1] + t.size / 2 for t in things for s in range(world.SEGMENTS)])
    assert abs(means["leftward"] - means["rightward"]) < 0.5


def test_the_prompt_is_the_benchmarks_own(toy):
    jobs = {j.name: j for j in plan(SMALL) if j.part == "bench" and j.group == "Large Color"}
    for example in load_benchmark(toy / "bench", ["Large Color"])[0].examples():
        assert example.prompt == prompt(jobs[example.video].scene)


@pytest.mark.parametrize("color", ["red", "blue"])
def test_predict_sees_the_colour_of_a_clip_with_the_packaged_weights(color, tmp_path, monkeypatch, capsys):
    from videogpt_plus.app import cli
    from videogpt_plus.toy.render import write_mp4

    monkeypatch.chdir(tmp_path)
    scene = world.Scene((world.still("circle", color, 12, 4, 6),), "What color is the large object?")
    scene = replace(scene, candidates=("red", "green", "blue", "white"), answer=color)
    frames = world.render(scene, 96, 96, np.random.default_rng(0)).repeat(2, 0)
    write_mp4(tmp_path / "clip.mp4", frames, 96, 96, fps=8)
    cli.main(["predict", "toy_pool2", "--video", "clip.mp4", prompt(scene)])
    assert capsys.readouterr().out == f"({'ABCD'[scene.candidates.index(color)]})\n"
