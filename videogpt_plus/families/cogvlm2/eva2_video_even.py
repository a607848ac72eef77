"""CogVLM2's tower as its video model's base version uses it: the same frames, taken evenly from the first minute."""

from __future__ import annotations

from videogpt_plus.families.cogvlm2.eva2_video import load, preprocessor

__all__ = ["SAMPLING", "load", "preprocessor"]

SAMPLING = "even"
