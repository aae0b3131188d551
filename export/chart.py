"""A bar chart of an export's files: bytes, latency, memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .display import threads

_INK = "#1f2937"
_BASELINE = "#9ca3af"
_BAR = "#2563eb"
_PEER = "#d1d5db"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
}


def write_chart(content: Mapping[str, Any], path: Path) -> None:
    """Draw the measured files of an export, and the one that the converter makes of the same model.

    Args:
        content: The content of `export.json`.
        path: The PNG file.
    """
    entries = [
        entry
        for entry in [*content["artifacts"], *content.get("peers", [])]
        if entry["latency_us"] is not None
    ]
    panels: list[tuple[str, list[float], str]] = [
        ("Size of the file", [entry["bytes"] / 1000 for entry in entries], "kB"),
        (
            f"Latency, {threads(content)}",
            [entry["latency_us"]["default"] for entry in entries],
            "µs",
        ),
    ]
    if all(entry["heap_bytes"] is not None for entry in entries):
        memory = [entry["heap_bytes"] / 2**20 for entry in entries]
        panels.append(("Memory of the interpreter", memory, "MiB"))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * len(panels) + 1.2, 0.42 * len(entries) + 1.1), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, (title, values, unit) in zip(axes, panels, strict=True):
            _bars(panel, title, values, unit, entries)
        axes[0].set_yticks(range(len(entries)), [_name(entry) for entry in entries])
        axes[0].invert_yaxis()
        figure.tight_layout(w_pad=2.0)
        figure.savefig(path)


def _bars(
    panel: Axes,
    title: str,
    values: Sequence[float],
    unit: str,
    entries: Sequence[Mapping[str, Any]],
) -> None:
    colours = [_colour(entry["kind"]) for entry in entries]
    panel.barh(range(len(values)), values, height=0.66, color=colours)
    for row, value in enumerate(values):
        panel.text(value, row, f" {_short(value)} {unit}", va="center", color=_INK)
    panel.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    panel.set_xlim(0, max(values) * 1.38)
    panel.set_xticks([])
    panel.tick_params(axis="y", length=0)


def _colour(kind: str) -> str:
    return {"dense": _BASELINE, "experimental_sparsity": _PEER}.get(kind, _BAR)


def _name(entry: Mapping[str, Any]) -> str:
    wrong = " (wrong)" if entry["problems"] else ""
    return f"{entry['file']}{wrong}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
