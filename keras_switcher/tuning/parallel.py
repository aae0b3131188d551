"""Parallel coordinates: the hyperparameters of many trials in one picture."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_switcher.report import svg
from keras_switcher.tuning.results import EndedTrial
from keras_switcher.tuning.space import Range, Value

# Width of the figure in inches, and the share of it for names, left of their axes.
_WIDTH = 4.6
_NAMES = 0.26
# Where on an axis inactive values lie, and where its least and its greatest value.
_NONE, _FIRST, _LAST = 0.0, 0.14, 1.0
_MOST_LINES, _LEAST_LINES = 100, 40
_WIDEST_NAME = 16


def objective_floor(trials: Sequence[EndedTrial]) -> float:
    """Return where the axis of objectives begins: at least half of the trials lie above.

    A trial that misses its target lies so far below that an axis for all trials would show the good
    ones as one.

    Args:
        trials: The trials.
    """
    objectives = [t.objective for t in trials if t.objective is not None]
    if not objectives:
        return 0.0
    middle, best = statistics.median(objectives), max(objectives)
    return max(min(objectives), middle - 3 * (best - middle))


def shown_trials(trials: Sequence[EndedTrial]) -> list[EndedTrial]:
    """Return the trials whose hyperparameters are drawn, poorest first.

    These are the trials with an objective; if there are many, only those with the greatest budgets.

    Args:
        trials: The trials.
    """
    shown = [trial for trial in trials if trial.objective is not None]
    for budget in sorted({trial.epochs for trial in shown}):
        greater = [trial for trial in shown if trial.epochs > budget]
        if len(shown) <= _MOST_LINES or len(greater) < _LEAST_LINES:
            break
        shown = greater
    return sorted(shown, key=lambda trial: trial.objective or 0.0)


def parallel_picture(
    trials: Sequence[EndedTrial], space: Mapping[str, Range], best: EndedTrial | None, alt: str
) -> str:
    """Draw each trial as a line from axis to axis: one for each hyperparameter, and the objective.

    The axes lie below each other, so that their names fit and a phone shows them all.

    Args:
        trials: The trials that `shown_trials` returned.
        space: The hyperparameters to show, by name.
        best: The trial to emphasise.
        alt: What the picture shows, for those who can't see it.
    """
    rows = [*space, "objective"]
    floor = objective_floor(trials)
    objectives = [max(t.objective or 0.0, floor) for t in trials]
    scale = Range((), min(objectives), max(objectives))
    is_clipped = any((trial.objective or 0.0) < floor for trial in trials)
    height = 29 * len(rows) + 10
    with svg.style():
        figure = Figure(figsize=(_WIDTH, height / 72))
        axes = figure.add_axes((_NAMES, 0, 0.99 - _NAMES, 1))
        axes.set_axis_off()
        axes.set_xlim(-0.04, 1.03)
        axes.set_ylim(len(rows) - 1 + 21 / 29, -18 / 29)
        for row, name in enumerate(rows):
            range_ = space.get(name, scale)
            has_none = any(trial.values.get(name, "") is None for trial in trials)
            _draw_axis(axes, row, name, range_, has_none, is_clipped and name not in space)
        ordered = [trial for trial in trials if trial is not best]
        if best is not None and best in trials:
            ordered.append(best)
        for place, trial in enumerate(ordered):
            share = place / max(1, len(ordered) - 1)
            places = [_place(space[name], trial.values.get(name), share) for name in space]
            value = max(trial.objective or 0.0, floor)
            places.append(_FIRST + (_LAST - _FIRST) * scale.position(value))
            is_best = trial is best
            colour = svg.RANKS[min(len(svg.RANKS) - 1, int(share * len(svg.RANKS)))]
            axes.plot(
                places,
                range(len(rows)),
                color=svg.SECOND if is_best else colour,
                linewidth=2.2 if is_best else 0.9 if len(trials) <= 60 else 0.6,
                alpha=1 if is_best else 0.75,
                gid=f"line-{trial.name}" if not is_best else "line-best",
                zorder=2,
            )
        return svg.inline_svg(figure, "parallel", alt)


def _place(range_: Range, value: Value | None, share: float) -> float:
    """Return where a line meets an axis; lines of one value lie side by side, by their rank."""
    beside = 0.03 * (share - 0.5)
    if value is None:
        return _NONE + beside
    place = _FIRST + (_LAST - _FIRST) * range_.position(value)
    return place + beside if range_.listed else place


def _draw_axis(
    axes: Any, row: int, name: str, range_: Range, has_none: bool, is_clipped: bool
) -> None:
    axes.plot([_FIRST - 0.02, _LAST + 0.02], [row, row], color=svg.GRID, linewidth=1, zorder=1)
    axes.text(
        -0.04 - 1.07 * _NAMES / (0.99 - _NAMES),
        row,
        broken(name),
        fontsize=9.2,
        verticalalignment="center",
        parse_math=False,
        zorder=3,
    )
    ticks = [(_FIRST + (_LAST - _FIRST) * at, text) for at, text in axis_ticks(range_)]
    if is_clipped:
        ticks[0] = (ticks[0][0], f"≤ {ticks[0][1]}")
    for place, text in [*([(_NONE, "none")] if has_none else []), *ticks]:
        axes.plot([place] * 2, [row - 0.09, row + 0.09], color=svg.INK, linewidth=0.9, zorder=1)
        # A long text at an end would stick out of the picture, or overlap the one before it.
        side = "center"
        if len(text) > 3 and place in (_FIRST, _LAST):
            side = "left" if place == _FIRST else "right"
        axes.text(
            place + {"left": -0.03, "right": 0.03}.get(side, 0),
            row + 0.16,
            text,
            fontsize=8.3,
            horizontalalignment=side,
            verticalalignment="top",
            parse_math=False,
            zorder=3,
        )


def broken(name: str) -> str:
    """Return a name; a long one is broken in two at the underscore nearest to its middle."""
    breaks = [i for i, letter in enumerate(name) if letter == "_"]
    if len(name) <= _WIDEST_NAME or not breaks:
        return name
    at = min(breaks, key=lambda i: abs(i - len(name) / 2))
    return f"{name[: at + 1]}\n{name[at + 1 :]}"


def axis_ticks(range_: Range) -> list[tuple[float, str]]:
    """Return where on its axis, from 0 to 1, a hyperparameter's ticks are, and their texts.

    Args:
        range_: That of the hyperparameter. If it has more than six values, only some have a text.
    """
    if listed := range_.listed:
        step = math.ceil(len(listed) / 6)
        return [
            (range_.position(value), _written(value) if index % step == 0 else "")
            for index, value in enumerate(listed)
        ]
    low, high = range_.minimum, range_.maximum
    between: list[float] = []
    if range_.is_log:
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        between = [10.0**power for power in powers]
    else:
        between = [
            float(tick) for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        ]
    # The text of a tick beside an end would overlap that of the end.
    inner = [value for value in between if 0.17 < range_.position(value) < 0.83]
    ends = dict.fromkeys([low, *inner, high])
    return [(range_.position(value), _written(value)) for value in ends]


def _written(value: Value) -> str:
    if isinstance(value, (bool, str)):
        return str(value).lower() if isinstance(value, bool) else value
    return f"{value:.3g}"
