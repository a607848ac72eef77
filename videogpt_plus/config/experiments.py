"""Named experiments. Each is a `replace(...)` of another; name, level and token count are computed, never retyped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from videogpt_plus.config.experiment import (
    Branch,
    Experiment,
    InternVideo2Size,
    Lora,
    Prompting,
    Published,
    Random,
    Sampling,
    Trained,
    with_settings,
)
from videogpt_plus.config.training import Pretraining, Training
from videogpt_plus.reducers import REDUCERS, get_reducer
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import UserError

CLIP_L_336 = Branch(encoder="clip", weights=".cache/clip-vit-large-patch14-336", pixels=336, grid=24, width=1024)
INTERNVIDEO2_1B = Branch(
    encoder="internvideo2",
    weights=".cache/InternVideo2-Stage2_1B-224p-f4/InternVideo2-stage2_1b-224p-f4.pt",
    pixels=224,
    grid=16,
    width=1408,
    size=InternVideo2Size(),
)

# The reference's recipes: 256 samples a step. Eight devices make 2 passes each in pre-training, 8 in fine-tuning.
PRETRAIN = Pretraining(
    data="PRETRAINING",
    learning_rate=1e-3,
    per_device_train_batch_size=16,
    gradient_accumulation_steps=16,
)
FINETUNE = Training(
    data="MVBench_FINETUNING",
    learning_rate=2e-4,
    projector_learning_rate=2e-5,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=64,
    group_by_modality_length=True,
)

QWEN_1_5B = Experiment(
    name="qwen1_5b",
    llm=".cache/qwen2_5/1.5b_instruction",
    branches=(("image", CLIP_L_336), ("video", INTERNVIDEO2_1B)),
    source=Trained(FINETUNE, (("image", PRETRAIN), ("video", PRETRAIN))),
    prompting=Prompting(max_new_tokens=1024),
)
QWEN_3B = replace(QWEN_1_5B, name="qwen3b", llm=".cache/qwen2_5/3b_instruction")

# The embedded default: the real classes at a tiny size, weights in the package, data rendered on demand.
TOY_WEIGHTS = "package:toy/weights"
TOY_BENCHMARK = ".cache/toy/bench"
TOY_PRETRAIN = Pretraining(
    data="TOY_IMAGES",
    learning_rate=1e-2,
    per_device_train_batch_size=16,
    num_train_epochs=3,
    bf16=False,
    gradient_checkpointing=False,
    save_steps=100,
    stills="pad",
)
TOY_FINETUNE = Training(
    data="TOY_FINETUNING",
    learning_rate=1e-3,
    per_device_train_batch_size=8,
    num_train_epochs=1,
    bf16=False,
    gradient_checkpointing=False,
    save_steps=40,
)
TOY_VIDEO_SIZE = InternVideo2Size(depth=4, width=64, heads=4, patch=8)
TOY_VIDEO = Branch("internvideo2", f"{TOY_WEIGHTS}/internvideo2.safetensors", 64, 8, 64, size=TOY_VIDEO_SIZE)
TOY = Experiment(
    name="toy",
    llm=f"{TOY_WEIGHTS}/llm",
    branches=(("image", Branch("clip", f"{TOY_WEIGHTS}/clip", pixels=96, grid=12, width=64)), ("video", TOY_VIDEO)),
    source=Trained(
        TOY_FINETUNE,
        (("image", TOY_PRETRAIN), ("video", replace(TOY_PRETRAIN, data="TOY_VIDEOS"))),
        Lora(r=16, alpha=32, dropout=0.0),
    ),
    sampling=Sampling(num_frames=8),
    prompting=Prompting(max_new_tokens=16),
    benchmark_root=TOY_BENCHMARK,
)

# Published whole and asked as they are: nothing is trained, and a pool level is the same weights with fewer tokens.
# One frame a second, so that a frame's number, which the template "cogvlm2_chat_indexed" writes, is its time.
COGVLM2_VIDEO = Experiment(
    name="cogvlm2_video",
    llm=".cache/cogvlm2-video-llama3-chat",
    branches=(("video", Branch("eva2_video", ".cache/cogvlm2-video-llama3-chat", 224, 8, 1792, projector="glu")),),
    source=Published(),
    sampling=Sampling(24, "each_second", "crop"),
    # Of 2,048 tokens that it was trained on, 24 frames take 1,609.
    prompting=Prompting("cogvlm2_chat_indexed", max_new_tokens=256),
    family="cogvlm2_video",
)
COGVLM2_IMAGE = Experiment(
    name="cogvlm2_image",
    llm=".cache/cogvlm2-llama3-chat-19B",
    branches=(("image", Branch("eva2_image", ".cache/cogvlm2-llama3-chat-19B", 1344, 48, 1792, projector="glu")),),
    source=Published(),
    sampling=Sampling(1, stills="crop"),
    prompting=Prompting("cogvlm2_chat", max_new_tokens=1024),
    family="cogvlm2_image",
)
LLAVA15_7B = Experiment(
    name="llava15_7b",
    llm=".cache/llava-1.5-7b",
    branches=(("image", Branch("clip_llava", ".cache/llava-1.5-7b", 336, 24, 1024)),),
    source=Published(),
    # LLaVA was trained on pictures: of a video it sees the frame in the middle, or in the middle of each equal part.
    sampling=Sampling(1, "middle"),
    prompting=Prompting("llava_v1", max_new_tokens=512),
    family="llava15",
)

CLIP_B_16 = Branch("clip_cinego", ".cache/clip-vit-base-patch16", pixels=224, grid=14, width=768, projector="linear")
# Trained from nothing by `videogpt-plus cinego`, or its authors' files: a folder with tokenizer.json, config.json and
# one of the files of families/cinego/weights.py.
CINEGO_512 = Experiment(
    name="cinego_512",
    llm=".cache/cinego_512",
    branches=(("video", CLIP_B_16),),
    source=Published(),
    reducer=Summary(),
    # From the first frame to the last, evenly; a short clip repeats some.
    sampling=Sampling(8, "linspace", "crop"),
    prompting=Prompting("cinego", max_new_tokens=256),
    family="cinego",
)
CINEGO_768 = replace(CINEGO_512, name="cinego_768", llm=".cache/cinego_768")
TOY_CINEGO = replace(
    CINEGO_512,
    name="toy_cinego",
    llm=".cache/toy/cinego",
    branches=(("video", Branch("clip_cinego", f"{TOY_WEIGHTS}/clip", 96, 12, 64, projector="linear")),),
    reducer=Summary(queries=16, heads=4, frame_times=True, dropout=0.0),  # which way a thing moves is a matter of time
    sampling=replace(CINEGO_512.sampling, num_frames=4),
    prompting=Prompting("cinego", max_new_tokens=32),
    benchmark_root=TOY_BENCHMARK,
)

# CogVLM2-Video with a LoRA for RWF-2000: is there violence in a clip, 1 or 0? "reference" is trained as the published
# recipe trains, on frames spread over the clip without their numbers; "consistent" as the published model is asked.
# A run keeps its sampling and template, so that it is asked as it was trained.
RWF2000 = Training(
    data="RWF2000",
    learning_rate=1e-4,
    per_device_train_batch_size=1,
    num_train_epochs=3,
    warmup_ratio=0.05,
    weight_decay=0.1,
    adam_beta2=0.95,
    model_max_length=2048 - 24 * 65,  # a frame is one of these, and 66 tokens of the 2,048
    seed=0,
)
COGVLM2_RWF_CONSISTENT = replace(
    COGVLM2_VIDEO, name="cogvlm2_rwf_consistent", source=Trained(RWF2000, lora=Lora(r=8, alpha=32))
)
COGVLM2_RWF_REFERENCE = with_settings(
    COGVLM2_RWF_CONSISTENT,
    {"name": "cogvlm2_rwf_reference", "sampling.rule": "average", "prompting.template": "cogvlm2_chat"},
)

# Their tiny twins: the real classes with random weights, which `families.twin` writes on demand. Grids keep the real
# ones' ratio. They show that the pipe runs; what they answer means nothing.
TOY_FAMILIES = ".cache/toy/families"


def _twin(published: Experiment, pixels: int, grid: int, num_frames: int) -> Experiment:
    """The tiny twin of published weights: `toy_FAMILY`, with frames of so many pixels and a grid of that side."""
    folder = f"{TOY_FAMILIES}/{published.family}"
    ((name, branch),) = published.branches
    return replace(
        published,
        name=f"toy_{published.family}",
        llm=folder,
        branches=((name, replace(branch, weights=folder, pixels=pixels, grid=grid, width=32)),),
        source=Random(),
        sampling=replace(published.sampling, num_frames=num_frames),
        prompting=replace(published.prompting, max_new_tokens=TOY.max_new_tokens),
        benchmark_root=TOY_BENCHMARK,
    )


TOY_LLAVA15 = _twin(LLAVA15_7B, pixels=96, grid=12, num_frames=1)
TOY_COGVLM2_IMAGE = _twin(COGVLM2_IMAGE, pixels=192, grid=24, num_frames=1)
TOY_COGVLM2_VIDEO = _twin(COGVLM2_VIDEO, pixels=64, grid=4, num_frames=8)

TOY_RWF_TRAINING = replace(
    RWF2000,
    data="TOY_RWF",
    learning_rate=1e-2,
    per_device_train_batch_size=8,
    bf16=False,
    gradient_checkpointing=False,
    save_steps=10,
)
TOY_RWF = replace(
    TOY_COGVLM2_VIDEO,
    name="toy_rwf",
    source=Trained(TOY_RWF_TRAINING, lora=Lora(r=8, alpha=32), base=TOY_COGVLM2_VIDEO.source),
)

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        *(TOY, QWEN_1_5B, QWEN_3B, LLAVA15_7B, COGVLM2_IMAGE, COGVLM2_VIDEO),
        *(TOY_LLAVA15, TOY_COGVLM2_IMAGE, TOY_COGVLM2_VIDEO),
        *(COGVLM2_RWF_REFERENCE, COGVLM2_RWF_CONSISTENT, TOY_RWF),
        *(CINEGO_512, CINEGO_768, TOY_CINEGO),
    )
}


def level_text(level: float) -> str:
    """`4` for 4.0 and `1.5` for 1.5, as levels stand in names."""
    return f"{level:g}"


def at_level(experiment: Experiment, level: float) -> Experiment:
    """The experiment at another pool level, named for it: `toy` at 4 is `toy_pool4`."""
    base, _, seed = _parts(experiment.name)
    return with_settings(experiment, {"reducer.level": level, "name": f"{base}_pool{level_text(level)}{seed}"})


def with_reducer(experiment: Experiment, name: str) -> Experiment:
    """The experiment with another reducer at its level, named for it unless it is the default: `toy_max_pool4`."""
    kind = get_reducer(name)
    if kind is type(experiment.reducer):
        return experiment
    base, level, seed = _parts(experiment.name)
    return replace(experiment, name=f"{base}_{name}{level}{seed}", reducer=kind(level=experiment.level))


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The experiment fine-tuned with another seed, named for it unless it is its own: `toy_pool4_seed7`.

    UserError: it is not fine-tuned, or that is no seed.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed} is not possible: choose one from 0 to {2**32 - 1}")
    if seed == experiment.training.seed:
        return experiment
    base, level, _ = _parts(experiment.name)
    return with_settings(experiment, {"source.finetune.seed": seed, "name": f"{base}{level}_seed{seed}"})


def _parts(name: str) -> tuple[str, str, str]:
    """`toy_max`, `_pool4` and `_seed7` of `toy_max_pool4_seed7`; the last two may be empty."""
    return re.fullmatch(r"(.*?)(_pool[\d.]*)?(_seed\d+)?", name).groups(default="")


def base_of(name: str) -> str:
    """`toy` of `toy_max_pool4_seed7`: the key of EXPERIMENTS in a name, or what stands in its place."""
    base, _, _ = _parts(name)
    heads = (base.removesuffix(f"_{reducer}") for reducer in REDUCERS)
    return next((head for head in heads if head in EXPERIMENTS), base)


def choices(chosen: Callable[[Experiment], bool] = lambda experiment: True) -> str:
    """The names of EXPERIMENTS in words, of those that are chosen."""
    *names, last = (e.name for e in EXPERIMENTS.values() if chosen(e))
    return f"{', '.join(names)} or {last}"


def get_experiment(name: str) -> Experiment:
    """The experiment called `name`: a key of EXPERIMENTS, with `_REDUCER`, `_poolLEVEL`, `_seedSEED` behind it.

    UserError: there is none; it names the choices, and the closest of them where one is close.
    """
    base, pool, seeded = _parts(name)
    level, seed = pool.removeprefix("_pool"), seeded.removeprefix("_seed")
    known = base_of(name)
    reducer = base.removeprefix(known).removeprefix("_")
    if known not in EXPERIMENTS or not re.fullmatch(r"(\d+(\.\d+)?)?", level):
        # What stands behind the last `_` may be a mistyped level: of `toy_pol2` the part before it is looked up, too.
        close = get_close_matches(known, EXPERIMENTS, n=1)
        close = close or get_close_matches(known.rpartition("_")[0], EXPERIMENTS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise UserError(
            f"unknown experiment '{name}': {hint}choose from {', '.join(EXPERIMENTS)}, "
            "with _poolLEVEL behind it for a pool level, such as toy_pool4"
        )
    experiment = EXPERIMENTS[known]
    if reducer:
        experiment = with_reducer(experiment, reducer)
    experiment = at_level(experiment, float(level)) if level else experiment
    return with_seed(experiment, int(seed)) if seed else experiment
