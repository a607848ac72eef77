"""Scenes of the toy world: what is where and when, its questions with their answers, its pictures, its words.

A scene lives on a square stage of STAGE x STAGE units over SEGMENTS equal parts of time, in which nothing moves:
a clip that is sampled at SEGMENTS frames shows each part once. From one scene come the frames (`render`), the
question with its options (`TASKS`), a caption, and the words that every patch deserves (`word_grid`), on which the
tiny encoders and the tiny LLM are pre-trained apart from each other.

Why the tasks are as they are: average pooling keeps the bag of what a cell holds and loses what is where in it. The
presence of a single thing, and even its place, survive any pooling; so middle and fine tasks ask which of several
things inside one pooled cell has a property.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STAGE = 24  # units; an image patch of the 12x12 grid is 2 units, a video patch of the 8x8 grid 3
SEGMENTS = 8
UNIT = 4  # pixels a unit in masks; the stage is 96 pixels

COLORS = {
    "red": (225, 45, 45),
    "green": (45, 185, 65),
    "blue": (55, 90, 240),
    "yellow": (240, 220, 50),
    "purple": (165, 60, 205),
    "white": (245, 245, 245),
}
SHAPES = ("square", "circle", "triangle", "cross")
DIRECTIONS = {"leftward": (0, -1), "rightward": (0, 1), "upward": (-1, 0), "downward": (1, 0)}
#: The nine cells of a 3x3 grid, row by row.
CELLS = ("northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast")
#: The sixteen squares of a 4x4 grid, row by row.
SQUARES = tuple("abcdefghijklmnop")
COUNTS = ("one", "two", "three", "four")
#: Every word a patch can deserve; a word grid's last axis.
WORDS = (*COLORS, *SHAPES, *CELLS, *SQUARES, *DIRECTIONS)
WORD_INDEX = {w: i for i, w in enumerate(WORDS)}


@dataclass(frozen=True)
class Thing:
    """One coloured shape. `at[s]` is its top-left corner (row, column) in units in segment s, None when hidden."""

    shape: str
    color: str
    size: int
    at: tuple[tuple[int, int] | None, ...]
    direction: str | None = None


@dataclass(frozen=True)
class Scene:
    """A clip before it is rendered, with one question about it."""

    things: tuple[Thing, ...]
    question: str = ""
    candidates: tuple[str, ...] = ()
    answer: str = ""
    #: First and one-past-last segment that the question is about; None is the whole clip.
    bounds: tuple[int, int] | None = None
    segments: int = SEGMENTS


def still(shape: str, color: str, size: int, row: int, col: int, segments: int = SEGMENTS) -> Thing:
    return Thing(shape, color, size, ((row, col),) * segments)


def pick(rng: np.random.Generator, items, k: int) -> list[str]:
    """k different items in random order."""
    return [str(x) for x in rng.permutation(np.array(list(items)))[:k]]


def options(rng: np.random.Generator, answer: str, others) -> tuple[str, ...]:
    """The answer among the others, in random order."""
    return tuple(str(x) for x in rng.permutation(np.array([answer, *others])))


# ---------------------------------------------------------------------------------------------- tasks
def large_color(rng: np.random.Generator) -> Scene:
    color, *others = pick(rng, COLORS, 4)
    size = int(rng.integers(9, 15))
    row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
    things = (still(str(rng.choice(SHAPES)), color, size, row, col),)
    return Scene(things, "What color is the large object?", options(rng, color, others), color)


def large_shape(rng: np.random.Generator) -> Scene:
    shape, *others = pick(rng, SHAPES, 4)
    size = int(rng.integers(10, 15))
    row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
    things = (still(shape, str(rng.choice(list(COLORS))), size, row, col),)
    return Scene(things, "What shape is the large object?", options(rng, shape, others), shape)


def cell_of_color(rng: np.random.Generator) -> Scene:
    """Three things of three colours in three cells of a 3x3 grid; a pooled cell larger than theirs mixes them."""
    colors, cells = pick(rng, COLORS, 3), pick(rng, CELLS, 4)
    things = []
    for color, cell in zip(colors, cells, strict=False):
        row, col = divmod(CELLS.index(cell), 3)
        size = int(rng.integers(4, 7))
        dr, dc = rng.integers(1, 8 - size, 2) if size < 7 else (0, 0)
        things.append(still(str(rng.choice(SHAPES)), color, size, row * 8 + int(dr), col * 8 + int(dc)))
    question = f"In which part of the picture is the {colors[0]} object?"
    return Scene(tuple(things), question, options(rng, cells[0], cells[1:]), cells[0])


def square_of_color(rng: np.random.Generator) -> Scene:
    """Sixteen small squares in five colours, exactly one of them in the colour that is asked for."""
    color, *others = pick(rng, COLORS, len(COLORS))
    places = pick(rng, SQUARES, 4)
    things = []
    for i, square in enumerate(SQUARES):
        row, col = divmod(i, 4)
        tint = color if square == places[0] else str(rng.choice(others))
        things.append(still("square", tint, 4, row * 6 + 1, col * 6 + 1))
    question = f"Which of the squares a to p is {color}?"
    return Scene(tuple(things), question, options(rng, places[0], places[1:]), places[0])


def dot_in_row(rng: np.random.Generator) -> Scene:
    """Four touching dots, one image patch each; the question is which colour stands at which end."""
    colors = pick(rng, COLORS, 4)
    row, col = (int(x) * 2 for x in (rng.integers(0, 12), rng.integers(0, 9)))
    things = tuple(still("square", c, 2, row, col + 2 * i) for i, c in enumerate(colors))
    side, answer = (("left", colors[0]), ("right", colors[3]))[int(rng.integers(2))]
    question = f"What color is the dot at the {side} end of the row?"
    return Scene(things, question, options(rng, answer, [c for c in colors if c != answer]), answer)


def color_of_shape(rng: np.random.Generator) -> Scene:
    """Four small things of four shapes and four colours, close together: colour and shape have to be bound."""
    colors, shapes = pick(rng, COLORS, 4), pick(rng, SHAPES, 4)
    row, col = (int(x) * 2 for x in rng.integers(0, 8, 2))
    corners = ((row, col), (row, col + 4), (row + 4, col), (row + 4, col + 4))
    things = tuple(still(s, c, 4, *at) for s, c, at in zip(shapes, colors, corners, strict=True))
    question = f"What color is the small {shapes[0]}?"
    return Scene(things, question, options(rng, colors[0], colors[1:]), colors[0])


def motion_direction(rng: np.random.Generator) -> Scene:
    direction, *others = pick(rng, DIRECTIONS, 4)
    thing = moving(rng, direction, SEGMENTS)
    return Scene((thing,), "In which direction does the object move?", options(rng, direction, others), direction)


def moving(rng: np.random.Generator, direction: str, segments: int) -> Thing:
    """A thing that moves two units a segment, as often seen at one place as at another whatever its direction."""
    size = int(rng.integers(6, 9))
    dr, dc = DIRECTIONS[direction]
    travel = 2 * (segments - 1)
    start = int(rng.integers(0, STAGE - size - travel + 1))
    across = int(rng.integers(0, STAGE - size + 1))
    along = [start + 2 * s for s in range(segments)]
    if dr + dc < 0:
        along = [STAGE - size - a for a in along]
    at = tuple((a, across) if dr else (across, a) for a in along)
    return Thing(str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))), size, at, direction)


def color_order(rng: np.random.Generator) -> Scene:
    """One large thing takes four colours in turn, two segments each."""
    colors = pick(rng, COLORS, 4)
    size = int(rng.integers(8, 14))
    row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
    shape = str(rng.choice(SHAPES))
    things = tuple(
        Thing(shape, c, size, tuple((row, col) if s // 2 == i else None for s in range(SEGMENTS)))
        for i, c in enumerate(colors)
    )
    when, answer = (("first", colors[0]), ("last", colors[3]))[int(rng.integers(2))]
    question = f"Which color does the object show {when}?"
    return Scene(things, question, options(rng, answer, [c for c in colors if c != answer]), answer)


def appearance_count(rng: np.random.Generator) -> Scene:
    """One to four things of different colours show up one after another, each for the same share of the clip.

    Every frame shows exactly one of them, so a single frame says nothing about how many there are.
    """
    count = int(rng.integers(1, 5))
    size = int(rng.integers(8, 14))
    row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
    shape = str(rng.choice(SHAPES))
    turn = [s * count // SEGMENTS for s in range(SEGMENTS)]
    things = tuple(
        Thing(shape, c, size, tuple((row, col) if t == i else None for t in turn))
        for i, c in enumerate(pick(rng, COLORS, count))
    )
    answer = COUNTS[count - 1]
    others = [c for c in COUNTS if c != answer]
    return Scene(things, "How many objects appear, one after another?", options(rng, answer, others), answer)


def color_in_bounds(rng: np.random.Generator) -> Scene:
    """Three colours in turn, a third of the clip each; the question's start and end pick one of them."""
    colors = pick(rng, COLORS, 4)
    third = SEGMENTS
    size = int(rng.integers(9, 15))
    row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
    shape = str(rng.choice(SHAPES))
    things = tuple(
        Thing(shape, c, size, tuple((row, col) if s // third == i else None for s in range(3 * third)))
        for i, c in enumerate(colors[:3])
    )
    part = int(rng.integers(3))
    answer = colors[part]
    candidates = options(rng, answer, [c for c in colors if c != answer])
    bounds = (part * third, (part + 1) * third)
    return Scene(things, "What color is the large object?", candidates, answer, bounds, 3 * third)


@dataclass(frozen=True)
class ToyTask:
    """How a task is made, what it measures, and the coarsest pool level at which its answer can still be seen."""

    scene: Callable[[np.random.Generator], Scene]
    #: coarse, middle, fine or temporal.
    group: str
    #: The coarsest level that keeps what the question asks for; beyond it a pooled cell mixes the things.
    needs_level: int
    #: "video", or "frames" for a folder of pictures at 3 per second.
    kind: str = "video"


TASKS = {
    "Large Color": ToyTask(large_color, "coarse", 16),
    "Large Shape": ToyTask(large_shape, "coarse", 16, kind="frames"),
    "Color In Bounds": ToyTask(color_in_bounds, "coarse", 16),
    "Cell Of Color": ToyTask(cell_of_color, "middle", 4),
    "Square Of Color": ToyTask(square_of_color, "fine", 2),
    "Color Of Shape": ToyTask(color_of_shape, "fine", 2),
    "Dot In Row": ToyTask(dot_in_row, "fine", 1),
    "Motion Direction": ToyTask(motion_direction, "temporal", 16),
    "Color Order": ToyTask(color_order, "temporal", 16),
    "Appearance Count": ToyTask(appearance_count, "temporal", 16),
}


def random_things(rng: np.random.Generator, segments: int = 1, most: int = 6) -> Scene:
    """One to `most` things that do not touch, or one that moves, for captions and for the encoders."""
    if segments > 1 and rng.random() < 0.5:
        return Scene((moving(rng, str(rng.choice(list(DIRECTIONS))), segments),), segments=segments)
    taken = np.zeros((STAGE, STAGE), bool)
    things = []
    for _ in range(int(rng.integers(1, most + 1))):
        size = int(rng.choice([2, 2, 4, 4, 5, 6, 8, 12]))
        row, col = (int(x) for x in rng.integers(0, STAGE - size + 1, 2))
        if size <= 4:
            row, col = row // 2 * 2, col // 2 * 2
        if not taken[row : row + size, col : col + size].any():
            taken[row : row + size, col : col + size] = True
            shape = "square" if size == 2 else str(rng.choice(SHAPES))
            things.append(still(shape, str(rng.choice(list(COLORS))), size, row, col, segments))
    return Scene(tuple(things), segments=segments)


def caption(scene: Scene) -> str:
    """Every thing in reading order: `red circle northwest a, blue square east h`; a moving one with its direction."""

    def place(thing: Thing) -> tuple[float, float]:
        row, col = next(a for a in thing.at if a is not None)
        return row + thing.size / 2, col + thing.size / 2

    def words(thing: Thing) -> str:
        row, col = place(thing)
        where = f"{CELLS[int(row // 8) * 3 + int(col // 8)]} {SQUARES[int(row // 6) * 4 + int(col // 6)]}"
        return f"{thing.color} {thing.shape} {thing.direction or where}"

    return ", ".join(words(t) for t in sorted(scene.things, key=place))


# ------------------------------------------------------------------------------------- words and pictures
@lru_cache(maxsize=256)
def mask(shape: str, pixels: int) -> np.ndarray:
    """Bool "pixels pixels": the shape that fills its square."""
    y, x = (np.mgrid[:pixels, :pixels] + 0.5) / pixels * 2 - 1
    if shape == "square":
        return np.ones((pixels, pixels), bool)
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "triangle":
        return np.abs(x) <= (y + 1) / 2
    assert shape == "cross", shape
    return (np.abs(x) <= 0.34) | (np.abs(y) <= 0.34)


def word_grid(scene: Scene, grid: int, first: int = 0, last: int | None = None) -> np.ndarray:
    """Float32 "t h w k": the share of every patch that deserves each of WORDS; a place word only where a thing is."""
    last = scene.segments if last is None else last
    side = STAGE * UNIT // grid
    out = np.zeros((last - first, grid, grid, len(WORDS)), np.float32)
    centers = (np.arange(grid) + 0.5) * STAGE / grid
    cell = (centers // 8).astype(int)[:, None] * 3 + (centers // 8).astype(int)[None]
    square = (centers // 6).astype(int)[:, None] * 4 + (centers // 6).astype(int)[None]
    at_cell = np.eye(9, dtype=np.float32)[cell]
    at_square = np.eye(16, dtype=np.float32)[square]
    seen: dict[tuple, np.ndarray] = {}
    for thing in scene.things:
        for s in range(first, last):
            corner = thing.at[s]
            if corner is None:
                continue
            if (corner, thing.shape, thing.size) not in seen:
                stage = np.zeros((STAGE * UNIT, STAGE * UNIT), np.float32)
                (r, c), size = (corner[0] * UNIT, corner[1] * UNIT), thing.size * UNIT
                stage[r : r + size, c : c + size] = mask(thing.shape, size)
                seen[corner, thing.shape, thing.size] = stage.reshape(grid, side, grid, side).mean((1, 3))
            share = seen[corner, thing.shape, thing.size]
            frame = out[s - first]
            frame[..., WORD_INDEX[thing.color]] += share
            frame[..., WORD_INDEX[thing.shape]] += share
            frame[..., 10:19] += share[..., None] * at_cell
            frame[..., 19:35] += share[..., None] * at_square
            if thing.direction:
                frame[..., WORD_INDEX[thing.direction]] += share
    return out


def render(scene: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """UInt8 "t height width 3", one picture a segment: the stage is the centred square, bars beside it."""
    assert width >= height, (width, height)
    ground = rng.integers(30, 70) + rng.normal(0, 2, (height, width, 1))
    frames = np.repeat(np.clip(ground, 0, 255).astype(np.uint8)[None], scene.segments, 0).repeat(3, -1)
    left, unit = (width - height) // 2, height / STAGE
    frames[:, :, :left] = frames[:, :, left + height :] = 10
    for thing in scene.things:
        tint = np.clip(np.array(COLORS[thing.color]) + rng.integers(-10, 11, 3), 0, 255)
        for s, corner in enumerate(thing.at):
            if corner is not None:
                r, c = round(corner[0] * unit), left + round(corner[1] * unit)
                size = round(thing.size * unit)
                frames[s, r : r + size, c : c + size][mask(thing.shape, size)] = tint
    return frames
