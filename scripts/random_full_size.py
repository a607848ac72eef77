"""One real size with random weights, end to end: built, saved as published, loaded as a product, asked one question.

python scripts/random_full_size.py --size 1.5b --output .cache/random --video CLIP.mp4

Says what time and memory the real size takes on this machine, and that the files load. Its answers mean nothing.
The weights are random, so is the vocabulary: Qwen2's own is no part of this project, and a tokenizer of the same
size with the same special tokens stands in, which takes one token for each byte. A question is thus several times as
long in tokens as with the real one; it stays short beside the visual tokens.
Peaks are the kernel's (Linux): memory that the process has in RAM, pages of mapped weight files included.
"""

from __future__ import annotations

import gc
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from videogpt_plus.clips.video import read_clip
from videogpt_plus.config.experiment import Experiment, Lora, with_settings
from videogpt_plus.config.experiments import QWEN_1_5B, QWEN_3B, at_level, level_text
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders.internvideo2 import InternVideo2
from videogpt_plus.encoders.loading import preprocessor
from videogpt_plus.io.files import write_json
from videogpt_plus.io.run_weights import projector_key
from videogpt_plus.io.tensors import State, random_state, shapes_of
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.loading import load_model
from videogpt_plus.models.lora import TARGETS
from videogpt_plus.models.projectors import build_projector
from videogpt_plus.models.silence import quiet
from videogpt_plus.text.chat import encode_prompt
from videogpt_plus.types import UserError, Visual

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
GIB = 2**30

#: Entries of Qwen2's vocabulary before its special tokens, and those tokens in their order.
ORDINARY_TOKENS = 151_643
SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
]


@dataclass(frozen=True)
class Size:
    """What a size is built of. The experiment says the rest: both streams' sizes, projectors, LoRA."""

    experiment: Experiment
    # Of the LLM's published config.json.
    llm: dict[str, Any]
    # Of CLIP's published config.json.
    clip: dict[str, Any]


CLIP_L_336_CONFIG = {
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "projection_dim": 768,
}
QWEN_1_5B_CONFIG = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_window_layers": 21,
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
}
QWEN_3B_CONFIG = QWEN_1_5B_CONFIG | {
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "max_window_layers": 70,
}
SIZES = {
    "1.5b": Size(QWEN_1_5B, QWEN_1_5B_CONFIG, CLIP_L_336_CONFIG),
    "3b": Size(QWEN_3B, QWEN_3B_CONFIG, CLIP_L_336_CONFIG),
}


@dataclass
class Row:
    """One line of the table."""

    stage: str
    # How often the stage ran; its seconds are those of all runs together.
    calls: int
    seconds: float
    # Highest resident memory of the process while it ran.
    peak_bytes: int


class Meter:
    """Seconds and peak memory of stages that follow one another; a stage that runs again adds to its row.

    `log` takes a line whenever one ends.
    """

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self.log = log
        self.rows: dict[str, Row] = {}
        #: Highest resident memory so far, also between stages.
        self.highest = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs within it is the stage `name`."""
        self._begin()
        yield
        self._end(name)

    @contextmanager
    def watching(self, module: nn.Module, name: Callable[[dict[str, Any]], str]) -> Iterator[None]:
        """Within it each call of `module` is a stage, named by `name` of its keyword arguments."""
        with (
            module.register_forward_pre_hook(lambda *_: self._begin()),
            module.register_forward_hook(lambda _, args, kwargs, out: self._end(name(kwargs)), with_kwargs=True),
        ):
            yield

    def _begin(self) -> None:
        self.highest = max(self.highest, _peak_bytes())
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        self.began = time.perf_counter()

    def _end(self, name: str) -> None:
        seconds, peak = time.perf_counter() - self.began, _peak_bytes()
        self.highest = max(self.highest, peak)
        row = self.rows.setdefault(name, Row(name, 0, 0.0, 0))
        row.calls, row.seconds, row.peak_bytes = row.calls + 1, row.seconds + seconds, max(row.peak_bytes, peak)
        self.log(f"{name}: {seconds:.2f} s, peak {peak / GIB:.2f} GiB")


def _peak_bytes() -> int:
    """Highest resident memory of this process since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def moved(experiment: Experiment, root: Path) -> Experiment:
    """The experiment with its weights below `root` where its own lie below `.cache`."""

    def below(path: str) -> str:
        return str(root / Path(path).relative_to(".cache"))

    branches = tuple((name, replace(stream, weights=below(stream.weights))) for name, stream in experiment.branches)
    return replace(experiment, llm=below(experiment.llm), branches=branches)


def _random(module: nn.Module, dtype: torch.dtype) -> State:
    """Random values for the parameters of a module; tied ones come once."""
    return random_state(shapes_of(dict(module.named_parameters())), dtype)


def write_llm(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Qwen2 and its tokenizer as published: config, safetensors in shards of 4 GB, tokenizer."""
    llm = _empty_llm(config)
    llm.load_state_dict(_random(llm, dtype), strict=False, assign=True)  # a tied head is not among them
    llm.tie_weights()
    llm.save_pretrained(folder, max_shard_size="4GB")
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of Qwen2's size that takes every byte for a token; entries 256 on are never written, only read."""
    ordinary = [*sorted(ByteLevel.alphabet()), *(f"unused{i}" for i in range(256, ORDINARY_TOKENS))]
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*ordinary, *SPECIAL_TOKENS])},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=SPECIAL_TOKENS,
    )
    tokenizer.save_pretrained(folder)


def write_clip(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> None:
    """The whole CLIP as published, text tower included, and its processor."""
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig(**config))
    clip.load_state_dict(_random(clip, dtype), assign=True)
    clip.save_pretrained(folder)
    side = config["vision_config"]["image_size"]
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )


def write_internvideo2(path: Path, experiment: Experiment, dtype: torch.dtype) -> None:
    """InternVideo2's `.pt` as published: {"module": ...}, its last block included."""
    stream = dict(experiment.branches)["video"]
    with torch.device("meta"):  # the tower is built one block short of the file: that one never runs
        tower = InternVideo2(replace(stream.size, depth=stream.size.depth + 1), stream.pixels)
    state = {f"vision_encoder.{name}": tensor for name, tensor in _random(tower, dtype).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": state}, path)


def write_trained(folder: Path, size: Size, dtype: torch.dtype) -> None:
    """What the reference's training writes: `mm_projector.bin` of each stream below `pretrain`, and in `finetune`
    both projectors as `non_lora_trainables.bin` with a LoRA adapter in PEFT's layout.
    """
    both = {}
    for name, stream in size.experiment.branches:
        with torch.device("meta"):
            projector = build_projector(stream.projector, stream.width, size.llm["hidden_size"])
        state = {f"model.{projector_key(name)}.{k}": v for k, v in _random(projector, dtype).items()}
        (folder / "pretrain" / name).mkdir(parents=True)
        torch.save(state, folder / "pretrain" / name / "mm_projector.bin")
        both |= {f"base_model.model.{key}": value for key, value in state.items()}
    (folder / "finetune").mkdir()
    torch.save(both, folder / "finetune" / "non_lora_trainables.bin")
    _write_adapter(folder / "finetune", size.llm, size.experiment.lora, dtype)


def _write_adapter(folder: Path, llm: dict[str, Any], lora: Lora, dtype: torch.dtype) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    adapter = get_peft_model_state_dict(get_peft_model(_empty_llm(llm), config), save_embedding_layers=False)
    state = random_state(shapes_of(adapter), dtype)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def _empty_llm(config: dict[str, Any]) -> Qwen2ForCausalLM:
    with torch.device("meta"):
        return Qwen2ForCausalLM(Qwen2Config(**config))


def build(size: Size, root: Path, dtype: torch.dtype, meter: Meter) -> None:
    """Builds and saves every part below `root`, one after the other: no two of them are in memory at once."""
    experiment = moved(size.experiment, root)
    streams = dict(experiment.branches)
    torch.manual_seed(0)
    with quiet():
        with meter.stage("build, save: LLM"):
            write_llm(Path(experiment.llm), size.llm, dtype)
        gc.collect()
        with meter.stage("build, save: CLIP"):
            write_clip(Path(streams["image"].weights), size.clip, dtype)
        gc.collect()
        with meter.stage("build, save: InternVideo2"):
            write_internvideo2(Path(streams["video"].weights), experiment, dtype)
        gc.collect()
        with meter.stage("build, save: projectors, LoRA"):
            write_trained(root / "trained", size, dtype)
        gc.collect()


def load(size: Size, root: Path, level: float, dtype: torch.dtype) -> tuple[VisionLM, Experiment]:
    """The model and its experiment at a level, from the files below `root`, by the code that loads published ones."""
    experiment = at_level(moved(size.experiment, root), level)
    model = load_model(experiment, root / "trained" / "finetune", "cpu", dtype)
    for name, _ in experiment.branches:
        model.load_projectors(root / "trained" / "pretrain" / name, [name])
    return model, experiment


def ask(
    model: VisionLM, experiment: Experiment, clip_path: Path, question: str, meter: Meter, at: str
) -> dict[str, Any]:
    """One answer, each module measured; `at` stands before the names of the stages."""
    with meter.stage(f"{at}decode"):
        clip = read_clip(clip_path, experiment.num_frames)
    with meter.stage(f"{at}preprocess"):
        pixels = {name: preprocessor(stream)(clip) for name, stream in experiment.branches}
    visual = Visual(pixels, len(clip.frames))
    prompt = encode_prompt(model.tokenizer, question, [visual.placeholders], experiment.prompting.template)
    read: list[int] = []

    def llm_stage(kwargs: dict[str, Any]) -> str:
        read.append(kwargs["inputs_embeds"].shape[1])
        return f"{at}prefill" if read[-1] > 1 else f"{at}further tokens"

    with (
        meter.watching(model.encoders["image"], lambda _: f"{at}image encoder"),
        meter.watching(model.encoders["video"], lambda _: f"{at}video encoder"),
        meter.watching(model.projectors["image"], lambda _: f"{at}projectors"),
        meter.watching(model.projectors["video"], lambda _: f"{at}projectors"),
        meter.watching(model.reducers["image"], lambda _: f"{at}pooling"),
        meter.watching(model.reducers["video"], lambda _: f"{at}pooling"),
        meter.watching(model.llm, llm_stage),
    ):
        reply = model.generate([prompt], [[visual]], experiment.max_new_tokens)[0]
    return {
        "level": experiment.level,
        "frames": len(clip.frames),
        "visual_tokens": num_visual_tokens(experiment, len(clip.frames)),
        "prompt_tokens": sum(length for length in read if length > 1),
        "new_tokens": 1 + read.count(1),
        "reply": reply,
    }


def trial(
    size: Size,
    root: Path,
    clip_path: Path,
    levels: Sequence[float],
    dtype: torch.dtype,
    question: str,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Builds, loads and asks; what was measured, ready for JSON. The files stay below `root`; `log` takes progress."""
    meter, answers = Meter(log), []
    build(size, root, dtype, meter)
    written = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    for level in levels:
        at = f"level {level_text(level)}: "
        with meter.stage(f"{at}load"):
            model, experiment = load(size, root, level, dtype)
        answers.append(ask(model, experiment, clip_path, question, meter, at))
        parameters = sum(p.numel() for p in model.parameters())
        del model
        gc.collect()
    return {
        "parameters": parameters,
        "file_bytes": written,
        "peak_bytes": meter.highest,
        "stages": [asdict(row) for row in meter.rows.values()],
        "answers": answers,
    }


def table(result: dict[str, Any]) -> list[str]:
    """Lines to print: a stage each, then the answers and the highest peak."""
    lines = [f"{'stage':<34}{'calls':>6}{'seconds':>10}{'a call':>10}{'peak GiB':>10}"]
    for row in result["stages"]:
        numbers = f"{row['seconds']:>10.2f}{row['seconds'] / row['calls']:>10.3f}{row['peak_bytes'] / GIB:>10.2f}"
        lines.append(f"{row['stage']:<34}{row['calls']:>6}{numbers}")
    for answer in result["answers"]:
        lines.append(
            f"level {level_text(answer['level'])}: {answer['frames']} frames, {answer['visual_tokens']} visual "
            f"tokens in a prompt of {answer['prompt_tokens']}, {answer['new_tokens']} tokens of answer: "
            f"{answer['reply']!r}"
        )
    lines.append(
        f"{result['parameters']:,} parameters, {result['file_bytes'] / GIB:.2f} GiB of files, "
        f"highest peak {result['peak_bytes'] / GIB:.2f} GiB"
    )
    return lines


def machine() -> dict[str, Any]:
    """Processor, memory and versions of this machine, and how many processes ran or waited in the last minute."""
    cpu = Path("/proc/cpuinfo").read_text()
    names = [line.split(": ")[1] for line in cpu.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "amx_bf16": "amx_bf16" in cpu,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def check_output(root: Path, size: Size, dtype: torch.dtype) -> None:
    """UserError: `root` holds something already, or its disk has no room for the files."""
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty; name a new folder: it is removed at the end")
    root.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        clip, video = CLIPModel(CLIPConfig(**size.clip)), dict(size.experiment.branches)["video"]
        parts = [_empty_llm(size.llm), clip, InternVideo2(video.size, video.pixels)]
    # A tenth more, for the adapter, the projectors and the last block.
    needed = 1.1 * sum(p.numel() for part in parts for p in part.parameters()) * dtype.itemsize
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"{root} has {free / GIB:.1f} GiB of free space, the files take {needed / GIB:.1f}; name another disk"
        )


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(
    output: Path,
    video: Path,
    size: Literal["1.5b", "3b"] = "1.5b",
    levels: tuple[float, ...] = (2, 8),
    dtype: Literal["bf16", "fp32"] = "bf16",
    question: str = "What happens in this video?",
    max_new_tokens: int = 8,
    keep: bool = False,
    report: Path | None = None,
) -> None:
    """Build a real size with random weights, load it, ask it, and print seconds and peak memory by stage.

    Args:
        output: New folder for the weights, as `.cache` is laid out; removed at the end.
        video: The clip that the question is about.
        size: Of the LLM.
        levels: Pool levels to answer at.
        dtype: Of the files and of the computation.
        question: What is asked.
        max_new_tokens: Tokens of an answer at most.
        keep: Leave the weights where they are.
        report: JSON file of the result; `benchmarks/results/full_size_SIZE.json` when not given.
    """
    experiment = with_settings(SIZES[size].experiment, {"prompting.max_new_tokens": max_new_tokens})
    chosen = replace(SIZES[size], experiment=experiment)
    try:
        if not Path("/proc/self/clear_refs").exists():
            raise UserError("peak memory is read from /proc, which this system has not; run it on Linux")
        here = machine()  # before the work, whose own load it would show afterwards
        check_output(output, chosen, DTYPES[dtype])
        try:
            result = trial(chosen, output, video, levels, DTYPES[dtype], question, _show)
        finally:
            if not keep:
                shutil.rmtree(output)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("\n".join(table(result)))
    about = {
        "date": str(date.today()),
        "command": shlex.join(["python", *sys.argv]),
        "machine": here,
        "size": size,
        "dtype": dtype,
        "weights": "random",
        "tokenizer": "a stand-in of Qwen2's size and special tokens, one token a byte",
        "question": question,
    }
    write_json(report or Path(f"benchmarks/results/full_size_{size}.json"), about | result)


if __name__ == "__main__":
    tyro.cli(main)
