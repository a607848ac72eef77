"""Pictures show names as they are written, in fonts that have their letters, and the same ones give the same bytes."""

from __future__ import annotations

import html
import io
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_report import make_cell

from eval.report import pictures
from eval.report.layout import columns
from eval.report.pictures import (
    choose_fonts,
    drawn,
    fonts_for,
    legend_columns,
    legend_label,
    new_figure,
    wrapped,
)
from eval.report.plots import means_vs_tokens, tasks_by_level
from eval.report.plots_cost import accuracy_vs_cost
from eval.report.plots_differences import differences
from eval.statistics.estimates import SCORE

#: What matplotlib would set as a formula, refuse, or leave out of a legend.
NAMES = ("cost $5 and $6_a^b", "$\\frac{", "_under", "back\\slash", "100 % {x} #1 & ~", "$x$", "\\$y\\$", "\\alpha_2^{")


def titled(text: str, escaped: bool = False) -> bytes:
    """A PNG with the text in it; escaped for matplotlib's own way to show a dollar, or by `drawn`."""
    figure = new_figure(4, 1)
    figure.text(0.1, 0.5, text.replace("$", r"\$") if escaped else text)
    if not escaped:
        return drawn(figure)["png"]
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_formula_in_a_picture(name):
    assert titled(name) == titled(name, escaped=True)


def test_every_picture_can_be_drawn_of_any_names_and_its_legend_leaves_none_out(tmp_path):
    tasks, name = dict.fromkeys(NAMES, 0.5), "_run $x$ \\frac{"
    cells = [make_cell(tmp_path, level, tasks, groups=dict.fromkeys(NAMES, "$g_"), name=name, n=4) for level in (1, 4)]
    judged = [
        replace(cell, scale=SCORE, tasks={name: replace(row, group=name) for name, row in cell.tasks.items()})
        for cell in cells
    ]
    drawings = (accuracy_vs_cost, tasks_by_level, means_vs_tokens, lambda cells: differences(cells, {}, "all"))
    for picture in (*(draw(cells) for draw in drawings), scores := means_vs_tokens(judged)):
        assert set(picture) == {"png", "svg", "pdf"}
        assert (picture["png"][:4], picture["pdf"][:5]) == (b"\x89PNG", b"%PDF-") and b"<svg" in picture["svg"]
    # An SVG says each text as a comment before its outlines.
    said = html.unescape(scores["svg"].decode())
    assert all(name in said for name in NAMES)


def test_a_picture_says_neither_a_day_nor_a_version():
    figure = new_figure(2, 1)
    figure.text(0.1, 0.5, "x")
    for content in drawn(figure).values():
        assert not any(word in content for word in (b"Matplotlib v", b"matplotlib.org", b"CreationDate", b"dc:date"))


def font(name: str, letters: str, folder) -> SimpleNamespace:
    """A font file that has these letters, as a box each, and its entry."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyphs = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    path = folder / f"{name}.ttf"
    builder.save(path)
    return SimpleNamespace(name=name, fname=str(path))


def test_fonts_are_chosen_by_the_letters_that_they_have(tmp_path):
    fonts = [font("First", "甲", tmp_path), font("Empty", "x", tmp_path), font("Second", "甲乙", tmp_path)]
    assert choose_fonts(fonts, frozenset("乙")) == (("Second",), frozenset())
    assert choose_fonts(fonts, frozenset("甲乙丙")) == (("First", "Second"), frozenset("丙"))
    gone = SimpleNamespace(name="Gone", fname=str(tmp_path / "gone.ttf"))
    assert choose_fonts([gone, fonts[0]], frozenset("甲")) == (("First",), frozenset())


@pytest.fixture
def anew():
    """What was looked up and said before is forgotten, before and after."""
    for _ in range(2):
        fonts_for.cache_clear()
        pictures._lacking_said.clear()
        if not _:
            yield


def test_a_font_that_has_the_letters_draws_them(tmp_path, monkeypatch, anew, capsys):
    from matplotlib import font_manager

    made = font("Only This", "甲", tmp_path)
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(made.fname)
    try:
        monkeypatch.setattr(pictures, "_candidates", lambda: [])
        boxes = titled("甲")
        fonts_for.cache_clear()
        monkeypatch.setattr(pictures, "_candidates", lambda: [made])
        capsys.readouterr()
        assert titled("甲") != boxes and capsys.readouterr().err == ""
    finally:
        font_manager.fontManager.ttflist[:] = before


def test_letters_that_no_font_has_are_said_once_and_nothing_else(tmp_path, monkeypatch, anew, capsys):
    monkeypatch.setattr(pictures, "_candidates", lambda: [])
    cells = [make_cell(tmp_path, level, {"動作": 0.75, "順序": 0.5}, name="実験", n=8) for level in (1, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (means_vs_tokens, accuracy_vs_cost, tasks_by_level):
            draw(cells)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no font of this system has" in line and "Noto Sans CJK" in line


def test_long_names_are_broken_into_lines_that_fit():
    name = "Counterfactual_Inference of/very long names"
    lines = wrapped(name, 1.5).split("\n")
    assert len(lines) > 2 and max(map(len, lines)) <= 18
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert max(map(columns, wrapped("動作の順序" * 8, 2).split("\n"))) <= 24
    assert wrapped("x" * 100, 1).count("\n") == 8 and wrapped("short", 1) == "short"
    assert wrapped("a\nb", 3) == "a b"


def test_a_legend_has_as_many_columns_as_fit():
    assert legend_columns(["ab", "abc"], 10) > 4 > legend_columns(["x" * 29], 6) >= 1
    assert legend_label("_under").strip() == "_under" != legend_label("_under")
