"""Cinego against the original's recorded values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from parity import check_folder
from parity.rows import Row, names
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent / "golden_families"
RECORDED = ROOT / "cinego"


@pytest.mark.parametrize("case", names(RECORDED))
def test_recorded_values(case):
    rows: list[Row] = []
    check_folder(ROOT, f"cinego/{case}", rows.append)
    assert [row for row in rows if row.failed] == [] and any(row.ok for row in rows)


@pytest.mark.parametrize(
    ("key", "case", "quantity"),
    [
        ("layers.1.attention.wk.weight", "lm_dense", "logits"),
        ("video_summarizer.cross_attn_t.0.mha.in_proj_bias", "summary", "st: projected"),
    ],
)
def test_parity_notices_a_wrong_weight(key, case, quantity, tmp_path):
    shutil.copytree(RECORDED, tmp_path / "cinego")
    file = tmp_path / "cinego" / "weights.safetensors"
    state = load_file(file)
    state[key] = state[key] + 0.01
    save_file(state, file)
    rows: list[Row] = []
    check_folder(tmp_path, f"cinego/{case}", rows.append)
    failed = {row.quantity for row in rows if row.failed}
    assert quantity in failed and "s: projected" not in failed


def test_the_wrong_layout_of_rotary_positions_is_noticed(tmp_path, monkeypatch):
    from parity import cinego

    told = '{"rope_layout": "half", "num_attention_heads": %d}'
    whole = cinego.Recordings.folder

    def folder(self, variant):
        made = whole(self, variant)
        (made / "config.json").write_text(told % self.config["lm"]["n_heads"])
        return made

    monkeypatch.setattr(cinego.Recordings, "folder", folder)
    rows: list[Row] = []
    check_folder(ROOT, "cinego/lm_dense", rows.append)
    assert {row.quantity for row in rows if row.failed} >= {"logits"}
