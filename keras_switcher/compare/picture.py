"""The picture of a comparison: accuracy over sparsity, with error bars."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_switcher.compare.figures import Group, Mean
from keras_switcher.files import replacing
from keras_switcher.report.svg import GRID, INK, inline_svg, style

PICTURE_FILE = "pareto.png"

# The colours of Okabe and Ito, which the colour-blind can tell apart, legible on light and dark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7f1c")
_MARKERS = "osD^vP*Xh<"
# Of the methods that aim at no sparsity: dots and dashes, by their lengths.
_LINES = (":", "-.", "--", (0, (8, 2)), (0, (1, 4)), (0, (8, 2, 1, 2, 1, 2)))
# Ticks of the axis of errors in each decade, from coarse to fine.
_STEPS = (
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 7),
    *(tuple(n / parts for n in range(parts, 10 * parts)) for parts in (20, 100, 1000)),
)
_FEWEST_TICKS, _MOST_TICKS = 4, 8
# The least error in percent with a place on that axis: half of one in ten thousand examples.
_LEAST = 0.005


def write_picture(groups: Sequence[Group], path: Path, part: str = "test") -> None:
    """Write the picture as PNG, as one atomic unit.

    Args:
        groups: The results, in the order of the methods.
        path: The file.
        part: The examples whose accuracy is drawn: "test" or "validation".
    """
    with matplotlib.rc_context({"axes.spines.right": False, "axes.spines.top": False}):
        figure = draw(groups, "#39424f", "#d5dae1", part)
        FigureCanvasAgg(figure)
        with replacing(path) as temporary:
            figure.savefig(
                temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None}
            )


def picture(groups: Sequence[Group], alt: str, part: str = "test") -> str:
    """Return the same picture as an element of a page.

    Args:
        groups: The results, in the order of the methods.
        alt: What it shows, for those who can't see it.
        part: As for `write_picture`.
    """
    with style():
        return inline_svg(draw(groups, INK, GRID, part), "pareto", alt)


def draw(groups: Sequence[Group], ink: str, grid: str, part: str = "test") -> Figure:
    """Return the figure: the share of wrong answers on a logarithmic axis, the best at the top.

    Args:
        groups: The results, in the order of the methods.
        ink: Colour of the letters.
        grid: Colour of the grid lines.
        part: As for `write_picture`.
    """
    methods = list(dict.fromkeys(group.method for group in groups))
    sparse = list(dict.fromkeys(g.method for g in groups if g.target_sparsity is not None))
    # The legend has a line for each.
    height = max(4.8, 0.21 * len(methods) + 0.4)
    figure = Figure(figsize=(9.0, height), layout="constrained")
    axes = figure.add_subplot()
    targets = sorted({g.target_sparsity for g in groups if g.target_sparsity is not None})
    places = {target: float(index) for index, target in enumerate(targets)}
    levels = itertools.cycle(_LINES)
    for index, method in enumerate(methods):
        own = [group for group in groups if group.method == method]
        # No other method has the colour of the first.
        others = _COLOURS[1:]
        colour = _COLOURS[0] if index == 0 else others[(index - 1) % len(others)]
        if own[0].target_sparsity is None:
            _level(axes, own[0], ink, next(levels), part)
            continue
        # The methods stand beside each other, so that their error bars don't hide one another:
        # equally far apart on paper however many sparsities there are, but nearer to their own
        # sparsity than to the next. A single sparsity has all the room.
        width = min(0.06 * len(targets), 0.7) if len(targets) > 1 else 0.7
        shift = width * (sparse.index(method) / (len(sparse) - 1) - 0.5) if sparse[1:] else 0.0
        means = [group.mean(f"{part}_accuracy") for group in own]
        errors = [_errors(mean) for mean in means]
        axes.errorbar(
            [places[group.target_sparsity or 0.0] + shift for group in own],
            [error for _, error, _ in errors],
            yerr=[[error - low for low, error, _ in errors], [h - error for _, error, h in errors]],
            label=_label(own[0]),
            color=colour,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=6 if index == 0 else 4.5,
            linewidth=2.4 if index == 0 else 1.2,
            linestyle="-" if index < len(_COLOURS) else "--",
            capsize=2.5,
            zorder=10 if index == 0 else 3,
        )
    _scale(axes, places, ink, grid)
    axes.set_ylabel(f"{part} accuracy", color=ink)
    figure.legend(loc="outside right upper", frameon=False, labelcolor=ink, fontsize=9)
    return figure


def _level(axes: Axes, group: Group, colour: str, line: Any, part: str) -> None:
    """Draw a method that aims at no sparsity as a horizontal line across the picture."""
    low, error, high = _errors(group.mean(f"{part}_accuracy"))
    axes.axhline(error, color=colour, linewidth=1.2, linestyle=line, label=_label(group))
    if high > low:
        axes.axhspan(low, high, color=colour, alpha=0.1, linewidth=0)


def _label(group: Group) -> str:
    """Return a title as matplotlib takes it for text: it reads formulas, and hides names with _."""
    title = group.title.replace("$", r"\$")
    return f" {title}" if title.startswith("_") else title


def _errors(mean: Mean) -> tuple[float, float, float]:
    """Return an error in percent, between those a standard deviation down and up."""
    error, deviation = 100 * (1 - mean.mean), 100 * (mean.deviation or 0.0)
    low, middle, high = (max(_LEAST, e) for e in (error - deviation, error, error + deviation))
    return low, middle, high


def _ticks(best: float, worst: float) -> list[float]:
    """Return errors between two others for the axis to label, about evenly spaced on it."""
    for steps in _STEPS:
        errors = [step * 10**power for power in (-2, -1, 0, 1) for step in steps]
        inside = [round(error, 6) for error in errors if best <= error <= worst]
        if len(inside) >= _FEWEST_TICKS:
            break
    least = math.log(worst / best) / _MOST_TICKS
    chosen: list[float] = []
    for error in inside:
        if not chosen or math.log(error / chosen[-1]) >= least:
            chosen.append(error)
    return chosen


def _scale(axes: Axes, places: dict[float, float], ink: str, grid: str) -> None:
    axes.set_yscale("log")
    worst, best = axes.get_ylim()[1], axes.get_ylim()[0]
    axes.set_ylim(worst, best)
    ticks = _ticks(best, worst)
    axes.set_yticks(ticks, [f"{100 - error:g} %" for error in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks(list(places.values()), [f"{100 * target:g} %" for target in places])
    if places:
        # Room on both sides, even of a single sparsity.
        axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("sparsity of the dense layers", color=ink)
    axes.tick_params(labelcolor=ink, color=grid)
    axes.grid(axis="y", color=grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(grid)
