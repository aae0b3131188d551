"""The code, the scripts and the tables of docs/tuning.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import yaml
from fenced import blocks

from keras_switcher.tuning.command import plan_of
from keras_switcher.tuning.space import DEFAULT, Range, Space

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tuning.md").read_text()


def test_what_the_cluster_runs_is_understood():
    flags = re.findall(r"exec keras-switcher-tune\s+([^'\n]*(?:\n\s+--[^'\n]*)?)", PAGE)
    assert len(flags) == 3
    for each in flags:
        assert plan_of(shlex.split(each))[1].trials == 100


def test_the_space_of_the_page_is_one():
    space = next(text for text in blocks(PAGE, "yaml") if "unit_depth" in text)
    for text in blocks(PAGE, "yaml"):
        assert list(yaml.safe_load_all(text))
    ranges = Space.of(yaml.safe_load(space)).ranges
    assert ranges["unit_depth"].values == (1, 2, 3)
    assert ranges["switcher"].is_fixed


def shown(range_):
    if range_.values:
        return ", ".join(map(str, range_.values))
    logarithmic = ", log" if range_.sampling == "log" else ""
    return f"{range_.minimum:g} to {range_.maximum:g}{logarithmic}"


def test_the_table_of_hyperparameters_is_right():
    table = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[2].startswith("`--"):
            table |= {name: cells[1] for name in re.findall(r"`(\w+)`", cells[0])}
    assert table.pop("granularity") == "not searched unless given"
    assert table == {name: shown(Range.of(name, value)) for name, value in DEFAULT.items()}


@pytest.mark.slow
def test_the_script_of_the_page_runs_and_leaves_a_sparse_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks(PAGE, "python"))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    small = keras.models.load_model(tmp_path / "small.keras")
    kernels = [layer.kernel for layer in small.layers if isinstance(layer, keras.layers.Dense)]
    off = sum(float(keras.ops.sum(kernel == 0)) for kernel in kernels)
    assert off >= 0.895 * sum(kernel.shape[0] * kernel.shape[1] for kernel in kernels)
