"""docs/parity.md and docs/training.md name nothing that is not there: tests, config fields, commands, scripts."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from videogpt_plus.app import cli
from videogpt_plus.config.experiment import Branch, Experiment, Lora, Prompting, Sampling, Trained
from videogpt_plus.config.training import Pretraining, Training

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "parity.md").read_text()
BOTH = TEXT + (ROOT / "docs" / "training.md").read_text()
CLASSES = {
    kind.__name__: kind for kind in (Experiment, Branch, Lora, Sampling, Prompting, Trained, Training, Pretraining)
}
NAMED_TESTS = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", BOTH)))
#: Every flag that the reference's scripts pass, or that its arguments add to transformers'.
REFERENCE_FLAGS = """
    lora_enable lora_r lora_alpha lora_dropout lora_bias lora_weight_path mm_projector_lr deepspeed model_name_or_path
    version pool_level dataset_use vision_tower image_vision_tower mm_projector_type image_mm_projector_type
    pretrain_mm_mlp_adapter pretrain_image_mm_mlp_adapter tune_mm_mlp_adapter tune_image_mm_mlp_adapter
    mm_vision_select_layer mm_vision_select_feature mm_use_im_start_end mm_use_im_patch_token mm_use_box_start_end
    image_aspect_ratio image_grid_pinpoints is_multimodal lazy_preprocess group_by_modality_length freeze_backbone
    freeze_mm_mlp_adapter mpt_attn_impl cache_dir model_max_length double_quant quant_type bits bf16 tf32 output_dir
    num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps
    evaluation_strategy save_strategy save_steps save_total_limit learning_rate weight_decay max_grad_norm warmup_ratio
    lr_scheduler_type optim logging_steps report_to gradient_checkpointing seed dataloader_num_workers
    remove_unused_columns local_rank model-path model-base conv-mode output-dir video-folder question-dir temperature
    top_p num_beams
"""


def section(title: str) -> str:
    """The text under a heading, up to the next one of its rank or above."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", TEXT, re.MULTILINE)
    return re.split(rf"\n#{{1,{len(heading[1])}}} ", TEXT[heading.end() :])[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("the reference", "reference", "script")]


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS, ids=lambda part: str(part).removesuffix(".py"))
def test_every_test_named_there_exists(file, name):
    tree = ast.parse((ROOT / "tests" / Path(file).name).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_difference_names_the_test_that_pins_it():
    differences = rows(section("Where ours differs on purpose").partition("### Limits of ours")[0])
    assert len(differences) > 20
    assert [row[0] for row in differences if len(row) != 3 or not re.search(r"`\w+\.py::\w+`", row[2])] == []


@pytest.mark.parametrize(
    "case",
    [
        *("more than one turn", "DropPath", "12 to 15 real frames", "reads the chunks of the video before it"),
        *("Text-only samples", "blank ones to 16", "second word", "leaves the denominator", "random other sample"),
        *("template in silence", "cuts the vocabulary"),
    ],
)
def test_every_known_defect_has_its_row(case):
    differences = rows(section("Where ours differs on purpose"))
    assert sum(case in row[0] for row in differences) == 1


def test_every_flag_of_the_reference_is_in_the_table():
    told = " ".join(row[0] for row in rows(section("Flags")))
    missing = [flag for flag in REFERENCE_FLAGS.split() if not re.search(rf"`--{flag}\b", told)]
    assert missing == []


def options_of(command: str) -> set[str]:
    """The parameters of a command, and in place of a config its fields: they are options under their own names."""
    parameters = inspect.signature(cli.COMMANDS[command]).parameters
    configs = [parameter.default for parameter in parameters.values() if is_dataclass(parameter.default)]
    return {*parameters, *(field.name for config in configs for field in fields(config))}


def test_every_field_and_option_named_there_exists():
    named = re.findall(r"`(Experiment|Branch|Lora|Sampling|Prompting|Trained|Training|Pretraining)\.(\w+)`", TEXT)
    assert len(named) > 25
    assert [f"{kind}.{name}" for kind, name in named if name not in {f.name for f in fields(CLASSES[kind])}] == []
    options = re.findall(r"`(\w+) --([\w-]+)`", TEXT)
    assert len(options) > 5
    for command, option in options:
        assert option.replace("-", "_") in options_of(command), f"{command} --{option}"
    commands = re.findall(r"^`*videogpt-plus (\w+)|`videogpt-plus (\w+)", BOTH, re.MULTILINE)
    assert {name for pair in commands for name in pair if name} <= cli.COMMANDS.keys() and len(commands) > 5


def test_every_field_of_a_training_has_a_flag_of_the_reference():
    told = " ".join(row[1] for row in rows(section("Flags")))
    assert [f.name for f in fields(Training) if f"`Training.{f.name}`" not in told] == []


def test_every_script_and_file_named_there_exists():
    named = re.findall(r"(?<![\w/])((?:scripts|docs|videogpt_plus|tests)/[\w/.]+\.(?:sh|json|md|py))", BOTH)
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_script_is_in_its_table():
    there = {re.sub(r"pool\d+", "pool", p.name) for p in (ROOT / "scripts").rglob("*.sh")} - {"common.sh"}
    told = {re.sub(r"pool\d+", "pool", Path(row[0].split("`")[1]).name) for row in rows(section("Scripts"))}
    assert told == there
