import base64
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread
from report_runs import Page

from keras_switcher.report import masks
from keras_switcher.report.curves import draw_curves, training_figures


def alphas(uri: str) -> np.ndarray:
    """Return the opacity of each pixel of a picture, 0 to 255, after checking its colour."""
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    pixels = (255 * imread(io.BytesIO(base64.b64decode(content)))).round().astype(int)
    assert {tuple(p) for p in pixels[..., :3].reshape(-1, 3)} == {(37, 106, 196)}
    return pixels[..., 3]


def line(svg: str, identity: str) -> np.ndarray:
    """Return the points of the first path in a group of an SVG."""
    path = re.search(rf'<g id="{identity}">\s*<path d="([^"]*)"', svg)[1]
    return np.array([[float(x) for x in p.split()] for p in re.findall(r"[ML] ([\d. -]+)", path)])


def curves(*values, phases=None, **options):
    history = [{"epoch": i, "a": value} for i, value in enumerate(values, start=1)]
    for row, phase in zip(history, phases or [], strict=False):
        row["phase"] = phase
    return draw_curves(history, ["a"], **{"name": "plot", "alt": "", **options})


def ticks(svg: str) -> list[str]:
    texts = re.findall(r'<g id="plot-text_(\d+)">.*?<text[^>]*>(.*?)</text>', svg, re.DOTALL)
    return [text for _, text in texts]


def test_counts_per_pixel_add_channels_and_units():
    mask = np.zeros((2, 3, 2, 4), bool)
    mask[0, 1, 0, :3] = True
    mask[0, 1, 1, 0] = True
    mask[1, 2, 1, 3] = True
    counts = masks.pixel_counts(mask.reshape(12, 4), (2, 3, 2))
    assert counts.tolist() == [[0, 4, 0], [0, 0, 1]]


def test_unit_masks_are_shares_of_channels():
    mask = np.zeros((2, 3, 2, 4), bool)
    mask[0, 1, :, 2] = True
    mask[1, 0, 1, 2] = True
    images = masks.unit_masks(mask.reshape(12, 4), (2, 3, 2))
    assert images.shape == (4, 2, 3)
    assert images[2].tolist() == [[0, 1, 0], [0.5, 0, 0]]
    assert images[[0, 1, 3]].sum() == 0


def test_density_of_a_small_kernel_is_its_mask():
    mask = np.array([[1, 0], [1, 1], [0, 0]], bool)
    assert masks.density(mask).tolist() == [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("shape", [(7, 5), (1000, 3), (3, 1000), (161, 101)])
def test_density_keeps_the_share_of_each_part(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    cells = masks.density(mask, rows=4, columns=3)
    assert cells.shape == (min(4, shape[1]), min(3, shape[0]))
    columns = np.linspace(0, shape[0], cells.shape[1] + 1).round().astype(int)
    rows = np.linspace(0, shape[1], cells.shape[0] + 1).round().astype(int)
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            part = mask[columns[column] : columns[column + 1], rows[row] : rows[row + 1]]
            assert cells[row, column] == pytest.approx(part.mean())


def test_data_uri_is_a_picture_of_the_values():
    uri = masks.data_uri(np.array([[0.0, 0.5, 1.0], [-1.0, 2.0, 0.2]]))
    assert alphas(uri).tolist() == [[0, 128, 255], [0, 255, 51]]
    assert b"Software" not in base64.b64decode(uri.split(",")[1])


def test_pixel_figures_show_the_sum_and_the_first_units_with_an_input():
    mask = np.zeros((2, 3, 40), bool)
    mask[0, 0, 1:] = True
    mask[1, 2, 4] = True
    html = masks.pixel_figures(mask.reshape(6, 40), (2, 3, 1))
    images = Page(html).all("img")
    assert images[0]["alt"] == (
        "Heat map of 3 × 2 pixels: up to 39 connections per pixel, no unit reads 4 pixels."
    )
    assert alphas(images[0]["src"]).tolist() == [[255, 0, 0], [0, 0, 7]]
    assert [image["alt"] for image in images[1:]] == [
        f"Mask of unit {unit}, {2 if unit == 4 else 1} of 6 inputs on" for unit in range(1, 33)
    ]
    assert alphas(images[4]["src"]).tolist() == [[255, 0, 0], [0, 0, 255]]
    assert "channels" not in html
    assert "The 3 channels of a pixel" in masks.pixel_figures(np.ones((6, 1), bool), (1, 2, 3))


def test_density_figure_scales_to_the_densest_cell():
    mask = np.zeros((320, 100), bool)
    mask[0, 0] = mask[2, 1] = mask[3, 1] = True
    page = Page(masks.density_figure(mask))
    (image,) = page.all("img")
    assert image["alt"].replace("\xa0", " ") == (
        "Density over 320 inputs and 100 units: from 0.00 % to 100.00 % of the connections on."
    )
    shown = alphas(image["src"])
    assert (shown.shape, shown[0, 0], shown[1, 1], (shown > 0).sum()) == ((100, 160), 128, 255, 2)
    assert image["style"] == "aspect-ratio:1.60"


@pytest.mark.parametrize("mask", [np.zeros((4, 3), bool), np.ones((4, 1), bool)])
def test_empty_and_full_masks_can_be_shown(mask):
    for html in (masks.density_figure(mask), masks.pixel_figures(mask, (2, 2, 1))):
        page = Page(html)
        assert page.open == []
        assert (alphas(page.all("img")[0]["src"]) == 255 * mask.all()).all()


def test_unit_cells_tell_off_from_none():
    on = np.arange(120) % 3 == 0
    cells = masks.unit_cells(on)
    assert cells.shape == (3, 50)
    assert (cells.flat[:120][on] == 1).all()
    off = set(cells.flat[:120][~on])
    assert len(off) == 1 and 0 < off.pop() < 0.5
    assert (cells.flat[120:] == 0).all()
    assert masks.unit_cells(np.array([True])).tolist() == [[1]]


def test_curve_goes_through_the_values():
    svg = curves(0.0, 1.0, 0.25, shares=True, target=0.95)
    points = line(svg, "plot-line2d_\\d+")
    lines = [line(f'<g id="x">\n<path d="{d}"', "x") for d in re.findall(r'd="(M [^"]*)"', svg)]
    (points,) = [p for p in lines if len(p) == 3 and (np.diff(p[:, 0]) > 0).all()]
    x, y = points.T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=1e-3)
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(0.25, abs=1e-3)
    # The target lies where 0.95 would be.
    target = line(svg, "plot-target")
    assert target[:, 1] == pytest.approx([y[0] + 0.95 * (y[1] - y[0])] * 2, abs=1e-3)
    assert target[0, 0] < x[0] and target[1, 0] > x[2]


def test_no_target_no_line():
    assert "plot-target" not in curves(0.1, 0.2, shares=True)


def test_phases_are_named_and_every_second_is_shaded():
    phases = ["warmup", "alternate", "alternate", "settle", "settle"]
    svg = curves(5, 4, 3, 2, 1, phases=phases)
    assert re.findall(r">([a-z-]+)</text>", svg) == ["epoch", "warm-up", "alternate", "settle"]
    assert re.findall(r'id="plot-(phase\d)"', svg) == ["phase1"]
    band = line(svg, "plot-phase1")
    lines = [line(f'<g id="x">\n<path d="{d}"', "x") for d in re.findall(r'd="(M [^"]*)"', svg)]
    (x,) = [p[:, 0] for p in lines if len(p) == 5 and (np.diff(p[:, 0]) > 0).all()]
    step = x[1] - x[0]
    assert band[:, 0].min() == pytest.approx(x[0] + step / 2, abs=1e-3)
    assert band[:, 0].max() == pytest.approx(x[2] + step / 2, abs=1e-3)


def test_history_without_phases_has_no_bands():
    svg = curves(2, 1)
    assert "phase" not in svg and re.findall(r">([a-z-]+)</text>", svg) == ["epoch"]


def test_loss_over_decades_gets_a_logarithmic_axis():
    wide, narrow = ticks(curves(10.0, 0.1)), ticks(curves(1.0, 0.5))
    assert {"0.1", "1", "10"} <= set(wide)
    linear = [float(tick) for tick in narrow if "." in tick]
    assert len(linear) > 2 and np.diff(linear, 2) == pytest.approx(0)


@pytest.mark.parametrize("values", [[1.0], [float("nan"), 2.0], [float("nan")] * 2, [0.0, 0.0]])
def test_few_and_strange_values_can_be_drawn(values):
    page = Page(curves(*values))
    assert page.open == [] and page.all("svg")


def test_svg_takes_size_colours_and_font_of_the_page():
    svg = curves(0.1, 0.2, alt='"<&', target=0.5)
    assert svg.startswith('<svg role="img" aria-label="&quot;&lt;&amp;" viewBox="')
    assert "<style" not in svg and "<metadata" not in svg and "DejaVu" not in svg
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000", "#ffffff"}
    assert {"--first", "--second", "--muted", "--line"} <= set(re.findall(r"var\((.*?)\)", svg))


def test_same_curve_is_the_same_text_and_others_have_other_ids():
    assert curves(1, 2) == curves(1, 2)
    one, two = (
        set(re.findall(r'\bid="(.*?)"', curves(1, 2, name=name))) for name in ("one", "two")
    )
    assert one and not one & two


def test_figures_are_those_that_the_history_has():
    history = [{"epoch": 1, "loss": 1.0, "sparsity": 0.5}, {"epoch": 2, "loss": 0.5}]
    loss, sparsity = training_figures(history, None)
    assert "<h3>Loss</h3>" in loss and "validation" not in loss
    assert "<h3>FC sparsity</h3>" in sparsity and "target" not in sparsity
    # Even if it hardly changes: from 0 to 100 %.
    assert all(f">{tick} %<" in sparsity for tick in (0, 25, 100))
    assert training_figures([{"epoch": 1}], 0.5) == []
