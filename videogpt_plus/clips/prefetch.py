"""Clips on their way to the model: read or found in the feature cache, and preprocessed ahead of their use.

`Preparation` is what happens to one clip, for training and answering alike. `Prefetcher` does it ahead of time, in
processes that can be killed: a clip that hangs or brings its decoder down costs its limit and is a ClipError.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

from videogpt_plus.clips import video
from videogpt_plus.clips.cache import GridCache
from videogpt_plus.clips.decoders import check_decoder
from videogpt_plus.clips.picture_files import form_of
from videogpt_plus.config.experiment import Branch, Sampling
from videogpt_plus.encoders import encoder_of
from videogpt_plus.io import time_limit
from videogpt_plus.io.entries import reading
from videogpt_plus.io.errors import attempted, translated
from videogpt_plus.io.processes import end_with_parent
from videogpt_plus.io.scaling import is_huge, small_square
from videogpt_plus.types import Clip, ClipError, UserError, Visual, unreadable

#: What a command put its sys.path in order by; a process that it starts does the same.
PATHS = "videogpt_plus.io.own_eval"
#: A module that the server of reading processes imports first.
READER_START = "videogpt_plus.clips.reader_start"
#: How a still image becomes square: padded where the encoder was trained on padded ones, or cropped like a video.
SQUARES = ("pad", "crop")


class Job(NamedTuple):
    """One clip to make ready: the arguments of a `Preparation`."""

    path: str | Path
    #: Bounds in seconds; None where the whole clip is meant.
    start: float | None = None
    end: float | None = None
    #: One of SQUARES for a still image, which is one frame; None for a video.
    still: str | None = None
    #: This frame alone, modulo their number, is repeated to the full number; None for all of them.
    frame: int | None = None
    #: The frames come in the order that this number draws (`shuffled`); None for the clip's own.
    shuffle: int | None = None


class Preparation:
    """A clip's path and bounds to what the model takes: its grids where the store has them, else its pixels."""

    def __init__(
        self,
        branches: Sequence[tuple[str, Branch]],
        sampling: Sampling,
        decoder: str = "pyav",
        store: GridCache | None = None,
        arithmetic: str = "float32",
        seconds: float | None = time_limit.SECONDS,
    ):
        """`arithmetic` is the dtype that the encoders compute in: grids of another one are not taken.

        `seconds` is how long a clip may take, where no process that can be ended reads it.
        """
        check_decoder(decoder)
        self.seconds = seconds
        if sampling.rule not in video.SAMPLINGS:
            raise UserError(f"unknown sampling.rule '{sampling.rule}'; choose from: {', '.join(video.SAMPLINGS)}")
        self.sampling, self.decoder, self.store = sampling, decoder, store
        known = {name: (branch, encoder_of(branch.encoder)) for name, branch in branches}
        self.preprocessors = {name: encoder.file.preprocessor(branch) for name, (branch, encoder) in known.items()}
        self.scales = {name: branch.pixels for name, (branch, encoder) in known.items() if encoder.scales_by_pillow}
        self.colours = {name: encoder.padding for name, (_, encoder) in known.items() if encoder.padding}
        self.settings = store.settings(branches, sampling, arithmetic) if store else None

    def __call__(
        self,
        path: str | Path,
        start: float | None = None,
        end: float | None = None,
        still: str | None = None,
        frame: int | None = None,
        shuffle: int | None = None,
    ) -> Visual:
        """See `Job`. Where the store has the clip nothing is decoded. Raises ClipError, UserError."""
        whole = frame is None and shuffle is None
        key = (
            time_limit.within(self.seconds, path, self._key, path, start, end, still) if whole and self.store else None
        )
        if key and (grids := self.store.read(key)):
            return Visual({}, len(next(iter(grids.values()))), grids, key)
        clip = time_limit.within(self.seconds, path, self.read, path, start, end, still)
        if frame is not None:
            chosen = clip.frames[frame % len(clip.frames)]
            clip = replace(clip, frames=chosen.expand(len(clip.frames), -1, -1, -1))
        if shuffle is not None:
            clip = clip.taken(shuffled(len(clip.frames), shuffle))
        with reading(path):
            return self.visual(clip, still)._replace(key=key)

    def read(
        self, path: str | Path, start: float | None = None, end: float | None = None, still: str | None = None
    ) -> Clip:
        """The frames that the model gets, as they are in the file; of a still image one. Raises ClipError."""
        count = 1 if still else self.sampling.num_frames
        with reading(path):
            if still and form_of(Path(path)):
                return video.read_still(path)
            return video.read_clip(path, count, start, end, decoder=self.decoder, sampling=self.sampling.rule)

    def visual(self, clip: Clip, still: str | None = None) -> Visual:
        """A clip that was read, made ready for every branch."""

        def ready(name: str, part: Clip) -> torch.Tensor:
            square = still == "pad" and name in self.colours
            return self.preprocessors[name](self._square(part, name) if square else part)

        parts = clip.of_one_size()  # no preprocessor looks at two frames together
        return Visual({s: _joined([ready(s, part) for part in parts]) for s in self.preprocessors}, len(clip.frames))

    def _square(self, clip: Clip, name: str) -> Clip:
        """The clip padded to a square; a huge one is made only as large as the encoder will scale it."""
        colour = self.colours[name]
        if name in self.scales and is_huge(clip):
            squares = [small_square(frame, colour, self.scales[name]) for frame in clip.frames]
            return replace(clip, frames=torch.stack(squares))
        return pad_to_square(clip, colour)

    def _key(self, path: str | Path, start: float | None, end: float | None, still: str | None) -> str | None:
        if not (Path(path).is_file() or Path(path).is_dir()):  # of a pipe the bytes would be waited for
            return None
        with suppress(ClipError), reading(path):  # reading it will say what is wrong
            return self.store.key(path, start, end, still, self.settings)
        return None


def _joined(pixels: list[torch.Tensor]) -> torch.Tensor:
    return pixels[0] if len(pixels) == 1 else torch.cat(pixels)


def shuffled(count: int, seed: int) -> list[int]:
    """0 to count - 1 in a random order: the same for a seed on any machine and with any library's version."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())


def pad_to_square(clip: Clip, colour: tuple[int, int, int]) -> Clip:
    """The clip in the middle of a square of one colour in 0..255, as LLaVA's `expand2square` puts it."""
    count, _, height, width = clip.frames.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).repeat(count, 1, side, side)
    square[:, :, top : top + height, left : left + width] = clip.frames
    return Clip(square, clip.seconds, clip.source)


class Prefetched(NamedTuple):
    """The result of a job."""

    outcome: Visual | ClipError
    #: Spent on reading and preprocessing, where it was done.
    seconds: float


class Prefetcher:
    """A context in which jobs are made ready ahead of their use.

    `prepare` is picklable and called with the fields of a Job. `workers` processes do it, each clip within
    `seconds` or without limit; with 0 of them the calling process does it when it is asked, and what takes longer goes
    on in a thread that nobody waits for. Not more than `ahead` clips are ready or in the making at any time.
    """

    def __init__(self, prepare: Callable[..., Visual], workers: int = 2, ahead: int = 8, seconds: float | None = 60):
        for name, value, least in (("workers", workers, 0), ("ahead", ahead, 1)):
            if value < least:
                raise UserError(f"{name} {value} is not possible: give at least {least}")
        if seconds is not None and not seconds > 0:
            raise UserError(f"{seconds:g} seconds a clip are not possible: give more than 0, or no limit")
        self.prepare, self.ahead, self.seconds = prepare, ahead, seconds
        self._workers = _workers(prepare, workers) if workers else []

    def __enter__(self) -> Prefetcher:
        # One thread for each process: it waits for it, ends it in time, and has another one started.
        self._threads = ThreadPoolExecutor(max(1, len(self._workers)))
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
            self._threads.submit(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()
        for worker in self._workers:
            worker.end()

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Prefetched]:
        """The result of each job, in order. A UserError that is no ClipError is raised."""
        if not self._workers:
            yield from (_done(partial(time_limit.within, self.seconds, job.path, self.prepare), job) for job in jobs)
            return
        left, waiting = iter(jobs), deque[Future[Prefetched]]()
        with ExitStack() as at_the_end:
            at_the_end.callback(lambda: [future.cancel() for future in waiting])
            while True:
                waiting.extend(self._threads.submit(self._ask, job) for job in islice(left, self.ahead - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()

    def _begin(self) -> None:
        """Starts a process before there is something to do for it: the first one takes seconds."""
        worker = self._idle.get()
        with suppress(UserError):  # raised again when there is something to do
            worker.start()
        self._idle.put(worker)

    def _ask(self, job: Job) -> Prefetched:
        with ExitStack() as at_the_end:
            worker = self._idle.get()
            at_the_end.callback(self._idle.put, worker)
            return worker.ask(job, self.seconds)


def _done(prepare: Callable[..., Visual], job: Job) -> Prefetched:
    def prepared() -> Visual:
        with reading(job.path):
            return prepare(*job)

    began = time.perf_counter()
    return Prefetched(attempted(prepared, ClipError), time.perf_counter() - began)


def _workers(prepare: Callable[..., Visual], count: int) -> list[_Worker]:
    # Forked from a process that has imported everything and has no threads: to replace a worker costs little.
    context = get_context("forkserver")
    pickled = pickle.dumps(prepare)
    # The server starts with the working folder first in sys.path, which may hold another `eval`: see io/own_eval.py.
    order = [name for name in (PATHS,) if name in sys.modules]
    context.set_forkserver_preload([*order, READER_START, __name__, *sorted(modules_of(pickled))])
    return [_Worker(context, pickled) for _ in range(count)]


def modules_of(pickled: bytes) -> set[str]:
    """The modules that unpickling imports."""
    found = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add(module)
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickled)).load()
    return found


class _Worker:
    """One process that prepares clips, and its successors. Used by one thread at a time; `close` by any."""

    def __init__(self, context: ForkServerContext, pickled: bytes):
        self.context, self.pickled = context, pickled
        self.process: BaseProcess | None = None
        self.closed, self.lock = False, threading.Lock()

    def start(self) -> None:
        """Has a process that is ready. UserError: it ended before."""
        if self.process is not None:
            return

        def told(error: Exception) -> UserError:
            return UserError(
                f"a process that reads clips ended when it began ({self.end() or error}): see above, "
                "or read clips in this process with 0 workers"
            )

        with translated(EOFError, OSError, to=told):
            self._start()
            self.connection.recv_bytes()

    def _start(self) -> None:
        with self.lock:
            if self.closed:
                raise UserError("the feeder is closed")
            self.connection, theirs = self.context.Pipe()
            process = self.context.Process(target=_serve, args=(theirs, self.pickled), daemon=True)
            # The fork server inherits what is blocked here: Ctrl-C is for the parent, which ends the others. The
            # resource tracker has to run before, for to start it unblocks again.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            with theirs:  # closed here: when the process ends, so does the connection
                process.start()
            self.process = process

    def ask(self, job: Job, seconds: float | None) -> Prefetched:
        """The result of the job: a ClipError if the process took too long, or died twice."""
        for _ in range(2):  # memory may have run out for another's sake: a healthy clip is read the next time
            self.start()
            done = attempted(partial(self._sent, job, seconds), EOFError, OSError)
            if not isinstance(done, Exception):
                return done
            ended = self.end()
        what = f"its decoder brought the process down twice ({ended})"
        return Prefetched(unreadable(job.path, what, "encode it again"), 0.0)

    def _sent(self, job: Job, seconds: float | None) -> Prefetched:
        """The result of the job: a ClipError if it took too long. EOFError, OSError: the process died."""
        self.connection.send_bytes(pickle.dumps(job))
        if self.connection.poll(seconds):
            return _received(self.connection)
        self.process.kill()
        self.end()
        return Prefetched(time_limit.too_long(job.path, seconds), seconds)

    def close(self) -> None:
        """Ends the process, whatever it is doing, and has no other one started."""
        with self.lock:
            self.closed = True
            if (process := self.process) is not None:
                process.kill()

    def end(self) -> str:
        """Waits for the process to end and says how it did; nothing if there is none."""
        process, self.process = self.process, None
        if process is None:
            return ""
        # Not for ever: what waits for a lost file server cannot be killed, and nobody needs to wait for it.
        process.join(5)
        if process.exitcode is None:
            process.kill()
        self.connection.close()
        code = process.exitcode
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def _serve(connection: Connection, pickled: bytes) -> None:
    """The life of a worker: jobs in, what became of them out, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    end_with_parent()  # it is started by a fork server, and is no child of the one that uses it
    time_limit.end_from_outside()
    os.environ["OMP_NUM_THREADS"] = "1"  # there are as many processes as cores
    torch.set_num_threads(1)
    prepare = pickle.loads(pickled)
    with suppress(EOFError, OSError):  # of the connection: the parent is gone
        connection.send_bytes(b"ready")
        while True:
            job = pickle.loads(connection.recv_bytes())
            done = attempted(partial(_done, prepare, job), Exception)
            if isinstance(done, UserError):
                done = Prefetched(done, 0.0)
            elif isinstance(done, Exception):
                trace = "".join(traceback.format_exception(done))
                done = Prefetched(RuntimeError(f"{job.path} could not be prepared:\n{trace}"), 0.0)
            _send(connection, done)


def _send(connection: Connection, done: Prefetched) -> None:
    """Tensors as bytes: in shared memory, as torch sends them, a killed process would leave them behind."""
    visual, tensors = done.outcome, []
    if isinstance(visual, Visual):
        tensors = [t.contiguous() for part in (visual.pixels, visual.grids) for t in part.values()]
        shapes = [{n: (t.dtype, t.shape) for n, t in part.items()} for part in (visual.pixels, visual.grids)]
        done = done._replace(outcome=visual._replace(pixels=shapes[0], grids=shapes[1]))
    connection.send_bytes(pickle.dumps(done))
    for tensor in tensors:
        connection.send_bytes(_bytes_of(tensor))


def _received(connection: Connection) -> Prefetched:
    """What `_send` sent. Raises EOFError, and what the job raised."""
    done = pickle.loads(connection.recv_bytes())
    if isinstance(done.outcome, ClipError):
        return done
    if isinstance(done.outcome, Exception):
        raise done.outcome
    pixels, grids = ({n: torch.empty(shape, dtype=dtype) for n, (dtype, shape) in p.items()} for p in done.outcome[::2])
    for tensor in (*pixels.values(), *grids.values()):
        connection.recv_bytes_into(_bytes_of(tensor))
    return done._replace(outcome=done.outcome._replace(pixels=pixels, grids=grids))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.flatten().view(torch.uint8).numpy())
