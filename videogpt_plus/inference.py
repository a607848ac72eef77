"""Any runs asked about any clips: a clip is decoded and encoded once, and every model that shares the encoders
answers.

    llm = load({"fine": Path("results/toy/toy_pool2"), "coarse": Path("results/toy/toy_pool8")})
    llm.ask("clip.mp4", "What moves?")        # {"fine": Reply(...), "coarse": Reply(...)}
    llm.answers(questions, control="blind")   # a benchmark, in batches
    llm.only("fine").stream(...)              # one reply, in pieces as they come

Pool levels differ only behind the encoders. So what models that are asked together share is the unpooled grid;
projectors, reducer and LoRA are each model's own. Batches hold the same questions whether one model is asked or
several, so that answers do not depend on the company.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from videogpt_plus.clips.cache import GridCache, open_cache
from videogpt_plus.clips.picture_files import is_still
from videogpt_plus.clips.prefetch import Job, Prefetched, Prefetcher, Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.options import DEFAULT_EVAL, GREEDY, EvalConfig, GenerationConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.flops import sizes_of
from videogpt_plus.io.entries import reading
from videogpt_plus.io.fingerprint import of_value
from videogpt_plus.models.base import Grids, VisionLM
from videogpt_plus.models.device_map import free
from videogpt_plus.models.generation import Generated
from videogpt_plus.models.loading import load_models
from videogpt_plus.reducers import build_reducer
from videogpt_plus.text import chat
from videogpt_plus.types import Askable, ClipError, Outcome, Question, Reply, UserError, Visual, check_control


class Member(NamedTuple):
    """One of the models that are asked together."""

    model: VisionLM
    experiment: Experiment


@dataclass(frozen=True)
class ClipQuestion:
    """A question about a clip in free words: an `Askable` that belongs to no benchmark."""

    path: Path
    prompt: str
    start: float | None = None
    end: float | None = None
    candidates: tuple[str, ...] = ()
    spoken: tuple[str, ...] | None = None

    @property
    def video(self) -> str:
        return str(self.path)

    @property
    def key(self) -> str:
        return of_value([self.video, self.start, self.end, self.prompt])


@dataclass(frozen=True)
class View:
    """One look at a clip, and what is asked about it."""

    path: Path | None
    start: float | None
    end: float | None
    #: The frame that the `one_frame` control repeats, modulo the clip's frames.
    frame: int | None = None
    #: What the `shuffled` control draws the order of the frames by.
    shuffle: int | None = None
    questions: list[Question] = field(default_factory=list, compare=False)


def load(
    runs: Mapping[str, Path],
    eval_config: EvalConfig = DEFAULT_EVAL,
    store: GridCache | None = None,
    tell: Callable[[str], None] | None = None,
    longest: int | None = None,
) -> VideoLLM:
    """The models of run folders by name, on a GPU in bfloat16 where there is one, else on the CPU in float32.

    They share their encoders and their LLM. `store` is that of `eval_config`, where it is open already; `tell`
    is told what weights that were published whole take, before they are loaded, with answers of `longest` tokens, or
    of the experiments' own number.
    UserError: they do not see clips in the same way, or the cards cannot hold them.
    """
    experiments = {name: load_experiment(run) for name, run in runs.items()}
    if longest:
        experiments = {
            name: replace(e, prompting=replace(e.prompting, max_new_tokens=longest)) for name, e in experiments.items()
        }
    pairs = [(experiments[name], run) for name, run in runs.items()]
    models = load_models(pairs, *arithmetic(eval_config), eval_config, eval_config.batch_size, free(), tell)
    members = {name: Member(model, experiments[name]) for name, model in zip(runs, models, strict=True)}
    return VideoLLM(members, eval_config, store or open_cache(eval_config))


def arithmetic(eval_config: EvalConfig) -> tuple[str, torch.dtype, torch.dtype]:
    """Device, dtype of the LLM, dtype of the encoders."""
    cuda = torch.cuda.is_available()
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    return device, dtype, dtype if eval_config.encoder_dtype == "auto" else getattr(torch, eval_config.encoder_dtype)


class VideoLLM:
    """Loaded models that are asked as their experiments say: frames, template and length of an answer.

    The models see clips in the same way (`models.loading.load_models` checks it); the first one encodes for all.
    """

    def __init__(
        self, members: Mapping[str, Member], eval_config: EvalConfig = DEFAULT_EVAL, store: GridCache | None = None
    ):
        self.members, self.eval_config = members, eval_config
        model, experiment = next(iter(members.values()))
        dtype = str(next(model.encoders.parameters()).dtype).removeprefix("torch.")
        self.prepare = Preparation(
            experiment.branches, experiment.sampling, eval_config.decoder, store, dtype, eval_config.clip_seconds
        )
        self.encode, self.store, model.store = model.encode, store, store
        self._options: dict[tuple[str, tuple[str, ...] | None], list[tuple[int, ...]]] = {}

    @property
    def reads(self) -> int | None:
        """Tokens that the first model's LLM was made to read at most; None where nothing says so."""
        return self._first[1].model.reads

    @property
    def _first(self) -> tuple[str, Member]:
        return next(iter(self.members.items()))

    def only(self, name: str, experiment: Experiment | None = None, called: str | None = None) -> VideoLLM:
        """One of the models, with the same weights, under the name `called`; as `experiment` has it, where given.

        Its level, reducer and frames may then be others. UserError: its own reducer was trained.
        """
        model, own = self.members[name]
        experiment = experiment or own
        if experiment.reducer != own.reducer:
            if any(True for _ in model.reducers.parameters()):
                raise UserError(f"{name} was trained with its reducer '{own.reducer.name}': ask it as it is")
            model = _reduced_by(experiment, model)
        return VideoLLM({called or name: Member(model, experiment)}, self.eval_config, self.store)

    def see(self, path: str | Path, start: float | None = None, end: float | None = None) -> Visual:
        """A clip, or a picture as in training, ready to be asked about. ClipError: it cannot be read."""
        ratio = self._first[1].experiment.sampling.stills
        return self.prepare(path, start, end, still=ratio if is_still(Path(path)) else None)

    def ask(
        self, path: str | Path, question: str, start: float | None = None, end: float | None = None
    ) -> dict[str, Reply]:
        """What each model says to a question about a clip or a picture.

        ClipError: it cannot be read, or the question leaves a model no room for an answer.
        """
        asked = Question(ClipQuestion(Path(path), question, start, end), tuple(self.members))
        self._check_options([asked])
        began = time.perf_counter()
        visual = self.see(path, start, end)
        view = View(asked.example.path, start, end, questions=[asked])
        ((_, replies),) = self._answer([view], [visual], [time.perf_counter() - began])
        for reply in replies.values():
            if isinstance(reply, ClipError):
                raise reply
        return replies

    def answers(self, questions: Sequence[Question], control: str | None = None) -> Iterator[tuple[Question, Outcome]]:
        """Each question once, with the replies of its models under `control` (`types.CONTROLS`).

        Questions about the same clip stand together, in the order of the first of them; clips are decoded ahead.
        """
        check_control(control)
        self._check_options(questions)
        blocks = _blocks(_views(questions, control), self.eval_config.batch_size)
        if control == "blind":
            for block in blocks:
                yield from self._answer(block, [None] * len(block), [0.0] * len(block))
            return
        jobs = [Job(v.path, v.start, v.end, None, v.frame, v.shuffle) for block in blocks for v in block]
        ahead = 2 * self.eval_config.batch_size + self.eval_config.workers
        with Prefetcher(self.prepare, self.eval_config.workers, ahead, self.eval_config.clip_seconds) as feeder:
            fed = feeder(jobs)
            for block in blocks:
                yield from self._look_and_answer(block, [next(fed) for _ in block])

    def stream(
        self,
        question: str,
        visual: Visual,
        past: Sequence[tuple[str, str]] = (),
        generation_config: GenerationConfig = GREEDY,
    ) -> Iterator[str]:
        """The first model's reply to a question about a visual that `prepare` made, in pieces of text as they come.

        `past` holds what was asked about it and replied before; each turn draws anew from one seed. Closing the
        iterator stops the model. ClipError: the conversation is longer than what the LLM can read, or no text;
        UserError: so is the answer that is asked for.
        """
        name, (model, experiment) = self._first
        template = experiment.prompting.template
        with reading(f"the question {question!r:.60}"):
            ids = chat.encode_prompt(model.tokenizer, question, [visual.placeholders], template, past)
        read = len(ids) - visual.placeholders + num_visual_tokens(experiment, visual.placeholders)
        longest = _room(name, model, read, experiment.max_new_tokens, generation_config.max_new_tokens)
        if generation_config.seed is not None:
            generation_config = replace(generation_config, seed=(generation_config.seed + len(past)) % 2**63)
        yield from model.pieces(model.stream_ids(ids, [visual], longest, generation_config))

    def key_value_bytes(self, tokens: int) -> int | None:
        """Bytes of the first model's keys and values of so many tokens, where the sizes are known."""
        model, experiment = self._first[1]
        sizes = sizes_of(experiment)
        width = next(model.causal.parameters()).element_size()
        return sizes.llm.key_value_bytes(tokens, width) if sizes else None

    def _look_and_answer(self, views: Sequence[View], fed: Sequence[Prefetched]) -> Iterator[tuple[Question, Outcome]]:
        seen = []
        for view, (outcome, seconds) in zip(views, fed, strict=True):
            if isinstance(outcome, ClipError):
                yield from ((question, outcome) for question in view.questions)
            else:
                seen.append((view, outcome, seconds))
        if seen:
            readable, visuals, seconds = zip(*seen, strict=True)
            yield from self._answer(readable, visuals, seconds)

    def _answer(
        self, views: Sequence[View], visuals: Sequence[Visual | None], decoded: Sequence[float]
    ) -> Iterator[tuple[Question, Outcome]]:
        """Every question of the views; `decoded` is the seconds that each view took so far."""
        began = time.perf_counter()
        shown = [visual for visual in visuals if visual]
        encoded = iter(self.encode(shown))
        _wait_for_the_gpu()
        each = (time.perf_counter() - began) / len(views)
        seeing = [(next(encoded), visual.placeholders) if visual else None for visual in visuals]
        replies: dict[Question, dict[str, Reply | ClipError]] = {q: {} for view in views for q in view.questions}
        before = {
            q: (seconds + each) / len(view.questions)
            for view, seconds in zip(views, decoded, strict=True)
            for q in view.questions
        }
        for name in self.members:
            asked = [([q for q in v.questions if name in q.models], s) for v, s in zip(views, seeing, strict=True)]
            asked = [(questions, sight) for questions, sight in asked if questions]
            for question, reply in self._ask(name, asked, before):
                replies[question][name] = reply
        yield from replies.items()

    def _ask(
        self,
        name: str,
        asked: Sequence[tuple[Sequence[Question], tuple[Grids, int] | None]],
        before: Mapping[Question, float],
    ) -> Iterator[tuple[Question, Reply | ClipError]]:
        """One model's replies; `before` is what each question took until its grids were there. A question that the
        model cannot read is a ClipError, and the others are asked.
        """
        prompts = {q: self._prompt(name, q.example, sight) for questions, sight in asked for q in questions}
        refused = {q: prompt for q, prompt in prompts.items() if isinstance(prompt, ClipError)}
        yield from refused.items()
        asked = [([q for q in questions if q not in refused], sight) for questions, sight in asked]
        asked = [(questions, sight) for questions, sight in asked if questions]
        if not asked:
            return
        model, experiment = self.members[name]
        spoken = asked[0][0][0].example.spoken  # a benchmark is all alike
        began = time.perf_counter()
        generated = model.answer(
            [([prompts[q] for q in questions], [sight] if sight else []) for questions, sight in asked],
            0 if self.eval_config.scoring == "logprob" else experiment.max_new_tokens,
            self._option_tokens(name, spoken),
        )
        count = sum(len(questions) for questions, _ in asked)
        seconds = (time.perf_counter() - began) / count
        for (questions, sight), answers in zip(asked, generated, strict=True):
            tokens = num_visual_tokens(experiment, sight[1]) if sight else 0
            for question, answer in zip(questions, answers, strict=True):
                taken = before[question]
                first = taken + answer.seconds_first / count
                text, scores = self._said(name, question.example, answer)
                yield question, Reply(text, tokens, scores, taken + seconds, taken, first)

    def _said(self, name: str, example: Askable, answer: Generated) -> tuple[str, tuple[float, ...] | None]:
        """The text of an answer, which under `logprob` is the likeliest option, and log P of each option."""
        scores = None if answer.options is None else tuple(answer.options[: len(example.candidates)].tolist())
        if self.eval_config.scoring != "logprob":
            return self.members[name].model.text_of(answer.ids), scores
        best = scores.index(max(scores))
        return example.spoken[best] if example.spoken else f"({string.ascii_uppercase[best]})", scores

    def _option_tokens(self, name: str, spoken: tuple[str, ...] | None) -> list[tuple[int, ...]] | None:
        """The model's ids of what is said for each option, found once; None where no probabilities are asked for."""
        if self.eval_config.scoring == "generate":
            return None
        if (name, spoken) not in self._options:
            self._options[name, spoken] = self.members[name].model.option_tokens(spoken)
        return self._options[name, spoken]

    def _check_options(self, questions: Sequence[Question]) -> None:
        scoring = self.eval_config.scoring
        if scoring != "generate" and any(not question.example.candidates for question in questions):
            raise UserError(f"scoring by '{scoring}' compares options, and an open question has none; choose generate")

    def _prompt(self, name: str, example: Askable, sight: tuple[Grids, int] | None) -> list[int] | ClipError:
        """The ids of a question; why the model cannot read it where it is no text, or leaves no room for an answer."""
        model, experiment = self.members[name]
        counts = [sight[1]] if sight else []
        try:
            with reading(f"the question about {example.video}"):
                ids = chat.encode_prompt(model.tokenizer, example.prompt, counts, experiment.prompting.template)
        except ClipError as error:
            return error
        read = len(ids) - sum(counts) + sum(num_visual_tokens(experiment, count) for count in counts)
        if model.reads is None or read + experiment.max_new_tokens <= model.reads:
            return ids
        return ClipError(
            f"the question about {example.video} takes {read:,} tokens, visual ones included, and {experiment.name} "
            f"reads {model.reads:,}, {experiment.max_new_tokens:,} of them its answer: ask in fewer words, or take a "
            "coarser pool level"
        )


def _room(name: str, model: VisionLM, read: int, usual: int, asked: int | None) -> int:
    """Tokens that an answer may have behind `read` others: `asked`, or as many of the `usual` as there is room for."""
    most = model.reads
    if most is None:
        return asked or usual
    if read >= most:
        raise ClipError(
            f"the conversation takes {read:,} tokens, visual ones included, and {name} reads {most:,}: ask in fewer "
            "words, or take a coarser pool level"
        )
    if asked and read + asked > most:
        raise UserError(
            f"the conversation takes {read:,} of the {most:,} tokens that {name} reads, and {asked:,} more do not fit: "
            f"choose {most - read:,} at most by --max-new-tokens"
        )
    return asked or min(usual, most - read)


def seed_of(question: Askable) -> int:
    """What a control draws by, even over questions and fixed for each.

    `one_frame` repeats the frame of this number, modulo the clip's frames; `shuffled` draws its order.
    """
    return int(question.key, 16)


def _views(questions: Sequence[Question], control: str | None) -> list[View]:
    """Questions that look at the same frames stand together, in the order of the first of them."""
    if control == "blind":  # nothing to share: each goes its own way through the batches
        return [View(None, None, None, questions=[question]) for question in questions]
    views: dict[View, View] = {}
    for question in questions:
        e = question.example
        drawn = {"one_frame": "frame", "shuffled": "shuffle"}.get(control)
        view = View(e.path, e.start, e.end, **({drawn: seed_of(e)} if drawn else {}))
        views.setdefault(view, view).questions.append(question)
    return list(views.values())


def _blocks(views: Sequence[View], size: int) -> list[list[View]]:
    """Views one after the other, `size` questions a block at most unless one view has more."""
    blocks: list[list[View]] = []
    room = 0
    for view in views:
        if not blocks or room < len(view.questions):
            blocks.append([])
            room = size
        blocks[-1].append(view)
        room -= len(view.questions)
    return blocks


def _wait_for_the_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reduced_by(experiment: Experiment, model: VisionLM) -> VisionLM:
    """The same weights behind the experiment's reducer, which has learned nothing; `model` stays as it is."""
    other = copy(model)
    reducers = {name: build_reducer(experiment.reducer) for name in model.reducers}
    other._modules = {**model._modules, "reducers": nn.ModuleDict(reducers).eval()}
    return other
