"""The model card of a run folder: what it is, what it is made of, how it was trained, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import level_text
from videogpt_plus.config.mixtures import MIXTURES
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.config.training import Training
from videogpt_plus.io.files import read_object

#: Where the experiments look for published weights -> their name on the Hub, and what is known of their licence.
PUBLISHED = {
    ".cache/qwen2_5/1.5b_instruction": ("Qwen/Qwen2.5-1.5B-Instruct", "Apache-2.0"),
    ".cache/qwen2_5/3b_instruction": ("Qwen/Qwen2.5-3B-Instruct", "Qwen Research License: not for commercial use"),
    ".cache/clip-vit-large-patch14-336": ("openai/clip-vit-large-patch14-336", "see its page"),
    ".cache/InternVideo2-Stage2_1B-224p-f4/InternVideo2-stage2_1b-224p-f4.pt": (
        "OpenGVLab/InternVideo2-Stage2_1B-224p-f4",
        "see its page",
    ),
}
CARD = "README.md"


def model_card(experiment: Experiment, folder: str | Path) -> str:
    """The text of README.md for a run or pre-training `folder` of `experiment`: the same for the same folder."""
    folder = Path(folder)
    tuned = (folder / "adapter_config.json").exists()
    sections = [
        _header(experiment),
        f"# {experiment.name}\n\n{_what(experiment, tuned)}",
        f"## Made of\n\n{_table(('part', 'is', 'licence'), _parts(experiment))}",
        f"## Trained\n\n{_table(('', ''), _recipe(experiment, folder, tuned))}",
        *([f"## Scores\n\n{scores}"] if (scores := _scores(experiment, folder)) else []),
        f"## Use\n\n{_use(experiment, tuned)}",
        "## Licence\n\nThe weights in this folder were made from the parts above and the data they were trained on: "
        "the licences of both apply. The code is under Apache-2.0.",
    ]
    return "\n\n".join(sections) + "\n"


def _header(experiment: Experiment) -> str:
    known = [PUBLISHED[path][0] for path in _weights(experiment) if path in PUBLISHED]
    base = ["base_model:", *(f"- {name}" for name in known)] if known else []
    lines = ["license: other", "library_name: videogpt-plus", "pipeline_tag: video-text-to-text", *base]
    return "\n".join(["---", *lines, "tags:", "- video", "- visual-token-pooling", "---"])


def _weights(experiment: Experiment) -> list[str]:
    return [experiment.llm, *(stream.weights for _, stream in experiment.branches)]


def _what(experiment: Experiment, tuned: bool) -> str:
    streams = " and ".join(name for name, _ in experiment.branches)
    if not tuned:
        return (
            f"The pre-trained projector of the {streams} stream of a video LLM: a start for fine-tuning, which answers "
            "nothing by itself. This folder holds the projector, the experiment and the tokenizer."
        )
    tokens, level = num_visual_tokens(experiment, experiment.num_frames), level_text(experiment.level)
    projectors = " and the projectors" if experiment.trains_projectors else ""
    return (
        f"A video LLM that sees {experiment.num_frames} frames of a clip as {tokens:,} visual tokens: frozen encoders "
        f"({streams}), a projector each, the reducer {experiment.reducer.name} at level {level}, and "
        f"an LLM with LoRA. This folder holds what was trained (the LoRA adapter{projectors}), the experiment and the "
        "tokenizer; the parts below are needed, too."
    )


def _parts(experiment: Experiment) -> Iterator[tuple[str, str, str]]:
    def named(weights: str) -> tuple[str, str]:
        published, licence = PUBLISHED.get(weights, ("", "its own"))
        return (f"`{weights}`" + (f" ({published})" if published else "")), licence

    yield "LLM", *named(experiment.llm)
    for name, stream in experiment.branches:
        left = experiment.reducer.left_of(stream.grid)
        weights, licence = named(stream.weights)
        shape = f"{stream.pixels} px, {stream.grid} x {stream.grid} patches a frame, reduced to {left}"
        yield f"{name} stream", f"{stream.encoder}, {weights}: {shape}; projector {stream.projector}", licence


def _recipe(experiment: Experiment, folder: Path, tuned: bool) -> Iterator[tuple[str, str]]:
    training = experiment.training
    files = ", ".join(f"`{Path(annotations).name}`" for annotations, _ in MIXTURES.get(training.data, []))
    yield "data", training.data + (f": {files}" if files else "")
    if tuned:
        lora = experiment.lora
        yield "LoRA", f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}"
    yield from _settings(training)
    yield "template", experiment.prompting.template
    log = folder / "log.jsonl"
    if log.exists():
        header, *steps = (json.loads(line) for line in log.read_text().splitlines())
        yield "length", f"{len(steps)} steps over {header['samples']} samples"
        if steps:
            yield "last loss", f"{steps[-1]['loss']:.4f}"
    else:
        yield "length", "not recorded: without a log.jsonl the lines above are what the experiment says"


def _settings(training: Training) -> Iterator[tuple[str, str]]:
    apart = training.projector_learning_rate
    yield "learning rate", f"{training.learning_rate:g}" + (f", projectors {apart:g}" if apart is not None else "")
    yield "samples a step", str(training.per_device_train_batch_size * training.gradient_accumulation_steps)
    yield "schedule", f"{training.lr_scheduler_type}, warm-up ratio {training.warmup_ratio:g}"
    yield "epochs", f"{training.num_train_epochs:g}"
    yield "weight decay, gradient clipping", f"{training.weight_decay:g}, {training.max_grad_norm:g}"
    yield "precision", "bfloat16" if training.bf16 else "float32"
    yield "seed", str(training.seed)


def _scores(experiment: Experiment, folder: Path) -> str:
    """What `score` and the judges found for each benchmark and control; empty without.

    Answers to the first questions alone (`--limit`) are a trial and no result of the benchmark: they are left out.
    """
    right, judged = [], []
    for path in sorted(folder.glob("answers*/scores*.json")):
        if re.search(r"_first\d+$", path.parent.name):
            continue
        scores = read_object(path, "score the run again")
        if "judge" in scores:
            judged += _judged_rows(scores)
        elif path.name == "scores.json":
            right.append(_right_row(scores, experiment))
    parts = []
    if right:
        told = "Mean accuracy over the benchmark's tasks in %; a question that could not be asked counts as wrong."
        parts += [told, _table(("benchmark", "shown", "questions", "accuracy", "95 %"), right)]
    if judged:
        told = (
            "Mean score by aspect from 0 to 5, given by a judge: comparable with scores of the same judge alone. "
            "A clip that could not be read counts 0."
        )
        parts += [told, _table(("benchmark", "judge", "shown", "aspect", "answers", "mean", "95 %"), judged)]
    return "\n\n".join(parts)


def _right_row(scores: Mapping[str, Any], experiment: Experiment) -> tuple[str, ...]:
    overall, root = scores["overall"], experiment.benchmark_root
    # The benchmark that the experiment names has no other name: the toy's lies in MVBench's layout and is not MVBench.
    benchmark = scores.get("benchmark") or ("MVBench" if Path(root).name == "MVBench" else f"`{root}`")
    if "copy" in scores:
        benchmark = f"{scores.get('benchmark', 'mvbench')}, copy {scores['copy']}"
    macro = overall["macro"]
    interval = f"{100 * macro['ci_low']:.1f} to {100 * macro['ci_high']:.1f}"
    return benchmark, _shown(scores), str(overall["n"]), f"{100 * macro['accuracy']:.1f}", interval


def _judged_rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    judge = scores["judge"]
    who = f"{judge['judge_model']}, prompts {judge['prompt_hash']}"
    for aspect, row in scores["aspects"].items():
        mean, interval = "none", ""  # the judge gave no score to any answer
        if row["mean"] is not None:
            mean, interval = f"{row['mean']:.2f}", f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"
        answers = f"{row['n']} of {row['n_expected']}"
        yield scores["benchmark"], who, _shown(scores), aspect, answers, mean, interval


def _shown(scores: Mapping[str, Any]) -> str:
    return (scores.get("control") or "all frames").replace("_", " ")


def _use(experiment: Experiment, tuned: bool) -> str:
    if tuned:
        commands = 'videogpt-plus predict FOLDER "What happens?" --video CLIP.mp4\nvideogpt-plus answer FOLDER'
    else:
        stream = experiment.branches[0][0]
        commands = f"videogpt-plus train EXPERIMENT --projectors {stream}=FOLDER ..."
    return (
        f"FOLDER is this one; the parts lie at the paths of `experiment.json`.\n\n```\n{commands}\n"
        "videogpt-plus convert FOLDER TARGET    # into the layout of the reference\n```"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
