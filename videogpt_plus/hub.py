"""Uploads a finished run folder to the Hugging Face Hub. Optional: nothing else here uses the Hub."""

from __future__ import annotations

from pathlib import Path

from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.io.errors import in_one_line, translated
from videogpt_plus.io.files import write_bytes
from videogpt_plus.io.model_folders import TOKENIZER_FILES
from videogpt_plus.io.runs import FINISHED
from videogpt_plus.training.card import CARD, model_card
from videogpt_plus.types import UserError

#: What is uploaded of a run folder: no checkpoint, no answer, and nothing that tells of the machine beyond its paths.
UPLOADED = (
    CARD,
    "experiment.json",
    FINISHED,
    "adapter_model.safetensors",
    "adapter_config.json",
    "log.jsonl",
    "answers*/scores.json",
    *TOKENIZER_FILES,
)
#: Of these, what stays: answers to the first questions alone (`--limit`) are a trial.
KEPT = ("answers*_first[0-9]*",)


def push(run: str | Path, repo_id: str, private: bool = False) -> str:
    """Uploads a run in one commit and returns its address; the repository is made if there is none.

    The model card is written again first, with the scores there are by now. Token and address of the Hub are those of
    huggingface_hub.
    UserError: the run is not finished, `repo_id` is no NAME/MODEL, or the Hub cannot be reached or refuses. Before
    the first two nothing is written.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import validate_repo_id

    run = Path(run)
    experiment = load_experiment(run)
    if not (run / FINISHED).exists():
        raise UserError(f"{run} is not finished: it has no {FINISHED}; run the same training to its end")
    no_name = f"'{repo_id}' is no name of a repository: choose one such as NAME/MODEL"
    with translated(HFValidationError, to=lambda _: UserError(no_name)):
        validate_repo_id(repo_id)
    write_bytes(run / CARD, model_card(experiment, run).encode())
    api = HfApi()
    refused = f"cannot push to '{repo_id}'"
    with translated(HTTPError, OSError, to=lambda error: UserError(f"{refused}: {in_one_line(error, 300)}")):
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=run,
            allow_patterns=list(UPLOADED),
            ignore_patterns=list(KEPT),
            commit_message=f"Upload {experiment.name}",
        )
    return str(repo)
