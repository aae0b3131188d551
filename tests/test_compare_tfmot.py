"""The peer on Keras 2, whose package may only be imported in a process of its own."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from command import ROOT, SMALL, offline

from keras_switcher.data import load

# All in one process: TensorFlow takes seconds to load.
CHECK = """
import sys
import numpy as np
from pathlib import Path
sys.path.insert(0, "tests")
from compare_work import work
from keras_switcher.compare.methods.tfmot import to_keras_2
import keras
from keras_switcher.runs import RunError
for name, value in (("kernel_regularizer", "l2"), ("bias_constraint", "non_neg")):
    try:
        to_keras_2(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, **{name: value})]))
    except RunError as error:
        print("refused:", error)
for layer in (keras.layers.LeakyReLU(0.2), keras.layers.Activation("hard_sigmoid")):
    try:
        to_keras_2(keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(3)]))
    except RunError as error:
        print("refused:", error)
for model in sys.argv[2:]:
    flags = ("--model", model, "--width", "0.1", "--dropout", "0.2")
    task = work(Path(sys.argv[1]), *flags)
    network = task.start().network
    images = task.data.x_test[:20]
    ours, theirs = (net.predict(images, verbose=0) for net in (network, to_keras_2(network)))
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    assert np.abs(ours).max() > 1e-3
    print("the same:", model)
"""


def run(tmp_path, *command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=offline(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_a_network_of_keras_2_predicts_as_that_of_keras_3(tmp_path):
    models = ("lenet", "resnet18", "mobilenet")
    done = run(tmp_path, "-c", CHECK, str(tmp_path / "work"), *models)
    assert done.returncode == 0, done.stderr[-3000:]
    l2, bound, unknown, other, *same = done.stdout.splitlines()
    assert "a LeakyReLU. Leave tfmot out" in unknown
    assert "computes the same with the layers of Keras 2" in other
    assert "with kernel_regularizer" in l2 and "with bias_constraint" in bound
    assert same == [f"the same: {model}" for model in models]


@pytest.mark.slow
def test_it_prunes_to_the_target_and_what_is_kept_has_the_accuracy_that_is_told(tmp_path):
    done = run(
        tmp_path,
        *("-m", "keras_switcher.compare", *SMALL, "--epochs", "4", "--seeds", "1"),
        *("--methods", "tfmot", "tfmot-layerwise", "--sparsity", "0.9", "--keep-models"),
        *("--out", str(tmp_path / "out"), "--processes", "2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    images = load("mnist5k", limit=300)
    found = {}
    for method in ("switcher", "tfmot", "tfmot-layerwise"):
        cell = tmp_path / "out" / "cells" / f"{method}-0.9-seed0"
        found[method] = result = json.loads((cell / "result.json").read_text())
        model = keras.models.load_model(cell / "model.keras")
        right = model.predict(images.x_test, verbose=0).argmax(axis=-1) == images.y_test
        assert right.mean() == pytest.approx(result["test_accuracy"], abs=1e-6)
        for row in result["layers"]:
            kernel = np.array(model.get_layer(row["name"]).kernel)
            assert (kernel != 0).sum() == row["on"]
    uniform = [1 - row["on"] / row["connections"] for row in found["tfmot"]["layers"]]
    assert uniform == pytest.approx([0.9] * 3, abs=0.01)
    for ours, theirs in zip(
        *(found[m]["layers"] for m in ("switcher", "tfmot-layerwise")), strict=True
    ):
        assert theirs["on"] == pytest.approx(ours["on"], abs=2)
