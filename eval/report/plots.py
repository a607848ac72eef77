"""Accuracy and judged scores over visual tokens. No x axis is the level: levels 12 and 16 can cost the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import log
from typing import TYPE_CHECKING, Any

from eval.report.cells import are_grouped, curves, estimate, groups, has_mean, tasks, with_control
from eval.report.pictures import drawn, legend_columns, legend_label, new_figure, wrapped
from eval.report.results import Cell
from eval.statistics.estimates import ACCURACY, Estimate, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind too.
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#5B4B8A")
MARKERS = "osD^vPXh"
CONTROL_LABELS = {"one_frame": "one frame repeated", "shuffled": "frames shuffled", "blind": "blind (no video)"}
CONTROL_STYLES = {
    "one_frame": {"color": COLOURS[2], "marker": "^", "markerfacecolor": "white"},
    "shuffled": {"color": COLOURS[4], "marker": "v", "markerfacecolor": "white"},
    "blind": {"color": "black", "marker": "x"},
}
#: Tasks drawn in addition to the mean where nobody groups them.
DRAWN_TASKS = 4
MEAN_LINE = "mean of all tasks"
#: Distance of slanted tick labels.
SLANTED_INCHES = 0.19
#: A tick label's width; the distance of neighbouring points at one token count; the margin outside the outer points.
LABEL_INCHES, STEP_INCHES, MARGIN_INCHES = 0.72, 0.06, 0.45
#: Width of the plotted area of a panel, in inches.
PANEL_INCHES, SMALL_PANEL_INCHES = 6.8, 2.6
#: Panels in a row: more would be too small to read on a page.
PANEL_COLUMNS = 2


def means_vs_tokens(cells: Sequence[Cell]) -> dict[str, bytes]:
    """Accuracy or mean score over visual tokens, a panel for each series; a picture by its ending.

    A line for each group of tasks, or for each aspect that was judged.
    """
    scale, lines = cells[0].scale, _lines(cells)
    figure, panels = _token_panels(curves(cells))
    for axes, curve in zip(panels, curves(cells).values(), strict=True):
        _group_panel(axes, cells, curve, lines)
    what = "accuracy in %" if scale is ACCURACY else f"mean score, 0 to {scale.highest:g}"
    figure.supylabel(f"{what}, with 95 % interval", fontsize=10)
    legend = _legend(panels)
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", frameon=False, fontsize=9.5)
    return drawn(figure)


def _token_panels(all_curves: Mapping[str, Sequence[Cell]]) -> tuple[Figure, list[Axes]]:
    """An empty panel for each series, at most `PANEL_COLUMNS` in a row."""
    across = min(PANEL_COLUMNS, len(all_curves))
    down = -(-len(all_curves) // across)
    figure = new_figure((PANEL_INCHES + 0.6) * across + 2.9, 4.7 * down + 0.5)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in panels[len(all_curves) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, all_curves, strict=False):
        axes.set_xlabel("visual tokens of a clip (log scale), pool level below")
        axes.set_title(wrapped(name, PANEL_INCHES), fontsize=11)
    return figure, list(panels[: len(all_curves)])


def tasks_by_level(cells: Sequence[Cell]) -> dict[str, bytes]:
    """A small panel for each task, accuracy over visual tokens, a line for each series; a picture by its ending."""
    all_curves = curves(cells)
    names = tasks([cell for curve in all_curves.values() for cell in curve])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    width = (SMALL_PANEL_INCHES + 0.5) * columns + 0.4
    figure = new_figure(width, 2.5 * rows + 1.1)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, task in zip(panels, names, strict=False):
        _task_panel(axes, cells, all_curves, task)
    for i, axes in enumerate(panels):
        axes.set_visible(i < len(names))
        # The lowest panel of a column carries the labels, also above an empty place.
        axes.tick_params(labelbottom=i < len(names) <= i + columns)
    figure.supxlabel("visual tokens of a clip (log scale), pool level in brackets", fontsize=10)
    figure.supylabel("accuracy in %, with 95 % interval", fontsize=10)
    legend = _legend(panels)
    ncols = min(4, legend_columns(legend, width))
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=ncols, frameon=False, fontsize=9.5)
    return drawn(figure)


def _lines(cells: Sequence[Cell]) -> dict[str, str | None]:
    """What a line is called -> its group of tasks (the aspect that was judged), None for all tasks.

    Without groups that hold several tasks: the mean over all, and the tasks that change most.
    """
    if cells[0].scale is not ACCURACY:
        return {aspect: aspect for aspect in dict.fromkeys(name for cell in cells for name in cell.tasks)}
    if are_grouped(cells):
        return {group: group for group in groups(cells)}
    alone = {row.group: row.name for cell in cells for row in cell.rows()}

    def change(group: str) -> float:
        held = ([estimate(cell, group).value for cell in curve if cell.rows(group)] for curve in all_curves)
        return max(map(_spread, held))

    all_curves = list(curves(cells).values())
    changing = sorted(alone, key=change, reverse=True)[:DRAWN_TASKS]
    return {MEAN_LINE: None} | {alone[group]: group for group in changing}


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0


def _group_panel(axes: Axes, cells: Sequence[Cell], curve: Sequence[Cell], lines: Mapping[str, str | None]) -> None:
    inch, counted = _inch(curve, PANEL_INCHES), curve[0].scale is ACCURACY
    # One place for each line and one for the blind control: nothing hides what lies at the same tokens.
    slots = [inch ** (STEP_INCHES * (i - len(lines) / 2)) for i in range(len(lines) + counted)]
    places = _places(curve, apart=inch ** (STEP_INCHES * (len(slots) + 0.5)))
    for i, (name, group) in enumerate(lines.items()):
        at, style = [x * slots[i] for x in places], _style(i)
        _group_line(axes, at, curve, group, name, linestyle="-", **style)
        if counted and group in (None, "temporal"):
            asked = _asked(cells, curve, at, "one_frame")
            label = _counted(f"{name}, one frame repeated", asked, curve)
            style |= {"linestyle": ":", "markerfacecolor": "white"}
            _group_line(axes, list(asked), list(asked.values()), group, label, **style)
    if counted:
        blind = _asked(cells, curve, [x * slots[-1] for x in places], "blind")
        style = {"color": "black", "marker": "x", "linestyle": ":"}
        label = _counted("blind (no video), all tasks", blind, curve)
        _group_line(axes, list(blind), list(blind.values()), None, label, **style)
        held = {name: next((cell for cell in curve if cell.rows(group)), None) for name, group in lines.items()}
        _chance_lines(axes, {name: 100 * cell.mean_of(lines[name], "chance") for name, cell in held.items() if cell})
    _value_axis(axes, curve[0].scale)
    _token_axis(axes, curve)


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def _group_line(
    axes: Axes, places: Sequence[float], cells: Sequence[Cell], group: str | None, label: str, **style: Any
) -> None:
    """The mean over the tasks of a group, at the cells that have one of them."""
    held = [(x, cell) for x, cell in zip(places, cells, strict=True) if any(map(has_mean, cell.rows(group)))]
    found = [estimate(cell, group) for _, cell in held]
    errorbars(axes, [x for x, _ in held], found, label, cells[0].scale if cells else ACCURACY, **style)


def _counted(label: str, asked: Mapping[float, Cell], curve: Sequence[Cell]) -> str:
    """The label of a control, with its number of questions where these are fewer than the models'."""
    counts = {len(cell.values()) for cell in asked.values()}
    if not counts or min(counts) >= len(curve[0].values()):
        return label
    return f"{label} (n\u00a0=\u00a0{' to '.join(f'{n:,}' for n in sorted({min(counts), max(counts)}))})"


def _chance_lines(axes: Axes, chances: Mapping[str, float]) -> None:
    """One line where every group has the same chance, else one in each group's colour."""
    if _spread(list(chances.values())) < 0.5:
        axes.axhline(next(iter(chances.values())), color="0.45", linestyle="--", linewidth=1, label="chance", zorder=1)
        return
    for i, (name, chance) in enumerate(chances.items()):
        label, colour = legend_label(f"chance, {name}"), COLOURS[i % len(COLOURS)]
        axes.axhline(chance, color=colour, linestyle="--", linewidth=0.9, label=label, zorder=1)


def _task_panel(axes: Axes, cells: Sequence[Cell], all_curves: Mapping[str, list[Cell]], task: str) -> None:
    shown = [cell for curve in all_curves.values() for cell in curve]
    inch = _inch(shown, SMALL_PANEL_INCHES)
    apart = inch ** (STEP_INCHES * (len(all_curves) + len(CONTROL_LABELS) - 1))
    for i, (name, curve) in enumerate(all_curves.items()):
        held = [cell for cell in curve if task in cell.tasks]
        if not held:
            continue
        at = [x * inch ** (STEP_INCHES * i) for x in _places(held, apart)]
        found, style = [cell.tasks[task].estimate for cell in held], _style(i)
        errorbars(axes, at, found, f"{name}, all frames", linestyle="-", markersize=4, **style)
        for j, (control, said) in enumerate(CONTROL_LABELS.items(), start=len(all_curves)):
            asked = _asked(cells, held, [x * inch ** (STEP_INCHES * j) for x in at], control)
            asked = {place: cell for place, cell in asked.items() if task in cell.tasks}
            found = [cell.tasks[task].estimate for cell in asked.values()]
            whose = {"color": style["color"]} if len(all_curves) > 1 else {}
            label = _counted(f"{name}, {said}", asked, held)
            look = CONTROL_STYLES[control] | whose
            errorbars(axes, list(asked), found, label, linestyle="none", markersize=5, **look)
    row = next(cell.tasks[task] for cell in shown if task in cell.tasks)
    axes.axhline(100 * row.chance, color="0.45", linestyle="--", linewidth=1, label="chance", zorder=1)
    group = f" ({row.group})" if row.group != task else ""
    title = wrapped(f"{task}{group}", SMALL_PANEL_INCHES)
    needs = "" if row.needs_level is None else f"\nneeds level {row.needs_level:g} or finer"
    axes.set_title(f"{title}{needs}", fontsize=9.5)
    _value_axis(axes, ACCURACY)
    _small_token_axis(axes, shown)


def _asked(cells: Sequence[Cell], curve: Sequence[Cell], places: Sequence[float], control: str) -> dict[float, Cell]:
    """Place -> control, at the place of the model that was asked: a blind one is shown no tokens itself."""
    pairs = zip(places, (with_control(cells, cell, control) for cell in curve), strict=True)
    return {place: cell for place, cell in pairs if cell}


def _inch(cells: Sequence[Cell], panel: float) -> float:
    """The factor of tokens that one inch stands for in a panel so wide."""
    tokens = [cell.visual_tokens for cell in cells]
    return max(max(tokens) / min(tokens), 2) ** (1 / (panel - 2 * MARGIN_INCHES))


def _places(curve: Sequence[Cell], apart: float) -> list[float]:
    """Where the points go: at their tokens, those of equal tokens next to one another by the factor `apart`."""
    places: list[float] = []
    for tokens, same in groupby(curve, key=lambda cell: cell.visual_tokens):
        count = len(list(same))
        places += [tokens * apart ** ((count - 1) / 2 - i) for i in range(count)]
    return places


def _ticks(cells: Sequence[Cell]) -> dict[int, str]:
    """Tokens -> the levels that cost so many, from few tokens to many."""
    levels: dict[int, list[float]] = {}
    for cell in sorted(cells, key=lambda cell: cell.visual_tokens):
        levels.setdefault(cell.visual_tokens, []).append(cell.level)
    return {tokens: ", ".join(f"{v:g}" for v in sorted(set(same))) for tokens, same in levels.items()}


def _token_axis(axes: Axes, curve: Sequence[Cell]) -> None:
    """Ticks at the tokens of the cells; labels that would touch go to a lower row."""
    ticks, inch = _ticks(curve), _inch(curve, PANEL_INCHES)
    rows: list[float] = []  # the place of the last label in each row
    labels = []
    for tokens, levels in ticks.items():
        place = log(tokens) / log(inch)
        row = next((r for r, last in enumerate(rows) if place - last >= LABEL_INCHES), len(rows))
        rows[row:] = [place, *rows[row + 1 :]]
        word = "levels" if "," in levels else "level"
        labels.append("\n\n" * row + f"{tokens:,}\n{word} {levels}")
    _log_axis(axes, ticks, inch)
    axes.set_xticks(list(ticks), labels, fontsize=9.5)


def _small_token_axis(axes: Axes, cells: Sequence[Cell]) -> None:
    """Ticks at the tokens of the cells; a label that would touch the one before it is left out."""
    ticks, inch = _ticks(cells), _inch(cells, SMALL_PANEL_INCHES)
    _log_axis(axes, ticks, inch)
    labels, last = [], float("-inf")
    for tokens, levels in ticks.items():
        place = log(tokens) / log(inch)
        labels.append(f"{tokens:,} ({levels})" if place - last >= SLANTED_INCHES else "")
        last = place if labels[-1] else last
    axes.set_xticks(list(ticks), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)


def _log_axis(axes: Axes, ticks: Mapping[int, str], inch: float) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(min(ticks) / inch**MARGIN_INCHES, max(ticks) * inch**MARGIN_INCHES)


def _value_axis(axes: Axes, scale: Scale) -> None:
    axes.set_ylim(0, 1.03 * scale.highest * scale.factor)
    axes.grid(axis="y", color="0.9")


def _legend(panels: Sequence[Axes]) -> dict[str, Any]:
    """Label -> handle over all panels, the chance lines last."""
    found: dict[str, Any] = {}
    for axes in panels:
        found |= {label: h for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("chance")))


def errorbars(
    axes: Axes, x: Sequence[float], found: Sequence[Estimate], label: str, scale: Scale = ACCURACY, **style: Any
) -> None:
    """Points with their intervals, shares shown as percent; nothing is drawn without a place."""
    if not x:
        return
    values = [scale.factor * e.value for e in found]
    ends = [(max(0.0, e.low), min(scale.highest, e.high)) for e in found]
    below = [scale.factor * max(0.0, e.value - low) for e, (low, _) in zip(found, ends, strict=True)]
    above = [scale.factor * max(0.0, high - e.value) for e, (_, high) in zip(found, ends, strict=True)]
    axes.errorbar(
        x, values, yerr=[below, above], label=legend_label(label), capsize=2.5, linewidth=1.5, elinewidth=1, **style
    )
