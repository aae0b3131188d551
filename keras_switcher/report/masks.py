"""The mask pictures of the report: PNG inside the page, blue where connections are on."""

import base64
import io
import math

import numpy as np
from matplotlib.image import imsave

from keras_switcher.report.wording import counted, percent

# Colour of a connection that is on; one that is off is transparent.
_ON = (37, 106, 196)
# Opacity of a unit that is off, to tell it from no unit at all.
_FAINT = 0.12
_SHOWN_UNITS = 32


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
        Shares of shape (units, height, width): how many of a pixel's channels the unit reads.
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
        length = picture.shape[axis]
        edges = np.linspace(0, length, min(cells, length) + 1).round().astype(int)
        lengths = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        picture = np.add.reduceat(picture, edges[:-1], axis=axis) / lengths
    return picture


def data_uri(shares: np.ndarray) -> str:
    """Return a picture of values in [0, 1] as a PNG inside a data URI, one pixel per value.

    Zero is transparent and one is opaque blue, which is readable on light and dark backgrounds.

    Args:
        shares: Values of shape (height, width).
    """
    pixels = np.empty((*shares.shape, 4), "uint8")
    pixels[..., :3] = _ON
    pixels[..., 3] = np.round(255 * np.clip(shares, 0, 1))
    file = io.BytesIO()
    # Matplotlib would write its version into the picture.
    imsave(file, pixels, format="png", metadata={"Software": None})  # type: ignore[dict-item]
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
    # A layer with few units would be a hairline, one with few inputs a tower.
    ratio = min(8.0, max(1.5, columns / rows))
    return f"""<figure><figcaption>Share of connections that are on: inputs from left to right, \
units from top to bottom.</figcaption>
<img class="mask" src="{data_uri(cells / (most or 1))}" width="{columns}" height="{rows}" \
style="aspect-ratio:{ratio:.2f}" alt="{alt}">
{_scale("0 %", f"{100 * most:.3g} %")}</figure>"""


def unit_cells(on: np.ndarray) -> np.ndarray:
    """Lay out the units of a layer as cells, row by row.

    Args:
        on: Whether each unit is on, boolean.

    Returns:
        One where a unit is on, a faint value where it is off, zero after the last unit.
    """
    columns = min(len(on), max(50, math.ceil(math.sqrt(2 * len(on)))))
    cells = np.zeros((math.ceil(len(on) / columns), columns))
    cells.flat[: len(on)] = np.where(on, 1.0, _FAINT)
    return cells


def units_figure(on: np.ndarray) -> str:
    """Show which units of a layer are on, where each is on or off as a whole.

    Args:
        on: Whether each unit is on, boolean.

    Returns:
        A `figure` element.
    """
    cells = unit_cells(on)
    rows, columns = cells.shape
    return f"""<figure><figcaption>Each unit as a cell, row by row: full where it is on, faint \
where it is off. Its connections are all on or all off.</figcaption>
<img class="mask cells" src="{data_uri(cells)}" width="{columns}" height="{rows}" \
alt="{int(on.sum()):,} of {counted(len(on), "unit")} on."></figure>"""


def _scale(low: str, high: str) -> str:
    return (
        f'<p class="scale"><span>{low}</span><span class="ramp" aria-hidden="true"></span>'
        f"<span>{high}</span></p>"
    )
