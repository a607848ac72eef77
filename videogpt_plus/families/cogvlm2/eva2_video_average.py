"""CogVLM2's tower as the published fine-tuning of its video model uses it: frames taken evenly from the whole clip."""

from __future__ import annotations

from videogpt_plus.families.cogvlm2.eva2_video import load, preprocessor

__all__ = ["SAMPLING", "load", "preprocessor"]

SAMPLING = "average"
