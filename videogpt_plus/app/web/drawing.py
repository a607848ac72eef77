"""Pictures and figures of the page as HTML. Pictures are part of the text itself: no file is served."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from videogpt_plus.clips.cache import size_text
from videogpt_plus.config.experiment import Experiment
from videogpt_plus.config.experiments import level_text
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders import encoder_of
from videogpt_plus.reducers import build_reducer, pooled_side
from videogpt_plus.reducers.bilinear import Bilinear

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from videogpt_plus.app.web.talk import Costs

#: Pixels of a frame in the strip.
THUMB = 112


def strip(pictures: UInt8[np.ndarray, "t p p 3"], seconds: Sequence[float], chosen: int) -> str:
    """All frames in a row with their times, each a button; `chosen` is marked."""
    buttons = (
        f'<button type="button" data-frame="{i}" aria-pressed="{str(i == chosen).lower()}">'
        f'<img alt="frame {i + 1}" src="{_jpeg(picture, THUMB)}"><span>{at:.1f} s</span></button>'
        for i, (picture, at) in enumerate(zip(pictures, seconds, strict=True))
    )
    return f'<div class="strip">{"".join(buttons)}</div>'


def pooled(pictures: Mapping[str, UInt8[np.ndarray, "t p p 3"]], experiment: Experiment, frame: int) -> str:
    """For every stream a frame under its pooled grid, and the colours that the same reducer leaves of the frame."""
    parts = [_stream(name, frames, experiment, frame) for name, frames in pictures.items()]
    return f'<div class="streams">{"".join(parts)}</div>'


def _stream(name: str, pictures: UInt8[np.ndarray, "t p p 3"], experiment: Experiment, frame: int) -> str:
    stream = dict(experiment.branches)[name]
    side, reducer = stream.grid, experiment.reducer
    picture = pictures[frame]
    if not reducer.leaves_grid:
        tokens = num_visual_tokens(experiment, len(pictures)) // len(experiment.branches)
        drawn = _svg(side, picture, _lines(side, side, "patches"), f"frame {frame + 1}")
        what = "learned queries read" if reducer.learns else "tokens are left of"
        says = f"{tokens} {what} all {side}×{side} patches of every frame: no grid is left to draw"
        return _figure(name, [drawn], says)
    kept = pooled_side(side, experiment.level)
    left = _mosaic(pictures if reducer.mixes_frames else picture[None], side, experiment)
    lines = _lines(side, side, "patches") + _lines(side, kept, "cells")
    if isinstance(reducer, Bilinear) and kept < side:
        lines += _dots(side, kept)
    level = level_text(experiment.level)
    drawn = _svg(side, picture, lines, f"frame {frame + 1} under the pooled grid of level {level}")
    mosaic = _svg(
        side, left, _lines(side, kept, "faint"), f"what the reducer {reducer.name} leaves of its colours", True
    )
    return _figure(name, [drawn, mosaic], _caption(experiment, side, kept) + _beside(stream.encoder))


def _caption(experiment: Experiment, side: int, kept: int) -> str:
    what = f"{side}×{side} patches → {kept}×{kept} = {kept * kept} token{'s' * (kept > 1)}"
    if experiment.reducer.mixes_frames:
        return f"{what} for the mean of all frames"
    if kept == side:
        return f"{what} a frame: nothing is pooled"
    if isinstance(experiment.reducer, Bilinear):
        return f"{what} a frame; each reads the patches round its dot"
    share = side / kept
    overlap = "" if side % kept == 0 else "; neighbouring cells share patches"
    return f"{what} a frame, each of about {share:.3g}×{share:.3g} patches{overlap}"


def _beside(encoder: str) -> str:
    return "; a class token stands beside them" if encoder_of(encoder).class_tokens else ""


def _figure(name: str, drawings: Sequence[str], caption: str) -> str:
    return (
        f'<figure class="stream"><div class="drawings">{"".join(drawings)}</div>'
        f"<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>"
    )


def _svg(side: int, picture: UInt8[np.ndarray, "h w 3"], lines: str, alt: str, pixelated: bool = False) -> str:
    style = ' style="image-rendering:pixelated"' if pixelated else ""
    source = _png(picture) if pixelated else _jpeg(picture)
    image = f'<image href="{source}" width="{side}" height="{side}" preserveAspectRatio="none"{style}/>'
    room = side / 90  # for half the width of the outermost lines
    box = f"{-room:.3g} {-room:.3g} {side + 2 * room:.4g} {side + 2 * room:.4g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(alt)}">{image}{lines}</svg>'


def _lines(side: int, parts: int, kind: str) -> str:
    """The inner and outer lines that cut a square of `side` into `parts` each way."""
    at = [f"{i * side / parts:.4g}" for i in range(parts + 1)]
    path = "".join(f"M{x} 0V{side}M0 {x}H{side}" for x in at)
    return f'<path class="{kind}" d="{path}"/>'


def _dots(side: int, parts: int) -> str:
    centres = [f"{(i + 0.5) * side / parts:.4g}" for i in range(parts)]
    radius = f"{min(0.3, side / 40):.3g}"
    return "".join(f'<circle class="dot" cx="{x}" cy="{y}" r="{radius}"/>' for y in centres for x in centres)


def _mosaic(
    frames: UInt8[np.ndarray, "t p p 3"], side: int, experiment: Experiment
) -> UInt8[np.ndarray, "kept kept 3"]:
    """The reducer itself, run on each patch's mean colour where the model has its features."""
    import torch
    from einops import rearrange
    from torch.nn.functional import adaptive_avg_pool2d

    colours = rearrange(torch.from_numpy(frames).float(), "t h w c -> t c h w")
    patches = rearrange(adaptive_avg_pool2d(colours, side), "t c h w -> 1 t h w c")
    tokens = build_reducer(experiment.reducer)(patches)[0]
    kept = pooled_side(side, experiment.level)
    first = rearrange(tokens[: kept * kept], "(h w) c -> h w c", h=kept)
    return first.round().clamp(0, 255).to(torch.uint8).numpy()


def _jpeg(picture: UInt8[np.ndarray, "h w 3"], side: int | None = None) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    if side and side < image.width:
        image = image.resize((side, side))
    return _uri(image, "jpeg", quality=88)


def _png(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    from PIL import Image

    return _uri(Image.fromarray(picture), "png")


def _uri(image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"


def figures(costs: Costs | None, tokens: int | None) -> str:
    """Visual tokens, seconds and memory of the last answer; dashes before there is one."""
    encoding = "–" if costs is None else "kept" if costs.kept else _seconds(costs.encode)
    rows = {
        "visual tokens": (f"{tokens:,}" if tokens is not None else "–", "what the language model reads of the clip"),
        "first token": (_seconds(costs and costs.first), "seconds from the question to the first word, features ready"),
        "encoding": (encoding, "seconds in the encoders; kept: the features of an earlier question were used"),
        "speed": (_speed(costs), "pieces of text a second behind the first"),
        "KV cache": (_bytes(costs and costs.key_values), "what the visual tokens take up while it answers"),
        "memory": (_bytes(costs and costs.memory), f"most of {costs.device if costs else 'device'} memory meanwhile"),
    }
    cells = "".join(
        f'<div title="{escape(tip)}" data-figure="{escape(name)}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, (value, tip) in rows.items()
    )
    return f'<dl class="figures">{cells}</dl>'


def message(text: str, kind: str = "note") -> str:
    """A line for the visitor; nothing where there is nothing to say. `kind` is "note" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{escape(text)}</div>' if text else ""


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def _bytes(value: int | None) -> str:
    return "–" if value is None else size_text(value)


def _speed(costs: Costs | None) -> str:
    if costs is None or costs.first is None or costs.pieces < 2 or costs.total <= costs.first:
        return "–"
    return f"{(costs.pieces - 1) / (costs.total - costs.first):.1f}/s"
