"""Adapters: how many tokens, which ones, and how a new one is added."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from einops import reduce

from videogpt_plus.adapters import ADAPTERS, Adapter, build_adapter, num_visual_tokens, pooled_side
from videogpt_plus.experiments import QWEN_1_5B, at_level
from videogpt_plus.projectors import build_projector
from videogpt_plus.types import UserError

LEVELS = [0.5, 1, 1.5, 2, 2.5, 3, 4, 8, 16, 24, 100]


@pytest.mark.parametrize(
    ("side", "level", "expected"),
    [(24, 16, 2), (24, 1.5, 16), (16, 1.5, 11), (5, 2, 2), (7, 2, 4), (16, 32, 1), (24, 24, 1), (16, 0.5, 32)],
)
def test_pool_rounds_half_to_even_and_never_below_one(side, level, expected):
    assert pooled_side(side, level) == expected


@pytest.mark.parametrize(
    ("level", "tokens"),
    [(1, 13312), (1.5, 6032), (2, 3328), (3, 1424), (4, 832), (8, 208), (12, 80), (16, 80), (24, 32), (32, 32)],
)
def test_token_counts_of_sixteen_frames(level, tokens):
    assert num_visual_tokens(at_level(QWEN_1_5B, level), 16) == tokens


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("level", LEVELS)
def test_adapter_makes_as_many_tokens_as_it_and_the_registry_say(name, level):
    adapter = build_adapter(name, level)
    tokens = adapter(torch.randn(2, 3, 6, 8, 5))
    count = ADAPTERS[name].tokens(level, 3, 6, 8)
    assert tokens.shape == (2, count, 5) and adapter.num_tokens(3, 6, 8) == count


@pytest.mark.parametrize("name", ADAPTERS)
def test_level_one_is_the_identity_to_the_last_bit(name):
    grid = torch.randn(2, 3, 6, 6, 5)
    assert torch.equal(build_adapter(name, 1)(grid), grid.flatten(1, 3))


@pytest.mark.parametrize(("name", "how"), [("average", "mean"), ("max", "max")])
def test_pooling_reduces_windows_frame_by_frame_and_row_by_row(name, how):
    grid = torch.randn(2, 3, 6, 8, 5)
    expected = reduce(grid, "b t (h y) (w x) d -> b (t h w) d", how, y=2, x=2)
    torch.testing.assert_close(build_adapter(name, 2)(grid), expected)


def test_bilinear_reads_between_the_four_nearest_patches():
    grid = torch.arange(16.0).view(1, 1, 4, 4, 1)
    assert build_adapter("bilinear", 2)(grid).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert build_adapter("bilinear", 4)(grid).item() == 7.5


@pytest.mark.parametrize("level", [0, -1, float("nan"), float("inf")])
def test_impossible_levels_are_refused(level):
    with pytest.raises(UserError, match="choose a number above 0"):
        build_adapter("average", level)
    with pytest.raises(UserError, match="choose a number above 0"):
        pooled_side(16, level)


def test_unknown_adapter_names_the_choices():
    with pytest.raises(UserError, match="unknown adapter 'pol'; choose from: average, max, bilinear"):
        build_adapter("pol", 2)


def test_a_new_adapter_is_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "median_pool.py").write_text(
        "from einops import rearrange\n"
        "from videogpt_plus.adapters.per_frame import PerFrame\n\n"
        "class MedianPool(PerFrame):\n"
        "    def pool(self, frames, side):\n"
        "        h, w = side\n"
        "        windows = rearrange(frames, 'f d (h y) (w x) -> f d h w (y x)', h=h, w=w)\n"
        "        return windows.median(-1).values\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ADAPTERS, "median", Adapter("median_pool:MedianPool"))
    grid = torch.randn(1, 2, 6, 6, 3)
    expected = grid.view(1, 2, 2, 3, 2, 3, 3).transpose(3, 4).flatten(4, 5).median(4).values
    assert torch.equal(build_adapter("median", 3)(grid), expected.flatten(1, 3))


def test_token_counts_need_no_torch():
    code = (
        "import sys; from videogpt_plus.adapters import num_visual_tokens as n; "
        "from videogpt_plus.experiments import QWEN_1_5B, at_level; "
        "assert n(at_level(QWEN_1_5B, 2), 16) == 3328; "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_projectors_have_the_reference_s_layers_and_keys():
    assert list(build_projector("mlp2x_gelu", 4, 6).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = torch.randn(3, 4)
    two = build_projector("mlp2x_gelu", 4, 6)
    hidden = x @ two[0].weight.T + two[0].bias
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(two(x), exact @ two[2].weight.T + two[2].bias)
    assert len([p for p in build_projector("mlp3x_gelu", 4, 6).parameters()]) == 6
    assert build_projector("linear", 4, 6)(x).shape == (3, 6)
    assert torch.equal(build_projector("identity", 4, 4)(x), x)


@pytest.mark.parametrize(("name", "told"), [("mlp0x_gelu", "choose from"), ("identity", "width 4 to 6")])
def test_impossible_projectors_are_refused(name, told):
    with pytest.raises(UserError, match=told):
        build_projector(name, 4, 6)
