"""CogVLM2, for pictures and for videos."""

from __future__ import annotations

from videogpt_plus.families.record import OPTIONS, Encoder, Family

_HERE = "videogpt_plus.families.cogvlm2"
_TOWER = f"{_HERE}.sizes:tower"
#: The video model's tower with the three ways in which its frames are taken: one a second, so that a frame's number,
#: which the template "cogvlm2_chat_indexed" writes, is its time; evenly from the first minute, as its base version
#: does; evenly from the whole clip, as its published fine-tuning does.
_SAMPLINGS = {"eva2_video": "each_second", "eva2_video_even": "even", "eva2_video_average": "average"}

IMAGE = Family(
    name="cogvlm2_image",
    build=f"{_HERE}.model:build",
    tokenizer=f"{_HERE}.model:tokenizer",
    sizes=f"{_HERE}.sizes:sizes",
    encoders={"eva2_image": Encoder(f"{_HERE}.eva2_image", scales_by_pillow=True, tower=_TOWER)},
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
    recognises=f"{_HERE}.sizes:is_image",
)
VIDEO = IMAGE._replace(
    name="cogvlm2_video",
    encoders={name: Encoder(f"{_HERE}.eva2_video", sampling=rule, tower=_TOWER) for name, rule in _SAMPLINGS.items()},
    templates={"cogvlm2_chat_indexed": f"{_HERE}.chat:CHAT_INDEXED"},
    recognises=f"{_HERE}.sizes:is_video",
)
