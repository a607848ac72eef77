"""A video LLM as an Answerer: clips are decoded ahead in threads, the model answers one question after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from eval.task import Example, Reply, frame_for
from videogpt_plus import chat, encoders, video
from videogpt_plus.adapters import num_visual_tokens
from videogpt_plus.configs import Experiment
from videogpt_plus.models.dual_encoder import DualEncoderVLM
from videogpt_plus.types import Clip, ClipError, Visual

#: Clips that may wait decoded: bounded, for sixteen full-HD frames take 100 MB.
AHEAD = 8


class VideoLLM:
    """Answers with a loaded model as its experiment says: frames, template and length of an answer."""

    def __init__(self, model: DualEncoderVLM, experiment: Experiment, workers: int = 2):
        self.model, self.experiment, self.workers = model, experiment, workers
        self._prepare = {name: encoders.preprocessor(stream) for name, stream in experiment.streams}

    def answers(self, examples: Sequence[Example], control: str | None) -> Iterator[Reply | ClipError]:
        """See `eval.task.Answerer`."""
        if control == "blind":
            yield from (self.ask(example.prompt, None) for example in examples)
            return
        waiting: deque[tuple[Example, Future[Visual]]] = deque()
        left = iter(examples)
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for _ in range(len(examples)):
                    while len(waiting) < AHEAD and (following := next(left, None)):
                        waiting.append((following, pool.submit(self.look, following, control)))
                    example, visual = waiting.popleft()
                    yield self._reply(example, visual)
            finally:
                for _, future in waiting:
                    future.cancel()

    def _reply(self, example: Example, visual: Future[Visual]) -> Reply | ClipError:
        try:
            return self.ask(example.prompt, visual.result())
        except ClipError as error:
            return error

    def look(self, example: Example, control: str | None) -> Visual:
        """The example's clip as the model sees it under `control`. Raises ClipError."""
        clip = video.read_clip(example.path, self.experiment.num_frames, example.start, example.end)
        if control == "one_frame":
            chosen = frame_for(example, len(clip.frames))
            clip = replace(clip, frames=clip.frames[chosen : chosen + 1].expand(len(clip.frames), -1, -1, -1))
        return self.visual(clip)

    def visual(self, clip: Clip) -> Visual:
        """Pixels of every stream."""
        return Visual({name: prepare(clip) for name, prepare in self._prepare.items()}, len(clip.frames))

    def ask(self, question: str, visual: Visual | None) -> Reply:
        """The model's greedy reply to a question, about a visual or about nothing."""
        counts = [visual.placeholders] if visual else []
        ids = chat.encode_prompt(self.model.tokenizer, question, counts, self.experiment.finetune.template)
        reply = self.model.generate([ids], [[visual] if visual else []], self.experiment.max_new_tokens)[0]
        return Reply(reply, num_visual_tokens(self.experiment, counts[0]) if counts else 0)
