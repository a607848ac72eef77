"""The models behind the page, loaded when they are first asked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from videogpt_plus import inference
from videogpt_plus.app.web.settings import Offer, Setting
from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.inference import VideoLLM
from videogpt_plus.types import Visual


class Models:
    """The models of `offers`, which answer one question at a time.

    `load` makes a VideoLLM of run folders by name, which share their weights.
    At most `most` offers are in memory; the one that was not asked for the longest time goes first.
    """

    def __init__(
        self,
        offers: Mapping[str, Offer],
        load: Callable[[Mapping[str, Path]], VideoLLM] = inference.load,
        most: int = 2,
    ):
        self.offers, self._load, self._most = offers, load, most
        self._loaded: OrderedDict[str, VideoLLM] = OrderedDict()
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other question is being answered."""
        with self._turn:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            yield

    def is_loaded(self, setting: Setting) -> bool:
        """Whether `load` has nothing to do."""
        return setting.model in self._loaded

    def load(self, setting: Setting) -> None:
        """Brings a setting's model into memory, with all levels that it was trained at. UserError: it cannot be."""
        if setting.model in self._loaded:
            self._loaded.move_to_end(setting.model)
            return
        while len(self._loaded) >= self._most:
            self._loaded.popitem(last=False)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        folders = dict.fromkeys(folder for _, folder in self.offers[setting.model].runs.values())
        self._loaded[setting.model] = self._load({str(folder): folder for folder in folders})

    def positions(self, setting: Setting) -> int | None:
        """Tokens that the language model was made for, where its config says."""
        return self._as_set(setting).reads

    def encode(self, setting: Setting, visual: Visual) -> Visual:
        """The visual with its encoders' grids, on the CPU, in the place of pixels."""
        (grids,) = self._as_set(setting).encode([visual])
        return Visual({}, visual.placeholders, {name: grid.cpu() for name, grid in grids.items()})

    def stream(
        self,
        setting: Setting,
        question: str,
        visual: Visual,
        past: Sequence[tuple[str, str]],
        generation_config: GenerationConfig,
    ) -> Iterator[str]:
        """The reply in pieces; closing the iterator stops the model."""
        return self._as_set(setting).stream(question, visual, past, generation_config)

    def key_values(self, setting: Setting, tokens: int) -> int | None:
        """Bytes of the KV cache of so many tokens, where the sizes are known."""
        return self._as_set(setting).key_value_bytes(tokens)

    def memory(self) -> tuple[int, str]:
        """Bytes in use: on a GPU the most since the turn began, else what the process has now."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(), "GPU"
        from psutil import Process

        return Process().memory_info().rss, "process"

    def _as_set(self, setting: Setting) -> VideoLLM:
        """A loaded model as the setting has it."""
        experiment, folder = self.offers[setting.model].run(setting)
        return self._loaded[setting.model].only(str(folder), experiment, setting.model)
