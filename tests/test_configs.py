"""Experiments as values: names are computed, and a value that cannot work is refused where it is made."""

from __future__ import annotations

import pytest

from videogpt_plus.config.experiment import with_settings
from videogpt_plus.config.experiments import (
    EXPERIMENTS,
    TOY,
    at_level,
    base_of,
    get_experiment,
    with_reducer,
    with_seed,
)
from videogpt_plus.types import UserError


@pytest.mark.parametrize("name", ["num_frames", "max_new_tokens"])
def test_a_count_below_one_is_refused_by_name(name):
    part = {"num_frames": "sampling", "max_new_tokens": "prompting"}[name]
    with pytest.raises(UserError, match=f"has {name} 0: choose at least 1"):
        with_settings(TOY, {f"{part}.{name}": 0})


def test_a_level_cannot_disagree_with_its_name():
    assert at_level(TOY, 4).name == "toy_pool4"
    assert at_level(at_level(TOY, 4), 1.5).name == "toy_pool1.5"
    assert get_experiment("toy_max_pool16") == at_level(with_reducer(TOY, "max"), 16)


def test_a_seed_cannot_disagree_with_its_name():
    e = with_seed(at_level(with_reducer(TOY, "max"), 4), 7)
    assert (e.name, e.training.seed) == ("toy_max_pool4_seed7", 7)
    assert get_experiment("toy_max_pool4_seed7") == e and at_level(e, 2).name == "toy_max_pool2_seed7"
    assert with_reducer(with_seed(TOY, 7), "max").name == "toy_max_seed7"
    assert with_seed(TOY, TOY.training.seed) is TOY, "the default seed's names stay as they are"
    assert dict(e.pretrain)["image"].seed == dict(TOY.pretrain)["image"].seed
    with pytest.raises(UserError, match="seed -1 is not possible"):
        with_seed(TOY, -1)
    with pytest.raises(UserError, match="llava15_7b is asked as it was published, and is not trained"):
        get_experiment("llava15_7b_seed7")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("toy_pol2", "toy"), ("toy_max_pol2", "toy"), ("qwen15b_pool2", "qwen1_5b"), ("qwen3b_max2", "qwen3b")],
)
def test_a_mistyped_name_is_told_the_closest(name, meant):
    with pytest.raises(UserError, match=f"unknown experiment '{name}': did you mean '{meant}'"):
        get_experiment(name)
    with pytest.raises(UserError, match="unknown experiment 'zzz_pool2': choose from"):
        get_experiment("zzz_pool2")


def test_the_base_of_a_name_is_what_its_projectors_are_pre_trained_for():
    for name, experiment in EXPERIMENTS.items():
        made = at_level(with_reducer(experiment, "max"), 4)
        made = with_seed(made, 7) if experiment.is_trained else made
        assert base_of(made.name) == base_of(name) == name and get_experiment(made.name) == made


def test_every_experiment_is_found_under_its_own_name():
    assert all(get_experiment(name).name == name for name in EXPERIMENTS)


def test_real_sizes_are_the_references():
    e = get_experiment("qwen3b_pool2")
    sizes = {name: (s.pixels, s.grid, s.width) for name, s in e.branches}
    assert sizes == {"image": (336, 24, 1024), "video": (224, 16, 1408)}
    assert (e.level, e.num_frames, e.lora.r, e.lora.alpha, e.lora.dropout) == (2, 16, 128, 256, 0.05)
