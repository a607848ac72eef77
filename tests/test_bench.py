"""The benchmark measures what it says, at a tiny size here, and its tables hold what was recorded."""

from __future__ import annotations

import pytest

from benchmarks import bench, gpu, memory, mid, stages, sweeps, tables, timing, training

TINY = mid.Size(
    width=32, heads=2, clip_layers=2, clip_mlp=64, video_blocks=2, llm_layers=1, llm_mlp=64, vocabulary=512, frames=4
)
MACHINE = {"processor": "P", "threads": 2, "gpu": None, "torch": "T"}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(mid, "MID", TINY)
    monkeypatch.setattr(timing, "in_fresh_process", lambda function, *arguments: function(*arguments))


def recorded(section: str, **found) -> dict:
    rates = {"float32": tables.REFERENCE_RATE, "bfloat16": 1e12}
    about = {"section": section, "date": "2026-11-21", "command": "make bench", "machine": MACHINE, "repeats": 5}
    about["busy_percent"] = 3.0
    return {**about, "rates": rates, **found}


def test_cases_run_in_turn_and_the_first_round_does_not_count():
    ran = []
    cases = {name: lambda name=name: ran.append(name) or {f"part of {name}": 0.5} for name in "abc"}
    seconds = timing.interleaved(cases, repeats=2)
    assert "".join(ran) == "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items() if len(name) == 1} == {"a": 2, "b": 2, "c": 2}
    assert seconds["part of a"] == [0.5, 0.5]


def test_a_fresh_process_has_a_peak_of_its_own():
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert timing.in_fresh_process(timing.peak_bytes) < timing.peak_bytes() - len(ballast) / 2


def test_the_stages_of_a_question_are_timed_and_counted(tiny, tmp_path):
    found = stages.mid_size(tmp_path, 1)
    expected = {
        "decode",
        "preprocess, image",
        "clip, float32",
        "internvideo2, bfloat16",
        "prefill, level 1",
        "token, level 16",
    }
    assert expected <= found["seconds"].keys() and found["flops"].keys() <= found["seconds"].keys()
    assert found["flops"]["prefill, level 1"] > found["flops"]["prefill, level 2"] > found["flops"]["prefill, level 16"]
    assert "| prefill, level 16 |" in tables.parts({"stages": recorded("stages", **found)})["stages"]


def test_a_sweep_is_timed_alone_together_and_from_a_store(tiny, tmp_path):
    found = sweeps.mid_size(tmp_path, 1)
    result = recorded("sweep", **found)
    assert list((tmp_path / "warm 1-16").glob("*/*.safetensors")), "the warm store holds the clip"
    assert "together, 2-16, store cold" in found["seconds"]
    assert all(target.measured for target in tables.targets({"sweep": result})[:6])
    assert "| level by level, 2-16 |" in tables.parts({"sweep": result})["sweep"]


def test_a_training_step_is_timed_and_its_memory_taken(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mid, "LEVELS", training.LEVELS)
    found = training.mid_size(tmp_path, 1)
    assert set(found["seconds"]) == set(found["peak_bytes"]) and len(found["seconds"]) == 6
    table = tables.parts({"training": recorded("training", **found)})["training"]
    assert "| needed logits, store warm, level 4 |" in table


def test_the_head_at_a_large_vocabulary_is_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mid, "LEVELS", (2,))
    monkeypatch.setattr(mid, "REAL_VOCABULARY", 2000)
    found = training.real_vocabulary(tmp_path, 1)
    assert found["logits_bytes"] == (found["positions"] - found["supervised"]) * 2000 * 4
    assert found["positions"] > 4 * (12**2 + 8**2) and 0 < found["supervised"] < 20
    assert "| saved |" in tables.parts({"vocabulary": recorded("vocabulary", **found)})["vocabulary"]


def test_choices_are_compared_on_the_toy(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "QUESTIONS", 1)
    found = sweeps.choices(tmp_path, 1)
    assert found["questions"] == 10 and 8 <= found["same_likeliest"] <= 10
    assert found["right"]["float32"] >= 5, "the packaged toy sees"


def test_memory_is_taken_over_clips_of_their_own(tmp_path):
    found = memory.toy(tmp_path, 1, clips=6, every=2)
    assert list(found["resident_bytes"]) == [2, 4, 6] and min(found["resident_bytes"].values()) > 10**8
    assert len(list((tmp_path / "clips").iterdir())) == 6


def test_what_runs_on_a_gpu_runs_at_a_tiny_size_without_one(tiny_experiment, tmp_path):
    import torch

    from videogpt_plus.models.loading import load_model

    model = load_model(tiny_experiment, None, "cpu", torch.bfloat16)
    found = gpu.measure(model, tiny_experiment, "cpu", (2, 4), repeats=1)
    assert {"encode, clips: 4", "prefill, level 2", "token, level 4", "training step, level 2"} <= found[
        "seconds"
    ].keys()
    assert found["flops"].keys() <= found["seconds"].keys()
    assert "peak memory" in tables.parts({"gpu": recorded("gpu", **found)})["gpu"]


def test_without_a_gpu_its_rows_say_that_nobody_measured(tmp_path):
    if timing.has_gpu():
        pytest.skip("this machine has one")
    assert gpu.real_size(tmp_path, 1) == {} and not list(tmp_path.iterdir())
    assert tables.parts({"gpu": {"section": "gpu", "date": "2026-11-21"}})["gpu"] == "Not measured."


def test_targets_are_scaled_by_the_machines_rate():
    seconds = {"together, 1-16": [2.0, 2.0, 9.0], "together, 1-16, bfloat16 encoders": [16.5]}
    seconds |= {f"alone, level {level}": [1.3] for level in (1, 2, 4, 8, 16)}
    seconds |= {
        "together, 2-16": [1.0],
        "together, 2-16, store warm": [0.5],
        "stage: prepare": [0.1],
        "stage: encode": [0.3],
    }
    seconds |= {f"stage: answer, level {level}": [0.1] for level in (1, 2, 4, 8, 16)}
    sweep = recorded("sweep", seconds=seconds)
    sweep["rates"]["float32"] *= 2  # a machine twice as fast has to be twice as fast
    first, second, third, whole, part, warm, *rest = tables.targets({"sweep": sweep})
    assert (first.measured, first.verdict) == (pytest.approx(16.5 / 2 / 2), "yes")
    assert (second.measured, second.verdict) == (pytest.approx(0.5), "**no**")
    assert third.measured == pytest.approx(2.6 / 2 / 1.3)
    assert whole.measured == pytest.approx(100 * 0.9 / 2.0) and part.measured == pytest.approx(100 * 0.8 / 1.0)
    assert warm.measured == pytest.approx(4 * 1.3 / 0.5)
    assert {target.verdict for target in rest} == {"not measured"}


def test_memory_is_flat_within_the_least_and_the_most():
    held = {"100": 100e6, "200": 104e6, "300": 102e6}
    target = tables.targets({"memory": recorded("memory", resident_bytes=held)})[-1]
    assert target.measured == pytest.approx(4) and target.verdict == "yes"


def test_only_the_marked_parts_of_the_page_are_written(tmp_path):
    docs = tmp_path / "performance.md"
    begin = tables.BEGIN.format
    names = ["targets", *tables.TABLES]
    docs.write_text("# kept\n" + "\n".join(f"{begin(name)}\nold\n{tables.END}\nprose of {name}" for name in names))
    held = {"100": 1e8, "200": 1.01e8}
    tables.write({"memory": recorded("memory", resident_bytes=held)}, docs)
    text = docs.read_text()
    assert text.startswith("# kept\n") and all(f"prose of {name}" in text for name in names) and "old" not in text
    assert "other work took 3 %" in text
    assert "make bench" in text and "193 GFLOP/s in float32" in text and "| 100 | 100 MB |" in text
    tables.write({"memory": recorded("memory", resident_bytes=held)}, docs)
    assert docs.read_text() == text
    docs.write_text("nothing marked")
    with pytest.raises(ValueError, match="has no part"):
        tables.write({}, docs)


def test_every_section_has_its_table_and_its_part_of_the_page():
    from pathlib import Path

    assert bench.SECTIONS.keys() == tables.TABLES.keys()
    page = (Path(__file__).parent.parent / "docs" / "performance.md").read_text()
    assert all(page.count(tables.BEGIN.format(name)) == 1 for name in ("targets", *tables.TABLES))
    assert page.count(tables.END) == 1 + len(tables.TABLES)


def test_figures_are_written_with_the_digits_that_count():
    assert tables.spread([1.2345, 1.2, 1.3]) == "1.23 (1.20 to 1.30)"
    assert tables.spread([0.012345]) == "0.0123 (0.0123 to 0.0123)"
    assert tables.spread([123.4, 120.0, 130.0]) == "123 (120 to 130)"
