"""The reference's files into our run folders and back, and whether both compute the same.

Three kinds of folders on each side:
- fine-tuned, the reference's: `adapter_model.safetensors` (or `.bin`), `adapter_config.json`,
  `non_lora_trainables.bin`, `config.json`; ours: what `train` writes;
- pre-trained, the reference's: `mm_projector.bin` with or without `config.json`; ours: what `pretrain` writes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from videogpt_plus.config.experiment import Experiment, Lora, pretraining_experiment, with_settings
from videogpt_plus.config.experiment_file import load_experiment, save_experiment
from videogpt_plus.config.experiments import EXPERIMENTS, at_level, get_experiment, level_text
from videogpt_plus.families import FAMILIES
from videogpt_plus.io.files import located, read_object, require, write_bytes, write_json
from videogpt_plus.io.folders import new_folder
from videogpt_plus.io.model_folders import values_of
from videogpt_plus.io.run_weights import ADAPTER_FILES, projector_key, projector_part, read_adapter, read_projectors
from videogpt_plus.io.runs import FINISHED
from videogpt_plus.io.shards import DTYPES, SHARD_BYTES, Differing
from videogpt_plus.io.tensors import State, check_fit, read_tensors, save_tensors
from videogpt_plus.reducers.average import Average
from videogpt_plus.training.folder import describe
from videogpt_plus.types import IGNORE, UserError, Visual

TUNED, PRETRAINED = "non_lora_trainables.bin", "mm_projector.bin"
#: How the reference takes features: `config.json` may say otherwise, and then its numbers are not ours.
FEATURES = {
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}
#: Sizes of the LLM, equal in its own config and in the reference's. The vocabulary is not: see `_take_embeddings`.
LLM_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)
#: What the peft of the reference's day knows of a LoRA; it refuses a file with any other key.
LORA_KEYS = (
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode"),
    *("init_lora_weights", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha"),
    *("lora_dropout", "megatron_config", "megatron_core", "modules_to_save", "peft_type", "r", "rank_pattern"),
    *("revision", "target_modules", "task_type", "use_dora", "use_rslora"),
)
#: Both sides hold the same numbers, so their logits differ by no more than rounding.
TOLERANCE = 2e-5


def convert(source: str | Path, target: str | Path, experiment: str | None = None, to: str | None = None) -> str:
    """Writes what `source` holds into the new folder `target`, in the other layout; returns "ours" or "reference".

    `to` names the layout of `target` where `source` holds both. `experiment` names ours for the reference's files,
    where their `config.json` fits none or several; its level is that of `config.json` unless the name says one.
    `target` is there whole or not at all.
    UserError: `source` is neither, `target` is not empty, or `source` contradicts itself or the experiment.
    """
    source, target = require(source, "weights to convert"), Path(target)
    to = to or _direction(source)
    with new_folder(target) as folder:
        if to == "ours":
            _to_ours(source, folder, experiment)
        elif experiment is not None:
            raise UserError(f"{source} says itself which experiment it is: leave out --experiment {experiment}")
        else:
            _to_reference(source, folder)
    return to


def largest_difference(source: str | Path, target: str | Path, to: str) -> float:
    """The largest difference of a logit between both sides of a conversion, in float32, for one random clip.

    Each side is loaded from its own files, the reference's at the level of its own `config.json`.
    """
    ours, other = (Path(target), Path(source)) if to == "ours" else (Path(source), Path(target))
    experiment = theirs = load_experiment(ours)
    if (other / TUNED).exists():
        theirs = at_level(experiment, _config(other).get("pool_level", experiment.level))
    return (_logits(experiment, ours) - _logits(theirs, other)).abs().max().item()


def convert_family(
    family: str,
    source: str | Path,
    target: str | Path,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    to: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Writes a family's weights into the new folder `target`, in another layout, and returns what that is called.

    `to` names it where the family has several. `dtype` is that of the target, as stored unless it is named. `target`
    is there whole or not at all. `tell` is given a line about what of `source` was left out.
    UserError: `source` is of another family, and of which; or missing and unexpected keys and wrong shapes, all at
    once; or a value is finite, and would not be in `dtype`.
    """
    file = _conversion_of(family)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'; choose from: {', '.join(DTYPES)}")
    return file.convert(family, source, target, to, dtype, shard_bytes, tell)


def differing(family: str, source: str | Path, target: str | Path, dtype: str | None = None) -> Differing:
    """The tensors of such a conversion's source that are not bit for bit the target's.

    Read back from both, a tensor at a time, the source's brought to `dtype`.
    """
    return _conversion_of(family).differing(family, source, target, dtype)


def _conversion_of(family: str) -> ModuleType:
    able = [name for name, record in FAMILIES.items() if record.convert]
    if family not in able:
        raise UserError(f"unknown family '{family}'; choose from: {', '.join(able)}")
    return FAMILIES[family].function("convert")


def _logits(experiment: Experiment, folder: Path) -> Any:
    """Of the last 32 positions of a prompt about four random frames: Float "32 v"."""
    import torch

    from videogpt_plus.models.loading import load_model
    from videogpt_plus.text.chat import encode_prompt

    generator = torch.Generator().manual_seed(0)
    pixels = {name: torch.randn(4, 3, s.pixels, s.pixels, generator=generator) for name, s in experiment.branches}
    model = load_model(experiment, folder, "cpu", torch.float32)
    ids = torch.tensor([encode_prompt(model.tokenizer, "What happens in the video?", [4], "qwen2")])
    with torch.inference_mode():
        merged = model.merge(ids, torch.ones_like(ids).bool(), torch.full_like(ids, IGNORE), [[Visual(pixels, 4)]])
        return model.llm(inputs_embeds=merged.inputs_embeds, logits_to_keep=32).logits[0]


def _direction(source: Path) -> str:
    """Where to: the layout that `source` does not have."""
    if source.is_file():
        return "ours"
    ours = (source / FINISHED).exists()
    theirs = [name for name in (TUNED, PRETRAINED) if (source / name).exists()]
    if ours and theirs:
        raise UserError(f"{source} holds both {FINISHED} and {theirs[0]}: say which to write with --to ours|reference")
    if not ours and not theirs:
        raise UserError(
            f"nothing to convert in {source}: expected {FINISHED} (ours), or {TUNED} or {PRETRAINED} (the reference's)"
        )
    return "reference" if ours else "ours"


# ------------------------------------------------------------------------------------------------ to ours
def _to_ours(source: Path, folder: Path, name: str | None) -> None:
    config = _config(source)
    tuned = source.is_dir() and (source / TUNED).exists()
    file = source if source.is_file() else source / (TUNED if tuned else PRETRAINED)
    state = read_projectors(require(file, "the reference's projectors"))
    experiment = _experiment(source, config, name, tuned)
    if tuned:
        path, adapter = read_adapter(source)
        lora = read_object(require(source / "adapter_config.json", "LoRA config"), "copy the file again")
        experiment = with_settings(experiment, {"source.lora": _lora(source / "adapter_config.json", lora)})
        save_tensors(folder / ADAPTER_FILES[0], adapter)
        write_json(folder / "adapter_config.json", {**lora, "base_model_name_or_path": None})
    else:
        experiment = _of_one_stream(file, state, experiment)
    _check_projectors(file, state, experiment, config)
    save_experiment(folder, experiment)
    describe(folder, experiment)
    save_tensors(folder / FINISHED, state)


def _config(source: Path) -> dict[str, Any]:
    """The reference's `config.json`, where there is one."""
    path = (source if source.is_dir() else source.parent) / "config.json"
    return read_object(path, "copy the file again") if path.exists() else {}


def _experiment(source: Path, config: dict[str, Any], name: str | None, tuned: bool) -> Experiment:
    """The experiment of ours that the reference's files are, at their level."""
    if name is None:
        own = [e for e in EXPERIMENTS.values() if e.family == "dual_encoder"]  # the one that the reference has
        fitting = [e for e in own if config and _llm_config(e) and not _contradictions(config, e)]
        if len(fitting) != 1:
            why = f"it fits {', '.join(e.name for e in fitting)}" if fitting else "nothing in it fits one"
            raise UserError(
                f"cannot tell which experiment {source} is ({why}): name it with --experiment, one of "
                f"{', '.join(EXPERIMENTS)}"
            )
        named, level_named = fitting[0], False
    else:
        named, level_named = get_experiment(name), "_pool" in name
    level = config.get("pool_level")
    if contradictions := _contradictions(config, named):
        raise UserError(f"{source} is not '{named.name}': {'; '.join(contradictions)}; name another experiment")
    if not tuned:  # projectors are trained on every patch
        return named
    if not isinstance(level, int | float) or isinstance(level, bool):
        if level is not None or not level_named:
            raise UserError(
                f"{source}/config.json names no pool_level (found {level!r}): name it, such as {named.name}_pool4"
            )
        return named
    if level_named and level != named.level:
        raise UserError(
            f"{source} is not '{named.name}': pool_level is {level_text(level)} there; name another experiment"
        )
    return at_level(named, level)


def _contradictions(config: dict[str, Any], experiment: Experiment) -> list[str]:
    """What the reference's `config.json` says otherwise than the experiment."""
    wanted: dict[str, Any] = dict(FEATURES)
    for name, stream in experiment.branches:
        prefix = _prefix(name)
        if config.get(f"{prefix}vision_tower", stream.weights):  # None in the pre-training of the other stream
            wanted |= {f"{prefix}projector_type": stream.projector, f"{prefix}hidden_size": stream.width}
    llm = _llm_config(experiment)
    wanted |= {key: llm[key] for key in LLM_SIZES if key in llm}
    return [
        f"{key} is {config[key]!r} there, {value!r} in the experiment"
        for key, value in wanted.items()
        if key in config and config[key] != value
    ]


def _prefix(stream: str) -> str:
    """What a stream's keys in the reference's `config.json` begin with: `mm_` or `image_mm_`."""
    return projector_key(stream).removesuffix("projector")


def _llm_config(experiment: Experiment) -> dict[str, Any]:
    """`config.json` of the experiment's LLM, where it is there."""
    path = located(experiment.llm) / "config.json"
    return read_object(path, "download it again") if path.exists() else {}


def _lora(path: Path, config: dict[str, Any]) -> Lora:
    r, alpha, dropout = (config.get(key) for key in ("r", "lora_alpha", "lora_dropout"))
    if not (isinstance(r, int) and isinstance(alpha, int) and isinstance(dropout, int | float)):
        raise UserError(
            f"{path} must have numbers for r, lora_alpha and lora_dropout, not {r!r}, {alpha!r}, {dropout!r}; "
            "copy the file again"
        )
    return Lora(r=r, alpha=alpha, dropout=dropout)


def _of_one_stream(file: Path, state: State, experiment: Experiment) -> Experiment:
    """The pre-training whose projector `state` is."""
    streams = [n for n, _ in experiment.branches if any(k.startswith(f"{projector_key(n)}.") for k in state)]
    if len(streams) != 1:
        found = f"projectors of {' and '.join(streams)}" if streams else "no projector"
        raise UserError(f"{file} holds {found}: a pre-training writes that of one stream; name another file")
    # Torch and all that trains: what is wrong with the files is said before the seconds that these take.
    return pretraining_experiment(experiment, streams[0])


def _check_projectors(file: Path, state: State, experiment: Experiment, config: dict[str, Any]) -> None:
    """UserError unless `state` is the projectors of the experiment's streams, each key and shape."""
    import torch

    from videogpt_plus.models.projectors import build_projector

    sizes = (config.get("hidden_size"), _llm_config(experiment).get("hidden_size"))
    width = next((size for size in sizes if isinstance(size, int)), None)
    expected: dict[str, tuple[int, ...]] = {}
    for name, stream in experiment.branches:
        own = projector_part(state, name)
        biases = [value.shape[0] for key, value in own.items() if key.endswith("bias")]
        with torch.device("meta"):
            projector = build_projector(stream.projector, stream.width, width or max(biases, default=stream.width))
        expected |= {f"{projector_key(name)}.{k}": tuple(v.shape) for k, v in projector.state_dict().items()}
    check_fit(
        file,
        missing=expected.keys() - state.keys(),
        unexpected=state.keys() - expected.keys(),
        shapes=[
            f"{key} {tuple(state[key].shape)} instead of {expected[key]}"
            for key in expected.keys() & state.keys()
            if tuple(state[key].shape) != expected[key]
        ],
    )


# ------------------------------------------------------------------------------------------------ to the reference's
def _to_reference(source: Path, folder: Path) -> None:
    experiment = load_experiment(source)
    state = read_tensors(require(source / FINISHED, "projectors; finish the training first"))
    _check_projectors(source / FINISHED, state, experiment, {})
    tuned = any((source / name).exists() for name in ("adapter_config.json", *ADAPTER_FILES))
    _check_expressible(source, experiment, tuned)
    if tuned:
        _, adapter = read_adapter(source)
        save_tensors(folder / ADAPTER_FILES[0], adapter)
        write_json(folder / "adapter_config.json", _lora_for_reference(source, experiment))
    write_json(folder / "config.json", _config_for_reference(experiment, tuned))
    name, prefix = (TUNED, "base_model.model.model.") if tuned else (PRETRAINED, "model.")
    _save_pickle(folder / name, {f"{prefix}{key}": value for key, value in state.items()})


def _check_expressible(source: Path, experiment: Experiment, tuned: bool) -> None:
    """UserError: the reference cannot compute this experiment."""
    names = [name for name, _ in experiment.branches]
    if tuned and type(experiment.reducer) is not Average:
        raise UserError(f"{source} reduces by '{experiment.reducer.name}', the reference by 'average' alone")
    if tuned and names != ["image", "video"]:
        raise UserError(f"{source} has the streams {', '.join(names)}, the reference image and video in this order")
    if not tuned and names not in (["image"], ["video"]):
        raise UserError(
            f"{source} has no LoRA adapter and the streams {', '.join(names)}: the reference's pre-training is of "
            "image or of video, its fine-tuning has an adapter; train it to its end"
        )


def _lora_for_reference(source: Path, experiment: Experiment) -> dict[str, Any]:
    from peft import LoraConfig

    path = require(source / "adapter_config.json", "LoRA config")
    ours = read_object(path, "copy the file again")
    usual = LoraConfig().to_dict() | {"peft_version": ours.get("peft_version")}
    if lost := [key for key, value in ours.items() if key not in LORA_KEYS and value != usual.get(key)]:
        raise UserError(f"{path} uses {', '.join(lost)}, which the reference's peft does not know")
    kept = {key: ours[key] for key in LORA_KEYS if key in ours}
    return {**kept, "base_model_name_or_path": str(located(experiment.llm))}


def _config_for_reference(experiment: Experiment, tuned: bool) -> dict[str, Any]:
    """`config.json` as the reference writes it: the LLM's in transformers 4's words, and its own keys."""
    from transformers import Qwen2Config

    path = require(located(experiment.llm) / "config.json", "LLM's config")
    llm = read_object(path, "download it again")
    with values_of(path, "correct it or download it again"):
        rope = Qwen2Config.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False).rope_parameters
    dtype = llm.pop("dtype", None) or llm.pop("torch_dtype", None)
    for key in ("rope_parameters", "layer_types", "transformers_version"):
        llm.pop(key, None)
    streams = dict(experiment.branches)
    towers: dict[str, Any] = {}
    for name in ("video", "image"):
        prefix, stream = _prefix(name), streams.get(name)
        towers[f"{prefix}vision_tower"] = str(located(stream.weights)) if stream else None
        towers[f"{prefix}projector_type"] = stream.projector if stream else "mlp2x_gelu"
        if stream:
            towers[f"{prefix}hidden_size"] = stream.width
    trains = {f"tune_{_prefix(name)}mlp_adapter": not tuned for name in streams}
    level = experiment.level
    return {
        **llm,
        "model_type": "VideoGPT+",
        "rope_theta": rope["rope_theta"],
        "torch_dtype": dtype,
        **FEATURES,
        **towers,
        **trains,
        "use_mm_proj": True,
        "pool_level": int(level) if level == int(level) else level,
    }


def _save_pickle(path: Path, tensors: State) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_bytes(path, buffer.getvalue())
