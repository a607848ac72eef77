"""What of a command line can be wrong, told before anything is rendered, copied or written.

Each command first checks all of its line, by these functions and by others called `check_...`, and only then makes
what is not there yet (`prepare_...`, `own_runs`, `run_to_ask`, `take_published`). tests/test_command_lines.py holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import EvalConfig, LoadConfig, LoaderConfig
from videogpt_plus.types import UserError


def check_margin(margin: float | None) -> None:
    """Raises UserError unless a margin that was given lies between 0 and 100 points."""
    if margin is not None and not 0 < margin < 100:
        raise UserError(
            f"--margin {margin:g} is not possible: give so many points that count as next to nothing, above 0 and "
            "below 100"
        )


def check_feeding(loader_config: LoaderConfig) -> None:
    """UserError: there is no such decoder, or the grid store would hold nothing."""
    from videogpt_plus.clips.cache import open_cache
    from videogpt_plus.clips.decoders import check_decoder

    check_decoder(loader_config.decoder)
    open_cache(loader_config)


def check_asking(experiments: Sequence[Experiment], eval_config: EvalConfig) -> None:
    """UserError: models of these experiments cannot be loaded or shown clips like that, or not together."""
    check_feeding(eval_config)
    check_loading(experiments, eval_config)


def check_loading(experiments: Sequence[Experiment], load_config: LoadConfig) -> None:
    """UserError: models of these experiments cannot be loaded like that, or not together."""
    from videogpt_plus.models.loading import check_options, one_family

    check_options(one_family(experiments), load_config)


def check_questions(
    task: str, experiments: Sequence[Experiment], limit: int | None, benchmark: Path | None, scoring: str = "generate"
) -> None:
    """UserError: models of these experiments cannot be asked these questions, or there is no such benchmark.

    What this project makes by itself, the toy's, need not be there yet.
    """
    from eval.tasks.benchmarks import check_limit, check_scoring, examples, one_root

    check_limit(limit)
    check_scoring(task, scoring)
    root = one_root(task, [experiment.benchmark_root for experiment in experiments], benchmark)
    if not is_made_here(root):
        examples(task, root, limit)


def check_answered(path: Path, root: Path, asked: Sequence[str]) -> None:
    """UserError: nothing was answered, so that the toy's questions need not be made to say what is missing."""
    from eval.answers.places import answer_command

    if is_made_here(root) and not root.exists() and not path.exists():
        raise UserError(f"{path}: all answers are missing; finish them with: {answer_command(path, asked)}")


def check_workers(workers: int | None) -> None:
    """UserError unless a number of reading processes that was given is possible."""
    if workers is not None and workers < 0:
        raise UserError(
            f"--dataloader-num-workers {workers} is not possible: 0 reads clips in the training process itself"
        )


def is_made_here(root: Path) -> bool:
    """Whether a benchmark's place is one that `prepare_benchmark` fills."""
    from eval.tasks.benchmarks import BENCHMARKS
    from videogpt_plus.config.experiments import TOY

    return str(root) in (TOY.benchmark_root, *(BENCHMARKS[name].root for name in ("toy_open", "toy_rwf2000")))
