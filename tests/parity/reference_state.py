"""A full checkpoint of the reference, cut into the parts that our loaders read."""

from __future__ import annotations

from videogpt_plus.io.tensors import State

#: Prefix in the reference's full state dict -> the part it belongs to. What has none of them is the LLM's.
REFERENCE_PARTS = {
    "model.vision_tower.": "internvideo2",
    "model.image_vision_tower.vision_tower.": "clip",
    "model.mm_projector.": "projectors",
    "model.image_mm_projector.": "projectors",
}


def split_reference(state: State) -> dict[str, State]:
    """A full state dict of the reference, cut into the parts that our loaders read.

    Returns "llm" (Hugging Face's Qwen2 names), "clip" (`vision_model.*`), "internvideo2" (`vision_encoder.*` and
    `vision_proj.*`, as in the published file) and "projectors" (`mm_projector.*`, `image_mm_projector.*`).
    """
    parts: dict[str, State] = {"llm": {}, "clip": {}, "internvideo2": {}, "projectors": {}}
    for key, value in state.items():
        prefix = next((p for p in REFERENCE_PARTS if key.startswith(p)), "")
        part = REFERENCE_PARTS.get(prefix, "llm")
        parts[part][key.removeprefix("model." if part == "projectors" else prefix)] = value
    return parts
