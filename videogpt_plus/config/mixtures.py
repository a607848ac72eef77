"""Dataset mixtures by name: pairs of (annotation file, folder that its media paths start from).

The reference's mixtures, then the toy ones. Paths are relative to the working folder.
"""

from __future__ import annotations

from videogpt_plus.types import UserError

ROOT = ".cache/instruction_data"
PRETRAINING = f"{ROOT}/pretraining"
ANNOTATIONS = f"{ROOT}/annotations"
SUBSET = f"{ROOT}/merged_cap_vqa_ann_sub_video"
MERGED = f"{ROOT}/merged_cap_vqa_ann"
MEDIA = f"{ROOT}/instruction_tuning"
TOY = ".cache/toy/train"

#: The one whose clips `toy.rwf2000` renders.
TOY_RWF = "TOY_RWF"
MIXTURES: dict[str, list[tuple[str, str]]] = {
    "PRETRAINING": [
        (f"{PRETRAINING}/CC3M-595K/chat.json", f"{PRETRAINING}/CC3M-595K"),
        (f"{PRETRAINING}/COCO/coco_cap_chat.json", f"{PRETRAINING}/COCO/train2014"),
        (f"{PRETRAINING}/COCO/coco_reg_chat.json", f"{PRETRAINING}/COCO/train2014"),
        (f"{PRETRAINING}/COCO/coco_rec_chat.json", f"{PRETRAINING}/COCO/train2014"),
    ],
    "FINETUNING": [
        (f"{ANNOTATIONS}/conversation_videochatgpt.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/vcg_human_annotated.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/vcg-plus_112K.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/caption_videochat.json", f"{MEDIA}/webvid"),
        (f"{ANNOTATIONS}/classification_k710.json", f"{MEDIA}/k710"),
        (f"{ANNOTATIONS}/classification_ssv2.json", f"{MEDIA}/ssv2"),
        (f"{ANNOTATIONS}/conversation_videochat1.json", f"{MEDIA}/videochat_it"),
        (f"{ANNOTATIONS}/reasoning_next_qa.json", f"{MEDIA}/NExTQA"),
        (f"{ANNOTATIONS}/reasoning_clevrer_qa.json", f"{MEDIA}/clevrer"),
        (f"{ANNOTATIONS}/reasoning_clevrer_mc.json", f"{MEDIA}/clevrer"),
        (f"{ANNOTATIONS}/vqa_webvid_qa.json", f"{MEDIA}/webvid"),
    ],
    "VCGBench_FINETUNING": [
        (f"{ANNOTATIONS}/conversation_videochatgpt.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/vcg_human_annotated.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/vcg-plus_112K.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/caption_videochat.json", f"{MEDIA}/webvid"),
        (f"{ANNOTATIONS}/conversation_videochat1.json", f"{MEDIA}/videochat_it"),
        (f"{ANNOTATIONS}/vqa_webvid_qa.json", f"{MEDIA}/webvid"),
    ],
    "MVBench_FINETUNING": [
        (f"{ANNOTATIONS}/classification_k710.json", f"{MEDIA}/k710"),
        (f"{ANNOTATIONS}/classification_ssv2.json", f"{MEDIA}/ssv2"),
        (f"{ANNOTATIONS}/conversation_videochatgpt.json", f"{MEDIA}/Activity_Videos"),
        (f"{ANNOTATIONS}/reasoning_next_qa.json", f"{MEDIA}/NExTQA"),
        (f"{ANNOTATIONS}/reasoning_clevrer_qa.json", f"{MEDIA}/clevrer"),
        (f"{ANNOTATIONS}/reasoning_clevrer_mc.json", f"{MEDIA}/clevrer"),
        (f"{ANNOTATIONS}/vqa_webvid_qa.json", f"{MEDIA}/webvid"),
    ],
    "MVBench_capvqa_sub": [
        (f"{SUBSET}/classification_k710_sub.json", f"{MEDIA}/k710"),
        (f"{SUBSET}/classification_ssv2_sub.json", f"{MEDIA}/ssv2"),
        (f"{SUBSET}/conversation_videochatgpt_sub.json", f"{MEDIA}/Activity_Videos"),
        (f"{SUBSET}/reasoning_next_qa_sub.json", f"{MEDIA}/NExTQA"),
        (f"{SUBSET}/reasoning_clevrer_qa_sub.json", f"{MEDIA}/clevrer"),
        (f"{SUBSET}/reasoning_clevrer_mc_sub.json", f"{MEDIA}/clevrer"),
        (f"{SUBSET}/vqa_webvid_qa_sub.json", f"{MEDIA}/webvid"),
    ],
    "MVBench_capvqa": [
        (f"{MERGED}/classification_k710.json", f"{MEDIA}/k710"),
        (f"{MERGED}/classification_ssv2.json", f"{MEDIA}/ssv2"),
        (f"{MERGED}/conversation_videochatgpt.json", f"{MEDIA}/Activity_Videos"),
        (f"{MERGED}/reasoning_next_qa.json", f"{MEDIA}/NExTQA"),
        (f"{MERGED}/reasoning_clevrer_qa.json", f"{MEDIA}/clevrer"),
        (f"{MERGED}/reasoning_clevrer_mc.json", f"{MEDIA}/clevrer"),
        (f"{MERGED}/vqa_webvid_qa.json", f"{MEDIA}/webvid"),
    ],
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
