"""The page on a port: Gradio's settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videogpt_plus.app.web.apart import Readers
from videogpt_plus.app.web.clips import Source, modules_to_look
from videogpt_plus.app.web.guard import LOOPBACK, Guard, names_of
from videogpt_plus.app.web.settings import DEFAULT_LIMITS, Limits
from videogpt_plus.app.web.uploads import EVERY, INCOMING, Uploads
from videogpt_plus.io.errors import translated
from videogpt_plus.types import UserError

if TYPE_CHECKING:
    from videogpt_plus.app.web.models import Models

STYLE = Path(__file__).with_name("page.css")


@contextmanager
def _private(folder: Path) -> Iterator[None]:
    """A context whose environment has Gradio write below `folder` and send nothing anywhere."""
    told = {
        "GRADIO_TEMP_DIR": str(folder / INCOMING),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    with ExitStack() as at_the_end:
        for name in told:
            before = os.environ.get(name)
            at_the_end.callback(os.environ.pop if before is None else os.environ.__setitem__, name, before)
        os.environ.update(told)
        yield


def check_address(host: str, port: int | None) -> None:
    """UserError: nothing can listen there. Gradio would try a hundred ports of an address that is not ours."""
    place = host if port is None else f"{host}:{port}"
    what = f"cannot listen at {place}: it is taken, or no address of this machine; name another --port or --host"
    kinds = (OSError, UnicodeError, TypeError)  # TypeError: a name that is not UTF-8
    with translated(*kinds, to=lambda _: UserError(what)):
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()


@contextmanager
def served(
    models: Models,
    sources: Sequence[Source],
    folder: Path,
    limits: Limits = DEFAULT_LIMITS,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Sequence[str] = (),
    sweep_every: float = EVERY,
) -> Iterator[str]:
    """The page at an address, which is what comes back, until the context ends. Files are kept below `folder`.

    `port` None takes the first free one from 7860 on. `names` are those of proxies before it; uploads are swept every
    `sweep_every` seconds. UserError: Gradio is not installed, or the port is taken.
    """
    check_address(host, port)
    with _private(folder):
        with translated(ImportError, to=lambda _: UserError("the page needs Gradio: pip install 'videogpt_plus[web]'")):
            import gradio as gr
            from starlette.middleware import Middleware

            from videogpt_plus.app.web.page import Page
        uploads = Uploads(folder, limits.total_megabytes * 1e6)
        read = Readers(modules=modules_to_look(offer.experiment for offer in models.offers.values()))
        read.warm()  # while the page is built
        blocks = Page(models, sources, uploads, limits, read).build()
        blocks.queue(default_concurrency_limit=8, max_size=4 * limits.waiting, api_open=False)
        largest = int(limits.megabytes * 1e6)
        guard = Middleware(
            Guard,
            names=names_of(host, names),
            addresses=host not in LOOPBACK,
            uploads=uploads,
            largest=largest,
            more={name.lower() for name in names},
        )
        plain = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
        then = "name another --port or --host"
        with translated(OSError, to=lambda error: UserError(f"cannot listen at {host}: {error}; {then}")):
            _, url, _ = blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                max_file_size=largest,
                max_threads=40 + limits.waiting,  # who waits holds one
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                theme=gr.themes.Base(
                    primary_hue="teal", neutral_hue="slate", font=plain, font_mono=("ui-monospace", "monospace")
                ),
                css=STYLE.read_text(),
                app_kwargs={"middleware": [guard]},
            )
        with ExitStack() as at_the_end:
            at_the_end.callback(blocks.close, verbose=False)
            at_the_end.enter_context(uploads.swept(sweep_every))
            yield url
