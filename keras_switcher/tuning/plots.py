"""The pictures of a search: its trials in order of ending, and which hyperparameters matter."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from keras_switcher.report import svg
from keras_switcher.report.wording import counted
from keras_switcher.tuning.importance import Importances
from keras_switcher.tuning.parallel import broken, objective_floor
from keras_switcher.tuning.results import EndedTrial, best_of

# Width of the figures in inches; an inch has 72 points, Matplotlib's unit of font sizes.
_WIDTH = 4.6


def progress_picture(trials: Sequence[EndedTrial], alt: str) -> str:
    """Draw the objective of each trial in order of ending, and the best so far as a step line.

    Args:
        trials: The trials, in order of ending; at least one has an objective.
        alt: What the picture shows, for those who can't see it.
    """
    floor = objective_floor(trials)
    best = max(t.objective for t in trials if t.objective is not None)
    margin = 0.06 * (best - floor) or 0.05
    bottom = floor - 1.5 * margin
    budgets = sorted({t.epochs for t in trials})
    with svg.style():
        figure = Figure(figsize=(8.7, 2.65))
        axes = figure.add_axes((0.085, 0.14, 0.905, 0.83))
        axes.set_xlim(0.4, len(trials) + 0.6)
        axes.set_ylim(bottom - margin, best + margin)
        so_far = [best_of(trials[:number]) for number in range(1, len(trials) + 1)]
        steps = [math.nan if t is None else max(t.objective or 0.0, bottom) for t in so_far]
        axes.step(
            range(1, len(trials) + 1),
            steps,
            where="post",
            color=svg.SECOND,
            linewidth=1.6,
            gid="best-so-far",
        )
        for number, trial in enumerate(trials, start=1):
            _draw_trial(axes, number, trial, budgets, floor, bottom)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.set_xlabel("trials ended", labelpad=1)
        axes.grid(axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=2.5)
        return svg.inline_svg(figure, "progress", alt)


def progress_alt(trials: Sequence[EndedTrial]) -> str:
    """Say in words what `progress_picture` shows."""
    best = best_of(trials)
    failed = sum(trial.objective is None for trial in trials)
    hopeless = sum(bool(trial.stopped) for trial in trials)
    reached = "no trial was run to its end"
    if best is not None:
        place = trials.index(best) + 1
        reached = f"the best so far reaches {best.objective:.4g} with the {place}. that ended"
    return (
        f"Objective of {counted(len(trials), 'trial')} in order of ending: {reached}; "
        f"{hopeless} stopped early, {failed} failed."
    )


def budget_strength(epochs: int, budgets: Sequence[int]) -> float:
    """Return the opacity of a budget's points, which grows with the budget.

    Args:
        epochs: The budget.
        budgets: All of them, from the least to the greatest.
    """
    return 0.1 + 0.75 * (budgets.index(epochs) + 1) / len(budgets)


def _draw_trial(
    axes: Any, number: int, trial: EndedTrial, budgets: Sequence[int], floor: float, bottom: float
) -> None:
    opacity = budget_strength(trial.epochs, budgets)
    size = 3.5 + 3.5 * opacity
    look: dict[str, Any] = {"linestyle": "none", "clip_on": False}
    if trial.objective is None:
        axes.plot(
            [number], [bottom], "x", color=svg.INK, markersize=5, gid=f"failed-{number}", **look
        )
        return
    is_below = trial.objective < floor
    marker = "v" if is_below else "D" if trial.stopped else "o"
    colour = svg.INK if trial.stopped else svg.FIRST
    axes.plot(
        [number],
        [bottom if is_below else trial.objective],
        marker=marker,
        markerfacecolor="none" if trial.stopped else (colour, opacity),
        markeredgecolor=colour,
        markeredgewidth=0.9,
        gid=f"{'hopeless' if trial.stopped else 'trial'}-{number}",
        markersize=0.8 * size if marker == "D" else size,
        **look,
    )


def importance_picture(found: Importances, alt: str) -> str:
    """Draw the importances as bars, with the spread over the repeats as a line.

    Args:
        found: The importances; there is at least one.
        alt: What the picture shows, for those who can't see it.
    """
    bars = found.parameters
    most = max(max(bar.mean + bar.spread for bar in bars), 0.01)
    height = 24 * len(bars) + 30
    with svg.style():
        figure = Figure(figsize=(_WIDTH, height / 72))
        axes = figure.add_axes((0.26, 26 / height, 0.71, 1 - 28 / height))
        axes.set_xlim(0, 1.05 * most)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        for row, bar in enumerate(bars):
            length = max(0.0, bar.mean)
            opacity = 0.9 if bar.is_told else 0.35
            axes.barh([row], [length], 0.62, color=svg.FIRST, alpha=opacity, gid=f"bar-{row}")
            ends = np.clip([bar.mean - bar.spread, bar.mean + bar.spread], 0, None)
            axes.plot(ends, [row, row], color=svg.SECOND, linewidth=1.6, gid=f"spread-{row}")
        names = [broken(bar.name) for bar in bars]
        axes.set_yticks(range(len(bars)), names, fontsize=9, linespacing=0.95)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="x", length=2.5)
        axes.grid(axis="x", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel("loss of held-out R²", labelpad=1)
        return svg.inline_svg(figure, "importance", alt)


def importance_alt(found: Importances) -> str:
    """Say in words what `importance_picture` shows."""
    bars = found.parameters
    said = "; ".join(f"{bar.name} {bar.mean:.2f} ± {bar.spread:.2f}" for bar in bars)
    return f"Importance of {counted(len(bars), 'hyperparameter')}, greatest first: {said}."
