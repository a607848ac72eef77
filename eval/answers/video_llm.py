"""Video LLMs as an Answerer: a clip is decoded and encoded once, and every model that shares the encoders answers it.

Pool levels differ only behind the encoders. So what models that are asked together share is the unpooled grid;
projectors, adapter and LoRA are each model's own. Batches hold the same questions whether one model is asked or
several, so that answers do not depend on the company.
"""

from __future__ import annotations

import string
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from eval.tasks.task import Example, Outcome, Question, Reply, seed_of
from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.prefetch import Job, Prefetched, Prefetcher, Preparation
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.options import DEFAULT_EVAL, GREEDY, EvalConfig, GenerationConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.entries import reading
from videogpt_plus.models.dual_encoder import DualEncoderVLM, Grids
from videogpt_plus.text import chat
from videogpt_plus.types import ClipError, UserError, Visual


class Member(NamedTuple):
    """One of the models that are asked together."""

    model: DualEncoderVLM
    experiment: Experiment


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


class VideoLLM:
    """Answers with loaded models as their experiments say: frames, template and length of an answer.

    The models see clips in the same way (`models.load_models` checks it); the first one encodes for all.
    """

    def __init__(
        self, members: Mapping[str, Member], eval_config: EvalConfig = DEFAULT_EVAL, store: GridCache | None = None
    ):
        self.members, self.eval_config = members, eval_config
        model, experiment = next(iter(members.values()))
        arithmetic = str(next(model.encoders.parameters()).dtype).removeprefix("torch.")
        self.prepare = Preparation(
            experiment.branches, experiment.sampling, eval_config.decoder, store, arithmetic, eval_config.clip_seconds
        )
        self.encode, model.store = model.encode, store
        self._options: dict[tuple[str, tuple[str, ...] | None], list[tuple[int, ...]]] = {}

    def answers(self, questions: Sequence[Question], control: str | None) -> Iterator[tuple[Question, Outcome]]:
        """See `eval.tasks.task.Answerer`."""
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
        name, (model, experiment) = next(iter(self.members.items()))
        template = experiment.prompting.template
        with reading(f"the question {question!r:.60}"):
            ids = chat.encode_prompt(model.tokenizer, question, [visual.placeholders], template, past)
        read = len(ids) - visual.placeholders + num_visual_tokens(experiment, visual.placeholders)
        longest = _room(name, model, read, experiment.max_new_tokens, generation_config.max_new_tokens)
        if generation_config.seed is not None:
            generation_config = replace(generation_config, seed=(generation_config.seed + len(past)) % 2**63)
        yield from model.pieces(model.stream_ids(ids, [visual], longest, generation_config))

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
        spoken = (
            asked[0][0][0].example.spoken if self.eval_config.scoring != "generate" else None
        )  # a benchmark is all alike
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
                scores = None
                if answer.options is not None:
                    scores = tuple(answer.options[: len(question.example.candidates)].tolist())
                best = scores.index(max(scores)) if scores else 0
                likeliest = spoken[best] if spoken else f"({string.ascii_uppercase[best]})"
                text = likeliest if self.eval_config.scoring == "logprob" else model.text_of(answer.ids)
                taken = before[question]
                first = taken + answer.seconds_first / count
                yield question, Reply(text, tokens, scores, taken + seconds, taken, first)

    def _option_tokens(self, name: str, spoken: tuple[str, ...] | None) -> list[tuple[int, ...]] | None:
        """The model's ids of what is said for each option, found once; None where no probabilities are asked for."""
        if self.eval_config.scoring == "generate":
            return None
        if (name, spoken) not in self._options:
            self._options[name, spoken] = self.members[name].model.option_tokens(spoken)
        return self._options[name, spoken]

    def _prompt(self, name: str, example: Example, sight: tuple[Grids, int] | None) -> list[int] | ClipError:
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


def _room(name: str, model: DualEncoderVLM, read: int, usual: int, asked: int | None) -> int:
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
