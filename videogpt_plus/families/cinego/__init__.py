"""Cinego: MiniMind's language model, CLIP with its class token, and a summary of all frames between them."""

from __future__ import annotations

from videogpt_plus.families.record import Encoder, Family

_HERE = "videogpt_plus.families.cinego"

FAMILY = Family(
    name="cinego",
    build=f"{_HERE}.model:build",
    tokenizer=f"{_HERE}.model:tokenizer",
    sizes=f"{_HERE}.sizes:sizes",
    encoders={
        "clip_cinego": Encoder(
            f"{_HERE}.encoder",
            scales_by_pillow=True,
            class_tokens=1,
            tower=f"{_HERE}.sizes:tower",
        )
    },
    templates={"cinego": f"{_HERE}.chat:TEMPLATE"},
)
