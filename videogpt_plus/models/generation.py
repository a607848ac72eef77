"""Answers and option scores of a causal LLM: greedy for several clips with several questions each at once, or one
answer token by token, greedy or drawn.

Questions on one clip share the keys and values of what stands before them: the visual tokens are read once. Rows are
padded on the left, the clip's part and the question's part each on its own:

    [pad] [prefix: text and visual tokens of the clip] [pad] [question] [answer ...]

Masks and positions skip the padding, so that an answer does not depend on its neighbours, their number or order. The
LLM's head is asked for the last position only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from videogpt_plus.config.options import GREEDY, GenerationConfig
from videogpt_plus.types import UserError


class Reading(NamedTuple):
    """A clip and what is asked about it, as embeddings."""

    #: What all its questions begin with: template and visual tokens; "0 d" where nothing is shown.
    prefix: Float[Tensor, "s d"]
    #: What follows, up to where the answer begins; at least one token each.
    questions: Sequence[Float[Tensor, "l d"]]
    #: Where in the prefix the position goes on by one; None where it does at every token.
    advances: Bool[Tensor, " s"] | None = None
    #: Which tokens of the prefix an LLM with visual experts takes for visual ones; None for an LLM without.
    vision: Bool[Tensor, " s"] | None = None


class Generated(NamedTuple):
    """What one question got."""

    #: Ids of the answer with its end token if it came; empty where no text was asked for.
    ids: list[int]
    #: log P of each option's tokens, over the whole vocabulary; None unless asked for.
    options: Float[Tensor, " k"] | None
    #: Seconds from the call to the first token's logits; of the whole batch.
    seconds_first: float


@torch.inference_mode()
def generate(
    llm: PreTrainedModel,
    readings: Sequence[Reading],
    max_new_tokens: int,
    end: int | Collection[int],
    vocabulary: int,
    options: Sequence[tuple[int, ...]] | None = None,
) -> list[list[Generated]]:
    """The most likely continuation of every question, by reading; up to and with an `end`, or `max_new_tokens` ids.

    `vocabulary`: ids from there on stand for no token and are never chosen (published tables have spare rows).
    `options`: ids of continuations to be scored too. `max_new_tokens` 0 asks for the scores alone.
    """
    began = time.perf_counter()
    ends = {end} if isinstance(end, int) else set(end)
    batch = _Batch(llm, readings)
    logits = _finite(batch.logits[:, :vocabulary], llm)
    scores = batch.scores(options, vocabulary) if options else [None] * len(logits)
    chosen = logits.argmax(-1)
    answers: list[list[int]] = [[] for _ in chosen]
    seconds_first = time.perf_counter() - began
    open_rows = set(range(len(answers))) if max_new_tokens else set()
    for step in range(max_new_tokens):
        for row, token in enumerate(chosen.tolist()):
            if row in open_rows:
                answers[row].append(token)
                if token in ends:
                    open_rows.remove(row)
        if not open_rows or step == max_new_tokens - 1:
            break
        chosen = batch.read(batch.embed(chosen[:, None]))[:, :vocabulary].argmax(-1)
    rows = iter(zip(answers, scores, strict=True))
    return [[Generated(*next(rows), seconds_first) for _ in reading.questions] for reading in readings]


@torch.inference_mode()
def stream(
    llm: PreTrainedModel,
    reading: Reading,
    max_new_tokens: int,
    end: int | Collection[int],
    vocabulary: int,
    generation_config: GenerationConfig = GREEDY,
    asked: Sequence[int] = (),
) -> Iterator[int]:
    """The ids of the answer to a reading's only question, each as soon as it is chosen; see `generate`.

    `asked` holds the question's own ids, which the repetition penalty counts as said. Closing the iterator ends the
    work and frees the cache.
    """
    ends = {end} if isinstance(end, int) else set(end)
    choose = chooser(generation_config, [token for token in asked if 0 <= token < vocabulary])
    batch = _Batch(llm, [reading])
    logits = batch.logits
    for step in range(max_new_tokens):
        chosen = choose(_finite(logits[:, :vocabulary], llm)[0])
        yield chosen
        if chosen in ends or step == max_new_tokens - 1:
            return
        logits = batch.read(batch.embed(torch.tensor([[chosen]], device=llm.device)))


def chooser(generation_config: GenerationConfig, said: Sequence[int] = ()) -> Callable[[Float[Tensor, " v"]], int]:
    """Takes the next id from logits, again and again; `said` is what the repetition penalty knows from the start.

    One seed draws the same ids from the same logits, on whatever device they are.
    """
    generator = torch.Generator()
    if generation_config.seed is None:
        generator.seed()
    else:
        generator.manual_seed(generation_config.seed)
    said = list(said)

    def choose(logits: Float[Tensor, " v"]) -> int:
        scores = processed(logits.float(), said, generation_config)
        if generation_config.temperature == 0:
            chosen = int(scores.argmax())
        else:
            chosen = int(torch.multinomial(scores.softmax(-1).cpu(), 1, generator=generator))
        said.append(chosen)
        return chosen

    return choose


def processed(
    logits: Float[Tensor, " v"], said: Sequence[int], generation_config: GenerationConfig
) -> Float[Tensor, " v"]:
    """The logits to choose from: those of ids that were said lowered, then cooled, then cut to the likeliest.

    A penalty divides positive logits and multiplies negative ones, so that both fall.
    """
    steps = LogitsProcessorList()
    if generation_config.repetition_penalty != 1 and said:
        steps.append(RepetitionPenaltyLogitsProcessor(float(generation_config.repetition_penalty)))
    if generation_config.temperature > 0:
        steps.append(TemperatureLogitsWarper(float(generation_config.temperature)))
        if generation_config.top_p < 1:
            steps.append(TopPLogitsWarper(float(generation_config.top_p)))
    return steps(torch.tensor([said], dtype=torch.long, device=logits.device), logits[None])[0]


def _finite(logits: Float[Tensor, "q v"], llm: PreTrainedModel) -> Float[Tensor, "q v"]:
    if not logits.isfinite().all():
        raise UserError(
            f"the LLM's logits are not finite in {llm.dtype}: it was not made for that range; compute in bfloat16"
        )
    return logits


class _Batch:
    """Keys and values of all rows, a row a question."""

    def __init__(self, llm: PreTrainedModel, readings: Sequence[Reading]):
        self.llm = llm
        self.embed: Callable[[Int[Tensor, "q l"]], Float[Tensor, "q l d"]] = llm.get_input_embeddings()
        self.cache = DynamicCache(config=llm.config)
        prefixes, self.mask = _padded([reading.prefix for reading in readings])
        #: Where positions go on: at every real token but those that share the place of the one before.
        self.steps = _marks([r.advances for r in readings], self.mask)
        if prefixes.shape[1]:
            vision = [reading.vision for reading in readings]
            self._forward(prefixes, None if all(v is None for v in vision) else _marks(vision, self.mask))
        # From a row a clip to a row a question; on the CPU, for layers of the cache may lie on several cards.
        clip = torch.tensor([i for i, reading in enumerate(readings) for _ in reading.questions])
        if len(clip) != len(readings):
            self.cache.batch_select_indices(clip)
        self.mask, self.steps = self.mask[clip], self.steps[clip]
        questions, mask = _padded([question for reading in readings for question in reading.questions])
        #: Float "q v": of the token that follows each question.
        self.logits = self.read(questions, mask)

    def read(self, embeds: Float[Tensor, "q l d"], mask: Bool[Tensor, "q l"] | None = None) -> Float[Tensor, "q v"]:
        """Appends tokens to every row; the logits behind the last."""
        own = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask
        self.mask, self.steps = torch.cat([self.mask, own], dim=1), torch.cat([self.steps, own], dim=1)
        return self._forward(embeds)

    def _forward(
        self, embeds: Float[Tensor, "q l d"], vision: Bool[Tensor, "q l"] | None = None
    ) -> Float[Tensor, "q v"]:
        positions = (self.steps.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        out = self.llm(
            inputs_embeds=embeds,
            # Without padding there is nothing to mask but the future, and the fast attention kernels do that alone.
            attention_mask=None if self.mask.all() else self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **({} if vision is None else {"vision": vision}),
        )
        return out.logits[:, -1].float()

    def scores(self, options: Sequence[tuple[int, ...]], vocabulary: int) -> Float[Tensor, "q k"]:
        """log P of each option behind every row; leaves the rows as they were. What options share is read once."""
        logprobs = {
            begun: self._after(begun)[:, :vocabulary].log_softmax(-1)
            for begun in {option[:i] for option in options for i in range(len(option))}
        }
        return torch.stack([sum(logprobs[o[:i]][:, o[i]] for i in range(len(o))) for o in options], dim=1)

    def _after(self, begun: tuple[int, ...]) -> Float[Tensor, "q v"]:
        """The logits behind the first tokens of an option."""
        if not begun:
            return self.logits
        logits = self.read(self.embed(torch.tensor(begun, device=self.llm.device).expand(len(self.logits), -1)))
        self.cache.crop(-len(begun))
        self.mask, self.steps = self.mask[:, : -len(begun)], self.steps[:, : -len(begun)]
        return logits


def _padded(rows: Sequence[Float[Tensor, "l d"]]) -> tuple[Float[Tensor, "q l d"], Bool[Tensor, "q l"]]:
    """The rows one below the other, zeros before the shorter ones; and where they are."""
    masks = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    stack = {"batch_first": True, "padding_side": "left"}
    return pad_sequence(list(rows), **stack), pad_sequence(masks, **stack)


def _marks(rows: Sequence[Bool[Tensor, " s"] | None], mask: Bool[Tensor, "q s"]) -> Bool[Tensor, "q s"]:
    """Marks of padded rows; a row without any has those of `mask`."""
    marks = mask.clone()
    for own, row in zip(rows, marks, strict=True):
        if own is not None:
            row[len(row) - len(own) :] = own
    return marks
