"""The page as a Gradio app: its parts, and what becomes of each click."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.app.web import clips, drawing
from videogpt_plus.app.web.apart import Readers
from videogpt_plus.app.web.clips import Look, Source, check_file
from videogpt_plus.app.web.faults import said, told
from videogpt_plus.app.web.parts import EMPTY, levels, panel
from videogpt_plus.app.web.room import Room
from videogpt_plus.app.web.settings import DEFAULT_LIMITS, Limits, Setting, contrast, level_of
from videogpt_plus.app.web.talk import Progress, Session
from videogpt_plus.app.web.uploads import Uploads
from videogpt_plus.clips.names import VIDEOS
from videogpt_plus.clips.picture_files import STILLS, UNREAD
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import level_text
from videogpt_plus.config.options import GREEDY, GenerationConfig
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.io.errors import attempted
from videogpt_plus.types import UserError, unreadable

if TYPE_CHECKING:
    import gradio as gr

    from videogpt_plus.app.web.models import Models

SIDES = ("A", "B")


class Page:
    """The page of `models` with `sources` to pick from; `uploads` are kept as long as they are shown, `read` reads."""

    def __init__(
        self,
        models: Models,
        sources: Sequence[Source],
        uploads: Uploads,
        limits: Limits = DEFAULT_LIMITS,
        read: Readers | None = None,
    ):
        self.models, self.uploads, self.limits = models, uploads, limits
        self.read = read or Readers()
        #: Questions that are answered one after the other: one, and those that wait.
        self.line = Room(
            limits.waiting + 1, lambda used: f"{used - 1:.0f} questions wait for their turn: ask again in a minute"
        )
        self.sources = {source.name: source for source in sources}
        first, *rest = models.offers.values()
        begin = first.default()
        self.begin = {"A": begin, "B": contrast(first) or (rest[0].default() if rest else begin)}

    def build(self) -> gr.Blocks:
        """The app. Nothing of a visitor is kept outside of its own `gr.State`."""
        import gradio as gr

        with gr.Blocks(title="videogpt_plus", analytics_enabled=False, fill_width=True) as blocks:
            session = gr.State(
                Session(self.uploads.visitors, self.begin, self._look),
                time_to_live=24 * 3600,
                delete_callback=lambda own: own.close(),
            )
            gr.HTML(
                "<h1>videogpt_plus</h1><p>Ask a video LLM about a clip, and see what a pool level keeps of it.</p>",
                elem_id="head",
            )
            message = gr.HTML("", elem_id="message")
            with gr.Row(elem_id="clip"):
                upload = gr.File(
                    label=f"Your clip or picture, up to {self.limits.megabytes} MB",
                    file_types=sorted(VIDEOS | STILLS | UNREAD.keys()),  # of those that are not read a line says so
                    height=132,
                    elem_id="upload",
                )
                with gr.Column(elem_id="choose"):
                    pick = gr.Dropdown(
                        list(self.sources), value=None, label="or one of these", elem_id="pick", interactive=True
                    )
                    compare = gr.Checkbox(False, label="Compare two settings side by side", elem_id="compare")
            with gr.Row(elem_id="panels"):
                panels = {n: panel(n, self.begin[n], self.models.offers, visible=n == SIDES[0]) for n in SIDES}
            with gr.Column(elem_id="ask"):
                with gr.Row(elem_id="line"):
                    question = gr.Textbox(
                        placeholder="Ask about the clip (Shift+Enter: new line)",
                        show_label=False,
                        container=False,
                        lines=1,
                        max_lines=8,
                        max_length=4000,
                        scale=1,
                        elem_id="question",
                    )
                    send = gr.Button("Ask", variant="primary", elem_id="send", min_width=88, scale=0)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=88, scale=0)
                    clear = gr.Button("Start over", elem_id="clear", min_width=120, scale=0)
                with gr.Accordion("Sampling", open=False, elem_id="choosing"), gr.Row():
                    temperature = gr.Slider(
                        0, 2, 0, step=0.05, label="Temperature: 0 takes the likeliest word", elem_id="temperature"
                    )
                    longest = gr.Slider(
                        0, 1024, 0, step=1, label="Longest answer in tokens: 0 is the model's own", elem_id="longest"
                    )
            everything = [part for panel in panels.values() for part in panel.shown]
            everywhere = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

            blocks.load(lambda own: own, session, session, **everywhere)  # from here on it can expire
            upload.upload(
                self.take_upload, [session, upload], [message, upload, pick, question, *everything], **everywhere
            )
            picked = [message, question, *everything]
            pick.input(told(self.take_pick, len(picked)), [session, pick], picked, **everywhere)
            compare.change(lambda both: gr.update(visible=both), compare, panels["B"].column, **everywhere)
            for name, side in panels.items():
                outputs = [message, *side.dials, *side.shown]
                turn = told(partial(self.take_model, name=name), len(outputs))
                side.model.input(turn, [session, side.model], outputs, **everywhere)
                turn = told(partial(self.take_dials, name=name), len(outputs))
                for dial in (side.adapter.input, side.level.input, side.frames.change):
                    dial(turn, [session, *side.dials], outputs, **everywhere)
                drawn = [message, side.strip, side.grid]
                side.strip.click(told(self._frame_click(name), len(drawn)), session, drawn, **everywhere)
            asked = [session, question, compare, temperature, longest]
            answered = [message, question, *(part for p in panels.values() for part in (p.figures, p.chat))]

            def answering(*given):  # while it lasts there is nothing to send
                for parts in self.ask(*given):
                    yield [*parts, gr.update(interactive=False)]

            answer = gr.on(
                [send.click, question.submit],
                answering,
                asked,
                [*answered, send],
                show_progress="hidden",
                api_visibility="private",
                concurrency_limit=None,  # `line` says how many may wait
                trigger_mode="once",
            )
            answer.then(lambda: gr.update(interactive=True), None, send, **everywhere)
            stop.click(self.stop, session, None, **everywhere)
            cleared = [message, *everything]
            clear.click(told(self.clear, len(cleared)), session, cleared, **everywhere)
        return blocks

    def take_upload(self, session: Session, path: str | None) -> list[Any]:
        """Moves an uploaded file to the visitor's own folder, if it is fit, and shows it."""
        import gradio as gr

        if path is None:
            return [gr.skip()] * (4 + _SHOWN * len(SIDES))
        uploaded = Path(path)
        # Whatever a file does concerns one visitor.
        shown = attempted(partial(self._show_upload, session, uploaded), Exception)
        if isinstance(shown, Exception):
            return [_wrong(shown), None, gr.skip(), gr.skip(), *self._still_drawn(session)]
        return [drawing.message(f"{uploaded.name} is shown below."), None, None, gr.skip(), *shown]

    def _show_upload(self, session: Session, uploaded: Path) -> list[Any]:
        """Checks a file and shows it; one that is refused is removed. UserError: what is wrong with it."""
        name = uploaded.name
        with ExitStack() as undo:
            kept = self.uploads.keep(uploaded, session.folder)
            undo.callback(kept.unlink, missing_ok=True)
            source = self.read(check_file, kept, name, self.limits, name=name, seconds=self.limits.seconds)
            with session.turning:
                shown = self._show(session, source)
            undo.pop_all()
            return shown

    def take_pick(self, session: Session, name: str | None) -> list[Any]:
        """Shows a clip of those that are offered."""
        import gradio as gr

        source = self.sources.get(name)
        with session.turning:
            if source in (None, session.source):
                return [gr.skip()] * (2 + _SHOWN * len(SIDES))
            shown = attempted(partial(self._show, session, source), UserError)
            if isinstance(shown, UserError):
                return [_wrong(shown), gr.skip(), *self._still_drawn(session)]
            return ["", source.question or gr.skip(), *shown]

    def _show(self, session: Session, source: Source) -> list[Any]:
        for side in session.sides.values():  # a clip that cannot be read leaves the last one where it is
            session.look(self._run(side.setting), source)
        session.show(source)
        return self._drawn(session)

    def take_model(self, session: Session, model: str, name: str) -> list[Any]:
        """Gives a side another model, at that one's own setting."""
        return self._turn_to(session, name, self.models.offers[model].default())

    def take_dials(self, session: Session, model: str, adapter: str, level: str, frames: float, name: str) -> list[Any]:
        """Gives a side another setting. Of an adapter without this level the nearest one is taken."""
        import gradio as gr

        offer, own = self.models.offers[model], session.sides[name].setting

        def checked() -> Setting:
            wanted = Setting(model, adapter, level_of(level), int(frames))
            if adapter != own.adapter:
                nearest = min(offer.levels(adapter), key=lambda other: abs(other - wanted.level))
                wanted = replace(wanted, level=nearest)
            return offer.checked(wanted)

        wanted = attempted(checked, UserError)
        if isinstance(wanted, UserError):
            return [_wrong(wanted), *self._dials(own), *[gr.skip()] * _SHOWN]
        if wanted == own:
            return [gr.skip()] * (1 + _DIALS + _SHOWN)
        return self._turn_to(session, name, wanted)

    def _turn_to(self, session: Session, name: str, setting: Setting) -> list[Any]:
        with session.turning:
            before = session.sides[name].setting
            session.turn_to(name, setting)
            shown = attempted(partial(self._side, session, name), UserError)
            if not isinstance(shown, UserError):
                return ["", *self._dials(setting), *shown]
            session.turn_to(name, before)
            return [_wrong(shown), *self._dials(before), *self._side(session, name)]

    def _frame_click(self, name: str) -> Callable[..., list[Any]]:
        """What draws the frame of a side that was clicked in its strip."""
        import gradio as gr

        def take_frame(session, event):
            return ["", *self._pictures(session, name, int(event.frame))] if session.source else [gr.skip()] * 3

        # By its class Gradio knows what to hand over; a name would be looked up where Gradio is not imported yet.
        take_frame.__annotations__["event"] = gr.EventData
        return take_frame

    def ask(
        self, session: Session, question: str, both: bool, temperature: float, longest: float
    ) -> Iterator[list[Any]]:
        """Puts a question to one side or both, one after the other, and shows the replies as they come."""
        import gradio as gr

        names = SIDES if both else SIDES[:1]
        nothing = [gr.skip()] * (2 * len(SIDES))
        question = question.strip()
        if session.source is None or not question:
            lacks = "Write a question first." if session.source else "Choose or upload a clip first."
            yield [drawing.message(lacks, "error"), gr.skip(), *nothing]
            return
        generation_config = (
            GenerationConfig(temperature, max_new_tokens=int(longest) or None) if temperature or longest else GREEDY
        )
        sides = dict(session.sides)
        yield ["", "", *nothing]
        with ExitStack() as line:
            full = attempted(partial(line.enter_context, self.line.taken()), UserError)
            if isinstance(full, UserError):
                yield [_wrong(full), question, *nothing]
            else:
                yield from self._replies(session, sides, names, question, generation_config)

    def _replies(
        self,
        session: Session,
        sides: dict[str, Any],
        names: Sequence[str],
        question: str,
        generation_config: GenerationConfig,
    ) -> Iterator[list[Any]]:
        """What the page shows while each of these sides is asked; `sides` are those that the question was put to."""
        import gradio as gr

        for name in names:
            try:
                for progress in session.answers(self.models, name, question, generation_config):
                    yield ["", gr.skip(), *self._answered(session, name, question, progress)]
                    if progress.stopped:
                        return
                if session.sides[name] is not sides[name]:  # cleared, or turned to another setting
                    return
                yield [gr.skip(), gr.skip(), *self._answered(session, name, None, None)]
            except Exception as error:  # the page keeps working after a failed question
                yield [_wrong(error), question, *self._answered(session, name, None, None)]
                return

    def stop(self, session: Session) -> None:
        """Ends what is being answered."""
        session.stop()

    def clear(self, session: Session) -> list[Any]:
        """Starts both conversations over."""
        session.clear()
        return ["", *self._drawn(session)]

    def _answered(self, session: Session, name: str, question: str | None, progress: Progress | None) -> list[Any]:
        """Figures and conversation of each side; what does not change is left alone."""
        import gradio as gr

        side = session.sides[name]
        past = list(side.past)
        costs = side.costs
        if progress is not None:
            costs = progress.costs or costs
            if not (past and progress.stopped):
                past.append((question, progress.text or f"({progress.doing} …)"))
        frames = self._frames(session, name)
        tokens = num_visual_tokens(self._run(side.setting), frames) if frames else None
        parts = [drawing.figures(costs, tokens), _messages(past)]
        return [part for other in SIDES for part in (parts if other == name else [gr.skip(), gr.skip()])]

    def _look(self, source: Source, experiment: Experiment) -> Look:
        """A clip as an experiment sees it, read in a process of its own. UserError: it cannot be read."""
        if self.uploads.visitors in source.path.parents and not source.path.exists():
            what = "it lay here for too long, or others needed the room"
            raise unreadable(source.name, what, "upload it again")
        return self.read(clips.look, source, experiment, name=source.name, seconds=self.limits.seconds)

    def _still_drawn(self, session: Session) -> list[Any]:
        """All sides, drawn again; unchanged where they cannot be drawn any more."""
        import gradio as gr

        with suppress(UserError):
            return self._drawn(session)
        return [gr.skip()] * (_SHOWN * len(SIDES))

    def _drawn(self, session: Session) -> list[Any]:
        """`Panel.shown` of all sides."""
        return [part for name in SIDES for part in self._side(session, name)]

    def _side(self, session: Session, name: str) -> list[Any]:
        """`Panel.shown` of a side. ClipError: its setting cannot read the clip."""

        side = session.sides[name]
        if session.source is None:
            return [EMPTY, "", drawing.figures(None, None), []]
        frames = self._frames(session, name)
        strip, grid = self._pictures(session, name, 0)
        tokens = num_visual_tokens(self._run(side.setting), frames)
        return [strip, grid, drawing.figures(side.costs, tokens), _messages(side.past)]

    def _pictures(self, session: Session, name: str, frame: int) -> list[str]:
        """Strip of frames and pooled grid of a side."""
        experiment = self._run(session.sides[name].setting)
        seen = session.look(experiment)
        frame = min(max(frame, 0), len(seen.seconds) - 1)
        first = next(iter(seen.pictures.values()))
        return [drawing.strip(first, seen.seconds, frame), drawing.pooled(seen.pictures, experiment, frame)]

    def _frames(self, session: Session, name: str) -> int:
        """Frames that were taken of the clip; a short one may have fewer than asked for."""
        if session.source is None:
            return 0
        return len(session.look(self._run(session.sides[name].setting)).seconds)

    def _run(self, setting: Setting):
        experiment, _ = self.models.offers[setting.model].run(setting)
        return experiment

    def _dials(self, setting: Setting) -> list[Any]:
        """What `Panel.dials` say of a setting."""
        import gradio as gr

        offer = self.models.offers[setting.model]
        return [
            setting.model,
            gr.update(choices=offer.adapters(), value=setting.adapter),
            gr.update(choices=levels(offer, setting.adapter), value=level_text(setting.level)),
            gr.update(maximum=max(2, offer.most_frames()), value=setting.frames, interactive=offer.most_frames() > 1),
        ]


#: How many parts `Panel.dials` and `Panel.shown` have.
_DIALS, _SHOWN = 4, 4


def _wrong(error: Exception) -> str:
    """The message that tells a visitor what went wrong."""
    return drawing.message(said(error), "error")


def _messages(past: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A conversation as the chat takes it: for markup, which is why what people and models write is escaped."""
    pairs = (zip(("user", "assistant"), pair, strict=True) for pair in past)
    return [{"role": role, "content": escape(text, quote=False)} for pair in pairs for role, text in pair]
