"""Keeps bars, tables and warnings of transformers and peft off the screen: what matters of them, our errors say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Within it transformers shows no bar and logs next to nothing; warnings of deprecated names are ignored."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # CRITICAL, for transformers logs the misfit of weights, which `check_fit` tells in one line, as an error.
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
