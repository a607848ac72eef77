"""LLaVA-1.5."""

from __future__ import annotations

from videogpt_plus.families.record import CLIP_MEAN_COLOUR, Encoder, Family

_HERE = "videogpt_plus.families.llava15"

FAMILY = Family(
    name="llava15",
    build=f"{_HERE}.model:build",
    tokenizer=f"{_HERE}.model:tokenizer",
    sizes=f"{_HERE}.sizes:sizes",
    encoders={
        "clip_llava": Encoder(
            f"{_HERE}.encoder", padding=CLIP_MEAN_COLOUR, scales_by_pillow=True, tower=f"{_HERE}.sizes:tower"
        )
    },
    templates={"llava_v1": f"{_HERE}.chat:V1", "llava_hub": f"{_HERE}.chat:HUB"},
    own_weights=f"{_HERE}.model:own_weights",
    options=("devices", "bits"),
    shard=f"{_HERE}.model:shard",
    convert=f"{_HERE}.convert",
    twin=f"{_HERE}.twin:write",
    config={"model_type": "llava"},
)
