"""The curves of the report: loss, accuracy and sparsity over the epochs, as SVG in the page."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from keras_switcher.report import svg
from keras_switcher.report.wording import percent

_DASHES = (0, (3, 1.6))
_PHASES = {"warmup": "warm-up"}

Row = Mapping[str, Any]


def training_figures(history: Sequence[Row], target: float | None) -> list[str]:
    """Show loss, accuracy and FC sparsity over the epochs.

    Args:
        history: One row per epoch, with `epoch` and, if they are known, `phase`, `loss`,
            `val_loss`, `accuracy`, `val_accuracy` and `sparsity`.
        target: The target sparsity, if there was one.

    Returns:
        A `figure` element for each of the three that the history has.
    """
    figures = []
    for title, keys in (
        ("Loss", {"loss": "training", "val_loss": "validation"}),
        ("Accuracy", {"accuracy": "training", "val_accuracy": "validation"}),
        ("FC sparsity", {"sparsity": "sparsity"}),
    ):
        present = {column: key for column, key in keys.items() if any(column in r for r in history)}
        if present:
            with_target = target if title == "FC sparsity" else None
            figures.append(_figure(title, present, history, with_target))
    return figures


def _figure(
    title: str, keys: Mapping[str, str], history: Sequence[Row], target: float | None
) -> str:
    shares = title != "Loss"
    lines = list(keys.values())
    alt = f"{title} over epochs {history[0]['epoch']} to {history[-1]['epoch']}: " + "; ".join(
        _course(key, [row[column] for row in history if column in row], shares)
        for column, key in keys.items()
    )
    if target is not None:
        lines.append(f"target {100 * target:.4g}\N{NO-BREAK SPACE}%")
        alt += f"; target {percent(target)}"
    legend = "".join(
        f'<span class="key{" second" if index else ""}">{key}</span>'
        for index, key in enumerate(lines)
    )
    picture = draw_curves(
        history,
        list(keys),
        name=title.split()[-1].lower(),
        alt=f"{alt}.",
        shares=shares,
        whole=title == "FC sparsity",
        target=target,
    )
    caption = f"<figcaption><h3>{title}</h3>{legend}</figcaption>"
    return f'<figure class="card">{caption}\n{picture}</figure>'


def _course(name: str, values: Sequence[float], shares: bool) -> str:
    first, last = (percent(v) if shares else f"{v:.4g}" for v in (values[0], values[-1]))
    return f"{name} from {first} to {last}"


def draw_curves(
    history: Sequence[Row],
    columns: Sequence[str],
    *,
    name: str,
    alt: str,
    shares: bool = False,
    whole: bool = False,
    target: float | None = None,
) -> str:
    """Draw columns of a run's history over its epochs, with its phases as bands behind them.

    Args:
        history: One row per epoch, with `epoch` and, if it is known, `phase`.
        columns: The one or two columns to draw; the first as a full line, the second dashed.
        name: A word that no other picture of the page has; ids in the SVG start with it.
        alt: What the picture shows, for those who can't see it.
        shares: Whether the values are shares, to be labelled as percentages.
        whole: Whether shares are drawn from 0 to 100 %.
        target: Where to draw a dashed horizontal line.

    Returns:
        An `svg` element in the page's colours and font; the same input gives the same text.
    """
    epochs = [row["epoch"] for row in history]
    series = [[row.get(column, math.nan) for row in history] for column in columns]
    with svg.style():
        figure = Figure(figsize=(3.75, 2.4))
        axes = figure.add_axes((0.16, 0.165, 0.82, 0.73))
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        _draw_phases(axes, history)
        if target is not None:
            axes.axhline(target, color=svg.SECOND, linewidth=1.2, linestyle=_DASHES, gid="target")
        marker = "o" if len(epochs) <= 30 else None
        for values, colour, style in zip(
            series, (svg.FIRST, svg.SECOND), ("-", _DASHES), strict=False
        ):
            axes.plot(epochs, values, color=colour, linestyle=style, marker=marker, markersize=2.6)
        _label_values(axes, series, shares, from_zero=whole)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", labelpad=1)
        axes.grid(axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=2.5)
        return svg.inline_svg(figure, name, alt)


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
            axes.axvspan(left, right, color=svg.BAND, linewidth=0, gid=f"phase{index}")
        # Aligned with the outer edges, the names of short first and last phases do not overlap the
        # others.
        first, last = index == 0, index == len(groups) - 1
        x, side = (left, "left") if first else (right, "right") if last else (None, "center")
        axes.text(
            (left + right) / 2 if x is None else x,
            1.02,
            _PHASES.get(phase, phase),
            parse_math=False,
            transform=axes.get_xaxis_transform(),
            horizontalalignment=side,
        )


def _label_values(
    axes: Any, series: Sequence[Sequence[float]], shares: bool, from_zero: bool
) -> None:
    """Choose the scale of the values and how its ticks are written."""
    values = [v for line in series for v in line if math.isfinite(v)]
    if shares and from_zero:
        axes.set_ylim(-0.02, 1.02)
    elif not shares and values and 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if shares:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
