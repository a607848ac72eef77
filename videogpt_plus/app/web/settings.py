"""Settings of the page. Trained weights answer at the level they were trained at, published ones at any level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from videogpt_plus.config.experiment import Experiment, with_settings
from videogpt_plus.config.experiments import at_level, base_of, level_text, with_reducer
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.errors import translated
from videogpt_plus.reducers import REDUCERS, check_level
from videogpt_plus.types import UserError

#: Levels that are offered where any is possible; others can be typed.
USUAL_LEVELS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
#: Published weights of pictures may be shown several, one behind the other.
FRAMES_OF_PUBLISHED = 8


@dataclass(frozen=True)
class Limits:
    """What the page takes; a file of a few kB can ask for any amount of memory."""

    # Megabytes of a file.
    megabytes: int = 256
    # Minutes of a video.
    minutes: float = 60
    # Millions of pixels of a video's frame: all sampled frames are in memory at once.
    frame_megapixels: float = 10
    # Millions of pixels of a picture.
    picture_megapixels: float = 50
    # Seconds that a file may take to be read.
    seconds: float = 60
    # Megabytes of all uploads together; the oldest go first.
    total_megabytes: int = 4096
    # Questions that may wait for their turn.
    waiting: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"a limit of {value:g} {name} takes nothing at all: choose one above 0")
        if self.total_megabytes < self.megabytes:
            total = self.total_megabytes
            raise UserError(f"a limit of {total} total_megabytes has no room for a file of {self.megabytes} megabytes")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Setting:
    """A model and its dials."""

    # Name of an Offer.
    model: str
    # Name in `reducers.REDUCERS`.
    adapter: str
    # Pool level.
    level: float
    # Frames sampled from a clip.
    frames: int

    def words(self) -> str:
        """`toy, average, level 4, 8 frames`."""
        return f"{self.model}, {self.adapter}, level {level_text(self.level)}, {self.frames} frames"


@dataclass(frozen=True)
class Offer:
    """A model, and what its dials may be set to."""

    # As the page shows it.
    name: str
    # (adapter, level) -> experiment and run folder. Of published weights one: the others need no training.
    runs: Mapping[tuple[str, float], tuple[Experiment, Path]]

    @property
    def experiment(self) -> Experiment:
        """Of one of the runs: what they share is the same in all."""
        return next(iter(self.runs.values()))[0]

    @property
    def free(self) -> bool:
        """Whether level and adapter are dials: published weights, behind a reducer that has learned nothing."""
        return not self.experiment.is_trained and not self.experiment.reducer.learns

    @property
    def random(self) -> bool:
        """Whether its answers mean nothing."""
        return self.experiment.is_random

    def adapters(self) -> list[str]:
        """Those that can be chosen."""
        own = list(dict.fromkeys(adapter for adapter, _ in self.runs))
        if not self.free:
            return own
        pooling = [name for name, kind in REDUCERS.items() if kind.pools and not kind.mixes_frames]
        return list(dict.fromkeys([*own, *pooling]))

    def levels(self, adapter: str) -> list[float]:
        """Those that can be chosen; where level is a dial, those that are worth a look: each gives other tokens."""
        if not self.free:
            return sorted(level for name, level in self.runs if name == adapter)
        if adapter not in self.adapters() or not REDUCERS[adapter].pools:
            return [1.0]
        sides = {}
        for level in USUAL_LEVELS:
            sides.setdefault(num_visual_tokens(at_level(with_reducer(self.experiment, adapter), level), 1), level)
        return sorted(sides.values())

    def most_frames(self) -> int:
        """A model that was trained on so many frames knows no more; published ones may be tried with some more."""
        shown = self.experiment.num_frames
        return shown if self.experiment.is_trained else max(shown, FRAMES_OF_PUBLISHED)

    def default(self) -> Setting:
        """What the page begins with."""
        (adapter, level), (experiment, _) = next(iter(self.runs.items()))
        return Setting(self.name, adapter, level, experiment.num_frames)

    def checked(self, setting: Setting) -> Setting:
        """The setting, if it is one. UserError: it names the dial and its choices."""
        if setting.adapter not in self.adapters():
            raise UserError(
                f"{self.name} was not trained with adapter '{setting.adapter}': choose {_either(self.adapters())}"
            )
        levels = self.levels(setting.adapter)
        check_level(setting.level)
        any_level = self.free and REDUCERS[setting.adapter].pools
        if not any_level and setting.level not in levels:
            raise UserError(
                f"{self.name} was not trained with adapter '{setting.adapter}' at level {level_text(setting.level)}: "
                f"choose level {_either(map(level_text, levels))}"
            )
        if not 1 <= setting.frames <= self.most_frames():
            raise UserError(
                f"{setting.frames} frames are not possible for {self.name}: choose 1 to {self.most_frames()}"
            )
        return setting

    def run(self, setting: Setting) -> tuple[Experiment, Path]:
        """The experiment of a checked setting, and the run folder whose weights it takes."""
        found = self.runs.get((setting.adapter, setting.level)) or next(iter(self.runs.values()))
        experiment, folder = found
        if self.free:
            experiment = at_level(with_reducer(experiment, setting.adapter), setting.level)
        return with_settings(experiment, {"sampling.num_frames": setting.frames}), folder


def offers_of(runs: Iterable[tuple[Experiment, Path]]) -> dict[str, Offer]:
    """Runs as models with dials, by name. Of two with the same model, adapter, level and seed the first one counts.

    UserError: there is none.
    """
    by_model: dict[str, dict[tuple[str, float], tuple[Experiment, Path]]] = {}
    for experiment, folder in runs:
        by_model.setdefault(_model(experiment), {}).setdefault(
            (experiment.reducer.name, experiment.level), (experiment, folder)
        )
    if not by_model:
        raise UserError("there is no model to talk to: name a run folder, or train one with `videogpt-plus sweep toy`")
    return {name: Offer(name, dict(sorted(found.items()))) for name, found in by_model.items()}


def check_room(experiment: Experiment, frames: int, positions: int | None) -> None:
    """UserError: the visual tokens alone fill the `positions` that the language model was made for."""
    tokens = num_visual_tokens(experiment, frames)
    if positions is not None and tokens >= positions:
        raise UserError(
            f"{tokens:,} visual tokens do not fit into the {positions:,} positions of the language model: "
            "choose a higher level or fewer frames"
        )


def contrast(offer: Offer) -> Setting | None:
    """The setting of the same model with the fewest tokens, to compare with its default; None if it is the only one."""
    begin = offer.default()
    level = offer.levels(begin.adapter)[-1]
    return replace(begin, level=level) if level != begin.level else None


def level_of(text: str) -> float:
    """The pool level that somebody typed. UserError: it is no number."""
    what = f"pool level '{text}' is no number: choose one such as 1, 2, 4"
    with translated(TypeError, ValueError, to=lambda _: UserError(what)):
        return float(text)


def _model(experiment: Experiment) -> str:
    """`toy` of `toy_max_pool4`, `toy_seed7` of `toy_pool4_seed7`."""
    base, seed = base_of(experiment.name), experiment.name.rpartition("_seed")[2]
    return f"{base}_seed{seed}" if seed.isdigit() else base


def _either(choices: Iterable[str]) -> str:
    *names, last = choices
    return f"{', '.join(names)} or {last}" if names else last
