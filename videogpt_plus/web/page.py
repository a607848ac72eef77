"""The page as a Gradio app: its parts, and what becomes of each click."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videogpt_plus.adapters import ADAPTERS, num_visual_tokens, pooled_side
from videogpt_plus.configs import GREEDY, Choosing
from videogpt_plus.experiments import level_text
from videogpt_plus.pictures import STILLS
from videogpt_plus.types import UserError
from videogpt_plus.video import VIDEOS
from videogpt_plus.web import drawing
from videogpt_plus.web.clips import INCOMING, Source, check_file, sweep
from videogpt_plus.web.settings import DEFAULT_LIMITS, Limits, Offer, Setting
from videogpt_plus.web.talk import Models, Progress, Session

if TYPE_CHECKING:
    import gradio as gr

SIDES = ("A", "B")
log = logging.getLogger(__name__)


@dataclass
class Panel:
    """The parts of one side."""

    column: gr.Column
    model: gr.Dropdown
    adapter: gr.Dropdown
    level: gr.Dropdown
    frames: gr.Slider
    strip: gr.HTML
    grid: gr.HTML
    figures: gr.HTML
    chat: gr.Chatbot

    @property
    def dials(self) -> list[Any]:
        return [self.model, self.adapter, self.level, self.frames]

    @property
    def shown(self) -> list[Any]:
        """What is drawn anew whenever clip or setting change."""
        return [self.strip, self.grid, self.figures, self.chat]


class Page:
    """The page of `models` with `sources` to pick from; uploads are kept below `folder` as long as they are shown."""

    def __init__(self, models: Models, sources: Sequence[Source], folder: Path, limits: Limits = DEFAULT_LIMITS):
        self.models, self.folder, self.limits = models, folder, limits
        self.sources = {source.name: source for source in sources}
        first, *rest = models.offers.values()
        begin = first.default()
        self.begin = {"A": begin, "B": _contrast(first) or (rest[0].default() if rest else begin)}

    def build(self) -> gr.Blocks:
        """The app. Nothing of a visitor is kept outside of its own `gr.State`."""
        import gradio as gr

        with gr.Blocks(title="videogpt_plus", analytics_enabled=False, fill_width=True) as blocks:
            session = gr.State(
                Session(self.folder, self.begin), time_to_live=24 * 3600, delete_callback=lambda own: own.close()
            )
            gr.HTML(
                "<h1>videogpt_plus</h1><p>Ask a video LLM about a clip, and see what a pool level keeps of it.</p>",
                elem_id="head",
            )
            message = gr.HTML("", elem_id="message")
            with gr.Row(elem_id="clip"):
                upload = gr.File(
                    label=f"Your clip or picture, up to {self.limits.megabytes} MB",
                    file_types=sorted(VIDEOS | STILLS),
                    height=132,
                    elem_id="upload",
                )
                with gr.Column(elem_id="choose"):
                    pick = gr.Dropdown(
                        list(self.sources), value=None, label="or one of these", elem_id="pick", interactive=True
                    )
                    compare = gr.Checkbox(False, label="Compare two settings side by side", elem_id="compare")
            with gr.Row(elem_id="panels"):
                panels = {name: self._panel(name) for name in SIDES}
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
                with gr.Accordion("How words are chosen", open=False, elem_id="choosing"), gr.Row():
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
            pick.input(self.take_pick, [session, pick], [message, question, *everything], **everywhere)
            compare.change(lambda both: gr.update(visible=both), compare, panels["B"].column, **everywhere)
            for name, panel in panels.items():
                outputs = [message, *panel.dials, *panel.shown]
                panel.model.input(partial(self.take_model, name=name), [session, panel.model], outputs, **everywhere)
                for dial in (panel.adapter.input, panel.level.input, panel.frames.change):
                    dial(partial(self.take_dials, name=name), [session, *panel.dials], outputs, **everywhere)
                panel.strip.click(self._frame_click(name), session, [panel.strip, panel.grid], **everywhere)
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
                concurrency_limit=8,
                trigger_mode="once",
            )
            answer.then(lambda: gr.update(interactive=True), None, send, **everywhere)
            stop.click(self.stop, session, None, **everywhere)
            clear.click(self.clear, session, [message, *everything], **everywhere)
        return blocks

    def _panel(self, name: str) -> Panel:
        import gradio as gr

        setting = self.begin[name]
        offer = self.models.offers[setting.model]
        with gr.Column(visible=name == SIDES[0], min_width=320, elem_id=f"panel-{name}", elem_classes="side") as column:
            with gr.Row(elem_classes="dials"):
                model = gr.Dropdown(
                    [(_model_label(offer), offer.name) for offer in self.models.offers.values()],
                    value=setting.model,
                    label="Model",
                    min_width=120,
                    elem_id=f"model-{name}",
                )
                adapter = gr.Dropdown(
                    offer.adapters(), value=setting.adapter, label="Adapter", min_width=110, elem_id=f"adapter-{name}"
                )
                level = gr.Dropdown(
                    _levels(offer, setting.adapter),
                    value=level_text(setting.level),
                    label="Pool level",
                    allow_custom_value=True,
                    min_width=140,
                    elem_id=f"level-{name}",
                )
                frames = gr.Slider(
                    1,
                    offer.most_frames(),
                    setting.frames,
                    step=1,
                    label="Frames",
                    min_width=150,
                    elem_id=f"frames-{name}",
                )
            with gr.Row(elem_classes="body"):
                with gr.Column(min_width=300, elem_classes="seen"):
                    strip = gr.HTML(_EMPTY, js_on_load=_CLICKS, elem_id=f"strip-{name}")
                    grid = gr.HTML("", elem_id=f"grid-{name}")
                with gr.Column(min_width=300, elem_classes="said"):
                    figures = gr.HTML(drawing.figures(None, None), elem_id=f"figures-{name}")
                    chat = gr.Chatbot(
                        label=name,
                        show_label=False,
                        height=340,
                        render_markdown=False,
                        latex_delimiters=[],
                        buttons=[],
                        feedback_options=None,
                        layout="bubble",
                        placeholder="Choose a clip, then ask.",
                        elem_id=f"chat-{name}",
                    )
        return Panel(column, model, adapter, level, frames, strip, grid, figures, chat)

    def take_upload(self, session: Session, path: str | None) -> list[Any]:
        """Moves an uploaded file to the visitor's own folder, if it is fit, and shows it."""
        import gradio as gr

        if path is None:
            return [gr.skip()] * (4 + _SHOWN * len(SIDES))
        uploaded = Path(path)
        sweep(self.folder / INCOMING)
        session.folder.mkdir(parents=True, exist_ok=True)
        kept = session.folder / f"{secrets.token_hex(8)}{uploaded.suffix.lower()}"
        try:
            uploaded.replace(kept)  # nobody else can be served it from there
            source = check_file(kept, uploaded.name, self.limits)
            shown = self._show(session, source)
        except (UserError, FileNotFoundError) as error:
            kept.unlink(missing_ok=True)
            gone = f"{uploaded.name} did not arrive whole: upload it again"  # the same file came from somebody else
            told = gone if isinstance(error, FileNotFoundError) else str(error)
            return [drawing.message(told, "error"), None, gr.skip(), gr.skip(), *self._drawn(session)]
        return [drawing.message(f"{source.name} is shown below."), None, None, gr.skip(), *shown]

    def take_pick(self, session: Session, name: str | None) -> list[Any]:
        """Shows a clip of those that are offered."""
        import gradio as gr

        if name not in self.sources:
            return [gr.skip()] * (2 + _SHOWN * len(SIDES))
        source = self.sources[name]
        try:
            shown = self._show(session, source)
        except UserError as error:
            return [drawing.message(str(error), "error"), gr.skip(), *self._drawn(session)]
        return ["", source.question or gr.skip(), *shown]

    def _show(self, session: Session, source: Source) -> list[Any]:
        before = session.source
        session.source = source
        try:
            for side in session.sides.values():  # a clip that cannot be read leaves the last one where it is
                session.look(self._run(side.setting))
        finally:
            session.source = before
        session.show(source)
        return self._drawn(session)

    def take_model(self, session: Session, model: str, name: str) -> list[Any]:
        """Gives a side another model, at that one's own setting."""
        return self._turn_to(session, name, self.models.offers[model].default())

    def take_dials(self, session: Session, model: str, adapter: str, level: str, frames: float, name: str) -> list[Any]:
        """Gives a side another setting. Of an adapter without this level the nearest one is taken."""
        import gradio as gr

        offer, side = self.models.offers[model], session.sides[name]
        try:
            wanted = Setting(model, adapter, _level(level), int(frames))
            if adapter != side.setting.adapter:
                levels = offer.levels(adapter)
                wanted = replace(wanted, level=min(levels, key=lambda own: abs(own - wanted.level)))
            offer.checked(wanted)
        except UserError as error:
            told = drawing.message(str(error), "error")
            return [told, *self._dials(side.setting), *[gr.skip()] * _SHOWN]
        if wanted == side.setting:
            return [gr.skip()] * (1 + _DIALS + _SHOWN)
        return self._turn_to(session, name, wanted)

    def _turn_to(self, session: Session, name: str, setting: Setting) -> list[Any]:
        before = session.sides[name].setting
        session.turn_to(name, setting)
        try:
            return ["", *self._dials(setting), *self._side(session, name)]
        except UserError as error:
            session.turn_to(name, before)
            return [drawing.message(str(error), "error"), *self._dials(before), *self._side(session, name)]

    def _frame_click(self, name: str) -> Callable[..., list[Any]]:
        """What draws the frame of a side that was clicked in its strip."""
        import gradio as gr

        def take_frame(session, event):
            return self._pictures(session, name, int(event.frame)) if session.source else [gr.skip(), gr.skip()]

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
        choosing = Choosing(temperature, max_new_tokens=int(longest) or None) if temperature or longest else GREEDY
        sides = dict(session.sides)
        yield ["", "", *nothing]
        for name in names:
            try:
                for progress in session.answers(self.models, name, question, choosing):
                    yield ["", gr.skip(), *self._answered(session, name, question, progress)]
                    if progress.stopped:
                        return
                if session.sides[name] is not sides[name]:  # cleared, or turned to another setting
                    return
                yield [gr.skip(), gr.skip(), *self._answered(session, name, None, None)]
            except UserError as error:
                yield [drawing.message(str(error), "error"), question, *self._answered(session, name, None, None)]
                return
            except Exception as error:  # a page goes on whatever becomes of one question, and its log says what
                log.exception("a question could not be answered")
                said = _fault(error)
                yield [drawing.message(said, "error"), question, *self._answered(session, name, None, None)]
                return

    def stop(self, session: Session) -> None:
        """Ends what is being answered."""
        session.stop()

    def clear(self, session: Session) -> list[Any]:
        """Begins both conversations anew."""
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

    def _drawn(self, session: Session) -> list[Any]:
        """`Panel.shown` of all sides."""
        return [part for name in SIDES for part in self._side(session, name)]

    def _side(self, session: Session, name: str) -> list[Any]:
        """`Panel.shown` of a side. ClipError: its setting cannot read the clip."""

        side = session.sides[name]
        if session.source is None:
            return [_EMPTY, "", drawing.figures(None, None), []]
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
            gr.update(choices=_levels(offer, setting.adapter), value=level_text(setting.level)),
            gr.update(maximum=max(2, offer.most_frames()), value=setting.frames, interactive=offer.most_frames() > 1),
        ]


#: How many parts `Panel.dials` and `Panel.shown` have.
_DIALS, _SHOWN = 4, 4
#: Tells the server which frame of a strip was clicked.
_CLICKS = """element.addEventListener('click', event => {
    const frame = event.target.closest('[data-frame]');
    if (frame) trigger('click', {frame: Number(frame.dataset.frame)});
});"""
_EMPTY = '<div class="empty">Upload a clip or pick one: here stand the frames that the model sees.</div>'


def _contrast(offer: Offer) -> Setting | None:
    """The setting of the same model that leaves the fewest tokens, to stand beside its default; None: no other."""
    begin = offer.default()
    level = offer.levels(begin.adapter)[-1]
    return replace(begin, level=level) if level != begin.level else None


def _model_label(offer: Offer) -> str:
    return f"{offer.name} (random)" if offer.random else offer.name


def _levels(offer: Offer, adapter: str) -> list[tuple[str, str]]:
    """Labels and values of an adapter's levels: `4: 3×3 + 2×2`."""
    return [(_level_label(offer, adapter, level), level_text(level)) for level in offer.levels(adapter)]


def _level_label(offer: Offer, adapter: str, level: float) -> str:
    if ADAPTERS[adapter].tokens is None:
        return level_text(level)
    sides = [pooled_side(stream.grid, level) for _, stream in offer.experiment.streams]
    return f"{level_text(level)}: " + " + ".join(f"{side}×{side}" for side in sides)


def _level(text: str) -> float:
    """UserError: it is no number."""
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(f"pool level '{text}' is no number: choose one such as 1, 2, 4") from None


def _messages(past: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A conversation as the chat takes it: for markup, which is why what people and models write is escaped."""
    pairs = (zip(("user", "assistant"), pair, strict=True) for pair in past)
    return [{"role": role, "content": escape(text, quote=False)} for pair in pairs for role, text in pair]


def _fault(error: Exception) -> str:
    """What a visitor is told of a fault that is not theirs."""
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: choose a higher level, fewer frames or a shorter answer"
    return f"this question could not be answered ({type(error).__name__}); the server's log says more"
