"""The pictures of a run's report: curves as SVG, masks as PNG, all made to stand inside a page."""

import base64
import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Matplotlib draws with these; the page gets the style sheet's variable instead, so that a curve
# follows the reader's light or dark mode.
_INK, _GRID, _BAND, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _BAND: "var(--band)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}
_STYLE: Any = {
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": _GRID,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_switcher",
    "text.color": _INK,
    "xtick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.color": _GRID,
    "ytick.labelcolor": _INK,
}
_NO_METADATA: Any = {"Date": None, "Creator": None}
_NO_SOFTWARE: Any = {"Software": None}
_PHASES = {"warmup": "warm-up"}
# What a connection that is on looks like; one that is off is transparent.
_ON = (37, 106, 196)
_SHOWN_UNITS = 32

Row = Mapping[str, Any]


def curves(
    history: Sequence[Row],
    columns: Sequence[str],
    *,
    name: str,
    alt: str,
    percent: bool = False,
    target: float | None = None,
) -> str:
    """Draw columns of a run's history over its epochs, with its phases as bands behind them.

    Args:
        history: One row per epoch, with `epoch` and, if it is known, `phase`.
        columns: The one or two columns to draw; the first as a full line, the second dashed.
        name: A word that no other picture of the page has: ids in the SVG start with it.
        alt: What the picture shows, for those who can't see it.
        percent: Whether the values are shares, to be labelled as percentages.
        target: Value of a horizontal line labelled as the target.

    Returns:
        An `svg` element in the page's colours and font; the same input gives the same text.
    """
    epochs = [row["epoch"] for row in history]
    series = [[_number(row.get(column)) for row in history] for column in columns]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.75, 2.4))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.16, 0.165, 0.82, 0.73))
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        _draw_phases(axes, history)
        marker = "o" if len(epochs) <= 30 else None
        for values, colour, dashes in zip(
            series, (_FIRST, _SECOND), ("-", (0, (3, 1.6))), strict=False
        ):
            axes.plot(epochs, values, color=colour, linestyle=dashes, marker=marker, markersize=2.6)
        if target is not None:
            axes.axhline(target, color=_SECOND, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.text(
                0.015,
                target - 0.02,
                f"target {target:.4g}" if not percent else f"target {100 * target:.4g} %",
                transform=axes.get_yaxis_transform(),
                verticalalignment="top",
                color=_SECOND,
            )
        _label_values(axes, series, percent, from_zero=target is not None)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", labelpad=1)
        axes.grid(axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=2.5)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline_svg(text.getvalue(), name, alt)


def pixel_counts(mask: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Count the connections that read each pixel.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).
        image_shape: Height, width and channels, whose product is the number of inputs.

    Returns:
        Integers of shape (height, width), summed over channels and units.
    """
    return mask.reshape(*image_shape, -1).sum(axis=(2, 3))


def unit_masks(mask: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return each unit's mask as an image.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).
        image_shape: Height, width and channels, whose product is the number of inputs.

    Returns:
        Shares of (units, height, width): how many of a pixel's channels the unit reads.
    """
    return np.moveaxis(mask.reshape(*image_shape, -1).mean(axis=2), -1, 0)


def density(mask: np.ndarray, rows: int = 100, columns: int = 160) -> np.ndarray:
    """Return the share of connections that are on, cell by cell of a coarse grid.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).
        rows: Largest number of rows, over which the units are spread.
        columns: Largest number of columns, over which the inputs are spread.

    Returns:
        Shares of shape (rows, columns): units downwards, inputs from left to right.
    """
    picture = mask.T.astype("float64")
    for axis, cells in ((0, rows), (1, columns)):
        size = picture.shape[axis]
        edges = np.linspace(0, size, min(cells, size) + 1).round().astype(int)
        lengths = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        picture = np.add.reduceat(picture, edges[:-1], axis=axis) / lengths
    return picture


def data_uri(shares: np.ndarray) -> str:
    """Return a picture of values in [0, 1] as a PNG inside a data URI, one pixel per value.

    Zero is transparent and one is opaque blue: readable on light and on dark ground.

    Args:
        shares: Values of shape (height, width).
    """
    pixels = np.empty((*shares.shape, 4), "uint8")
    pixels[..., :3] = _ON
    pixels[..., 3] = np.round(255 * np.clip(shares, 0, 1))
    file = io.BytesIO()
    imsave(file, pixels, format="png", metadata=_NO_SOFTWARE)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def pixel_figures(mask: np.ndarray, image_shape: tuple[int, int, int]) -> str:
    """Show the mask of a layer that reads an image: summed over its units, and unit by unit.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).
        image_shape: Height, width and channels, whose product is the number of inputs.

    Returns:
        Two `figure` elements in a `div`.
    """
    height, width, channels = image_shape
    size = f'width="{width}" height="{height}"'
    pixels = f"{width} × {height} pixels"
    counts = pixel_counts(mask, image_shape)
    most = int(counts.max())
    never = f"no unit reads {counted(int((counts == 0).sum()), 'pixel')}"
    alt = f"Heat map of {pixels}: up to {counted(most, 'connection')} per pixel, {never}."
    added = "" if channels == 1 else f" The {channels} channels of a pixel are added up."
    incoming = mask.sum(axis=0)
    shown = np.flatnonzero(incoming)[:_SHOWN_UNITS]
    masks = unit_masks(mask, image_shape)
    tiles = "\n".join(
        f'<li><img class="mask" src="{data_uri(masks[unit])}" {size} alt="Mask of unit {unit}, '
        f'{incoming[unit]} of {len(mask)} inputs on">#{unit}: {incoming[unit]:,}</li>'
        for unit in shown
    )
    return f"""<div class="pixels">
<figure><figcaption>How many connections read each of the {pixels}; {never}.\
{added}</figcaption>
<img class="mask" src="{data_uri(counts / max(1, most))}" {size} alt="{alt}">
{_scale("0", f"{most:,}")}</figure>
<figure><figcaption>What single units read: the first {counted(len(shown), "unit")} that have an \
input, each with its number and how many of its inputs are on.</figcaption>
<ul class="units">
{tiles}
</ul></figure>
</div>"""


def density_figure(mask: np.ndarray) -> str:
    """Show where in a kernel connections are on.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).

    Returns:
        A `figure` element.
    """
    cells = density(mask)
    least, most = float(cells.min()), float(cells.max())
    inputs, units = mask.shape
    rows, columns = cells.shape
    alt = (
        f"Density over {inputs:,} inputs and {units:,} units: from {percent(least)} to "
        f"{percent(most)} of the connections on."
    )
    # A layer of few units would be a hairline, one of few inputs a tower.
    ratio = min(6.0, max(1.5, columns / rows))
    return f"""<figure><figcaption>Share of connections that are on: inputs from left to right, \
units from top to bottom.</figcaption>
<img class="mask" src="{data_uri(cells / (most or 1))}" width="{columns}" height="{rows}" \
style="aspect-ratio:{ratio:.2f}" alt="{alt}">
{_scale("0 %", f"{100 * most:.3g} %")}</figure>"""


def percent(share: float) -> str:
    """Write a share as a percentage with two decimals."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts, which takes an `s` in the plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _scale(low: str, high: str) -> str:
    return (
        f'<p class="scale"><span>{low}</span><span class="ramp" aria-hidden="true"></span>'
        f"<span>{high}</span></p>"
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _draw_phases(axes: Any, history: Sequence[Row]) -> None:
    """Shade every second phase, and name each above the axes."""
    groups = [
        (phase, [row["epoch"] for row in rows])
        for phase, rows in itertools.groupby(history, key=lambda row: row.get("phase"))
    ]
    for index, (phase, epochs) in enumerate(groups):
        if phase is None:
            continue
        left, right = epochs[0] - 0.5, epochs[-1] + 0.5
        if index % 2:
            axes.axvspan(left, right, color=_BAND, linewidth=0)
        # Set at the outer edges, the names of short first and last phases do not meet the others.
        first, last = index == 0, index == len(groups) - 1
        x, side = (left, "left") if first else (right, "right") if last else (None, "center")
        axes.text(
            (left + right) / 2 if x is None else x,
            1.02,
            _PHASES.get(phase, phase),
            transform=axes.get_xaxis_transform(),
            horizontalalignment=side,
        )


def _label_values(
    axes: Any, series: Sequence[Sequence[float]], percent: bool, from_zero: bool
) -> None:
    """Choose the scale of the values and how its ticks are written."""
    values = [v for line in series for v in line if math.isfinite(v)]
    if percent and from_zero:
        axes.set_ylim(-0.02, 1.02)
    elif not percent and values and 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _inline_svg(text: str, name: str, alt: str) -> str:
    """Make a file of Matplotlib's an element of a page: own ids, the page's colours and font."""
    text = text[text.index("<svg") :]
    # A style element inside a page would hold for the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]+"', text)
    if box is None:
        raise ValueError("Matplotlib wrote an SVG without a viewBox.")
    # The page decides the size; the namespaces are known to HTML.
    return re.sub(
        r"<svg[^>]*>",
        lambda _: f'<svg role="img" aria-label="{html.escape(alt)}" {box[0]}>',
        text,
        count=1,
    )
