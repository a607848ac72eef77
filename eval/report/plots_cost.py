"""Accuracy over what a question costs: a panel for each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING

from eval.report.cells import COSTS, curves, dominated, estimate
from eval.report.pictures import drawn, legend_columns, legend_label, new_figure
from eval.report.plots import COLOURS, MARGIN_INCHES, MARKERS, errorbars
from eval.report.results import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Width of the plotted area of a panel, in inches.
COST_PANEL_INCHES = 4.2


def accuracy_vs_cost(cells: Sequence[Cell]) -> dict[str, bytes]:
    """A panel for each cost, accuracy over it; hollow where another is as good for less; a picture by its ending."""
    names, levels = list(curves(cells)), sorted({cell.level for cell in cells})
    markers = {level: MARKERS[i % len(MARKERS)] for i, level in enumerate(levels)}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figure = new_figure((COST_PANEL_INCHES + 0.3) * len(COSTS) + 0.7, 5.2)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, cost in zip(panels, COSTS, strict=True):
        _cost_panel(axes, cells, cost, colours, markers)
    panels[0].set_ylabel("accuracy in %, mean of all tasks, with 95 % interval")
    figure.align_xlabels(panels)
    _cost_legends(figure, colours, markers)
    return drawn(figure)


def _cost_panel(
    axes: Axes, cells: Sequence[Cell], cost: str, colours: Mapping[str, str], markers: Mapping[float, str]
) -> None:
    """Colour tells the series, shape the level."""
    axes.set_xlabel(f"{cost} (log scale)")
    axes.grid(axis="y", color="0.9")
    points = [
        (value, name, cell)
        for name, curve in curves(cells).items()
        for cell in curve
        if (value := COSTS[cost](cell)) is not None
    ]
    if not points:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="0.45")
        return
    better, inch = dominated(cells, cost), _cost_axis(axes, [value for value, *_ in points])
    places = _apart([value for value, *_ in points], inch)
    for name, colour in colours.items():
        own = [(x, cell) for x, (_, series, cell) in zip(places, points, strict=True) if series == name]
        found = [estimate(cell, None) for _, cell in own]
        axes.plot([x for x, _ in own], [100 * e.value for e in found], color=colour, linewidth=0.8, alpha=0.5)
        for (x, cell), e in zip(own, found, strict=True):
            face = "white" if cell.experiment in better else colour
            style = {"color": colour, "marker": markers[cell.level], "markerfacecolor": face, "markersize": 7}
            errorbars(axes, [x], [e], "", linestyle="none", **style)


def _apart(values: Sequence[float], inch: float) -> list[float]:
    """The values, those that are equal to 1 % side by side."""
    places, order = list(values), sorted(range(len(values)), key=values.__getitem__)
    while order:
        alike = [i for i in order if values[i] <= 1.01 * values[order[0]]]
        order = order[len(alike) :]
        for rank, i in enumerate(alike):
            places[i] *= inch ** (0.1 * (rank - (len(alike) - 1) / 2))
    return places


def _cost_axis(axes: Axes, values: Sequence[float]) -> float:
    """A log axis with round numbers, the closer the narrower it is. Returns the factor of an inch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    inch = max(max(values) / min(values), 2) ** (1 / (COST_PANEL_INCHES - 2 * MARGIN_INCHES))
    low, high = min(values) / inch**MARGIN_INCHES, max(values) * inch**MARGIN_INCHES
    decades = log(high / low) / log(10)
    digits = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 2 else (1.0, 2.0, 5.0)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=digits if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.tick_params(axis="x", labelsize=9)
    return inch


def _cost_legends(figure: Figure, colours: Mapping[str, str], markers: Mapping[float, str]) -> None:
    from matplotlib.lines import Line2D

    grey = {"color": "0.3", "linestyle": "none", "markersize": 7}
    series = [Line2D([], [], color=colour, linewidth=3, label=legend_label(name)) for name, colour in colours.items()]
    levels = [Line2D([], [], marker=marker, label=f"level {level:g}", **grey) for level, marker in markers.items()]
    hollow = Line2D([], [], marker="o", markerfacecolor="white", label="hollow: another is as good for less", **grey)
    style, width = {"frameon": False, "fontsize": 9.5}, figure.get_figwidth()
    ncols = min(4, legend_columns([line.get_label() for line in series], width))
    figure.legend(handles=series, loc="outside upper center", ncols=ncols, **style)
    figure.legend(handles=[*levels, hollow], loc="outside lower center", ncols=9, **style)
