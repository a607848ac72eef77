"""The folder that a training fills: experiment.json, log.jsonl, checkpoint-N/, and at the end tokenizer, card, weights.

Whatever is here survives kill -9 and a power cut: a file appears whole, a checkpoint counts only when it is complete
(training/checkpoints.py), and `projectors.safetensors` comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import experiment_json
from videogpt_plus.io.files import located, read_object, write_bytes, write_json, writing
from videogpt_plus.io.model_folders import TOKENIZER_FILES
from videogpt_plus.io.runs import FINISHED, are_there, check_own, difference
from videogpt_plus.training.card import CARD, model_card
from videogpt_plus.types import UserError


def claim(folder: Path, experiment: Experiment, outputs: Sequence[str] = (FINISHED,)) -> bool:
    """Writes experiment.json into a new `folder`; returns whether the training of it is finished: `outputs` are there.

    UserError: the folder belongs to another experiment or holds something else, or cannot be written.
    """
    path = folder / "experiment.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_own(folder)
    if not path.exists():
        write_json(path, experiment_json(experiment))
    check_claim(folder, experiment)
    return are_there(folder, outputs)


def check_claim(folder: Path, experiment: Experiment) -> None:
    """UserError: `claim` would refuse the folder, because of what is there. Nothing is written."""
    path, wanted = folder / "experiment.json", experiment_json(experiment)
    if folder.exists():
        with writing(folder):
            folder.mkdir(exist_ok=True)  # which a file refuses
            check_own(folder)
    if path.exists() and (found := read_object(path, "remove the folder or choose another one")) != wanted:
        raise UserError(
            f"{folder} holds another experiment ({difference(found, wanted)}): remove the folder or choose another one"
        )


def describe(folder: Path, experiment: Experiment) -> None:
    """Writes the LLM's tokenizer, byte for byte, and the model card."""
    for file in (located(experiment.llm) / name for name in TOKENIZER_FILES):
        if file.exists():
            write_bytes(folder / file.name, file.read_bytes())
    write_bytes(folder / CARD, model_card(experiment, folder).encode())
