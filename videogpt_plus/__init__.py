"""Pooling ablations on a dual-encoder video LLM. Start at `videogpt_plus.types` for the pipe."""

__version__ = "0.1.0"
