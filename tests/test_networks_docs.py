"""The code and the tables of docs/networks.md."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from fenced import blocks

from keras_switcher import models

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "networks.md").read_text()


def files():
    """Return the blocks that are files, by the name in their first line."""
    named = [(re.match(r"# (\w+\.py)\b", code), code) for code in blocks(PAGE, "python")]
    return {found[1]: code for found, code in named if found}


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.build("lenet300", (8, 8, 1), 3, width=0.1).save("mine.keras")
    found = {}
    for code in blocks(PAGE, "python"):
        if code not in files().values():
            exec(code, found)
    assert len(found["sparse"].switched_layers()) == 3


def test_images_and_a_network_of_ones_own_can_be_trained(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    images = rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for name, code in files().items():
        (tmp_path / name).write_text(code)
    (command,) = (
        line
        for text in blocks(PAGE, "sh")
        for line in text.splitlines()
        if "train.py --load" in line
    )
    flags = "--width 0.1 --epochs 3 --no-dense-baseline"
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *shlex.split(command)[2:], *flags.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert (summary["dataset_source"], summary["model"]) == ("my images", "small")


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
