"""Adapters: how many tokens, which ones, and how a new one is added."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from einops import reduce

from videogpt_plus.config.experiments import CINEGO_512, QWEN_1_5B, at_level, with_adapter
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.models.projectors import build_projector
from videogpt_plus.reducers import ADAPTERS, Adapter, build_adapter, pooled_side
from videogpt_plus.reducers.summary_options import Summary
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


#: Those that pool each frame on its own.
POOLS = ("average", "max", "bilinear")
#: Those that take any number of frames, some of which may pad; the last two leave as many tokens of all of them.
WHOLE = ("concat", "frame_mean", "summary")


def built(name, level=1.0, width=6, **summary):
    torch.manual_seed(3)
    return build_adapter(name, level, width, Summary(**{"queries": 7, "heads": 2, "dropout": 0.0, **summary})).eval()


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("level", LEVELS)
def test_adapter_makes_as_many_tokens_as_it_and_the_registry_say(name, level):
    if name == "concat" and level != 1:
        with pytest.raises(UserError, match="'concat' keeps every token, and has no level .*: choose level 1, or"):
            built(name, level)
        return
    adapter = built(name, level)
    tokens = adapter(torch.randn(2, 3, 6, 8, 6))
    count = adapter.num_tokens(3, 6, 8)
    assert tokens.shape == (2, count, 6)
    assert ADAPTERS[name].tokens is None or ADAPTERS[name].tokens(level, 3, 6, 8) == count


@pytest.mark.parametrize("name", [*POOLS, "concat"])
def test_level_one_is_the_identity_to_the_last_bit(name):
    grid = torch.randn(2, 3, 6, 6, 5)
    assert torch.equal(build_adapter(name, 1)(grid), grid.flatten(1, 3))


# ------------------------------------------------------------------------------------------------ all frames at once
@pytest.mark.parametrize("branches", ["s", "st"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_summary_knows_the_order_of_frames_by_their_times_alone(branches, layers):
    grid = torch.randn(2, 4, 3, 3, 6)
    turned = grid[:, [2, 0, 3, 1]]
    blind = built("summary", branches=branches, layers=layers)
    torch.testing.assert_close(blind(turned), blind(grid))
    timed = built("summary", branches=branches, layers=layers, frame_times=True)
    assert (timed(turned) - timed(grid)).abs().max() > 1e-3


def test_the_mean_of_a_repeated_frame_is_the_frame_and_ignores_order():
    grid = torch.randn(2, 4, 3, 3, 6)
    mean = build_adapter("frame_mean", 1)
    torch.testing.assert_close(mean(grid[:, :1].expand(-1, 5, -1, -1, -1)), grid[:, 0].flatten(1, 2))
    torch.testing.assert_close(mean(grid.flip(1)), mean(grid))
    torch.testing.assert_close(build_adapter("frame_mean", 3)(grid), grid.mean((1, 2, 3))[:, None])


def test_a_summary_of_copies_is_not_that_of_one_frame():
    """Queries are among the keys, and weigh less the more frames there are: why a picture has to be repeated."""
    grid, adapter = torch.randn(1, 1, 3, 3, 6), built("summary")
    assert (adapter(grid) - adapter(grid.expand(-1, 8, -1, -1, -1))).abs().max() > 1e-3


def test_concat_goes_frame_by_frame_and_row_by_row():
    grid = torch.arange(2 * 3 * 4).view(1, 2, 3, 4, 1)
    assert build_adapter("concat", 1)(grid).flatten().tolist() == list(range(24))


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_reach_every_token_and_every_weight(name):
    grid, adapter = torch.randn(1, 3, 2, 2, 6, requires_grad=True), built(name, branches="st", layers=2)
    adapter(grid).square().sum().backward()
    assert (grid.grad.abs().sum(-1) > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_uniform_attention_makes_a_summary_the_mean_of_all_it_reads():
    grid, adapter = torch.randn(1, 3, 2, 2, 6), built("summary")
    mha = adapter.cross_attn_s[0].mha
    with torch.no_grad():
        mha.in_proj_weight[:12].zero_()
        mha.in_proj_weight[12:] = torch.eye(6)
        mha.in_proj_bias.zero_()
        mha.out_proj.weight.copy_(torch.eye(6))
        mha.out_proj.bias.zero_()
    read = torch.cat([grid.flatten(1, 3), adapter.query_s], 1).mean(1)
    torch.testing.assert_close(adapter(grid), read[:, None].expand(-1, 7, -1))


@pytest.mark.parametrize(("level", "queries"), [(1, 197), (2, 49), (4, 12), (7, 4), (16, 1), (100, 1)])
def test_a_level_leaves_a_summary_as_many_queries_as_it_would_leave_a_square(level, queries):
    adapter = build_adapter("summary", level, 8, Summary(heads=4))
    assert adapter.query_s.shape == (1, queries, 8)
    assert num_visual_tokens(at_level(CINEGO_512, level), 8) == queries


@pytest.mark.parametrize(
    ("name", "level", "frames", "tokens"),
    [
        ("summary", 1, 8, 197),
        ("concat", 1, 8, 1576),
        ("concat", 1, 32, 6304),
        ("frame_mean", 1, 16, 197),
        ("frame_mean", 2, 16, 50),
        ("average", 1, 8, 1576),
        ("average", 2, 8, 8 * 50),
        ("average", 2, 0, 0),
        ("summary", 1, 0, 0),
    ],
)
def test_a_class_token_stands_beside_each_frame_that_an_adapter_leaves(name, level, frames, tokens):
    experiment = at_level(with_adapter(CINEGO_512, name), level)
    assert num_visual_tokens(experiment, frames) == tokens


def test_an_adapter_that_learns_needs_a_place_for_its_weights():
    with pytest.raises(UserError, match="'summary' learns, .*: choose from average, max, bilinear, concat, frame_mean"):
        build_adapter("summary", 1)
    with pytest.raises(UserError, match="has 5 heads, which do not divide the width 6"):
        built("summary", heads=5)
    with pytest.raises(UserError, match="branches 'ts': choose 's' or 'st'"):
        Summary(branches="ts")
    with pytest.raises(UserError, match="queries 0: choose at least 1"):
        Summary(queries=0)


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
        "from videogpt_plus.reducers.per_frame import PerFrame\n\n"
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
        "import sys; from videogpt_plus.config.tokens import num_visual_tokens as n; "
        "from videogpt_plus.config.experiments import QWEN_1_5B, at_level; "
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
