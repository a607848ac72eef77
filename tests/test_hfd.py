"""hfd.sh with a CLI that records how it is called and puts small files where the real one would put large ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videogpt_plus.config.experiments import QWEN_1_5B, QWEN_3B
from videogpt_plus.config.mixtures import MIXTURES

SCRIPT = Path(__file__).parent.parent / "hfd.sh"
TOOLS = [
    *("bash", "env", "dirname", "awk", "cut", "paste", "df", "find", "sort"),
    *("mkdir", "ln", "tar", "gzip", "touch", "cp"),
]
CLIPS = ["star", "clevrer", "perception", "tvqa", "ssv2_video", "sta", "scene_qa", "FunQA_test", "vlnqa"]
#: Writes its arguments, a field a line, and HF_ENDPOINT; then copies PLANTED into the folder behind --local-dir.
FAKE = """#!/bin/bash
printf '%s\\n' NAME "$@" "HF_ENDPOINT=${HF_ENDPOINT-}" -- >> "$CALLS"
[[ ! -e $FAIL ]] || exit 1
while [[ $# -gt 0 && $1 != --local-dir ]]; do shift; done
mkdir -p "$2"
[[ ! -d $PLANTED ]] || cp -r "$PLANTED/." "$2"
"""


class Place:
    """A copy of hfd.sh in a folder of its own, and a PATH that holds nothing but what is put there."""

    def __init__(self, root: Path):
        self.root, self.bin, self.planted = root / "repository", root / "bin", root / "planted"
        self.calls, self.fail = root / "calls", root / "fail"
        self.root.mkdir()
        self.bin.mkdir()
        shutil.copy(SCRIPT, self.root)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        (self.bin / "python3").symlink_to(sys.executable)

    def add_cli(self, name: str = "hf") -> None:
        path = self.bin / name
        path.write_text(FAKE.replace("NAME", name))
        path.chmod(0o755)

    def run(self, *args: str, **environment: str) -> subprocess.CompletedProcess:
        paths = {"CALLS": self.calls, "FAIL": self.fail, "PLANTED": self.planted, "PATH": self.bin}
        env = {name: str(path) for name, path in paths.items()} | environment
        return subprocess.run([self.root / "hfd.sh", *args], env=env, capture_output=True, text=True)

    def recorded(self) -> list[list[str]]:
        if not self.calls.exists():
            return []
        return [call.splitlines() for call in self.calls.read_text().split("--\n") if call]


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def with_hf(place) -> Place:
    place.add_cli()
    return place


def test_without_a_target_all_weights_come_to_where_the_experiments_look(with_hf):
    done = with_hf.run()
    assert done.returncode == 0, done.stderr
    folders = [call[call.index("--local-dir") + 1] for call in with_hf.recorded()]
    streams = [stream.weights for _, stream in QWEN_1_5B.branches]
    assert {*folders} == {QWEN_1_5B.llm, QWEN_3B.llm, streams[0], str(Path(streams[1]).parent)}
    (video,) = [call for call in with_hf.recorded() if Path(streams[1]).name in call]
    assert video[1:3] == ["download", "OpenGVLab/InternVideo2-Stage2_1B-224p-f4"]
    assert all(call[call.index("--repo-type") + 1] == "model" for call in with_hf.recorded())


def test_sizes_are_told_before_anything_is_fetched(with_hf):
    out = with_hf.run("clip", "qwen1_5b").stdout
    told = out[: out.index("hf download")]
    assert "clip               1.70 GB  openai/clip-vit-large-patch14-336" in told
    assert "together           4.80 GB\n" in told and "free here" in told


def test_a_dry_run_says_all_and_does_nothing(place):
    done = place.run("--dry-run", "mvbench", "pretraining")
    assert done.returncode == 0, done.stderr
    assert "45.00 GB" in done.stdout and "hf download OpenGVLab/MVBench --repo-type dataset" in done.stdout
    assert [path.name for path in place.root.iterdir()] == ["hfd.sh"]


def test_a_repository_is_a_target_and_no_target_comes_twice(with_hf):
    with_hf.run("--no-unpack", "pretraining", "MBZUAI/VideoGPT-plus_Training_Dataset")
    patterns = [call[3:5] for call in with_hf.recorded()]
    assert patterns == [["--include", "pretraining/*"], ["--exclude", "pretraining/*"]]
    assert {call[call.index("--local-dir") + 1] for call in with_hf.recorded()} == {".cache/instruction_data"}


def test_the_real_cli_knows_every_option(with_hf):
    with_hf.run("--no-unpack", "clip", "pretraining", "finetuning")
    used = {word for call in with_hf.recorded() for word in call if word.startswith("--")}
    assert used == {"--repo-type", "--local-dir", "--include", "--exclude"}
    real = Path(sys.executable).with_name("hf")
    told = subprocess.run([real, "download", "--help"], capture_output=True, text=True).stdout
    assert all(option in told for option in used)


def test_an_unknown_target_is_one_line_with_the_choices(with_hf):
    done = with_hf.run("clip", "qwen")
    assert done.returncode == 2 and with_hf.recorded() == []
    assert done.stderr == (
        "error: unknown target 'qwen'; choose from: clip internvideo2 qwen1_5b qwen3b projectors1_5b projectors3b "
        "mvbench pretraining finetuning\n"
    )


def test_a_mirror_is_told_and_passed_on(with_hf):
    done = with_hf.run("clip", HF_ENDPOINT="https://mirror.example")
    assert done.stdout.startswith("from https://mirror.example\n")
    assert "HF_ENDPOINT=https://mirror.example" in with_hf.recorded()[0]


def test_the_older_cli_serves_where_there_is_no_other(place):
    place.add_cli("huggingface-cli")
    assert place.run("clip").returncode == 0
    assert [call[0] for call in place.recorded()] == ["huggingface-cli"]
    place.add_cli("hf")
    place.run("clip")
    assert place.recorded()[-1][0] == "hf"


def test_without_a_cli_one_line_says_how_to_get_one(place):
    done = place.run("clip")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "no Hugging Face CLI: run `make setup`" in done.stderr


def test_an_interruption_says_to_go_on_and_the_same_command_does(with_hf):
    with_hf.fail.touch()
    done = with_hf.run("clip", "qwen3b")
    assert done.returncode == 1 and len(with_hf.recorded()) == 1
    assert "clip stopped; run the same command again, it goes on" in done.stderr
    with_hf.fail.unlink()
    assert with_hf.run("clip", "qwen3b").returncode == 0
    assert with_hf.recorded()[1] == with_hf.recorded()[0]


def archived(folder: Path, archive: Path, kind: str) -> None:
    """Packs the folder, itself included, and removes it."""
    packed = shutil.make_archive(str(folder), kind, folder.parent, folder.name)
    archive.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(packed, archive)
    shutil.rmtree(folder)


def test_archives_are_unpacked_once_and_what_is_missing_then_is_told(with_hf):
    media = with_hf.planted / "instruction_tuning"
    for name in ("k710", "ssv2", "clevrer"):
        (media / name).mkdir(parents=True)
        (media / name / "a.mp4").write_text(name)
        archived(media / name, media / f"{name}.tgz", "gztar")
    done = with_hf.run("finetuning")
    there = with_hf.root / ".cache/instruction_data/instruction_tuning"
    assert (there / "k710" / "a.mp4").read_text() == "k710"
    assert done.returncode == 1
    assert "not there after unpacking: .cache/instruction_data/annotations" in done.stderr
    assert "NExTQA" in done.stderr and "k710" not in done.stderr and "nturgbd" not in done.stderr
    assert "unpack .cache" not in with_hf.run("--no-unpack", "finetuning").stdout
    (there / "k710" / "a.mp4").unlink()
    with_hf.run("finetuning")
    assert not (there / "k710" / "a.mp4").exists()  # what is unpacked is left alone


def test_what_has_to_be_there_at_last_is_what_the_mixtures_read(with_hf):
    """Empty folders of their names satisfy it, and nothing less."""
    folders = {media for files in MIXTURES.values() for _, media in files if media.startswith(".cache/instruction")}
    annotations = {Path(path).parent for path, _ in MIXTURES["FINETUNING"]}
    for folder in {*map(Path, folders), *annotations}:
        (with_hf.planted / folder.relative_to(".cache/instruction_data")).mkdir(parents=True, exist_ok=True)
    done = with_hf.run("pretraining", "finetuning")
    assert done.returncode == 0, done.stderr


def test_clips_that_others_give_out_are_named(with_hf):
    video = with_hf.planted / "video"
    for folder in (*CLIPS, "Moments_in_Time_Raw"):
        (video / folder).mkdir(parents=True)
    (video / "star" / "a.mp4").touch()
    archived(video / "star", video / "star.zip", "zip")
    (with_hf.planted / "json").mkdir()
    done = with_hf.run("mvbench")
    assert (with_hf.root / ".cache/MVBench/video/star/a.mp4").exists()
    assert done.stderr.startswith("error: not there after unpacking: .cache/MVBench/video/nturgbd;")
    assert done.stderr.endswith("given out by NTU RGB+D alone\n")


def test_published_projectors_come_to_where_the_scripts_look(with_hf):
    with_hf.planted.mkdir()
    (with_hf.planted / "mm_projector.bin").write_text("video")
    (with_hf.planted / "image_mm_projector.bin").write_text("image")
    done = with_hf.run("projectors1_5b", "projectors3b")
    assert done.returncode == 0, done.stderr
    for suffix in ("", "_qwen3b"):
        for folder, stream in (("clip_l14_336px", "image"), ("internvideo2", "video")):
            path = with_hf.root / f"results/pretrain/mlp2x_gelu_{folder}{suffix}/mm_projector.bin"
            assert path.read_text() == stream
