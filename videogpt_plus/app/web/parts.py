"""The parts of one side of the page, and the choices of its dials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videogpt_plus.app.web import drawing
from videogpt_plus.app.web.settings import Offer, Setting
from videogpt_plus.config.experiments import level_text
from videogpt_plus.reducers import REDUCERS, pooled_side

if TYPE_CHECKING:
    import gradio as gr

#: Tells the server which frame of a strip was clicked.
CLICKS = """element.addEventListener('click', event => {
    const frame = event.target.closest('[data-frame]');
    if (frame) trigger('click', {frame: Number(frame.dataset.frame)});
});"""
EMPTY = '<div class="empty">Upload a clip or pick one: the frames that the model sees appear here.</div>'


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
        """The parts that change with the clip or the setting."""
        return [self.strip, self.grid, self.figures, self.chat]


def panel(name: str, setting: Setting, offers: Mapping[str, Offer], visible: bool) -> Panel:
    """A side that begins with a setting."""
    import gradio as gr

    offer = offers[setting.model]
    with gr.Column(visible=visible, min_width=320, elem_id=f"panel-{name}", elem_classes="side") as column:
        with gr.Row(elem_classes="dials"):
            model = gr.Dropdown(
                [(_model_label(offer), offer.name) for offer in offers.values()],
                value=setting.model,
                label="Model",
                min_width=120,
                elem_id=f"model-{name}",
            )
            adapter = gr.Dropdown(
                offer.adapters(), value=setting.adapter, label="Adapter", min_width=110, elem_id=f"adapter-{name}"
            )
            level = gr.Dropdown(
                levels(offer, setting.adapter),
                value=level_text(setting.level),
                label="Pool level",
                allow_custom_value=True,
                min_width=140,
                elem_id=f"level-{name}",
            )
            frames = gr.Slider(
                1, offer.most_frames(), setting.frames, step=1, label="Frames", min_width=150, elem_id=f"frames-{name}"
            )
        with gr.Row(elem_classes="body"):
            with gr.Column(min_width=300, elem_classes="seen"):
                strip = gr.HTML(EMPTY, js_on_load=CLICKS, elem_id=f"strip-{name}")
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


def _model_label(offer: Offer) -> str:
    return f"{offer.name} (random)" if offer.random else offer.name


def levels(offer: Offer, adapter: str) -> list[tuple[str, str]]:
    """Labels and values of an adapter's levels: `4: 3×3 + 2×2`."""
    return [(_level_label(offer, adapter, level), level_text(level)) for level in offer.levels(adapter)]


def _level_label(offer: Offer, adapter: str, level: float) -> str:
    if not REDUCERS[adapter].leaves_grid:
        return level_text(level)
    sides = [pooled_side(stream.grid, level) for _, stream in offer.experiment.branches]
    return f"{level_text(level)}: " + " + ".join(f"{side}×{side}" for side in sides)
