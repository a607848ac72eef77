"""CogVLM2, for pictures and for videos."""

from __future__ import annotations

from videogpt_plus.families.record import CLIP_MEAN_COLOUR, OPTIONS, Encoder, Family

_HERE = "videogpt_plus.families.cogvlm2"
_TOWER = f"{_HERE}.sizes:tower"

IMAGE = Family(
    name="cogvlm2_image",
    build=f"{_HERE}.model:build",
    tokenizer=f"{_HERE}.model:tokenizer",
    sizes=f"{_HERE}.sizes:sizes",
    encoders={"eva2_image": Encoder(f"{_HERE}.eva2_image", CLIP_MEAN_COLOUR, True, tower=_TOWER)},
    templates={
        "cogvlm2_chat": f"{_HERE}.chat:CHAT",
        "cogvlm2_vqa": f"{_HERE}.chat:VQA",
        "cogvlm2_base": f"{_HERE}.chat:BASE",
    },
    own_weights=f"{_HERE}.weights:own_parts",
    frame_marks=2,  # boi and eoi
    options=OPTIONS,
    shard=f"{_HERE}.tensor_parallel:shard",
    shares_lora=True,
    convert=f"{_HERE}.convert",
    twin=f"{_HERE}.twin:write",
    config={"architectures": ["CogVLMForCausalLM"]},
)
VIDEO = IMAGE._replace(
    name="cogvlm2_video",
    encoders={"eva2_video": Encoder(f"{_HERE}.eva2_video", tower=_TOWER)},
    templates={"cogvlm2_chat_indexed": f"{_HERE}.chat:CHAT_INDEXED"},
    config={"architectures": ["CogVLMVideoForCausalLM"]},
)
