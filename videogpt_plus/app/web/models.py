"""Models to talk to, loaded when they are first asked: `videogpt_plus.app.web.talk.Models` with real weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import torch

from eval.answers.video_llm import Member, VideoLLM
from videogpt_plus.app.web.settings import Offer, Setting
from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.flops import sizes_of
from videogpt_plus.models.dual_encoder import DualEncoderVLM, Reducers
from videogpt_plus.reducers import Reducer, build_reducer
from videogpt_plus.types import Visual


class Talk:
    """The models of `offers`; `load` makes a VideoLLM of run folders by name, which share their weights.

    At most `most` offers are in memory; the one that was not asked for the longest time goes first.
    """

    def __init__(self, offers: Mapping[str, Offer], load: Callable[[Mapping[str, Path]], VideoLLM], most: int = 2):
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
        config = self._member(setting).model.causal.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        return getattr(config, "max_position_embeddings", None)

    def encode(self, setting: Setting, visual: Visual) -> Visual:
        """The visual with its encoders' grids, on the CPU, in the place of pixels."""
        (grids,) = self._member(setting).model.encode([visual])
        return Visual({}, visual.placeholders, {name: grid.cpu() for name, grid in grids.items()})

    def stream(
        self,
        setting: Setting,
        question: str,
        visual: Visual,
        past: Sequence[tuple[str, str]],
        generation_config: GenerationConfig,
    ) -> Iterator[str]:
        """The reply in pieces, as `VideoLLM.stream` gives them."""
        llm = self._loaded[setting.model]
        alone = VideoLLM({setting.model: self._member(setting)}, llm.eval_config)
        return alone.stream(question, visual, past, generation_config)

    def key_values(self, setting: Setting, tokens: int) -> int | None:
        """Bytes of the keys and values of so many tokens, where the sizes are known."""
        model, experiment = self._member(setting)
        sizes = sizes_of(experiment)
        width = next(model.causal.parameters()).element_size()
        return sizes.llm.key_value_bytes(tokens, width) if sizes else None

    def memory(self) -> tuple[int, str]:
        """Bytes in use: on a GPU the most since the turn began, else what the process has now."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(), "GPU"
        from psutil import Process

        return Process().memory_info().rss, "process"

    def _member(self, setting: Setting) -> Member:
        """A loaded model as the setting has it."""
        offer = self.offers[setting.model]
        experiment, folder = offer.run(setting)
        model = self._loaded[setting.model].members[str(folder)].model
        return Member(behind_reducer(model, experiment.reducer) if offer.free else model, experiment)


def behind_reducer(model: DualEncoderVLM, reducer: Reducer) -> DualEncoderVLM:
    """The same weights behind another reducer that has none; `model` stays as it is."""
    other = copy(model)
    reducers = {name: build_reducer(reducer) for name in model.reducers}
    other._modules = {**model._modules, "reducers": Reducers(reducers).eval()}
    return other
