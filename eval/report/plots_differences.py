"""The heat map of differences between each level and the finest one, for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eval.report.cells import curves, tasks
from eval.report.pictures import drawn, new_figure, wrapped
from eval.report.results import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

#: Width of a column and height of a row; width of a row's name, and height of each further line of it.
HEAT_INCHES, ROW_INCHES, NAME_INCHES, LINE_INCHES = 0.78, 0.32, 2.6, 0.16
#: Columns that a panel among others is wide at least, for its title; width of the title of one that stands alone.
NARROWEST, WIDEST_TITLE = 3, 5.0


def differences(
    cells: Sequence[Cell], tested: Mapping[tuple[str, str, str], tuple[float, bool]], all_questions: str
) -> dict[str, bytes] | None:
    """For each task, how far each level is from the finest one, as a picture by its ending; None without two levels.

    `tested` holds (finest, level, task) by the experiments' names -> by how many points the level is above the finest,
    and whether that is more than chance; `all_questions` is what all tasks together are called in it.
    """
    all_curves = {name: curve for name, curve in curves(cells).items() if len(curve) > 1}
    if not all_curves:
        return None
    names = [all_questions, *tasks(cells)]
    found = {
        name: [[tested.get((curve[0].experiment, cell.experiment, task)) for cell in curve[1:]] for task in names]
        for name, curve in all_curves.items()
    }
    # The colours reach as far as the largest difference, yet small ones do not look large.
    limit = max([10.0, *(abs(cell[0]) for rows in found.values() for row in rows for cell in row if cell)])
    widths = [
        HEAT_INCHES * max(len(curve) - 1, NARROWEST if len(all_curves) > 1 else 1) for curve in all_curves.values()
    ]
    titles = [
        wrapped(f"{name}: points from level {curve[0].level:g}", width if len(widths) > 1 else WIDEST_TITLE)
        for (name, curve), width in zip(all_curves.items(), widths, strict=True)
    ]
    rows = [wrapped(name, NAME_INCHES) for name in names]
    lines = sum(1 + (LINE_INCHES / ROW_INCHES) * name.count("\n") for name in rows)
    above = LINE_INCHES * max(title.count("\n") for title in titles)
    # What stands below the panels is wider than a narrow one.
    figure = new_figure(max(sum(widths) + 0.4 * len(widths) + 2.9, 6.4), ROW_INCHES * lines + above + 1.9)
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (name, curve), title in zip(panels, all_curves.items(), titles, strict=True):
        image = _heat_panel(axes, curve, found[name], limit)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
    figure.colorbar(image, ax=list(panels), fraction=0.03, pad=0.02).set_label("points", fontsize=9)
    figure.supxlabel("pool level and visual tokens; framed and *: more than chance (adjusted p < 0.05)", fontsize=9.5)
    return drawn(figure)


def _heat_panel(
    axes: Axes, curve: Sequence[Cell], found: Sequence[Sequence[tuple[float, bool] | None]], limit: float
) -> AxesImage:
    """A row for each task and a column for each level but the finest; `found` in that order."""
    values = [[cell[0] if cell else float("nan") for cell in row] for row in found]
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    labels = [f"level {cell.level:g}\n{cell.visual_tokens:,}" for cell in curve[1:]]
    axes.set_xticks(range(len(labels)), labels, fontsize=8.5)
    axes.axhline(0.5, color="black", linewidth=1)
    axes.tick_params(length=0)
    for y, row in enumerate(found):
        for x, cell in enumerate(row):
            _heat_text(axes, x, y, *(cell or (None, False)), limit)
    return image


def _heat_text(axes: Axes, x: int, y: int, value: float | None, marked: bool, limit: float) -> None:
    from matplotlib.patches import Rectangle

    if value is None:
        axes.text(x, y, "no data", ha="center", va="center", fontsize=7.5, color="0.45")
        return
    colour = "white" if abs(value) > 0.62 * limit else "black"
    weight = "bold" if marked else "normal"
    text = (f"{value:+.1f}" if abs(value) >= 0.05 else "0.0") + ("*" if marked else "")
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=colour, weight=weight)
    if marked:
        axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, linewidth=1.4, color="black"))
