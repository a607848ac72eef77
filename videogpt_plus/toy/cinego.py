"""Cinego from nothing: rendered clips, a tokenizer, a language model, two trainings, and held-out clips to ask about.

One thing moves in each clip. Its colour and shape stand in every frame, its direction only in their order. So three
questions tell what was learned: without the clip (blind) nothing can be known, and of frames in another order all
but the direction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.prefetch import Preparation, shuffled
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.families.cinego.lm import Size, mlp_width
from videogpt_plus.io import fingerprint
from videogpt_plus.io.files import write_bytes
from videogpt_plus.io.folders import making
from videogpt_plus.models.base import VisionLM
from videogpt_plus.models.loading import load_model
from videogpt_plus.text import chat
from videogpt_plus.toy import world
from videogpt_plus.toy.render import RATES, SIZES, write_mp4
from videogpt_plus.training.cinego.features import preprocess
from videogpt_plus.training.cinego.stages import Recipe, Source, train
from videogpt_plus.training.cinego.tokenizer import texts_of, train_tokenizer
from videogpt_plus.types import Visual

DESCRIBE = "Describe the video."
#: What `prepare` writes.
NAMES = ("train", "held_out", "lm.jsonl", "pretrain.jsonl", "sft.jsonl")


#: What each training teaches, in words.
STAGES = {
    "lm": "a language model learns the texts, from random weights",
    "pretrain": "projection and summary learn to describe clips",
    "sft": "all but CLIP learns conversations about clips",
}


class Asked(NamedTuple):
    """One thing to ask about a clip."""

    question: str
    answer: Callable[[world.Thing], str]
    #: What its words are chosen from.
    words: Sequence[str]
    #: The word of a thing.
    word: Callable[[world.Thing], str]


QUESTIONS = {
    "colour": Asked(
        "What color is the object?", lambda t: f"The object is {t.color}.", tuple(world.COLORS), lambda t: t.color
    ),
    "shape": Asked("What shape is the object?", lambda t: f"It is a {t.shape}.", world.SHAPES, lambda t: t.shape),
    "direction": Asked(
        "Which way does the object move?",
        lambda t: f"It moves {t.direction}.",
        tuple(world.DIRECTIONS),
        lambda t: t.direction or "",
    ),
}


@dataclass(frozen=True)
class Plan:
    """How much is rendered, and how each stage is trained."""

    # Seed of the clips and what is said about them.
    seed: int = 7
    # Clips to train on.
    clips: int = 1000
    # Clips that nothing is trained on.
    held_out: int = 100
    # Conversations of text alone, for the language model.
    texts: int = 4000
    # Entries of the tokenizer.
    vocabulary: int = 400
    # The language model.
    size: Size = Size(width=64, layers=3, heads=4, kv_heads=2, mlp=mlp_width(64, 32), vocabulary=400)
    lm: Recipe = Recipe(epochs=2, batch_size=32, learning_rate=2e-3, max_length=160)
    pretrain: Recipe = Recipe(epochs=12, batch_size=32, learning_rate=2e-3, max_length=160)
    sft: Recipe = Recipe(epochs=6, batch_size=32, learning_rate=1.5e-3, max_length=160)


class Clip(NamedTuple):
    """A clip and the truth about it."""

    path: Path
    thing: world.Thing


#: What became of a question: the word that was right, and what the model said.
Reply = tuple[str, str]


def prepare(root: Path, plan: Plan = Plan(), progress: Callable[[int, int], None] | None = None) -> bool:
    """Renders clips and writes rows under `root`, unless they are there from this plan; True when it did.

    root/{train,held_out}/0000.mp4, lm.jsonl, pretrain.jsonl, sft.jsonl. Nothing half-made stands under the names, and
    whatever else `root` holds stays, trainings of other plans among it. UserError: `root` was not made here.
    """
    with making(root, _made_from(plan), NAMES) as scratch:
        if scratch is None:
            return False
        _fill(scratch, plan, progress)
    return True


def _fill(scratch: Path, plan: Plan, progress: Callable[[int, int], None] | None) -> None:
    drawn = things(plan)
    for number, (clip, thing) in enumerate(zip(clips(scratch, plan), drawn, strict=True), 1):
        _write_clip(clip.path, thing, (plan.seed, number))
        if progress:
            progress(number, len(drawn))
    rng = np.random.default_rng((plan.seed, 1))
    own = drawn[: plan.clips]
    names = [f"train/{i:04d}.mp4" for i in range(plan.clips)]
    _write_rows(scratch / "lm.jsonl", [_text_row(own[int(rng.integers(len(own)))], rng) for _ in range(plan.texts)])
    described = [_row((f"<image>\n{DESCRIBE}", caption(t)), image=n) for t, n in zip(own, names, strict=True)]
    _write_rows(scratch / "pretrain.jsonl", described)
    asked = [_question_row(t, rng, name) for _ in range(3) for t, name in zip(own, names, strict=True)]
    _write_rows(scratch / "sft.jsonl", asked)


def _made_from(plan: Plan) -> dict[str, object]:
    """The settings of the plan that change the files, and the code that writes them."""
    told = {name: value for name, value in asdict(plan).items() if isinstance(value, int)}
    return {**told, "code": [fingerprint.of_path(Path(__file__)), fingerprint.of_path(Path(world.__file__))]}


def things(plan: Plan) -> list[world.Thing]:
    """What moves in each clip, in the order of `clips`: no two are the same."""
    rng = np.random.default_rng((plan.seed, 0))
    drawn: dict[world.Thing, None] = {}
    while len(drawn) < plan.clips + plan.held_out:
        drawn[world.moving(rng, str(rng.choice(list(world.DIRECTIONS))), world.SEGMENTS)] = None
    return list(drawn)


def clips(root: Path, plan: Plan) -> list[Clip]:
    """Every clip with its truth; the held-out ones come last."""
    parts = [("train", i) for i in range(plan.clips)] + [("held_out", i) for i in range(plan.held_out)]
    return [Clip(root / part / f"{i:04d}.mp4", t) for (part, i), t in zip(parts, things(plan), strict=True)]


def caption(thing: world.Thing) -> str:
    """What is to be seen."""
    return f"A {thing.color} {thing.shape} moves {thing.direction}."


def _write_clip(path: Path, thing: world.Thing, seed: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    pictures = world.render(world.Scene((thing,)), height, width, rng)
    path.parent.mkdir(exist_ok=True)
    write_mp4(path, pictures, height, width, int(rng.choice(RATES)))


def _row(*turns: tuple[str, str], **files: str) -> dict:
    said = [(role, text) for question, answer in turns for role, text in (("user", question), ("assistant", answer))]
    return {**files, "conversations": [{"role": role, "content": text} for role, text in said]}


def _two(thing: world.Thing, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Two different questions with their answers."""
    chosen = [QUESTIONS[name] for name in world.pick(rng, QUESTIONS, 2)]
    return [(asked.question, asked.answer(thing)) for asked in chosen]


def _text_row(thing: world.Thing, rng: np.random.Generator) -> dict:
    """Text alone: a caption, then questions that it answers."""
    if rng.random() < 0.25:
        return _row((DESCRIBE, caption(thing)))
    (question, answer), second = _two(thing, rng)
    return _row((f"{caption(thing)}\n{question}", answer), second)


def _question_row(thing: world.Thing, rng: np.random.Generator, name: str) -> dict:
    (question, answer), second = _two(thing, rng)
    return _row((f"<image>\n{question}", answer), second, image=name)


def _write_rows(path: Path, rows: Sequence[dict]) -> None:
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def teach(
    experiment: Experiment,
    root: Path,
    plan: Plan = Plan(),
    progress: Callable[[str], Callable[[int, int, float], None]] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Trains tokenizer, language model, projection and summary, and all of it, on what `prepare` wrote.

    Returns the folder of the weights, `experiment.llm`. `progress` gives each stage's own; `say` gets a line when a
    stage begins. Finished stages are kept; an interrupted one resumes.
    """
    say = say or (lambda _: None)
    made_from = {**asdict(plan), "experiment": asdict(experiment), "clips": _made_from(plan)}
    folder = root / f"made-{fingerprint.of_value(made_from)}"
    tokenizer, store = folder / "tokenizer", GridCache(root / "features")
    if not (tokenizer / "tokenizer_config.json").exists():
        say(f"tokenizer: {plan.vocabulary} entries from {plan.texts:,} texts about the clips")
        train_tokenizer(texts_of(root / "lm.jsonl"), tokenizer, plan.vocabulary)
    paths = [clip.path for clip in clips(root, plan)]
    say(f"preprocess: what CLIP makes of {len(paths):,} clips is kept, so that no training decodes or encodes them")
    preprocess(experiment, paths, store)
    start = tokenizer
    for stage in STAGES:
        source = Source([root / f"{stage}.jsonl"], root, store=None if stage == "lm" else store, keep=True)
        shown = progress(stage) if progress else None
        say(f"{stage}: {STAGES[stage]}")
        own = plan.size if stage == "lm" else None
        recipe = getattr(plan, stage)
        start = train(stage, experiment, source, start, folder / stage, recipe, size=own, progress=shown)
    target = Path(experiment.llm)
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json", start.name):
        write_bytes(target / file, (start.parent / file).read_bytes())
    return target


@torch.inference_mode()
def ask(experiment: Experiment, root: Path, plan: Plan = Plan(), control: str | None = None) -> dict[str, list[Reply]]:
    """What the taught model says about each held-out clip, in conversations of two turns; by what was asked.

    Each clip is asked each question once as the first and once as the second turn, behind the model's own answer.
    `control` is "blind", without clips, or "shuffled", with their frames in another order.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(experiment, None, device, torch.float32)
    prepared = Preparation(experiment.branches, experiment.sampling)
    replies: dict[str, list[Reply]] = {name: [] for name in QUESTIONS}
    names = list(QUESTIONS)
    for number, clip in enumerate(clips(root, plan)[plan.clips :]):
        visual = None if control == "blind" else _seen(prepared, clip.path, number if control == "shuffled" else None)
        if visual is not None:  # encoded once for all its questions
            visual = Visual({}, visual.placeholders, model.encode([visual])[0])
        pasts: list[tuple[tuple[str, str], ...]] = [()] * len(names)
        for turn in range(2):
            asked = [QUESTIONS[names[(i + turn) % len(names)]] for i in range(len(names))]
            said = _generate(model, experiment, [one.question for one in asked], visual, pasts)
            for i, (one, text) in enumerate(zip(asked, said, strict=True)):
                replies[names[(i + turn) % len(names)]].append((one.word(clip.thing), text))
                pasts[i] = ((one.question, text),)
    return replies


def _seen(prepared: Preparation, path: Path, seed: int | None) -> Visual:
    visual = prepared(path)
    if seed is None:
        return visual
    order = shuffled(visual.placeholders, seed)
    return visual._replace(pixels={name: part[order] for name, part in visual.pixels.items()})


def _generate(
    model: VisionLM,
    experiment: Experiment,
    questions: Sequence[str],
    visual: Visual | None,
    pasts: Sequence[tuple[tuple[str, str], ...]],
) -> list[str]:
    counts = [visual.placeholders] if visual else []
    prompts = [
        chat.encode_prompt(model.tokenizer, question, counts, experiment.prompting.template, past)
        for question, past in zip(questions, pasts, strict=True)
    ]
    return model.generate(prompts, [[visual] if visual else []] * len(prompts), experiment.max_new_tokens)


def is_right(name: str, reply: Reply) -> bool:
    """Whether a reply to a question of that name has the right word, and no other of its kind."""
    truth, text = reply
    said = text.lower().replace(".", " ").split()
    return [word for word in QUESTIONS[name].words if word in said] == [truth]
