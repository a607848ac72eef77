"""One visitor's conversations, and what the page needs of a model. Nothing here is shared between visitors."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.app.web import clips
from videogpt_plus.app.web.clips import Look, Source
from videogpt_plus.app.web.settings import Setting, check_room
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import GenerationConfig
from videogpt_plus.config.tokens import num_visual_tokens

if TYPE_CHECKING:
    from videogpt_plus.app.web.models import Models

#: So many clips of a visitor are kept with their features, the most recent ones.
KEPT_LOOKS = 6


@dataclass(frozen=True)
class Costs:
    """What an answer took so far."""

    # Seconds in the encoders.
    encode: float
    # Whether the clip's features were kept from an earlier question.
    kept: bool
    # Seconds from the question, features ready, to the first piece of text; None before it.
    first: float | None = None
    # Seconds from the question to the last piece.
    total: float = 0.0
    # Pieces of text.
    pieces: int = 0
    # Bytes of the visual tokens' KV cache.
    key_values: int | None = None
    # Most bytes in use while it answered.
    memory: int | None = None
    # What `memory` is of: "GPU" or "process".
    device: str = "process"


@dataclass(frozen=True)
class Progress:
    """An answer as far as it has come."""

    text: str
    costs: Costs | None = None
    # What is being done before there is text.
    doing: str = ""
    stopped: bool = False


@dataclass
class Side:
    """One of the conversations that stand side by side."""

    setting: Setting
    #: Questions and replies so far.
    past: list[tuple[str, str]] = field(default_factory=list)
    costs: Costs | None = None


class Session:
    """A visitor's clip, conversations and files. A copy is a new, empty session: one for each visitor.

    Files are put into a folder of the visitor's own below `folder`; `sides` are the settings to begin with, by side.
    `look` decodes a clip as an experiment samples it, or raises ClipError.
    """

    def __init__(
        self, folder: Path, sides: Mapping[str, Setting], look: Callable[[Source, Experiment], Look] = clips.look
    ):
        self._parent, self._begin, self._look = folder, dict(sides), look
        #: Of this visitor alone; made when there is a file to put into it.
        self.folder = folder / secrets.token_hex(16)
        self.source: Source | None = None
        self.sides = {name: Side(setting) for name, setting in sides.items()}
        self._looks: OrderedDict[object, Look] = OrderedDict()
        #: Counts up whenever what is being answered is no longer wanted.
        self._round = 0
        self._lock = threading.Lock()
        #: Held while a clip or a setting is changed: a browser may tell of one choice twice, and at the same time.
        self.turning = threading.Lock()

    def __deepcopy__(self, memo: object) -> Session:
        return Session(self._parent, self._begin, self._look)

    def show(self, source: Source | None) -> None:
        """Shows another clip, or none: conversations start over, and the last clip's file is removed."""
        self.stop()
        last, self.source = self.source, source
        if last is not None and last != source and self.folder in last.path.parents:
            last.path.unlink(missing_ok=True)
            self._forget(last)
        self.clear()

    def turn_to(self, name: str, setting: Setting) -> bool:
        """Gives a side another setting; its conversation starts over. False: it has that setting already."""
        if self.sides[name].setting == setting:
            return False
        self.stop()
        self.sides[name] = Side(setting)
        return True

    def clear(self) -> None:
        """Conversations start over; the clip is kept."""
        self.stop()
        self.sides = {name: Side(side.setting) for name, side in self.sides.items()}

    def stop(self) -> None:
        """What is being answered ends with the piece that it is at."""
        self._round += 1

    def close(self) -> None:
        """Forgets everything, files included."""
        self.show(None)
        self._looks.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def look(self, experiment: Experiment, source: Source | None = None) -> Look:
        """A clip as the experiment sees it, decoded once: `source`, or the one that is shown. ClipError."""
        source = source or self.source
        assert source is not None, "no clip is chosen"
        key = self._key(experiment, source)
        with self._lock:
            if key in self._looks:
                self._looks.move_to_end(key)
                return self._looks[key]
            return self._keep(key, self._look(source, experiment))

    def answers(
        self, models: Models, name: str, question: str, generation_config: GenerationConfig
    ) -> Iterator[Progress]:
        """A side's reply as it comes; when it has ended, question and reply are part of the conversation.

        A stopped reply is kept as far as it came. UserError: the setting cannot be answered.
        """
        side, begun = self.sides[name], self._round
        experiment, _ = models.offers[side.setting.model].run(side.setting)
        yield Progress("", doing="waits for its turn")
        with models.turn():
            if self._round != begun:
                return
            if not models.is_loaded(side.setting):
                yield Progress("", doing=f"loads {side.setting.model}")
                models.load(side.setting)
            seen = self.look(experiment)
            frames = seen.visual.placeholders
            check_room(experiment, frames, models.positions(side.setting))
            yield Progress("", doing="looks at the clip")
            seen, costs = self._encoded(models, side.setting, experiment, seen)
            tokens = num_visual_tokens(experiment, frames)
            costs = replace(costs, key_values=models.key_values(side.setting, tokens))
            text, began = "", time.perf_counter()
            with closing(
                models.stream(side.setting, question, seen.visual, tuple(side.past), generation_config)
            ) as pieces:
                for piece in pieces:
                    text += piece
                    costs = _counted(costs, began, models)
                    if self._round != begun:
                        break
                    yield Progress(text, costs)
        if self.sides[name] is side:  # neither cleared nor turned to another setting
            side.past.append((question, text))
            side.costs = costs
            yield Progress(text, costs, stopped=self._round != begun)

    def _encoded(self, models: Models, setting: Setting, experiment: Experiment, seen: Look) -> tuple[Look, Costs]:
        if seen.visual.grids:
            return seen, Costs(0.0, kept=True)
        key, began = self._key(experiment, self.source), time.perf_counter()
        seen = seen._replace(visual=models.encode(setting, seen.visual))
        with self._lock:
            if self._key(experiment, self.source) == key:  # still the clip that is talked about
                self._keep(key, seen)
        return seen, Costs(time.perf_counter() - began, kept=False)

    def _keep(self, key: object, seen: Look) -> Look:
        self._looks[key] = seen
        self._looks.move_to_end(key)
        while len(self._looks) > KEPT_LOOKS:
            self._looks.popitem(last=False)
        return seen

    def _key(self, experiment: Experiment, source: Source | None) -> object:
        """What the encoders' output depends on: reducers and levels share it, projectors do, too."""
        branches = tuple((name, replace(branch, projector="")) for name, branch in experiment.branches)
        return source, branches, experiment.sampling

    def _forget(self, source: Source) -> None:
        with self._lock:
            for key in [key for key in self._looks if key[0] == source]:
                del self._looks[key]


def _counted(costs: Costs, began: float, models: Models) -> Costs:
    """The costs with one more piece."""
    now = time.perf_counter() - began
    memory, device = models.memory()
    return replace(
        costs,
        first=now if costs.first is None else costs.first,
        total=now,
        pieces=costs.pieces + 1,
        memory=max(memory, costs.memory or 0),
        device=device,
    )
