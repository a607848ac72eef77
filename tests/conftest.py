"""Tiny random parts of the real classes, on disk in the layout of the real ones.

`tiny_experiment` points to them: a CLIP folder, an InternVideo2 file, a Qwen2 folder with its tokenizer.
Random weights say nothing about accuracy; they say everything about shapes, order, masks and files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from videogpt_plus.config.experiment import Branch, Experiment, InternVideo2Size, Lora, Prompting, Sampling, Trained
from videogpt_plus.config.training import Pretraining, Training
from videogpt_plus.reducers.average import Average

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "You are a helpful AI assistant.",
    "Question: What colour is the large object?\nOptions:\n(A) red\n(B) blue\nOnly give the best option.",
    "system user assistant Answer: (A) the cup. (B) a man opens the door and leaves.",
]
TINY_VIDEO_SIZE = InternVideo2Size(depth=3, width=32, heads=4, patch=4)


def save_tiny_llm(folder: Path) -> None:
    """A 2-layer Qwen2 of width 64 and its byte-level BPE tokenizer, in Hugging Face's layout."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = save_tiny_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=size + 8,  # published Qwen2.5 models, too, have more rows than their tokenizer has entries
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=size - 1,
        pad_token_id=size - 3,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def save_tiny_tokenizer(folder: Path) -> int:
    """Trains and writes the tokenizer; returns how many entries it has."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)  # behind the merges, as in Qwen2's vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    fast = Qwen2Tokenizer(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.save_pretrained(folder)
    return len(fast)


def save_tiny_clip(folder: Path) -> None:
    """CLIPVisionModel at 48 px with patches of 4: a 12x12 grid of width 32."""
    import json

    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=48,
        patch_size=4,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    processor = {
        "crop_size": {"height": 48, "width": 48},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 48},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def save_tiny_internvideo2(path: Path) -> None:
    """InternVideo2 at 32 px with patches of 4: an 8x8 grid of width 32, under the published key names."""
    import torch
    from safetensors.torch import save_file

    from videogpt_plus.encoders.internvideo2 import InternVideo2

    torch.manual_seed(2)
    tower = InternVideo2(TINY_VIDEO_SIZE, pixels=32)
    # Position embeddings and LayerScale begin at 0 and 1; random ones let a test see whether they are used.
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in tower.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def make_tiny_experiment(root: Path) -> Experiment:
    """Writes every part under `root` and returns the experiment that points to them."""
    save_tiny_llm(root / "llm")
    save_tiny_clip(root / "clip")
    save_tiny_internvideo2(root / "internvideo2.safetensors")
    image = Branch("clip", str(root / "clip"), pixels=48, grid=12, width=32)
    video = Branch(
        "internvideo2",
        str(root / "internvideo2.safetensors"),
        pixels=32,
        grid=8,
        width=32,
        size=TINY_VIDEO_SIZE,
    )
    pretrain = Pretraining(data="TOY_IMAGES", bf16=False, gradient_checkpointing=False, stills="pad")
    finetune = Training(data="TOY_FINETUNING", bf16=False, gradient_checkpointing=False)
    return Experiment(
        name="tiny",
        llm=str(root / "llm"),
        branches=(("image", image), ("video", video)),
        source=Trained(finetune, (("image", pretrain), ("video", pretrain)), Lora(r=4, alpha=8, dropout=0.0)),
        reducer=Average(level=4),
        sampling=Sampling(num_frames=8),
        prompting=Prompting(max_new_tokens=4),
        benchmark_root=str(root / "bench"),
    )


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The tiny twin of the reference: both encoders, projectors, pool level 4, 8 frames, random weights."""
    return make_tiny_experiment(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are composed and laid out as ever, but not written as PNG, SVG and PDF: that takes longest."""
    monkeypatch.setattr("eval.report.pictures._saved", lambda figure, ending: ending.encode())


#: Files of tests that take longest, the longest first: two processes that begin with them end together.
SLOWEST = (
    "test_sweep", "test_deepspeed", "test_train", "test_family_versions", "test_places", "test_report", "test_web_page",
    "test_cinego_training", "test_faults", "test_parallel", "test_cogvlm2_files", "test_bad_input", "test_rwf2000",
    "test_store", "test_toy_families", "test_golden", "test_architecture", "test_judge", "test_llava", "test_scaling",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, in their order; within a file nothing is moved."""
    order = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
