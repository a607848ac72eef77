"""Figures as files: text is shown as it is written, with fonts that have its letters; the same figure, the same bytes.

A figure becomes a PNG for the page, and an SVG and a PDF for a paper.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from eval.report.layout import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry

#: Metadata that matplotlib would write: it changes with the day and the version.
METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
#: Fonts to be asked first for what the usual one lacks, in this order; then all others by name.
FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "PingFang HK", "Hiragino Sans GB", "Heiti TC",
    "Microsoft YaHei", "SimHei", "SimSun", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS",
    "Droid Sans Fallback", "Noto Sans",
)  # fmt: skip
#: A font that has a box for every character is no help.
BOXES = "Last Resort"
#: Width of a letter of a legend or title, in inches.
LETTER_INCHES = 0.082
#: Width of the labels of a legend, and of what stands before a label.
LEGEND_INCHES, HANDLE_INCHES = 2.4, 0.55


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: Figure) -> dict[str, bytes]:
    """The figure as "png", "svg" and "pdf".

    No text is read as a formula. Where no font of this system has a character, a line on stderr says so once.
    """
    from matplotlib import rc_context

    plain = _as_written(figure)
    # Type 42 is what publishers take; letters of other fonts, which may be of any kind, are drawn as outlines.
    settings = {"svg.hashsalt": "report", "svg.fonttype": "path", "pdf.fonttype": 42 if plain else 3}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing", UserWarning)  # said once by `_as_written`
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the three are laid out alike
        return {ending: _saved(figure, ending) for ending in METADATA}


def _saved(figure: Figure, ending: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=ending, metadata=METADATA[ending])
    return out.getvalue()


def _as_written(figure: Figure) -> bool:
    """Prepares each text of the figure; whether the usual font has all letters."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    for text in texts:
        text.set_usetex(False)
        text.set_parse_math(False)
    letters = {letter for text in texts for letter in text.get_text() if letter.isprintable()}
    lacking = frozenset(letters - _having(_usual(), letters))
    if lacking and (families := fonts_for(lacking)):
        for text in texts:
            if not lacking.isdisjoint(text.get_text()):
                text.set_fontfamily([*text.get_fontfamily(), *families])
    return not lacking


def _usual() -> str:
    """The file of the font that matplotlib draws with."""
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties())


@cache
def fonts_for(lacking: frozenset[str]) -> tuple[str, ...]:
    """The families that have these letters, which the usual one lacks; which letters none has is said once."""
    families, left = choose_fonts(_candidates(), lacking)
    if left:
        _say_lacking("".join(sorted(left)))
    return families


def choose_fonts(fonts: Iterable[FontEntry], letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Of the fonts, in their order, those that have any of the letters that the ones before lack; and what is left."""
    families: list[str] = []
    for font in fonts:
        if found := _having(font.fname, letters):
            families.append(font.name)
            letters -= found
        if not letters:
            break
    return tuple(families), letters


def _having(path: str, letters: frozenset[str]) -> set[str]:
    """Those of the letters that the font in this file has; none where it cannot be opened."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}


def _candidates() -> list[FontEntry]:
    """The upright regular fonts of this system, those of `FONTS` first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        try:  # one that was installed after matplotlib made its list
            fontManager.addfont(path)
        except (OSError, RuntimeError, NotImplementedError):  # not a font that matplotlib can draw with
            continue
    order = {name: i for i, name in enumerate(FONTS)}
    fitting = [
        font
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular") and not font.name.startswith(BOXES)
    ]
    return sorted(fitting, key=lambda font: (order.get(font.name, len(order)), font.name, font.fname))


_lacking_said: set[str] = set()


def _say_lacking(letters: str) -> None:
    """One line in the life of the process, however many pictures there are."""
    if not _lacking_said:
        shown = letters[:10] + ("..." if len(letters) > 10 else "")
        told = f"no font of this system has {shown}, so the pictures show boxes for it; install a font such as"
        print(f"{told} Noto Sans CJK and write the report again", file=sys.stderr)
    _lacking_said.update(letters)


def legend_label(text: str) -> str:
    """The text as a label in a legend, in lines: matplotlib leaves out those that begin with an underscore."""
    lines = wrapped(text, LEGEND_INCHES)
    return f" {lines}" if lines.startswith("_") else lines


def legend_columns(labels: Iterable[str], width: float) -> int:
    """How many columns a legend of these labels may have in a figure so wide."""
    longest = max((columns(line) for label in labels for line in label.split("\n")), default=1)
    return max(1, int(width / (longest * LETTER_INCHES + HANDLE_INCHES)))


def wrapped(text: str, inches: float) -> str:
    """The text in lines that are not longer than that, broken behind spaces and marks, or else anywhere."""
    room = max(8, int(inches / LETTER_INCHES))
    lines = [""]
    for piece in _pieces(" ".join(re.split(r"[ \t\r\n]+", text)), room):
        if lines[-1] and columns(lines[-1] + piece.rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _pieces(text: str, room: int) -> Iterator[str]:
    """What stays together: up to each space or mark. Letters of long words, and of scripts without spaces, do not."""
    for part in re.findall(r"[^ _/.,:;-]*[ _/.,:;-]+|[^ _/.,:;-]+", text):
        if columns(part) == len(part) <= room:
            yield part
        else:
            yield from part
