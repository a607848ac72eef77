"""Dataset mixtures by name: pairs of (annotation file, folder that its media paths start from).

The reference's mixtures, then the toy ones. Paths are relative to the working folder.
"""

from __future__ import annotations

from collections.abc import Iterable

from videogpt_plus.types import UserError

ROOT = ".cache/instruction_data"
PRETRAINING = f"{ROOT}/pretraining"
ANNOTATIONS = f"{ROOT}/annotations"
MEDIA = f"{ROOT}/instruction_tuning"
TOY = ".cache/toy/train"

#: The one whose clips `toy.rwf2000` renders.
TOY_RWF = "TOY_RWF"
#: Annotation file of the instruction data -> folder of its clips.
CLIPS = {
    "conversation_videochatgpt": "Activity_Videos",
    "vcg_human_annotated": "Activity_Videos",
    "vcg-plus_112K": "Activity_Videos",
    "caption_videochat": "webvid",
    "classification_k710": "k710",
    "classification_ssv2": "ssv2",
    "conversation_videochat1": "videochat_it",
    "reasoning_next_qa": "NExTQA",
    "reasoning_clevrer_qa": "clevrer",
    "reasoning_clevrer_mc": "clevrer",
    "vqa_webvid_qa": "webvid",
}
OPEN = ("conversation_videochatgpt", "vcg_human_annotated", "vcg-plus_112K", "caption_videochat")
CHOICE = ("reasoning_next_qa", "reasoning_clevrer_qa", "reasoning_clevrer_mc", "vqa_webvid_qa")
#: MVBench's: classification, conversation and reasoning; the files of the smaller ones end in `_sub`.
MVBENCH = ("classification_k710", "classification_ssv2", "conversation_videochatgpt", *CHOICE)


def _tuning(names: Iterable[str], folder: str = ANNOTATIONS, ending: str = "") -> list[tuple[str, str]]:
    return [(f"{folder}/{name}{ending}.json", f"{MEDIA}/{CLIPS[name]}") for name in names]


MIXTURES: dict[str, list[tuple[str, str]]] = {
    "PRETRAINING": [
        (f"{PRETRAINING}/CC3M-595K/chat.json", f"{PRETRAINING}/CC3M-595K"),
        (f"{PRETRAINING}/COCO/coco_cap_chat.json", f"{PRETRAINING}/COCO/train2014"),
        (f"{PRETRAINING}/COCO/coco_reg_chat.json", f"{PRETRAINING}/COCO/train2014"),
        (f"{PRETRAINING}/COCO/coco_rec_chat.json", f"{PRETRAINING}/COCO/train2014"),
    ],
    "FINETUNING": _tuning(CLIPS),
    "VCGBench_FINETUNING": _tuning((*OPEN, "conversation_videochat1", "vqa_webvid_qa")),
    "MVBench_FINETUNING": _tuning(MVBENCH),
    "MVBench_capvqa_sub": _tuning(MVBENCH, f"{ROOT}/merged_cap_vqa_ann_sub_video", "_sub"),
    "MVBench_capvqa": _tuning(MVBENCH, f"{ROOT}/merged_cap_vqa_ann"),
    "RWF2000": [(".cache/RWF-2000/train.json", ".")],
    TOY_RWF: [(".cache/toy/rwf2000/train.json", ".")],
    "TOY_IMAGES": [(f"{TOY}/images.json", TOY)],
    "TOY_VIDEOS": [(f"{TOY}/videos.json", TOY)],
    "TOY_FINETUNING": [(f"{TOY}/questions.json", TOY)],
}


def get_mixture(name: str) -> list[tuple[str, str]]:
    """The (annotation file, media folder) pairs of a mixture. Raises UserError for an unknown name."""
    if name not in MIXTURES:
        raise UserError(f"unknown dataset mixture '{name}'; choose from: {', '.join(MIXTURES)}")
    return MIXTURES[name]
