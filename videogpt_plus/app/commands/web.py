"""`web`: the page to talk to models."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tyro.conf import OmitArgPrefixes, Positional

from videogpt_plus.app.runs import all_runs, named_runs
from videogpt_plus.app.web.settings import DEFAULT_LIMITS, Limits
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.types import UserError


def web(
    runs: Positional[tuple[str, ...]] = (),
    clips: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    toy: bool = True,
    loaded: int = 2,
    names: tuple[str, ...] = (),
    limits: OmitArgPrefixes[Limits] = DEFAULT_LIMITS,
) -> None:
    """Talk to models on a page in the browser: clips, levels and answers side by side.

    Args:
        runs: Run folders, or names of experiments; whatever is trained or downloaded when none is named.
        clips: A folder of videos and pictures to choose from.
        host: The address to listen at; any other than the loopback's is open to whoever can reach this machine.
        port: The port; the first free one from 7860 on when not given.
        toy: Offer a clip of each toy task, with its question.
        loaded: Models that are in memory at the same time.
        names: Names by which a proxy is asked for the page; it answers to no other than this machine's own.
    """
    from videogpt_plus.app.web.clips import folder_clips, toy_clips
    from videogpt_plus.app.web.guard import LOOPBACK, names_of
    from videogpt_plus.app.web.server import check_address, served
    from videogpt_plus.app.web.settings import offers_of

    if loaded < 1:
        raise UserError(f"--loaded {loaded} is not possible: at least 1 model has to be in memory to answer")
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port {port} is not possible: choose one from 1 to 65535, or leave it out for a free one")
    names_of(host, names)
    check_address(host, port)  # before seconds of imports
    sources = folder_clips(clips) if clips else []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the files of visitors go with the page
    with TemporaryDirectory(prefix="videogpt-plus-web-") as scratch:
        folder = Path(scratch)
        sources += toy_clips(folder / "toy") if toy else []
        named = ((load_experiment(run), run) for run in named_runs(runs)) if runs else all_runs(folder / "runs")
        offers = offers_of(named)
        from videogpt_plus.app.web.models import Models

        with served(Models(offers, most=loaded), sources, folder, limits, host, port, names) as url:
            if host not in LOOPBACK:
                print(
                    f"{host} is no loopback address: whoever can reach this machine can use the page", file=sys.stderr
                )
            print(f"the page is at {url} with {', '.join(offers)}; Ctrl+C ends it", flush=True)
            while True:
                time.sleep(3600)
