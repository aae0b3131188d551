"""The code and the tables of docs/networks.md."""

import re
from pathlib import Path

import keras
import pytest

from keras_switcher import models

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "networks.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.build("lenet300", (8, 8, 1), 3, width=0.1).save("mine.keras")
    found = {}
    for code in blocks("python"):
        exec(code, found)
    assert len(found["sparse"].switched_layers()) == 3


@pytest.mark.parametrize(
    ("row", "name", "options"),
    [
        ("`lenet`", "lenet", {}),
        ("`lenet300`", "lenet300", {}),
        ("`vgg16`", "vgg16", {}),
        ("`vgg16 --fc-units 512`", "vgg16", {"fc_units": 512}),
        ("`mobilenet`", "mobilenet", {}),
        ("`resnet18`", "resnet18", {}),
        ("`resnet34`", "resnet34", {}),
    ],
)
def test_table_of_networks_is_right(row, name, options):
    cells = next(line for line in PAGE.splitlines() if line.startswith(f"| {row} |")).split("|")
    model = models.build(name, (32, 32, 3), 10, **options)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    connections = sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in dense)
    parameters, share = float(cells[3].split()[0]), float(cells[4].split()[0])
    assert parameters * 1e6 == pytest.approx(model.count_params(), rel=0.01, abs=5e4)
    assert share / 100 == pytest.approx(connections / model.count_params(), rel=0.1, abs=5e-4)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", PAGE))
def test_links_lead_somewhere(target):
    assert (ROOT / "docs" / target).exists()
