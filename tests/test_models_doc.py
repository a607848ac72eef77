"""docs/models.md names nothing that is not there: experiments, templates, encoders, commands, options, pages."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from videogpt_plus.app import cli
from videogpt_plus.app.commands import cinego
from videogpt_plus.app.questions import TaskConfig
from videogpt_plus.app.sweep.run import SweepConfig
from videogpt_plus.config.experiments import EXPERIMENTS, LLAVA15_7B, get_experiment
from videogpt_plus.config.options import EvalConfig, GenerationConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders import known as known_encoders
from videogpt_plus.families import FAMILIES
from videogpt_plus.families.llava15.encoder import LAYOUTS
from videogpt_plus.text.chat import known_templates

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "models.md").read_text()
#: Options of other programs that the page names.
FOREIGN = {"local-dir", "nproc-per-node"}


def test_names_are_those_of_the_registries():
    known = {*EXPERIMENTS, *known_templates(), *known_encoders(), *FAMILIES, *LAYOUTS}
    named = set(re.findall(r"`((?:toy|qwen|llava|cogvlm2|eva2|hub)\w*)`", TEXT)) - known
    assert all(get_experiment(name) for name in named)  # with a level behind
    assert set(FAMILIES) - {"cinego"} <= {e.family for e in EXPERIMENTS.values() if f"`{e.name}`" in TEXT}


def test_commands_and_options_are_there():
    commands = set(re.findall(r"videogpt-plus (\w+)", TEXT))
    assert commands and commands <= cli.COMMANDS.keys()
    every = (*cli.COMMANDS.values(), *cinego.COMMANDS.values())
    known = {name for command in every for name in inspect.signature(command).parameters}
    known |= {
        field.name
        for kind in (EvalConfig, GenerationConfig, TaskConfig, SweepConfig, cinego.Settings)
        for field in fields(kind)
    }
    known |= {f"no_{name}" for name in known}
    options = set(re.findall(r"--([a-z][a-z_-]+)", TEXT))
    assert {option.replace("-", "_") for option in options} - {o.replace("-", "_") for o in FOREIGN} <= known


def test_pages_that_it_leads_to_are_there():
    pages = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert pages and all((ROOT / "docs" / page).is_file() for page in pages)


def test_numbers_of_tokens_are_those_that_are_computed():
    at_once = {name: num_visual_tokens(get_experiment(name), 1) for name in ("llava15_7b", "cogvlm2_image")}
    assert at_once == {"llava15_7b": 576, "cogvlm2_image": 2306} and "2,304 and two marks" in TEXT
    assert num_visual_tokens(EXPERIMENTS["qwen1_5b"], 16) == 13312 and "13,312 a clip" in TEXT
    video = [num_visual_tokens(get_experiment(name), 1) for name in ("cogvlm2_video", "cogvlm2_video_pool2")]
    assert video == [66, 18] and "18 tokens instead of 66" in TEXT
    assert LLAVA15_7B.llm in TEXT
