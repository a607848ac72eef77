"""Messages to a visitor when something goes wrong; the page keeps working."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from videogpt_plus.app.web import drawing
from videogpt_plus.io.errors import attempted
from videogpt_plus.types import UserError

log = logging.getLogger(__name__)


def told(handler: Callable[..., list[Any]], parts: int) -> Callable[..., list[Any]]:
    """The handler of a click, whose first of `parts` outputs is the message: errors are shown there."""
    import gradio as gr

    @wraps(handler)
    def safe(*given: Any, **named: Any) -> list[Any]:
        shown = attempted(partial(handler, *given, **named), Exception)  # the page keeps working after a failed click
        if isinstance(shown, Exception):
            return [drawing.message(said(shown), "error"), *[gr.skip()] * (parts - 1)]
        return shown

    return safe


def said(error: Exception) -> str:
    """The message to a visitor; errors of the program are written to the log."""
    if isinstance(error, UserError):
        return str(error)
    log.error("a visitor's request failed", exc_info=error)
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: choose a higher level, fewer frames or a shorter answer"
    return f"this could not be done ({type(error).__name__}); the server's log says more"
