"""Matplotlib's pictures as SVG inside a page, in the page's colours and font."""

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Matplotlib draws with these; in the page, variables of the style sheet replace them, so that a
# picture follows the reader's light or dark mode.
INK, GRID, BAND, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
# Colours of ranks, from the least to the greatest; a page that uses them defines --rank-1 and so
# on.
RANKS = ("#060606", "#070707", "#080808", "#090909", "#0a0a0a")
_VARIABLES = {
    INK: "var(--muted)",
    GRID: "var(--line)",
    BAND: "var(--band)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    **{colour: f"var(--rank-{number})" for number, colour in enumerate(RANKS, start=1)},
}
_STYLE: Any = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": GRID,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_switcher",
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
}
_NO_METADATA: Any = {"Date": None, "Creator": None}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use the reports' style in this block, in which the figure must be made and written."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an element of a page, with its own ids and the page's colours and font.

    Args:
        figure: The figure, drawn in `style`.
        name: A word that no other picture of the page has; ids in the SVG start with it.
        alt: What the picture shows, for those who can't see it.

    Returns:
        An `svg` element without a size of its own; the same input gives the same text.
    """
    FigureCanvasSVG(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # A style element inside a page would apply to the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]+"', text)
    if box is None:
        raise ValueError("Matplotlib wrote an SVG without a viewBox.")
    # The page decides the size, and HTML knows the namespaces.
    return re.sub(
        r"<svg[^>]*>",
        lambda _: f'<svg role="img" aria-label="{html.escape(alt)}" {box[0]}>',
        text,
        count=1,
    )
