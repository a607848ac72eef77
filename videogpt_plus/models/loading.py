"""Models of any family from their files: one to train or to ask, several on one LLM, or names and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import DEFAULT_LOAD, LoadConfig
from videogpt_plus.families import FAMILIES, family_of
from videogpt_plus.families.record import OPTIONS, Family
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    import torch

    from videogpt_plus.encoders.grid import GridEncoder
    from videogpt_plus.models.base import VisionLM
    from videogpt_plus.models.placement import Placement

Runs = Sequence[tuple[Experiment, Path]]


def load_model(
    experiment: Experiment,
    run_dir: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
    streams: Sequence[str] | None = None,
) -> VisionLM:
    """The experiment's model in eval mode, with the trained parts of `run_dir`, its LoRA merged into the LLM.

    Without `run_dir` projectors that are not published are random. `streams` names those to load, for pre-training
    one alone; None means all. LLM and encoders are frozen and of `dtype`; projectors are trainable.
    On device "meta" it has names and shapes alone, checked against the files like any other.
    UserError: unknown family or stream; weights are missing, damaged or of other sizes.
    """
    family = family_of(experiment.family)
    import torch

    from videogpt_plus.models.lora import has_lora
    from videogpt_plus.models.silence import quiet

    with quiet():
        experiment = _chosen(family, experiment, run_dir, streams)
        model = _base(family, [(experiment, run_dir)], dtype, torch.device(device).type == "meta")
        _complete(model, family, experiment, run_dir, partial(_encoders, experiment, device, dtype))
        if run_dir is not None:
            model.load_run(run_dir)
            if has_lora(run_dir):
                model.load_lora(run_dir, merge=True)
        return model.to(device).eval()


def load_models(
    runs: Runs,
    device: str | torch.device,
    dtype: torch.dtype,
    encoder_dtype: torch.dtype,
    load_config: LoadConfig = DEFAULT_LOAD,
    rows: int = 1,
    cards: Sequence[int] = (),
    tell: Callable[[str], None] | None = None,
) -> list[VisionLM]:
    """The models of several run folders, in eval mode and frozen, for answering.

    They share their encoders, and their LLM where it is the same one; each has its own LoRA, projectors and reducer.
    `rows` questions go through the LLM together; `cards` holds the bytes that each GPU has free; `tell` gets a line on
    what the models take before anything is loaded. In processes that torchrun started each holds its share.
    UserError: as in `load_model`, they do not see clips in the same way, or there is no room for them.
    """
    family = one_family([experiment for experiment, _ in runs])
    check_options(family, load_config)
    from videogpt_plus.models.placement import plan
    from videogpt_plus.models.silence import quiet

    with quiet():
        runs = [(_chosen(family, experiment, folder), folder) for experiment, folder in runs]
        _check_alike(family, runs)
        apart = _lora_apart(family, runs, load_config)
        placement = plan(family, runs, outline, device, dtype, encoder_dtype, load_config, rows, cards, tell)
        return _together(family, runs, placement, encoder_dtype, apart)


def outline(experiment: Experiment, run_dir: str | Path | None) -> VisionLM:
    """The model on "meta", without tokenizer and reducers: of its files configs alone are read."""
    import torch

    from videogpt_plus.encoders.loading import outline_encoder

    family = family_of(experiment.family)
    experiment = _chosen(family, experiment, run_dir)
    model = _base(family, [(experiment, run_dir)], torch.bfloat16, meta=True)
    if not model.projectors:
        with torch.device("meta"):
            model.projectors.update(model.build_projectors(experiment))
    model.encoders.update({name: outline_encoder(stream) for name, stream in experiment.branches})
    return model


# ------------------------------------------------------------------------------------------------ one LLM and its runs
def _base(
    family: Family,
    runs: Sequence[tuple[Experiment, str | Path | None]],
    dtype: torch.dtype,
    meta: bool = False,
    load_config: LoadConfig = DEFAULT_LOAD,
) -> VisionLM:
    """The LLM of the first run, which those after it share; with published projectors unless each brings its own."""
    from videogpt_plus.models.base import has_projectors

    own = all(folder is not None and has_projectors(folder) for _, folder in runs)
    return family.function("build")(runs[0][0], dtype, meta, load_config, own)


def _complete(
    model: VisionLM,
    family: Family,
    experiment: Experiment,
    run_dir: str | Path | None,
    encoders: Callable[[], Mapping[str, GridEncoder]],
) -> None:
    """Adds tokenizer, encoders, projectors that are not published, and reducers to the model."""
    model.tokenizer = family.function("tokenizer")(experiment, run_dir)
    rows = model.llm.get_input_embeddings().weight.shape[0]
    if model.vocabulary > rows:
        raise UserError(
            f"LLM in {experiment.llm} has embeddings for {rows} tokens, its tokenizer {model.vocabulary} entries: "
            "name the folder that holds both as published"
        )
    model.encoders.update(encoders())
    if not model.projectors:
        model.projectors.update(model.build_projectors(experiment))
    model.reducers.update(model.build_reducers(experiment))


def _encoders(experiment: Experiment, device: str | torch.device, dtype: torch.dtype) -> dict[str, GridEncoder]:
    from videogpt_plus.encoders.loading import load_encoder

    return {name: load_encoder(stream, device, dtype) for name, stream in experiment.branches}


def _together(
    family: Family, runs: Runs, placement: Placement, encoder_dtype: torch.dtype, apart: bool
) -> list[VisionLM]:
    """A model for each run. `apart`: LoRAs are not merged into the LLM, each has a name of its own."""
    from videogpt_plus.models.lora import has_lora

    encoders = cache(partial(_encoders, runs[0][0], placement.read_to, encoder_dtype))
    bases: dict[str, VisionLM] = {}
    models = []
    for number, (experiment, folder) in enumerate(runs):
        if experiment.llm not in bases:
            alike = [run for run in runs if run[0].llm == experiment.llm]
            base = _base(family, alike, placement.dtype, load_config=placement.load_config)
            _complete(base, family, experiment, folder, encoders)
            if not apart and has_lora(folder):
                base.load_lora(folder, merge=True)
            bases[experiment.llm] = placement.place(base)
        base = bases[experiment.llm]
        model = base.sibling(experiment, folder)
        model.tokenizer = family.function("tokenizer")(experiment, folder)
        model.load_run(folder)
        if apart and has_lora(folder):
            model.shared_lora = f"run{number}" if len(runs) > 1 else None
            model.load_lora(folder, merge=False, name=f"run{number}")
            base.llm = model.llm.to(placement.dtype)  # PEFT holds a LoRA in float32, to train it
        models.append(model)
    return [model.requires_grad_(False).eval() for model in models]


# ------------------------------------------------------------------------------------------------ what is refused
def _chosen(
    family: Family, experiment: Experiment, run_dir: str | Path | None, names: Sequence[str] | None = None
) -> Experiment:
    """The experiment with those of its branches, and with the weights that the run folder itself holds.

    UserError: a branch is unknown, or the family has one and the experiment several.
    """
    from videogpt_plus.models.base import only_stream

    streams = dict(experiment.branches)
    if not family.many_branches:
        only_stream(experiment)
    if unknown := sorted(set(names or ()) - streams.keys()):
        raise UserError(f"unknown stream '{unknown[0]}'; choose from: {', '.join(streams)}")
    chosen = tuple((name, stream) for name, stream in experiment.branches if names is None or name in names)
    experiment = replace(experiment, branches=chosen)
    if run_dir is None or family.own_weights is None:
        return experiment
    return family.function("own_weights")(experiment, run_dir)


def one_family(experiments: Sequence[Experiment]) -> Family:
    """The family of all of them. UserError: they have several, or one that is unknown."""
    names = {experiment.family for experiment in experiments}
    if len(names) > 1:
        raise UserError(f"families {', '.join(sorted(names))} share no encoders: answer them one after the other")
    return family_of(*names)


def check_options(family: Family, load_config: LoadConfig) -> None:
    """UserError: the family cannot be loaded like that."""
    for name in OPTIONS:
        value = getattr(load_config, name)
        if value != getattr(DEFAULT_LOAD, name) and name not in family.options:
            able = [other.name for other in FAMILIES.values() if name in other.options]
            raise UserError(
                f"--{name.replace('_', '-')} {value} is not for the family '{family.name}'; "
                f"leave it out, or name a model of: {', '.join(able)}"
            )


def _check_alike(family: Family, runs: Runs) -> None:
    """UserError: a run sees clips otherwise than the first; or it has another LLM, where one has its plan of cards."""
    first, folder = runs[0]
    for experiment, other in runs[1:]:
        if (experiment.branches, experiment.num_frames) != (first.branches, first.num_frames):
            raise UserError(f"{other} and {folder} see clips differently: answer them one after the other")
        if family.options and experiment.llm != first.llm:
            raise UserError(f"{other} and {folder} have other weights: answer them one after the other")


def _lora_apart(family: Family, runs: Runs, load_config: LoadConfig) -> bool:
    """Whether LoRAs are kept apart instead of being merged into the LLM.

    UserError: the runs cannot share their LLM.
    """
    from videogpt_plus.models.lora import has_lora

    tuned = [has_lora(folder) for _, folder in runs]
    if len(runs) == 1 or not any(tuned):
        return not family.merges_lora
    if not family.shares_lora:
        folder = runs[tuned.index(True)][1]
        raise UserError(f"{folder} has a LoRA, and cannot share its LLM with others: answer it alone")
    if not all(tuned):
        folder = runs[tuned.index(False)][1]
        raise UserError(f"{folder} has no LoRA adapter to share an LLM with others by: answer it alone")
    if load_config.bits:
        raise UserError("--bits needs a LoRA merged into the LLM that it changes: answer these runs one by one")
    return True
