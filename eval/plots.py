"""The pictures of a report. No x axis is the level: levels 12 and 16 can cost the same."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import log
from typing import TYPE_CHECKING, Any

from eval.cells import (
    COSTS,
    Cell,
    are_grouped,
    curves,
    dominated,
    estimate,
    groups,
    mean_of,
    tasks,
    with_control,
)
from eval.stats import Estimate

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
#: Tasks drawn beside the mean where nobody groups them.
DRAWN_TASKS = 4
#: Distance of slanted tick labels.
SLANTED_INCHES = 0.19
#: A tick label's width; the distance of neighbouring points at one token count; the space beside the outer points.
LABEL_INCHES, STEP_INCHES, MARGIN_INCHES = 0.72, 0.06, 0.45
#: Width of the plotted area of a panel, in inches.
PANEL_INCHES, SMALL_PANEL_INCHES, COST_PANEL_INCHES = 6.8, 2.6, 4.2
#: Width of a column of the heat map, and of a letter above it.
HEAT_INCHES, TITLE_INCHES = 0.78, 0.085


def accuracy_vs_tokens(cells: Sequence[Cell]) -> bytes:
    """PNG: accuracy over visual tokens, a line for each group of tasks, a panel for each series."""
    all_curves = curves(cells)
    figure = _figure((PANEL_INCHES + 0.6) * len(all_curves) + 2.6, 5.2)
    panels = figure.subplots(1, len(all_curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, all_curves.items(), strict=True):
        _group_panel(axes, cells, curve, _lines(cells))
        axes.set_xlabel("visual tokens of a clip (log scale), pool level below")
        axes.set_title(name, fontsize=11)
    panels[0].set_ylabel("accuracy in %, with 95 % interval")
    legend = _legend(panels)
    panels[-1].legend(
        legend.values(),
        legend.keys(),
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        fontsize=9.5,
    )
    return _png(figure)


def score_vs_tokens(models: Sequence[Cell], highest: float) -> bytes:
    """PNG: a judge's mean scores over visual tokens, a line for each aspect, a panel for each series.

    A model holds `aspects`: name -> Estimate from 0 to `highest`, or None without a score.
    """
    all_curves = curves(models)
    figure = _figure((PANEL_INCHES + 0.6) * len(all_curves) + 2.6, 5.2)
    panels = figure.subplots(1, len(all_curves), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(aspect for model in models for aspect in model["aspects"]))
    for axes, (name, curve) in zip(panels, all_curves.items(), strict=True):
        inch = _inch(curve, PANEL_INCHES)
        places = _places(curve, apart=inch ** (STEP_INCHES * (len(names) + 0.5)))
        for i, aspect in enumerate(names):
            known = [(x, found) for x, model in zip(places, curve, strict=True) if (found := model["aspects"][aspect])]
            at = [x * inch ** (STEP_INCHES * (i - len(names) / 2)) for x, _ in known]
            values = [Estimate(*(part / 100 for part in found)) for _, found in known]
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            _errorbars(axes, at, values, aspect, linestyle="-", **style)
        axes.set_ylim(0, 1.03 * highest)
        axes.grid(axis="y", color="0.9")
        _token_axis(axes, curve)
        axes.set_xlabel("visual tokens of a clip (log scale), pool level below")
        axes.set_title(name, fontsize=11)
    panels[0].set_ylabel(f"mean score, 0 to {highest:g}, with 95 % interval")
    legend = _legend(panels)
    panels[-1].legend(
        legend.values(), legend.keys(), loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9.5
    )
    return _png(figure)


def tasks_by_level(cells: Sequence[Cell]) -> bytes:
    """PNG: a small panel for each task, accuracy over visual tokens, a line for each series."""
    names, all_curves = tasks(cells), curves(cells)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = _figure((SMALL_PANEL_INCHES + 0.5) * columns + 0.4, 2.5 * rows + 1.1)
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
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=9.5)
    return _png(figure)


def accuracy_vs_cost(cells: Sequence[Cell]) -> bytes:
    """PNG: a panel for each cost, accuracy over it; hollow where another model is as good for less."""
    names, levels = list(curves(cells)), sorted({cell["level"] for cell in cells})
    markers = {level: MARKERS[i % len(MARKERS)] for i, level in enumerate(levels)}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figure = _figure((COST_PANEL_INCHES + 0.3) * len(COSTS) + 0.7, 5.2)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, cost in zip(panels, COSTS, strict=True):
        _cost_panel(axes, cells, cost, colours, markers)
    panels[0].set_ylabel("accuracy in %, mean of all tasks, with 95 % interval")
    figure.align_xlabels(panels)
    _cost_legends(figure, colours, markers)
    return _png(figure)


def differences(
    cells: Sequence[Cell], tested: Mapping[tuple[str, str, str], tuple[float, bool]], all_questions: str
) -> bytes | None:
    """PNG: for each task, how far each level is from the finest one; None where no series has two levels.

    `tested` holds (finest, level, task) by the experiments' names -> by how many points the level is above the finest,
    and whether that is more than chance; `all_questions` is what all tasks together are called in it.
    """
    all_curves = {name: curve for name, curve in curves(cells).items() if len(curve) > 1}
    if not all_curves:
        return None
    names = [all_questions, *tasks(cells)]
    found = {
        name: [[tested.get((curve[0]["experiment"], cell["experiment"], task)) for cell in curve[1:]] for task in names]
        for name, curve in all_curves.items()
    }
    # The colours reach as far as the largest difference, yet small ones do not look large.
    limit = max([10.0, *(abs(cell[0]) for rows in found.values() for row in rows for cell in row if cell)])
    titles = [_heat_title(name, curve, len(all_curves) > 1) for name, curve in all_curves.items()]
    longest = [max(map(len, title.split("\n"))) for title in titles]
    widths = [
        max(HEAT_INCHES * (len(curve) - 1), TITLE_INCHES * letters if len(titles) > 1 else 0)
        for curve, letters in zip(all_curves.values(), longest, strict=True)
    ]
    # What stands below the panels is wider than a narrow one.
    figure = _figure(max(sum(widths) + 0.4 * len(widths) + 2.9, 6.4), 0.32 * len(names) + 1.9)
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (name, curve), title in zip(panels, all_curves.items(), titles, strict=True):
        values = [[cell[0] if cell else float("nan") for cell in row] for row in found[name]]
        image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        axes.set_title(title, fontsize=10)
        labels = [f"level {cell['level']:g}\n{cell['visual_tokens']:,}" for cell in curve[1:]]
        axes.set_xticks(range(len(labels)), labels, fontsize=8.5)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.axhline(0.5, color="black", linewidth=1)
        axes.tick_params(length=0)
        for y, row in enumerate(found[name]):
            for x, cell in enumerate(row):
                _heat_text(axes, x, y, *(cell or (None, False)), limit)
    figure.colorbar(image, ax=list(panels), fraction=0.03, pad=0.02).set_label("points", fontsize=9)
    figure.supxlabel("pool level and visual tokens; framed and *: more than chance (adjusted p < 0.05)", fontsize=9.5)
    return _png(figure)


def _heat_title(name: str, curve: Sequence[Cell], several: bool) -> str:
    """In two lines where panels stand beside one another."""
    return f"{name}{chr(10) if several else ': '}points from level {curve[0]['level']:g}"


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
            face = "white" if cell["experiment"] in better else colour
            style = {"color": colour, "marker": markers[cell["level"]], "markerfacecolor": face, "markersize": 7}
            _errorbars(axes, [x], [e], "", linestyle="none", **style)


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
    series = [Line2D([], [], color=colour, linewidth=3, label=name) for name, colour in colours.items()]
    levels = [Line2D([], [], marker=marker, label=f"level {level:g}", **grey) for level, marker in markers.items()]
    hollow = Line2D([], [], marker="o", markerfacecolor="white", label="hollow: another is as good for less", **grey)
    style = {"frameon": False, "fontsize": 9.5}
    figure.legend(handles=series, loc="outside upper center", ncols=4, **style)
    figure.legend(handles=[*levels, hollow], loc="outside lower center", ncols=9, **style)


def _lines(cells: Sequence[Cell]) -> list[str | None]:
    """The groups to draw; without groups the mean over all tasks (None) and the tasks that change most."""
    if are_grouped(cells):
        return list(groups(cells))

    def change(task: str) -> float:
        return max(_spread([estimate(cell, task).value for cell in curve]) for curve in curves(cells).values())

    return [None, *sorted(tasks(cells), key=change, reverse=True)[:DRAWN_TASKS]]


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _group_panel(axes: Axes, cells: Sequence[Cell], curve: Sequence[Cell], lines: Sequence[str | None]) -> None:
    inch = _inch(curve, PANEL_INCHES)
    # One place for each line and one for the blind control: nothing hides what lies at the same tokens.
    slots = [inch ** (STEP_INCHES * (i - len(lines) / 2)) for i in range(len(lines) + 1)]
    places = _places(curve, apart=inch ** (STEP_INCHES * (len(slots) + 0.5)))
    for i, line in enumerate(lines):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        label = line or "mean of all tasks"
        at = [x * slots[i] for x in places]
        _errorbars(axes, at, [estimate(cell, line) for cell in curve], label, linestyle="-", **style)
        if line in (None, "temporal"):
            asked = _asked(cells, curve, at, "one_frame")
            found = [estimate(cell, line) for cell in asked.values()]
            label = f"{label}, one frame repeated"
            _errorbars(axes, list(asked), found, label, linestyle=":", markerfacecolor="white", **style)
    blind = _asked(cells, curve, [x * slots[-1] for x in places], "blind")
    found = [estimate(cell, None) for cell in blind.values()]
    _errorbars(axes, list(blind), found, "blind (no video), all tasks", color="black", marker="x", linestyle=":")
    _chance_lines(axes, {line: 100 * mean_of(curve[0], line, "chance") for line in lines})
    _percent_axis(axes)
    _token_axis(axes, curve)


def _chance_lines(axes: Axes, chances: Mapping[str | None, float]) -> None:
    """One line where every group has the same chance, else one in each group's colour."""
    if _spread(list(chances.values())) < 0.5:
        axes.axhline(next(iter(chances.values())), color="0.45", linestyle="--", linewidth=1, label="chance", zorder=1)
        return
    for i, (line, chance) in enumerate(chances.items()):
        label, colour = f"chance, {line or 'all tasks'}", COLOURS[i % len(COLOURS)]
        axes.axhline(chance, color=colour, linestyle="--", linewidth=0.9, label=label, zorder=1)


def _task_panel(axes: Axes, cells: Sequence[Cell], all_curves: Mapping[str, list[Cell]], task: str) -> None:
    shown = [cell for curve in all_curves.values() for cell in curve]
    inch = _inch(shown, SMALL_PANEL_INCHES)
    for i, (name, curve) in enumerate(all_curves.items()):
        held = [cell for cell in curve if task in cell["scores"]["tasks"]]
        apart = inch ** (STEP_INCHES * (len(all_curves) + len(CONTROL_LABELS) - 1))
        at = [x * inch ** (STEP_INCHES * i) for x in _places(held, apart)]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        found = [_task_estimate(cell, task) for cell in held]
        label = f"{name}, all frames"
        _errorbars(axes, at, found, label, color=colour, marker=marker, linestyle="-", markersize=4)
        for j, (control, said) in enumerate(CONTROL_LABELS.items(), start=len(all_curves)):
            beside = [x * inch ** (STEP_INCHES * j) for x in at]
            asked = _asked(cells, held, beside, control)
            found = [_task_estimate(cell, task) for cell in asked.values()]
            style = CONTROL_STYLES[control] | ({"color": colour} if len(all_curves) > 1 else {})  # whose it is
            _errorbars(axes, list(asked), found, f"{name}, {said}", linestyle="none", markersize=5, **style)
    row = next(cell["scores"]["tasks"][task] for cell in shown if task in cell["scores"]["tasks"])
    axes.axhline(100 * row["chance"], color="0.45", linestyle="--", linewidth=1, label="chance", zorder=1)
    group = f" ({row['group']})" if row["group"] != task else ""
    needs = "" if row["needs_level"] is None else f"\nneeds level {row['needs_level']:g} or finer"
    axes.set_title(f"{task}{group}{needs}", fontsize=9.5)
    _percent_axis(axes)
    _small_token_axis(axes, shown)


def _task_estimate(cell: Cell, task: str) -> Estimate:
    row = cell["scores"]["tasks"][task]
    return Estimate(row["accuracy"], row["ci_low"], row["ci_high"])


def _asked(cells: Sequence[Cell], curve: Sequence[Cell], places: Sequence[float], control: str) -> dict[float, Cell]:
    """Place -> control, at the place of the model that was asked: a blind one is shown no tokens itself."""
    pairs = zip(places, (with_control(cells, cell, control) for cell in curve), strict=True)
    return {place: cell for place, cell in pairs if cell}


def _errorbars(axes: Axes, x: Sequence[float], found: Sequence[Estimate], label: str, **style: Any) -> None:
    if not x:
        return
    values = [100 * e.value for e in found]
    below = [100 * max(0.0, e.value - e.low) for e in found]
    above = [100 * max(0.0, e.high - e.value) for e in found]
    axes.errorbar(x, values, yerr=[below, above], label=label, capsize=2.5, linewidth=1.5, elinewidth=1, **style)


def _inch(cells: Sequence[Cell], panel: float) -> float:
    """The factor of tokens that one inch stands for in a panel so wide."""
    tokens = [cell["visual_tokens"] for cell in cells]
    return max(max(tokens) / min(tokens), 2) ** (1 / (panel - 2 * MARGIN_INCHES))


def _places(curve: Sequence[Cell], apart: float) -> list[float]:
    """Where the points go: at their tokens, those of equal tokens beside one another by the factor `apart`."""
    places: list[float] = []
    for tokens, same in groupby(curve, key=lambda cell: cell["visual_tokens"]):
        count = len(list(same))
        places += [tokens * apart ** ((count - 1) / 2 - i) for i in range(count)]
    return places


def _ticks(cells: Sequence[Cell]) -> dict[int, str]:
    """Tokens -> the levels that cost so many, from few tokens to many."""
    levels: dict[int, list[float]] = {}
    for cell in sorted(cells, key=lambda cell: cell["visual_tokens"]):
        levels.setdefault(cell["visual_tokens"], []).append(cell["level"])
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


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 103)
    axes.grid(axis="y", color="0.9")


def _legend(panels: Sequence[Axes]) -> dict[str, Any]:
    """Label -> handle over all panels, the chance lines last."""
    found: dict[str, Any] = {}
    for axes in panels:
        found |= {label: h for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("chance")))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    """The picture's bytes, without the version that would change them."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
